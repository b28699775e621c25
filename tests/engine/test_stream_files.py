"""Copies of what steps print, in the files that `stdout` and `stderr` name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runner.engine import stream_files
from runner.engine.scope import ScopeError
from runner.executors.base import Task


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def ended(cwd: Path, launch: str, text: str, *, stdout: str = "out.txt", **more: str) -> Task:
    """An attempt that printed `text`."""
    folder = cwd.parent / "runs/1-a" / launch
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "out").write_text(text)
    stderr = more.get("stderr")
    if stderr is not None:
        (folder / "err").write_text(more["err"])
    task = Task("run", "a", 1, "l", folder, cwd, {}, (), stdout=cwd / stdout)
    if stderr is None:
        return task
    return Task(
        *("run", "a", 1, "l", folder, cwd, {}, ()), stdout=cwd / stdout, stderr=cwd / stderr
    )


def test_the_first_attempt_of_a_run_replaces_and_later_ones_append(cwd: Path) -> None:
    (cwd / "out.txt").write_text("of an earlier run, which was longer\n")
    assert stream_files.put(ended(cwd, "1.a", "one\n")) == ""
    assert stream_files.put(ended(cwd, "2.b", "two\n")) == ""
    assert (cwd / "out.txt").read_text() == "one\ntwo\n"
    assert (cwd.parent / "runs/1-a/1.a/out").read_text() == "one\n"


def test_a_second_call_does_nothing(cwd: Path) -> None:
    task = ended(cwd, "1.a", "one\n")
    for _ in range(2):
        assert stream_files.put(task) == ""
    assert (cwd / "out.txt").read_text() == "one\n"


def test_a_copy_that_was_cut_off_is_made_again(cwd: Path) -> None:
    stream_files.put(ended(cwd, "1.a", "one\n"))
    task = ended(cwd, "2.b", "two\n")
    (task.folder / "copied").write_text(json.dumps({"stdout": 4}))
    with (cwd / "out.txt").open("a") as file:
        file.write("tw")
    assert stream_files.put(task) == ""
    assert (cwd / "out.txt").read_text() == "one\ntwo\n"


def test_both_streams_may_go_to_one_file_in_a_new_folder(cwd: Path) -> None:
    task = ended(cwd, "1.a", "o\n", stdout="logs/a", stderr="logs/a", err="e\n")
    assert stream_files.put(task) == ""
    assert (cwd / "logs/a").read_text() == "o\ne\n"


def test_a_link_is_not_written_through(cwd: Path) -> None:
    outside = cwd.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("safe")
    (cwd / "out.txt").symlink_to(outside / "file")
    (cwd / "folder").symlink_to(outside)
    assert stream_files.put(ended(cwd, "1.a", "x")).endswith("out.txt: it is a link")
    found = stream_files.put(ended(cwd, "1.b", "x", stdout="folder/new"))
    assert "a link leads out of" in found
    assert (outside / "file").read_text() == "safe"
    assert [p.name for p in outside.iterdir()] == ["file"]


def test_what_is_no_file_is_said(cwd: Path) -> None:
    os.mkfifo(cwd / "out.txt")
    assert "stdout cannot be written to" in stream_files.put(ended(cwd, "1.a", "x"))
    (cwd / "folder").mkdir()
    assert "directory" in stream_files.put(ended(cwd, "1.b", "x", stdout="folder"))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "..", ".", "a/", "a/.."])
def test_a_path_that_is_not_below_the_directory_is_refused(cwd: Path, path: str) -> None:
    with pytest.raises(ScopeError, match="stdout: "):
        stream_files.target("stdout", path, cwd=cwd)


def test_a_path_below_the_directory_is_taken(cwd: Path) -> None:
    assert stream_files.target("stdout", "a/../b/..c", cwd=cwd) == cwd / "b/..c"
