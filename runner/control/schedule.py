"""When a cron text fires, in the local time of a zone.

Knows daylight saving: a fixed local time that occurs twice fires once, at its first; one that
does not exist fires once, right after the gap; a text whose minute or hour starts with `*`
follows real time. croniter only names wall times, the zone is put on here, because its own
handling of folds is wrong for fixed times and in zones with odd offsets. Pure but for zone data.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from runner.language.cron import check, matcher, split

__all__ = ["check", "next_fire", "previous_fire", "slots_after"]

_SECOND = timedelta(seconds=1)
# More than any zone sets its clock back; wall times this close may stand for the same instant.
_MAX_FOLD = timedelta(hours=3)


def next_fire(cron: str, *, zone: str, after: datetime, workflow_id: str) -> datetime:
    """The first slot later than `after`, aware UTC.

    `cron` has passed `check`; a `CRON_TZ=` prefix in it is stronger than `zone`.
    """
    fields, own_zone = split(cron)
    info = ZoneInfo(own_zone or zone)
    if _follows_real_time(fields):
        return _next_real(fields, info, after=after.astimezone(UTC), workflow_id=workflow_id)
    walls = matcher(fields, start=_wall(after, info), workflow_id=workflow_id)
    while True:
        slot = _fixed_slot(walls.get_next(), info)
        if slot > after:
            return slot


def slots_after(cron: str, *, zone: str, after: datetime, workflow_id: str) -> Iterator[datetime]:
    """All slots later than `after`, in order, without end: `next_fire` again and again, but the
    text is read once."""
    fields, own_zone = split(cron)
    info = ZoneInfo(own_zone or zone)
    last = after.astimezone(UTC)
    real = _follows_real_time(fields)
    walls = matcher(fields, start=_wall(last, info), workflow_id=workflow_id)
    while True:
        wall = walls.get_next()
        if not real:
            slot = _fixed_slot(wall, info)
        elif len(_instants(wall, info)) == len(_instants(_wall(last, info), info)) == 1:
            slot = _instants(wall, info)[0]
        else:  # at a fold or gap the next wall time need not be the next slot
            slot = _next_real(fields, info, after=last, workflow_id=workflow_id)
            walls = matcher(fields, start=_wall(slot, info), workflow_id=workflow_id)
        if slot > last:
            yield slot
            last = slot


def previous_fire(cron: str, *, zone: str, before: datetime, workflow_id: str) -> datetime:
    """The last slot earlier than `before`, aware UTC; otherwise like `next_fire`."""
    fields, own_zone = split(cron)
    info = ZoneInfo(own_zone or zone)
    if _follows_real_time(fields):
        return _previous_real(fields, info, before=before.astimezone(UTC), workflow_id=workflow_id)
    walls = matcher(fields, start=_wall(before, info) + _MAX_FOLD, workflow_id=workflow_id)
    while True:
        slot = _fixed_slot(walls.get_prev(), info)
        if slot < before:
            return slot


def _follows_real_time(fields: str) -> bool:
    minute, hour = fields.split()[:2]
    return minute.startswith("*") or hour.startswith("*")


def _next_real(fields: str, zone: ZoneInfo, *, after: datetime, workflow_id: str) -> datetime:
    wall = _wall(after, zone)
    walls = matcher(fields, start=wall, workflow_id=workflow_id)
    slot = None
    while slot is None:  # a wall time in a gap has no instant
        slot = next((i for i in _instants(walls.get_next(), zone) if i > after), None)
    hours = _instants(wall, zone)
    if len(hours) == 2 and after == hours[0]:
        # The clock will go back to times that are already behind `wall`.
        turn = _transition(*hours, zone)
        back = _wall(turn, zone)
        again = matcher(fields, start=back - _SECOND, workflow_id=workflow_id).get_next()
        slot = min(slot, turn + (again - back))
    return slot


def _previous_real(fields: str, zone: ZoneInfo, *, before: datetime, workflow_id: str) -> datetime:
    wall = _wall(before, zone)
    walls = matcher(fields, start=wall, workflow_id=workflow_id)
    slot = None
    while slot is None:
        earlier = reversed(_instants(walls.get_prev(), zone))
        slot = next((i for i in earlier if i < before), None)
    hours = _instants(wall, zone)
    if len(hours) == 2 and before == hours[1]:
        # The first of the two equal hours went on to times that are still ahead of `wall`.
        end = wall + (_transition(*hours, zone) - hours[0])
        last = matcher(fields, start=end, workflow_id=workflow_id).get_prev()
        slot = max(slot, hours[0] + (last - wall))
    return slot


def _fixed_slot(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first instant that shows `wall`, or the end of the gap that `wall` fell into."""
    instants = _instants(wall, zone)
    if instants:
        return instants[0]
    early, late = (wall.replace(tzinfo=zone, fold=f).astimezone(UTC) for f in (1, 0))
    return _transition(early, late, zone)


def _instants(wall: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """The instants (aware UTC, in order) at which clocks of the zone show `wall`: none to two."""
    folds = (wall.replace(tzinfo=zone, fold=f).astimezone(UTC) for f in (0, 1))
    return tuple(sorted({i for i in folds if _wall(i, zone) == wall}))


def _transition(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The first second later than `before`, at most `after`, with the offset of `after`."""
    offset = after.astimezone(zone).utcoffset()
    low, high = before, after.replace(microsecond=0)
    while high - low > _SECOND:
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle.astimezone(zone).utcoffset() == offset:
            high = middle
        else:
            low = middle
    return high


def _wall(at: datetime, zone: ZoneInfo) -> datetime:
    return at.astimezone(zone).replace(tzinfo=None, fold=0)
