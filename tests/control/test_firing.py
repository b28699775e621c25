from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from house import BEGIN, House

from runner.control import schedule
from runner.control.slots import MOST_CAUGHT
from runner.engine import journal
from runner.engine.events import Queued
from runner.triggers import missed_key, tick_key
from storage.records import RunRow

EVERY = 'schedule: "*/5 * * * *"\n'
STEPS = 'steps: [{command: "true"}]\n'


def at(minute: int, hour: int = 10) -> datetime:
    return BEGIN.replace(hour=hour, minute=minute, second=0)


def key(minute: int, hour: int = 10, kind: str = "start") -> str:
    return tick_key("ops", "a", kind=kind, slot=at(minute, hour))


def missed(minute: int, hour: int = 10, kind: str = "start") -> str:
    return missed_key("ops", "a", slot=at(minute, hour), kind=kind)


async def wake(house: House, when: datetime) -> None:
    house.clock.at = when
    await house.ticker.fire_due(when)


async def run_of(house: House, key: str) -> RunRow:
    row = await house.store.trigger(key)
    assert row is not None and row.run is not None
    run = await house.store.run(row.run)
    assert run is not None
    return run


async def cause(house: House, key: str) -> dict[str, object]:
    row = await house.store.trigger(key)
    assert row is not None
    found: dict[str, object] = json.loads(row.cause)
    return found


async def first_fact(house: House, run: str) -> Queued:
    queued = journal.event((await house.store.events(run))[0])
    assert isinstance(queued, Queued)
    return queued


# overlapPolicy


async def test_with_latest_one_slot_waits_and_a_newer_one_takes_its_place(house: House) -> None:
    await house.push(a=EVERY + "overlapPolicy: latest\n" + STEPS)
    await wake(house, at(5))
    first = await run_of(house, key(5))
    await house.begin(first.run)
    await wake(house, at(10))
    await wake(house, at(15))
    assert await house.verdicts() == {key(5): "run", key(10): "run", key(15): "run"}
    replaced, waiting = await run_of(house, key(10)), await run_of(house, key(15))
    assert (replaced.status, waiting.status) == ("cancelled", "queued")
    assert replaced.reason == ("a newer slot of the schedule took its place: 2026-11-20 10:15 UTC")
    assert (await cause(house, key(15)))["replaces"] == [replaced.run]
    assert (await run_of(house, key(5))).status == "running"
    assert [row.key for row in await house.store.owed("summary", due=at(15))] == [replaced.run]


async def test_with_latest_a_run_queued_by_hand_is_not_replaced(house: House) -> None:
    await house.push(a=EVERY + "overlapPolicy: latest\n" + STEPS)
    by_hand = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await wake(house, at(5))
    await wake(house, at(10))
    assert (await run_of(house, key(5))).status == "cancelled"
    assert [row.run for row in await house.store.queued("ops", "a", limit=9)] == [
        by_hand.run,
        (await run_of(house, key(10))).run,
    ]


async def test_with_latest_a_queued_run_that_starts_meanwhile_is_left_alone(house: House) -> None:
    await house.push(a=EVERY + "overlapPolicy: latest\n" + STEPS)
    await wake(house, at(5))
    first = await run_of(house, key(5))
    start = house.intake.start

    async def admitted_meanwhile(*given: object, **named: object) -> object:
        house.intake.start = start  # type: ignore[method-assign]
        await house.begin(first.run)
        return await start(*given, **named)  # type: ignore[arg-type]

    house.intake.start = admitted_meanwhile  # type: ignore[method-assign,assignment]
    await wake(house, at(10))
    assert (await run_of(house, key(5))).status == "running"
    assert (await run_of(house, key(10))).status == "queued"
    assert "replaces" not in await cause(house, key(10))


async def test_with_latest_a_slot_that_is_older_than_the_queued_one_does_not_run(
    house: House,
) -> None:
    """The clock went ahead and back."""
    await house.push(a=EVERY + "overlapPolicy: latest\n" + STEPS)
    await wake(house, at(0, 12))
    await wake(house, at(1))
    await wake(house, at(5))
    assert (await run_of(house, key(0, 12))).status == "queued"
    assert (await house.verdicts())[key(5)] == "superseded"


async def test_with_all_every_slot_is_queued(house: House) -> None:
    await house.push(a=EVERY + "overlapPolicy: all\n" + STEPS)
    for minute in (5, 10, 15):
        await wake(house, at(minute))
    assert await house.verdicts() == {key(minute): "run" for minute in (5, 10, 15)}
    assert len(await house.store.queued("ops", "a", limit=9)) == 3


# catchupWindow


async def test_without_a_window_an_old_slot_is_missed(house: House) -> None:
    await house.push(a=EVERY + STEPS)
    await wake(house, at(18))
    assert await house.verdicts() == {
        missed(5): "missed",
        missed(10): "missed",
        key(15): "run",
    }


@pytest.mark.parametrize("policy", ["skip", "latest"])
async def test_of_slots_in_the_window_only_the_newest_fires(house: House, policy: str) -> None:
    text = 'schedule: "0,10,20 * * * *"\ncatchupWindow: 1h\n'
    await house.push(a=f"{text}overlapPolicy: {policy}\n{STEPS}")
    await wake(house, at(45))
    assert await house.verdicts() == {missed(10): "missed", key(20): "run"}
    assert (await cause(house, key(20)))["caught_up"] is True


async def test_a_slot_in_the_window_that_finds_a_run_is_noted_as_overlap(house: House) -> None:
    await house.push(a='schedule: "10,20 * * * *"\ncatchupWindow: 1h\n' + STEPS)
    await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await wake(house, at(45))
    assert await house.verdicts() == {
        **{k: v for k, v in (await house.verdicts()).items() if k.startswith("manual:")},
        missed(10): "missed",
        key(20): "overlap",
    }


async def test_a_slot_beyond_the_window_is_missed(house: House) -> None:
    await house.push(a='schedule: "10 * * * *"\ncatchupWindow: 30m\n' + STEPS)
    await wake(house, at(41))
    assert await house.verdicts() == {missed(10): "missed"}


async def test_a_slot_in_the_grace_time_comes_before_older_ones_in_the_window(
    house: House,
) -> None:
    await house.push(a=EVERY + "catchupWindow: 1h\n" + STEPS)
    await wake(house, at(21))
    assert await house.verdicts() == {
        **{missed(minute): "missed" for minute in (5, 10, 15)},
        key(20): "run",
    }


async def test_with_all_each_slot_in_the_window_fires_in_its_order(house: House) -> None:
    await house.push(a=EVERY + "catchupWindow: 12m\noverlapPolicy: all\n" + STEPS)
    await wake(house, at(26))
    assert await house.verdicts() == {
        missed(5): "missed",
        missed(10): "missed",
        **{key(minute): "run" for minute in (15, 20, 25)},
    }
    queued = await house.store.queued("ops", "a", limit=9)
    slots = [(await first_fact(house, row.run)).trigger.slot for row in queued]
    assert sorted(slots, key=str) == [at(15), at(20), at(25)]


async def test_with_all_no_more_slots_are_caught_up_than_a_queue_holds(house: House) -> None:
    await house.push(a='schedule: "* * * * *"\ncatchupWindow: 2d\noverlapPolicy: all\n' + STEPS)
    house.clock.at = BEGIN + timedelta(days=1)
    await house.ticker.fire_due(house.clock())
    words = list((await house.verdicts()).values())
    assert (words.count("run"), words.count("queue_full")) == (MOST_CAUGHT, 5)
    newest = tick_key("ops", "a", kind="start", slot=house.clock().replace(second=0))
    assert newest in await house.verdicts()


@pytest.mark.parametrize("policy", ["skip", "latest", "all"])
async def test_what_a_restart_catches_up_with_is_fired_once(house: House, policy: str) -> None:
    await house.push(a=f"{EVERY}catchupWindow: 2h\noverlapPolicy: {policy}\n{STEPS}")
    await wake(house, at(5))
    await house.finish((await run_of(house, key(5))).run)
    await house.restart(minutes=44)  # 10:49: 10:45 is in the grace time
    await wake(house, house.clock())
    verdicts = await house.verdicts()
    fired = [minute for minute in range(10, 50, 5) if verdicts.get(key(minute)) == "run"]
    assert fired == (list(range(10, 50, 5)) if policy == "all" else [45])
    await house.restart(minutes=0)
    await wake(house, house.clock())
    assert await house.verdicts() == verdicts


async def test_a_service_that_dies_while_it_catches_up_goes_on_where_it_was(house: House) -> None:
    await house.push(a=EVERY + "catchupWindow: 2h\noverlapPolicy: all\n" + STEPS)
    house.clock.at = at(28)
    queued, died = house.intake.queued, []

    def die(repository: str, workflow: str) -> None:
        queued(repository, workflow)
        died.append(workflow)
        if len(died) == 2:
            raise OSError("the service dies")

    house.intake.queued = die
    with pytest.raises(OSError, match="dies"):
        await house.ticker.fire_due(at(28))
    await house.restart(minutes=1)
    await wake(house, house.clock())
    assert await house.verdicts() == {key(minute): "run" for minute in (5, 10, 15, 20, 25)}
    assert len(await house.store.runs(limit=99)) == 5


@pytest.mark.parametrize("seed", range(int(os.environ.get("SLOT_SEEDS", "2"))))
async def test_with_all_whatever_happens_each_slot_in_the_window_fires_once(
    house: House, seed: int
) -> None:
    """The service is up, suspended, restarted, or dies while it fires."""
    chance = random.Random(seed)
    await house.push(a='schedule: "*/7 * * * *"\ncatchupWindow: 1h\noverlapPolicy: all\n' + STEPS)
    slots = schedule.slots_after("*/7 * * * *", zone="UTC", after=house.clock(), workflow_id="a")
    expected: dict[str, str] = {}
    slot = next(slots)
    for _ in range(25):
        away = timedelta(minutes=chance.choice([1, 1, 4, 8, 30, 59, 61, 90, 200]))
        house.clock.at += away
        if chance.random() < 0.4:
            await house.restart(seconds=0)
        if chance.random() < 0.3:
            house.intake.queued = partial(_dies, times=chance.randrange(1, 4), died=[])
            with contextlib.suppress(OSError):
                await house.ticker.fire_due(house.clock())
            await house.restart(seconds=0)
        await house.ticker.fire_due(house.clock())
        while slot <= house.clock():
            fires = house.clock() - slot <= timedelta(hours=1)
            make = partial(tick_key, kind="start") if fires else missed_key
            expected[make("ops", "a", slot=slot)] = "run" if fires else "missed"
            slot = next(slots)
        assert await house.verdicts() == expected
    runs = await house.store.runs(limit=10_000)
    assert len(runs) == list(expected.values()).count("run")


def _dies(repository: str, workflow: str, *, times: int, died: list[str]) -> None:
    died.append(workflow)
    if len(died) == times:
        raise OSError("the service dies")


async def test_a_changed_schedule_catches_up_with_nothing(house: House) -> None:
    text = "catchupWindow: 6h\n" + STEPS
    await house.push(a='schedule: "5 * * * *"\n' + text)
    await wake(house, at(6))
    await house.finish((await run_of(house, key(5))).run)
    house.clock.at = at(30, 11)
    await house.push(a='schedule: "10 * * * *"\n' + text)
    await wake(house, at(35, 11))
    # 11:05 was due under the old schedule; 10:10 and 11:10 are slots of the new one alone.
    assert await house.verdicts() == {key(5): "run", key(5, 11): "run"}


async def test_a_window_that_comes_later_brings_no_missed_slot_back(house: House) -> None:
    await house.push(a='schedule: "5 * * * *"\n' + STEPS)
    await wake(house, at(30))
    await house.push(a='schedule: "5 * * * *"\ncatchupWindow: 6h\n' + STEPS)
    await house.restart(minutes=5)
    await wake(house, house.clock())
    assert await house.verdicts() == {missed(5): "missed"}


# skipIfSuccessful


async def by_hand(house: House, *, status: str = "succeeded") -> str:
    row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.finish(row.run, status=status)
    return row.run


async def test_a_slot_is_dropped_if_a_run_since_the_slot_before_succeeded(house: House) -> None:
    await house.push(a=EVERY + "skipIfSuccessful: true\n" + STEPS)
    run = await by_hand(house)
    await wake(house, at(5))
    assert (await house.verdicts())[key(5)] == "successful"
    assert (await cause(house, key(5)))["run"] == run
    await wake(house, at(10))
    assert (await house.verdicts())[key(10)] == "run"


@pytest.mark.parametrize("status", ["failed", "partially_succeeded", "skipped", "cancelled"])
async def test_a_slot_is_not_dropped_for_a_run_that_did_not_succeed(
    house: House, status: str
) -> None:
    await house.push(a=EVERY + "skipIfSuccessful: true\n" + STEPS)
    await by_hand(house, status=status)
    await wake(house, at(5))
    assert (await house.verdicts())[key(5)] == "run"


async def test_the_run_of_the_slot_before_is_no_reason_to_drop_a_slot(house: House) -> None:
    await house.push(a=EVERY + "skipIfSuccessful: true\n" + STEPS)
    for minute in (5, 10):
        await wake(house, at(minute))
        await house.finish((await run_of(house, key(minute))).run)
    assert await house.verdicts() == {key(5): "run", key(10): "run"}


# stop and restart


async def test_a_stop_slot_asks_each_active_run_to_stop_once(house: House) -> None:
    await house.push(a='schedule: {stop: "10 * * * *"}\nmaxActiveRuns: 2\n' + STEPS)
    runs = []
    for _ in range(3):
        row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
        runs.append(row.run)
    await house.begin(runs[0])
    await house.begin(runs[1])
    await wake(house, at(10))
    asked = [run for run, _ in house.stopped]
    assert sorted(asked) == sorted(runs[:2])
    assert {by for _, by in house.stopped} == {"schedule (stop 10 * * * *)"}
    assert (await house.verdicts())[key(10, kind="stop")] == "stop"
    assert (await cause(house, key(10, kind="stop")))["runs"] == asked
    await house.restart(minutes=1)
    await wake(house, house.clock())
    assert len(house.stopped) == 2


@pytest.mark.parametrize("kind", ["stop", "restart"])
@pytest.mark.parametrize("asked", [0, 1])
async def test_a_service_that_dies_before_it_asked_runs_to_stop_asks_them_when_it_is_back(
    house: House, kind: str, asked: int
) -> None:
    await house.push(a=f'schedule: {{{kind}: "10 * * * *"}}\n' + STEPS)
    runs = []
    for _ in range(2):
        row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
        await house.begin(row.run)
        runs.append(row.run)
    house.most_stopped = asked
    with pytest.raises(OSError, match="dies"):
        await wake(house, at(10))
    assert len(house.stopped) == asked
    house.most_stopped = None
    await house.restart(minutes=1)
    await wake(house, house.clock())
    assert sorted(run for run, _ in house.stopped) == sorted(runs)
    await house.restart(minutes=1)
    await wake(house, house.clock())
    assert len(house.stopped) == 2


async def test_a_run_that_cannot_be_stopped_keeps_no_other_from_it(house: House) -> None:
    await house.push(a='schedule: {stop: "10 * * * *"}\n' + STEPS)
    runs = []
    for _ in range(2):
        row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
        await house.begin(row.run)
        runs.append(row.run)
    house.unstoppable = {runs[1]}  # the newest, which is asked first
    await wake(house, at(10))
    assert [run for run, _ in house.stopped] == [runs[0]]
    await wake(house, at(11))
    assert [run for run, _ in house.stopped] == [runs[0]]


async def test_a_stop_slot_that_was_missed_stops_nothing(house: House) -> None:
    await house.push(a='schedule: {stop: "10 * * * *"}\ncatchupWindow: 6h\n' + STEPS)
    row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.begin(row.run)
    await wake(house, at(20))
    assert house.stopped == []
    assert (await house.verdicts())[missed(10, kind="stop")] == "missed"
    await house.restart(minutes=2)
    await wake(house, house.clock())
    assert house.stopped == []


async def test_a_restart_slot_stops_what_runs_and_queues_a_run_that_waits(house: House) -> None:
    await house.push(a='schedule: {restart: "10 * * * *"}\nrestartWaitSec: 90\n' + STEPS)
    row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.begin(row.run)
    await wake(house, at(10))
    assert [run for run, _ in house.stopped] == [row.run]
    new = await run_of(house, key(10, kind="restart"))
    assert (new.status, new.not_before) == ("queued", at(10) + timedelta(seconds=90))
    assert (await cause(house, key(10, kind="restart")))["stops"] == [row.run]


async def test_the_run_of_a_restart_waits_for_all_that_it_stops(house: House) -> None:
    text = 'schedule: {restart: "10 * * * *"}\nmaxActiveRuns: 0\nconcurrency: {group: g, max: 9}\n'
    await house.push(a=text + STEPS)
    runs = []
    for _ in range(2):
        row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
        await house.begin(row.run)
        runs.append(row.run)
    await wake(house, at(10))
    new = await run_of(house, key(10, kind="restart"))
    names = {claim.name for claim in await house.store.claims(new.run)}
    assert names == {"group:ops:g", key(10, kind="restart")}
    admitting = asyncio.create_task(house.admission.run_forever())
    other = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.until(lambda: other.run in house.started, "runs")
    for run in runs:
        assert new.run not in house.started
        await house.finish(run, status="cancelled")
    await house.until(lambda: new.run in house.started, "runs")
    admitting.cancel()
    await asyncio.gather(admitting, return_exceptions=True)


async def test_a_restart_slot_without_an_active_run_starts_one(house: House) -> None:
    await house.push(a='schedule: {restart: "10 * * * *"}\n' + STEPS)
    await wake(house, at(10))
    new = await run_of(house, key(10, kind="restart"))
    assert (new.status, new.not_before) == ("queued", None)
    assert house.stopped == []


async def test_at_the_same_slot_a_stop_comes_before_a_start(house: House) -> None:
    text = 'schedule: {start: "10 * * * *", stop: "10 * * * *"}\noverlapPolicy: all\n'
    await house.push(a=text + STEPS)
    row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.begin(row.run)
    start, asked_before = house.intake.start, []

    async def watched(*given: Any, **named: Any) -> Any:
        asked_before.extend(run for run, _ in house.stopped)
        return await start(*given, **named)

    house.intake.start = watched  # type: ignore[method-assign]
    await wake(house, at(10))
    assert asked_before == [row.run]
    assert (await run_of(house, key(10))).status == "queued"


async def test_with_latest_the_run_of_a_restart_is_not_replaced(house: House) -> None:
    text = 'schedule: {start: "15 * * * *", restart: "10 * * * *"}\noverlapPolicy: latest\n'
    await house.push(a=text + STEPS)
    await wake(house, at(10))
    await wake(house, at(15))
    assert (await run_of(house, key(10, kind="restart"))).status == "queued"
    assert (await run_of(house, key(15))).status == "queued"


async def test_a_clock_that_goes_back_stops_and_restarts_nothing_again(house: House) -> None:
    await house.push(a='schedule: {stop: "*/10 * * * *", restart: "*/15 * * * *"}\n' + STEPS)
    row = await house.intake.start_by_hand("ops", "a", params=(), actor="ada", request=None)
    await house.begin(row.run)
    await wake(house, at(30))
    assert sorted(by for _, by in house.stopped) == [
        "schedule (restart */15 * * * *)",
        "schedule (stop */10 * * * *)",
    ]
    await wake(house, at(27))
    await wake(house, at(31))
    assert len(house.stopped) == 2
    assert len(await house.store.runs()) == 2


async def test_live_schedules_say_what_they_do(house: House) -> None:
    await house.push(a='schedule: {start: "10 * * * *", stop: "5 * * * *"}\n' + STEPS)
    assert [(line.kind, line.schedule) for line in house.ticker.lines()] == [
        ("start", "10 * * * *"),
        ("stop", "5 * * * *"),
    ]
    assert house.ticker.next_times() == {"a": at(10)}
