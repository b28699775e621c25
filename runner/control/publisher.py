"""Writes what runs came to onto the status branch of their repository.

Pays the owed `summary` rows: reads the runs from the store, builds the files, has them committed
and pushed in one commit. Leaves when to do so to the reporter and what a summary says to
`engine.summary`. Its rule: the files follow from the store, so that writing them again changes
nothing; what is younger on the branch stays, and a refused push never fails a run.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from runner.control.applied import Applied
from runner.control.dashboard import (
    Line,
    commit_message,
    latest_path,
    page_path,
    readme,
    run_path,
)
from runner.control.reporter import NotPaid
from runner.control.summaries import with_children
from runner.engine import summary
from runner.engine.history import HistoryError
from runner.engine.journal import UnreadableRecord
from storage import branch
from storage.branch import Changes, TreeView
from storage.mirror import AccessDenied, GitError, Mirror, PushRefused
from storage.records import OwedRow, RunRow
from storage.store import Store

STATUS_BRANCH = "dagmill/status"
AUTHOR = ("Dagmill", "dagmill@localhost")
_KEPT_SEEN = 20_000
_WORD = re.compile(r"[A-Za-z0-9_-]{1,64}")
_COMMIT = re.compile(r"[0-9a-f]{0,64}")
_LONGEST_MS = 100 * 366 * 86_400_000
_CLOCKS_DIFFER = timedelta(days=1)  # what is queued later than that from now, no service queued

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """One repository to publish to. `next_times`: workflow → its next slot."""

    mirror: Mirror
    applied: Callable[[], Applied]
    next_times: Callable[[], Mapping[str, datetime]]


@dataclass(frozen=True, slots=True)
class _Told:
    """One final run with its summary document."""

    row: RunRow
    document: dict[str, Any]


class Publisher:
    """`__call__` is a reporter's Payer. `sites` by repository name."""

    def __init__(
        self, store: Store, sites: Mapping[str, Site], *, clock: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._sites = sites
        self._clock = clock
        self._seen: dict[str, Line | None] = {}
        self._refused: set[str] = set()  # repositories whose refusal was said already

    async def __call__(self, rows: Sequence[OwedRow]) -> None:
        """Publish the runs whose ids are the keys of `rows`. Raises NotPaid."""
        told: dict[str, list[_Told]] = {}
        for row in rows:
            run = await self._store.run(row.key)
            if run is None or run.finished_at is None or run.repository not in self._sites:
                continue
            if run.parent:
                continue  # it is told with its root
            try:
                one = _Told(run, await with_children(self._store, run.run))
            except (HistoryError, UnreadableRecord) as error:
                # given up because it cannot be read: it must not keep the others from being told
                _log.error("summary_not_written", run=run.run, problem=str(error))
            else:
                told.setdefault(run.repository, []).append(one)
        for repository, runs in told.items():
            await self._publish(repository, runs)

    async def _publish(self, repository: str, told: Sequence[_Told]) -> None:
        site = self._sites[repository]
        latest = await self._latest(repository, site.applied(), told)
        lines = [
            _line(workflow, latest.get(workflow), site=site)
            for workflow in sorted({*site.applied().workflows, *latest})
        ]
        at = self._clock()
        update = _Update(repository, told, lines, seen=self._seen, at=at)
        try:
            commit = await asyncio.to_thread(
                branch.publish,
                site.mirror,
                branch=STATUS_BRANCH,
                edit=update.changes,
                message=update.message,
                author_name=AUTHOR[0],
                author_email=AUTHOR[1],
                at=at,
            )
        except GitError as error:
            self._warn(repository, error)
            raise NotPaid(str(error)) from error
        self._refused.discard(repository)
        _log.info("summaries_published", repository=repository, runs=len(told), commit=commit)

    def _warn(self, repository: str, error: GitError) -> None:
        if not isinstance(error, PushRefused | AccessDenied) or repository in self._refused:
            return
        self._refused.add(repository)
        _log.warning(
            "status_branch_refused",
            repository=repository,
            branch=STATUS_BRANCH,
            problem=str(error),
            remedy=f"allow the service's credential to push {STATUS_BRANCH}",
        )

    async def _latest(
        self, repository: str, applied: Applied, told: Sequence[_Told]
    ) -> dict[str, RunRow]:
        """Workflow → its newest final run, of those told now and those in force."""
        wanted = {*applied.workflows, *(one.row.workflow for one in told)}
        rows = {w: await self._store.latest_run(repository, w) for w in wanted}
        return {workflow: row for workflow, row in rows.items() if row is not None}


class _Update:
    """What is told now, against what is on the branch: computed again after each lost race, as
    another service may publish there too. `seen` keeps what was read of `latest/`, by blob."""

    def __init__(
        self,
        repository: str,
        told: Sequence[_Told],
        lines: Sequence[Line],
        *,
        seen: dict[str, Line | None],
        at: datetime,
    ) -> None:
        self._repository = repository
        self._told = told
        self._lines = lines
        self._seen = seen
        self._at = at
        self._runs = {f"{_stem(one)}.json": one.row for one in told}

    def changes(self, tree: TreeView) -> Changes:
        """Files that are not there yet, and the dashboard that goes with them.

        Nothing if all runs are there: a push was taken and its answer lost, or we were killed
        after it. What is new on the dashboard then comes with the next run.
        """
        files: dict[str, bytes] = {}
        for one in self._told:
            files[f"{_stem(one)}.json"] = _json(one.document)
            files[f"{_stem(one)}.md"] = summary.markdown(one.document).encode()
        files = {path: data for path, data in files.items() if tree.read(path) != data}
        lines = {line.workflow: self._younger(tree, line) for line in self._lines}
        for one in self._told:
            path = latest_path(one.row.workflow)
            data = _json(one.document)
            if lines[one.row.workflow].run == one.row.run and tree.read(path) != data:
                files[path] = data
        if files:
            shown = [_linked(line, tree, files=files) for line in lines.values()]
            files["README.md"] = readme(self._repository, shown).encode()
        return files

    def message(self, changes: Changes) -> str:
        new = [row for path, row in self._runs.items() if path in changes]
        return commit_message([row.run for row in new], [row.status for row in new])

    def _younger(self, tree: TreeView, ours: Line) -> Line:
        """The line of our newest run, or of that which another service left on the branch."""
        path = latest_path(ours.workflow)
        blob = tree.blob(path)
        if blob is None:
            return ours
        if blob not in self._seen:
            if len(self._seen) >= _KEPT_SEEN:
                self._seen.clear()
            self._seen[blob] = _read_latest(tree.read(path), ours.workflow)
        theirs = self._seen[blob]
        if theirs is None or _age(theirs) <= _age(ours):
            return ours
        if _age(theirs)[0] > self._at + _CLOCKS_DIFFER:
            return ours  # it would be the youngest for ever
        return replace(theirs, name=ours.name, next_at=ours.next_at, stale=ours.stale)


def _stem(one: _Told) -> str:
    return run_path(one.row.workflow, one.row.run, queued_at=one.row.queued_at)


def _linked(line: Line, tree: TreeView, *, files: Mapping[str, bytes]) -> Line:
    """With a link only to what is there: the branch may have been deleted meanwhile."""
    page = page_path(line)
    if page is None or page in files or tree.blob(page) is not None:
        return line
    return replace(line, linked=False)


def _age(line: Line) -> tuple[datetime, str]:
    """In milliseconds, as a summary has no more."""
    at = line.run_queued_at or datetime.min.replace(tzinfo=UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000), line.run


def _read_latest(data: bytes | None, workflow: str) -> Line | None:
    """What a `latest/` file says; None if no service wrote it: anybody may push there, and what
    does not fit must stop nothing."""
    try:
        document = json.loads(data or b"")
        run, status, commit = (document[key] for key in ("run", "status", "commit"))
        queued_at = datetime.fromisoformat(document["queued_at"])
        took = document["duration_ms"]
        fits = _WORD.fullmatch(run) and _WORD.fullmatch(status) and _COMMIT.fullmatch(commit)
        if not fits or queued_at.tzinfo is None or not _is_duration(took):
            return None
        return Line(
            workflow,
            workflow,
            status=status,
            run=run,
            run_queued_at=queued_at.astimezone(UTC),
            commit=commit,
            duration_ms=took,
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _is_duration(found: object) -> bool:
    """Null, or whole milliseconds of a length that can be."""
    return found is None or (type(found) is int and 0 <= found <= _LONGEST_MS)


def _line(workflow: str, row: RunRow | None, *, site: Site) -> Line:
    live = site.applied().workflows.get(workflow)
    name = live.entry.name if live is not None else workflow
    next_at = site.next_times().get(workflow)
    stale = live is not None and live.stale
    if row is None:
        return Line(workflow, name, next_at=next_at, stale=stale)
    took = row.finished_at - row.started_at if row.finished_at and row.started_at else None
    return Line(
        workflow,
        name,
        status=row.status,
        run=row.run,
        run_queued_at=row.queued_at,
        commit=row.commit,
        duration_ms=None if took is None else took // timedelta(milliseconds=1),
        next_at=next_at,
        stale=stale,
    )


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()
