"""The floor under every step: spawning it from Python and waiting, with nothing around it.

`wrapped` runs the same wrapped step with its launch folder and log file as Dagmill does; `bare`
runs `sh -c true` and is printed beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from runner.executors.command import wrapped as wrapped_argv

ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}
STEP = ("sh", "-e", "-c", "true", "sh")


def bare(count: int, *, wide: int) -> None:
    """`count` times `sh -c true`, `wide` at once."""
    _loop(count, wide=wide, start=lambda _: os.posix_spawn("/bin/sh", ["sh", "-c", "true"], ENV))


def wrapped(count: int, folder: Path, *, wide: int) -> None:
    """`count` wrapped steps, `wide` at once, each with a folder and a log of its own."""

    def start(i: int) -> int:
        place = folder / str(i)
        place.mkdir(parents=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(place / "out"), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        return os.posix_spawn(
            "/bin/sh", wrapped_argv(place, STEP), ENV, file_actions=actions, setsid=False
        )

    _loop(count, wide=wide, start=start)


def _loop(count: int, *, wide: int, start) -> None:  # type: ignore[no-untyped-def]
    alive: set[int] = set()
    for i in range(count):
        alive.add(start(i))
        if len(alive) >= wide:
            alive.discard(os.wait()[0])
    while alive:
        alive.discard(os.wait()[0])
