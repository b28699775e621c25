"""When each schedule of one repository is due next.

A heap of next slots; what is due is taken off it and can be put back. Leaves what becomes of a
slot to the ticker. Its rule: the plan of a schedule moves only forward, but for a clock that went
back, which plans everything again and remembers up to where slots have their rows.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import MappingProxyType

from runner.control import slots
from runner.control.slots import Due, Kinded, Timer, Turns


class Timetable:
    """Empty until its first `replace`. Its caller lets nothing here run twice at once."""

    def __init__(self) -> None:
        self._next: dict[Timer, datetime] = {}
        self._heap: list[tuple[datetime, int, Timer]] = []  # may have entries that are out of date
        self._order = itertools.count()
        self._turns = Turns()
        self._explained: dict[
            Timer, datetime
        ] = {}  # earlier slots had a row when the clock went back

    @property
    def next(self) -> Mapping[Timer, datetime]:
        """The first slot of each timer that is not settled."""
        return MappingProxyType(self._next)

    @property
    def first(self) -> datetime | None:
        """The earliest of all slots that are not settled."""
        return self._heap[0][0] if self._heap else None

    async def replace(self, timers: Iterable[Timer], *, since: Mapping[Kinded, datetime]) -> None:
        """Have `timers` and no others. A known one keeps its next slot; a new one begins after its
        `live_from`, or after what `since` has for its workflow and kind if that is later."""
        following: dict[Timer, datetime] = {}
        new: list[Timer] = []
        for timer in timers:
            known = self._next.get(timer)
            if known is None:
                settled = since.get((timer.workflow, timer.kind), timer.live_from)
                known = timer.following(max(timer.live_from, settled))
                new.append(timer)
                await self._turns.give()
            following[timer] = known
        if len(following) != len(self._next) + len(new):
            self._put(following)  # some are gone
            return
        self._next = following
        for timer in new:
            self._plan(timer, following[timer])

    async def plan_again(self, timers: Mapping[Timer, Timer], *, after: datetime) -> None:
        """The clock went back: each known timer is now that of `timers`, due after `after`."""
        following: dict[Timer, datetime] = {}
        explained: dict[Timer, datetime] = {}
        for old, timer in timers.items():
            if timer == old:  # else what came before its false begin is still to be explained
                known = self._next[old]
                explained[timer] = max(known, self._explained.get(old, known))
            following[timer] = timer.following(max(timer.live_from, after))
            await self._turns.give()
        self._explained = explained
        self._put(following)

    def _put(self, following: dict[Timer, datetime]) -> None:
        self._next = following
        self._explained = {t: at for t, at in self._explained.items() if t in following}
        self._heap = [(at, next(self._order), timer) for timer, at in following.items()]
        heapq.heapify(self._heap)

    async def take_due(self, at: datetime, *, fresh_from: datetime) -> list[Due]:
        """What is due up to `at`, one for each workflow and kind. Their timers go on after `at`."""
        dues: dict[Kinded, Due] = {}
        while self._heap and self._heap[0][0] <= at:
            planned, _, timer = heapq.heappop(self._heap)
            if planned != self._next[timer]:
                continue  # put back, and planned again since
            kinded = timer.workflow, timer.kind
            due = dues.setdefault(kinded, Due(timer.workflow, fresh_from, timer.kind))
            self._plan(timer, await self._take(due, timer, at=at))
            await self._turns.give()
        return list(dues.values())

    def put_back(self, due: Due) -> None:
        for timer, first in due.stood.items():
            self._plan(timer, first)

    async def due_of(self, timer: Timer, at: datetime, *, fresh_from: datetime) -> Due:
        """What `timer` alone has due up to `at`; it stays where it is."""
        due = Due(timer.workflow, fresh_from, timer.kind)
        if self._next[timer] <= at:
            await self._take(due, timer, at=at)
        return due

    async def _take(self, due: Due, timer: Timer, *, at: datetime) -> datetime:
        first = self._next[timer]
        explained = self._explained.get(timer, first)
        return await slots.take(
            due, timer, first=first, explained=explained, at=at, turns=self._turns
        )

    def _plan(self, timer: Timer, at: datetime) -> None:
        self._next[timer] = at
        heapq.heappush(self._heap, (at, next(self._order), timer))
