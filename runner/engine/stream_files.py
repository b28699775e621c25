"""The files that a step's `stdout` and `stderr` name: copies of what an attempt printed.

A run's first attempt replaces such a file, later ones append. The log stays as it is. A copy that
a crash cut off is made again from where it began. Links are not followed where the file itself
should be, nor out of the step's directory.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import stat
from pathlib import Path
from typing import Any

from runner.engine import workspace
from runner.engine.scope import ScopeError
from runner.executors.base import Task

_CHUNK = 1 << 20
_RECORD = "copied"  # stream → where its copy begins, or _DONE
_DONE = "done"


def target(what: str, value: str, *, cwd: Path) -> Path:
    """The file below `cwd` that `value` names. Raises ScopeError for one elsewhere."""
    path = posixpath.normpath(value)
    if posixpath.isabs(path) or path.split("/")[0] == "..":
        raise ScopeError(
            f"{what}: {value} is not below the step's directory; write a path below `dir`"
        )
    if path == "." or value.endswith("/"):
        raise ScopeError(f"{what}: {value} is a folder; name a file")
    return cwd / path


def put(task: Task, result: str | None = None) -> str:
    """Copy what the attempt printed to the files that it names; `result` stands for stdout where
    that is not in the log. Why that is not possible, "" if it is done; a second call does nothing.
    Not to be called twice at once for one run."""
    wanted = (("stdout", task.stdout, "out"), ("stderr", task.stderr, "err"))
    done: dict[str, Any] | None = None
    for name, path, log in wanted:
        if path is None:
            continue
        done = _read_record(task.folder) if done is None else done
        try:
            if done.get(name) != _DONE:
                text = result if name == "stdout" else None
                _put(task, name, path, task.folder / log if text is None else text, done=done)
        except OSError as error:
            return f"{name} cannot be written to {path}: {_why(path, error)}"
    return ""


def _why(path: Path, error: OSError) -> str:
    return "it is a link" if path.is_symlink() else error.strerror or str(error)


def _put(task: Task, name: str, path: Path, source: Path | str, *, done: dict[str, Any]) -> None:
    inside = Path(os.path.realpath(task.cwd))
    if not Path(os.path.realpath(path.parent)).is_relative_to(inside):
        raise OSError(f"a link leads out of {task.cwd}")
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    copy = os.open(path, flags, 0o644)
    try:
        status = os.fstat(copy)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a regular file")
        written = _step_folder(task) / f"written-{_key(path)}"
        if name not in done:
            done[name] = status.st_size if written.exists() else 0
            _keep_record(task.folder, done)
        written.touch()
        begin = min(int(done[name]), status.st_size)
        os.ftruncate(copy, begin)
        os.lseek(copy, begin, os.SEEK_SET)
        if isinstance(source, Path):
            _copy(source, copy)
        elif source:
            _write(copy, f"{source}\n".encode())
    finally:
        os.close(copy)
    done[name] = _DONE
    _keep_record(task.folder, done)


def _step_folder(task: Task) -> Path:
    """What all attempts of the step in this run have in common, those of all its items."""
    return task.folder.parents[0 if task.item is None else 1]


def _key(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / _RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep_record(folder: Path, done: dict[str, Any]) -> None:
    workspace.write(folder / _RECORD, json.dumps(done))


def _copy(log: Path, copy: int) -> None:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        source = os.open(log, flags)
    except FileNotFoundError:
        return
    with os.fdopen(source, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            _write(copy, chunk)


def _write(copy: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(copy, rest) :]
