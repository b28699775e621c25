"""What an executor is: it carries one attempt of one step out.

Everything about why and when is decided before; an executor knows its task, tells how it ended,
and passes signals on. `Executor` states the contract.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from runner.veil import NO_VEIL, Veil


@dataclass(frozen=True, slots=True)
class Call:
    """What a `run` step calls: `workflow` as the step names it, expanded, and its params, (name or
    None, value) in order. `from_data`: their names come from data (a map item's keys), so the
    workflow must declare or mention them. `item` is ITEM's text, None where the step has none.
    `veil` hides the caller's secrets in what is stored of these texts."""

    workflow: str
    params: tuple[tuple[str | None, str], ...] = ()
    from_data: bool = False
    item: str | None = None
    veil: Veil = NO_VEIL


@dataclass(frozen=True, slots=True)
class Task:
    """One attempt, ready to begin. `folder` is the launch's own, new and empty; the executor
    writes the log to `out` (and to `err`, where `separate_streams`) below it. `item` is the number
    (from 0) of a parallel step's item; `call` is there where a sub-workflow is run. `stdout` and
    `stderr` are files that the step wants copies of what it printed in."""

    run: str
    step: str
    attempt: int
    launch: str
    folder: Path
    cwd: Path
    env: dict[str, str]
    argv: tuple[str, ...]
    script: str | None = None
    separate_streams: bool = False
    item: int | None = None
    call: Call | None = None
    stdout: Path | None = None
    stderr: Path | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: a code, a signal's number, or (both None) an error in words.

    `lost`: it may have done anything and is over, `error` says why nobody can know more.
    `refused`: the machine had no room for it just now; it did nothing and may be launched again.
    `skipped`: it was a child run that was skipped, `error` says why. `result` stands for stdout
    where that is not in the log (the JSON of a child run); `secrets` are texts in it to be masked.
    """

    at: datetime
    exit_code: int | None = None
    signal: int | None = None
    error: str = ""
    lost: bool = False
    refused: bool = False
    skipped: bool = False
    result: str | None = None
    secrets: tuple[str, ...] = ()


_PASSING = frozenset(
    (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,  # a file system in trouble is mounted anew once it is mended
        errno.EMFILE,
        errno.ENFILE,
        errno.EAGAIN,  # no process more
        errno.ENOMEM,
    )
)


def is_passing(error: Exception) -> bool:
    """Whether what the machine refused may succeed later: a full disk, too many files open."""
    return isinstance(error, OSError) and error.errno in _PASSING


@dataclass(frozen=True, slots=True)
class Void:
    """A launch that never began and, from now on, never will."""


@dataclass(frozen=True, slots=True)
class Earlier:
    """A launch of an earlier process: where its files are, and whether the machine has been up
    since. `killed`: a KILL was about to be sent to it. `step`, `attempt` and `item` as in Task."""

    run: str
    folder: Path
    same_boot: bool
    killed: bool = False
    step: str = ""
    attempt: int = 0
    item: int | None = None


class Execution(Protocol):
    """An attempt that is under way."""

    def send(self, signal: int) -> None:
        """Pass a signal on to all that the attempt started; nothing if it is over."""

    def leave(self) -> None:
        """Watch it no longer: `done` will not be called, what runs goes on."""


class Executor(Protocol):
    """Begins attempts. One object serves all runs; calls come from the event loop only."""

    def start(self, task: Task, done: Callable[[Outcome], None]) -> Execution:
        """Begin the attempt and return at once.

        Called once per launch, after its Launched event is durable. `done` is called exactly
        once, from the event loop, never during this call. What keeps it from beginning (no such
        program, folder gone) is an Outcome with `error`, not an exception.
        """

    async def resume(
        self, earlier: Earlier, done: Callable[[Outcome], None]
    ) -> Execution | Outcome | Void:
        """Take up a launch whose end was never recorded; takes at most some seconds.

        An Execution: it is still under way, and `done` will be called as by `start`. An Outcome:
        it is over. Void: it may be launched again.
        """

    def recall(self, earlier: Earlier) -> None:
        """Find what a launch that ended under an earlier process may have left running, for
        `end_left_behind`."""

    def has_left_behind(self, run: str) -> bool:
        """Whether `end_left_behind` has something to do."""

    async def end_left_behind(self, run: str, *, grace_s: float) -> None:
        """End what the run's attempts left running: TERM, and after `grace_s` KILL. Called once,
        when the run is over; a second call does nothing."""
