"""Which refs moved between two looks at a repository, and which moves may start runs.

Knows nothing of git or the store: two maps in, a plan out. `n` counts the observed moves of a
ref; a deletion is a move to None; the first sight of a repository starts nothing. Its rule: who
may push to a watched ref runs code here, so only `Watch` says what is watched. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from runner.language import patterns
from storage.records import RefRow

STATUS_REF = "refs/heads/dagmill/status"
BRANCHES = "refs/heads/"
TAGS = "refs/tags/"


@dataclass(frozen=True, slots=True)
class Watch:
    """The refs that may start anything.

    `patterns` are the setting `watch`: a pattern names branches (`main`, `release/**`) unless it
    starts with `refs/` (`refs/tags/v*`); `!` excludes, the last match wins. Empty: the served
    branch, and tags that point into its history (`only_history` says that the caller must look).
    """

    served: str  # full ref
    patterns: tuple[str, ...] = ()

    @property
    def only_history(self) -> bool:
        return not self.patterns

    def selects(self, ref: str) -> bool:
        if ref == STATUS_REF:
            return False
        if not self.patterns:
            return ref == self.served or ref.startswith(TAGS)
        return patterns.any_match(tuple(_full(pattern) for pattern in self.patterns), ref)


@dataclass(frozen=True, slots=True)
class Moved:
    """One move to store. `before` is the ref's object at the look before (None: none)."""

    row: RefRow
    before: str | None
    watched: bool

    @property
    def is_tag(self) -> bool:
        return self.row.ref.startswith(TAGS)


def plan_moves(
    known: Mapping[str, RefRow],
    seen: Mapping[str, str],
    *,
    repository: str,
    watch: Watch,
    first: bool,
    at: datetime,
) -> tuple[Moved, ...]:
    """The moves between `known` (read before the fetch) and `seen` (full ref → object id).

    `watched` is False for deletions and for everything at the first sight of a repository. The
    served branch comes last, so that what it applies sees every other move planned.
    """
    planned: list[Moved] = []
    for ref in sorted(seen.keys() | known.keys(), key=lambda name: (name == watch.served, name)):
        if ref == STATUS_REF:
            continue
        row = known.get(ref)
        before = row.oid if row is not None else None
        after = seen.get(ref)
        if before == after:
            continue
        moved = RefRow(repository, ref, (row.n if row is not None else 0) + 1, after, at)
        starts = not first and after is not None and watch.selects(ref)
        planned.append(Moved(moved, before, starts))
    return tuple(planned)


def _full(pattern: str) -> str:
    negated = pattern.startswith("!")
    name = pattern[1:] if negated else pattern
    full = name if name.startswith("refs/") else BRANCHES + name
    return "!" + full if negated else full
