"""What the store promises, whatever database is behind it.

One protocol, its errors, and nothing else. `sqlite.py` keeps it; one behaviour suite
(`tests/storage/`) checks every implementation of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Protocol

from storage.records import (
    Claim,
    DefinitionRow,
    DeliveryRow,
    EntryRow,
    EventRecord,
    OwedRow,
    RefRow,
    RepositoryRow,
    RunRow,
    TriggerRow,
    Write,
)


class StorageError(Exception):
    """Base of all errors of this package. The message names the thing, the value and the remedy."""


class StoreUnusable(StorageError):
    """The data folder cannot be used (already in use, a newer schema, no permission). Tell a
    person; nothing was changed."""


class Refused(StorageError):
    """A write was refused whole because something it relied on no longer holds."""


class Conflict(Refused):
    """Someone wrote first: read, fold and decide again."""


class Duplicate(Refused):
    """The unique key is taken: what was to be done has been done. `key` names it."""

    def __init__(self, key: str) -> None:
        super().__init__(f"already stored: {key}")
        self.key = key


class Busy(Refused):
    """A RequireRoom or RequireClaims found no room."""


class Store(Protocol):
    """Facts of runs, moves of refs, definitions, triggers and what is owed.

    One event loop uses a store; every method may be called concurrently from its tasks. A write
    is durable when its await returns (`durability: process` excepted). Writes submitted in one
    turn of the loop are committed together, each still all or nothing by itself, in the order of
    submission. Reads see every write whose await has returned.
    """

    async def write(self, *writes: Write) -> None:
        """Do all of `writes` or none; raises Conflict, Duplicate or Busy if none."""

    async def append(
        self,
        run: str,
        *,
        after: int,
        records: Sequence[EventRecord],
        head: RunRow,
        also: Sequence[Write] = (),
    ) -> None:
        """`write(Append(...), *also)`: add facts to a run if its last seq is still `after`."""

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` in the loop soon after each commit that touched `topic`; returns the
        function that ends it. Topics: `run:<id>` (events appended), `runs` (any head changed),
        `ended` (a root run became final), `owed:<kind>` (an Owe or Postpone was written),
        `definitions:<repository>`. Several commits may make one call."""

    async def events(self, run: str, *, after: int = 0) -> list[EventRecord]: ...

    async def run(self, run: str) -> RunRow | None: ...

    async def runs(
        self,
        *,
        repository: str | None = None,
        workflow: str | None = None,
        statuses: Iterable[str] | None = None,
        commit: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
        parent: str = "",
    ) -> list[RunRow]:
        """Root runs, or the children of `parent`: newest first by (queued_at, run); `before` is
        the cursor: the last row's pair."""

    async def queued(self, repository: str, workflow: str, *, limit: int) -> list[RunRow]:
        """Queued root runs of a workflow in the order in which they leave the queue: by priority,
        the highest first, then by age. Those whose `not_before` is to come are among them."""

    async def count_runs(self, repository: str, workflow: str, *, statuses: Iterable[str]) -> int:
        """Of root runs."""

    async def latest_run(self, repository: str, workflow: str) -> RunRow | None:
        """The newest final root run (finished_at set) of a workflow."""

    async def claims(self, run: str) -> tuple[Claim, ...]:
        """By name; none once the run is final."""

    async def claimants(self, name: str, *, statuses: Iterable[str]) -> list[RunRow]:
        """Runs of these statuses that claim `name`, oldest first."""

    async def cancelling(self) -> list[tuple[str, RunRow]]:
        """(name, run) of the claims of queued runs that want older runs stopped, oldest first."""

    async def values(self, run: str) -> dict[tuple[str, str], str]:
        """(scope, name) → value of everything PutValues kept for the run."""

    async def source(self, sha256: str) -> str | None: ...

    async def trigger(self, key: str) -> TriggerRow | None: ...

    async def triggers(
        self, *, repository: str, workflow: str | None = None, limit: int = 50
    ) -> list[TriggerRow]:
        """Newest first."""

    async def newest_keys(self, prefixes: Iterable[str]) -> dict[str, str]:
        """Prefix → the greatest key of a trigger that begins with it, for those that have one."""

    async def commits_in_use(
        self, repository: str, *, but_for: Iterable[str] = ()
    ) -> frozenset[str]:
        """Commits of the repository's root runs that are not final, or final and still owe
        `cleanup`; the final runs `but_for` do not count."""

    async def refs(self, repository: str) -> dict[str, RefRow]:
        """Full ref → its newest row, deleted refs (oid None) included."""

    async def repository(self, name: str) -> RepositoryRow | None: ...

    async def repositories(self) -> list[RepositoryRow]: ...

    async def definitions(self, repository: str, ref: str) -> dict[str, DefinitionRow]:
        """Workflow id → row."""

    async def entries(
        self, loader: int, keys: Iterable[tuple[str, str, str]]
    ) -> dict[tuple[str, str, str], EntryRow]:
        """(blob, base_blob, path) → row, for those that are stored."""

    async def delivery(self, delivery: str) -> DeliveryRow | None: ...

    async def delivery_by_digest(self, repository: str, digest: str) -> DeliveryRow | None: ...

    async def delivery_for(self, repository: str, ref: str, after: str) -> DeliveryRow | None:
        """The newest accepted delivery that announced this ref at this id."""

    async def owed(self, kind: str, *, due: datetime, limit: int = 100) -> list[OwedRow]:
        """Rows of `kind` with not_before <= due, oldest first."""

    async def owed_next(self, kind: str) -> datetime | None:
        """The earliest not_before of `kind`."""

    async def close(self) -> None:
        """Commit what was submitted, then release the data folder."""
