"""What a cron text says: its zone prefix, its aliases, and whether it is one that ever fires.

When it fires is `runner.control.schedule`'s; `load` needs the check only. croniter is imported
when the first schedule is looked at, because most local runs have none. Pure but for the zone
data that zoneinfo reads.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, available_timezones

from runner.language.faults import LanguageError, did_you_mean, quoted

if TYPE_CHECKING:
    from croniter import croniter

MAX_LENGTH = 200
ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_PREFIX = re.compile(r"(?:CRON_TZ|TZ)=(\S*)\s+(.*)", re.DOTALL)
_RANDOM = re.compile(r"(?:^|[\s,])R", re.IGNORECASE)
_HASHED = re.compile(r"(?:^|[\s,])H", re.IGNORECASE)
# croniter takes `5-5` for all there is; who writes it means 5.
_FROM_ITSELF = re.compile(r"(?<![^,])(\w+)-\1(?:/[0-9]+)?(?![^,])", re.IGNORECASE)
# `*/1` would limit the day of the month, which makes it or the weekday enough; `*` does not.
_EACH = re.compile(r"(?<![^,])\*/1(?![^,])")
# A Monday long enough before a leap day that every yearly pattern comes round; which one it is
# does not matter, only that it is not the clock.
_ANY_DAY = datetime(2001, 1, 1)  # noqa: DTZ001  wall time: cron texts know no zone


class CronError(LanguageError):
    """The text is no schedule."""


def split(text: str) -> tuple[str, str | None]:
    """The five fields of `text` and the zone of its `CRON_TZ=` or `TZ=` prefix, if it has one.

    Aliases such as `@daily` come back as their five fields. Raises CronError for an unknown one.
    """
    cron, zone = text.strip(), None
    found = _PREFIX.fullmatch(cron)
    if found is not None:
        zone, cron = found[1], found[2].strip()
    if cron.startswith("@"):
        alias = ALIASES.get(cron.lower())
        if alias is None:
            near = did_you_mean(cron, ALIASES)
            raise CronError(f"{quoted(cron)} is not an alias of a schedule{near}")
        cron = alias
    return " ".join(_plain(field) for field in cron.split()), zone


def _plain(field: str) -> str:
    """`field` in the spelling that croniter understands as everybody does."""
    return _EACH.sub("*", _FROM_ITSELF.sub(r"\1", field))


def check(cron: str, zone: str | None) -> str | None:
    """What is wrong with `cron` (a prefix is allowed) in `zone`, or None."""
    if len(cron) > MAX_LENGTH:
        return f"the schedule is longer than {MAX_LENGTH} characters"
    try:
        fields, own_zone = split(cron)
    except CronError as error:
        return str(error)
    return check_zone(own_zone if own_zone is not None else zone) or _check_fields(fields)


def check_zone(zone: str | None) -> str | None:
    """What is wrong with the name of a zone, or None."""
    if zone is None:
        return None
    try:
        ZoneInfo(zone)
    except (
        KeyError,
        ValueError,
        OSError,
    ):  # unknown, or a name that is no path below the zone data
        near = did_you_mean(zone, available_timezones())
        return f"{quoted(zone)} is not a time zone (IANA names, such as Europe/Berlin){near}"
    return None


def matcher(fields: str, *, start: datetime, workflow_id: str) -> croniter:
    """An iterator over the wall times, naive like `start`, that the five `fields` name."""
    from croniter import croniter

    hashed = workflow_id.encode() if _HASHED.search(fields) else None
    return croniter(fields, start, ret_type=datetime, hash_id=hashed)


def _check_fields(fields: str) -> str | None:
    count = len(fields.split())
    if count != 5:
        hint = "; a field of seconds is not supported" if count == 6 else ""
        return f"a schedule has five fields, {quoted(fields)} has {count}{hint}"
    if _RANDOM.search(fields):
        return f"{quoted(fields)} uses R (random), which would differ at each start; use H"
    from croniter import CroniterBadDateError, CroniterError

    try:
        matcher(fields, start=_ANY_DAY, workflow_id="check").get_next()
    except CroniterBadDateError:
        return f"{quoted(fields)} never fires: no such date exists"
    except (CroniterError, ValueError, KeyError, IndexError) as error:
        return f"{quoted(fields)} is not a schedule: {error}"
    return None
