"""Where the files of a run lie: its log folders and its checkout.

Only paths and folders; what is written into them is decided elsewhere. A folder of a launch is
always new: a file's name is never used twice.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def run_folder(runs: Path, run: str) -> Path:
    """`<runs>/YYYY-MM/<root run>/<run>`; a run's id begins with its date."""
    return runs / f"{run[:4]}-{run[4:6]}" / run / run


def launch_folder(folder: Path, *, number: int, step: str, attempt: int, launch: str) -> Path:
    """`<number>-<slug>/<attempt>.<launch>` below a run's folder; steps count from 1."""
    slug = _UNSAFE.sub("-", step).strip("-")[:40] or "step"
    return folder / f"{number}-{slug}" / f"{attempt}.{launch}"


def workspace_folder(workspaces: Path, run: str) -> Path:
    return workspaces / run


def write(path: Path, text: str) -> None:
    """Write a file that a step may read, whole. What a step has put in its place, say a pipe or a
    link, is replaced and not written to. Raises OSError."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(beside, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def remove(folder: Path) -> None:
    """Delete a workspace, if it is there. Raises OSError, say for what belongs to another user."""
    with suppress(FileNotFoundError):
        try:
            shutil.rmtree(folder)
        except PermissionError:
            _make_writable(folder)
            shutil.rmtree(folder)


def _make_writable(folder: Path) -> None:
    """A step may have closed its folders, even to their owner."""
    folder.chmod(0o700)
    for place, names, _ in os.walk(folder):  # from the top; links are not followed
        for name in names:
            inner = Path(place, name)
            if not inner.is_symlink():
                inner.chmod(0o700)
