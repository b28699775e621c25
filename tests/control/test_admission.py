from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from house import House

from storage import sqlite
from storage.records import Append, Claim, EventRecord, RunRow, Write
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


async def test_a_run_that_waits_for_a_person_holds_its_place_over_a_restart(house: House) -> None:
    await house.push(a=ONE)
    runs = await queue(house, "a", 2)
    async with admitting(house):
        await house.until(lambda: house.started == runs[:1], "runs")
    await wait_for_a_person(house, runs[0])
    house.started.clear()
    house.build()
    await house.reconciler.restore()
    assert await house.admission.restore() == 1
    async with admitting(house):
        other = await started_afterwards(house, "b")
        assert house.started == [runs[0], other]
        await house.finish(runs[0])
        await house.until(lambda: house.started == [runs[0], other, runs[1]], "runs")


async def wait_for_a_person(house: House, run: str) -> None:
    row = await house.store.run(run)
    assert row is not None
    record = EventRecord(run, row.seq + 1, house.clock(), "Asked", 1, "{}")
    await house.store.write(Append(run, row.seq, (record,), row._replace(status="waiting")))


async def started_afterwards(house: House, workflow: str) -> str:
    """Queue a run that nothing keeps from starting, and wait for it: admission has looked."""
    await house.push(**{workflow: "maxActiveRuns: 0\n" + ONE})
    (run,) = await queue(house, workflow, 1)
    await house.until(lambda: run in house.started, "runs")
    return run


# The order of the queue


async def test_the_more_urgent_start_first_and_of_the_same_urgency_the_older(house: House) -> None:
    await house.push(
        a="queue: one\n" + ONE,
        b="queue: one\npriority: 10\n" + ONE,
        c="queue: one\npriority: -1\n" + ONE,
        d="queue: one\npriority: 10\n" + ONE,
    )
    runs = {w: (await queue(house, w, 1))[0] for w in ("c", "a", "d", "b")}
    async with admitting(house):
        for workflow in ("d", "b", "a", "c"):
            await house.until(lambda: bool(house.started), "runs")
            assert house.started == [runs[workflow]]
            house.started.clear()
            await house.finish(runs[workflow])


async def test_urgency_orders_the_runs_of_one_workflow(house: House) -> None:
    await house.push(a=ONE)
    older = await queue(house, "a", 1)
    await house.push(a="priority: 1\n" + ONE)
    newer = await queue(house, "a", 1)
    async with admitting(house):
        await house.until(lambda: house.started == newer, "runs")
        await house.finish(newer[0])
        await house.until(lambda: house.started == newer + older, "runs")


async def test_a_delayed_run_stays_queued_until_it_is_due_and_keeps_nobody_up(
    house: House,
) -> None:
    await house.push(a="delaySec: 60\n" + ONE)
    (delayed,) = await queue(house, "a", 1)
    await house.push(a=ONE)
    (prompt,) = await queue(house, "a", 1)
    row = await house.store.run(delayed)
    assert row is not None
    assert row.not_before == row.queued_at + timedelta(seconds=60)
    async with admitting(house):
        await house.until(lambda: house.started == [prompt], "runs")
        await house.finish(prompt)
        house.clock.at = row.not_before - timedelta(seconds=1.02)
        other = await started_afterwards(house, "b")
        assert house.clock() < row.not_before
        assert house.started == [prompt, other]
        house.clock.forward(seconds=1)  # nothing happens that would wake admission but its timer
        await house.until(lambda: house.started == [prompt, other, delayed], "runs")


async def test_all_that_there_is_room_for_leaves_the_queue_in_one_commit(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"w{n}" for n in range(50)]
    house.queues["wide"] = 10
    queued = {n: ("queue: wide\n" if n < 10 else "") + ONE for n in range(50)}
    await house.push(**{name: queued[n] for n, name in enumerate(names)})
    runs = [run for name in names for run in await queue(house, name, 1)]
    commit, batches = sqlite._commit, []

    def counted(
        connection: sqlite3.Connection, batch: Sequence[tuple[Write, ...]], *, database: Path
    ) -> list[Exception | None]:
        batches.append(len(batch))
        return commit(connection, batch, database=database)

    monkeypatch.setattr(sqlite, "_commit", counted)
    async with admitting(house):
        await house.until(lambda: len(house.started) == 50, "runs")
    assert house.started == runs
    assert batches == [50]


# Limits that workflows share


async def test_a_named_queue_has_the_size_that_is_set_and_else_room_for_one(house: House) -> None:
    house.queues["gpu"] = 2
    await house.push(
        a="queue: gpu\nmaxActiveRuns: 0\n" + ONE,
        b="queue: gpu\nmaxActiveRuns: 0\n" + ONE,
        c="queue: other\nmaxActiveRuns: 0\n" + ONE,
    )
    others = await queue(house, "c", 2)
    runs = [run for w in ("a", "b", "a", "b") for run in await queue(house, w, 1)]
    async with admitting(house):
        await house.until(lambda: len(house.started) == 3, "runs")
        assert house.started == [others[0], *runs[:2]]
        await wait_for_a_person(house, runs[0])  # which gives no room
        await house.finish(runs[1])
        await house.until(lambda: len(house.started) == 4, "runs")
        await house.finish(runs[0])
        await house.until(lambda: len(house.started) == 5, "runs")
    assert house.started == [others[0], *runs]


async def test_another_size_of_a_queue_counts_for_what_was_queued_before(house: House) -> None:
    await house.push(a="queue: gpu\nmaxActiveRuns: 0\n" + ONE)
    runs = await queue(house, "a", 4)
    house.queues["gpu"] = 3
    await house.restart()
    await house.admission.restore()
    async with admitting(house):
        await house.until(lambda: house.started == runs[:3], "runs")
    assert await house.store.claims(runs[2]) == (Claim("queue:gpu", 3),)


async def test_a_group_is_shared_by_all_workflows_that_name_the_same_text(house: House) -> None:
    group = "params: [ENV: dev]\nconcurrency: deploy-$ENV\nmaxActiveRuns: 0\n" + ONE
    await house.push(a=group, b=group.replace("dev", "prod"), c=group.replace("dev", "prod"))
    runs = [run for w in ("b", "c", "a", "b") for run in await queue(house, w, 1)]
    async with admitting(house):
        await house.until(lambda: house.started == [runs[0], runs[2]], "runs")
        await house.finish(runs[0])
        await house.until(lambda: house.started == [runs[0], runs[2], runs[1]], "runs")


@pytest.mark.parametrize(
    ("held", "needed"),
    [
        ("queue: slow", "queue: slow\n" + ONE),
        ("concurrency: part", "steps: [{run: p}]\n---\nname: p\nconcurrency: part\n" + ONE),
    ],
    ids=["its queue", "another group"],
)
async def test_a_run_does_not_overtake_one_that_has_the_group_and_waits_for_something_else(
    house: House, held: str, needed: str
) -> None:
    """Else a run that needs two limits might wait for ever while others take turns."""
    await house.push(
        a=f"{held}\nmaxActiveRuns: 0\n{ONE}",
        b=f"concurrency: deploy\nmaxActiveRuns: 0\n{needed}",
        c=f"concurrency: deploy\nmaxActiveRuns: 0\n{ONE}",
    )
    runs = [run for w in ("a", "b", "c") for run in await queue(house, w, 1)]
    async with admitting(house):
        last = await started_afterwards(house, "d")
        assert house.started == [runs[0], last]
        await house.finish(runs[0])
        await house.until(lambda: house.started == [runs[0], last, runs[1]], "runs")
        await house.finish(runs[1])
        await house.until(lambda: house.started == [runs[0], last, runs[1], runs[2]], "runs")


async def test_a_run_that_waits_for_its_group_does_not_hold_up_its_queue(house: House) -> None:
    free = "maxActiveRuns: 0\n" + ONE
    await house.push(
        a="concurrency: deploy\n" + free,
        b="queue: slow\nconcurrency: deploy\n" + free,
        c="queue: slow\n" + free,
    )
    runs = [run for w in ("a", "b", "c") for run in await queue(house, w, 1)]
    async with admitting(house):
        await house.until(lambda: house.started == [runs[0], runs[2]], "runs")


async def test_many_runs_behind_one_that_is_not_due_are_all_looked_at(house: House) -> None:
    await house.push(a="maxActiveRuns: 0\npriority: 1\ndelaySec: 3600\n" + ONE)
    await queue(house, "a", 30)
    await house.push(a=ONE)
    last = await queue(house, "a", 1)
    async with admitting(house):
        await house.until(lambda: house.started == last, "runs")


# cancelInProgress

REPLACING = "concurrency: {group: deploy, cancelInProgress: true}\n" + ONE


async def test_a_newer_run_of_the_group_asks_all_older_ones_to_stop_once_and_waits(
    house: House,
) -> None:
    await house.push(a=REPLACING, b="concurrency: deploy\n" + ONE)
    first = await queue(house, "b", 1)
    async with admitting(house):
        await house.until(lambda: house.started == first, "runs")
        second = await queue(house, "b", 1)
        third = await queue(house, "a", 1)
        await started_afterwards(house, "c")
        await started_afterwards(house, "d")
        by = f"run {third[0]}, newer in its concurrency group"
        assert house.stopped == [(first[0], by), (second[0], by)]
        assert third[0] not in house.started
        await house.finish(second[0], status="cancelled")
        await house.finish(first[0], status="cancelled")
        await house.until(lambda: third[0] in house.started, "runs")
    assert second[0] not in house.started


async def test_a_newer_run_of_the_same_workflow_replaces_it_though_one_may_run_at_once(
    house: House,
) -> None:
    await house.push(a=REPLACING)
    async with admitting(house):
        first = await queue(house, "a", 1)
        await house.until(lambda: house.started == first, "runs")
        await queue(house, "a", 1)
        await started_afterwards(house, "c")
    assert [run for run, _ in house.stopped] == first


async def test_a_run_that_an_earlier_process_asked_to_stop_is_not_asked_again(
    house: House,
) -> None:
    await house.push(a=REPLACING)
    runs = await queue(house, "a", 2)
    row = await house.store.run(runs[0])
    assert row is not None
    asked = EventRecord(runs[0], row.seq + 1, house.clock(), "StopRequested", 1, '{"by":"ada"}')
    running = row._replace(status="running", started_at=house.clock())
    await house.store.write(Append(runs[0], row.seq, (asked,), running))
    async with admitting(house):
        await started_afterwards(house, "c")
    assert house.stopped == []


async def test_a_run_that_is_not_due_replaces_nothing_yet(house: House) -> None:
    await house.push(a="maxActiveRuns: 0\n" + REPLACING)
    first = await queue(house, "a", 1)
    async with admitting(house):
        await house.until(lambda: house.started == first, "runs")
        await house.push(a="delaySec: 3600\n" + REPLACING)
        await queue(house, "a", 1)
        await started_afterwards(house, "c")
        assert house.stopped == []
        house.clock.forward(seconds=3600)
        await started_afterwards(house, "d")
        assert [run for run, _ in house.stopped] == first


async def test_a_run_that_cannot_be_stopped_keeps_nothing_else_from_starting(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(run: str, by: str) -> None:
        raise LookupError("a mistake of ours")

    monkeypatch.setattr(house, "_stop", broken)
    house.build()
    await house.reconciler.restore()
    await house.push(a=REPLACING)
    runs = await queue(house, "a", 2)
    async with admitting(house):
        await house.until(lambda: house.started == runs[:1], "runs")


# What goes wrong


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


async def test_a_run_waits_for_a_worker_with_its_labels_and_says_so(house: House) -> None:
    selector = 'workerSelector: {gpu: "true", zone: north}\n'
    await house.push(a=selector + ONE, b=ONE)
    waits = (await queue(house, "a", 1))[0]
    free = (await queue(house, "b", 1))[0]
    async with admitting(house):
        await house.until(lambda: bool(house.started), "runs")
    assert house.started == [free]
    assert house.admission.why(waits) == "no worker has the labels gpu=true, zone=north"


async def test_a_queued_run_says_which_limit_it_waits_for(house: House) -> None:
    await house.push(a=ONE, b="concurrency: deploy\n" + ONE, c="concurrency: deploy\n" + ONE)
    first, second = await queue(house, "a", 2)
    holder, blocked = (await queue(house, "b", 1))[0], (await queue(house, "c", 1))[0]
    async with admitting(house):
        await house.until(lambda: len(house.started) == 2, "runs")
    assert sorted(house.started) == sorted([first, holder])
    assert house.admission.why(second) == "at most 1 run of the workflow at once"
    assert house.admission.why(blocked) == 'at most 1 run of concurrency group "deploy" at once'
    assert house.admission.why(first) == ""
