"""Which workflows run and follow which, over all files of a catalog.

Finds names that no workflow has (a warning: it may come with the next commit) and circles of
`run` or of `on: workflow` (a problem of each file in one). Leaves what a name stands for to
`language.subworkflows`. Its rule: one pass over what is named, however many files there are. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.control.entries import Call, Entry
from runner.language.model import Problem
from runner.language.order import cycles
from runner.language.subworkflows import Index, UnknownSubworkflow, file_of, resolve

MOST_SHOWN = 10
"""Of a longer circle so many workflows are named."""

_MOST_CIRCLES = 3  # told of one file
_MOST_TOLD = 3  # times the number of files: the documents of all circles that are looked at


@dataclass(slots=True)
class Findings:
    """What is wrong, by path of the file."""

    problems: dict[str, tuple[Problem, ...]] = field(default_factory=dict)
    warnings: dict[str, tuple[Problem, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class _Graph:
    """Document → those that it runs, or that follow it; and the place that says so."""

    targets: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[tuple[str, str], Call] = field(default_factory=dict)

    def add(self, source: str, target: str, call: Call) -> None:
        self.targets[source].append(target)
        self.calls.setdefault((source, target), call)

    def circles(self) -> list[list[str]]:
        """Those that a walk through all documents comes upon."""
        documents = sorted(self.targets.keys() | {target for _, target in self.calls})
        number = {document: n for n, document in enumerate(documents)}
        edges = [[number[t] for t in self.targets.get(d, ())] for d in documents]
        return [[documents[n] for n in circle] for circle in cycles(edges)]


def check(entries: Mapping[str, Entry], *, known: Iterable[str]) -> Findings:
    """`entries` are the good files by id, `known` all ids that a file stands for, good or not."""
    found = Findings()
    naming = [entry for entry in entries.values() if entry.calls or entry.follows]
    if not naming:
        return found
    index = index_of(entries, known=known)
    runs, follows = _Graph(), _Graph()
    for entry in naming:
        locals = dict(entry.locals)
        for call in entry.calls:
            try:
                target = resolve(call.name, caller=call.caller, locals=locals, index=index)
            except UnknownSubworkflow as error:
                _warn(found, entry, call, _unknown(call, error, index=index))
            else:
                runs.add(call.caller, target, call)
        for call in entry.follows:
            if call.name in index.ids:
                follows.add(call.name, call.caller, call)
            else:
                _warn(found, entry, call, f'no workflow has the id "{call.name}" yet')
    _judge(runs, "they run each other", entries=entries, found=found)
    _judge(follows, "the end of each starts the next", entries=entries, found=found)
    return found


def index_of(entries: Mapping[str, Entry], *, known: Iterable[str]) -> Index:
    """What names can stand for at a commit."""
    names: dict[str, str] = {}
    for id, entry in entries.items():
        names[entry.name] = "" if entry.name in names else id
    return Index(frozenset(known), names)


def _unknown(call: Call, error: UnknownSubworkflow, *, index: Index) -> str:
    if call.name in index.names:  # of several workflows
        return str(error)
    return f'sub-workflow "{call.name}" does not exist yet: {error}'


def _warn(found: Findings, entry: Entry, call: Call, message: str) -> None:
    warning = Problem(entry.path, call.line, call.column, message)
    found.warnings[entry.path] = (*found.warnings.get(entry.path, ()), warning)


def _judge(graph: _Graph, why: str, *, entries: Mapping[str, Entry], found: Findings) -> None:
    told = 0
    for circle in graph.circles():
        told += len(circle)
        if told > _MOST_TOLD * max(len(entries), 100):
            return  # of a hostile repository; what is left is refused when it runs
        for n, document in enumerate(circle):
            call = graph.calls[document, circle[(n + 1) % len(circle)]]
            path = entries[file_of(call.caller)].path
            known = found.problems.get(path, ())
            if len(known) < _MOST_CIRCLES:
                message = f"{_shown(circle, n)} is a circle: {why} without end"
                found.problems[path] = (*known, Problem(path, call.line, call.column, message))


def _shown(circle: Sequence[str], first: int) -> str:
    size = len(circle)
    names = [circle[(first + n) % size] for n in range(min(size, MOST_SHOWN))]
    if size > MOST_SHOWN:
        names.append("…")
    return " → ".join([*names, circle[first]])
