"""Reaps the zombies of processes whose parents died, where this process is their last parent.

As process 1 of a container every orphan becomes our child, and nobody else waits for it. Its
rule: a child that somebody here waits for (a step, a git program) is left to that one, so only
who was a zombie of ours in two looks, some seconds apart, is reaped.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

LOOK_AGAIN_S = 5.0  # whoever waits for a child of its own has done so by then


async def reap_forever(*, look_again_s: float = LOOK_AGAIN_S) -> None:
    """Reap orphans until cancelled. Wakes when a child ends, else sleeps."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_signal_handler(signal.SIGCHLD, ended.set)
    try:
        suspects: frozenset[tuple[int, str]] = frozenset()
        while True:
            if not suspects:
                await ended.wait()
            ended.clear()
            await asyncio.sleep(look_again_s)
            found = zombies(os.getpid())
            _reap(found & suspects)
            suspects = found - suspects
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)


def _reap(children: frozenset[tuple[int, str]]) -> None:
    for pid, _ in children:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def zombies(parent: int) -> frozenset[tuple[int, str]]:
    """(pid, start time) of the children of `parent` that have ended and are not waited for."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, IndexError):
            # the name in parentheses may hold blanks and parentheses itself
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and int(fields[1]) == parent:
                found.add((int(entry.name), fields[19]))
    return frozenset(found)
