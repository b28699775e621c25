"""What is in force for a repository, and what a new catalog makes of it.

Knows that a broken file keeps its last good version and a deleted one loses its schedule; leaves
reading commits to the reconciler and firing to the ticker. Its rule: an unchanged schedule keeps
its `live_from`, a new or changed one begins now, so nothing is ever back-filled. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from runner.control.catalog import Catalog, Entry
from storage.records import DefinitionRow, DropDefinition, PutDefinition, Write


@dataclass(frozen=True, slots=True)
class Definition:
    """A workflow's file at the commit that a run of it would have."""

    repository: str
    ref: str
    commit: str
    workflow: str
    path: str
    blob: str
    base_blob: str = ""  # of base.yaml at that commit, "" where there is none


@dataclass(frozen=True, slots=True)
class Live:
    """One workflow in force: `entry` is its last good version, `commit` a commit that has it.

    A stale one has `problems` (one `path:line:column: message` a line) of the newer file at
    `problem_commit` and runs wholly at `commit`; any other runs at the applied commit.
    """

    entry: Entry
    commit: str
    live_from: datetime
    problem_commit: str = ""
    problems: str = ""

    @property
    def stale(self) -> bool:
        return bool(self.problems)


@dataclass(frozen=True, slots=True)
class Applied:
    """All that is in force. `n` is the number of the applied catalog, 0: none yet."""

    repository: str
    ref: str
    n: int = 0
    commit: str = ""
    workflows: Mapping[str, Live] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def entries(self) -> dict[str, Entry]:
        return {workflow: live.entry for workflow, live in self.workflows.items()}

    def definition(self, workflow: str) -> Definition | None:
        live = self.workflows.get(workflow)
        if live is None:
            return None
        commit = live.commit if live.stale else self.commit
        entry = live.entry
        return Definition(
            self.repository, self.ref, commit, workflow, entry.path, entry.blob, entry.base_blob
        )


def take_effect(before: Applied, catalog: Catalog, *, at: datetime) -> Applied:
    """What is in force once `catalog` is applied over `before` as number `before.n + 1`.

    A workflow whose entry is the same object keeps its `Live` object.
    """
    workflows: dict[str, Live] = {}
    for workflow, entry in catalog.entries.items():
        workflows[workflow] = _good(before.workflows.get(workflow), entry, catalog=catalog, at=at)
    for workflow, problems in catalog.broken.items():
        old = before.workflows.get(workflow)
        if old is not None:
            text = "\n".join(str(problem) for problem in problems)
            workflows[workflow] = _stale(old, text, before=before, catalog=catalog)
    return Applied(
        before.repository, before.ref, before.n + 1, catalog.commit, MappingProxyType(workflows)
    )


def _good(old: Live | None, entry: Entry, *, catalog: Catalog, at: datetime) -> Live:
    if old is None:
        return Live(entry, catalog.commit, at)
    if old.entry is entry and not old.stale:
        return old  # as most are: what follows is spared whoever looks for what changed
    live_from = old.live_from if old.entry.schedule == entry.schedule else at
    # The row of an unchanged file is left alone: a commit writes what it changes and no more.
    same = _version(old.entry) == _version(entry) and not old.stale
    return Live(entry, old.commit if same else catalog.commit, live_from)


def _version(entry: Entry) -> tuple[str, str, str]:
    return entry.blob, entry.path, entry.base_blob


def _stale(old: Live, problems: str, *, before: Applied, catalog: Catalog) -> Live:
    if old.problems == problems:
        return old
    commit = old.commit if old.stale or not before.commit else before.commit
    return replace(old, commit=commit, problem_commit=catalog.commit, problems=problems)


def writes(before: Applied, after: Applied) -> tuple[Write, ...]:
    """The changes of definition rows between the two, which are of one branch."""
    changed: list[Write] = []
    known = before.workflows.get
    for workflow, live in after.workflows.items():
        if known(workflow) is live:
            continue
        if (row := to_row(after, workflow, live)) != _row_before(before, workflow):
            changed.append(PutDefinition(row))
    for workflow in before.workflows.keys() - after.workflows.keys():
        changed.append(DropDefinition(before.repository, before.ref, workflow))
    return tuple(changed)


def _row_before(before: Applied, workflow: str) -> DefinitionRow | None:
    live = before.workflows.get(workflow)
    return None if live is None else to_row(before, workflow, live)


def to_row(applied: Applied, workflow: str, live: Live) -> DefinitionRow:
    return DefinitionRow(
        repository=applied.repository,
        ref=applied.ref,
        workflow=workflow,
        path=live.entry.path,
        commit=live.commit,
        blob=live.entry.blob,
        base_blob=live.entry.base_blob,
        live_from=live.live_from,
        problem_commit=live.problem_commit,
        problems=live.problems,
    )


def from_row(row: DefinitionRow, entry: Entry) -> Live:
    return Live(entry, row.commit, row.live_from, row.problem_commit, row.problems)
