"""Schedules against an oracle that looks at every minute, over ten years in six zones.

The oracle knows the rules and nothing of croniter: it parses the fields itself and asks zoneinfo
what the clocks of the zone show. DAGMILL_EXAMPLES=5000 looks at that many of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from runner.control.schedule import check, next_fire, previous_fire, slots_after

pytestmark = pytest.mark.timeout(60 + settings().max_examples // 5)

FIRST, LAST = datetime(2021, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
# Clocks change: at 01:00 UTC, at 02:00 local, by half an hour, from an offset of 12:45, at
# midnight, and for the month of Ramadan.
ZONES = (
    *("Europe/London", "America/New_York", "Australia/Lord_Howe", "Pacific/Chatham"),
    *("America/Santiago", "Africa/Casablanca"),
)
MINUTE = timedelta(minutes=1)
DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


@cache
def changes(zone: str) -> tuple[datetime, ...]:
    """The instants of the ten years at which the zone's clocks are set, to the minute."""
    info, found = ZoneInfo(zone), []
    at = FIRST
    while at < LAST:
        later = at + timedelta(days=1)
        if at.astimezone(info).utcoffset() != later.astimezone(info).utcoffset():
            minutes = (at + n * MINUTE for n in range(1, 1441))
            old = at.astimezone(info).utcoffset()
            found.append(next(m for m in minutes if m.astimezone(info).utcoffset() != old))
        at = later
    return tuple(found)


# The oracle


def numbers(field: str, bounds: tuple[int, int], names: tuple[str, ...] = ()) -> frozenset[int]:
    low, high = bounds
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        if span == "*":
            first, last = low, high
        else:
            words = [names.index(w) + low if w in names else int(w) for w in span.split("-")]
            first, last = words[0], words[-1]
        found.update(range(first, last + 1, int(step or 1)))
    return frozenset(found)


class Oracle:
    """Whether a wall time is named by five fields."""

    def __init__(self, cron: str) -> None:
        self.fields = cron.split()
        names = ((), (), (), MONTHS, DAYS)
        self.minutes, self.hours, self.days, self.months, self.weekdays = map(
            numbers, self.fields, BOUNDS, names
        )

    def names(self, wall: datetime) -> bool:
        if wall.minute not in self.minutes or wall.hour not in self.hours:
            return False
        if wall.month not in self.months:
            return False
        day, weekday = wall.day in self.days, wall.isoweekday() % 7 in self.weekdays
        if any({"*", "*/1"} & {*field.split(",")} for field in self.fields[2::2]):
            return day and weekday
        return day or weekday  # as every cron: two limits on the day widen each other

    def slots(self, zone: str, start: datetime, end: datetime) -> Iterator[datetime]:
        """The slots later than `start`, up to `end`, both whole minutes."""
        info = ZoneInfo(zone)
        real = any(field.startswith("*") for field in self.fields[:2])
        before = start.astimezone(info).replace(tzinfo=None)
        at = start
        while at < end:
            at += MINUTE
            local = at.astimezone(info)
            wall = local.replace(tzinfo=None, fold=0)
            if self.names(wall) and (real or local.fold == 0):
                yield at
            elif not real and wall - before > MINUTE:
                skipped = (before + n * MINUTE for n in range(1, (wall - before) // MINUTE))
                if any(self.names(minute) for minute in skipped):
                    yield at
            before = wall


# What is tried


def fields(bounds: tuple[int, int], names: tuple[str, ...] = ()) -> SearchStrategy[str]:
    low, high = bounds
    number = st.integers(low, high)
    span = st.tuples(number, number).map(sorted)
    step = st.integers(1, high)
    part = st.one_of(
        st.just("*"),
        number.map(str),
        span.map(lambda s: f"{s[0]}-{s[1]}"),
        step.map(lambda n: f"*/{n}"),
        st.tuples(span, step).map(lambda s: f"{s[0][0]}-{s[0][1]}/{s[1]}"),
        *([st.sampled_from(names)] if names else []),
    )
    return st.one_of(
        st.just("*"), number.map(str), st.lists(part, min_size=1, max_size=3).map(",".join)
    )


CRONS = st.tuples(
    fields(BOUNDS[0]),
    fields(BOUNDS[1]),
    st.just("*") | fields(BOUNDS[2]),
    st.just("*") | fields(BOUNDS[3], MONTHS),
    st.just("*") | fields(BOUNDS[4], DAYS),
).map(" ".join)
ANY_MINUTE = st.integers(0, (LAST - FIRST) // MINUTE - 1).map(lambda n: FIRST + n * MINUTE)


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, datetime, datetime]:
    """A zone and a window of up to two days, most often around a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    near = st.tuples(st.sampled_from(changes(zone)), st.integers(-1440, 1440)).map(
        lambda found: found[0] + found[1] * MINUTE
    )
    start = draw(near | near | ANY_MINUTE)
    return zone, start, start + draw(st.integers(1, 2880)) * MINUTE


@given(cron=CRONS, window=windows())
@example("30 2 * * *", ("America/New_York", changes("America/New_York")[0] - 60 * MINUTE,
                        changes("America/New_York")[0] + 60 * MINUTE))  # fmt: skip
def test_slots_are_those_that_an_oracle_finds_minute_by_minute(
    cron: str, window: tuple[str, datetime, datetime]
) -> None:
    assume(check(cron, None) is None)  # a 30 February
    zone, start, end = window
    expected = list(Oracle(cron).slots(zone, start, end))
    walked = slots_after(cron, zone=zone, after=start, workflow_id="w")
    assert list(takewhile(lambda slot: slot <= end, walked)) == expected
    following = next_fire(cron, zone=zone, after=start, workflow_id="w")
    assert following == expected[0] if expected else following > end
    previous = previous_fire(cron, zone=zone, before=end + MINUTE, workflow_id="w")
    assert previous == expected[-1] if expected else previous <= start


def test_every_zone_changes_its_clocks_in_the_ten_years() -> None:
    assert all(len(changes(zone)) >= 18 for zone in ZONES)
