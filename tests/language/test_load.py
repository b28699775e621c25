"""What a good file means."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from runner.language.load import load, workflow_id
from runner.language.model import (
    Condition,
    ContinueOn,
    Param,
    PushFilter,
    RetryPolicy,
    Step,
    Workflow,
    WorkflowType,
)


def loaded(text: str) -> Workflow:
    result = load(text.encode(), path=".dagu/etl.yaml", id="etl")
    assert result.problems == ()
    assert result.workflow is not None
    return result.workflow


def step_of(text: str) -> Step:
    return loaded(f"steps:\n  - {text}").steps[0]


def test_a_minimal_file_gets_every_default() -> None:
    workflow = loaded("steps: [{command: make}]")
    assert workflow == Workflow(
        id="etl", name="etl", path=".dagu/etl.yaml", steps=(Step("step-1", command="make"),)
    )


def test_a_full_file_keeps_all_it_says() -> None:
    workflow = loaded("""\
name: Nightly sales
description: Loads the day's sales.
group: data
tags: ETL, Nightly
schedule: "0 2 * * *"
timezone: Europe/Berlin
on:
  push: {branches: [main, "release/**"], paths: ["src/**", "!**/*.md"]}
params:
  - REGION: eu
  - DAY: 010
env:
  VERSION: 1.10
  EMPTY:
shell: bash -eu
workingDir: etl
timeoutSec: 2h
maxActiveRuns: 0
maxActiveSteps: 4
maxCleanUpTimeSec: 5
maxOutputSize: 5MiB
preconditions: test -d data
steps:
  - name: extract
    id: ex
    command: ./extract.sh
    output: SALES
    env: [{A: 1}, {B: true}]
    dir: in
    timeoutSec: 90
    signalOnStop: SIGINT
    continueOn: {failure: true, exitCode: 3, output: "re:no .* rows", markSuccess: true}
    retryPolicy: {limit: 3, intervalSec: 10s, backoff: true, maxIntervalSec: 1m, exitCode: [7]}
  - name: load it
    command: [python3, load.py, 007]
    depends: ex
    preconditions:
      - condition: ${REGION}
        expected: "re:eu|us"
      - test -s sales.csv
handlerOn:
  failure: {command: ./tell.sh}
""")
    assert workflow.name == "Nightly sales"
    assert workflow.tags == ("etl", "nightly")
    assert workflow.schedule is not None
    assert workflow.schedule.crons == (("0 2 * * *", "Europe/Berlin"),)
    assert workflow.timezone == "Europe/Berlin"
    assert workflow.push == PushFilter(("main", "release/**"), (), ("src/**", "!**/*.md"))
    assert workflow.params == (Param("REGION", "eu"), Param("DAY", "010"))
    assert workflow.env == (("VERSION", "1.10"), ("EMPTY", ""))
    assert (workflow.shell, workflow.working_dir) == (("bash", "-eu"), "etl")
    assert (workflow.timeout_s, workflow.max_clean_up_s) == (7200.0, 5.0)
    assert (workflow.max_active_runs, workflow.max_active_steps) == (0, 4)
    assert workflow.max_output_bytes == 5 * 1024 * 1024
    assert workflow.preconditions == (Condition("test -d data"),)
    assert workflow.on_failure == Step("handlerOn.failure", command="./tell.sh")
    extract, load_it = workflow.steps
    assert extract == Step(
        "extract",
        id="ex",
        command="./extract.sh",
        output="SALES",
        env=(("A", "1"), ("B", "true")),
        dir="in",
        timeout_s=90.0,
        stop_signal=signal.SIGINT,
        continue_on=ContinueOn(
            failure=True, exit_codes=(3,), output=("re:no .* rows",), mark_success=True
        ),
        retry=RetryPolicy(3, 10.0, 2.0, 60.0, (7,)),
    )
    assert load_it.argv == ("python3", "load.py", "007")
    assert load_it.depends == ("extract",)
    assert load_it.preconditions == (
        Condition("${REGION}", "re:eu|us"),
        Condition("test -s sales.csv"),
    )


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("1.10", "1.10"),
        ("010", "010"),
        ("false", "false"),
        ("0x1F", "0x1F"),
        ("1e3", "1e3"),
        ("12:30:00", "12:30:00"),
        ("2026-11-22", "2026-11-22"),
        ("on", "on"),
        ("~", ""),
        ("null", ""),
        ("", ""),
        ("'null'", "null"),
        ('"a\\tb"', "a\tb"),
        ("!!str null", "null"),
    ],
)
def test_where_text_is_expected_a_scalar_is_its_source_text(written: str, text: str) -> None:
    workflow = loaded(f"env: {{X: {written}}}\nparams: [{{P: {written}}}]\nsteps: [{{command: x}}]")
    assert workflow.env == (("X", text),)
    assert workflow.params == (Param("P", text),)


@pytest.mark.parametrize("key", ["on", "yes", "no", "off", "y", "n", "true", "null", "1"])
def test_a_key_is_text_whatever_it_looks_like(key: str) -> None:
    assert loaded(f"steps: {{{key}: {{command: x}}}}").steps[0].name == key


def test_snake_case_means_the_same_as_camel_case() -> None:
    camel = loaded("""\
maxActiveRuns: 2
handlerOn: {exit: {command: x}}
steps: [{command: x, timeoutSec: 5, continueOn: {exitCode: 1, markSuccess: true}}]
""")
    snake = loaded("""\
max_active_runs: 2
handler_on: {exit: {command: x}}
steps: [{command: x, timeout_sec: 5, continue_on: {exit_code: 1, mark_success: true}}]
""")
    assert camel == snake


def test_a_map_of_steps_keeps_the_order_of_the_file() -> None:
    workflow = loaded("type: chain\nsteps:\n  z: {command: a}\n  a: {command: b}\n")
    assert [(s.name, s.depends) for s in workflow.steps] == [("z", ()), ("a", ("z",))]


def test_a_chain_follows_the_step_above_unless_a_step_says_otherwise() -> None:
    workflow = loaded("""\
type: chain
steps:
  - {name: a, command: x}
  - {name: b, command: x}
  - {name: c, command: x, depends: []}
  - {name: d, command: x}
  - {name: e, command: x, depends: [a, c, a]}
""")
    assert workflow.type is WorkflowType.CHAIN
    assert [s.depends for s in workflow.steps] == [(), ("a",), (), ("c",), ("a", "c")]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("0", None), ("90", 90.0), ("1.5", 1.5), ("90s", 90.0), ("10m", 600.0), ("6h", 21600.0),
     ("2d", 172800.0)],
)  # fmt: skip
def test_durations(written: str, seconds: float | None) -> None:
    assert step_of(f"{{command: x, timeoutSec: {written}}}").timeout_s == seconds


@pytest.mark.parametrize(
    ("written", "size"),
    [("100", 100), ("512KiB", 524288), ("1k", 1024), ("2MB", 2_000_000), ("1GiB", 1024**3)],
)
def test_sizes(written: str, size: int) -> None:
    assert loaded(f"maxOutputSize: {written}\nsteps: [{{command: x}}]").max_output_bytes == size


@pytest.mark.parametrize(
    ("written", "factor"), [("true", 2.0), ("false", 1.0), ("1.5", 1.5), ("3", 3.0)]
)
def test_backoff_is_a_factor_or_true_for_doubling(written: str, factor: float) -> None:
    retry = step_of(f"{{command: x, retryPolicy: {{limit: 1, backoff: {written}}}}}").retry
    assert retry is not None
    assert (retry.factor, retry.interval_s) == (factor, 5.0)


@pytest.mark.parametrize(
    ("written", "push"),
    [
        ("push", PushFilter()),
        ("[push]", PushFilter()),
        ("{push: }", PushFilter()),
        ("{push: {branches: main}}", PushFilter(branches=("main",))),
        ('{push: {tags: ["v*"]}}', PushFilter(tags=("v*",))),
    ],
)
def test_every_form_of_on_push(written: str, push: PushFilter) -> None:
    assert loaded(f"on: {written}\nsteps: [{{command: x}}]").push == push


@pytest.mark.parametrize(
    ("written", "crons"),
    [
        ('"0 2 * * *"', (("0 2 * * *", None),)),
        ('["0 2 * * *", "@daily"]', (("0 2 * * *", None), ("0 0 * * *", None))),
        ('{start: "0 4 * * SUN"}', (("0 4 * * SUN", None),)),
        ('{start: ["0 4 * * *"]}', (("0 4 * * *", None),)),
        ('"CRON_TZ=Asia/Tokyo 0 2 * * *"', (("0 2 * * *", "Asia/Tokyo"),)),
        ("0 2 * * *", (("0 2 * * *", None),)),
    ],
)
def test_every_form_of_a_schedule(written: str, crons: tuple[tuple[str, str | None], ...]) -> None:
    schedule = loaded(f"schedule: {written}\nsteps: [{{command: x}}]").schedule
    assert schedule is not None
    assert schedule.crons == crons


@pytest.mark.parametrize(
    ("written", "params"),
    [
        ('\'a b K=v K2="x y"\'',
         (Param(None, "a"), Param(None, "b"), Param("K", "v"), Param("K2", "x y"))),
        ("[a, {K: v}, 'L=w x']",
         (Param(None, "a"), Param("K", "v"), Param("L", "w"), Param(None, "x"))),
        ("{B: 1, A: 2}", (Param("B", "1"), Param("A", "2"))),
    ],
)  # fmt: skip
def test_every_form_of_params(written: str, params: tuple[Param, ...]) -> None:
    assert loaded(f"params: {written}\nsteps: [{{command: x}}]").params == params


@pytest.mark.parametrize("executor", ["command", "shell", "{type: command}", "{type: shell}"])
def test_the_executors_that_run_a_command_are_accepted(executor: str) -> None:
    assert step_of(f"{{command: x, executor: {executor}}}").command == "x"


@pytest.mark.parametrize("written", ["OUT", "$OUT", "${OUT}"])
def test_output_names_a_variable(written: str) -> None:
    assert step_of(f'{{command: x, output: "{written}"}}').output == "OUT"


def test_further_documents_are_sub_workflows_with_their_own_ids() -> None:
    workflow = loaded("""\
steps: [{command: x}]
---
---
name: child
steps: [{command: y}]
""")
    assert [(w.id, w.name) for w in workflow.locals] == [("etl#2", "child")]


def test_anchors_and_merge_keys_fill_in_what_is_not_said() -> None:
    workflow = loaded("""\
steps:
  - &base {name: a, command: x, timeoutSec: 5}
  - {<<: *base, name: b}
""")
    assert [(s.name, s.command, s.timeout_s) for s in workflow.steps] == [
        ("a", "x", 5.0),
        ("b", "x", 5.0),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    text = "steps:\r\n  - command: |\r\n      a\r\n      b\r\n"
    result = load(b"\xef\xbb\xbf" + text.encode(), path="p", id="p")
    assert result.workflow is not None
    assert result.workflow.steps[0].command == "a\nb\n"


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("etl.yaml", "etl"),
        ("extractors/database.yml", "extractors/database"),
        ("a.b_c-1.yaml", "a.b_c-1"),
    ],
)
def test_an_id_is_the_path_without_its_ending(path: str, id: str) -> None:
    assert workflow_id(path) == id


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("etl.txt", ".yaml or .yml"),
        (".yaml", '""'),
        ("a//b.yaml", '""'),
        (".hidden/b.yaml", '".hidden"'),
        ("a/../b.yaml", '".."'),
        ("my flow.yaml", '"my flow"'),
        ("naïve.yaml", '"naïve"'),
    ],
)
def test_a_name_that_makes_no_id_is_refused_with_the_reason(path: str, named: str) -> None:
    with pytest.raises(ValueError, match=r"id|end in") as caught:
        workflow_id(path)
    assert named in str(caught.value)


def test_a_plain_file_loads_neither_croniter_nor_re2() -> None:
    program = (
        "import sys; from runner.language.load import load; "
        "assert load(b'steps: [{command: x}]', path='p', id='p').workflow; "
        "print([m for m in ('croniter', 're2', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
