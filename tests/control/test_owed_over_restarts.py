"""What facts owe, over kills, restarts, failing remotes, and beside another publisher."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import git_remotes
import pytest
from git_remotes import GitHttpServer, Remote, git
from house import House
from mortal import Died, Fate, doom, restart
from structlog.testing import capture_logs

from runner.control.publisher import Publisher, Site
from runner.control.reporter import NotPaid, Reporter
from storage.mirror import Mirror, Seen
from storage.records import Owe, OwedRow
from storage.sqlite import open_store

STATUS = "refs/heads/dagmill/status"
CRON = 'schedule: "0 2 * * *"\nsteps: [{command: "true"}]\n'


def publisher(house: House) -> Publisher:
    site = Site(house.mirror, house.reconciler.applied, house.ticker.next_times)
    return Publisher(house.store, {"ops": site}, clock=house.clock)


def reporter(house: House, *, longest_delay_s: float | None = None) -> Reporter:
    return Reporter(
        house.store,
        "summary",
        pay=publisher(house),
        clock=house.clock,
        longest_delay_s=longest_delay_s,
    )


async def finished(house: House, workflow: str = "a") -> str:
    """A run that is over and whose summary is owed."""
    house.clock.forward(seconds=1)
    row = await house.intake.start_by_hand(None, workflow, params=(), actor="ada", request=None)
    await house.finish(row.run)
    return row.run


def commits(house: House) -> list[str]:
    return git("rev-list", STATUS, cwd=house.remote.path).split()


def run_files(remote: Remote) -> list[str]:
    """The ids of the runs that have a summary, one for each file."""
    files = remote.files(STATUS)
    return sorted(
        name.rpartition("/")[2].removesuffix(".json")
        for name in files
        if name.startswith("runs/") and name.endswith(".json")
    )


@pytest.fixture
async def over_http(
    house: House, git_http: GitHttpServer, tmp_path: Path
) -> AsyncIterator[GitHttpServer]:
    """The house's repository behind a server that can misbehave."""
    folder = house.mirror
    house.mirror = Mirror(tmp_path / "http.git", url=git_http.url(house.remote))
    house.build()
    yield git_http
    house.mirror.close()
    house.mirror = folder


# Fetches


async def test_fetches_that_hooks_owed_survive_failures_and_restarts_and_are_one(
    house: House, over_http: GitHttpServer
) -> None:
    await house.push(a="on: push\n" + CRON)
    tip = house.remote.change({"x": "1"})
    for _ in range(3):
        await house.store.write(Owe("fetch", "ops", house.clock()))
    over_http.status = 503
    waits = [await house.reconciler._attempt() for _ in range(3)]
    assert waits == sorted(set(waits))
    assert await house.store.owed_next("fetch") is not None
    await restart(house)
    over_http.status, over_http.asked[:] = None, []
    await house.reconciler.look()
    assert await house.store.owed_next("fetch") is None
    assert len([one for one in over_http.asked if one.method == "GET"]) == 1
    assert await house.runs() == [("a", tip)]


async def test_a_fetch_that_is_owed_during_one_causes_one_more(house: House) -> None:
    await house.push(a=CRON)
    loop, real, fetches = asyncio.get_running_loop(), house.mirror.fetch, 0
    paid = asyncio.Event()

    def fetch() -> Seen:
        nonlocal fetches
        fetches += 1
        seen = real()
        if fetches == 1:
            for _ in range(3):
                owe = house.store.write(Owe("fetch", "ops", house.clock()))
                asyncio.run_coroutine_threadsafe(owe, loop).result()
        elif fetches == 2:
            loop.call_soon_threadsafe(paid.set)
        return seen

    house.mirror.fetch = fetch  # type: ignore[method-assign]
    task = asyncio.create_task(house.reconciler.run_forever())
    async with asyncio.timeout(20):
        await paid.wait()
    await house.until(lambda: house.reconciler.reconciled, "definitions:ops")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert fetches == 2
    await house.reconciler.look()
    assert await house.store.owed_next("fetch") is None


async def test_a_fetch_owed_before_the_clock_went_back_is_paid(house: House) -> None:
    await house.push(a=CRON)
    await house.store.write(Owe("fetch", "ops", house.clock() + timedelta(days=1)))
    await house.reconciler.look()
    assert await house.store.owed_next("fetch") is None


# Summaries


async def test_a_kill_at_any_step_of_publishing_writes_each_summary_once(house: House) -> None:
    await house.push(a=CRON)
    runs: list[str] = []
    died = True
    while died:
        steps = len(runs) + 1
        house.clock.forward(days=1)  # the next slot on the dashboard moves
        runs.append(await finished(house))
        fate = Fate(steps)
        doom(house, fate)
        house.build()
        await house.reconciler._take_up((await house.store.repositories())[0])
        with contextlib.suppress(Died):
            await reporter(house).pay_due()
        died = fate.came
        await restart(house)
        house.clock.forward(days=1)
        assert await reporter(house).pay_due()
        assert await house.store.owed_next("summary") is None
        assert run_files(house.remote) == sorted(runs)
        assert json.loads(house.remote.show(STATUS, "latest/a.json"))["run"] == runs[-1]
        assert len(commits(house)) == len(runs)
    assert len(runs) > 5


async def test_waits_grow_over_restarts(house: House, over_http: GitHttpServer) -> None:
    await house.push(a=CRON)
    await finished(house)
    over_http.status = 502
    waits = []
    for _ in range(3):
        await restart(house)
        assert not await reporter(house).pay_due()
        due = await house.store.owed_next("summary")
        assert due is not None
        waits.append((due - house.clock()).total_seconds())
        assert await reporter(house).pay_due()  # nothing is due, and nothing is tried
        house.clock.at = due
    assert waits == [5, 10, 20]
    over_http.status = None
    assert await reporter(house).pay_due()
    assert len(run_files(house.remote)) == 1


async def test_a_debt_is_paid_after_a_restart_without_a_new_event(house: House) -> None:
    await house.push(a=CRON)
    run = await finished(house)
    await restart(house)
    paid = asyncio.Event()
    real = publisher(house)

    async def pay(rows: Sequence[OwedRow]) -> None:
        await real(rows)
        paid.set()

    task = asyncio.create_task(
        Reporter(house.store, "summary", pay=pay, clock=house.clock).run_forever()
    )
    async with asyncio.timeout(20):
        await paid.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert run_files(house.remote) == [run]


async def test_what_was_put_off_before_the_clock_went_back_is_due(house: House) -> None:
    await house.push(a=CRON)
    run = await finished(house)
    house.clock.forward(days=-1)
    assert await reporter(house).pay_due()
    assert house.remote.tip(STATUS) is None
    assert await reporter(house, longest_delay_s=600).pay_due()
    assert run_files(house.remote) == [run]


async def test_a_push_that_was_taken_before_its_answer_was_lost_is_not_made_again(
    house: House, over_http: GitHttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.push(a=CRON)
    run = await finished(house)
    handler = git_remotes._GitHttpHandler
    real = handler._plain

    def cut(self: git_remotes._GitHttpHandler, status: int, *rest: object) -> None:
        if self.command == "POST" and "receive-pack" in self.path:
            self.close_connection = True
            raise ConnectionResetError
        real(self, status, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(handler, "_plain", cut)
    assert not await reporter(house).pay_due()
    taken = commits(house)
    assert run_files(house.remote) == [run]
    monkeypatch.setattr(handler, "_plain", real)
    await restart(house)
    house.clock.forward(days=1)
    assert await reporter(house).pay_due()
    assert commits(house) == taken
    assert await house.store.owed_next("summary") is None


@pytest.mark.parametrize("way", ["hook", "read-only"])
async def test_a_refusal_is_kept_with_its_words_and_paid_when_it_ends(
    house: House, over_http: GitHttpServer, way: str
) -> None:
    await house.push(a=CRON)
    run = await finished(house)
    if way == "hook":
        house.remote.hook("pre-receive", 'echo "this branch is protected" >&2; exit 1\n')
    else:
        git("config", "http.receivepack", "false", cwd=house.remote.path)
    assert not await reporter(house).pay_due()
    (row,) = await house.store.owed("summary", due=house.clock() + timedelta(days=1))
    assert {"hook": "this branch is protected", "read-only": "403"}[way] in row.last_error
    finished_run = await house.store.run(run)
    assert finished_run is not None
    assert finished_run.status == "succeeded"
    house.remote.hook("pre-receive", "exit 0\n")
    git("config", "http.receivepack", "true", cwd=house.remote.path)
    await restart(house)
    house.clock.at = row.not_before
    assert await reporter(house).pay_due()
    assert run_files(house.remote) == [run]


async def test_a_lock_that_a_kill_left_in_a_local_repository_is_waited_for_then_dropped(
    house: House,
) -> None:
    await house.push(a=CRON)
    run = await finished(house)
    lock = house.remote.path / f"{STATUS}.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert not await reporter(house).pay_due()
    assert lock.exists()
    os.utime(lock, (time.time() - 60, time.time() - 60))
    house.clock.forward(seconds=10)
    assert await reporter(house).pay_due()
    assert run_files(house.remote) == [run]


async def test_a_damaged_mirror_is_fetched_anew_for_the_status_branch_too(
    house: House, tmp_path: Path
) -> None:
    await house.push(a=CRON)
    first = await finished(house)
    assert await reporter(house).pay_due()
    house.mirror.close()
    path = house.mirror.path.rename(tmp_path / "moved.git")
    for folder in (path / "objects").glob("??"):
        for file in folder.iterdir():
            file.unlink()  # our commits are loose objects
    house.mirror = Mirror(path, url=str(house.remote.path))
    await restart(house)
    second = await finished(house)
    with contextlib.suppress(NotPaid):
        await reporter(house).pay_due()
    await house.reconciler.look()
    house.clock.forward(seconds=10)
    assert await reporter(house).pay_due()
    assert run_files(house.remote) == sorted([first, second])


# Two services that publish to one repository


@pytest.fixture
async def other(house: House, tmp_path: Path) -> AsyncIterator[House]:
    """Another service with a data folder of its own, for the same repository."""
    store = open_store(tmp_path / "other", durability="process")
    mirror = Mirror(tmp_path / "other/ops.git", url=str(house.remote.path))
    yield House(house.remote, store, mirror, clock=house.clock)
    mirror.close()
    await store.close()


async def test_the_dashboard_never_goes_back_to_another_services_older_run(
    house: House, other: House
) -> None:
    await house.push(a=CRON, b=CRON)
    await other.reconciler.look()
    older, newer = await finished(house), await finished(other)
    mine = await finished(house, "b")
    assert await reporter(other).pay_due()
    assert await reporter(house).pay_due()
    page = house.remote.show(STATUS, "README.md")
    assert f"/a/{newer}.md" in page
    assert f"/b/{mine}.md" in page
    assert older not in page
    assert json.loads(house.remote.show(STATUS, "latest/a.json"))["run"] == newer
    assert run_files(house.remote) == sorted([older, newer, mine])


async def test_forty_publications_by_two_services_at_once_are_all_there(
    house: House, other: House
) -> None:
    await house.push(a=CRON, b=CRON)
    await other.reconciler.look()
    runs = [
        await finished(service, w) for _ in range(10) for w in "ab" for service in (house, other)
    ]
    assert len(runs) == 40

    async def publish(service: House) -> None:
        pay = publisher(service)
        for row in await service.store.owed("summary", due=service.clock()):
            while True:
                try:
                    await pay([row])
                except NotPaid:  # as the reporter does, without its wait
                    continue
                break

    await asyncio.gather(publish(house), publish(other))
    assert run_files(house.remote) == sorted(runs)
    assert len(commits(house)) == 40
    page = house.remote.show(STATUS, "README.md")
    for workflow, newest in (("a", runs[-3]), ("b", runs[-1])):
        assert json.loads(house.remote.show(STATUS, f"latest/{workflow}.json"))["run"] == newest
        assert f"/{workflow}/{newest}.md" in page


WRITTEN = {
    "run": "r9",
    "status": "failed",
    "commit": "c0" * 20,
    "queued_at": "2026-11-20T11:00:00.000Z",
    "duration_ms": 5,
}


async def left_behind(house: House, latest: bytes) -> None:
    """Somebody's commit on the status branch, with `latest` for the workflow "a"."""
    house.remote.git("checkout", "-q", "--orphan", "status")
    house.remote.commit({"latest/a.json": latest})
    house.remote.push(f"HEAD:{STATUS}")


async def test_what_a_service_wrote_is_kept_while_it_is_the_younger(house: House) -> None:
    await house.push(a=CRON)
    latest = json.dumps(WRITTEN).encode()
    await left_behind(house, latest)
    run = await finished(house)
    assert await reporter(house).pay_due()
    assert house.remote.show(STATUS, "latest/a.json") == latest.decode()
    assert run_files(house.remote) == [run]
    page = house.remote.show(STATUS, "README.md")
    assert "`c0c0c0c0c0` | 5 ms" in page
    assert run not in page


@pytest.mark.parametrize(
    "found",
    [b"not json", b"[" * 100_000, b"[]", b"7", b"\xff"]
    + [
        # json writes Infinity and NaN as Python reads them
        json.dumps(WRITTEN | changed).encode()
        for changed in (
            {"queued_at": "2026-11-20T11:00:00"},
            {"queued_at": "9999-12-31T23:59:59-14:00"},
            {"queued_at": "0001-01-01T00:00:00+14:00"},
            {"queued_at": 7},
            {"queued_at": "2026-11-21T10:00:45Z"},
            {"queued_at": "2126-11-20T11:00:00Z"},
            {"run": "x](http://evil)"},
            {"run": ""},
            {"run": None},
            {"status": ""},
            {"status": ["failed"]},
            {"commit": 5},
            {"duration_ms": float("inf")},
            {"duration_ms": float("nan")},
            {"duration_ms": 1.5},
            {"duration_ms": 10**400},
            {"duration_ms": 10**14},
            {"duration_ms": -1},
            {"duration_ms": True},
            {"duration_ms": "5"},
        )
    ],
    ids=lambda found: found.decode(errors="replace")[-40:],
)
async def test_what_no_service_wrote_is_replaced(house: House, found: bytes) -> None:
    await house.push(a=CRON)
    await left_behind(house, found)
    run = await finished(house)
    assert await reporter(house).pay_due()
    assert json.loads(house.remote.show(STATUS, "latest/a.json"))["run"] == run
    assert f"/a/{run}.md" in house.remote.show(STATUS, "README.md")


async def test_a_latest_of_the_future_is_heeded_again_when_its_time_has_come(
    house: House,
) -> None:
    await house.push(a=CRON, b=CRON)
    await left_behind(house, json.dumps(WRITTEN | {"queued_at": "2026-11-22T11:00:00Z"}).encode())
    pay = publisher(house)
    for days, is_heeded in ((0, False), (1.5, True)):
        house.clock.forward(days=days)
        run = await finished(house, "b")
        rows = await house.store.owed("summary", due=house.clock())
        await pay([row for row in rows if row.key == run])
        assert ("c0c0c0c0c0" in house.remote.show(STATUS, "README.md")) == is_heeded


async def test_a_status_branch_that_was_deleted_begins_anew_and_links_what_it_has(
    house: House,
) -> None:
    await house.push(a=CRON, b=CRON)
    older = await finished(house, "b")
    assert await reporter(house).pay_due()
    assert f"/b/{older}.md" in house.remote.show(STATUS, "README.md")
    git("update-ref", "-d", STATUS, cwd=house.remote.path)
    newer = await finished(house, "a")
    house.clock.forward(days=1)
    assert await reporter(house).pay_due()
    page = house.remote.show(STATUS, "README.md")
    links = re.findall(r"\]\(([^)]*)\)", page)
    assert [Path(link).stem for link in links] == [newer]
    assert set(links) <= set(house.remote.files(STATUS))
    (line,) = [line for line in page.splitlines() if line.startswith("| b |")]
    assert "succeeded" in line  # it is still said, without a link


# What is said of a payment that failed


async def test_a_bug_in_paying_is_logged_once_and_paid_later(house: House) -> None:
    await house.store.write(Owe("summary", "r", house.clock()))
    tried = 0
    paid = asyncio.Event()

    async def pay(rows: Sequence[OwedRow]) -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise ZeroDivisionError
        paid.set()

    reader = Reporter(house.store, "summary", pay=pay, clock=house.clock, retry_s=0)
    with capture_logs() as lines:
        task = asyncio.create_task(reader.run_forever())
        async with asyncio.timeout(20):
            await paid.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert [line["event"] for line in lines] == ["report_crashed"]


async def test_the_wait_has_its_limit_after_any_number_of_failures(
    house: House, tmp_path: Path
) -> None:
    async def pay(rows: Sequence[OwedRow]) -> None:
        raise NotPaid("still down")

    await house.store.write(Owe("summary", "r", house.clock()))
    with contextlib.closing(sqlite3.connect(tmp_path / "data/dagmill.sqlite")) as database:
        database.execute("UPDATE owed SET tries = 5000")
        database.commit()
    reader = Reporter(house.store, "summary", pay=pay, clock=house.clock, retry_s=5.0)
    assert not await reader.pay_due()
    assert await house.store.owed_next("summary") == house.clock() + timedelta(seconds=600)


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("500", "its log says why"),
        ("413", "takes no push of this size"),
        ("closed", "the connection was closed"),
        ("unpacked", "has its disk room?"),
    ],
)
async def test_a_push_that_failed_over_there_says_what_fits(
    house: House,
    over_http: GitHttpServer,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
    words: str,
) -> None:
    await house.push(a=CRON)
    await finished(house)
    real = git_remotes._GitHttpHandler._plain

    def answer(
        self: git_remotes._GitHttpHandler, status: int, headers: Mapping[str, str], body: bytes
    ) -> None:
        if self.command == "POST" and "receive-pack" in self.path:
            if way == "closed":
                self.close_connection = True
                raise ConnectionResetError
            status, headers, body = int(way), {}, b"no\n"
        real(self, status, headers, body)

    if way == "unpacked":
        git("config", "receive.maxInputSize", "10", cwd=house.remote.path)
    else:
        monkeypatch.setattr(git_remotes._GitHttpHandler, "_plain", answer)
    assert not await reporter(house).pay_due()
    (row,) = await house.store.owed("summary", due=house.clock() + timedelta(days=1))
    assert words in row.last_error
    assert "is the URL right" not in row.last_error
    unknown = way in ("500", "closed")
    assert ("whether the push was taken shows at the next try" in row.last_error) == unknown
