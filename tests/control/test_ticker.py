from __future__ import annotations

import json
from collections import Counter
from datetime import datetime

import pytest
from house import BEGIN, House

from runner.control import slots
from runner.triggers import missed_key, tick_key

CRON = 'schedule: "*/5 * * * *"\nsteps: [{command: "true"}]\n'


def key(hour: int, minute: int, workflow: str = "a") -> str:
    slot = BEGIN.replace(hour=hour, minute=minute, second=0)
    return tick_key("ops", workflow, kind="start", slot=slot)


def missed(hour: int, minute: int, workflow: str = "a") -> str:
    slot = BEGIN.replace(hour=hour, minute=minute, second=0)
    return missed_key("ops", workflow, slot=slot)


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


async def test_after_a_pause_the_newest_slot_in_the_grace_time_fires_and_the_rest_is_explained(
    house: House,
) -> None:
    await house.push(a=CRON.replace("*/5", "*"))
    await fire(house, minutes=10)
    assert await house.verdicts() == {
        **{missed(10, minute): "missed" for minute in range(1, 6)},
        **{missed(10, minute): "superseded" for minute in range(6, 10)},
        key(10, 10): "run",
    }
    row = await house.store.trigger(missed(10, 8))
    assert row is not None
    assert json.loads(row.cause) == {
        "slot": "2026-11-20 10:08:00+00:00",
        "by": "2026-11-20 10:10:00+00:00",
        "schedule": "* * * * *",
        "zone": "UTC",
    }


async def test_a_slot_older_than_the_grace_time_is_missed(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "0"))
    await fire(house, hours=1, minutes=5)
    assert await house.verdicts() == {missed(11, 0): "missed"}


@pytest.mark.parametrize("grace_s", [0, 300])
async def test_a_slot_that_is_just_late_fires_whatever_the_grace_time(
    house: House, grace_s: float
) -> None:
    house.grace_s = grace_s
    house.build()
    await house.push(a=CRON)
    await fire(house, minutes=4, seconds=35)
    assert await house.verdicts() == {key(10, 5): "run"}


async def test_slots_of_two_schedules_of_a_workflow_are_explained_as_one_set(house: House) -> None:
    await house.push(a='schedule: ["*/3 * * * *", "1-59/2 * * * *"]\nsteps: [{command: "true"}]\n')
    await fire(house, minutes=12)
    assert await house.verdicts() == {
        **{missed(10, minute): "missed" for minute in (1, 3, 5, 6, 7)},
        **{missed(10, minute): "superseded" for minute in (9, 11)},
        key(10, 12): "run",
    }


async def test_of_many_missed_slots_the_newest_hundred_have_a_row_each(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "*"))
    await fire(house, hours=5)
    verdicts = await house.verdicts()
    words = Counter(verdicts.values())
    assert words == {"missed": 101, "superseded": 4, "run": 1}
    # 10:01 to 14:55 are 295 slots: 195 in the row of the last of them, 100 by themselves
    row = await house.store.trigger(missed(13, 15))
    assert row is not None
    cause = json.loads(row.cause)
    assert (cause["slots"], cause["first"], cause["last"]) == (
        195,
        "2026-11-20 10:01:00+00:00",
        "2026-11-20 13:15:00+00:00",
    )
    assert "and_more" not in cause
    assert {missed(13, 16), missed(14, 55)} < verdicts.keys()


async def test_a_very_long_absence_is_not_counted_to_its_end(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "*"))
    await fire(house, days=365)
    rows = await house.store.triggers(repository="ops", limit=200)
    (row,) = (row for row in rows if "slots" in json.loads(row.cause))
    cause = json.loads(row.cause)
    assert (cause["slots"], cause["and_more"]) == (slots.MOST_COUNTED, True)
    assert (cause["first"], cause["last"]) == (
        "2026-11-20 10:01:00+00:00",
        "2027-11-20 08:15:00+00:00",
    )
    assert sum(row.verdict == "missed" for row in rows) == 1 + slots.MOST_NOTED


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
