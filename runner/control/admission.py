"""Lets queued runs start, in the order of their priority and age, as long as there is room.

Decides when a run leaves the queue and hands it to the engine; leaves how it unfolds to the
engine. Its rules: room and claims are judged again inside the transaction that starts the run, so
two admissions can never both take the last place; and no run overtakes one that waits for a limit
which both need. Woken by the store, and by the clock only for runs that are not due yet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

import structlog

from runner.control.claims import queue_claim, queue_of, shown
from runner.control.intake import MOST_QUEUED
from runner.engine import journal
from runner.engine.events import StopRequested
from runner.engine.history import History, HistoryError
from runner.engine.journal import ACTIVE
from runner.engine.state import RunStatus
from storage.records import Claim, PutClaims, RunRow, Write
from storage.store import Busy, Conflict, StorageError, Store

_PAGE = 200
_FEW = 20  # of a queue that are read at first
_LOW_DISK_RETRY_S = 60.0
_RETRY_S = 1.0
_KEPT_LIMITS = 10_000
_LONGEST_SLEEP_S = 60.0  # so that a jump of the clock is noticed

_log = structlog.get_logger(__name__)

Queue = tuple[str, str]  # repository, workflow


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a queued run needs to start: its definition's maxActiveRuns (0: no limit), its claims
    on groups and on its queue."""

    runs: int
    groups: tuple[Claim, ...]
    queue: tuple[Claim, ...]
    selector: tuple[tuple[str, str], ...] = ()  # labels that its worker must have

    @property
    def claims(self) -> tuple[Claim, ...]:
        return (*self.groups, *self.queue)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A queued run that its own workflow has room for."""

    row: RunRow
    limits: _Limits


class Admission:
    """One for the service. `supervise(run)` takes up an admitted run, `owes(row)` is what a final
    one owes; `free_bytes()` is what is left on the data folder's disk, below `min_free_bytes`
    nothing starts. `stop(run, by)` asks a run to stop, and does nothing to one that is over.
    `queues`: how many runs of a named queue may be active at once; of any other one. `labels` are
    this worker's, which a run's `workerSelector` is compared with."""

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
        stop: Callable[[str, str], Awaitable[object]],
        queues: Mapping[str, int],
        labels: Mapping[str, str] = MappingProxyType({}),
        owes: Callable[[RunRow], Sequence[Write]] = lambda _: (),
    ) -> None:
        self._store = store
        self._supervise = supervise
        self._clock = clock
        self._runner = runner
        self._host = host
        self._free_bytes = free_bytes
        self._min_free_bytes = min_free_bytes
        self._stop = stop
        self._named_queues = queues
        self._labels = labels
        self._why: dict[str, str] = {}  # run → what it waits for
        self._owes = owes
        self._queues: dict[Queue, None] = {}  # those that may have queued runs, in order of arrival
        self._limits: dict[str, _Limits] = {}  # of runs that wait
        self._due: list[datetime] = []  # of runs that must not start before
        self._timer: asyncio.TimerHandle | None = None
        self._asked: set[str] = set()  # runs that were asked to stop
        self._low_disk = False
        self._said = ""  # what keeps it from admitting
        self._closed = False
        self._wake = asyncio.Event()

    async def restore(self) -> int:
        """Take up what an earlier process left queued, running or waiting; the number of those
        that had begun."""
        resumed = 0
        for status in ACTIVE:
            async for row in self._pages(status):
                resumed += 1
                _log.info("run_resumed", run=row.run, workflow=row.workflow, commit=row.commit)
                self._supervise(row.run)
        async for row in self._pages(RunStatus.QUEUED):
            self._queues[row.repository, row.workflow] = None
        self._wake.set()
        return resumed

    def queued(self, repository: str, workflow: str) -> None:
        """A run of the workflow was queued."""
        self._queues[repository, workflow] = None
        self._wake.set()

    def why(self, run: str) -> str:
        """What a queued run waits for, as far as that is known; else ""."""
        if self._low_disk:
            return "the disk of the data folder is nearly full; nothing starts"
        return self._why.get(run, "")

    def close(self) -> None:
        """Start nothing more; what is queued stays queued."""
        self._closed = True

    async def run_forever(self) -> None:
        forget = self._store.listen("ended", self._wake.set)
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
            if self._timer is not None:
                self._timer.cancel()

    async def _admit_all(self) -> None:
        if self._closed or not self._queues:
            return
        if self._disk_is_low():
            asyncio.get_running_loop().call_later(_LOW_DISK_RETRY_S, self._wake.set)
            return
        await self._cancel_older()
        self._due = []
        queues = list(self._queues)
        lines = await asyncio.gather(*map(self._line, queues), return_exceptions=True)
        candidates = [c for line in lines if not isinstance(line, BaseException) for c in line]
        chosen = await self._choose(sorted(candidates, key=_order))
        # Together, so that the store commits them together, and in their order.
        started = await asyncio.gather(*map(self._admit, chosen), return_exceptions=True)
        self._set_timer()
        for result in (*lines, *started):
            if isinstance(result, BaseException):
                raise result

    async def _line(self, queue: Queue) -> list[_Candidate]:
        """The queued runs that their own workflow has room for."""
        del self._queues[queue]  # before reading: who queues meanwhile puts it back
        try:
            active = await self._store.count_runs(*queue, statuses=ACTIVE)
            for most in (_FEW, MOST_QUEUED):
                rows = await self._store.queued(*queue, limit=most)
                found, all_seen = await self._with_room(rows, active=active)
                if len(rows) < most or not all_seen:
                    break
        except BaseException:
            self._queues[queue] = None
            raise
        if rows:
            self._queues[queue] = None
        return found

    async def _with_room(
        self, rows: Sequence[RunRow], *, active: int
    ) -> tuple[list[_Candidate], bool]:
        """Those of `rows` that there is room for, and whether it took looking at all of them."""
        found: list[_Candidate] = []
        for n, row in enumerate(rows):
            if row.not_before is not None and row.not_before > self._clock():
                self._due.append(row.not_before)
                self._why[row.run] = f"not before {row.not_before:%Y-%m-%d %H:%M:%S} UTC"
                continue
            try:
                limits = await self._limits_of(row)
            except HistoryError as error:
                await self._give_up(row, str(error))
                continue
            if not self._fits_here(row, limits.selector):
                continue
            if limits.runs and active + len(found) >= limits.runs:
                why = f"at most {_count(limits.runs, 'run')} of the workflow at once"
                self._why |= dict.fromkeys((late.run for late in rows[n:]), why)
                return found, False
            found.append(_Candidate(row, limits))
        return found, True

    def _fits_here(self, row: RunRow, selector: Sequence[tuple[str, str]]) -> bool:
        """Whether this worker has the labels that the run wants; no other one is there yet."""
        missing = [f"{k}={v}" for k, v in selector if self._labels.get(k) != v]
        if not missing:
            return True
        why = f"no worker has the label{'s' * (len(missing) > 1)} {', '.join(missing)}"
        if self._why.get(row.run) != why:
            _log.warning("run_waits_for_worker", run=row.run, workflow=row.workflow, why=why)
        self._why[row.run] = why
        return False

    async def _choose(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Those whose claims nobody holds, nor any that comes before them and waits."""
        names = {claim.name for c in candidates for claim in c.limits.claims if claim.max}
        holders = await asyncio.gather(
            *(self._store.claimants(name, statuses=ACTIVE) for name in names)
        )
        held = Counter({name: len(rows) for name, rows in zip(names, holders, strict=True)})
        chosen = []
        for c in candidates:
            full = _full(c.limits.groups, held=held) or _full(c.limits.queue, held=held)
            if full is None:
                chosen.append(c)
            else:
                self._why[c.row.run] = f"at most {_count(full.max, 'run')} of {shown(full)} at once"
        return chosen

    async def _admit(self, candidate: _Candidate) -> None:
        if self._closed:
            return
        row, limits = candidate.row, candidate.limits
        writes = journal.started_writes(
            row,
            at=self._clock(),
            runner=self._runner,
            host=self._host,
            room=limits.runs,
            claims=bool(limits.claims),
        )
        try:
            await self._store.write(*writes)
        except Busy:
            return  # the end of one of the others wakes us
        except Conflict:
            return  # stopped while it was queued
        _log.info(
            "run_admitted",
            run=row.run,
            workflow=row.workflow,
            commit=row.commit,
            trigger=row.trigger_type,
        )
        self._limits.pop(row.run, None)
        self._why.pop(row.run, None)
        self._supervise(row.run)

    async def _give_up(self, row: RunRow, problem: str) -> None:
        """Fail a run whose kept definition cannot be read: left alone it would block its queue."""
        _log.error("run_not_admitted", run=row.run, workflow=row.workflow, problem=problem)
        at = self._clock()
        owed = self._owes(row._replace(status=RunStatus.FAILED, finished_at=at))
        with contextlib.suppress(Conflict):
            await self._store.write(*journal.given_up_writes(row, at=at, reason=problem), *owed)

    async def _limits_of(self, row: RunRow) -> _Limits:
        if row.run not in self._limits:
            if len(self._limits) >= _KEPT_LIMITS:
                self._limits.clear()
                self._why.clear()
            history, kept = await asyncio.gather(
                History.read(self._store, row.run), self._store.claims(row.run)
            )
            claims = tuple(self._as_set(claim) for claim in kept)
            if claims != kept:
                await self._store.write(PutClaims(row.run, claims))
            self._limits[row.run] = _Limits(
                history.workflow.max_active_runs,
                groups=tuple(c for c in claims if queue_of(c) is None),
                queue=tuple(c for c in claims if queue_of(c) is not None),
                selector=history.workflow.worker_selector,
            )
        return self._limits[row.run]

    def _as_set(self, claim: Claim) -> Claim:
        """A named queue has the size that the settings say now, not when the run was queued."""
        queue = queue_of(claim)
        return claim if queue is None else queue_claim(queue, self._named_queues)

    async def _cancel_older(self) -> None:
        """Ask the runs to stop, once each, that a queued and due run of their group replaces."""
        now = self._clock()
        newest = {
            name: row
            for name, row in await self._store.cancelling()
            if row.not_before is None or row.not_before <= now
        }
        replaced: set[str] = set()
        for name, row in newest.items():
            for older in await self._store.claimants(name, statuses=(*ACTIVE, RunStatus.QUEUED)):
                if (older.queued_at, older.run) < (row.queued_at, row.run):
                    replaced.add(older.run)
                    await self._cancel(older, by=row, group=name)
        self._asked &= replaced

    async def _cancel(self, older: RunRow, *, by: RunRow, group: str) -> None:
        if older.run in self._asked:
            return
        # An earlier process may have asked: a second time would kill.
        records = await self._store.events(older.run)
        if not any(record.type == StopRequested.__name__ for record in records):
            _log.info("run_replaced", run=older.run, by=by.run, group=group)
            try:
                await self._stop(older.run, f"run {by.run}, newer in its concurrency group")
            except StorageError:
                raise
            except Exception:  # noqa: BLE001 (the loop's edge: it must not keep all from starting)
                _log.exception("run_not_replaced", run=older.run, by=by.run)
                return
        self._asked.add(older.run)

    def _set_timer(self) -> None:
        """Wake when the first run is due that must not start before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            wait_s = (min(self._due) - self._clock()).total_seconds()
            self._timer = asyncio.get_running_loop().call_later(
                min(max(wait_s, 0.0), _LONGEST_SLEEP_S), self._wake.set
            )

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


def _order(candidate: _Candidate) -> tuple[int, datetime, str]:
    row = candidate.row
    return -row.priority, row.queued_at, row.run


def _full(claims: Sequence[Claim], *, held: Counter[str]) -> Claim | None:
    """The first of `claims` that there is no room for. Room is taken either way: who waits here is
    not overtaken by those behind it."""
    full = next((c for c in claims if c.max and held[c.name] >= c.max), None)
    held.update(claim.name for claim in claims)
    return full


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
