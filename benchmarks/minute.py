"""Fifty workflows that are due in the same minute: how late the median and the last one start.

The clock that the ticker is given is moved, so that each minute begins after two seconds; the
rest is real. The floor spawns fifty of the same wrapped steps from a loop.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

from benchmarks import floor, house
from benchmarks.chains import WIDE
from benchmarks.house import House
from benchmarks.paired import Budget, Latency, Result, told
from benchmarks.repository import Repository
from benchmarks.witness import Witness, witness

DUE = 50
MINUTES = 6
_LEAD = timedelta(seconds=2)
_BUDGETS = {"median": Budget(p50_s=0.03), "last": Budget(p50_s=0.15)}


def minute_benchmarks(folder: Path) -> list[Result]:
    with witness(folder) as seen:
        repository = Repository(folder / "ops.git")
        repository.commit({f"w{i}.yaml": _workflow(seen) for i in range(DUE)})
        results = [
            found
            for prepared in (False, True)
            for found in asyncio.run(_minutes(repository, folder, seen, prepared=prepared))
        ]
    return [told(result) for result in results]


def _workflow(seen: Witness) -> str:
    mark = seen.command("$DAG_NAME")
    return f"schedule: '* * * * *'\nsteps: [{{name: mark, command: '{mark}'}}]\n"


async def _minutes(
    repository: Repository, folder: Path, seen: Witness, *, prepared: bool
) -> list[Latency]:
    """Of each minute, when its median and its last step ran, in seconds after its beginning."""
    word = "prepared" if prepared else "unprepared"
    late: dict[str, list[float]] = {"median": [], "last": []}
    least: dict[str, list[float]] = {"median": [], "last": []}
    async with house.opened(folder / word, remote=repository.path, prepared=prepared) as parts:
        await parts.reconciler.look()
        ticking = asyncio.create_task(parts.ticker.run_forever())
        for i in range(MINUTES):
            _note(late, await _minute(parts, seen))
            _note(least, _floor(folder / f"{word}-floor{i}", seen))
        ticking.cancel()
    return [
        Latency(
            f"{DUE} due in a minute → {which} process ({word})",
            tuple(late[which]),
            tuple(least[which]),
            budget,
        )
        for which, budget in _BUDGETS.items()
    ]


def _note(delays: dict[str, list[float]], found: list[float]) -> None:
    delays["median"].append(median(found))
    delays["last"].append(max(found))


async def _minute(parts: House, seen: Witness) -> list[float]:
    slot = _following_minute(parts.clock() + _LEAD)
    parts.clock.ahead += slot - _LEAD - parts.clock()
    begin = time.monotonic() + (slot - parts.clock()).total_seconds()
    await parts.ticker.replace(parts.reconciler.applied())  # wakes it, to look at the clock anew
    await asyncio.sleep(_LEAD.total_seconds())
    found = await asyncio.to_thread(_all, seen, [f"w{i}" for i in range(DUE)])
    await parts.engine.drain(30)
    return [at - begin for at in found]


def _following_minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0) + timedelta(minutes=1)


def _all(seen: Witness, words: list[str]) -> list[float]:
    return [seen.wait(word) for word in words]


def _floor(folder: Path, seen: Witness) -> list[float]:
    begin = time.monotonic()
    floor.wrapped(DUE, folder, wide=WIDE, command=seen.command("floor{}"))
    return [at - begin for at in _all(seen, [f"floor{i}" for i in range(DUE)])]
