"""Writes what runs came to onto the status branch of their repository.

Pays the owed `summary` rows: reads the runs from the store, builds the files, has them committed
and pushed in one commit. Leaves when to do so to the reporter and what a summary says to
`engine.summary`. Its rule: the files follow from the store, so that writing them again changes
nothing, and a refused push never fails a run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from runner.control.applied import Applied
from runner.control.dashboard import Line, commit_message, latest_path, readme, run_path
from runner.control.reporter import NotPaid
from runner.engine import summary
from runner.engine.history import History
from storage import branch
from storage.branch import Changes, TreeView
from storage.mirror import GitError, Mirror, PushRefused
from storage.records import OwedRow, RunRow
from storage.store import Store

STATUS_BRANCH = "dagmill/status"
AUTHOR = ("Dagmill", "dagmill@localhost")

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
        self._refused: set[str] = set()  # repositories whose refusal was said already

    async def __call__(self, rows: Sequence[OwedRow]) -> None:
        """Publish the runs whose ids are the keys of `rows`. Raises NotPaid."""
        told: dict[str, list[_Told]] = {}
        for row in rows:
            run = await self._store.run(row.key)
            if run is not None and run.finished_at is not None and run.repository in self._sites:
                told.setdefault(run.repository, []).append(_Told(run, await self._document(run)))
        for repository, runs in told.items():
            await self._publish(repository, runs)

    async def _publish(self, repository: str, told: Sequence[_Told]) -> None:
        site = self._sites[repository]
        latest = await self._latest(repository, site.applied(), told)
        newest = [one for one in told if latest[one.row.workflow].run == one.row.run]
        files = _run_files(told)
        lines = [
            _line(workflow, latest.get(workflow), site=site)
            for workflow in sorted({*site.applied().workflows, *latest})
        ]
        page = readme(repository, lines).encode()

        def edit(tree: TreeView) -> Changes:
            return {**files, **_latest_files(tree, newest), "README.md": page}

        try:
            commit = await asyncio.to_thread(
                branch.publish,
                site.mirror,
                branch=STATUS_BRANCH,
                edit=edit,
                message=lambda _: commit_message(
                    [one.row.run for one in told], [one.row.status for one in told]
                ),
                author_name=AUTHOR[0],
                author_email=AUTHOR[1],
                at=self._clock(),
            )
        except GitError as error:
            self._warn(repository, error)
            raise NotPaid(str(error)) from error
        self._refused.discard(repository)
        _log.info("summaries_published", repository=repository, runs=len(told), commit=commit)

    def _warn(self, repository: str, error: GitError) -> None:
        if not isinstance(error, PushRefused) or repository in self._refused:
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

    async def _document(self, row: RunRow) -> dict[str, Any]:
        history = await History.read(self._store, row.run)
        return summary.for_git(summary.document(row.run, history.state()))


def _run_files(told: Sequence[_Told]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for one in told:
        stem = run_path(one.row.workflow, one.row.run, queued_at=one.row.queued_at)
        files[f"{stem}.json"] = _json(one.document)
        files[f"{stem}.md"] = summary.markdown(one.document).encode()
    return files


def _latest_files(tree: TreeView, newest: Iterable[_Told]) -> dict[str, bytes]:
    """The `latest/` files of runs that are their workflow's newest here; one that is there and
    younger (another publisher's) stays."""
    files: dict[str, bytes] = {}
    for one in newest:
        path = latest_path(one.row.workflow)
        if not _is_younger(tree.read(path), than=one.document):
            files[path] = _json(one.document)
    return files


def _is_younger(there: bytes | None, *, than: Mapping[str, Any]) -> bool:
    if there is None:
        return False
    try:
        document = json.loads(there)
        return bool(_age(document) > _age(than))
    except (ValueError, KeyError, TypeError):
        return False  # not written by us: replace it


def _age(document: Mapping[str, Any]) -> tuple[datetime, str]:
    return datetime.fromisoformat(document["queued_at"]), str(document["run"])


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
