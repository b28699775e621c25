"""When schedules fire, daylight saving included."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.control.schedule import check, next_fire, previous_fire, slots_after


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def fires(cron: str, zone: str, after: str, count: int) -> list[str]:
    slot, found = at(after), []
    for _ in range(count):
        slot = next_fire(cron, zone=zone, after=slot, workflow_id="etl")
        found.append(f"{slot:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        ("0 2 * * *", "UTC", "2026-01-01T01:59:59", ["01-01 02:00", "01-02 02:00"]),
        ("0 2 * * *", "UTC", "2026-01-01T02:00", ["01-02 02:00", "01-03 02:00"]),
        ("0 4 * * SUN", "UTC", "2026-11-22T04:00", ["11-29 04:00", "12-06 04:00"]),
        ("0 0 * * MON-FRI", "UTC", "2026-11-20T12:00", ["11-23 00:00", "11-24 00:00"]),
        ("0 0 13 * FRI", "UTC", "2026-11-10T00:00", ["11-13 00:00", "11-20 00:00"]),
        ("@monthly", "UTC", "2026-11-10T00:00", ["12-01 00:00", "01-01 00:00"]),
        ("0 2 * * *", "Asia/Tokyo", "2026-01-01T00:00", ["01-01 17:00", "01-02 17:00"]),
        ("CRON_TZ=Asia/Tokyo 0 2 * * *", "UTC", "2026-01-01T00:00", ["01-01 17:00"]),
        ("TZ=Asia/Tokyo @daily", "UTC", "2026-01-01T00:00", ["01-01 15:00"]),
        ("0 5-5 * * *", "UTC", "2026-01-01T00:00", ["01-01 05:00", "01-02 05:00"]),
        ("0 5 */1 * 0", "UTC", "2026-01-01T00:00", ["01-04 05:00", "01-11 05:00"]),
        ("0-0/9 5 * * MON-MON,3", "UTC", "2026-01-05T00:00", ["01-05 05:00", "01-07 05:00"]),
        # London goes back at 01:00 UTC on 25 October 2026: 01:30 is at 00:30 and 01:30 UTC.
        ("30 1 * * *", "Europe/London", "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 1 * * *", "Europe/London", "2026-10-25T00:45", ["10-26 01:30"]),
        ("30 1 * * *", "Europe/London", "2026-10-25T01:10", ["10-26 01:30"]),
        ("*/30 * * * *", "Europe/London", "2026-10-25T00:00",
         ["10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"]),
        ("30 * * * *", "Europe/London", "2026-10-24T23:30", ["10-25 00:30", "10-25 01:30"]),
        ("* 1 25 10 *", "Europe/London", "2026-01-01T00:00", ["10-25 00:00", "10-25 00:01"]),
        ("59 */1 * * *", "Europe/London", "2026-10-25T00:58", ["10-25 00:59", "10-25 01:59"]),
        # London goes forward at 01:00 UTC on 29 March 2026: 01:00 to 01:59 do not exist.
        ("30 1 * * *", "Europe/London", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        ("10,30 1 * * *", "Europe/London", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:10"]),
        ("0 1,2 * * *", "Europe/London", "2026-03-28T12:00", ["03-29 01:00", "03-30 00:00"]),
        ("*/30 * * * *", "Europe/London", "2026-03-29T00:29", ["03-29 00:30", "03-29 01:00"]),
        ("30 * * * *", "Europe/London", "2026-03-29T00:00", ["03-29 00:30", "03-29 01:30"]),
        # Lord Howe moves by half an hour: back at 15:00 UTC on 4 April, forward on 3 October.
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["04-04 14:45", "04-05 15:15"]),
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["10-03 15:30", "10-04 15:15"]),
        ("*/30 * * * *", "Australia/Lord_Howe", "2026-10-03T15:00", ["10-03 15:30", "10-03 16:00"]),
        ("45 2 * * *", "Pacific/Chatham", "2026-09-26T00:00", ["09-26 14:00", "09-27 13:00"]),
        # Samoa left out 30 December 2011.
        ("0 9 * * *", "Pacific/Apia", "2011-12-29T19:30", ["12-30 10:00", "12-30 19:00"]),
    ],
)  # fmt: skip
def test_the_next_slots(cron: str, zone: str, after: str, expected: list[str]) -> None:
    assert fires(cron, zone, after, len(expected)) == expected


CRONS = [
    "30 1 * * *",
    "0 2,3 * * *",
    "*/20 * * * *",
    "7 */2 * * *",
    "*/30 1,2 * * *",
    "15 0 * * SUN",
]
ZONES = ["UTC", "Europe/London", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham"]


@settings(max_examples=80, deadline=None)
@given(
    cron=st.sampled_from(CRONS),
    zone=st.sampled_from(ZONES),
    start=st.datetimes(datetime(2026, 3, 1), datetime(2026, 11, 15)),  # noqa: DTZ001  UTC below
)
def test_going_back_finds_the_slots_that_going_forward_found(
    cron: str, zone: str, start: datetime
) -> None:
    first = next_fire(cron, zone=zone, after=start.replace(tzinfo=UTC), workflow_id="w")
    second = next_fire(cron, zone=zone, after=first, workflow_id="w")
    assert start.replace(tzinfo=UTC) < first < second
    assert previous_fire(cron, zone=zone, before=second, workflow_id="w") == first
    assert (
        previous_fire(cron, zone=zone, before=second + timedelta(seconds=1), workflow_id="w")
        == second
    )
    assert first.second == first.microsecond == 0
    assert first.tzinfo is UTC


@settings(max_examples=60, deadline=None)
@given(
    cron=st.sampled_from([*CRONS, "*/7 * * * *", "30 * * * *"]),
    zone=st.sampled_from(ZONES),
    # days with and around a change of the clock in one of the zones, and one without
    day=st.sampled_from(["2026-04-04", "2026-03-28", "2026-10-24", "2026-10-31", "2026-07-01"]),
    seconds=st.integers(0, 36 * 3600),
)
def test_walking_finds_the_slots_that_single_steps_find(
    cron: str, zone: str, day: str, seconds: int
) -> None:
    slot = start = at(day) + timedelta(seconds=seconds)
    single = [slot := next_fire(cron, zone=zone, after=slot, workflow_id="w") for _ in range(40)]
    assert list(islice(slots_after(cron, zone=zone, after=start, workflow_id="w"), 40)) == single


@pytest.mark.parametrize("zone", ["Europe/London", "Australia/Lord_Howe"])
@pytest.mark.parametrize(
    "day", ["2026-10-24T20:00", "2026-03-28T20:00", "2026-04-04T10:00", "2026-10-03T10:00"]
)
@pytest.mark.parametrize("cron", ["*/10 * * * *", "5 * * * *"])
def test_what_follows_real_time_fires_at_every_minute_that_matches(
    cron: str, zone: str, day: str
) -> None:
    start, end = at(day), at(day) + timedelta(hours=10)
    minutes = (start + timedelta(minutes=n) for n in range(1, 601))
    wanted = {5} if cron.startswith("5") else set(range(0, 60, 10))
    local = ZoneInfo(zone)
    expected = [m for m in minutes if m.astimezone(local).minute in wanted]
    found, slot = [], start
    while (slot := next_fire(cron, zone=zone, after=slot, workflow_id="w")) <= end:
        found.append(slot)
    assert found == expected


def test_h_is_spread_by_the_id_of_the_workflow() -> None:
    slots = {
        next_fire("H H * * *", zone="UTC", after=at("2026-01-01T00:00"), workflow_id=f"w{n}")
        for n in range(10)
    }
    again = next_fire("H H * * *", zone="UTC", after=at("2026-01-01T00:00"), workflow_id="w0")
    assert len(slots) > 5
    assert again in slots


def test_times_of_other_zones_are_understood() -> None:
    after = datetime(2026, 1, 1, 3, 0, tzinfo=ZoneInfo("Asia/Tokyo"))
    assert next_fire("0 0 * * *", zone="UTC", after=after, workflow_id="w") == at(
        "2026-01-01T00:00"
    )


@pytest.mark.parametrize(
    "cron", ["0 0 29 2 *", "H H(0-7) * * *", "0 0 L * *", "@yearly", "0 0 * * 5#3"]
)
def test_schedules_that_are_good(cron: str) -> None:
    assert check(cron, "Europe/Berlin") is None
    assert next_fire(cron, zone="UTC", after=at("2026-01-01T00:00"), workflow_id="w") > at(
        "2026-01-01T00:00"
    )


@pytest.mark.parametrize(
    ("cron", "zone", "said"),
    [
        ("0 0 30 2 *", None, "never"),
        ("R 0 * * *", None, "uses R"),
        ("0 R(1-5) * * *", None, "uses R"),
        ("* * * * * *", None, "seconds"),
        ("0 0 * *", None, "has 4"),
        ("* * * * * * *", None, "has 7"),
        ("a b c d e", None, "is not a schedule"),
        ("*/0 * * * *", None, "is not a schedule"),
        ("0 0 * * 8", None, "is not a schedule"),
        ("0 0 * * *", "Mars", "is not a time zone"),
        ("0 0 * * *", "../../etc/passwd", "is not a time zone"),
        ("0 0 * * *", "", "is not a time zone"),
        ("TZ= 0 0 * * *", None, "is not a time zone"),
        ("@every 5m", None, "is not an alias"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said(cron: str, zone: str | None, said: str) -> None:
    problem = check(cron, zone)
    assert problem is not None
    assert said in problem
