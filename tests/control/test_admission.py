from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from house import House

from storage.records import RunRow
from storage.store import StorageError

ONE = 'steps: [{command: "true"}]\n'


@asynccontextmanager
async def admitting(house: House) -> AsyncIterator[None]:
    loop = asyncio.create_task(house.admission.run_forever())
    yield
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def queue(house: House, workflow: str, number: int) -> list[str]:
    runs = []
    for _ in range(number):
        house.clock.forward(seconds=1)
        row = await house.intake.start_by_hand(None, workflow, params=(), actor="ada", request=None)
        runs.append(row.run)
    return runs


async def test_the_oldest_starts_and_the_next_when_it_has_ended(house: House) -> None:
    await house.push(a=ONE)
    runs = await queue(house, "a", 3)
    async with admitting(house):
        await house.until(lambda: len(house.started) == 1, "runs")
        await house.finish(runs[0], status="failed")
        await house.until(lambda: len(house.started) == 2, "runs")
    assert house.started == runs[:2]


async def test_max_active_runs_are_admitted_at_once(house: House) -> None:
    await house.push(a="maxActiveRuns: 2\n" + ONE, b="maxActiveRuns: 0\n" + ONE)
    two, all_of_it = await queue(house, "a", 3), await queue(house, "b", 3)
    async with admitting(house):
        await house.until(lambda: len(house.started) == 5, "runs")
    assert sorted(house.started) == sorted([*two[:2], *all_of_it])


async def test_a_restart_takes_up_what_was_running_and_then_what_was_queued(house: House) -> None:
    await house.push(a=ONE)
    runs = await queue(house, "a", 2)
    async with admitting(house):
        await house.until(lambda: house.started == runs[:1], "runs")
    house.started.clear()
    house.build()
    await house.reconciler.restore()
    assert await house.admission.restore() == 1
    async with admitting(house):
        assert house.started == runs[:1]
        await house.finish(runs[0])
        await house.until(lambda: house.started == runs, "runs")


async def test_a_run_whose_definition_cannot_be_read_fails_and_blocks_nobody(
    house: House, tmp_path: Path
) -> None:
    await house.push(a=ONE)
    runs = await queue(house, "a", 2)
    with sqlite3.connect(tmp_path / "data/dagmill.sqlite") as database:
        database.execute("DELETE FROM events WHERE run = ?", (runs[0],))
    database.close()
    async with admitting(house):
        await house.until(lambda: house.started == runs[1:], "runs")
    row = await house.store.run(runs[0])
    assert row is not None
    assert (row.status, row.reason) == ("failed", f"no run {runs[0]}")


async def test_nothing_starts_once_admission_is_closed_or_the_disk_is_full(house: House) -> None:
    await house.push(a=ONE, b=ONE)
    house.free_bytes = 1
    await queue(house, "a", 1)
    async with admitting(house):
        await queue(house, "b", 1)
        house.admission.close()
        house.free_bytes = 10**12
        await queue(house, "b", 1)
    assert house.started == []


async def test_what_is_queued_starts_after_reads_have_failed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.push(a=ONE)
    runs = await queue(house, "a", 1)
    read, failures = house.store.queued, 2

    async def broken(repository: str, workflow: str, *, limit: int) -> list[RunRow]:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise StorageError("cannot read the database: disk I/O error")
        return await read(repository, workflow, limit=limit)

    monkeypatch.setattr(house.store, "queued", broken)
    async with admitting(house):
        await house.until(lambda: house.started == runs, "runs")
