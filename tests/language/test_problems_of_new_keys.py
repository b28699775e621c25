"""What is wrong with calls, items, executors, events and limits, at its place, with a remedy."""

from __future__ import annotations

import pytest

from runner.language.load import load


def problems(text: str) -> list[str]:
    result = load(text.encode(), path="f", id="f")
    assert result.workflow is None
    return [str(p) for p in result.problems]


def test_five_mistakes_are_five_problems_each_at_its_place() -> None:
    assert problems("""\
overlapPolicy: lastest
priority: 200
secrets:
  - name: DB_PASSWORD
    enf: DB_PASSWORD
steps:
  - name: fetch
    run: etl/fetch
    command: make fetch
  - name: page
    executor:
      type: docker
      config: {imag: "node:18"}
    command: npm test
""") == [
        'f:1:16: "overlapPolicy" must be skip, latest or all, not "lastest"; '
        'did you mean "latest"?',
        'f:2:11: "priority" must be from -100 to 100, not "200"',
        'f:5:5: "enf" is not a key that is known here; did you mean "env"?',
        'f:9:14: "command" and "run" exclude each other; keep one of them',
        'f:13:16: "imag" is not a key that is known here; did you mean "image"?',
    ]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{run: a, command: b}", '1:27: "command" and "run" exclude each other'),
        ("{run: a, script: b}", '1:26: "script" and "run" exclude each other'),
        ("{run: ' '}", '"run" must be a text that is not empty'),
        ("{run: a, executor: docker}", '"executor" has no meaning where "run" starts'),
        ("{command: a, params: b}", '"params" belongs to steps with "run"'),
        ("{command: a, workerSelector: {b: c}}", '"workerSelector" belongs to steps with "run"'),
        ("{run: a, params: [A=1, A=2]}", "A is declared twice"),
        ("{run: a, params: 'A=\"b'}", 'the quote before "b" is not closed'),
        ("{run: a, params: {a-b: c}}", '"a-b" is not a name'),
        ("{run: a, parallel: [{a-b: c}]}", '"a-b" is not a name'),
        ("{command: a, parallel: }", '"parallel" must be a list, or a text such as ${ITEMS}'),
        ("{command: a, parallel: ''}", '"parallel" must be a list, or a text such as ${ITEMS}'),
        ("{command: a, parallel: {}}", '"items" is missing'),
        ("{command: a, parallel: {itmes: [a]}}",
         '"itmes" is not a key that is known here; did you mean "items"?'),
        ("{command: a, parallel: {items: [b], maxConcurrent: 0}}",
         '"maxConcurrent" must be 1 or more, not "0"'),
        ("{command: a, approval: maybe}", '"approval" must be true or false, not "maybe"'),
        ("{command: a, approval: {mesage: b}}", 'did you mean "message"?'),
        ("{rn: a, params: b}", '"rn" is not a key that is known here; did you mean "run"?'),
        ("{approval: false}", 'step "step-1" needs a command'),
        ("{command: a, resources: {cpus: 0}}", '"cpus" must be a number above 0'),
        ("{command: a, resources: {memory: much}}", '"memory" must be a number of bytes'),
        ("{command: a, resources: {nice: 20}}", '"nice" must be from -20 to 19, not "20"'),
        ("{command: a, repeatPolicy: {}}", "nothing says when to repeat"),
        ("{command: a, repeatPolicy: {intervalSec: 5}}", "nothing says when to repeat"),
        ("{command: a, repeatPolicy: {repeat: while}}", '"repeat: while" needs a condition'),
        ("{command: a, repeatPolicy: {repeat: often}}",
         '"repeat" must be true, false, while or until, not "often"'),
        ("{command: a, repeatPolicy: {condition: b, exitCode: 1}}",
         '"condition" and "exitCode" exclude each other'),
        ("{command: a, repeatPolicy: {repeat: true, expected: b}}",
         '"expected" has no effect without a condition'),
        ("{command: a, repeatPolicy: {condition: b, expected: 're:('}}", "is not a pattern"),
        ("{command: a, repeatPolicy: {repeat: true, limit: 0}}", '"limit" must be 1 or more'),
    ],
)  # fmt: skip
def test_what_a_step_cannot_say(step: str, expected: str) -> None:
    (found,) = problems(f"steps: [{step}]")
    assert expected in found


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ("{command: a, executor: dockr}",
         'f:1:32: "executor" must be command, shell, docker, http, mail, ssh or jq, not "dockr"; '
         'did you mean "docker"?'),
        ("{command: a, executor: {type: shell, config: {a: b}}}",
         'f:1:54: "shell" takes no config'),
        ("{command: a, executor: {typ: docker}}",
         'f:1:33: "typ" is not a key that is known here; did you mean "type"?'),
        ("{command: a, executor: {type: docker, config: x}}",
         'f:1:55: "config" must be a map, not "x"'),
        ("{command: a, executor: docker}", 'needs an "image" or a "containerName"'),
        ("{executor: {type: docker, config: {image: a, containerName: b}}}",
         '"image" and "containerName" exclude each other'),
        ("{executor: {type: docker, config: {image: a, memory: lots}}}",
         '"memory" must be a number of bytes or a size such as 512KiB or 5MiB, not "lots"'),
        ("{executor: {type: docker, config: {image: a, pull: allways}}}",
         'not "allways"; did you mean "always"?'),
        ("{executor: {type: http, config: {url: a, method: FETCH}}}", '"method" must be GET'),
        ("{executor: {type: http, config: {url: a, timeout: soon}}}", '"timeout" must be a'),
        ("{executor: {type: http, config: {url: a, hedaers: {}}}}", 'did you mean "headers"?'),
        ("{executor: http}", 'needs a "url" in its config, or a command `POST https://…`'),
        ("{executor: http, command: 'https://x'}", "must be a method and a URL, as POST https://"),
        ("{executor: {type: http, config: {url: a}}, command: GET b}", "keep one of them"),
        ("{executor: {type: http, config: {url: a}}, script: b}", '"script" has no effect here'),
        ("{executor: mail}", 'needs a "to" in its config'),
        ("{executor: {type: mail, config: {to: a}}, command: b}", '"command" has no effect here'),
        ("{executor: {type: ssh, config: {host: a}}}", "needs a command or a script"),
        ("{executor: ssh, command: a}", 'needs a "host" in its config'),
        ("{executor: {type: ssh, config: {host: a, port: 0}}, command: b}",
         '"port" must be from 1 to 65535'),
        ("{executor: {type: jq, config: {input: a}}}", 'needs a filter as its "command"'),
        ("{executor: jq, command: .a}", 'needs a document: "script", or "input" in its config'),
    ],
)  # fmt: skip
def test_what_an_executor_cannot_be_given(step: str, expected: str) -> None:
    (found,) = problems(f"steps: [{step}]")
    assert expected in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catchupWindow: long", '"catchupWindow" must be a number of seconds or a duration'),
        ("skipIfSuccessful: yes", '"skipIfSuccessful" must be true or false, not "yes"'),
        ("priority: high", '"priority" must be a whole number'),
        ("workspace: mine", '"workspace" must be shared, own or none, not "mine"'),
        ("workspace: {got: true}", '"got" is not a key that is known here; did you mean "git"?'),
        ("secrets: [{name: A}]", 'f:1:11: secret "A" needs one of env, file and command'),
        ("secrets: [{name: A, env: B, file: c}]",
         'secret "A" needs only one of env, file and command'),
        ("secrets: [{env: A}]", '"name" is missing'),
        ("secrets: [{name: a-b, env: A}]", '"a-b" is not a name'),
        ("secrets: [{name: A, env: B}, {name: A, env: C}]", "A is declared twice"),
        ("secrets: [A]", "must be a map"),
        ("secrets: {A: {env: B}}", '"secrets" must be a list such as `- {name: DB_PASSWORD, env:'),
        ("concurrency: {max: 2}", '"group" is missing'),
        ("concurrency: {group: a, max: 0}", '"max" must be 1 or more'),
        ("concurrency: 'deploy-`hostname`'", "holds backticks, but nothing runs before"),
        ("smtp: {host: a, tls: ssl}", '"tls" must be starttls, tls or none, not "ssl"'),
        ("smtp: {host: a, port: 99999}", '"port" must be from 1 to 65535'),
        ("mailOn: {fail: true}", '"fail" is not a key that is known here; did you mean "failure"?'),
        ("errorMail: {form: a@b}", 'did you mean "from"?'),
        ("histRetentionDays: -1", '"histRetentionDays" must be 0 or more'),
        ("schedule: {stop: 61 * * * *}", "is not a schedule"),
        ("schedule: {strat: '@daily'}", 'did you mean "start"?'),
        ("on: pulRequest",
         'f:1:1: "pulRequest" is not a key that is known here; did you mean "pullRequest"?'),
        ("on: workflow", 'f:1:1: "workflow" needs the ids of the workflows'),
        ("on: {workflow: {ids: [etl/load.yaml, ../x]}}", '"../x" is not the id of a workflow'),
        ("on: {workflow: {ids: a, status: [done]}}", '"status" must be succeeded'),
        ("on: {pullRequest: {types: [open]}}", 'not "open"; did you mean "opened"?'),
        ("on: {pullRequest: {forks: yes}}", '"forks" must be ignore or approve, not "yes"'),
        ("on: {release: {types: publish}}", 'did you mean "published"?'),
        ("on: {webhook: {params: {A: 'a b'}}}", '"a b" is not a path into JSON'),
        ("on: {webhook: {params: {a-b: c}}}", '"a-b" is not a name'),
        ("handlerOn: {cancel: {name: x}}", 'step "handlerOn.cancel" needs a command'),
    ],
)  # fmt: skip
def test_what_a_workflow_cannot_say(text: str, expected: str) -> None:
    (found,) = problems(f"{text}\nsteps: [{{command: x}}]")
    assert expected in found


def test_a_step_runs_over_a_thousand_items_at_most() -> None:
    items = ", ".join("a" for _ in range(1001))
    (found,) = problems(f"steps: [{{command: x, parallel: [{items}]}}]")
    assert '"parallel" must have at most 1,000 items, not 1,001' in found


def test_what_is_left_out_because_of_a_mistake_hides_no_other() -> None:
    assert problems("""\
steps:
  - command: x
    retryPolicy: {limit: many, intervalSec: soon}
    depends: nobody
  - parallel: {maxConcurrent: 3}
    command: y
    timeoutSec: ages
""") == [
        'f:3:26: "limit" must be a whole number, not "many"',
        'f:3:45: "intervalSec" must be a number of seconds or a duration such as 90s, 10m, 6h '
        'or 2d, not "soon"',
        'f:4:14: step "step-1" depends on "nobody", which is not a step',
        'f:5:15: "items" is missing',
        'f:7:17: "timeoutSec" must be a number of seconds or a duration such as 90s, 10m, 6h '
        'or 2d, not "ages"',
    ]


def test_a_single_map_that_stands_for_a_list_hides_no_other_mistake() -> None:
    assert problems("""\
steps:
  - command: x
    preconditions: {expected: y}
    depends: nobody
handlerOn:
  exit: {command: x, precondition: {condition: [a]}, output: 1A}
""") == [
        'f:3:20: "condition" is missing',
        'f:4:14: step "step-1" depends on "nobody", which is not a step',
        'f:6:48: "condition" must be text, not a list',
        'f:6:62: "1A" is not the name of a variable: letters, digits and _ only, at most 200',
    ]


@pytest.mark.parametrize(
    "event",
    ["release: {types: [nope]}", "pullRequest: {types: nope}", "workflow: {ids: a, status: nope}"],
)
def test_an_unknown_type_of_an_event_hides_no_other_mistake(event: str) -> None:
    found = problems(f"on: {{{event}}}\nsteps: [{{command: a, depends: b}}]\n")
    assert len(found) == 2, found
