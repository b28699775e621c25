"""Slots when the service, the machine or the clock was not there: each runs at most once, and each
that did not run has a row that says why. The clock is the test's; store and repository are real.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from house import BEGIN, House

from runner.control import schedule, ticker
from runner.triggers import missed_key, missed_prefix, prefixes_until, tick_key, tick_prefix
from storage.remote import GitError
from storage.sqlite import DATABASE
from storage.store import StorageError

CRON = 'schedule: "*/5 * * * *"\nsteps: [{command: "true"}]\n'
MINUTELY = CRON.replace("*/5", "*")
GRACE = timedelta(seconds=300)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def ran(slot: str, workflow: str = "a") -> str:
    return tick_key("ops", workflow, kind="start", slot=_slot(slot))


def missed(slot: str, workflow: str = "a") -> str:
    return missed_key("ops", workflow, slot=_slot(slot))


def _slot(slot: str) -> datetime:
    return at(slot if "T" in slot else f"2026-11-20T{slot}")


async def wake(house: House, **forward: float) -> None:
    house.clock.forward(**forward)
    await house.ticker.fire_due(house.clock())


async def stay(house: House, until: str) -> None:
    """Let time pass as it does for a service that is up: it wakes at least each minute."""
    while house.clock() < _slot(until):
        await wake(house, seconds=60)
        await finish(house)


async def finish(house: House) -> None:
    for run in await house.store.runs(statuses=["queued"]):
        await house.finish(run.run)


@contextlib.contextmanager
def full_disk(folder: Path, *, table: str = "triggers") -> Iterator[None]:
    """The database refuses every new row of a table."""
    database = sqlite3.connect(folder / "data" / DATABASE, isolation_level=None)
    database.execute(
        f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'no room'); END"
    )
    try:
        yield
    finally:
        database.execute("DROP TRIGGER full")
        database.close()


# Restarts


async def test_a_restart_within_the_grace_time_fires_the_newest_slot(house: House) -> None:
    await house.push(a=MINUTELY)
    await wake(house, minutes=1)
    await finish(house)
    await house.restart(minutes=3)
    await wake(house)
    assert await house.verdicts() == {
        ran("10:01"): "run",
        missed("10:02"): "superseded",
        missed("10:03"): "superseded",
        ran("10:04"): "run",
    }


async def test_what_fell_into_a_long_absence_is_missed(house: House) -> None:
    await house.push(a=CRON, b=CRON.replace("*/5", "0"))
    await wake(house, minutes=5)
    await finish(house)
    await house.restart(minutes=22)
    await wake(house)
    assert await house.verdicts() == {
        ran("10:05"): "run",
        missed("10:10"): "missed",
        missed("10:15"): "missed",
        missed("10:20"): "missed",
        ran("10:25"): "run",
    }


async def test_restarts_one_after_the_other_explain_nothing_twice(house: House) -> None:
    await house.push(a=CRON)
    await house.restart(minutes=22)
    await wake(house)
    await finish(house)
    before = await house.store.triggers(repository="ops")
    for _ in range(3):
        await house.restart(seconds=20)
        await wake(house)
    assert await house.store.triggers(repository="ops") == before
    assert len(before) == 4


async def test_workflows_with_like_names_keep_their_slots_apart(house: House) -> None:
    await house.push(**{"a": CRON, "a/b": MINUTELY, "a.b": CRON, "ab": MINUTELY})
    await stay(house, "10:07")
    await house.restart(minutes=8)
    await wake(house)
    verdicts = await house.verdicts()
    for workflow in ("a", "a.b"):
        assert verdicts[missed("10:10", workflow)] == "missed"
        assert verdicts[ran("10:15", workflow)] == "run"
    for workflow in ("a/b", "ab"):
        assert verdicts[ran("10:07", workflow)] == "run"
        assert verdicts[missed("10:08", workflow)] == "missed"
        assert verdicts[ran("10:15", workflow)] == "run"


async def test_a_restart_asks_no_more_about_what_ran_before_it(house: House) -> None:
    await house.push(a=MINUTELY)
    await stay(house, "11:55")
    await house.restart(minutes=10)
    await wake(house)
    words = Counter((await house.verdicts()).values())
    assert words == {"run": 115 + 1, "missed": 5, "superseded": 4}


@pytest.mark.parametrize("other", ["ab", "a/b", "a.b", "a-b", "a_b", "b/a"])
def test_the_prefixes_of_a_workflow_begin_no_key_of_another(other: str) -> None:
    for prefix in (missed_prefix("ops", "a"), tick_prefix("ops", "a", kind="start")):
        assert missed("10:05").startswith(prefix) != ran("10:05").startswith(prefix)
        assert not missed("10:05", other).startswith(prefix)
        assert not ran("10:05", other).startswith(prefix)


def test_keys_up_to_a_slot_are_those_with_one_of_its_prefixes() -> None:
    until = _slot("10:05")
    prefixes = tuple(prefixes_until(missed_prefix("ops", "a"), until))
    for minutes in (-(10**6), -525_600, -1441, -1440, -60, -5, -1, 0, 1, 5, 60, 1440, 10**6):
        key = missed_key("ops", "a", slot=until + timedelta(minutes=minutes))
        assert key.startswith(prefixes) == (minutes <= 0)


async def test_a_schedule_with_nothing_to_explain_gets_no_row(house: House) -> None:
    await house.push(a=CRON.replace("*/5 *", "0 2"))
    for _ in range(3):
        await house.restart(hours=5)
        await wake(house)
    assert await house.verdicts() == {}


# What the repository says by then


async def test_what_was_removed_during_an_absence_does_not_fire(house: House) -> None:
    await house.push(a=CRON, b=CRON, c=CRON, d=CRON)
    house.remote.change(
        {
            ".dagu/b.yaml": None,
            ".dagu/c.yaml": CRON.replace("*/5", "*/2"),
            ".dagu/d.yaml": CRON.replace("true", "false"),
        }
    )
    await house.restart(minutes=12)
    tip = house.remote.tip("refs/heads/main")
    await house.reconciler.look()
    house.ticker.release()
    await wake(house)
    verdicts = await house.verdicts()
    for workflow in ("b", "c"):
        assert verdicts.pop(missed("10:05", workflow)) == "missed"
        assert verdicts.pop(missed("10:10", workflow)) == "removed"
    for workflow in ("a", "d"):
        assert verdicts.pop(missed("10:05", workflow)) == "missed"
        assert verdicts.pop(ran("10:10", workflow)) == "run"
    assert verdicts == {}
    assert await house.runs() == [("a", tip), ("d", tip)]
    await wake(house, minutes=2)
    assert (await house.verdicts())[ran("10:14", "c")] == "run"


async def test_a_later_look_fires_what_is_due_before_the_swap(house: House) -> None:
    good = await house.push(a=CRON)
    await house.restart(seconds=1)
    await house.reconciler.look()
    house.ticker.release()
    house.clock.forward(minutes=5)
    await house.push(a=None, b=CRON)
    assert await house.runs() == [("a", good)]
    assert await house.verdicts() == {ran("10:05"): "run"}


async def test_a_look_that_is_refused_notes_nothing(house: House) -> None:
    await house.push(a=CRON)
    house.remote.change({".dagu/a.yaml": None, ".dagu/b.yaml": CRON})
    await house.restart(minutes=5)
    house.mirror.fetch = _unreachable  # type: ignore[method-assign, assignment]
    with pytest.raises(GitError):
        await house.reconciler.look()
    house.ticker.release()
    await wake(house)
    assert await house.verdicts() == {ran("10:05"): "run"}


def _unreachable() -> None:
    raise GitError("unreachable")


async def test_the_first_tick_after_a_restart_waits_for_the_first_look(house: House) -> None:
    await house.push(a=CRON, b=CRON)
    house.remote.change({".dagu/a.yaml": None})
    await house.restart(minutes=5)
    fetch, looking = house.mirror.fetch, asyncio.Event()
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow() -> object:
        loop.call_soon_threadsafe(looking.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return fetch()

    house.mirror.fetch = slow  # type: ignore[method-assign, assignment]
    tasks = [asyncio.create_task(loop_.run_forever()) for loop_ in (house.ticker, house.reconciler)]
    await looking.wait()
    assert await house.verdicts() == {}
    queued = asyncio.Event()
    house.intake.queued = lambda repository, workflow: queued.set()
    go_on.set()
    await queued.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert await house.verdicts() == {missed("10:05"): "removed", ran("10:05", "b"): "run"}


async def test_a_first_look_that_takes_too_long_is_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.push(a=CRON)
    await house.restart(minutes=5)
    monkeypatch.setattr(ticker, "FIRST_LOOK_S", 0.01)
    queued = asyncio.Event()
    house.intake.queued = lambda repository, workflow: queued.set()
    task = asyncio.create_task(house.ticker.run_forever())
    await queued.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_waiting_for_the_first_look_makes_no_slot_too_late(house: House) -> None:
    await house.push(a=CRON.replace("*/5", "0"))
    await house.restart(hours=1, minutes=4, seconds=20)  # 11:04:50
    await wake(house, seconds=25)
    assert await house.verdicts() == {ran("11:00"): "run"}


async def test_a_swap_at_the_moment_of_a_slot_fires_it_once(house: House) -> None:
    """The applied number is raised, `replace` is yet to come, and the slot comes."""
    await house.push(a=CRON, b=CRON)
    replace, old = house.ticker.replace, house.ticker

    async def slot_comes_first(applied: object) -> None:
        await wake(house, seconds=0.5)
        assert await house.runs() == []
        await replace(applied)  # type: ignore[arg-type]

    old.replace = slot_comes_first  # type: ignore[method-assign]
    house.clock.at = BEGIN.replace(minute=4, second=59, microsecond=700_000)
    tip = await house.push(b=None, c=CRON)
    await wake(house)
    assert await house.runs() == [("a", tip), ("c", tip)]
    await wake(house)
    assert await house.verdicts() == {ran("10:05"): "run", ran("10:05", "c"): "run"}


# The clock


@pytest.mark.parametrize("hours", [2, 24])
async def test_a_jump_forward_fires_what_is_in_the_grace_time_and_misses_the_rest(
    house: House, hours: float
) -> None:
    await house.push(a=CRON, b=CRON.replace("*/5", "0"))
    await wake(house, hours=hours)
    verdicts = await house.verdicts()
    slot = house.clock() - timedelta(seconds=30)
    assert verdicts.pop(tick_key("ops", "a", kind="start", slot=slot)) == "run"
    assert verdicts.pop(tick_key("ops", "b", kind="start", slot=slot)) == "run"
    assert set(verdicts.values()) == {"missed"}


@pytest.mark.parametrize("hours", [2, 24])
@pytest.mark.parametrize("up", [True, False])
async def test_a_jump_forward_that_is_undone_loses_no_slot(
    house: House, hours: float, *, up: bool
) -> None:
    await house.push(a=CRON)
    await wake(house, hours=hours)
    await finish(house)
    if up:
        await wake(house, hours=-hours)
    else:
        await house.restart(hours=-hours)
        await wake(house)
    await stay(house, "10:30")
    verdicts = await house.verdicts()
    for minute in range(5, 30, 5):
        assert verdicts[ran(f"10:{minute:02}")] == "run"


@pytest.mark.parametrize("hours", [2, 24])
async def test_a_jump_back_fires_nothing_twice_and_loses_nothing(
    house: House, hours: float
) -> None:
    house.clock.at = at("2026-11-22T10:00:30")
    await house.push(a=CRON)
    await stay(house, "2026-11-22T10:12")
    await wake(house, hours=-hours)
    back = house.clock()
    await stay(house, (back + timedelta(minutes=12)).isoformat()[:19])
    await wake(house, hours=hours)
    await finish(house)
    await stay(house, "2026-11-22T10:30")
    verdicts = await house.verdicts()
    runs = [key for key, verdict in verdicts.items() if verdict == "run"]
    assert len(await house.store.runs()) == len(runs)
    assert {ran(f"2026-11-22T10:{m:02}") for m in (5, 10, 25, 30)} <= set(runs)
    first = back.replace(minute=back.minute // 5 * 5 + 5, second=0)
    assert tick_key("ops", "a", kind="start", slot=first) in runs


async def test_a_clock_that_goes_back_and_forth_has_nothing_explained_twice(house: House) -> None:
    await house.push(a=MINUTELY)
    await wake(house, hours=3)  # 10:01 to 12:55: more than a row each
    for hours in (-2, 1.8, -1, 1):
        await wake(house, hours=hours)
    rows = await house.store.triggers(repository="ops", limit=1000)
    assert sum("slots" in json.loads(row.cause) for row in rows) == 1


async def test_a_schedule_that_came_while_the_clock_was_ahead_fires_once_it_is_right(
    house: House,
) -> None:
    await house.push(z=CRON.replace("*/5 * *", "0 2 1"))
    house.clock.forward(days=1)
    await house.push(a=CRON)
    await wake(house, days=-1)
    await wake(house, minutes=5)
    assert await house.verdicts() == {ran("10:05"): "run"}
    await finish(house)
    await house.push(other=CRON.replace("*/5", "59"))
    await house.restart(minutes=5)
    await wake(house)
    verdicts = await house.verdicts()
    assert verdicts == {ran("10:05"): "run", ran("10:10"): "run"}


async def test_a_suspended_machine_fires_the_newest_slot_when_it_resumes(house: House) -> None:
    await house.push(a=CRON)
    await wake(house, minutes=12)
    assert await house.verdicts() == {missed("10:05"): "missed", ran("10:10"): "run"}


# Daylight saving. London goes back at 01:00 UTC on 25 October 2026, forward on 29 March.


def in_london(cron: str) -> str:
    return f'schedule: "CRON_TZ=Europe/London {cron}"\nsteps: [{{command: "true"}}]\n'


@pytest.mark.parametrize("restart_at", [None, "00:45", "01:20", "01:31"])
async def test_a_local_time_that_occurs_twice_fires_once(
    house: House, restart_at: str | None
) -> None:
    house.clock.at = at("2026-10-25T00:10:30")
    await house.push(a=in_london("30 1 * * *"), b=in_london("*/15 1 * * *"))
    if restart_at is not None:
        await stay(house, f"2026-10-25T{restart_at}")
        await house.restart(minutes=3)
        await wake(house)
    await stay(house, "2026-10-25T02:10")
    runs = sorted(key for key, word in (await house.verdicts()).items() if word == "run")
    assert runs == [
        ran("2026-10-25T00:30"),
        *(ran(f"2026-10-25T00:{m}", "b") for m in (15, 30, 45)),
        *(ran(f"2026-10-25T01:{m:02}", "b") for m in (0, 15, 30, 45)),
    ]


@pytest.mark.parametrize("restart_at", [None, "00:58"])
async def test_a_local_time_that_does_not_exist_fires_once_after_the_gap(
    house: House, restart_at: str | None
) -> None:
    house.clock.at = at("2026-03-29T00:40:30")
    await house.push(a=in_london("30 1 * * *"), b=in_london("*/15 * * * *"))
    if restart_at is not None:
        await stay(house, f"2026-03-29T{restart_at}")
        await house.restart(minutes=3)
        await wake(house)
    await stay(house, "2026-03-29T01:40")
    runs = sorted(key for key, word in (await house.verdicts()).items() if word == "run")
    assert runs == [
        ran("2026-03-29T01:00"),
        ran("2026-03-29T00:45", "b"),
        *(ran(f"2026-03-29T01:{m:02}", "b") for m in (0, 15, 30)),
    ]


# A store that fails


@pytest.mark.parametrize("table", ["triggers", "runs"])
async def test_a_slot_outlives_a_full_disk(house: House, tmp_path: Path, table: str) -> None:
    await house.push(a=CRON, b=CRON)
    with full_disk(tmp_path, table=table):
        for _ in range(2):
            with pytest.raises(StorageError, match="no room"):
                await wake(house, minutes=4.6)
    await wake(house)
    assert await house.verdicts() == {ran("10:05"): "run", ran("10:05", "b"): "run"}


async def test_a_slot_that_a_full_disk_kept_too_long_is_missed_and_says_so(
    house: House, tmp_path: Path
) -> None:
    await house.push(a=CRON)
    house.clock.forward(minutes=5)
    with full_disk(tmp_path), pytest.raises(StorageError):
        await wake(house)
    await wake(house, minutes=7)
    assert await house.verdicts() == {missed("10:05"): "missed", ran("10:10"): "run"}
    row = await house.store.trigger(missed("10:05"))
    assert row is not None
    assert "no room" in json.loads(row.cause)["problems"][0]


async def test_a_commit_takes_no_effect_while_a_slot_cannot_be_stored(
    house: House, tmp_path: Path
) -> None:
    good = await house.push(a=CRON)
    house.clock.forward(minutes=5)
    with full_disk(tmp_path), pytest.raises(StorageError):
        await house.push(a=None, b=CRON)
    assert house.reconciler.applied().commit == good
    await house.reconciler.look()
    assert await house.runs() == [("a", good)]


# Anything, in any order


@dataclass
class History:
    """What happens to a service in a random order, and which slots went by meanwhile."""

    house: House
    folder: Path
    chance: random.Random
    files: dict[str, str] = field(default_factory=dict)  # workflow → cron, in force
    gone_by: dict[str, set[datetime]] = field(default_factory=lambda: defaultdict(set))
    unknown: dict[str, set[datetime]] = field(default_factory=lambda: defaultdict(set))
    owed: set[tuple[str, datetime]] = field(default_factory=set)  # must have fired, or overlap
    told: list[str] = field(default_factory=list)

    async def happen(self) -> None:
        often = [self.up] * 3 + [self.restart, self.commit] * 2
        event = self.chance.choice(
            [*often, self.suspended, self.jump, self.finish, self.out_of_room]
        )
        self.told.append(f"{self.house.clock():%d %H:%M:%S} {event.__name__}")
        await event()
        await wake(self.house)
        await self.judge()

    async def up(self) -> None:
        for _ in range(self.chance.randrange(1, 12)):
            await self.wait(60)

    async def wait(self, seconds: float) -> None:
        self.pass_by(self.files, seconds)
        await wake(self.house, seconds=seconds)

    async def suspended(self) -> None:
        await self.wait(self.away())

    async def jump(self) -> None:
        await self.wait(self.chance.choice([-1, 1]) * self.chance.choice([600, 7200, 86400]))

    async def restart(self) -> None:
        changed = self.change() if self.chance.random() < 0.5 else {}
        after = self.after(changed)
        kept = {w: cron for w, cron in self.files.items() if after.get(w) == cron}
        seconds = self.away() + self.chance.choice([0, 0, 0, 0, 7200, -7200, -86400])
        await self.pass_by_unseen(seconds, firing=kept)
        if changed:
            self.house.remote.change(changed)
        await self.house.restart(seconds=seconds)
        await self.house.reconciler.look()
        self.house.ticker.release()
        self.files = after

    async def commit(self) -> None:
        changed = self.change()
        self.house.remote.change(changed)
        self.pass_by(self.files, seconds := self.chance.uniform(1, 50))
        self.house.clock.forward(seconds=seconds)
        await self.house.reconciler.look()
        self.files = self.after(changed)

    async def finish(self) -> None:
        await finish(self.house)

    async def out_of_room(self) -> None:
        minutes = self.chance.randrange(1, 8)
        self.pass_by(self.files, 60 * minutes)
        with full_disk(self.folder, table=self.chance.choice(["triggers", "runs"])):
            for _ in range(minutes):
                with contextlib.suppress(StorageError):
                    await wake(self.house, seconds=60)

    def away(self) -> float:
        return self.chance.choice([20, 90, 200, 290, 400, 1500]) + self.chance.random()

    def change(self) -> dict[str, str | None]:
        workflow = self.chance.choice(["a", "a/b", "a.b", "z"])
        cron = self.chance.choice(
            ["*/5 * * * *", "* * * * *", "13,14 * * * *", "*/7 1,2 * * *", "30 1 * * *"]
        )
        gone = workflow in self.files and self.chance.random() < 0.3
        text = in_london(cron).replace("true", str(self.chance.random()))
        return {f".dagu/{workflow}.yaml": None if gone else text, ".dagu/keep.yaml": CRON}

    def after(self, changed: dict[str, str | None]) -> dict[str, str]:
        files = dict(self.files)
        for path, text in changed.items():
            workflow = path[len(".dagu/") : -len(".yaml")]
            files.pop(workflow, None)
            if text is not None:
                files[workflow] = text.split('"')[1]
        return files

    def pass_by(
        self, files: dict[str, str], seconds: float, *, firing: dict[str, str] | None = None
    ) -> None:
        """Note the slots of so many seconds. The newest of a workflow must fire, if it is in the
        grace time when the service sees it; `firing`: of these workflows only."""
        begin = self.house.clock()
        end = begin + timedelta(seconds=seconds)
        for workflow, cron in files.items():
            slots = schedule.slots_after(cron, zone="UTC", after=begin, workflow_id=workflow)
            gone_by = list(itertools.takewhile(lambda slot: slot <= end, slots))
            self.gone_by[workflow].update(gone_by)
            if gone_by and gone_by[-1] >= end - GRACE and (firing is None or workflow in firing):
                self.owed.add((workflow, gone_by[-1]))

    async def pass_by_unseen(self, seconds: float, *, firing: dict[str, str]) -> None:
        """Like `pass_by`. Only where the clock was wrong before are there rows of slots to come;
        after a restart what is older than the newest row is taken as explained."""
        before = {workflow: set(slots) for workflow, slots in self.gone_by.items()}
        self.pass_by(self.files, seconds, firing=firing)
        end = self.house.clock() + timedelta(seconds=seconds)
        for workflow in self.files:
            rows = await self.house.store.triggers(
                repository="ops", workflow=workflow, limit=100_000
            )
            marks = (datetime.fromisoformat(json.loads(row.cause)["slot"]) for row in rows)
            mark = max((slot for slot in marks if slot <= end), default=at("2000-01-01"))
            new = self.gone_by[workflow] - before.get(workflow, set())
            self.unknown[workflow] |= {slot for slot in new if slot < min(mark, end - GRACE)}

    async def judge(self) -> None:
        rows = await self.house.store.triggers(repository="ops", limit=100_000)
        fired: dict[str, set[datetime]] = defaultdict(set)
        noted: dict[str, set[datetime]] = defaultdict(set)
        spans = []
        for row in rows:
            cause = json.loads(row.cause)
            slot = datetime.fromisoformat(cause["slot"])
            (fired if row.key.startswith("tick:") else noted)[row.workflow].add(slot)
            if "slots" in cause:
                first, last = (datetime.fromisoformat(cause[word]) for word in ("first", "last"))
                spans.append((row.workflow, first, last))
            if row.key.startswith("tick:"):
                assert row.verdict in ("run", "overlap"), self.told
                assert slot <= row.at <= slot + GRACE + timedelta(seconds=1), self.told
                assert slot in self.gone_by[row.workflow], (row, self.told)
        for workflow, slots in self.gone_by.items():
            silent = {
                slot
                for slot in slots - fired[workflow] - noted[workflow] - self.unknown[workflow]
                if not any(w == workflow and a <= slot <= b for w, a, b in spans)
            }
            assert not silent, (workflow, sorted(silent), "; ".join(self.told))
        missing = {(w, slot) for w, slot in self.owed if slot not in fired[w]}
        assert not missing, (missing, "; ".join(self.told))
        runs = [row.run for row in rows if row.verdict == "run"]
        assert len(runs) == len(set(runs)) == len(await self.house.store.runs(limit=100_000))


@pytest.mark.parametrize("seed", range(int(os.environ.get("SLOT_SEEDS", "2"))))
async def test_whatever_happens_each_slot_runs_at_most_once_and_is_explained(
    house: House, tmp_path: Path, seed: int
) -> None:
    """Half of the seeds begin before a night in which London's clocks change."""
    house.clock.at = at("2026-10-24T23:50:30") if seed % 2 else at("2026-06-20T10:00:30")
    history = History(house, tmp_path, random.Random(seed))
    await history.commit()
    for _ in range(30):
        await history.happen()
