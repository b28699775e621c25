"""Turns a reason to start a workflow into a queued run, or into a stored reason why not.

Reads the definition at its commit and gives the writes that make the run; who calls it writes
them, together with what else must agree (a move, a tick's number). Leaves starting queued runs to
admission. Its rule: the trigger's key elects the run, so a second call starts nothing.
"""

from __future__ import annotations

import difflib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from runner.control.applied import Applied, Definition
from runner.control.claiming import Claiming
from runner.engine import journal
from runner.language import load, params
from runner.language.model import Param, Workflow
from runner.triggers import Trigger, TriggerType, manual_key
from storage.mirror import ObjectMissing
from storage.records import PutTrigger, PutValues, RunRow, TriggerRow, Write
from storage.store import Duplicate, StorageError, Store

MOST_QUEUED = 1000
"""Queued runs of one workflow; further triggers get the verdict `queue_full`."""

EVENT = "event"
"""The name, among the run's own values, of what stands in its event file."""

_KEPT_WORKFLOWS = 256


class NotStarted(Exception):
    """A run was asked for and cannot be made. The message is meant for who asked."""


class UnknownWorkflow(NotStarted):
    """No repository served here has it."""


class UnfitParams(NotStarted):
    """The given parameters do not fit the workflow."""


class QueueFull(NotStarted):
    """Too many runs of the workflow wait already."""


class DefinitionUnreadable(NotStarted):
    """A definition that was good cannot be read again (an object is missing). Tell a person."""


@dataclass(frozen=True, slots=True)
class Source:
    """A repository that runs may come from. `pin` keeps a commit's objects."""

    read_blob: Callable[[str], Awaitable[bytes]]
    pin: Callable[[str], Awaitable[None]]
    applied: Callable[[], Applied]


@dataclass(frozen=True, slots=True)
class Kept:
    """A workflow with the text of its file and that of base.yaml, "" where there is none."""

    workflow: Workflow
    source: str
    base: str


class Intake:
    """One for all repositories. `queued` is called after a run of a workflow was stored by hand;
    callers of `start` tell admission themselves, after their own commit."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, Source],
        *,
        clock: Callable[[], datetime],
        queued: Callable[[str, str], None],
        claiming: Claiming,
    ) -> None:
        self._store = store
        self._sources = sources
        self._clock = clock
        self.queued = queued
        self._claiming = claiming
        self._loaded: dict[tuple[str, str, str], Kept] = {}

    async def start(
        self,
        definition: Definition,
        trigger: Trigger,
        *,
        cause: Mapping[str, object],
        given: Sequence[Param] = (),
        event: str = "",
        not_before: datetime | None = None,
    ) -> tuple[str | None, tuple[Write, ...]]:
        """The new run's id and its writes; (None, the verdict's write) where the queue is full.

        `cause` is for people, `event` the text of the run's event file, and it stays queued until
        `not_before`. Raises UnfitParams, DefinitionUnreadable.
        """
        repository, workflow = definition.repository, definition.workflow
        queued = await self._store.count_runs(repository, workflow, statuses=("queued",))
        if queued >= MOST_QUEUED:
            return None, (verdict(definition, trigger, "queue_full", cause=cause),)
        kept = await self._workflow(definition)
        found = kept.workflow
        try:
            bound = params.bind(
                found.params, given, mentioned=lambda name: params.mentions(found, name)
            )
        except params.ParamError as error:
            raise UnfitParams(f'workflow "{workflow}": {error}') from error
        await self._pin(definition)
        run = journal.new_run_id(trigger.at)
        origin = journal.Origin(repository, definition.ref, definition.commit, definition.blob)
        try:
            claims = await self._claiming.writes(
                run, found, bound=bound, origin=origin, trigger=trigger
            )
        except StorageError as error:
            raise DefinitionUnreadable(
                f'workflow "{workflow}": what it calls cannot be read: {error}'
            ) from error
        made = journal.queued_writes(
            run,
            at=trigger.at,
            workflow=found,
            source=kept.source,
            base=kept.base,
            origin=origin,
            trigger=trigger,
            params=bound,
            not_before=not_before,
        )
        if event:
            made = (*made, PutValues(run, ((journal.RUN_SCOPE, EVENT, event),)))
        return run, (verdict(definition, trigger, "run", cause=cause, run=run), *made, *claims)

    async def _pin(self, definition: Definition) -> None:
        try:
            await self._sources[definition.repository].pin(definition.commit)
        except ObjectMissing as error:
            raise DefinitionUnreadable(
                f'workflow "{definition.workflow}" cannot run at {definition.commit[:10]}: {error}'
            ) from error

    async def start_by_hand(
        self,
        repository: str | None,
        workflow: str,
        *,
        params: Sequence[Param],
        actor: str,
        request: str | None,
    ) -> RunRow:
        """Queue a run at the applied commit (a stale workflow at its last good one).

        `request` is the caller's Idempotency-Key: a second call for the same workflow answers the
        first one's run. Raises NotStarted.
        """
        key = manual_key(request or uuid.uuid4().hex)
        if request and (first := await self._first(key, repository, workflow)) is not None:
            return first
        definition = self._find(repository, workflow)
        trigger = Trigger(TriggerType.MANUAL, key, self._clock(), actor=actor)
        cause = {"actor": actor, "commit": definition.commit}
        run, writes = await self.start(definition, trigger, cause=cause, given=params)
        if run is None:
            raise QueueFull(
                f'workflow "{workflow}" has {MOST_QUEUED} queued runs; try again when some ended'
            )
        try:
            await self._store.write(*writes)
        except Duplicate:
            if (first := await self._first(key, repository, workflow)) is not None:
                return first
            raise
        self.queued(definition.repository, workflow)
        row = await self._store.run(run)
        if row is None:
            raise RuntimeError(f"run {run} was stored and is not there")
        return row

    async def _first(self, key: str, repository: str | None, workflow: str) -> RunRow | None:
        """The run that the key made before. Raises NotStarted if it is another workflow's."""
        row = await self._store.trigger(key)
        run = None if row is None or row.run is None else await self._store.run(row.run)
        if run is not None and (run.repository, run.workflow) != (
            repository or run.repository,
            workflow,
        ):
            raise NotStarted(
                f'this Idempotency-Key started run {run.run} of workflow "{run.workflow}"; '
                f'use another key for "{workflow}"'
            )
        return run

    def _find(self, repository: str | None, workflow: str) -> Definition:
        if repository is not None and repository not in self._sources:
            raise UnknownWorkflow(
                f'no repository is called "{repository}"{_nearest(repository, self._sources)}'
            )
        names = [repository] if repository is not None else list(self._sources)
        applied = [self._sources[name].applied() for name in names]
        found = [d for one in applied if (d := one.definition(workflow)) is not None]
        if len(found) > 1:
            where = ", ".join(definition.repository for definition in found)
            raise NotStarted(
                f'workflow "{workflow}" is in several repositories ({where}); name one'
            )
        if not found:
            known = [one for each in applied for one in each.workflows]
            raise UnknownWorkflow(f'no workflow has the id "{workflow}"{_nearest(workflow, known)}')
        return found[0]

    async def _workflow(self, definition: Definition) -> Kept:
        """The whole workflow and the texts that it is made of, from their blobs."""
        key = (definition.blob, definition.path, definition.base_blob)
        if key not in self._loaded:
            kept = await self._load(definition)
            if len(self._loaded) >= _KEPT_WORKFLOWS:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[key] = kept
        return self._loaded[key]

    async def _load(self, definition: Definition) -> Kept:
        read_blob = self._sources[definition.repository].read_blob
        try:
            data = await read_blob(definition.blob)
            base = await read_blob(definition.base_blob) if definition.base_blob else b""
        except StorageError as error:
            raise DefinitionUnreadable(
                f'workflow "{definition.workflow}" cannot be read: {error}'
            ) from error
        defaults = load.load_base(base, path="base.yaml").base if base else None
        loaded = load.load(data, path=definition.path, id=definition.workflow, base=defaults)
        if loaded.workflow is None:
            problems = "; ".join(str(problem) for problem in loaded.problems)
            raise DefinitionUnreadable(f'workflow "{definition.workflow}": {problems}')
        return Kept(loaded.workflow, data.decode(), base.decode())


def verdict(
    definition: Definition,
    trigger: Trigger,
    word: str,
    *,
    cause: Mapping[str, object],
    run: str | None = None,
) -> PutTrigger:
    """The row that says what became of a trigger."""
    text = json.dumps(cause, separators=(",", ":"), ensure_ascii=False, default=str)
    return PutTrigger(
        TriggerRow(
            trigger.key, definition.repository, definition.workflow, trigger.at, word, run, text
        )
    )


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'; did you mean "{close[0]}"?' if close else ""
