"""Limits are taken by root runs only: however deep and narrow a tree of runs is, it ends.

With the real engine and real processes, as a deadlock shows nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from house import House

from runner.control.mirror_library import MirrorLibrary
from runner.engine.engine import Engine
from runner.language.subworkflows import MOST_DEPTH
from storage.mask import Mask
from storage.records import RunRow, Write

NARROW = "maxActiveRuns: 1\nmaxActiveSteps: 1\nqueue: one\nconcurrency: one\n"


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
        if row.finished_at is not None:
            (self.children if row.parent else self.ended).append(row)
        return ()

    async def until_ended(self, number: int) -> list[RunRow]:
        await self.house.until(lambda: len(self.ended) >= number, "ended")
        return self.ended

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


@pytest.fixture
async def trees(house: House, tmp_path: Path) -> AsyncIterator[Trees]:
    async with _running(Trees(house, tmp_path)) as running:
        yield running


@asynccontextmanager
async def _running(trees: Trees) -> AsyncIterator[Trees]:
    loops = [
        asyncio.create_task(trees.engine.run_forever()),
        asyncio.create_task(trees.house.admission.run_forever()),
    ]
    yield trees
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)


def tower(depth: int, *, settings: str) -> dict[str, str]:
    """Workflows that run each other, `w0` at the top."""
    files = {
        f"w{n}": f"""{settings}
steps:
  - {{name: before, command: echo {n} >>said}}
  - {{name: below, run: w{n + 1}, depends: before}}
  - {{name: after, command: echo {n} >>said, depends: below}}
"""
        for n in range(depth)
    }
    return {**files, f"w{depth}": f"{settings}steps: [{{command: echo {depth} >>said}}]\n"}


async def queue(trees: Trees, *workflows: str) -> list[str]:
    runs = []
    for workflow in workflows:
        trees.house.clock.forward(seconds=1)
        row = await trees.house.intake.start_by_hand(
            None, workflow, params=(), actor="ada", request=None
        )
        runs.append(row.run)
    return runs


async def test_the_deepest_tree_with_every_limit_at_one_ends(trees: Trees) -> None:
    await trees.house.push(**tower(MOST_DEPTH, settings=NARROW))
    runs = await queue(trees, "w0", "w0", "w5")
    ended = await trees.until_ended(3)
    assert [(row.run, row.status) for row in ended] == [(run, "succeeded") for run in runs]
    numbers = [str(n) for n in range(MOST_DEPTH + 1)]
    whole = [*numbers, *numbers[-2::-1]]
    assert trees.said == [*whole, *whole, *whole[5:-5]]
    assert {row.status for row in trees.children} == {"succeeded"}
    assert len(trees.children) == 2 * MOST_DEPTH + 5


async def test_two_trees_that_need_each_others_groups_take_turns(trees: Trees) -> None:
    def both(first: str, second: str) -> str:
        return (
            f"concurrency: {first}\nsteps: [{{name: a, command: echo {first} >>said}},"
            f" {{run: part-{second}, depends: a}}]\n"
        )

    def part(group: str) -> str:
        return f"concurrency: {group}\nsteps: [{{command: echo {group} >>said}}]\n"

    await trees.house.push(
        **{"x": both("g", "h"), "y": both("h", "g"), "part-g": part("g"), "part-h": part("h")}
    )
    runs = await queue(trees, "x", "y", "x", "y")
    ended = await trees.until_ended(4)
    assert [(row.run, row.status) for row in ended] == [(run, "succeeded") for run in runs]
    assert trees.said == ["g", "h", "h", "g"] * 2


async def test_child_runs_take_no_place_of_their_workflow(trees: Trees) -> None:
    """A child takes no place of its workflow's maxActiveRuns, nor of its queue."""
    await trees.house.push(
        a="steps: [{name: all, run: b, parallel: [1, 2, 3]}]\n",
        b="maxActiveRuns: 1\nqueue: one\nsteps: [{command: echo b >>said}]\n",
    )
    first, second = await queue(trees, "a", "b")
    ended = await trees.until_ended(2)
    assert {(row.run, row.status) for row in ended} == {(first, "succeeded"), (second, "succeeded")}
    assert trees.said == ["b"] * 4
