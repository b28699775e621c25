"""What one slot of a schedule does: start a run, stop those that are active, or both.

Knows overlapPolicy, skipIfSuccessful and restartWaitSec; leaves which slots are due to the ticker.
Its rule: the row of the slot's key is written first, in the transaction that names the applied
number, so that whatever the slot does it does at most once and never for an old schedule.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from runner.control import slots
from runner.control.applied import Applied, Definition
from runner.control.entries import Entry
from runner.control.intake import DefinitionUnreadable, Intake, UnfitParams, verdict
from runner.control.slots import Timer
from runner.control.stops import Stops
from runner.engine import journal
from runner.engine.events import Finished, Queued, Settled
from runner.engine.state import RunStatus
from runner.language.model import OverlapPolicy
from runner.triggers import Trigger, TriggerType, slot_of, tick_key, tick_prefix
from storage.records import (
    Append,
    Claim,
    Owe,
    PutClaims,
    PutTrigger,
    RequireApplied,
    RequireRoom,
    RunRow,
    Write,
)
from storage.store import Busy, Conflict, Duplicate, Store

UNFINISHED = ("queued", "running", "waiting")
ACTIVE = ("running", "waiting")
_MOST_LOOKED_AT = 1000
_TRIES = 5  # to take the place of a queued run that admission may start meanwhile
_LOOKED_AT = 50  # newest runs of a workflow among which one that succeeded is looked for

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Slot:
    """A slot that is due now. `late`: older than the grace, and caught up with."""

    applied: Applied
    timer: Timer
    at: datetime  # the slot itself
    now: datetime
    late: bool = False

    @property
    def definition(self) -> Definition:
        found = self.applied.definition(self.timer.workflow)
        if found is None:
            raise RuntimeError(f'schedule of "{self.timer.workflow}", which is not in force')
        return found

    @property
    def entry(self) -> Entry:
        return self.applied.workflows[self.timer.workflow].entry

    @property
    def current(self) -> RequireApplied:
        return RequireApplied(self.applied.repository, self.applied.n)

    @property
    def key(self) -> str:
        timer = self.timer
        return tick_key(self.applied.repository, timer.workflow, kind=timer.kind, slot=self.at)

    def trigger(self) -> Trigger:
        previous = self.timer.preceding(self.at)
        return Trigger(
            TriggerType.SCHEDULE, self.key, self.now, slot=self.at, previous_slot=previous
        )

    def cause(self, **more: object) -> dict[str, object]:
        told = {"caught_up": True} if self.late else {}
        zone = {"schedule": self.timer.cron, "zone": self.timer.zone}
        return {"slot": self.at, **zone, **told, **more}

    def verdict(self, word: str, **more: object) -> PutTrigger:
        return verdict(self.definition, self.trigger(), word, cause=self.cause(**more))


class Firing:
    """`stop(run, by)` asks an active run to stop and returns when that is durable; `owes(row)` is
    what a run owes once it is final."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        *,
        stop: Callable[[str, str], Awaitable[object]],
        owes: Callable[[RunRow], Sequence[Write]],
    ) -> None:
        self._store = store
        self._intake = intake
        self._stops = Stops(store, stop)
        self._owes = owes

    async def take_up(self) -> None:
        """Ask whom a service that died was about to ask to stop."""
        await self._stops.pay()

    async def fire(self, slot: Slot) -> None:
        """Do what the slot is for, or write why not. Raises Conflict if `slot.applied` is not in
        force any more."""
        try:
            match slot.timer.kind:
                case slots.STOP:
                    await self._stop_active(slot)
                case slots.RESTART:
                    await self._restart(slot)
                case _:
                    await self._start(slot)
        except Duplicate:
            _log.debug("slot_known", workflow=slot.timer.workflow, slot=slot.at.isoformat())
        except (UnfitParams, DefinitionUnreadable) as error:
            await self._refuse(slot, "broken", problems=[str(error)])
            _log.error("slot_refused", workflow=slot.timer.workflow, problem=str(error))

    # Starts

    async def _start(self, slot: Slot) -> None:
        entry = slot.entry
        if entry.skip_if_successful and (run := await self._done_already(slot)) is not None:
            await self._refuse(slot, "successful", run=run)
            return
        if entry.overlap is OverlapPolicy.LATEST:
            await self._take_turn(slot)
            return
        room: tuple[Write, ...] = ()
        if entry.overlap is OverlapPolicy.SKIP:
            room = (RequireRoom(slot.applied.repository, entry.workflow, UNFINISHED, 1),)
        try:
            await self._queue(slot, *room)
        except Busy:
            await self._refuse(slot, "overlap")

    async def _queue(
        self,
        slot: Slot,
        *also: Write,
        claim: Claim | None = None,
        owed: Owe | None = None,
        **more: object,
    ) -> None:
        """Queue the slot's run, which claims `claim` too, and do what `also` says with it. `owed`
        is written also where there is no room for the run."""
        not_before = None
        if slot.timer.kind == slots.RESTART and slot.entry.restart_wait_s:
            not_before = slot.now + timedelta(seconds=slot.entry.restart_wait_s)
        run, writes = await self._intake.start(
            slot.definition, slot.trigger(), cause=slot.cause(**more), not_before=not_before
        )
        if run is None:  # the queue is full, and stays as it is
            also = ()
        elif claim is not None:
            writes = (*writes, PutClaims(run, (*_claimed(writes), claim)))
        await self._store.write(slot.current, *also, *writes, *filter(None, (owed,)))
        event = "slot_fired" if run is not None else "slot_skipped"
        _log.info(event, workflow=slot.timer.workflow, slot=slot.at.isoformat(), run=run)
        self._intake.queued(slot.applied.repository, slot.timer.workflow)

    async def _done_already(self, slot: Slot) -> str | None:
        """A run that succeeded and was started since the slot before, but not by a slot: what that
        slot's own run did was for that slot."""
        since = slot.timer.preceding(slot.at)
        rows = await self._store.runs(
            repository=slot.applied.repository,
            workflow=slot.timer.workflow,
            statuses=[RunStatus.SUCCEEDED],
            limit=_LOOKED_AT,
        )
        for row in rows:
            if row.started_at is not None and row.started_at >= since:
                trigger = await self._trigger_of(row)
                if trigger is not None and not trigger.key.startswith("tick:"):
                    return row.run
        return None

    async def _take_turn(self, slot: Slot) -> None:
        """Queue a run in the place of what an older slot has queued."""
        for _ in range(_TRIES):
            waiting = await self._queued_slots(slot)
            newer = [of for of in waiting.values() if of > slot.at]  # the clock went back
            if newer:
                await self._refuse(slot, "superseded", by=max(newer))
                return
            ends = [write for row in waiting for write in self._replace(row, slot)]
            more: dict[str, Any] = {"replaces": [row.run for row in waiting]} if waiting else {}
            try:
                await self._queue(slot, *ends, **more)
            except Conflict:
                known = await self._store.repository(slot.applied.repository)
                if known is None or known.applied != slot.applied.n:
                    raise
            else:
                return
        raise RuntimeError(f'the queue of "{slot.timer.workflow}" changed {_TRIES} times')

    async def _queued_slots(self, slot: Slot) -> dict[RunRow, datetime]:
        """Queued runs that a start slot made → that slot."""
        repository, workflow = slot.applied.repository, slot.timer.workflow
        made = tick_prefix(repository, workflow, kind=slots.START)
        found: dict[RunRow, datetime] = {}
        for row in await self._store.queued(repository, workflow, limit=_MOST_LOOKED_AT):
            if row.trigger_type == TriggerType.SCHEDULE:
                trigger = await self._trigger_of(row)
                if trigger is not None and trigger.key.startswith(made):
                    found[row] = slot_of(trigger.key)
        return found

    def _replace(self, row: RunRow, slot: Slot) -> tuple[Write, ...]:
        """What ends a queued run; Conflict when it is no longer queued."""
        reason = f"a newer slot of the schedule took its place: {slot.at:%Y-%m-%d %H:%M} UTC"
        facts = (
            Settled(slot.now, RunStatus.CANCELLED, reason),
            Finished(slot.now, RunStatus.CANCELLED, reason),
        )
        final = row._replace(
            status=RunStatus.CANCELLED,
            reason=reason,
            finished_at=slot.now,
            seq=row.seq + len(facts),
        )
        records = journal.records(row.run, row.seq, facts)
        return (Append(row.run, row.seq, records, final), *self._owes(final))

    async def _trigger_of(self, row: RunRow) -> Trigger | None:
        records = await self._store.events(row.run)
        first = journal.event(records[0]) if records else None
        return first.trigger if isinstance(first, Queued) else None

    async def _refuse(self, slot: Slot, word: str, **more: object) -> None:
        with contextlib.suppress(Duplicate):
            await self._store.write(slot.current, slot.verdict(word, **more))
        _log.info("slot_skipped", workflow=slot.timer.workflow, slot=slot.at.isoformat(), why=word)

    # Stops

    async def _stop_active(self, slot: Slot) -> None:
        runs = await self._active(slot)
        owed = self._stops.owe(slot.key)
        await self._store.write(slot.current, slot.verdict("stop", runs=runs), owed)
        await self._stops.pay()

    async def _restart(self, slot: Slot) -> None:
        """The new run waits for those that it stops by a claim that all of them hold."""
        runs = await self._active(slot)
        claim = Claim(slot.key, 1)
        known = [await self._store.claims(run) for run in runs]
        held = [
            PutClaims(run, tuple(dict.fromkeys((*claims, claim))))
            for run, claims in zip(runs, known, strict=True)
        ]
        owed = self._stops.owe(slot.key)
        await self._queue(slot, *held, owed=owed, claim=claim if runs else None, stops=runs)
        await self._stops.pay()

    async def _active(self, slot: Slot) -> list[str]:
        rows = await self._store.runs(
            repository=slot.applied.repository,
            workflow=slot.timer.workflow,
            statuses=ACTIVE,
            limit=_MOST_LOOKED_AT,
        )
        return [row.run for row in rows]


def _claimed(writes: Sequence[Write]) -> tuple[Claim, ...]:
    return next((write.claims for write in writes if isinstance(write, PutClaims)), ())
