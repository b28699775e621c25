from __future__ import annotations

from datetime import datetime

from house import BEGIN, House

from runner.triggers import tick_key

CRON = 'schedule: "*/5 * * * *"\nsteps: [{command: "true"}]\n'


def key(hour: int, minute: int, workflow: str = "a") -> str:
    slot = BEGIN.replace(hour=hour, minute=minute, second=0)
    return tick_key("ops", workflow, kind="start", slot=slot)


async def fire(house: House, **forward: float) -> datetime:
    house.clock.forward(**forward)
    await house.ticker.fire_due(house.clock())
    return house.clock()


async def test_a_slot_fires_once_at_the_applied_commit(house: House) -> None:
    await house.push(a=CRON)
    tip = await house.push(other=CRON.replace("*/5", "59"))
    await fire(house, minutes=4, seconds=29)
    assert await house.runs() == []
    await fire(house, seconds=1)
    await fire(house)
    assert await house.runs() == [("a", tip)]
    assert await house.verdicts() == {key(10, 5): "run"}


async def test_nothing_fires_for_a_slot_before_the_schedule_was_live(house: House) -> None:
    house.clock.at = BEGIN.replace(minute=6)
    await house.push(a=CRON)
    await fire(house)
    assert await house.verdicts() == {}


async def test_a_slot_that_finds_a_run_is_noted_as_overlap(house: House) -> None:
    await house.push(a=CRON)
    await fire(house, minutes=5)
    await fire(house, minutes=5)
    assert await house.verdicts() == {key(10, 5): "run", key(10, 10): "overlap"}
    (run,) = await house.store.runs()
    await house.finish(run.run)
    await fire(house, minutes=5)
    assert (await house.verdicts())[key(10, 15)] == "run"


async def test_after_a_pause_only_the_newest_slot_in_the_grace_time_fires(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "*"))
    await fire(house, minutes=30)
    assert await house.verdicts() == {key(10, 30): "run"}


async def test_a_slot_older_than_the_grace_time_is_lost(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "0"))
    await fire(house, hours=1, minutes=5)
    assert await house.verdicts() == {}


async def test_a_restart_fires_what_was_due_meanwhile_and_nothing_twice(house: House) -> None:
    await house.push(a=CRON)
    await fire(house, minutes=5)
    (run,) = await house.store.runs()
    await house.finish(run.run)
    house.build()
    await house.reconciler.restore()
    await fire(house)
    assert len(await house.runs()) == 1
    house.clock.forward(minutes=5)
    house.build()
    await house.reconciler.restore()
    await fire(house)
    assert await house.verdicts() == {key(10, 5): "run", key(10, 10): "run"}


async def test_a_clock_that_goes_back_fires_no_slot_again(house: House) -> None:
    await house.push(a=CRON)
    await fire(house, minutes=5)
    (run,) = await house.store.runs()
    await house.finish(run.run)
    await fire(house, minutes=-3)
    await fire(house, minutes=3)
    assert len(await house.runs()) == 1


async def test_what_is_due_under_the_old_schedule_fires_before_the_new_one_is_live(
    house: House,
) -> None:
    first = await house.push(a=CRON)
    house.clock.forward(minutes=5)
    await house.push(a=CRON.replace("*/5", "7"))
    assert await house.runs() == [("a", first)]
    await fire(house, minutes=5)
    assert await house.verdicts() == {key(10, 5): "run", key(10, 7): "overlap"}


async def test_a_stale_workflow_runs_wholly_at_its_older_commit(house: House) -> None:
    good = await house.push(a=CRON)
    await house.push(a="stepz: []\n")
    await fire(house, minutes=5)
    assert await house.runs() == [("a", good)]


async def test_a_slot_computed_from_an_older_catalog_is_fired_by_the_newer_one(
    house: House,
) -> None:
    await house.push(a=CRON)
    old = house.ticker
    house.build()
    await house.reconciler.restore()
    tip = await house.push(b=CRON.replace("*/5", "59"))
    house.clock.forward(minutes=5)
    await old.fire_due(house.clock())
    assert await house.runs() == []
    await house.ticker.fire_due(house.clock())
    assert await house.runs() == [("a", tip)]


async def test_the_lines_name_each_schedule_with_its_next_slot(house: House) -> None:
    await house.push(a='name: Load\nschedule: "0 2 * * *"\nsteps: [{command: "true"}]\n')
    (line,) = house.ticker.lines()
    assert (line.workflow, line.name, line.schedule, line.zone) == ("a", "Load", "0 2 * * *", "UTC")
    assert line.next_at == BEGIN.replace(day=21, hour=2, minute=0, second=0)
