from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runner.control.slots import Timer
from runner.control.timetable import Timetable

T0 = datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC)
LATER = T0 + timedelta(hours=1)


def timer(workflow: str, minute: int) -> Timer:
    return Timer(workflow, f"{minute} * * * *", "UTC", T0)


async def due(table: Timetable) -> list[str]:
    dues = await table.take_due(LATER, fresh_from=T0)
    return [found.workflow for found in dues]


async def test_a_timer_that_comes_later_is_due_in_its_place() -> None:
    table = Timetable()
    await table.replace([timer("a", 10), timer("c", 30)], since={})
    await table.replace([timer("a", 10), timer("b", 5), timer("c", 30)], since={})
    assert table.first == T0.replace(minute=5, second=0)
    assert await due(table) == ["b", "a", "c"]


async def test_a_timer_that_took_the_place_of_another_is_due_alone() -> None:
    table = Timetable()
    await table.replace([timer("a", 10), timer("b", 20)], since={})
    await table.replace([timer("a", 15), timer("b", 20)], since={})
    assert table.first == T0.replace(minute=15, second=0)
    assert await due(table) == ["a", "b"]


async def test_a_schedule_that_is_named_twice_is_due_once() -> None:
    table = Timetable()
    await table.replace([timer("a", 10)], since={})
    await table.replace([timer("b", 20), timer("b", 20)], since={})
    (found,) = await table.take_due(LATER, fresh_from=T0)
    assert list(found.fresh) == [T0.replace(minute=20, second=0)]


async def test_the_order_of_a_workflows_schedules_is_that_of_its_file() -> None:
    table = Timetable()
    await table.replace([timer("a", 20)], since={})
    await table.replace([timer("a", 10), timer("a", 20)], since={})
    assert [known.cron for known in table.next] == ["10 * * * *", "20 * * * *"]
