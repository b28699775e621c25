"""Starts the workflows that wait for another one's runs to end (`on: workflow`).

Owes and pays: with the end of a run is written that it is owed, here what follows is started. What
follows is what the served branch's definitions say when it is paid. Its rule: the ended run and
the workflow that follows are the key, so that whatever dies between, each follows once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import structlog

from runner.control.applied import Applied, Definition
from runner.control.intake import DefinitionUnreadable, Intake, UnfitParams, verdict
from runner.engine import journal
from runner.engine.events import Queued
from runner.language.model import WorkflowFilter
from runner.triggers import Trigger, TriggerType, after_key
from storage.records import Owe, OwedRow, RunRow, Write
from storage.store import Duplicate, Store

KIND = "after"
LONGEST_CHAIN = 10
"""So many runs are started by the ends of each other, one after the other."""

_log = structlog.get_logger(__name__)

_Listening = dict[str, list[tuple[str, WorkflowFilter]]]  # workflow → those that wait for its ends


class Followers:
    """One for all repositories, and what a Reporter pays with. `applied`: repository → what is in
    force there now."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        *,
        applied: Mapping[str, Callable[[], Applied]],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._intake = intake
        self._applied = applied
        self._clock = clock
        self._known: dict[str, tuple[Applied, _Listening]] = {}

    def owes(self, row: RunRow) -> tuple[Write, ...]:
        """What is to be written with the end of a run; nothing where nobody waits for it."""
        if row.parent or row.finished_at is None or not self._after(row):
            return ()
        return (Owe(KIND, row.run, row.finished_at),)

    async def __call__(self, rows: Sequence[OwedRow]) -> None:
        for owed in rows:
            row = await self._store.run(owed.key)
            if row is not None and row.finished_at is not None:
                for workflow in self._after(row):
                    await self._follow(row, workflow)

    def _after(self, row: RunRow) -> list[str]:
        """The workflows that follow the run."""
        waiting = self._listening(row.repository).get(row.workflow, ())
        return [w for w, filter in waiting if not filter.statuses or row.status in filter.statuses]

    def _listening(self, repository: str) -> _Listening:
        if repository not in self._applied:
            return {}
        applied = self._applied[repository]()
        known = self._known.get(repository)
        if known is None or known[0] is not applied:
            known = self._known[repository] = applied, _listening(applied)
        return known[1]

    async def _follow(self, row: RunRow, workflow: str) -> None:
        definition = self._applied[row.repository]().definition(workflow)
        queued = await self._queued(row.run)
        if definition is None or queued is None:
            return
        chain = queued.trigger.chain + 1
        trigger = Trigger(
            TriggerType.WORKFLOW,
            after_key(row.run, workflow),
            self._clock(),
            source=row.run,
            chain=chain,
        )
        try:
            run, writes = await self._started(definition, trigger, row, chain=chain)
            await self._store.write(*writes)
        except Duplicate:
            return  # it follows already
        if run is not None:
            self._intake.queued(row.repository, workflow)
        _log.info("run_followed", run=row.run, workflow=workflow, by=run, chain=chain)

    async def _started(
        self, definition: Definition, trigger: Trigger, row: RunRow, *, chain: int
    ) -> tuple[str | None, tuple[Write, ...]]:
        """The new run and its writes, or None and the row that says why there is none."""
        cause = {"after": row.run, "workflow": row.workflow, "status": row.status, "chain": chain}
        if chain > LONGEST_CHAIN:
            why = f"{LONGEST_CHAIN} runs were started by the ends of each other; it ends here"
            cause = {**cause, "problems": [why]}
            return None, (verdict(definition, trigger, "chain_too_long", cause=cause),)
        event = {"run": row.run, "workflow": row.workflow, "status": row.status}
        try:
            return await self._intake.start(
                definition, trigger, cause=cause, event=json.dumps(event, ensure_ascii=False)
            )
        except (UnfitParams, DefinitionUnreadable) as error:
            cause = {**cause, "problems": [str(error)]}
            return None, (verdict(definition, trigger, "broken", cause=cause),)

    async def _queued(self, run: str) -> Queued | None:
        records = await self._store.events(run)
        try:
            first = journal.event(records[0]) if records else None
        except journal.UnreadableRecord as error:
            _log.error("run_not_followed", run=run, problem=str(error))
            return None
        return first if isinstance(first, Queued) else None


def _listening(applied: Applied) -> _Listening:
    found: _Listening = {}
    for workflow, live in applied.workflows.items():
        filter = live.entry.events.workflow
        for id in filter.ids if filter is not None else ():
            if filter is not None:
                found.setdefault(id, []).append((workflow, filter))
    return found
