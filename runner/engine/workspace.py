"""Where the files of a run lie: its log folders and its checkout.

Only paths and folders; what is written into them is decided elsewhere. A folder of a launch is
always new: a file's name is never used twice. A workspace that is there is whole: it is made
beside its place and moved there.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import shutil
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def run_folder(runs: Path, run: str, *, root: str = "") -> Path:
    """`<runs>/YYYY-MM/<root run>/<run>`; a run's id begins with its date. `root` "": it is one."""
    first = root or run
    return runs / f"{first[:4]}-{first[4:6]}" / first / run


def launch_folder(
    folder: Path, *, number: int, step: str, attempt: int, launch: str, item: int | None = None
) -> Path:
    """`<number>-<slug>/<attempt>.<launch>` below a run's folder, that of an item of a parallel step
    `<number>-<slug>/<item>/<attempt>.<launch>`; steps count from 1, items from 0."""
    place = step_folder(folder, number=number, step=step)
    return (place if item is None else place / str(item)) / f"{attempt}.{launch}"


def step_folder(folder: Path, *, number: int, step: str) -> Path:
    """`<number>-<slug>` below a run's folder."""
    slug = _UNSAFE.sub("-", step).strip("-")[:40] or "step"
    return folder / f"{number}-{slug}"


def workspace_folder(workspaces: Path, run: str, *, root: str = "") -> Path:
    """Of a root run, or of a child run that has one of its own."""
    return workspaces_below(workspaces, root) / run if root else workspaces / run


def workspaces_below(workspaces: Path, root: str) -> Path:
    """Those of the child runs of a root run, which live as long as its own."""
    return workspaces / f"{root}.children"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the steps of a run begin. `make(folder)` puts the files there that belong there, where
    it is not there yet; None: it is somebody else's, and there. `before`: the one of the run that
    this one retries, which is taken over where it still is."""

    folder: Path
    make: Callable[[Path], Awaitable[None]] | None = None
    before: Path | None = None

    async def prepare(self) -> str:
        """Make it, once for all who call; a line for people where that was not what they expect.
        Raises OSError and what `make` raises."""
        if self.make is None or self.folder.exists():
            return ""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        if self.before is not None:
            with suppress(FileNotFoundError):
                self.before.rename(self.folder)
                return ""
        beside = _beside(self.folder)
        if beside.exists():  # of an earlier process that did not get to its end
            await asyncio.to_thread(remove, beside)
        await self.make(beside)
        beside.rename(self.folder)
        if self.before is None:
            return ""
        return "the files of the run before are gone; this one begins with fresh files"


def _beside(folder: Path) -> Path:
    """Where a workspace is made."""
    return folder.with_name(f"{folder.name}.part")


def take_over_children(workspaces: Path, old: str, new: str) -> None:
    """The workspaces of the child runs of `old` become those of `new`. Raises OSError."""
    with suppress(FileNotFoundError):
        workspaces_below(workspaces, old).rename(workspaces_below(workspaces, new))


def write(path: Path, text: str) -> None:
    """Write a file that a step may read, whole. What a step has put in its place, say a pipe or a
    link, is replaced and not written to. Raises OSError."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(beside, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def read(path: Path, *, most: int) -> bytes:
    """A regular file, through links; at most `most` + 1 bytes of it. Does not wait for whoever
    might write into a pipe of that name. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        found = b""
        while part := os.read(descriptor, most + 1 - len(found)):
            found += part
        return found
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Delete a workspace, if it is there: at once, so that nobody takes over what is left of it.
    Raises OSError, say for what belongs to another user."""
    gone = folder.with_name(f"{folder.name}.gone")
    _delete(gone)
    _delete(_beside(folder))
    with suppress(FileNotFoundError):
        folder.rename(gone)
        _delete(gone)


def _delete(folder: Path) -> None:
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
