"""Looks at one repository again and again, and makes what it sees take effect, whole.

Decides when to look (poll, nudge, back-off) and writes one transaction for each look: the moves,
the definitions, the runs that follow. Leaves what moved to `moves`, what that starts to `pushes`,
what is in force to `applied`, slots to the ticker. Its rule: the number of a ref's moves is read
before the fetch, so that two lookers can never both start what one move starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import structlog

from runner.control import applied as in_force
from runner.control import catalog as catalogs
from runner.control.applied import Applied
from runner.control.catalog import Catalog, CatalogDiff
from runner.control.indexer import Indexer, Named
from runner.control.intake import Intake
from runner.control.moves import BRANCHES, STATUS_REF, Moved, Watch, plan_moves
from runner.control.pushes import Pushes
from runner.control.ticker import Ticker
from storage.mirror import Mirror, ObjectMissing, Seen
from storage.records import (
    DefinitionRow,
    DropDefinition,
    Move,
    OwedRow,
    Pay,
    PutRepository,
    RaiseApplied,
    RefRow,
    RepositoryRow,
    Write,
)
from storage.remote import AccessDenied, BranchMissing, GitError
from storage.store import Conflict, Duplicate, StorageError, Store

LONGEST_WAIT_S = 300.0
DENIED_WAIT_S = 900.0
_FIRST_RETRY_S = 5.0  # doubled by each failure: what a hook announced must not wait for a slow poll
_LEAST_WAIT_S = 1.0  # after a failure, whatever is announced
_JITTER = 0.2
_MOST_WARNED = 100  # new or changed workflows whose warnings are logged
_TRIES = 5  # of one look, each lost to another writer
_FETCHED_EVERY = timedelta(seconds=30)  # a look without news notes its time no oftener

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What one look made take effect, for people."""

    applied: Applied
    diff: CatalogDiff
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class _Known:
    """What the store said before the fetch began."""

    refs: dict[str, RefRow]
    row: RepositoryRow | None
    owed: tuple[OwedRow, ...]

    @property
    def first(self) -> bool:
        return self.row is None or self.row.fetched_at is None


@dataclass(slots=True)
class _Change:
    """What one look writes, and what it means once it is written."""

    writes: list[Write] = field(default_factory=list)
    queued: list[str] = field(default_factory=list)
    done: Reconciled | None = None


class Reconciler:
    """One per repository. `branch` None: the remote's HEAD. `announce` hears what was applied,
    `warn` once what keeps a look from taking effect."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        *,
        repository: str,
        url: str,
        branch: str | None,
        watch: tuple[str, ...],
        folder: str,
        poll_s: float,
        intake: Intake,
        ticker: Ticker,
        clock: Callable[[], datetime],
        announce: Callable[[Reconciled], None] = lambda reconciled: None,
        warn: Callable[[str], None] = lambda problem: None,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._name = repository
        self._url = url
        self._branch = branch
        self._watch = watch
        self._folder = folder
        self._poll_s = poll_s
        self._intake = intake
        self._ticker = ticker
        self._clock = clock
        self._announce = announce
        self._warn = warn
        self._indexer = Indexer(store, mirror, folder=folder)
        self._pushes = Pushes(store, mirror, indexer=self._indexer, intake=intake)
        self._applied = Applied(repository, "")
        self._unread: frozenset[str] = frozenset()  # definitions whose files cannot be read now
        self._unpinned: set[str] = set()  # commits that the mirror did not have
        self._catalog: Catalog | None = None  # of the last tip that was read, applied or not
        self._nudged = asyncio.Event()
        self._failures = 0
        self._said = ""  # the last failure that was logged
        self.reconciled = False

    def applied(self) -> Applied:
        """What is in force now."""
        return self._applied

    def nudge(self) -> None:
        """Look now; during a look: once more after it."""
        self._nudged.set()

    async def restore(self) -> bool:
        """Take up what was in force when the service last ran; False if it never looked, or looked
        at another branch or URL than it is to serve now: then the first look must succeed."""
        row = await self._store.repository(self._name)
        if row is None or row.fetched_at is None:
            return False
        self._ticker.hold()
        await self._take_up(row)
        readable = bool(self._applied.workflows) or not self._unread
        return readable and (self._served(row.branch), self._url) == (row.branch, row.url)

    async def _take_up(self, row: RepositoryRow) -> None:
        """Put in force what the store says is, as far as it can be read."""
        rows = await self._store.definitions(self._name, row.branch)
        entries = await self._indexer.readable([_named(d) for d in rows.values()])
        live = {
            workflow: in_force.from_row(definition, entry)
            for workflow, definition in rows.items()
            if (entry := entries.get(_named(definition))) and not entry.problems
        }
        self._unread = frozenset(rows) - live.keys()
        if self._unread:
            # The mirror lost objects, or was deleted: the next look fetches and reads them again.
            _log.warning(
                "definitions_not_read", repository=self._name, workflows=sorted(self._unread)
            )
            self._mirror.doubt()
        await self._enforce(Applied(self._name, row.branch, row.applied, row.applied_commit, live))

    async def run_forever(self) -> None:
        forget = self._store.listen("owed:fetch", self.nudge)
        try:
            while True:
                self._nudged.clear()
                wait = await self._attempt()
                self._ticker.release()
                if self._failures:  # a storm of hooks must not become one of failing fetches
                    await asyncio.sleep(min(wait, _LEAST_WAIT_S))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._nudged.wait()
        finally:
            forget()

    async def _attempt(self) -> float:
        """One look, and how many seconds to wait before the next."""
        try:
            await self.look()
        except GitError as error:
            self._failures += 1
            await self._note(str(error))
            if isinstance(error, AccessDenied):
                return DENIED_WAIT_S
        except StorageError as error:  # our own database: it is back sooner than a network
            await self._note(str(error))
            return min(self._poll_s, _FIRST_RETRY_S)
        except Exception:  # noqa: BLE001 (the loop's edge)
            self._failures += 1
            _log.exception("reconcile_crashed", repository=self._name)
        else:
            self._failures = 0
            return self._poll_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 (spreads load)
        first = min(self._poll_s, _FIRST_RETRY_S)
        return min(first * 2.0 ** min(self._failures, 10), LONGEST_WAIT_S)

    async def _note(self, problem: str) -> None:
        """Say a failure once, and keep it where people look."""
        if problem != self._said:
            self._said = problem
            _log.warning("fetch_failed", repository=self._name, problem=problem)
            self._warn(problem)
        with contextlib.suppress(StorageError):  # the next failure is noted again
            row = await self._store.repository(self._name)
            if row is not None and row.problem != problem:
                await self._store.write(PutRepository(row._replace(problem=problem)))

    async def look(self) -> None:
        """Fetch, compare, and write what follows in one transaction. Raises GitError."""
        for _ in range(_TRIES):
            known = await self._known()
            await self._catch_up(known.row)
            seen = await asyncio.to_thread(self._mirror.fetch)
            for repair in self._mirror.repairs():
                _log.warning("mirror_repaired", repository=self._name, what=repair)
            await self._read_again(known.row)
            try:
                change = await self._plan(known, seen)
                await self._store.write(*change.writes)
            except (Conflict, Duplicate, ObjectMissing) as refused:
                if isinstance(refused, ObjectMissing):
                    self._mirror.doubt()  # the next fetch gets everything anew, or says why not
                _log.info("look_repeated", repository=self._name, why=str(refused))
                continue
            await self._take_effect(change)
            return
        raise GitError(f'repository "{self._name}": other writers were faster {_TRIES} times')

    async def _catch_up(self, row: RepositoryRow | None) -> None:
        """Take up what is stored if it is not what is in force here: a look was written and ended
        before it took effect. Before the fetch, as schedules must not wait for the network."""
        if row is not None and row.fetched_at is not None and row.applied != self._applied.n:
            await self._take_up(row)

    async def _read_again(self, row: RepositoryRow | None) -> None:
        """After the fetch: what the mirror did not have, it may have now."""
        if row is not None and self._unread:
            await self._take_up(row)
        for commit in tuple(self._unpinned):
            await self._pin(commit)

    async def _known(self) -> _Known:
        # All of them: one that was owed before the clock went back is answered, too.
        owed = await self._store.owed("fetch", due=datetime.max.replace(tzinfo=UTC))
        return _Known(
            await self._store.refs(self._name),
            await self._store.repository(self._name),
            tuple(row for row in owed if row.key == self._name),
        )

    async def _plan(self, known: _Known, seen: Seen) -> _Change:
        """Everything that this look writes."""
        served = self._served(seen.head or "")
        tip = seen.refs.get(served)
        watch = Watch(served, self._watch)
        at = self._clock()
        if known.row is not None and not await self._is_the_same(known.row, known.refs, seen):
            raise self._another(known.row)
        if tip is None and (known.first or self._never_served(known.row)):
            raise self._no_branch(served, seen)
        moves = plan_moves(
            known.refs, seen.refs, repository=self._name, watch=watch, first=known.first, at=at
        )
        change = _Change(writes=[Move(moved.row) for moved in moves])
        kept = "" if tip is not None else self._gone(served)
        if tip is not None:
            kept = await self._plan_catalog(change, served, tip=tip, at=at)
        # Also while the served branch is gone: a move is seen once, and others are watched too.
        tip = tip or self._applied.commit
        await self._plan_pushes(change, moves, watch=watch, tip=tip, at=at)
        if kept and self._applied.commit:
            await self._pin(self._applied.commit)  # nothing over there may refer to it any more
        self._say_once(kept)
        now = change.done.applied if change.done is not None else self._applied
        problem = kept or _unusable(self._catalog, now)
        self._plan_row(change, known, branch=now.ref or served, problem=problem, at=at)
        change.writes += [Pay(row.kind, row.key, row.version) for row in known.owed]
        return change

    async def _plan_catalog(self, change: _Change, served: str, *, tip: str, at: datetime) -> str:
        """Apply the served branch's catalog if it is new; else "", or why it is not applied."""
        before = stored = self._applied
        if before.ref != served:
            stored = Applied(self._name, served, before.n)
            # Another default branch over there is a branch that was renamed: what was good stays.
            # Another one by our own settings begins anew.
            before = stored if self._branch else replace(before, ref=served)
        if self._catalog is None or self._catalog.commit != tip:
            self._catalog = await self._indexer.catalog(tip)
        catalog = self._catalog
        if catalog.empty:
            return self._empty(tip)
        after = in_force.take_effect(before, catalog, at=at)
        rows = [*in_force.writes(stored, after), *await self._left_behind(after)]
        if not rows and before.commit == tip:
            return ""
        # What is due under the old definitions is settled before the new ones take their place.
        change.writes += await self._ticker.hand_over(after, at=at)
        change.writes += [*rows, RaiseApplied(self._name, after.n, tip, at)]
        diff = catalogs.diff(before.entries, after.entries)
        change.done = Reconciled(after, diff, catalog)
        return ""

    async def _left_behind(self, after: Applied) -> list[DropDefinition]:
        """Rows of `after`'s branch from a time when it was served before, gone from it since; and
        of definitions that cannot be read any more."""
        if self._applied.ref == after.ref and not self._unread:
            return []
        rows = await self._store.definitions(self._name, after.ref)
        gone = rows.keys() - after.workflows.keys()
        return [DropDefinition(self._name, after.ref, workflow) for workflow in sorted(gone)]

    def _empty(self, tip: str) -> str:
        what = f"no workflow file (.yaml or .yml) below {self._folder}/ at commit {tip[:10]}"
        return f"{what}; {_kept(self._applied)}"

    async def _plan_pushes(
        self, change: _Change, moves: tuple[Moved, ...], *, watch: Watch, tip: str, at: datetime
    ) -> None:
        current = change.done.applied if change.done is not None else self._applied
        for moved in moves:
            if moved.watched:
                follows = await self._pushes.follow(
                    moved,
                    applied=current,
                    served_tip=tip,
                    only_history=watch.only_history,
                    at=at,
                )
                change.writes += follows.writes
                change.queued += follows.queued

    def _plan_row(
        self, change: _Change, known: _Known, *, branch: str, problem: str, at: datetime
    ) -> None:
        """`branch` is the ref whose definitions are in force: a restart takes them up from there,
        also where the remote's HEAD names another branch, or none, by now."""
        old = known.row or RepositoryRow(self._name, self._url, branch)
        new = old._replace(url=self._url, branch=branch, problem=problem, fetched_at=at)
        fresh = old.fetched_at is not None and at - old.fetched_at < _FETCHED_EVERY
        if not fresh or change.writes or new._replace(fetched_at=old.fetched_at) != old:
            change.writes.insert(0, PutRepository(new))

    def _say_once(self, kept: str) -> None:
        if kept and kept != self._said:
            _log.warning("definitions_kept", repository=self._name, problem=kept)
            self._warn(kept)
        self._said = kept

    async def _take_effect(self, change: _Change) -> None:
        for workflow in change.queued:  # first: whatever fails below must not hold up a run
            self._intake.queued(self._name, workflow)
        if change.done is not None:
            self._unread = frozenset()
            await self._enforce(change.done.applied)
        self.reconciled = True
        if change.done is not None:
            self._report(change.done)

    async def _enforce(self, applied: Applied) -> None:
        for live in applied.workflows.values():
            if live.stale:
                await self._pin(live.commit)
        await self._ticker.replace(applied)
        self._applied = applied  # last: the next look takes up again what failed before this

    async def _pin(self, commit: str) -> None:
        try:
            await asyncio.to_thread(self._mirror.pin, commit)
        except GitError as error:
            if commit not in self._unpinned:
                _log.warning("commit_not_pinned", repository=self._name, problem=str(error))
            self._unpinned.add(commit)
        else:
            self._unpinned.discard(commit)

    def _report(self, done: Reconciled) -> None:
        diff = done.diff
        _log.info(
            "catalog_applied",
            repository=self._name,
            commit=done.applied.commit,
            n=done.applied.n,
            workflows=len(done.applied.workflows),
            broken=len(done.catalog.problems),
            added=diff.added,
            changed=diff.changed,
            removed=diff.removed,
            schedules_added=diff.schedules_added,
            schedules_changed=diff.schedules_changed,
            schedules_removed=diff.schedules_removed,
        )
        for problems in done.catalog.problems.values():
            for problem in problems:
                _log.error("definition_broken", repository=self._name, problem=str(problem))
        for workflow in (*diff.added, *diff.changed)[:_MOST_WARNED]:
            entry = done.catalog.entries.get(workflow)
            for warning in done.catalog.warnings.get(entry.path, ()) if entry is not None else ():
                _log.warning("definition_questioned", repository=self._name, warning=str(warning))
        self._announce(done)

    def _served(self, head: str) -> str:
        return f"{BRANCHES}{self._branch}" if self._branch else head

    def _never_served(self, row: RepositoryRow | None) -> bool:
        """Was another branch configured since the last look? Then a missing one is a mistake."""
        return row is not None and bool(self._branch) and row.branch != self._served("")

    async def _is_the_same(
        self, row: RepositoryRow, refs: Mapping[str, RefRow], seen: Seen
    ) -> bool:
        """Is a repository at a new URL the known one that moved? Then they share a ref, or the
        applied commit is in its history."""
        if row.fetched_at is None or row.url == self._url:
            return True
        if any(known.oid and seen.refs.get(ref) == known.oid for ref, known in refs.items()):
            return True
        for oid in seen.refs.values():
            if await asyncio.to_thread(self._mirror.is_ancestor, row.applied_commit, oid):
                return True
        return False

    def _another(self, row: RepositoryRow) -> GitError:
        return GitError(
            f'"{self._name}" is {row.url} in this data folder, and {self._url} shares no history '
            "with it; set DAGMILL_NAME to another name, or choose another --data"
        )

    def _gone(self, served: str) -> str:
        name = served.removeprefix(BRANCHES)
        what = f'branch "{name}" is gone' if name else "the remote's HEAD names no branch"
        return f"{what}; {_kept(self._applied)}"

    def _no_branch(self, served: str, seen: Seen) -> BranchMissing:
        branches = sorted(
            ref.removeprefix(BRANCHES)
            for ref in seen.refs
            if ref.startswith(BRANCHES) and ref != STATUS_REF
        )
        if not branches:
            return BranchMissing(
                f"repository {self._url} is empty; push a first commit, then start again"
            )
        wanted = served.removeprefix(BRANCHES) or "the remote's HEAD"
        return BranchMissing(
            f'repository {self._url} has no branch "{wanted}"; it has '
            f"{', '.join(branches[:10])}; choose one with --branch"
        )


def _named(row: DefinitionRow) -> Named:
    return row.path, row.blob, row.base_blob


def _kept(applied: Applied) -> str:
    number = len(applied.workflows)
    if not number:
        return "commit one to begin"
    return (
        "1 definition stays as it was" if number == 1 else f"{number} definitions stay as they were"
    )


def _unusable(catalog: Catalog | None, applied: Applied) -> str:
    """What people must know of files that never were good: no workflow stands for them anywhere.
    A file that was good once has its problems beside its workflow."""
    if catalog is None:
        return ""
    shown = {p.path for w in applied.workflows.keys() & catalog.broken for p in catalog.broken[w]}
    first = [
        problems[0] for path, problems in sorted(catalog.problems.items()) if path not in shown
    ]
    if not first:
        return ""
    files = "1 file was" if len(first) == 1 else f"{len(first)} files were"
    return f"{files} never good; {first[0]}"
