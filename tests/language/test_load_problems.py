"""What is wrong with a file: every problem, at its place, with what to write instead."""

from __future__ import annotations

import pytest

from runner.language.load import load


def problems(text: str) -> list[str]:
    result = load(text.encode(), path="f", id="f")
    assert result.workflow is None
    return [str(p) for p in result.problems]


def only_problem(text: str) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_every_problem_of_a_file_is_told_at_once_and_in_order() -> None:
    assert problems("""\
nam: x
type: tree
schedule: ["99 * * * *", "@dayly"]
timezone: Europe/Berln
maxActiveRuns: -1
env: [A=1]
steps:
  - name: a
    comand: echo
    timeout_secs: 5
  - name: b
    command: x
    depends: [c]
    paralel: [1, 2]
  - foo
handlerOn:
  failur: {command: x}
---
steps: [{command: x}]
""") == [
        'f:1:1: "nam" is not a key that is known here; did you mean "name"?',
        'f:2:7: "type" must be graph or chain, not "tree"',
        'f:3:12: "99 * * * *" is not a schedule: [99 * * * *] is not acceptable, out of range',
        'f:3:26: "@dayly" is not an alias of a schedule; did you mean "@daily"?',
        'f:4:11: "Europe/Berln" is not a time zone (IANA names, such as Europe/Berlin); '
        'did you mean "Europe/Berlin"?',
        'f:5:16: "maxActiveRuns" must be 0 or more, not "-1"',
        'f:6:7: "env" must be a map such as `KEY: value`, not "A=1"; write "A: …"',
        'f:9:5: "comand" is not a key that is known here; did you mean "command"?',
        'f:10:5: "timeoutSecs" is not a key that is known here; did you mean "timeoutSec"?',
        'f:13:15: step "b" depends on "c", which is not a step',
        'f:14:5: "paralel" is not a key that is known here; did you mean "parallel"?',
        "f:15:5: a step must be a map of keys such as `command: make`",
        'f:17:3: "failur" is not a key that is known here; did you mean "failure"?',
        'f:19:1: a further document of a file is a sub-workflow and needs a "name"',
    ]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            "{command: }",
            'step "step-1" needs a command, a script, a run, an executor or an approval',
        ),
        ("{command: ' '}", '"command" must be text or a list of words, not " "'),
        ("{command: {a: b}}", '"command" must be text, not a map'),
        ("{command: []}", '"command" must be text or a list of words, not a list'),
        ("{command: x, timeoutSec: -1}", '"timeoutSec" must be a number of seconds'),
        ("{command: x, timeoutSec: soon}", '"timeoutSec" must be a number of seconds'),
        ("{command: x, timeoutSec: 99999d}", '"timeoutSec" must be at most ten years'),
        ("{command: x, retryPolicy: {}}", '"limit" is missing'),
        ("{command: x, retryPolicy: {limit: -1}}", '"limit" must be 0 or more'),
        ("{command: x, retryPolicy: {limit: 1.5}}", '"limit" must be a whole number'),
        ("{command: x, retryPolicy: {limit: 1, backoff: 0.5}}", '"backoff" must be true, or'),
        ("{command: x, retryPolicy: 3}", '"retryPolicy" must be a map, not "3"'),
        ("{command: x, continueOn: {failure: maybe}}", '"failure" must be true or false'),
        ("{command: x, continueOn: {exitCode: [a]}}", '"exitCode" must be a whole number'),
        ("{command: x, signalOnStop: TRM}", 'not "TRM"; did you mean "TERM"?'),
        ("{command: x, output: 1A}", '"1A" is not the name of a variable'),
        ("{command: x, id: 1a}", '"1a" is not an id'),
        ("{command: x, env: {a-b: c}}", '"a-b" is not a name'),
        ("{command: x, executor: dockr}", 'not "dockr"; did you mean "docker"?'),
        ("{command: x, executor: {type: shell, config: {a: b}}}", '"shell" takes no config'),
        ("{command: x, shell: 'bash \"-x'}", '"shell" must be a command line'),
        ("{command: x, preconditions: {expected: y}}", '"condition" is missing'),
        ("{command: x, preconditions: ' '}", "the condition is empty"),
        ("{command: x, precondition: a, preconditions: b}", "another spelling of"),
        ("{command: x, timeoutSec: 1, timeout_sec: 2}", '"timeoutSec" is given in two spellings'),
        (
            '{command: x, preconditions: {condition: x, expected: "re:(a"}}',
            "is not a pattern (RE2)",
        ),
        ('{command: x, continueOn: {output: "re:[a"}}', "is not a pattern (RE2)"),
        ("{name: handlerOn.exit, command: x}", "names starting with handlerOn."),
        ("{name: a}", 'step "a" needs a command, a script'),
        ("{script: ''}", '"script" must be the text of a script'),
    ],
)
def test_what_a_step_cannot_say(step: str, expected: str) -> None:
    assert expected in only_problem(f"steps:\n  - {step}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: []", "f:1:8: a workflow needs at least one step"),
        ("name: x", "f:1:1: a workflow needs at least one step"),
        ("steps: 5", 'f:1:8: "steps" must be a list or a map of steps, not "5"'),
        ("- a", "f:1:1: a workflow is a map of keys such as steps, not a list"),
        ("hello", 'f:1:1: a workflow is a map of keys such as steps, not "hello"'),
        ("", "f:1:1: the file holds no workflow; it needs steps"),
        ("# nothing", "f:1:1: the file holds no workflow; it needs steps"),
        ("steps: [{command: x}]\nsteps: [{command: y}]", 'f:2:1: "steps" is given twice'),
        ("steps: [{command: x}]\nmaxOutputSize: 0", '"maxOutputSize" must be more than 0'),
        ("steps: [{command: x}]\nparams: [{a-b: 1}]", 'f:2:11: "a-b" is not a name'),
        ("steps: [{command: x}]\nparams: {A: 1, B: [2]}", '"B" must be text, not a list'),
        ("steps: [{command: x}]\nparams: A=1 A=2", "A is declared twice"),
        ("steps: [{command: x}]\nparams: 'A=\"1'", "is not closed"),
        ("steps: [{command: x}]\non: {push: {branches: [\"!\"]}}", "a pattern is empty"),
        ("steps: [{command: x}]\nname: \"a\\nb\"", '"name" must be one line of text'),
        ("steps: [{command: x}]\nhandlerOn: {exit: {command: x, depends: a}}", "f:2:32: "),
        ("steps: [{command: x}]\n---\nname: a\nsteps: [{command: x}]\n---\nname: a\n"
         "steps: [{command: x}]", 'f:6:7: another document of this file is named "a"'),
    ],
)  # fmt: skip
def test_what_a_workflow_cannot_say(text: str, expected: str) -> None:
    assert expected in only_problem(text)


@pytest.mark.parametrize(
    ("text", "cycle"),
    [
        ("{a: {command: x, depends: a}}", "a → a"),
        ("{a: {command: x, depends: b}, b: {command: x, depends: a}}", "a → b → a"),
        ("{z: {command: x}, a: {command: x, depends: c}, b: {command: x, depends: a}, "
         "c: {command: x, depends: [z, b]}}", "a → c → b → a"),
        ("{a: {id: one, command: x, depends: b}, b: {command: x, depends: one}}", "a → b → a"),
    ],
)  # fmt: skip
def test_a_cycle_is_told_step_by_step(text: str, cycle: str) -> None:
    assert only_problem(f"steps: {text}").endswith(f"the steps wait for each other: {cycle}")


def test_an_explicit_dependency_in_a_chain_can_close_a_cycle() -> None:
    text = "type: chain\nsteps: {a: {command: x, depends: b}, b: {command: x}}"
    assert only_problem(text).endswith("a → b → a")


def test_names_and_ids_are_unique() -> None:
    assert problems("""\
steps:
  - {name: a, id: i, command: x}
  - {name: a, command: x}
  - {name: b, id: i, command: x}
  - {name: c, id: b, command: x}
  - {name: d, id: d, command: x}
""") == [
        'f:3:12: the step above is named "a" too; names are unique',
        'f:4:19: another step has the id "i"; ids are unique',
        'f:5:19: another step is named "b"; choose another id',
    ]


def test_an_unknown_dependency_names_the_nearest_step() -> None:
    text = "steps: {transform: {command: x}, load: {command: x, depends: tranform}}"
    assert only_problem(text) == (
        'f:1:62: step "load" depends on "tranform", which is not a step; did you mean "transform"?'
    )


def test_a_mistyped_command_is_one_problem_and_not_two() -> None:
    assert problems("steps: [{name: a, comand: x}]") == [
        'f:1:19: "comand" is not a key that is known here; did you mean "command"?'
    ]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 0 30 2 *", "never fires"),
        ("0 0 31 4,6 *", "never fires"),
        ("R * * * *", "uses R"),
        ("0 0 * * * *", "a field of seconds is not supported"),
        ("* * * *", 'has five fields, "* * * *" has 4'),
        ("61 * * * *", "is not a schedule"),
        ("CRON_TZ=Mars/Phobos 0 0 * * *", '"Mars/Phobos" is not a time zone'),
        ("@reboot", "is not an alias"),
        ("0 0 * * *" + " " * 300, "longer than 200"),
    ],
)
def test_schedules_that_cannot_be(schedule: str, expected: str) -> None:
    assert expected in only_problem(f"steps: [{{command: x}}]\nschedule: '{schedule}'")


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("schedule: * * * * *", "1:12", "quote the schedule"),
        ("schedule: */15 * * * *", "1:12", "quote the schedule"),
        ("schedule:\n  - */15 * * * *", "2:6", "quote the schedule"),
        ("name: {{.X}}", "1:8", "quote the template"),
        ("dir: {{.X}}/sub", "1:7", "quote the template"),
        ("schedule: @daily", "1:11", 'a YAML value cannot start with "@"'),
        ("env: {A: `date`}", "1:10", 'a YAML value cannot start with "`"'),
        ("on: {push: {paths: [*.py]}}", "1:22", "quote the text"),
        ("name: a: b", "1:8", "quote the value"),
        ("name: x\n\tgroup: y", "2:1", "tab"),
        ("name: *nope", "1:7", "nothing is named &nope"),
        ("name: &a x\ngroup: &a y", "2:8", "&a is defined twice"),
        ("name: !secret x", "1:7", 'the tag "!secret" has no meaning here'),
        ("? [a, b]\n: c", "1:3", "a key must be plain text"),
        ("<<: 5", "1:1", '"<<" takes a map'),
        ("steps: [", "2:1", "not valid YAML"),
    ],
)
def test_yaml_that_cannot_be_read_says_what_to_write(text: str, place: str, expected: str) -> None:
    found = problems(text)
    assert any(expected in p for p in found), found
    if expected not in ("tab",) and not text.startswith("<<"):
        assert any(p.startswith(f"f:{place}: ") for p in found), found


def test_bytes_that_are_no_text_are_told_with_their_place() -> None:
    assert str(load(b"a: 1\nb: \xff", path="f", id="f").problems[0]) == (
        "f:2:4: the file is not UTF-8; save it as UTF-8"
    )
    assert str(load(b"a: 1\nb: \x00", path="f", id="f").problems[0]) == (
        "f:2:4: the file holds a NUL byte; remove it"
    )


def test_the_place_of_a_merged_value_is_where_it_is_written() -> None:
    text = "steps:\n  - &a {name: a, command: x, timeoutSec: soon}\n  - {<<: *a, name: b}\n"
    assert [p.split(": ")[0] for p in problems(text)] == ["f:2:42"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: [{script: x, command: \"it's\"}]",
         'f:1:30: "it\'s" is no command line to run the script: No closing quotation'),
        ("steps: [{script: x, command: \"''\"}]",
         """f:1:30: "''" names no program to run the script"""),
        ('steps: [{command: "a\\0b"}]',
         "f:1:19: the text holds NUL, which no process can be given; remove it"),
        (f"steps: [{{command: x, output: {'X' * 300}}}]",
         f'f:1:30: "{"X" * 60}…" is not the name of a variable: letters, digits and _ only, '
         "at most 200"),
        ("schedule: [" + "'@daily', " * 101 + "]\nsteps: [{command: x}]",
         "f:1:11: 101 schedules; a workflow has at most 100"),
    ],
)  # fmt: skip
def test_what_would_only_fail_when_it_runs_is_told_before(text: str, expected: str) -> None:
    assert only_problem(text) == expected
