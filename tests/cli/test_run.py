"""`dagmill run` as a process: signals, readers that go away, users without a home."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from runner.cli.run import find_file

DAGMILL = [sys.executable, "-m", "runner.cli"]

TWO_STEPS = """
type: chain
steps:
  - {name: first, command: "echo hello"}
  - {name: last, command: "echo done >marker"}
"""
LONG_STEP = """
steps:
  - {name: long, command: "sleep 300"}
handlerOn:
  exit: {command: "echo $DAG_RUN_STATUS >marker"}
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}


def workflow(folder: Path, text: str) -> Path:
    file = folder / "flow.yaml"
    file.write_text(text)
    return file


def dagmill(
    *words: str | Path, env: dict[str, str], stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DAGMILL, "run", *map(str, words)],
        env=env,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=50,
    )


@contextlib.contextmanager
def not_ignored(number: int) -> Iterator[None]:
    """What is started meanwhile may be told `number`, though we may ignore it ourselves: a shell
    has what it starts with `&` ignore INT, nohup HUP, and a child would inherit that."""
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def test_a_relative_state_folder_is_meant_from_where_the_command_is_given(
    tmp_path: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = dagmill(workflow(tmp_path, TWO_STEPS), env={**env, "XDG_STATE_HOME": "state"})
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "here/state/dagmill/local").is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_run_and_its_handlers_still_run(
    tmp_path: Path, env: dict[str, str], number: signal.Signals
) -> None:
    file = workflow(tmp_path, LONG_STEP)
    with not_ignored(number):
        process = subprocess.Popen(
            [*DAGMILL, "run", str(file)], env=env, stdout=subprocess.PIPE, text=True
        )
    with process:
        try:
            assert process.stdout is not None
            assert "long" in process.stdout.readline()  # and its process may just begin
            process.send_signal(number)
            rest = process.stdout.read()
        except BaseException:
            process.kill()  # else leaving `with` waits for the end of its run
            raise
    assert process.returncode == 130
    assert f"stopped by {number.name}" in rest
    assert (tmp_path / "marker").read_text() == "cancelled\n"


def test_a_run_that_nobody_reads_goes_on_to_its_end(tmp_path: Path, env: dict[str, str]) -> None:
    file = workflow(tmp_path, TWO_STEPS)
    reader, writer = os.pipe()
    os.close(reader)
    done = dagmill(file, env=env, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "marker").exists()


def test_a_full_disk_behind_stdout_does_not_abandon_the_run(
    tmp_path: Path, env: dict[str, str]
) -> None:
    file = workflow(tmp_path, TWO_STEPS)
    full = os.open("/dev/full", os.O_WRONLY)
    done = dagmill(file, env=env, stdout=full)
    os.close(full)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "marker").exists()


def test_a_summary_for_which_there_is_no_room_is_said_in_a_line(
    tmp_path: Path, env: dict[str, str]
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = dagmill(workflow(tmp_path, TWO_STEPS), "--json", env=env, stdout=full)
    os.close(full)
    assert (done.returncode, done.stderr) == (2, "Error: No space left on device\n")
    assert (tmp_path / "marker").exists()


def test_json_is_all_that_stands_on_stdout(tmp_path: Path, env: dict[str, str]) -> None:
    done = dagmill(workflow(tmp_path, TWO_STEPS), "--json", env=env)
    summary = json.loads(done.stdout)
    assert summary["status"] == "succeeded"
    assert [step["name"] for step in summary["steps"]] == ["first", "last"]


def test_a_state_folder_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, env: dict[str, str]
) -> None:
    (tmp_path / "file").touch()
    done = dagmill(
        workflow(tmp_path, TWO_STEPS), env={**env, "XDG_STATE_HOME": str(tmp_path / "file")}
    )
    assert done.returncode == 2
    assert "set XDG_STATE_HOME to a folder of yours" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_param_that_is_no_text_is_refused_by_name(tmp_path: Path, env: dict[str, str]) -> None:
    file = workflow(tmp_path, "params: [{A: x}]\nsteps: [{command: echo}]")
    done = dagmill(file, "--", os.fsdecode(b"A=\xff"), env=env)
    assert done.returncode == 2
    assert "the value of A is not valid UTF-8" in done.stderr


def test_an_id_is_the_path_below_the_workflow_folder_outside_git_too(tmp_path: Path) -> None:
    folder = tmp_path / ".dagu" / "etl"
    folder.mkdir(parents=True)
    (folder / "load.yaml").write_text(TWO_STEPS)
    assert find_file(".dagu/etl/load.yaml", cwd=tmp_path).id == "etl/load"
    assert find_file("etl/load", cwd=tmp_path).id == "etl/load"
    assert find_file("load.yaml", cwd=folder).id == "etl/load"


def test_an_id_is_looked_for_upwards_to_the_root_of_the_repository(tmp_path: Path) -> None:
    for folder in (".git", ".dagu", "inner/.dagu/parts", "inner/src"):
        (tmp_path / folder).mkdir(parents=True)
    for file in (".dagu/a.yaml", "inner/.dagu/a.yaml", "inner/.dagu/parts/b.yaml", ".dagu/c.yaml"):
        (tmp_path / file).write_text(TWO_STEPS)
    inner = tmp_path / "inner"
    assert find_file("a", cwd=inner / "src").shown == "inner/.dagu/a.yaml"
    assert find_file("c", cwd=inner / "src").shown == ".dagu/c.yaml"
    assert find_file("parts/b", cwd=inner).id == "parts/b"
    assert find_file("inner/.dagu/parts/b.yaml", cwd=tmp_path).id == "parts/b"
    with pytest.raises(click.UsageError):
        find_file("", cwd=inner)
