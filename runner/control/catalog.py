"""All workflows of a repository at one commit, and how two such sets differ.

Knows which file stands for which workflow, what control needs of each (an `Entry`) and which
files are broken; leaves the meaning of a file to `language.load` and what is done about a broken
one to the reconciler. Its rule: a file never hides another, every problem is kept. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from runner.language import load
from runner.language.model import Problem, PushFilter

ENTRY_FORMAT = 1
"""Raise it when `to_json` changes: entries of another format are read again from their blobs."""

LOADER = load.LOADER_VERSION * 1000 + ENTRY_FORMAT
"""The `loader` of every stored EntryRow: changes with the loader and with this file."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What control needs to know of one file, without its steps.

    `workflow` is the id, "" where the file's name gives none. With `problems` nothing but
    `path`, `blob`, `workflow` and the problems means anything.
    """

    path: str  # from the repository's root
    blob: str
    workflow: str
    name: str = ""
    crons: tuple[tuple[str, str | None], ...] = ()
    push: PushFilter | None = None
    max_active_runs: int = 1
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """The good files by workflow id, and what is wrong with the others.

    `broken` is by id, `problems` by path (it also has the files whose name gives no id).
    """

    commit: str
    entries: Mapping[str, Entry]
    broken: Mapping[str, tuple[Problem, ...]]
    problems: Mapping[str, tuple[Problem, ...]]

    @property
    def empty(self) -> bool:
        return not self.entries and not self.problems


@dataclass(frozen=True, slots=True)
class CatalogDiff:
    """Workflow ids, sorted. A removed workflow's schedule also counts as removed."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    schedules_added: tuple[str, ...] = ()
    schedules_changed: tuple[str, ...] = ()
    schedules_removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


def is_workflow_file(path: str) -> bool:
    return path.endswith((".yaml", ".yml"))


def read(data: bytes, *, path: str, blob: str, folder: str) -> Entry:
    """The entry of a file at `path` (from the root) below `folder`; whatever it holds."""
    relative = path.removeprefix(folder.rstrip("/") + "/")
    try:
        workflow = load.workflow_id(relative)
    except ValueError as error:
        return Entry(path, blob, "", problems=(Problem(path, 1, 1, str(error)),))
    if workflow == "base":
        message = "base.yaml (defaults for every workflow) is not yet supported; remove the file"
        return Entry(path, blob, workflow, problems=(Problem(path, 1, 1, message),))
    loaded = load.load(data, path=path, id=workflow)
    found = loaded.workflow
    if found is None:
        return Entry(path, blob, workflow, problems=tuple(loaded.problems))
    return Entry(
        path,
        blob,
        workflow,
        name=found.name,
        crons=found.schedule.crons if found.schedule is not None else (),
        push=found.push,
        max_active_runs=found.max_active_runs,
        warnings=tuple(loaded.warnings),
    )


def to_json(entry: Entry) -> str:
    """Everything but path and blob, which are the stored row's key."""
    push = entry.push
    document: dict[str, Any] = {
        "workflow": entry.workflow,
        "name": entry.name,
        "crons": [list(cron) for cron in entry.crons],
        "push": None if push is None else [push.branches, push.tags, push.paths],
        "max_active_runs": entry.max_active_runs,
        "problems": [[p.line, p.column, p.message] for p in entry.problems],
        "warnings": [[p.line, p.column, p.message] for p in entry.warnings],
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str, *, path: str, blob: str) -> Entry:
    document: dict[str, Any] = json.loads(text)
    push = document["push"]
    return Entry(
        path,
        blob,
        document["workflow"],
        name=document["name"],
        crons=tuple((cron, zone) for cron, zone in document["crons"]),
        push=None if push is None else PushFilter(*(tuple(part) for part in push)),
        max_active_runs=document["max_active_runs"],
        problems=tuple(Problem(path, *problem) for problem in document["problems"]),
        warnings=tuple(Problem(path, *warning) for warning in document["warnings"]),
    )


def build(commit: str, entries: Iterable[Entry]) -> Catalog:
    """One catalog of all files of a commit. Two files with one id are both broken."""
    by_id: dict[str, Entry] = {}
    rivals: dict[str, list[Entry]] = {}
    problems: dict[str, tuple[Problem, ...]] = {}
    for entry in sorted(entries, key=attrgetter("path")):
        if not entry.workflow:
            problems[entry.path] = entry.problems
        elif (first := by_id.setdefault(entry.workflow, entry)) is not entry:
            rivals.setdefault(entry.workflow, [first]).append(entry)
    good: dict[str, Entry] = {}
    broken: dict[str, tuple[Problem, ...]] = {}
    for workflow, entry in by_id.items():
        if not entry.problems and workflow not in rivals:
            good[workflow] = entry
            continue
        judged = _rivals(rivals[workflow]) if workflow in rivals else [entry]
        problems.update((one.path, one.problems) for one in judged)
        broken[workflow] = tuple(problem for one in judged for problem in one.problems)
    return Catalog(
        commit, MappingProxyType(good), MappingProxyType(broken), MappingProxyType(problems)
    )


def _rivals(entries: list[Entry]) -> list[Entry]:
    names = " and ".join(entry.path for entry in entries)
    message = f'{names} are both workflow "{entries[0].workflow}"; remove or rename one'
    return [
        replace(entry, problems=(Problem(entry.path, 1, 1, message), *entry.problems))
        for entry in entries
    ]


def diff(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> CatalogDiff:
    """What changes when `after` takes the place of `before`, both by workflow id."""
    gone = before.keys() - after.keys()
    # By identity first: of thousands of files a commit changes a few.
    new = {
        workflow: entry for workflow, entry in after.items() if before.get(workflow) is not entry
    }
    old = {workflow: before[workflow] for workflow in (*gone, *new) if workflow in before}
    had = {workflow for workflow, entry in old.items() if entry.crons}
    has = {workflow for workflow, entry in new.items() if entry.crons}
    return CatalogDiff(
        added=_sorted(new.keys() - old.keys()),
        changed=_sorted(w for w in new.keys() & old.keys() if _differs(old[w], new[w])),
        removed=_sorted(gone),
        schedules_added=_sorted(has - had),
        schedules_changed=_sorted(w for w in had & has if old[w].crons != new[w].crons),
        schedules_removed=_sorted(had - has),
    )


def _differs(one: Entry, other: Entry) -> bool:
    return (one.blob, one.path) != (other.blob, other.path)


def _sorted(workflows: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(workflows))
