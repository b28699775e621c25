"""Processes that outlive the main process of their group: who they are, and how they are ended.

Reads /proc. Its rule: a group's number may be another group's by now, so nobody is signalled who
cannot be recognised.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class LeftBehind:
    """The processes that outlived the main process of their group.

    A group's id may be used anew once the group is empty, so it is signalled only while one of
    the processes seen then (same pid, same start time) is still in it.
    """

    def __init__(self, group: int, members: dict[int, str]) -> None:
        self._group = group
        self._members = members

    def _alive(self) -> bool:
        now = group_members(self._group)
        return any(now.get(pid) == started for pid, started in self._members.items())

    def send(self, number: int) -> bool:
        """Signal the group; False if nobody is left."""
        if not self._alive():
            return False
        with suppress(ProcessLookupError):
            os.killpg(self._group, number)
        return True

    async def end(self, *, grace_s: float) -> None:
        """TERM, and KILL for those who are still there after `grace_s`."""
        if not self.send(signal.SIGTERM):
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await self.gone()
        if self.send(signal.SIGKILL):
            await self.gone()

    async def gone(self) -> None:
        """Wait until the processes seen are over."""
        for pid in self._members:
            with suppress(ProcessLookupError):
                pidfd = os.pidfd_open(pid)
                try:
                    if group_members(self._group).get(pid) == self._members[pid]:
                        await _readable(pidfd)
                finally:
                    os.close(pidfd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(fd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(fd)


def group_members(group: int) -> dict[int, str]:
    """pid → start time (clock ticks, as text) of the live processes of a process group.

    Reads /proc; only for the rare group that outlives its main process.
    """
    members = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            # the name in parentheses may hold blanks and parentheses itself
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                members[int(entry.name)] = fields[19]
    return members


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def kill(group: int, *, of: Path) -> None:
    """End at once what is left of the group of a launch, whose folder is `of`."""
    if group_exists(group) and belong_to(group_members(group), of):
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def belong_to(members: Iterable[int], folder: Path) -> bool:
    """Whether one of the processes was started by the launch of this folder. One that cleared its
    environment is not recognised."""
    mark = mark_of(folder)
    return any(_has(pid, mark) for pid in members)


def mark_of(folder: Path) -> bytes:
    """What all that a launch starts has in its environment: its log is named there."""
    return os.fsencode(folder) + b"/"


def marked(mark: bytes) -> list[int]:
    """The other processes with `mark` in their environment. Reads all of /proc."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if pid != os.getpid() and _has(pid, mark)]


def kill_marked(mark: bytes) -> None:
    """End at once all processes with `mark` in their environment."""
    for pid in marked(mark):
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if _has(pid, mark):  # the pid is still its own
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)


def _has(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def start_time(pid: int) -> str | None:
    """When a process started (clock ticks since boot, as text); None if there is none."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
