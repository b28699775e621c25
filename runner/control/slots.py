"""Which slots a workflow's schedules have due, and what is said of those that do not run.

Knows the grace (a slot that is later does not run, unless it is caught up with) and that of
several slots in it the newest runs; reads from the store up to where slots have a row. Leaves when
to look to the ticker, and what a slot does to `firing`. Its rule: a slot that does not run has a
row of its own kind, never the key of its run.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from runner.control import schedule
from runner.control.applied import Applied
from runner.triggers import (
    missed_key,
    missed_prefix,
    prefixes_until,
    slot_of,
    tick_key,
    tick_prefix,
)
from storage.records import NoteTrigger, TriggerRow
from storage.store import Store

MOST_NOTED = 100
"""So many missed slots of a schedule have a row each; one row tells of all that are older."""

MOST_COUNTED = 10_000
"""Of more missed slots the number is not counted: a year of minutes would take the service's time
for a minute."""

MOST_CAUGHT = 1000
"""So many missed slots of a workflow are caught up with, the newest: its queue holds no more."""

START, STOP, RESTART = "start", "stop", "restart"

_TURN_S = 0.004  # computed before other tasks get a turn
_INSTANT = timedelta(microseconds=1)
_ASKED = 200  # keys in one question: the store's readers answer others between


Kinded = tuple[str, str]  # workflow, kind


class Timer(NamedTuple):
    """One cron of one workflow. `zone` is the IANA name in force for it; its slots start runs, stop
    them, or do both, as `kind` says.

    A tuple, as each commit looks thousands of them up in the timetable.
    """

    workflow: str
    cron: str
    zone: str
    live_from: datetime
    kind: str = START

    def following(self, after: datetime) -> datetime:
        """The first slot later than `after`."""
        return schedule.next_fire(self.cron, zone=self.zone, after=after, workflow_id=self.workflow)

    def preceding(self, before: datetime) -> datetime:
        """The last slot earlier than `before`."""
        return schedule.previous_fire(
            self.cron, zone=self.zone, before=before, workflow_id=self.workflow
        )

    def since(self, first: datetime) -> Iterator[datetime]:
        """All slots from the slot `first` on."""
        yield first
        yield from schedule.slots_after(
            self.cron, zone=self.zone, after=first, workflow_id=self.workflow
        )


@dataclass(slots=True)
class Due:
    """What one workflow has due of one kind. `stood` is where each timer was, `fresh` the slots
    that may still fire, `late` the timers with slots that may not: from that slot until before
    `fresh_from`."""

    workflow: str
    fresh_from: datetime
    kind: str = START
    stood: dict[Timer, datetime] = field(default_factory=dict)
    fresh: dict[datetime, Timer] = field(default_factory=dict)
    late: dict[Timer, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Missed:
    """Slots of one schedule that are too old to fire: the `newest` in order, and of those that are
    older their number (there may be `more`) with the first and the last."""

    newest: Sequence[datetime]
    older: int = 0
    first: datetime | None = None
    last: datetime | None = None
    more: bool = False


class Turns:
    """Gives other tasks a turn when cron arithmetic has taken one of its own."""

    def __init__(self) -> None:
        self._begun = 0.0

    async def give(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() - self._begun > _TURN_S:
            await asyncio.sleep(0)
            self._begun = loop.time()


def timers(applied: Applied, *, zone: str) -> list[Timer]:
    """Every schedule of `applied`; `zone` is for those that name none."""
    found: list[Timer] = []
    # Without an iterator more: thousands are made anew for each commit.
    for workflow, live in applied.workflows.items():
        entry, begin = live.entry, live.live_from
        for cron, own in entry.crons:
            found.append(Timer(workflow, cron, own or zone, begin))
        if entry.stops:
            found += [Timer(workflow, cron, own or zone, begin, STOP) for cron, own in entry.stops]
        if entry.restarts:
            crons = entry.restarts
            found += [Timer(workflow, cron, own or zone, begin, RESTART) for cron, own in crons]
    return found


async def take(
    due: Due, timer: Timer, *, first: datetime, explained: datetime, at: datetime, turns: Turns
) -> datetime:
    """Add to `due` the slots of `timer` from its slot `first` up to `at`; the next one.

    Slots before `explained` have their row already, should they be late.
    """
    due.stood[timer] = first
    if first < due.fresh_from:
        begin = first if explained <= first else timer.following(explained - _INSTANT)
        if begin < due.fresh_from:
            due.late[timer] = begin
        first = timer.following(due.fresh_from - _INSTANT)
    if first > at:
        return first
    for slot in timer.since(first):
        if slot > at:
            return slot
        due.fresh[slot] = timer
        await turns.give()
    raise AssertionError("slots have no end")


async def caught_up(
    due: Due, *, since: datetime, every: bool, turns: Turns
) -> dict[datetime, Timer]:
    """The late slots of `due` from `since` on that run all the same: the newest MOST_CAUGHT of
    them if `every`, else the newest, and none if a fresh one runs."""
    caught: dict[datetime, Timer] = {}
    for timer, first in due.late.items():
        begin = first if first >= since else timer.following(since - _INSTANT)
        if begin >= due.fresh_from:
            continue
        if not every:
            caught[timer.preceding(due.fresh_from)] = timer
            continue
        newest: deque[datetime] = deque(maxlen=MOST_CAUGHT)
        for slot in timer.since(begin):
            if slot >= due.fresh_from:
                break
            newest.append(slot)
            await turns.give()
        caught.update(dict.fromkeys(newest, timer))
    if not every and due.fresh:
        return {}
    kept = sorted(caught)[-(MOST_CAUGHT if every else 1) :]
    return {slot: caught[slot] for slot in kept}


async def missed(timer: Timer, first: datetime, *, until: datetime) -> Missed:
    """The slots from the slot `first` until before `until`."""
    newest: deque[datetime] = deque(maxlen=MOST_NOTED)
    count, last, more = 0, None, False
    turns = Turns()
    for slot in timer.since(first):
        if slot >= until:
            break
        if count == MOST_COUNTED + MOST_NOTED:
            newest = await _newest_before(timer, until, turns=turns)
            last, more = timer.preceding(newest[0]), True
            break
        if len(newest) == MOST_NOTED:
            last = newest[0]
        newest.append(slot)
        count += 1
        await turns.give()
    if last is None:
        return Missed(newest)
    return Missed(newest, count - MOST_NOTED, first, last, more)


async def _newest_before(timer: Timer, until: datetime, *, turns: Turns) -> deque[datetime]:
    found: deque[datetime] = deque()
    while len(found) < MOST_NOTED:
        found.appendleft(timer.preceding(found[0] if found else until))
        await turns.give()
    return found


def missed_notes(
    repository: str, timer: Timer, found: Missed, *, at: datetime, cause: Mapping[str, object]
) -> list[NoteTrigger]:
    """Rows, oldest slot first, that say of each slot in `found` that it was missed."""
    notes = []
    if found.last is not None:
        older = {"slots": found.older, "first": found.first, "last": found.last}
        if found.more:
            older["and_more"] = True
        notes.append(note(repository, timer, found.last, "missed", at=at, cause={**older, **cause}))
    return notes + [
        note(repository, timer, slot, "missed", at=at, cause=cause) for slot in found.newest
    ]


def note(
    repository: str,
    timer: Timer,
    slot: datetime,
    verdict: str,
    *,
    at: datetime,
    cause: Mapping[str, object],
) -> NoteTrigger:
    """The row that says why `slot` did not run, unless it has one."""
    told = {"slot": slot, **cause, "schedule": timer.cron, "zone": timer.zone}
    text = json.dumps(told, separators=(",", ":"), ensure_ascii=False, default=str)
    key = missed_key(repository, timer.workflow, slot=slot, kind=timer.kind)
    return NoteTrigger(TriggerRow(key, repository, timer.workflow, at, verdict, None, text))


async def decided(
    store: Store, repository: str, workflow: str, slots: Iterable[datetime], *, kind: str
) -> frozenset[datetime]:
    """Those of `slots` that ran, or were refused when they fired."""
    keys = [tick_key(repository, workflow, kind=kind, slot=slot) for slot in slots]
    found: set[datetime] = set()
    for begin in range(0, len(keys), _ASKED):
        rows = await store.newest_keys(keys[begin : begin + _ASKED])
        found.update(slot_of(key) for key in rows)
    return frozenset(found)


async def explained_until(
    store: Store, repository: str, schedules: Sequence[Kinded], *, at: datetime
) -> dict[Kinded, datetime]:
    """(Workflow, kind) → its newest slot up to `at` that has a row; without an entry: none has."""
    newest: dict[Kinded, datetime] = {}
    step = _ASKED // 2
    for begin in range(0, len(schedules), step):
        asked = {
            prefix: schedule
            for schedule in schedules[begin : begin + step]
            for prefix in _prefixes(repository, *schedule)
        }
        for prefix, key in (await store.newest_keys(asked)).items():
            if slot_of(key) > at:  # of a time when the clock was wrong
                earlier = (await store.newest_keys(prefixes_until(prefix, at))).values()
                if not earlier:
                    continue
                key = max(earlier)
            schedule, slot = asked[prefix], slot_of(key)
            newest[schedule] = max(slot, newest.get(schedule, slot))
    return newest


def _prefixes(repository: str, workflow: str, kind: str) -> tuple[str, str]:
    return (
        tick_prefix(repository, workflow, kind=kind),
        missed_prefix(repository, workflow, kind=kind),
    )
