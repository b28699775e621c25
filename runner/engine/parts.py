"""What a supervisor is given: plain parts that all runs of this process share.

Holds references and the count of process slots; decides nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from runner.engine.events import Event
from runner.engine.secret_values import NO_ACCESS, SecretAccess
from runner.engine.state import RunState
from runner.executors.base import Executor
from runner.executors.unavailable import Unavailable
from runner.language.model import Step
from runner.language.subworkflows import Index
from runner.veil import NO_VEIL, Veil
from storage.mask import Mask
from storage.records import RunRow, Write
from storage.store import Store

# (repository, commit, folder): put the commit's files into the folder, which does not exist yet
Checkout = Callable[[str, str, Path], Awaitable[None]]
# called with a run's state and its new events when they are durable
Observer = Callable[[RunState, Sequence[Event]], None]


class Found(NamedTuple):
    """The file of a workflow at a commit: its text, path and blob ("" outside git), and the text of
    base.yaml beside it, "" where there is none."""

    source: str
    path: str
    blob: str = ""
    base: str = ""


class Library(Protocol):
    """The workflows that runs may call. Both raise StorageError where they cannot look."""

    async def index(self, repository: str, commit: str) -> Index: ...

    async def read(self, repository: str, commit: str, id: str) -> Found | None:
        """`id` is one of the index; None if its file is gone or cannot be read as text."""


class Slots:
    """How many processes may run at once, over all runs. Callers that find none free are told
    when some are, in the order in which they asked. `idle` is set while none is taken."""

    def __init__(self, limit: int) -> None:
        self._limit = self._free = limit
        self._closed = False
        self._waiting: dict[Callable[[], None], None] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def room(self) -> int:
        """How many more processes may be started now."""
        return 0 if self._closed else self._free

    def take(self) -> None:
        self._free -= 1
        self.idle.clear()

    def give(self, count: int = 1) -> None:
        self._free += count
        if self._free == self._limit:
            self.idle.set()
        self._tell()

    def close(self) -> None:
        """Nothing more is started; what runs goes on."""
        self._closed = True

    def open(self) -> None:
        self._closed = False
        self._tell()

    def _tell(self) -> None:
        for callback in list(self._waiting)[: max(0, self.room)]:
            del self._waiting[callback]
            callback()

    def tell_when_free(self, callback: Callable[[], None]) -> None:
        """Call back once when a slot is given back; asking again before that changes nothing."""
        self._waiting.setdefault(callback, None)

    def forget(self, callback: Callable[[], None]) -> None:
        self._waiting.pop(callback, None)


@dataclass(frozen=True, slots=True)
class Parts:
    """`inherited` is what steps get of this process's environment, `zone` the zone of DATE where
    a workflow names none, `mask` hides the service's own credentials."""

    store: Store
    executors: Mapping[str, Executor]
    clock: Callable[[], datetime]
    boot_id: str
    slots: Slots
    inherited: Mapping[str, str]
    mask: Mask
    zone: str
    url: str  # where people see runs, "" if nowhere
    owes: Callable[[RunRow], Sequence[Write]]
    checkout: Checkout | None = None  # None: the workspace is there already
    add_git: Checkout | None = None  # makes a checkout a repository
    observe: Observer | None = None
    library: Library | None = None  # None: only local documents can be called
    secrets: SecretAccess = NO_ACCESS
    veil: Veil = NO_VEIL  # hides the declared secrets of the runs that a child run is below

    @property
    def executor(self) -> Executor:
        """The one of local processes."""
        return self.executors["command"]

    def executor_of(self, step: Step) -> Executor:
        """Who carries the step out."""
        if step.run is not None:
            return self.executors["run"]
        if step.executor is None or step.executor.type == "shell":
            return self.executor
        known = self.executors.get(step.executor.type)
        return known or Unavailable(step.executor.type, clock=self.clock)
