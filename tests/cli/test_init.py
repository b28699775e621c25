"""`dagmill init`: a first workflow that is valid, runs as it is, and harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import cli
from runner.cli.init import HELLO
from runner.language.load import load


def init(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["init", *arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_workflow_has_nothing_wrong_and_starts_nothing_by_itself() -> None:
    loaded = load(HELLO.encode(), path=".dagu/hello.yaml", id="hello")
    assert (loaded.problems, loaded.warnings) == ((), ())
    assert loaded.workflow is not None
    assert loaded.workflow.schedule is None and loaded.workflow.push is None


def test_what_is_commented_out_is_valid_too() -> None:
    lines = [
        line.replace("# ", "", 1)
        if line.startswith(("# schedule", "# timezone", "# on", "#   p"))
        else line
        for line in HELLO.splitlines()
    ]
    loaded = load("\n".join(lines).encode(), path=".dagu/hello.yaml", id="hello")
    assert loaded.problems == () and loaded.workflow is not None
    assert loaded.workflow.schedule is not None and loaded.workflow.push is not None


def test_it_runs_as_it_is(folder: Path) -> None:
    assert init().exit_code == 0
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    done = subprocess.run(
        [sys.executable, "-m", "runner.cli", "run", "hello", "--", "WHO=Ada"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Hello, Ada." in done.stdout and "There are 1 workflows here." in done.stdout


def test_it_says_what_to_do_next(folder: Path) -> None:
    result = init()
    assert "wrote .dagu/hello.yaml" in result.output
    for command in ("dagmill run hello", "dagmill validate", "git init", "dagmill serve"):
        assert command in result.output


def test_it_writes_to_the_root_of_the_repository_one_is_in(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".git").mkdir()
    (folder / "src").mkdir()
    monkeypatch.chdir(folder / "src")
    result = init()
    assert (folder / ".dagu/hello.yaml").read_text() == HELLO
    assert "git init" not in result.output and "cd .." in result.output


@pytest.mark.parametrize("there", ["hello.yaml", "hello.yml"])
def test_what_is_there_is_never_changed(folder: Path, there: str) -> None:
    (folder / ".dagu").mkdir()
    (folder / ".dagu" / there).write_text("mine")
    result = init()
    assert result.exit_code == 2 and "stays as it is" in result.output
    assert {p.name: p.read_text() for p in (folder / ".dagu").iterdir()} == {there: "mine"}


def test_a_link_is_not_written_through(folder: Path) -> None:
    (folder / ".dagu").mkdir()
    (folder / ".dagu/hello.yaml").symlink_to(folder / "elsewhere")
    assert init().exit_code == 2
    assert not (folder / "elsewhere").exists()


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    (folder / "file").touch()
    result = init("file")
    assert result.exit_code == 2 and "cannot be written" in result.output


def test_another_folder_is_made(folder: Path) -> None:
    assert init("new/ops").exit_code == 0
    assert (folder / "new/ops/.dagu/hello.yaml").is_file()
