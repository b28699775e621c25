"""What is cleared away after a final run, and what must stay."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from house import House

from runner.control.janitor import Janitor
from runner.control.reporter import Reporter
from runner.engine import workspace
from storage.records import Append, EventRecord, Owe, OwedRow

FLOW = 'steps: [{command: "true"}]\n'


@pytest.fixture
def workspaces(tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces"
    folder.mkdir()
    return folder


def janitor(house: House, workspaces: Path) -> Janitor:
    runs = workspaces.with_name("runs")
    return Janitor(house.store, runs=runs, workspaces=workspaces, mirrors={"ops": house.mirror})


def cleaner(house: House, workspaces: Path) -> Reporter:
    pay = janitor(house, workspaces).clean_up
    return Reporter(house.store, "cleanup", pay=pay, clock=house.clock)


def remover(house: House, workspaces: Path) -> Reporter:
    pay = janitor(house, workspaces).expire
    return Reporter(house.store, "expire", pay=pay, clock=house.clock)


async def run(house: House, workspaces: Path, *, status: str, keep_s: float = 0) -> str:
    """A final run with a workspace, which owes its clean-up after `keep_s`."""
    house.clock.forward(seconds=1)
    row = await house.intake.start_by_hand(None, "a", params=(), actor="ada", request=None)
    (workspaces / row.run).mkdir()
    (workspaces / row.run / "file").write_text("x")
    await house.finish(row.run, status=status)
    await house.store.write(Owe("cleanup", row.run, house.clock() + timedelta(seconds=keep_s)))
    return row.run


async def test_the_workspace_and_the_pin_of_a_final_run_go(house: House, workspaces: Path) -> None:
    first = await house.push(a=FLOW)
    await run(house, workspaces, status="succeeded")
    await house.push(a=FLOW + "# second\n")
    assert first in house.mirror.pins()
    assert await cleaner(house, workspaces).pay_due()
    assert list(workspaces.iterdir()) == []
    assert first not in house.mirror.pins()
    assert await house.store.owed_next("cleanup") is None


async def test_what_a_failed_run_left_stays_until_its_time(house: House, workspaces: Path) -> None:
    first = await house.push(a=FLOW)
    failed = await run(house, workspaces, status="failed", keep_s=3600)
    await house.push(a=FLOW + "# second\n")
    await run(house, workspaces, status="succeeded")
    assert await cleaner(house, workspaces).pay_due()
    assert [folder.name for folder in workspaces.iterdir()] == [failed]
    assert first in house.mirror.pins()
    house.clock.forward(seconds=3600)
    assert await cleaner(house, workspaces).pay_due()
    assert list(workspaces.iterdir()) == []
    assert first not in house.mirror.pins()


async def test_the_commits_of_unfinished_runs_and_stale_definitions_stay_pinned(
    house: House, workspaces: Path
) -> None:
    good = await house.push(a=FLOW, b=FLOW)
    await house.push(a="steps: [", b=FLOW)
    waiting = await house.intake.start_by_hand(None, "b", params=(), actor="ada", request=None)
    await run(house, workspaces, status="succeeded")
    await house.push(a="steps: [", b=FLOW + "# third\n")
    assert await cleaner(house, workspaces).pay_due()
    assert {good, waiting.commit} <= house.mirror.pins()


async def test_what_a_step_closed_to_its_owner_goes_too(house: House, workspaces: Path) -> None:
    await house.push(a=FLOW)
    closed = workspaces / await run(house, workspaces, status="succeeded") / "closed"
    closed.mkdir()
    (closed / "file").touch()
    closed.chmod(0)
    assert await cleaner(house, workspaces).pay_due()
    assert list(workspaces.iterdir()) == []


async def test_what_cannot_be_deleted_is_owed_again_and_holds_up_nothing_else(
    house: House, workspaces: Path
) -> None:
    await house.push(a=FLOW)
    stuck = await run(house, workspaces, status="succeeded")
    other = await run(house, workspaces, status="succeeded")
    place = workspaces / stuck
    for file in place.iterdir():
        file.unlink()
    place.rmdir()
    place.touch()  # no folder
    assert not await cleaner(house, workspaces).pay_due()
    assert not (workspaces / other).exists()
    owed = await house.store.owed("cleanup", due=house.clock() + timedelta(days=1))
    assert stuck in {row.key for row in owed}
    assert all(stuck in row.last_error for row in owed)


async def test_a_second_time_changes_nothing(house: House, workspaces: Path) -> None:
    await house.push(a=FLOW)
    number = await run(house, workspaces, status="succeeded")
    rows = [OwedRow("cleanup", number, 1, house.clock(), 0, "")]
    for _ in range(2):
        await janitor(house, workspaces).clean_up(rows)
    assert list(workspaces.iterdir()) == []


# Runs whose time is over


async def expired(house: House, workspaces: Path, name: str = "a") -> tuple[str, Path]:
    """A final run with a log that is to be deleted now; its log folder."""
    run_id = await run(house, workspaces, status="failed")
    folder = workspace.run_folder(workspaces.with_name("runs"), run_id)
    (folder / "1-a").mkdir(parents=True)
    (folder / "1-a/out").write_text("log")
    (workspaces / f"{run_id}.children" / "child").mkdir(parents=True)
    await house.store.write(Owe("expire", run_id, house.clock()))
    return run_id, folder.parent


async def test_a_run_whose_days_are_over_goes_with_children_logs_workspaces_and_pin(
    house: House, workspaces: Path
) -> None:
    first = await house.push(a=FLOW)
    gone, logs = await expired(house, workspaces)
    row = await house.store.run(gone)
    assert row is not None
    child = row._replace(run="child", parent=gone, seq=1)
    fact = EventRecord("child", 1, house.clock(), "Queued", 1, "{}")
    await house.store.write(Append("child", 0, (fact,), child))
    await house.push(a=FLOW + "# second\n")
    kept = await run(house, workspaces, status="failed", keep_s=3600)
    assert await remover(house, workspaces).pay_due()
    assert [row.run for row in await house.store.runs()] == [kept]
    assert await house.store.run("child") is None
    assert not logs.exists()
    assert [folder.name for folder in workspaces.iterdir()] == [kept]
    assert first not in house.mirror.pins()
    assert await house.store.owed_next("expire") is None
    assert await cleaner(house, workspaces).pay_due()  # its clean-up is still owed
    assert [folder.name for folder in workspaces.iterdir()] == [kept]


async def test_an_empty_month_goes_with_its_last_run(house: House, workspaces: Path) -> None:
    await house.push(a=FLOW)
    _, first = await expired(house, workspaces)
    await remover(house, workspaces).pay_due()
    assert not first.parent.exists()
    _, second = await expired(house, workspaces)
    (second.parent / "another").mkdir()
    await remover(house, workspaces).pay_due()
    assert [folder.name for folder in second.parent.iterdir()] == ["another"]


async def test_a_run_whose_logs_cannot_be_deleted_stays_known_and_is_tried_again(
    house: House, workspaces: Path
) -> None:
    await house.push(a=FLOW)
    stuck, logs = await expired(house, workspaces)
    await expired(house, workspaces)
    for file in sorted(logs.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    logs.rmdir()
    logs.touch()  # no folder
    assert not await remover(house, workspaces).pay_due()
    assert [row.run for row in await house.store.runs()] == [stuck]
    logs.with_name(f"{logs.name}.gone").unlink()
    house.clock.forward(hours=1)
    assert await remover(house, workspaces).pay_due()
    assert await house.store.runs() == []


async def test_a_run_that_is_not_over_is_not_deleted(house: House, workspaces: Path) -> None:
    await house.push(a=FLOW)
    row = await house.intake.start_by_hand(None, "a", params=(), actor="ada", request=None)
    await house.store.write(Owe("expire", row.run, house.clock()))
    assert await remover(house, workspaces).pay_due()
    assert await house.store.run(row.run) is not None
