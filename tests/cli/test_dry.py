"""`dagmill dry`: the plan of a run, of which nothing happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from runner.cli import cli

MAIN = """\
name: Nightly
params:
  - DAY: "`touch {marker}; echo today`"
  - DIR: /data/$DAY
  - API_TOKEN: hunter22
env:
  - OUT: ${{DIR}}/out
steps:
  - name: list
    command: echo "`touch {marker}`"
    output: LIST
  - name: load
    depends: list
    run: parts/load
    params: "NAME=$DIR"
    parallel: ${{LIST}}
  - name: again
    run: parts/load
  - name: fixed
    parallel: [one, {{x: $DIR}}]
    command: [echo, "${{ITEM}}", "$DIR", "$NOTHING"]
    retryPolicy: {{limit: 2, intervalSec: 90, backoff: true}}
    env: [{{KEY: "$API_TOKEN"}}, {{OWN: $DIR/own}}]
  - name: gate
    depends: [load, fixed]
    approval: {{message: "Go?", timeoutSec: 600}}
    command: echo go
    preconditions: [{{condition: $DIR, expected: /data}}, "test -d /"]
handlerOn:
  exit: {{command: echo bye}}
"""
LOAD = """\
params: [{NAME: x}]
steps:
  - {name: a, command: echo $NAME}
  - {name: b, command: echo b, depends: a, repeatPolicy: {repeat: true, limit: 3}}
"""


@pytest.fixture
def workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".dagu"
    (folder / "parts").mkdir(parents=True)
    (folder / "nightly.yaml").write_text(MAIN.format(marker=tmp_path / "marker"))
    (folder / "parts/load.yaml").write_text(LOAD)
    return folder


def dry(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["dry", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    result = dry(*arguments[:1], "--json", *arguments[1:])
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def steps(plan: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["name"]: step for step in plan["steps"]}


def test_nothing_is_run_and_backticks_stay_as_written(workflows: Path) -> None:
    plan = document("nightly")
    assert not (workflows.parent / "marker").exists()
    assert plan["params"]["DAY"].startswith("`touch ")
    assert plan["params"]["DIR"] == f"/data/{plan['params']['DAY']}"


def test_values_that_are_known_stand_in_the_texts(workflows: Path) -> None:
    plan = document("nightly", "--", "DAY=1.10")
    assert plan["params"]["DIR"] == "/data/1.10"
    assert plan["env"] == {"OUT": "/data/1.10/out"}
    fixed = steps(plan)["fixed"]
    assert fixed["argv"] == ["echo", "${ITEM}", "/data/1.10", "$NOTHING"]
    assert fixed["env"]["OWN"] == "/data/1.10/own"
    assert fixed["parallel"]["items"] == ["one", '{"x":"/data/1.10"}']


def test_no_secret_is_shown(workflows: Path) -> None:
    for result in (
        dry("nightly"),
        dry("nightly", "--json"),
        dry("nightly", "--", "API_TOKEN=s3cret"),
    ):
        assert result.exit_code == 0
        assert "hunter22" not in result.output and "s3cret" not in result.output


def test_steps_stand_in_the_order_in_which_they_can_start(workflows: Path) -> None:
    assert document("nightly")["waves"] == [["list", "again", "fixed"], ["load"], ["gate"]]


def test_a_sub_workflow_is_resolved_and_shown_once(workflows: Path) -> None:
    plan = document("nightly", "--", "DAY=1")
    load = steps(plan)["load"]["run"]["workflow"]
    assert (load["path"], load["params"]) == (".dagu/parts/load.yaml", {"NAME": "/data/1"})
    assert load["waves"] == [["a"], ["b"]]
    again = steps(plan)["again"]["run"]["workflow"]
    assert again["described"] is True and again["params"] == {"NAME": "x"}


def test_a_person_reads_what_would_happen(workflows: Path) -> None:
    text = dry("nightly").output
    for words in (
        "2 items, 10 at once: one",
        "2 more times, after 90 s, each wait 2 times the last",
        "a person, at most 10 min: Go?",
        "as long as it succeeds, at once, at most 3 times",
        "`test -d /` succeeds",
        "${LIST}, known only in a run",
        "its steps are shown above",
        "── when the steps are over",
    ):
        assert words in text, words
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("called", "words"),
    [
        ("parts/laod", "parts/load"),
        ("parts/back", "nightly → parts/back → nightly is a circle"),
        ("parts/bad", "has problems"),
    ],
)
def test_what_a_run_could_not_do_is_said(workflows: Path, called: str, words: str) -> None:
    (workflows / "parts/bad.yaml").write_text("steps: 5")
    (workflows / "parts/back.yaml").write_text("steps: [{name: x, run: nightly}]")
    (workflows / "nightly.yaml").write_text(f"steps: [{{name: x, run: {called}}}]")
    result = dry("nightly")
    assert result.exit_code == 2
    assert ", step x: " in result.output and words in result.output


def test_a_name_that_only_a_run_knows_is_left_open(workflows: Path) -> None:
    (workflows / "nightly.yaml").write_text("steps: [{name: x, run: $TARGET}]")
    assert "known only in a run" in steps(document("nightly"))["x"]["run"]["unknown"]
    (workflows / "nightly.yaml").write_text(
        "params: [{TARGET: parts/load}]\nsteps: [{name: x, run: $TARGET}]"
    )
    assert steps(document("nightly"))["x"]["run"]["workflow"]["id"] == "parts/load"


def test_the_defaults_of_base_yaml_count(workflows: Path) -> None:
    (workflows / "base.yaml").write_text("env: [{TEAM: data}]\n")
    assert document("parts/load")["env"] == {"TEAM": "data"}
    (workflows / "base.yaml").write_text("steps: []\n")
    result = dry("parts/load")
    assert result.exit_code == 2 and "base.yaml" in result.output


def test_a_chain_of_many_steps_is_no_work(workflows: Path) -> None:
    lines = "".join(f"  - {{name: s{n}, command: echo}}\n" for n in range(5000))
    (workflows / "long.yaml").write_text(f"type: chain\nsteps:\n{lines}")
    assert len(document("long")["waves"]) == 5000


def test_a_parameter_that_does_not_fit_is_refused(workflows: Path) -> None:
    result = dry("nightly", "--", "DYA=1")
    assert result.exit_code == 2 and '"DAY"' in result.output
