"""A house whose runs are carried out by the real engine, with sub-workflows and real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from house import House

from runner.control.mirror_library import MirrorLibrary
from runner.engine.engine import Engine
from storage.mask import Mask
from storage.records import Owe, RunRow, Write


class Trees:
    """A house whose runs are carried out. `ended` are the root runs that are over, in order, and
    `children` the others."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house = house
        self.ended: list[RunRow] = []
        self.children: list[RunRow] = []
        self.workspace = folder / "workspace"
        self.workspace.mkdir()
        house.library = MirrorLibrary(house.store, {"ops": house.mirror}, folder=".dagu")
        self.engine = Engine(
            store=house.store,
            runs=folder / "runs",
            workspaces=self.workspace,
            clock=lambda: datetime.now(UTC),
            inherited={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            mask=Mask(()),
            zone="UTC",
            owes=self._over,
            max_steps=1,
            library=house.library,
        )
        house.started = _Handed(self.engine)
        house.build()

    def _over(self, row: RunRow) -> tuple[Write, ...]:
        if row.finished_at is None:
            return ()
        (self.children if row.parent else self.ended).append(row)
        return () if row.parent else (Owe("summary", row.run, self.house.clock()),)

    async def until_ended(self, number: int) -> list[RunRow]:
        await self.house.until(lambda: len(self.ended) >= number, "ended")
        return self.ended

    async def queue(self, *workflows: str) -> list[str]:
        """Their runs, in the order in which they were queued."""
        runs = []
        for workflow in workflows:
            self.house.clock.forward(seconds=1)
            row = await self.house.intake.start_by_hand(
                None, workflow, params=(), actor="ada", request=None
            )
            runs.append(row.run)
        return runs

    @property
    def said(self) -> list[str]:
        """What steps wrote to the workspace's file `said`."""
        return (self.workspace / "said").read_text().split()


class _Handed(list[str]):
    """Hands on to the engine what is added."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def append(self, run: str) -> None:
        super().append(run)
        self._engine.supervise(run)


@asynccontextmanager
async def growing(trees: Trees) -> AsyncIterator[Trees]:
    loops = [
        asyncio.create_task(trees.engine.run_forever()),
        asyncio.create_task(trees.house.admission.run_forever()),
    ]
    yield trees
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
