"""What a move of a watched ref starts: the runs, or the stored reason why not.

Reads the catalog at the pushed commit, because that commit's own definitions count; leaves which
refs moved to `moves` and writing to the reconciler. Its rule: what matched is a row, whether it
ran or not; what did not match is none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import structlog

from runner.control.applied import Applied, Definition
from runner.control.catalog import Catalog, Entry
from runner.control.indexer import Indexer
from runner.control.intake import DefinitionUnreadable, Intake, UnfitParams, verdict
from runner.control.moves import Moved
from runner.language import patterns
from runner.language.model import PushFilter
from runner.triggers import Trigger, TriggerType, push_key
from storage.mirror import Mirror
from storage.records import Write
from storage.store import Store

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Consequences:
    """Writes to make with the move; `queued` are the workflows that get a run."""

    writes: list[Write] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Push:
    """A move in terms of commits: a tag's object is peeled. `paths` None: a tag, which has none."""

    moved: Moved
    before: str | None
    after: str
    paths: frozenset[str] | None
    actor: str | None
    delivery: str | None


class Pushes:
    """One per repository."""

    def __init__(self, store: Store, mirror: Mirror, *, indexer: Indexer, intake: Intake) -> None:
        self._store = store
        self._mirror = mirror
        self._indexer = indexer
        self._intake = intake

    async def follow(
        self, moved: Moved, *, applied: Applied, served_tip: str, only_history: bool, at: datetime
    ) -> Consequences:
        """What `moved` starts. `only_history`: a tag counts only if it points into the history
        of `served_tip`. `applied` says what a file that is broken now was before."""
        done = Consequences()
        after = await self._commit(moved.row.oid)
        if after is None:
            return done
        if (
            moved.is_tag
            and only_history
            and not await asyncio.to_thread(self._mirror.is_ancestor, after, served_tip)
        ):
            return done
        catalog = await self._indexer.catalog(after)
        matches = _matching(catalog.entries.values(), moved.row.ref)
        broken = [w for w in catalog.broken if _may_fit(applied, w, moved.row.ref)]
        if not matches and not broken:
            return done
        push = await self._push(moved, after=after, served=applied.ref)
        for entry in matches:
            if _paths_fit(entry.push, push.paths):
                definition = _definition(applied, push, entry)
                await self._start(definition, push, at=at, done=done)
        for workflow in broken:
            live = applied.workflows.get(workflow)
            if live is None or _paths_fit(live.entry.push, push.paths):
                self._refuse(workflow, catalog, push=push, applied=applied, at=at, done=done)
        return done

    async def _start(
        self, definition: Definition, push: _Push, *, at: datetime, done: Consequences
    ) -> None:
        trigger = _trigger(definition, push, at=at)
        cause = _cause(push)
        try:
            run, writes = await self._intake.start(definition, trigger, cause=cause)
        except (UnfitParams, DefinitionUnreadable) as error:
            cause = {**cause, "problems": [str(error)]}
            done.writes.append(verdict(definition, trigger, "broken", cause=cause))
            return
        done.writes.extend(writes)
        if run is not None:
            done.queued.append(definition.workflow)

    def _refuse(
        self,
        workflow: str,
        catalog: Catalog,
        *,
        push: _Push,
        applied: Applied,
        at: datetime,
        done: Consequences,
    ) -> None:
        problems = [str(problem) for problem in catalog.broken[workflow]]
        definition = _definition(applied, push, Entry("", "", workflow))
        trigger = _trigger(definition, push, at=at)
        cause = {**_cause(push), "problems": problems}
        done.writes.append(verdict(definition, trigger, "broken", cause=cause))
        _log.warning("push_not_run", workflow=workflow, ref=push.moved.row.ref, problem=problems[0])

    async def _push(self, moved: Moved, *, after: str, served: str) -> _Push:
        row = moved.row
        before = await self._commit(moved.before)
        paths = None
        if not moved.is_tag:
            changed = await asyncio.to_thread(
                self._mirror.changed_paths, before, after, default_branch=served
            )
            paths = frozenset(changed)
        delivery = await self._store.delivery_for(row.repository, row.ref, row.oid or "")
        if delivery is not None and delivery.actor:
            actor = delivery.actor
        else:
            actor = (await asyncio.to_thread(self._mirror.commit, after)).author
        return _Push(
            moved, before, after, paths, actor, delivery.delivery if delivery is not None else None
        )

    async def _commit(self, oid: str | None) -> str | None:
        """The commit that an object of a ref stands for; None for a tag of something else."""
        return None if oid is None else await asyncio.to_thread(self._mirror.peel, oid)


def _matching(entries: Iterable[Entry], ref: str) -> list[Entry]:
    """Those that want moves of `ref`. Thousands of workflows have a few filters between them."""
    answers: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}
    found: list[Entry] = []
    for entry in entries:
        push = entry.push
        if push is None:
            continue
        refs = push.branches, push.tags
        fits = answers.get(refs)
        if fits is None:
            fits = answers[refs] = patterns.ref_matches(push, ref)
        if fits:
            found.append(entry)
    return found


def _ref_fits(push: PushFilter | None, ref: str) -> bool:
    return push is not None and patterns.ref_matches(push, ref)


def _may_fit(applied: Applied, workflow: str, ref: str) -> bool:
    """Could the broken file have been meant? Its last good version answers; without one: yes."""
    live = applied.workflows.get(workflow)
    return live is None or _ref_fits(live.entry.push, ref)


def _paths_fit(push: PushFilter | None, paths: frozenset[str] | None) -> bool:
    return push is not None and (paths is None or patterns.paths_match(push, paths))


def _definition(applied: Applied, push: _Push, entry: Entry) -> Definition:
    return Definition(
        applied.repository,
        push.moved.row.ref,
        push.after,
        entry.workflow,
        entry.path,
        entry.blob,
        entry.base_blob,
    )


def _trigger(definition: Definition, push: _Push, *, at: datetime) -> Trigger:
    row = push.moved.row
    return Trigger(
        TriggerType.PUSH,
        push_key(row.repository, row.ref, n=row.n, workflow=definition.workflow),
        at,
        actor=push.actor,
        before=push.before,
        after=push.after,
        delivery=push.delivery,
    )


def _cause(push: _Push) -> dict[str, object]:
    row = push.moved.row
    return {"ref": row.ref, "n": row.n, "before": push.before, "after": push.after}
