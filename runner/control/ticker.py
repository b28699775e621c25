"""Fires the cron slots of one repository's workflows.

Sleeps until the first slot of its timetable, and says of each that is due whether it fires. Leaves
which slots there are to `slots` and what they do to `firing`. Its rule: the slot is the key, so
nothing fires twice, whatever restarts or clock jumps happen; and what is due stays due until a row
says what became of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import structlog

from runner.control import applied as in_force
from runner.control import slots
from runner.control.applied import Applied
from runner.control.firing import Firing, Slot
from runner.control.slots import Due, Kinded, Timer
from runner.control.timetable import Timetable
from runner.language.model import OverlapPolicy
from storage.records import NoteTrigger, PutDefinition, RequireApplied
from storage.store import Conflict, StorageError, Store

LEAST_GRACE_S = 10.0  # a slot is always some milliseconds late
FIRST_LOOK_S = 30.0
_LONGEST_SLEEP_S = 60.0  # so that a jump of the clock is noticed
_RETRY_S = 5.0
_TOGETHER = 50  # workflows that fire in one turn of the loop, and in one commit
_SWAP_S = 1.0  # a look that raised the applied number hands the new definitions over within it
_BACK = timedelta(seconds=1)  # less is the clock being trimmed

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ScheduleLine:
    """One live schedule as people see it."""

    repository: str
    workflow: str
    name: str
    schedule: str
    zone: str
    next_at: datetime | None
    kind: str = slots.START


class Ticker:
    """One per repository."""

    def __init__(
        self,
        store: Store,
        firing: Firing,
        *,
        clock: Callable[[], datetime],
        zone: str,
        grace_s: float,
    ) -> None:
        self._store = store
        self._act = firing
        self._clock = clock
        self._zone = zone
        self._grace = timedelta(seconds=max(grace_s, LEAST_GRACE_S))
        self._applied = Applied("", "")
        self._table = Timetable()
        self._changed = asyncio.Event()
        self._firing = asyncio.Lock()
        self._restored = False
        self._released = asyncio.Event()
        self._released.set()
        self._held_at: datetime | None = None
        self._seen = datetime.min.replace(tzinfo=UTC)  # the clock at the last wake
        # Slots up to here may have fired before this process, or the clock's going back, began.
        self._doubtful = self._seen
        self._born: dict[tuple[str, datetime], datetime] = {}  # (workflow, false live_from) → true
        self._overtaken = False  # by a swap whose `replace` has yet to come
        self._trouble: dict[str, str] = {}  # workflow → what kept its slots from being settled

    # What is in force

    async def replace(self, applied: Applied) -> None:
        """Take `applied` as what is in force. Next times of unchanged schedules are kept."""
        async with self._firing:
            now = await self._look_at_clock()
            applied = await self._amend(applied, now)
            since = {} if self._restored else await self._settled_until(applied, now)
            await self._table.replace(self._timers(applied), since=since)
            self._applied = applied
            self._restored = True
        self._changed.set()

    def _timers(self, applied: Applied) -> list[Timer]:
        return slots.timers(applied, zone=self._zone)

    async def _settled_until(self, applied: Applied, now: datetime) -> dict[Kinded, datetime]:
        """After a restart: workflow and kind → up to where its slots need no row, without those
        that can still fire, which are looked at one by one. No entry: from its begin on."""
        fresh_from = now - self._grace
        old = dict.fromkeys(
            (timer.workflow, timer.kind)
            for timer in self._timers(applied)
            if timer.live_from < fresh_from
        )
        self._doubtful = now
        until = await slots.explained_until(self._store, applied.repository, list(old), at=now)
        return {schedule: min(at, fresh_from) for schedule, at in until.items()}

    def hold(self) -> None:
        """Let what is due wait for `release`, for FIRST_LOOK_S at most: a service that was away
        looks at the repository before it fires what came due meanwhile."""
        self._released.clear()
        self._held_at = self._clock()

    def release(self) -> None:
        """The first look has ended, with or without success."""
        self._released.set()

    async def hand_over(self, after: Applied, *, at: datetime) -> tuple[NoteTrigger, ...]:
        """Settle what is due up to `at` before `after` takes effect; what it returns must be
        written with the swap.

        What is due fires under the old definitions. Not so while it is held: what came due while
        the service was away, of schedules that `after` has no more, is noted as removed.
        """
        if self._released.is_set():
            await self.fire_due(at)
            return ()
        async with self._firing:
            now = await self._look_at_clock()
            kept = set(self._timers(self._amended(after, now)))
            notes: list[NoteTrigger] = []
            for timer in self._table.next.keys() - kept:
                notes += await self._removed(timer, min(at, now))
            return tuple(notes)

    async def _removed(self, timer: Timer, at: datetime) -> list[NoteTrigger]:
        due = await self._table.due_of(timer, at, fresh_from=self._fresh_from(at))
        notes = await self._late(due, until=due.fresh_from, at=at)
        left = due.fresh.keys() - await self._decided(timer, due.fresh)
        return [*notes, *(self._note(timer, slot, "removed", at=at) for slot in sorted(left))]

    def lines(self) -> list[ScheduleLine]:
        """Every live schedule, by workflow."""
        applied = self._applied
        return [
            ScheduleLine(
                applied.repository,
                timer.workflow,
                applied.workflows[timer.workflow].entry.name,
                timer.cron,
                timer.zone,
                at,
                timer.kind,
            )
            for timer, at in sorted(self._table.next.items(), key=lambda item: item[0].workflow)
        ]

    def next_times(self) -> Mapping[str, datetime]:
        """Workflow → the earliest next slot that starts a run of it."""
        times: dict[str, datetime] = {}
        for timer, at in self._table.next.items():
            if timer.kind == slots.STOP:
                continue
            times[timer.workflow] = min(at, times.get(timer.workflow, at))
        return times

    # The clock

    async def _look_at_clock(self) -> datetime:
        """Now. If the clock went back, what it skipped or was wrong about is planned again."""
        now = self._clock()
        back, self._seen = self._seen - now, now
        if back > _BACK:
            _log.warning(
                "clock_went_back", repository=self._applied.repository, by_s=back.total_seconds()
            )
            await self._plan_again(now)
        return now

    async def _plan_again(self, now: datetime) -> None:
        """Slots that fired in the wrong future have done so; all others are still to come."""
        before = self._timers(self._applied)
        self._applied = await self._amend(self._applied, now)
        self._doubtful = now
        same = dict(zip(before, self._timers(self._applied), strict=True))
        await self._table.plan_again(same, after=now - self._grace)

    async def _amend(self, applied: Applied, now: datetime) -> Applied:
        """`applied` without schedules that begin in the future, kept for the next start too."""
        amended = self._amended(applied, now)
        rows = [
            PutDefinition(in_force.to_row(amended, workflow, amended.workflows[workflow]))
            for workflow, live in applied.workflows.items()
            if live.live_from > now
        ]
        if rows:
            try:
                await self._store.write(RequireApplied(applied.repository, applied.n), *rows)
            except StorageError as error:  # it holds for as long as this process lives
                _log.warning("schedule_begin_not_kept", problem=str(error))
        return amended

    def _amended(self, applied: Applied, now: datetime) -> Applied:
        """A schedule that came while the clock was ahead counts from when that was noticed."""
        moved = {
            workflow: dataclasses.replace(live, live_from=begin)
            for workflow, live in applied.workflows.items()
            if (begin := self._begin(workflow, live.live_from, now)) is not live.live_from
        }
        if not moved:
            return applied
        return dataclasses.replace(
            applied, workflows=MappingProxyType({**applied.workflows, **moved})
        )

    def _begin(self, workflow: str, live_from: datetime, now: datetime) -> datetime:
        while self._born and (known := self._born.get((workflow, live_from))):
            live_from = known
        if live_from <= now:
            return live_from
        self._born[workflow, live_from] = now
        return now

    async def run_forever(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._released.wait()
        self.release()
        while True:
            self._changed.clear()
            try:
                await self.fire_due(self._clock())
            except StorageError as error:  # what is due stays due
                _log.warning("ticks_wait", repository=self._applied.repository, problem=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception:  # noqa: BLE001 (the loop's edge)
                _log.exception("ticker_failed", repository=self._applied.repository)
                await asyncio.sleep(_RETRY_S)
            await self._sleep()

    async def _sleep(self) -> None:
        wait = _LONGEST_SLEEP_S
        if self._table.first is not None:
            wait = min(wait, (self._table.first - self._clock()).total_seconds())
        if self._overtaken:
            wait = max(wait, _SWAP_S)
        if wait <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._changed.wait()

    # What is due

    async def fire_due(self, at: datetime) -> None:
        """Fire every slot up to `at` that may still fire, of each workflow the newest; the others
        get a row that says why not. Raises what kept a workflow's slots from it; they stay due."""
        async with self._firing:
            await self._act.take_up()
            at = min(at, await self._look_at_clock())
            self._overtaken = False
            dues = await self._table.take_due(at, fresh_from=self._fresh_from(at))
            failed = await self._settle_all(dues, at=at)
            if not failed:
                self._held_at = None
        if failed:
            raise failed[0]

    def _fresh_from(self, at: datetime) -> datetime:
        """The earliest slot that may still fire. Time for which it was held does not count."""
        held_s = 0.0 if self._held_at is None else (at - self._held_at).total_seconds()
        return at - self._grace - timedelta(seconds=min(max(held_s, 0), FIRST_LOOK_S))

    async def _settle_all(self, dues: Sequence[Due], *, at: datetime) -> list[BaseException]:
        """What failed. Those with much to explain come last and one by one, so that they delay
        nobody else."""
        of: dict[str, list[Due]] = {}
        for due in dues:
            of.setdefault(due.workflow, []).append(due)
        prompt = [own for own in of.values() if not any(due.late for due in own)]
        groups = [prompt[n : n + _TOGETHER] for n in range(0, len(prompt), _TOGETHER)]
        groups += [[own] for own in of.values() if any(due.late for due in own)]
        failed: list[BaseException] = []
        for group in groups:
            for errors in await asyncio.gather(*(self._settle_one(own, at=at) for own in group)):
                failed += errors
        return failed

    async def _settle_one(self, dues: list[Due], *, at: datetime) -> list[BaseException]:
        """All that one workflow has due, in the order of the slots; at the same instant it is
        stopped before it is started."""
        failed: list[BaseException] = []
        for due in sorted(dues, key=_order):
            try:
                await self._settle(due, at=at)
            except Exception as error:  # noqa: BLE001 (its slots stay due, and who called says it)
                failed.append(error)
        return failed

    async def _settle(self, due: Due, *, at: datetime) -> None:
        """Fire the slots that may, after the rows of the others: if the service dies between, its
        next start sees that these have none."""
        try:
            caught, every = await self._caught_up(due, at=at)
            notes = await self._late(due, until=min(caught, default=due.fresh_from), at=at)
            candidates = {**caught, **due.fresh}
            newest = max(candidates, default=None)
            firing = sorted(candidates) if every else [newest] if newest is not None else []
            doubtful = len(candidates) > 1 or (newest is not None and newest <= self._doubtful)
            known: frozenset[datetime] = frozenset()
            if doubtful and newest is not None:
                known = await self._decided(candidates[newest], candidates)
            notes += [
                self._note(candidates[slot], slot, "superseded", at=at, by=newest)
                for slot in sorted(candidates.keys() - known - set(firing))
            ]
            if notes:
                await self._store.write(self._current(), *notes)
            for slot in firing:
                if slot not in known:
                    late = slot in caught
                    await self._act.fire(Slot(self._applied, candidates[slot], slot, at, late=late))
        except Conflict:
            # Another catalog took effect; `replace` comes, and finds the slot still to be fired.
            self._table.put_back(due)
            self._overtaken = True
        except Exception as error:
            self._table.put_back(due)
            self._trouble[due.workflow] = str(error)
            raise
        else:
            self._trouble.pop(due.workflow, None)

    async def _caught_up(self, due: Due, *, at: datetime) -> tuple[dict[datetime, Timer], bool]:
        """The late slots that fire, and whether not only the newest of all slots does."""
        live = self._applied.workflows.get(due.workflow)
        if live is None or not live.entry.catchup_s or due.kind != slots.START:
            return {}, False
        every = live.entry.overlap is OverlapPolicy.ALL
        since = at - timedelta(seconds=live.entry.catchup_s)
        return await slots.caught_up(due, since=since, every=every, turns=slots.Turns()), every

    async def _late(self, due: Due, *, until: datetime, at: datetime) -> list[NoteTrigger]:
        """Rows for the slots of `due` that are too old, which are those before `until`."""
        notes: list[NoteTrigger] = []
        trouble = self._trouble.get(due.workflow)
        for timer, first in due.late.items():
            if first >= until:
                continue
            found = await slots.missed(timer, first, until=until)
            _log.warning("slots_missed", workflow=timer.workflow, first=first.isoformat())
            known = await self._decided(timer, found.newest)
            found = dataclasses.replace(
                found, newest=[slot for slot in found.newest if slot not in known]
            )
            cause = {} if trouble is None else {"problems": [trouble]}
            notes += slots.missed_notes(self._applied.repository, timer, found, at=at, cause=cause)
        return notes

    async def _decided(self, timer: Timer, candidates: Iterable[datetime]) -> frozenset[datetime]:
        return await slots.decided(
            self._store, self._applied.repository, timer.workflow, candidates, kind=timer.kind
        )

    def _note(
        self, timer: Timer, slot: datetime, word: str, *, at: datetime, **cause: datetime | None
    ) -> NoteTrigger:
        return slots.note(self._applied.repository, timer, slot, word, at=at, cause=cause)

    def _current(self) -> RequireApplied:
        return RequireApplied(self._applied.repository, self._applied.n)


def _order(due: Due) -> tuple[datetime, int]:
    kinds = (slots.STOP, slots.RESTART, slots.START)
    return max(due.fresh, default=due.fresh_from), kinds.index(due.kind)
