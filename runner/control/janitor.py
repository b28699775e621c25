"""Clears away what final runs leave: their workspaces, the pins of their commits, and in the end
the runs themselves.

Pays the owed `cleanup` and `expire` rows, whose keys are root runs. Leaves processes to the engine,
which ends them before a run is final, and when to pay to the reporter. Its rules: a commit stays
pinned as long as an unfinished or kept run, a stale definition or the next schedule needs it; and
files go before the rows that tell where they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import structlog

from runner.control.reporter import NotPaid
from runner.engine import workspace
from storage.mirror import GitError, Mirror
from storage.records import DeleteRun, OwedRow
from storage.store import Store

_log = structlog.get_logger(__name__)


class Janitor:
    """`clean_up` and `expire` are reporters' Payers. `runs` has the folders of logs, `mirrors` are
    by repository name."""

    def __init__(
        self, store: Store, *, runs: Path, workspaces: Path, mirrors: Mapping[str, Mirror]
    ) -> None:
        self._store = store
        self._runs = runs
        self._workspaces = workspaces
        self._mirrors = mirrors

    async def clean_up(self, rows: Sequence[OwedRow]) -> None:
        """Delete the workspaces of the runs whose ids are the keys of `rows`. Raises NotPaid."""
        problems: list[str] = []
        repositories: set[str] = set()
        for row in rows:
            run = await self._store.run(row.key)
            if run is not None:
                repositories.add(run.repository)
            problems += await self._remove(self._workspaces_of(row.key))
        problems += await self._unpin_all(repositories, paid=rows)
        _raise(problems)

    async def expire(self, rows: Sequence[OwedRow]) -> None:
        """Delete the runs whose ids are the keys of `rows`, their children and all their files.
        Raises NotPaid."""
        problems: list[str] = []
        repositories: set[str] = set()
        for row in rows:
            run = await self._store.run(row.key)
            if run is not None and run.finished_at is None:
                continue
            logs = workspace.run_folder(self._runs, row.key).parent
            kept = await self._remove([*self._workspaces_of(row.key), logs])
            problems += kept
            if run is not None and not kept:
                repositories.add(run.repository)
                await self._store.write(DeleteRun(row.key))
                _log.info(
                    "run_deleted", run=row.key, workflow=run.workflow, kept_days=run.keep_days
                )
            with suppress(OSError):  # other runs of the month are there
                logs.parent.rmdir()
        problems += await self._unpin_all(repositories, paid=rows)
        _raise(problems)

    def _workspaces_of(self, run: str) -> list[Path]:
        return [
            workspace.workspace_folder(self._workspaces, run),
            workspace.workspaces_below(self._workspaces, run),
        ]

    async def _remove(self, folders: Sequence[Path]) -> list[str]:
        """What could not be deleted, and why."""
        problems = []
        for folder in folders:
            try:
                await asyncio.to_thread(workspace.remove, folder)
            except OSError as error:
                problems.append(f"{folder} cannot be deleted: {error}")
        return problems

    async def _unpin_all(self, repositories: set[str], *, paid: Sequence[OwedRow]) -> list[str]:
        """What could not be unpinned, and why."""
        problems = []
        for repository in sorted(repositories & self._mirrors.keys()):
            try:
                await self._unpin(repository, paid=frozenset(row.key for row in paid))
            except GitError as error:
                problems.append(str(error))
        return problems

    async def _unpin(self, repository: str, *, paid: frozenset[str]) -> None:
        mirror = self._mirrors[repository]
        pinned = await asyncio.to_thread(mirror.pins)
        loose = pinned - await self._needed(repository, paid=paid)
        for commit in loose:
            await asyncio.to_thread(mirror.unpin, commit)
        # A run may have been queued meanwhile that found its commit still pinned.
        for commit in loose & await self._needed(repository, paid=paid):
            await asyncio.to_thread(mirror.pin, commit)

    async def _needed(self, repository: str, *, paid: frozenset[str]) -> frozenset[str]:
        used = await self._store.commits_in_use(repository, but_for=paid)
        row = await self._store.repository(repository)
        if row is None:
            return used
        definitions = await self._store.definitions(repository, row.branch)
        stale = {d.commit for d in definitions.values() if d.problems}
        return used | stale | {row.applied_commit}


def _raise(problems: Sequence[str]) -> None:
    if problems:
        raise NotPaid("; ".join(problems[:3]))
