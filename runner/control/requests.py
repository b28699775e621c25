"""What people and programs ask of a run that exists: to stop, to be done again, to go on.

Finds the run that is meant, of a tree of runs as well, and writes what was asked for; leaves what
follows from it to the run's supervisor, and starting a retry to admission. One rule: a request
that is answered with yes is a fact of the run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple, Protocol

from runner.control.claiming import Claiming
from runner.control.intake import MOST_QUEUED
from runner.engine import journal
from runner.engine.carry import Again, carry, made_by, step_named
from runner.engine.events import ApprovalRefused, Approved, Event, Finished, Settled, StopRequested
from runner.engine.history import History, HistoryError
from runner.engine.journal import ACTIVE, PARAMS, RUN_SCOPE, Lineage, Origin
from runner.engine.scope import read_params
from runner.engine.state import RunStatus, StepState
from runner.language.faults import LanguageError
from runner.triggers import manual_key, retry_key
from storage.git_errors import GitError
from storage.records import Append, PutTrigger, PutValues, RunRow, TriggerRow, Write
from storage.store import Conflict, Duplicate, Store

MOST_CHILDREN = 100_000
_SHOWN = 5


class RequestRefused(Exception):
    """It cannot be done; the message is for the caller."""


class UnknownRun(RequestRefused):
    """There is no such run."""


class NotNow(RequestRefused):
    """The run is not in a state in which that could be done."""


class Record(Protocol):
    """Record an event of a run that has begun; durable when it returns. False: it has no meaning
    for the run any more."""

    async def __call__(self, run: str, event: Event) -> bool: ...


class _Waiting(NamedTuple):
    """A step that waits for a person."""

    run: str
    step: StepState

    @property
    def shown(self) -> str:
        return f'"{self.step.step.name}" of run {self.run}'


class Requests:
    """One for the service. `record` is the engine's; `queued(repository, workflow)` is called
    after a retry was stored; `pin(commit)` keeps its objects; `owes(row)` is what a final run
    owes."""

    def __init__(
        self,
        store: Store,
        *,
        record: Record,
        clock: Callable[[], datetime],
        claiming: Claiming,
        queued: Callable[[str, str], None],
        pin: Callable[[str], Awaitable[None]],
        owes: Callable[[RunRow], Sequence[Write]] = lambda _: (),
    ) -> None:
        self._store = store
        self._record = record
        self._clock = clock
        self._claiming = claiming
        self._queued = queued
        self._pin = pin
        self._owes = owes

    # Stop

    async def stop(self, run: str, *, by: str) -> RunRow:
        """Stop it; a second time kills. Raises RequestRefused."""
        while True:
            row = await self._row(run)
            if row.finished_at is not None:
                raise NotNow(f"run {run} is over ({row.status})")
            if row.status == RunStatus.QUEUED:
                if await self._cancel_queued(row, by):
                    return await self._row(run)
            elif await self._record(run, StopRequested(self._clock(), by)):
                return await self._row(run)

    async def _cancel_queued(self, row: RunRow, by: str) -> bool:
        """False: it left the queue meanwhile."""
        at, reason = self._clock(), f"stopped by {by}"
        facts = (
            StopRequested(at, by),
            Settled(at, RunStatus.CANCELLED, reason),
            Finished(at, RunStatus.CANCELLED, reason),
        )
        new = row._replace(
            status=RunStatus.CANCELLED, reason=reason, finished_at=at, seq=row.seq + len(facts)
        )
        append = Append(row.run, row.seq, journal.records(row.run, row.seq, facts), new)
        try:
            await self._store.write(append, *self._owes(new))
        except Conflict:
            return False
        return True

    # Approve

    async def approve(
        self, run: str, *, step: str | None, agreed: bool, by: str, comment: str
    ) -> RunRow:
        """Let a step go on, or refuse it; `step` (name or id) None: the only one that waits, in
        the run or in those below it. Raises RequestRefused."""
        row = await self._row(run)
        if row.finished_at is not None:
            raise NotNow(f"run {run} is over ({row.status})")
        waiting = [found async for found in self._waiting(row)]
        meant = [w for w in waiting if step in (None, w.step.step.name, w.step.step.id)]
        if not meant:
            raise NotNow(_nobody_waits(run, step, waiting))
        if len(meant) > 1:
            shown = ", ".join(w.shown for w in meant[:_SHOWN])
            raise NotNow(f"several steps wait for approval: {shown}; name the run and the step")
        (one,) = meant
        name, at = one.step.step.name, self._clock()
        event: Event = Approved(at, name, by, comment)
        if not agreed:
            event = ApprovalRefused(at, name, by, f"refused by {by}", comment)
        if not await self._record(one.run, event):
            raise NotNow(f"step {one.shown} waits no longer")
        return await self._row(run)

    async def _waiting(self, row: RunRow) -> AsyncIterator[_Waiting]:
        """Steps that wait for a person in a run and in those below it."""
        if row.status not in ACTIVE:
            return
        state = (await History.read(self._store, row.run)).state()
        for i in state.waiting:
            yield _Waiting(row.run, state.steps[i])
        for child in await self._store.runs(parent=row.run, statuses=ACTIVE, limit=MOST_CHILDREN):
            async for found in self._waiting(child):
                yield found

    # Retry

    async def retry(
        self,
        run: str,
        *,
        from_step: str | None,
        all_steps: bool,
        actor: str,
        request: str | None,
    ) -> RunRow:
        """Queue a new run that does the run again in part, or its root so that it does. A second
        call with the same `request` answers the first one's run. Raises RequestRefused."""
        key = manual_key(f"retry:{run}:{request}") if request else ""
        if key and (first := await self._started_by(key)) is not None:
            return first
        row = await self._row(run)
        old, again = await self._what(row, from_step, all_steps)
        await self._require_room(old)
        ordinal = await self._ordinal(old)
        own = retry_key(old.run, ordinal)
        new, writes = await self._writes(old, again, actor=actor, key=own)
        cause = f'{{"retry_of":"{old.run}"}}'
        rows = [
            TriggerRow(k, old.queued.repository, old.workflow.id, self._clock(), "run", new, cause)
            for k in (own, key)
            if k
        ]
        try:
            await self._store.write(*(PutTrigger(one) for one in rows), *writes)
        except Duplicate:
            if key and (first := await self._started_by(key)) is not None:
                return first
            raise NotNow(f"run {old.run} is being retried by somebody else") from None
        self._queued(old.queued.repository, old.workflow.id)
        return await self._row(new)

    async def _what(
        self, row: RunRow, from_step: str | None, all_steps: bool
    ) -> tuple[History, Again]:
        """The root run that is retried, and what of it and of the runs below it."""
        asked = row
        history = await self._history(row)
        try:
            step = None if from_step is None else step_named(history.workflow, from_step)
        except LanguageError as error:
            raise NotNow(str(error)) from error
        again = Again(row.run, step, all_steps)
        while row.parent:
            above = await self._row(row.parent)
            whose = await self._history(above)
            again = Again(
                above.run, children={_made(whose, row, history.queued.parent_step): again}
            )
            row, history = above, whose
        if row.finished_at is None:
            raise NotNow(f"run {row.run} is not over ({row.status}); stop it, or wait")
        if not row.repository:
            raise NotNow(f"run {row.run} was not started by this service")
        nothing_failed = asked.status in (RunStatus.SUCCEEDED, RunStatus.SKIPPED)
        if nothing_failed and from_step is None and not all_steps:
            raise NotNow(
                f"run {asked.run} {_ended(asked)}, so there is nothing to do again; "
                "say what: --from STEP, or --all"
            )
        return history, again

    async def _require_room(self, old: History) -> None:
        queued, waiting = old.queued, (RunStatus.QUEUED,)
        count = await self._store.count_runs(queued.repository, queued.workflow, statuses=waiting)
        if count >= MOST_QUEUED:
            raise NotNow(
                f'workflow "{queued.workflow}" has {MOST_QUEUED} queued runs; '
                "try again when some ended"
            )

    async def _ordinal(self, old: History) -> int:
        ordinal = 1
        while await self._store.trigger(key := retry_key(old.run, ordinal)) is not None:
            known = await self._started_by(key)  # None: its history is over
            if known is not None and known.finished_at is None:
                raise NotNow(f"run {old.run} is being retried already, by run {known.run}")
            ordinal += 1
        return ordinal

    async def _writes(
        self, old: History, again: Again, *, actor: str, key: str
    ) -> tuple[str, tuple[Write, ...]]:
        """The new run's id, and what makes it."""
        queued, at = old.queued, self._clock()
        try:
            await self._pin(queued.commit)
        except GitError as error:
            raise NotNow(
                f"commit {queued.commit[:10]} of run {old.run} is gone: {error}"
            ) from error
        source = await self._store.source(queued.definition_sha256) or ""
        base = await self._store.source(queued.base_sha256) if queued.base_sha256 else ""
        taken = carry(old.state(), old.values, again, at=at)
        run = journal.new_run_id(at)
        bound = read_params(old.values[RUN_SCOPE, PARAMS])
        origin = Origin(queued.repository, queued.ref, queued.commit, queued.blob)
        trigger = replace(queued.trigger, key=key, actor=actor)
        made = journal.queued_writes(
            run,
            at=at,
            workflow=old.workflow,
            source=source,
            base=base or "",
            origin=origin,
            trigger=trigger,
            params=bound,
            lineage=Lineage(retry_of=old.run, attempt=queued.attempt + 1),
            carried=taken.events,
        )
        claims = await self._claiming.writes(
            run, old.workflow, bound=bound, origin=origin, trigger=trigger
        )
        return run, (*made, PutValues(run, taken.values), *claims)

    async def _history(self, row: RunRow) -> History:
        try:
            history = await History.read(self._store, row.run)
        except HistoryError as error:
            raise NotNow(f"run {row.run} cannot be done again: {error}") from error
        if (RUN_SCOPE, PARAMS) not in history.values:
            raise NotNow(f"run {row.run} cannot be done again: its params are not kept any more")
        return history

    async def _started_by(self, key: str) -> RunRow | None:
        trigger = await self._store.trigger(key)
        if trigger is None or trigger.run is None:
            return None
        return await self._store.run(trigger.run)

    async def _row(self, run: str) -> RunRow:
        row = await self._store.run(run)
        if row is None:
            raise UnknownRun(f"there is no run {run}")
        return row


def _made(above: History, child: RunRow, step: str) -> tuple[str, int | None]:
    """The step and item of `above` whose last attempt made the child run. Raises NotNow."""
    state = above.state()
    at = state.steps[state.index[step]]
    for unit in at.items if at.items is not None else [at]:
        if unit.attempt and made_by(unit, above.run) == child.run:
            return step, unit.item
    raise NotNow(
        f'run {child.run} was not the last attempt of step "{step}" of run {above.run}; '
        "retry that run, or the newest child of it"
    )


def _nobody_waits(run: str, step: str | None, waiting: Sequence[_Waiting]) -> str:
    if step is None or not waiting:
        return f"no step of run {run} waits for approval"
    shown = ", ".join(w.shown for w in waiting[:_SHOWN])
    return f'step "{step}" does not wait for approval; waiting: {shown}'


def _ended(row: RunRow) -> str:
    return "was skipped" if row.status == RunStatus.SKIPPED else "succeeded"
