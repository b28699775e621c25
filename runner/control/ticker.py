"""Fires the cron slots of one repository's workflows.

Keeps the next time of each schedule in a heap and sleeps until the first; a slot's transaction
names the applied number that it was computed from, so that an old schedule cannot fire after a
new one took effect. Leaves cron arithmetic to `schedule`. Its rule: the slot is the key, so
nothing fires twice, whatever restarts or clock jumps happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from runner.control import schedule
from runner.control.applied import Applied, Definition
from runner.control.intake import DefinitionUnreadable, Intake, UnfitParams, verdict
from runner.triggers import Trigger, TriggerType, tick_key
from storage.records import PutTrigger, RequireApplied, RequireRoom
from storage.store import Busy, Conflict, Duplicate, Store

UNFINISHED = ("queued", "running", "waiting")
_LONGEST_SLEEP_S = 60.0  # so that a jump of the clock is noticed
_SLICE = 50  # schedules computed before other tasks get a turn: about 5 ms

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timer:
    """One cron of one workflow. `zone` is the IANA name written in the file, None: the setting."""

    workflow: str
    cron: str
    zone: str | None
    live_from: datetime


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """One live schedule as people see it."""

    repository: str
    workflow: str
    name: str
    schedule: str
    zone: str
    next_at: datetime | None


class Ticker:
    """One per repository."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        *,
        clock: Callable[[], datetime],
        zone: str,
        grace_s: float,
    ) -> None:
        self._store = store
        self._intake = intake
        self._clock = clock
        self._zone = zone
        self._grace = timedelta(seconds=grace_s)
        self._applied = Applied("", "")
        self._next: dict[Timer, datetime] = {}
        self._heap: list[tuple[datetime, int, Timer]] = []
        self._changed = asyncio.Event()
        self._firing = asyncio.Lock()
        self._order = itertools.count()

    async def replace(self, applied: Applied) -> None:
        """Take `applied` as what is in force. Next times of unchanged schedules are kept."""
        async with self._firing:
            earliest = self._clock() - self._grace
            following: dict[Timer, datetime] = {}
            for number, timer in enumerate(_timers(applied), start=1):
                known = self._next.get(timer)
                following[timer] = known or self._following(timer, max(timer.live_from, earliest))
                if number % _SLICE == 0:
                    await asyncio.sleep(0)
            self._applied = applied
            self._next = following
            self._heap = [(at, next(self._order), timer) for timer, at in following.items()]
            heapq.heapify(self._heap)
        self._changed.set()

    def lines(self) -> list[ScheduleLine]:
        """Every live schedule, by workflow."""
        applied = self._applied
        return [
            ScheduleLine(
                applied.repository,
                timer.workflow,
                applied.workflows[timer.workflow].entry.name,
                timer.cron,
                timer.zone or self._zone,
                at,
            )
            for timer, at in sorted(self._next.items(), key=lambda item: item[0].workflow)
        ]

    def next_times(self) -> Mapping[str, datetime]:
        """Workflow → the earliest next slot of its schedules."""
        times: dict[str, datetime] = {}
        for timer, at in self._next.items():
            times[timer.workflow] = min(at, times.get(timer.workflow, at))
        return times

    async def run_forever(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self.fire_due(self._clock())
            except Exception:  # noqa: BLE001 (the loop's edge)
                _log.exception("ticker_failed", repository=self._applied.repository)
                await asyncio.sleep(5)
            await self._sleep()

    async def fire_due(self, at: datetime) -> None:
        """Fire every slot up to `at` that may still fire, of each workflow the newest."""
        async with self._firing:
            due = self._due(at)
            failed = [
                error
                for error in await asyncio.gather(
                    *(self._fire(timer, slot, at=at) for slot, timer in due.values()),
                    return_exceptions=True,
                )
                if error is not None
            ]
        if failed:
            raise failed[0]

    def _due(self, at: datetime) -> dict[str, tuple[datetime, Timer]]:
        """Take what is due off the heap: of each workflow the newest slot."""
        due: dict[str, tuple[datetime, Timer]] = {}
        while self._heap and self._heap[0][0] <= at:
            planned, _, timer = heapq.heappop(self._heap)
            if planned != self._next[timer]:
                continue  # put back, and planned again since
            slot, following = self._newest_slot(timer, at)
            self._plan(timer, following)
            best = due.get(timer.workflow)
            if slot is not None and (best is None or slot > best[0]):
                due[timer.workflow] = (slot, timer)
        return due

    def _plan(self, timer: Timer, at: datetime) -> None:
        self._next[timer] = at
        heapq.heappush(self._heap, (at, next(self._order), timer))

    def _newest_slot(self, timer: Timer, at: datetime) -> tuple[datetime | None, datetime]:
        """(the newest slot in (at - grace, at], if any; the first slot after `at`)."""
        slot = None
        following = self._next[timer]
        if following < at - self._grace:
            _log.warning("slots_missed", workflow=timer.workflow, first=following.isoformat())
            following = self._following(timer, at - self._grace)
        while following <= at:
            slot = following
            following = self._following(timer, slot)
        return slot, following

    def _following(self, timer: Timer, after: datetime) -> datetime:
        return schedule.next_fire(
            timer.cron,
            zone=timer.zone or self._zone,
            after=after,
            workflow_id=timer.workflow,
        )

    async def _fire(self, timer: Timer, slot: datetime, *, at: datetime) -> None:
        applied = self._applied
        definition = applied.definition(timer.workflow)
        if definition is None:
            return
        trigger = self._trigger(timer, slot, at=at, repository=applied.repository)
        require = RequireApplied(applied.repository, applied.n)
        cause = {"slot": slot, "schedule": timer.cron, "zone": timer.zone or self._zone}
        try:
            run, writes = await self._intake.start(definition, trigger, cause=cause)
            await self._store.write(require, self._room(definition), *writes)
        except Busy:
            await self._refuse(verdict(definition, trigger, "overlap", cause=cause), require)
            _log.info("slot_skipped", workflow=timer.workflow, slot=slot.isoformat())
        except Duplicate:
            _log.debug("slot_known", workflow=timer.workflow, slot=slot.isoformat())
        except Conflict:
            # Another catalog took effect; `replace` comes, and finds the slot still to be fired.
            self._next[timer] = slot
        except (UnfitParams, DefinitionUnreadable) as error:
            await self._refuse(verdict(definition, trigger, "broken", cause=cause), require)
            _log.error("slot_refused", workflow=timer.workflow, problem=str(error))
        except Exception:
            self._plan(timer, slot)
            raise
        else:
            _log.info("slot_fired", workflow=timer.workflow, slot=slot.isoformat(), run=run)
            self._intake.queued(applied.repository, timer.workflow)

    async def _refuse(self, row: PutTrigger, require: RequireApplied) -> None:
        with contextlib.suppress(Duplicate, Conflict):
            await self._store.write(require, row)

    @staticmethod
    def _room(definition: Definition) -> RequireRoom:
        return RequireRoom(definition.repository, definition.workflow, UNFINISHED, 1)

    def _trigger(self, timer: Timer, slot: datetime, *, at: datetime, repository: str) -> Trigger:
        zone = timer.zone or self._zone
        return Trigger(
            TriggerType.SCHEDULE,
            tick_key(repository, timer.workflow, kind="start", slot=slot),
            at,
            slot=slot,
            previous_slot=schedule.previous_fire(
                timer.cron, zone=zone, before=slot, workflow_id=timer.workflow
            ),
        )

    async def _sleep(self) -> None:
        wait = _LONGEST_SLEEP_S
        if self._heap:
            wait = min(wait, (self._heap[0][0] - self._clock()).total_seconds())
        if wait <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._changed.wait()


def _timers(applied: Applied) -> list[Timer]:
    return [
        Timer(workflow, cron, zone, live.live_from)
        for workflow, live in applied.workflows.items()
        for cron, zone in live.entry.crons
    ]
