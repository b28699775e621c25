"""Clears away what final runs leave: their workspaces, and the pins of their commits.

Pays the owed `cleanup` rows, whose keys are runs. Leaves processes to the engine, which ends them
before a run is final, and when to pay to the reporter. Its rule: a commit stays pinned as long as
an unfinished or kept run, a stale definition or the next schedule needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.control.reporter import NotPaid
from runner.engine import workspace
from storage.mirror import GitError, Mirror
from storage.records import OwedRow
from storage.store import Store


class Janitor:
    """`__call__` is a reporter's Payer. `mirrors` by repository name."""

    def __init__(self, store: Store, *, workspaces: Path, mirrors: Mapping[str, Mirror]) -> None:
        self._store = store
        self._workspaces = workspaces
        self._mirrors = mirrors

    async def __call__(self, rows: Sequence[OwedRow]) -> None:
        """Clear up after the runs whose ids are the keys of `rows`. Raises NotPaid."""
        problems: list[str] = []
        repositories: set[str] = set()
        for row in rows:
            run = await self._store.run(row.key)
            if run is not None:
                repositories.add(run.repository)
            folder = workspace.workspace_folder(self._workspaces, row.key)
            try:
                await asyncio.to_thread(workspace.remove, folder)
            except OSError as error:
                problems.append(f"{folder} cannot be deleted: {error}")
        for repository in sorted(repositories & self._mirrors.keys()):
            try:
                await self._unpin(repository, paid=frozenset(row.key for row in rows))
            except GitError as error:
                problems.append(str(error))
        if problems:
            raise NotPaid("; ".join(problems[:3]))

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
