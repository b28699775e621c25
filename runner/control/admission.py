"""Lets queued runs start: the oldest of each workflow first, as long as there is room.

Decides when a run leaves the queue and hands it to the engine; leaves how it unfolds to the
engine. Its rule: the room is judged again inside the transaction that starts the run, so two
admissions can never both take the last place. Woken by the store, never by a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime

import structlog

from runner.engine import journal
from runner.engine.history import History, HistoryError
from runner.engine.state import RunStatus
from storage.records import RunRow, Write
from storage.store import Busy, Conflict, StorageError, Store

_PAGE = 200
_LOW_DISK_RETRY_S = 60.0
_RETRY_S = 1.0

_log = structlog.get_logger(__name__)

Queue = tuple[str, str]  # repository, workflow


class Admission:
    """One for the service. `supervise(run)` takes up an admitted run, `owes(row)` is what a final
    one owes; `free_bytes()` is what is left on the data folder's disk, below `min_free_bytes`
    nothing starts."""

    def __init__(
        self,
        store: Store,
        *,
        supervise: Callable[[str], object],
        clock: Callable[[], datetime],
        runner: str,
        host: str,
        free_bytes: Callable[[], int],
        min_free_bytes: int,
        owes: Callable[[RunRow], Sequence[Write]] = lambda _: (),
    ) -> None:
        self._store = store
        self._supervise = supervise
        self._clock = clock
        self._runner = runner
        self._host = host
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes
        self._owes = owes
        self._queues: dict[Queue, None] = {}  # those that may have queued runs, in order of arrival
        self._limits: dict[str, int] = {}  # of runs that wait: maxActiveRuns of their definitions
        self._low_disk = False
        self._said = ""  # what keeps it from admitting
        self._closed = False
        self._wake = asyncio.Event()

    async def restore(self) -> int:
        """Take up what an earlier process left queued or running; the number of the latter."""
        resumed = 0
        async for row in self._pages("running"):
            resumed += 1
            _log.info("run_resumed", run=row.run, workflow=row.workflow, commit=row.commit)
            self._supervise(row.run)
        async for row in self._pages("queued"):
            self._queues[row.repository, row.workflow] = None
        self._wake.set()
        return resumed

    def queued(self, repository: str, workflow: str) -> None:
        """A run of the workflow was queued."""
        self._queues[repository, workflow] = None
        self._wake.set()

    def close(self) -> None:
        """Start nothing more; what is queued stays queued."""
        self._closed = True

    async def run_forever(self) -> None:
        forget = self._store.listen("runs", self._wake.set)
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                try:
                    await self._admit_all()
                except StorageError as error:
                    if str(error) != self._said:
                        _log.warning("admission_waits", problem=str(error), retry_s=_RETRY_S)
                    self._said = str(error)
                    await asyncio.sleep(_RETRY_S)
                    self._wake.set()
                except Exception:  # noqa: BLE001 (the loop's edge)
                    _log.exception("admission_failed")
                    await asyncio.sleep(_RETRY_S)
                    self._wake.set()
                else:
                    self._said = ""
        finally:
            forget()

    async def _admit_all(self) -> None:
        if self._closed or not self._queues:
            return
        if self._disk_is_low():
            asyncio.get_running_loop().call_later(_LOW_DISK_RETRY_S, self._wake.set)
            return
        # Together, so that the store commits them together.
        queues = list(self._queues)
        results = await asyncio.gather(
            *(self._admit_queue(queue) for queue in queues), return_exceptions=True
        )
        failed = {q: r for q, r in zip(queues, results, strict=True) if r is not None}
        self._queues.update(dict.fromkeys(failed))  # looked at again, whatever became of them
        for error in failed.values():
            raise error

    async def _admit_queue(self, queue: Queue) -> None:
        """Admit from one queue until it is empty or there is no room."""
        while not self._closed:
            del self._queues[queue]  # before reading: who queues meanwhile puts it back
            rows = await self._store.queued(*queue, limit=1)
            if not rows:
                return
            self._queues[queue] = None
            if not await self._admit(rows[0]):
                return

    async def _admit(self, row: RunRow) -> bool:
        """Whether it is worth looking at the same queue again at once."""
        try:
            limit = await self._limit(row)
        except HistoryError as error:
            await self._give_up(row, str(error))
            return True
        running = await self._store.count_runs(row.repository, row.workflow, statuses=["running"])
        if limit and running >= limit:
            return False
        writes = journal.started_writes(
            row,
            at=self._clock(),
            runner=self._runner,
            host=self._host,
            room=limit,
        )
        try:
            await self._store.write(*writes)
        except Busy:
            return False  # the end of one of its runs wakes us
        except Conflict:
            return True  # stopped while it was queued
        _log.info(
            "run_admitted",
            run=row.run,
            workflow=row.workflow,
            commit=row.commit,
            trigger=row.trigger_type,
        )
        del self._limits[row.run]
        self._supervise(row.run)
        return True

    async def _give_up(self, row: RunRow, problem: str) -> None:
        """Fail a run whose kept definition cannot be read: left alone it would block its queue."""
        _log.error("run_not_admitted", run=row.run, workflow=row.workflow, problem=problem)
        at = self._clock()
        owed = self._owes(row._replace(status=RunStatus.FAILED, finished_at=at))
        with contextlib.suppress(Conflict):
            await self._store.write(*journal.given_up_writes(row, at=at, reason=problem), *owed)

    async def _limit(self, row: RunRow) -> int:
        """How many runs of its workflow may be active when this one starts; 0: no limit."""
        if row.run not in self._limits:
            history = await History.read(self._store, row.run)
            self._limits[row.run] = history.workflow.max_active_runs
        return self._limits[row.run]

    def _disk_is_low(self) -> bool:
        free = self._free_bytes()
        low = free < self._min_free_bytes
        if low and not self._low_disk:
            _log.error(
                "disk_low", free_bytes=free, min_free_bytes=self._min_free_bytes, starts="nothing"
            )
        self._low_disk = low
        return low

    async def _pages(self, status: str) -> AsyncIterator[RunRow]:
        before = None
        while page := await self._store.runs(statuses=[status], before=before, limit=_PAGE):
            for row in page:
                yield row
            before = (page[-1].queued_at, page[-1].run)
