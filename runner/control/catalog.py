"""All workflows of a repository at one commit, and how two such sets differ.

Knows which file stands for which workflow and which files are broken; leaves what one file says
to `entries`, what they name of each other to `callgraph`, and what is done about a broken one to
the reconciler. Its rule: a file never hides another, every problem is kept. Only base.yaml is
above the others: if it is bad, so are they all. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import MappingProxyType

from runner.control import callgraph
from runner.control.entries import BASE, LOADER, Entry, from_json, read, to_json
from runner.language.model import Problem

__all__ = [
    "BASE",
    "LOADER",
    "Catalog",
    "CatalogDiff",
    "Entry",
    "build",
    "diff",
    "from_json",
    "is_base",
    "is_workflow_file",
    "read",
    "to_json",
]


@dataclass(frozen=True, slots=True)
class Catalog:
    """The good files by workflow id, and what is wrong with the others.

    `broken` is by id, `problems` by path (it also has base.yaml, and the files whose name gives no
    id). `warnings`, by path as well, are all of the good files, theirs alone and about others.
    """

    commit: str
    entries: Mapping[str, Entry]
    broken: Mapping[str, tuple[Problem, ...]]
    problems: Mapping[str, tuple[Problem, ...]]
    warnings: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)

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


def is_base(path: str, *, folder: str) -> bool:
    """Does `path` hold the defaults of all workflows of the folder?"""
    root = folder.rstrip("/") + "/"
    return path in (f"{root}{BASE}.yaml", f"{root}{BASE}.yml")


def build(commit: str, entries: Iterable[Entry]) -> Catalog:
    """One catalog of all files of a commit, base.yaml's among them. Two files with one id are both
    broken."""
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
    good.pop(BASE, None)
    warnings = {entry.path: entry.warnings for entry in good.values() if entry.warnings}
    _check_together(good, broken, known=by_id, problems=problems, warnings=warnings)
    return Catalog(
        commit,
        MappingProxyType(good),
        MappingProxyType(broken),
        MappingProxyType(problems),
        MappingProxyType(warnings),
    )


def _check_together(
    good: dict[str, Entry],
    broken: dict[str, tuple[Problem, ...]],
    *,
    known: Mapping[str, Entry],
    problems: dict[str, tuple[Problem, ...]],
    warnings: dict[str, tuple[Problem, ...]],
) -> None:
    """Move to `broken` what is only wrong because of other files."""
    found = callgraph.check(good, known=known.keys() - {BASE})
    for path, told in found.warnings.items():
        warnings[path] = tuple(sorted((*warnings.get(path, ()), *told)))
    for path, told in found.problems.items():
        problems[path] = told
    if found.problems:
        for workflow, entry in tuple(good.items()):
            if entry.path in found.problems:
                broken[workflow] = found.problems[entry.path]
                del good[workflow]
    of_base = broken.pop(BASE, None)
    if of_base is not None:
        # Nobody can know what a workflow would be with the defaults that were meant.
        broken.update({workflow: (*broken.get(workflow, ()), *of_base) for workflow in known})
        del broken[BASE]
        good.clear()


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
    had = {workflow for workflow, entry in old.items() if any(entry.schedule)}
    has = {workflow for workflow, entry in new.items() if any(entry.schedule)}
    return CatalogDiff(
        added=_sorted(new.keys() - old.keys()),
        changed=_sorted(w for w in new.keys() & old.keys() if _differs(old[w], new[w])),
        removed=_sorted(gone),
        schedules_added=_sorted(has - had),
        schedules_changed=_sorted(w for w in had & has if old[w].schedule != new[w].schedule),
        schedules_removed=_sorted(had - has),
    )


def _differs(one: Entry, other: Entry) -> bool:
    return (one.blob, one.path, one.base_blob) != (other.blob, other.path, other.base_blob)


def _sorted(workflows: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(workflows))
