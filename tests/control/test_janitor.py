"""What is cleared away after a final run, and what must stay."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from house import House

from runner.control.janitor import Janitor
from runner.control.reporter import Reporter
from storage.records import Owe, OwedRow

FLOW = 'steps: [{command: "true"}]\n'


@pytest.fixture
def workspaces(tmp_path: Path) -> Path:
    folder = tmp_path / "workspaces"
    folder.mkdir()
    return folder


def cleaner(house: House, workspaces: Path) -> Reporter:
    janitor = Janitor(house.store, workspaces=workspaces, mirrors={"ops": house.mirror})
    return Reporter(house.store, "cleanup", pay=janitor, clock=house.clock)


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
    janitor = Janitor(house.store, workspaces=workspaces, mirrors={"ops": house.mirror})
    rows = [OwedRow("cleanup", number, 1, house.clock(), 0, "")]
    await janitor(rows)
    await janitor(rows)
    assert list(workspaces.iterdir()) == []
