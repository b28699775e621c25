"""Runs of a repository that are asked for things: a bench with checkouts and requests."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from real_run import RUN, Bench, Done

from runner.control.claiming import Claiming
from runner.control.folder_library import FolderLibrary
from runner.control.requests import Requests
from runner.engine import journal
from storage.records import RunRow

ORIGIN = journal.Origin("ops", "refs/heads/main", "c" * 40, "b" * 40)


class Desk(Bench):
    """`tree` is what a checkout of any commit holds; sub-workflows lie in `files`."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.tree = folder / "tree"
        self.tree.mkdir()
        self.files = folder / "files"
        self.files.mkdir()
        self.gone = False  # whether the commit is
        library = FolderLibrary(self.files, root=folder)
        super().__init__(folder, library=library, checkout=self._checkout, **options)

    def open(self) -> None:
        super().open()
        self.requests = Requests(
            self.store,
            record=self.engine.request,
            clock=self.now,
            claiming=Claiming(queues={}),
            queued=lambda repository, workflow: None,
            pin=self._pin,
        )

    async def _checkout(self, repository: str, commit: str, folder: Path) -> None:
        await asyncio.to_thread(shutil.copytree, self.tree, folder)

    async def _pin(self, commit: str) -> None:
        assert commit == ORIGIN.commit

    def write(self, id: str, text: str) -> None:
        (self.files / f"{id}.yaml").write_text(text)

    async def run(self, text: str, *given: str) -> Done:
        """Run it to its end, as pushed."""
        await self.queue(text, *given, origin=ORIGIN)
        return await self.complete()

    async def retry(
        self, run: str = RUN, *, from_step: str | None = None, all_steps: bool = False
    ) -> Done:
        """Ask for a retry and carry it out."""
        row = await self.ask_again(run, from_step=from_step, all_steps=all_steps)
        await self.start(row.run)
        return await self.complete(row.run)

    async def ask_again(
        self,
        run: str = RUN,
        *,
        from_step: str | None = None,
        all_steps: bool = False,
        request: str | None = None,
    ) -> RunRow:
        return await self.requests.retry(
            run, from_step=from_step, all_steps=all_steps, actor="anna", request=request
        )

    def made(self, run: str = RUN) -> list[str]:
        """What steps wrote to the file `made` of the run's workspace."""
        file = self.workspace / run / "made"
        return file.read_text().split() if file.exists() else []

    async def children(self, run: str) -> list[RunRow]:
        rows = await self.store.runs(parent=run)
        return sorted(rows, key=lambda row: (row.queued_at, row.run))
