"""From a start by hand to the process: by the API of a real `dagmill serve`, and from inside.

Each start is followed by its floor, the same wrapped step spawned from this program. "Unprepared"
has the run's files checked out in between; "prepared" has its workspace there already.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from benchmarks import house
from benchmarks.floor import spawn
from benchmarks.house import House
from benchmarks.paired import Budget, Latency, Result, told
from benchmarks.repository import Repository
from benchmarks.serving import serving
from benchmarks.witness import Witness, witness

STARTS = 150
BUDGET = Budget(p50_s=0.005, p99_s=0.025)


def trigger_benchmarks(folder: Path) -> list[Result]:
    with witness(folder) as seen:
        repository = Repository(folder / "ops.git")
        text = (
            f"maxActiveRuns: 0\nsteps: [{{name: mark, command: '{seen.command('$DAG_RUN_ID')}'}}]\n"
        )
        repository.commit({"marks.yaml": text})
        results = [
            *_by_api(repository, folder, seen),
            asyncio.run(_from_inside(repository, folder, seen, prepared=False)),
            asyncio.run(_from_inside(repository, folder, seen, prepared=True)),
        ]
    return [told(result) for result in results]


def _by_api(repository: Repository, folder: Path, seen: Witness) -> list[Latency]:
    asked_s, answered_s, floors_s = [], [], []
    with serving(repository.path, folder / "api") as served:
        connection = served.connect()
        for i in range(STARTS):
            begin = time.monotonic()
            run = served.start(connection, "marks")
            answered = time.monotonic()
            marked = seen.wait(run)
            asked_s.append(marked - begin)
            answered_s.append(marked - answered)
            time.sleep(0.02)  # until the run has ended
            floors_s.append(_floor(folder / "api-floor", seen, i))
        connection.close()
    # The process may run before its answer is read: no ratio can be made of that.
    return [
        Latency("API asked → process (unprepared)", tuple(asked_s), tuple(floors_s), BUDGET),
        Latency("API answered → process (unprepared)", tuple(answered_s), (), BUDGET),
    ]


async def _from_inside(
    repository: Repository, folder: Path, seen: Witness, *, prepared: bool
) -> Latency:
    word = "prepared" if prepared else "unprepared"
    times, floors = [], []
    async with house.opened(folder / word, remote=repository.path, prepared=prepared) as parts:
        await parts.reconciler.look()
        for i in range(STARTS):
            times.append(await _started(parts, seen))
            await parts.engine.drain(30)
            floors.append(_floor(folder / f"{word}-floor", seen, i))
    name = f"stored → process, in process ({word})"
    return Latency(name, tuple(times), tuple(floors), BUDGET)


async def _started(parts: House, seen: Witness) -> float:
    row = await parts.intake.start_by_hand(
        house.REPOSITORY, "marks", params=(), actor="bench", request=None
    )
    begin = time.monotonic()
    return await asyncio.to_thread(seen.wait, row.run) - begin


def _floor(folder: Path, seen: Witness, i: int) -> float:
    begin = time.monotonic()
    pid = spawn(folder / str(i), command=seen.command(f"floor-{i}"))
    found = seen.wait(f"floor-{i}") - begin
    os.waitpid(pid, 0)
    return found
