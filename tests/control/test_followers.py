from __future__ import annotations

import json

import pytest
from house import BEGIN, House

from runner.control.followers import LONGEST_CHAIN
from runner.engine import journal
from runner.engine.events import Queued
from runner.triggers import after_key
from storage.records import OwedRow, RunRow

PLAIN = 'steps: [{command: "true"}]\n'


def after(*ids: str, status: str = "") -> str:
    only = f", status: [{status}]" if status else ""
    return f"on: {{workflow: {{ids: [{', '.join(ids)}]{only}}}}}\n{PLAIN}"


async def by_hand(house: House, workflow: str) -> str:
    row = await house.intake.start_by_hand("ops", workflow, params=(), actor="ada", request=None)
    return row.run


async def owed(house: House) -> list[OwedRow]:
    return await house.store.owed("after", due=house.clock())


async def follow(house: House) -> None:
    assert await house.starter.pay_due()


async def runs(house: House, workflow: str) -> list[RunRow]:
    return await house.store.runs(workflow=workflow)


async def queued_of(house: House, run: str) -> Queued:
    first = journal.event((await house.store.events(run))[0])
    assert isinstance(first, Queued)
    return first


async def test_a_run_starts_when_the_one_that_it_waits_for_has_ended(house: House) -> None:
    tip = await house.push(a=PLAIN, b=after("a"))
    run = await by_hand(house, "a")
    await house.finish(run)
    await follow(house)
    (row,) = await runs(house, "b")
    assert (row.status, row.trigger_type, row.commit) == ("queued", "workflow", tip)
    queued = await queued_of(house, row.run)
    assert (queued.trigger.key, queued.trigger.source) == (after_key(run, "b"), run)
    event = (await house.store.values(row.run))["run", "event"]
    assert json.loads(event) == {"run": run, "workflow": "a", "status": "succeeded"}
    assert (await house.verdicts())[after_key(run, "b")] == "run"
    assert await owed(house) == []


async def test_an_end_that_nobody_waits_for_owes_nothing(house: House) -> None:
    await house.push(a=PLAIN, b=after("a", status="failed"), c=PLAIN)
    for workflow in ("a", "b", "c"):
        await house.finish(await by_hand(house, workflow))
    assert await owed(house) == []


@pytest.mark.parametrize("status", ["succeeded", "partially_succeeded", "failed", "cancelled"])
async def test_only_the_statuses_that_were_asked_for_count(house: House, status: str) -> None:
    await house.push(
        a=PLAIN,
        fine=after("a", status="succeeded, partially_succeeded"),
        bad=after("a", status="failed"),
        every=after("a"),
    )
    await house.finish(await by_hand(house, "a"), status=status)
    await follow(house)
    started = {row.workflow for row in await house.store.runs(statuses=["queued"])}
    expected = {"failed": ["bad"], "cancelled": []}.get(status, ["fine"])
    assert started == {"every", *expected}


async def test_the_end_of_a_child_run_starts_nothing(house: House) -> None:
    await house.push(a=PLAIN, b=after("a"))
    run = await by_hand(house, "a")
    row = await house.store.run(run)
    assert row is not None
    child = row._replace(run=f"{run}-c", parent=run, status="succeeded", finished_at=BEGIN)
    assert house.followers.owes(child) == ()
    assert house.followers.owes(child._replace(parent="")) != ()


async def test_a_service_that_dies_after_the_end_starts_what_follows_once(house: House) -> None:
    await house.push(a=PLAIN, b=after("a"))
    await house.finish(await by_hand(house, "a"))
    await house.restart(seconds=30)
    rows = await owed(house)
    assert len(rows) == 1
    await house.followers(rows)
    await house.restart(seconds=30)  # it died before what was owed was paid
    await follow(house)
    assert len(await runs(house, "b")) == 1
    assert await owed(house) == []


async def test_a_chain_ends_after_ten_runs_with_a_row_that_says_so(house: House) -> None:
    files = {f"w{n}": after(f"w{n - 1}") for n in range(1, LONGEST_CHAIN + 2)}
    await house.push(w0=PLAIN, **files)
    run = await by_hand(house, "w0")
    for n in range(1, LONGEST_CHAIN + 1):
        await house.finish(run)
        await follow(house)
        (row,) = await runs(house, f"w{n}")
        run = row.run
        assert (await queued_of(house, run)).trigger.chain == n
    await house.finish(run)
    await follow(house)
    last = f"w{LONGEST_CHAIN + 1}"
    assert await runs(house, last) == []
    assert (await house.verdicts())[after_key(run, last)] == "chain_too_long"


async def test_what_cannot_follow_has_a_row_that_says_why(house: House) -> None:
    await house.push(a=PLAIN, b=after("a"))
    house.lost = {house.reconciler.applied().workflows["b"].entry.blob}
    run = await by_hand(house, "a")
    await house.finish(run)
    await follow(house)
    assert (await house.verdicts())[after_key(run, "b")] == "broken"
    assert await owed(house) == []


async def test_a_workflow_that_came_after_the_end_does_not_follow_it(house: House) -> None:
    await house.push(a=PLAIN)
    await house.finish(await by_hand(house, "a"))
    await house.push(b=after("a"))
    await follow(house)
    assert await runs(house, "b") == []
