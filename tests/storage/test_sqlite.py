"""What only the SQLite store has: its folder and lock, its schema's history, crashes, full disks,
and query plans that stay fast however many rows are stored."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from storage import migrations, sqlite_reads
from storage.records import (
    Append,
    EventRecord,
    Owe,
    OwedRow,
    PutSource,
    PutTrigger,
    RunRow,
    TriggerRow,
)
from storage.sqlite import DATABASE, open_store
from storage.sqlite_writes import instant
from storage.store import Duplicate, StorageError, StoreUnusable

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def append(run: str, after: int, data: str = "{}") -> Append:
    head = RunRow(run, "ops", "etl", "ETL", "running", "", "push", "", "", NOON)
    return Append(run, after, (EventRecord(run, after + 1, NOON, "Started", 1, data),), head)


@pytest.fixture
def own_migrations(tmp_path: Path) -> Path:
    """A copy of the package's migrations that a test may change."""
    folder = tmp_path / "migrations"
    shutil.copytree(Path(migrations.__file__).parent / "sqlite", folder / "sqlite")
    return folder


def next_of(own_migrations: Path) -> Path:
    """The file of a migration that would follow the package's own."""
    number = len(migrations.load("sqlite")) + 1
    return own_migrations / "sqlite" / f"{number:04}_more.sql"


async def open_and_close(folder: Path, *, migrations_folder: Path | None = None) -> None:
    store = open_store(folder, migrations_folder=migrations_folder)
    await store.close()


# The folder


async def test_a_new_folder_is_closed_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    store = open_store(folder)
    await store.write(Owe("fetch", "ops", NOON))
    modes = {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}
    await store.close()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {DATABASE, f"{DATABASE}-wal", "lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


async def test_an_empty_or_own_folder_is_closed_to_others_and_a_foreign_one_left(
    tmp_path: Path,
) -> None:
    own, foreign = tmp_path / "own", tmp_path / "foreign"
    for folder in (own, foreign):
        folder.mkdir()
        folder.chmod(0o755)
    (foreign / "holiday.jpg").touch()
    await open_and_close(own)
    await open_and_close(foreign)
    assert own.stat().st_mode & 0o777 == 0o700
    assert foreign.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/dagmill"])
def test_a_folder_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnusable, match=rf"{place}.*choose a folder"):
        open_store(tmp_path / place)


@pytest.fixture
def ordinary_user(tmp_path: Path) -> Iterator[None]:
    """Root may write everywhere, so a test that is run by root goes on as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    above = [p for p in (tmp_path, *tmp_path.parents) if p.stat().st_mode & 0o055 != 0o055]
    modes = [(p, p.stat().st_mode) for p in above]
    for path, mode in modes:
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes:
            path.chmod(mode)


@pytest.mark.usefixtures("ordinary_user")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data"  # tmp_path itself is root's, if root runs the tests
    with pytest.raises(StoreUnusable, match=r"data.*Permission denied"):
        open_store(folder if os.getuid() == 0 else _read_only(folder))


def _read_only(folder: Path) -> Path:
    folder.mkdir(mode=0o500)
    return folder


async def test_a_folder_in_use_names_the_process(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(StoreUnusable, match=f"in use by process {os.getpid()};"):
        open_store(tmp_path)
    await store.close()
    await open_and_close(tmp_path)


HOLDER = """
import asyncio, sys
from pathlib import Path
from storage.sqlite import open_store
store = open_store(Path(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_folder_in_use_by_a_second_process_is_refused_until_that_died(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreUnusable, match=f"in use by process {holder.pid};"):
            open_store(tmp_path)
        holder.kill()
        holder.wait()
    asyncio.run(open_and_close(tmp_path))


# The schema


async def test_a_database_that_is_none_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_text("holiday pictures, " * 100)
    with pytest.raises(StoreUnusable, match="file is not a database"):
        open_store(tmp_path)
    assert (tmp_path / DATABASE).read_text() == "holiday pictures, " * 100


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / DATABASE) as foreign:
        foreign.execute("CREATE TABLE bookmarks (url TEXT)")
    foreign.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(StoreUnusable, match="another program's database"):
        open_store(tmp_path)
    assert (tmp_path / DATABASE).read_bytes() == before


async def test_a_migration_is_run_once_and_keeps_what_is_stored(
    tmp_path: Path, own_migrations: Path
) -> None:
    store = open_store(tmp_path / "data", migrations_folder=own_migrations)
    await store.write(append("r1", 0))
    await store.close()
    second = next_of(own_migrations)
    second.write_text("CREATE TABLE more (x TEXT);\nINSERT INTO more VALUES ('a');\n")
    for _ in range(2):
        store = open_store(tmp_path / "data", migrations_folder=own_migrations)
        assert len(await store.events("r1")) == 1
        await store.close()
    with sqlite3.connect(tmp_path / "data" / DATABASE) as connection:
        assert connection.execute("SELECT x FROM more").fetchall() == [("a",)]
    connection.close()


DAY = 86400 * 1_000_000


async def of_schema(number: int, data: Path, own_migrations: Path, *, sql: str) -> None:
    """Make a data folder as the program with so many migrations made it, and run `sql` there."""
    shipped = sorted((own_migrations / "sqlite").glob("*.sql"))
    for later in shipped[number:]:
        later.rename(own_migrations / later.name)
    await open_and_close(data, migrations_folder=own_migrations)
    with sqlite3.connect(data / DATABASE) as connection:
        connection.executescript(sql)
    connection.close()


def old_run(run: str, status: str, *, repository: str = "ops") -> str:
    """A run that began at 0 and, if it is over, ended after a day; with one fact."""
    ended = "NULL" if status in ("running", "queued") else DAY
    values = f"'{run}', '{repository}', 'etl', 'ETL', '{status}', '', 'push', '', '', 0, NULL"
    fact = f"'{run}', 1, 0, 'Queued', 1, '{{}}'"
    return f"INSERT INTO runs VALUES ({values}, {ended}, 1); INSERT INTO events VALUES ({fact});"  # noqa: S608


async def test_a_folder_of_the_first_schema_owes_the_clearing_up_after_its_failed_runs(
    tmp_path: Path, own_migrations: Path
) -> None:
    old = [old_run("failed", "failed"), old_run("good", "succeeded"), old_run("on", "running")]
    old += [old_run("local", "failed", repository=""), old_run("owed", "failed")]
    owed_already = f"INSERT INTO owed VALUES ('cleanup', 'owed', 1, {2 * DAY}, 0, '');"  # noqa: S608
    sql = "".join([*old, owed_already])
    await of_schema(1, tmp_path / "data", own_migrations, sql=sql)
    store = open_store(tmp_path / "data")
    rows = await store.owed("cleanup", due=NOON)
    await store.close()
    assert rows == [
        OwedRow("cleanup", "owed", 1, instant(2 * DAY), 0, ""),
        OwedRow("cleanup", "failed", 1, instant(8 * DAY), 0, ""),
    ]


async def test_runs_of_the_second_schema_are_roots_that_are_kept_for_thirty_days(
    tmp_path: Path, own_migrations: Path
) -> None:
    old = [old_run("good", "succeeded"), old_run("on", "running")]
    old.append(old_run("local", "failed", repository=""))
    await of_schema(2, tmp_path / "data", own_migrations, sql="".join(old))
    store = open_store(tmp_path / "data")
    runs = await store.runs(repository="ops")
    expiring = await store.owed("expire", due=NOON)
    await store.append(
        "on", after=1, records=[EventRecord("on", 2, NOON, "Started", 1, "{}")], head=runs[0]
    )
    await store.close()
    assert [(row.run, row.parent, row.attempt, row.keep_days) for row in runs] == [
        ("on", "", 1, 30),
        ("good", "", 1, 30),
    ]
    assert expiring == [OwedRow("expire", "good", 1, instant(31 * DAY), 0, "")]


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, own_migrations: Path) -> None:
    await open_and_close(tmp_path / "data", migrations_folder=own_migrations)
    second = next_of(own_migrations)
    second.write_text("CREATE TABLE more (x TEXT);\nCREATE TABLE runs (x TEXT);\n")
    with pytest.raises(StoreUnusable, match="table runs already exists"):
        open_store(tmp_path / "data", migrations_folder=own_migrations)
    second.unlink()
    await open_and_close(tmp_path / "data", migrations_folder=own_migrations)
    with sqlite3.connect(tmp_path / "data" / DATABASE) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    connection.close()
    assert "more" not in tables


async def test_a_newer_schema_asks_for_an_upgrade(tmp_path: Path, own_migrations: Path) -> None:
    next_of(own_migrations).write_text("CREATE TABLE more (x TEXT);\n")
    await open_and_close(tmp_path / "data", migrations_folder=own_migrations)
    newest = len(migrations.load("sqlite"))
    words = rf"schema {newest + 1}, .* up to {newest}: .* upgrade"
    with pytest.raises(StoreUnusable, match=words):
        open_store(tmp_path / "data")
    await open_and_close(tmp_path / "data", migrations_folder=own_migrations)


async def test_a_migration_whose_text_changed_is_refused(
    tmp_path: Path, own_migrations: Path
) -> None:
    await open_and_close(tmp_path / "data", migrations_folder=own_migrations)
    first = own_migrations / "sqlite" / "0001_first.sql"
    first.write_text(first.read_text() + "-- edited\n")
    with pytest.raises(StoreUnusable, match="0001_first"):
        open_store(tmp_path / "data", migrations_folder=own_migrations)


def test_a_gap_in_the_migrations_numbers_is_a_mistake(own_migrations: Path) -> None:
    (own_migrations / "sqlite" / "9999_later.sql").touch()
    with pytest.raises(ValueError, match=rf"9999_later.sql.*{next_of(own_migrations).name[:4]}"):
        migrations.load("sqlite", folder=own_migrations)


@pytest.mark.parametrize(("durability", "synchronous"), [("host", 2), ("process", 1)])
async def test_durability_chooses_when_the_disk_is_waited_for(
    tmp_path: Path, durability: str, synchronous: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def recording(*args: object, **kwargs: object) -> sqlite3.Connection:
        made.append(connect(*args, **kwargs))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(sqlite3, "connect", recording)
    store = open_store(tmp_path, durability=durability)  # type: ignore[arg-type]
    assert made[0].execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert made[0].execute("PRAGMA journal_mode").fetchone() == ("wal",)
    await store.close()


# Crashes and full disks

WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from storage.records import EventRecord, Owe, RunRow
from storage.sqlite import open_store

async def main():
    store = open_store(Path(sys.argv[1]), durability="process")
    at = datetime.now(UTC)
    head = RunRow("r1", "", "w", "w", "running", "", "manual", "", "", at)
    for n in range(1_000_000):
        record = EventRecord("r1", n + 1, at, "Started", 1, "x" * 300)
        owed = [Owe("summary", "r1", at)]
        await store.append("r1", after=n, records=[record], head=head, also=owed)
        print(n + 1, flush=True)

asyncio.run(main())
"""


def kill_writer(folder: Path, *, after: int) -> int:
    """Let a process write until it has `after` acknowledged, kill it; returns how many it had."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, folder], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= after:
                break
        writer.send_signal(signal.SIGKILL)
        return max([after, *(int(line) for line in writer.stdout if line.endswith("\n"))])


@pytest.mark.parametrize("after", [1, 40, 400])
async def test_after_kill_9_everything_acknowledged_is_there_and_whole(
    tmp_path: Path, after: int
) -> None:
    acknowledged = kill_writer(tmp_path, after=after)
    store = open_store(tmp_path)
    events, head = await store.events("r1"), await store.run("r1")
    (owed,) = await store.owed("summary", due=datetime.now(UTC))
    await store.write(append("r1", len(events)))
    await store.close()
    assert head is not None
    assert len(events) in (acknowledged, acknowledged + 1)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (head.seq, owed.version) == (len(events), len(events))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place],
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("needs the right to mount a tmpfs")
    yield place
    subprocess.run(["umount", place], check=True)


async def test_a_full_disk_fails_the_whole_batch_and_the_store_goes_on_once_there_is_room(
    small_disk: Path,
) -> None:
    store = open_store(small_disk / "data")
    await store.write(PutTrigger(TriggerRow("taken", "ops", "etl", NOON, "run", None, "{}")))
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(1 << 20))
    outcomes = await asyncio.gather(
        store.write(append("r1", 0)),
        store.write(PutTrigger(TriggerRow("taken", "ops", "etl", NOON, "run", None, "{}"))),
        store.write(PutSource("s", "x" * (1 << 21))),
        return_exceptions=True,
    )
    for outcome in outcomes:
        assert isinstance(outcome, StorageError)
        assert not isinstance(outcome, Duplicate)
        assert "disk is full" in str(outcome)
    assert await store.run("r1") is None
    ballast.unlink()
    await store.write(append("r1", 0))
    assert len(await store.events("r1")) == 1
    await store.close()


async def test_a_broken_database_fails_reads_and_writes_with_its_name(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as intruder:
        intruder.execute("DROP TABLE owed")
    intruder.close()
    neighbour, broken = await asyncio.gather(
        store.write(append("r1", 0)),
        store.write(append("r2", 0), Owe("fetch", "ops", NOON)),
        return_exceptions=True,
    )
    assert neighbour is None
    assert isinstance(broken, StorageError)
    assert f"{tmp_path / DATABASE}: no such table: owed" in str(broken)
    assert await store.run("r2") is None
    with pytest.raises(StorageError, match=f"cannot read {tmp_path / DATABASE}: no such table"):
        await store.owed_next("fetch")
    await store.close()


# Query plans


@pytest.fixture
def schema() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    for migration in migrations.load("sqlite"):
        connection.executescript(migration.sql)
    yield connection
    connection.close()


@pytest.mark.parametrize("before", [None, (NOON, "r1")], ids=["first page", "later page"])
@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({}, "runs_by_age"),
        ({"repository": "ops"}, "runs_by_repository"),
        ({"workflow": "etl"}, "runs_by_workflow_alone"),
        ({"repository": "ops", "workflow": "etl"}, "runs_by_workflow"),
        ({"statuses": ("running",)}, "runs_by_status"),
        ({"statuses": ("running", "queued")}, "runs_by_status"),
        (
            {"repository": "ops", "workflow": "etl", "statuses": ("failed", "queued")},
            "runs_by_workflow_status",
        ),
        ({"commit": "c"}, "runs_by_commit"),
        ({"commit": "c", "repository": "ops", "workflow": "etl"}, "runs_by_commit"),
        ({"commit": "c", "statuses": ("failed",)}, "runs_by_commit"),
        ({"parent": "r0"}, "runs_by_parent"),
        ({"parent": "r0", "workflow": "etl", "commit": "c"}, "runs_by_parent"),
        ({"parent": "r0", "statuses": ("failed", "queued")}, "runs_by_parent"),
    ],
)
def test_each_list_of_runs_comes_sorted_out_of_one_index(
    schema: sqlite3.Connection,
    asked: dict[str, str],
    index: str,
    before: tuple[datetime, str] | None,
) -> None:
    filters = sqlite_reads.RunFilter(**asked, before=before)  # type: ignore[arg-type]
    sql, values = sqlite_reads.runs_query(filters, 50)
    plan = {
        node: (parent, text)
        for node, parent, _, text in schema.execute(f"EXPLAIN QUERY PLAN {sql}", values)
    }
    reads = [text for _, text in plan.values() if " runs USING" in text]
    assert reads
    for text in reads:
        assert f" runs USING INDEX {index} " in f"{text} "
        # Without a filter the index is read from its end, as it has the listed runs only.
        assert text.startswith("SEARCH") or (not asked and before is None)
    # Only the few rows that the statuses' subqueries gave may be sorted, on the outside.
    for parent, text in plan.values():
        if "TEMP B-TREE" in text:
            assert "statuses" in asked
            assert not plan.get(parent, (0, ""))[1].startswith("CO-ROUTINE")


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        (sqlite_reads.QUEUED, ["SEARCH runs USING INDEX runs_queued"]),
        (sqlite_reads.LATEST, ["SEARCH runs USING INDEX runs_by_workflow"]),
        (
            sqlite_reads.claimants_query(2),
            ["SEARCH claims USING COVERING INDEX claims_by_name", "SEARCH runs USING INDEX"],
        ),
        (
            sqlite_reads.CANCELLING,
            ["SCAN claims USING INDEX claims_that_cancel", "SEARCH runs USING INDEX"],
        ),
    ],
)
def test_what_admission_asks_again_and_again_is_looked_up(
    schema: sqlite3.Connection, sql: str, reads: list[str]
) -> None:
    marks = ["x"] * sql.count("?")
    plan = [text for *_, text in schema.execute(f"EXPLAIN QUERY PLAN {sql}", marks)]
    looked_up = [text for text in plan if "TEMP B-TREE" not in text]
    for text, begin in zip(looked_up, reads, strict=True):
        assert text.startswith(begin)
    # Only the few runs that hold a claim may be sorted.
    assert len(plan) == len(reads) or "FROM claims" in sql


def test_entries_are_looked_up_by_key(schema: sqlite3.Connection) -> None:
    statements: list[str] = []
    schema.set_trace_callback(statements.append)
    sqlite_reads.entries(schema, 1, [("b", "base", "p"), ("b2", "base", "p2")])
    schema.set_trace_callback(None)
    (statement,) = statements
    plan = [text for *_, text in schema.execute(f"EXPLAIN QUERY PLAN {statement}")]
    assert any(text.startswith("SEARCH entries USING") for text in plan)
    assert not any(text.startswith("SCAN entries") for text in plan)
