"""A database that another process holds, that is damaged or that cannot be written."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_remotes import Remote
from service_process import SECRET, Served, begun, deliver, published
from small_disk import SmallDisk, mount

pytestmark = pytest.mark.timeout(180)

WAITS = """
on: push
steps:
  - name: first
    command: "touch begun; until [ -e %s/go ]; do sleep 0.05; done"
  - name: second
    depends: first
    command: "echo once >>%s/effects"
"""


@contextlib.contextmanager
def held(database: Path, *, locking: str = "NORMAL") -> Iterator[None]:
    """The database in the hands of another process (here of another connection)."""
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute(f"PRAGMA locking_mode = {locking}")
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_what_was_under_way_waits_for_a_locked_database_and_goes_on(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    begun(remote, **{".dagu/waits.yaml": WAITS % (tmp_path, tmp_path)})
    service = serve(str(remote.path), "--poll", "0.3", hook_secret=SECRET)
    service.fact("catalog_applied")
    run = service.started("waits")
    service.wait(lambda: list((service.data / "workspaces" / run).glob("begun")))
    with held(service.data / "dagmill.sqlite"):
        (tmp_path / "go").touch()
        pushed = remote.change({"greeting.txt": "two\n"})
        assert deliver(service, remote, ref="refs/heads/main", after=pushed).status_code == 503
        assert service.trigger("hello").status_code == 503
        problem = service.fact("run_not_recorded", run=run)["problem"]
        assert "locked" in problem
        assert "no other process holds the database" in problem
        assert service.get("/api/v1/runs")["runs"], "reading goes on"
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    of_push = service.fact("run_admitted", commit=pushed, workflow="hello")["run"]
    for one in (run, of_push):
        assert published(service, remote, run=one)["status"] == "succeeded"
    service.wait(lambda: len(service.facts_of("run_finished")) == 3)
    assert (tmp_path / "effects").read_text() == "once\nonce\n"
    service.untroubled()


def test_a_start_on_a_locked_database_is_refused_in_words(serve: Served, remote: Remote) -> None:
    begun(remote)
    first = serve(str(remote.path))
    assert first.url
    assert first.stop() == 0
    with held(serve.data / "dagmill.sqlite", locking="EXCLUSIVE"):
        (message,) = serve.refused(str(remote.path)).splitlines()
    assert "locked" in message
    assert "end the other process" in message
    assert serve(str(remote.path)).url


@pytest.mark.parametrize("offset", [0, 100])
def test_a_start_on_a_damaged_database_says_what_to_do(
    serve: Served, remote: Remote, offset: int
) -> None:
    begun(remote)
    first = serve(str(remote.path))
    assert first.url
    assert first.stop() == 0
    database = serve.data / "dagmill.sqlite"
    with database.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xa5" * (database.stat().st_size - offset))
    (message,) = serve.refused(str(remote.path)).splitlines()
    assert str(database) in message
    assert "copy" in message


def test_a_lock_that_a_dying_process_still_holds_is_waited_for(
    serve: Served, remote: Remote
) -> None:
    begun(remote)
    first = serve(str(remote.path))
    assert first.url
    first.process.kill()
    first.stop()
    # As a child does that was forked just before the kill and had not yet become a step.
    child = "import sys, time; print(flush=True); time.sleep(0.5)"
    with (serve.data / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        forked = subprocess.Popen(
            [sys.executable, "-c", child], pass_fds=[lock.fileno()], stdout=subprocess.PIPE
        )
    assert forked.stdout is not None
    forked.stdout.readline()
    try:
        assert serve(str(remote.path)).url
    finally:
        forked.kill()
        forked.wait()
        forked.stdout.close()


def test_a_read_only_data_folder_is_refused_in_words(
    serve_on_disk: Served, disk: SmallDisk, remote: Remote
) -> None:
    begun(remote)
    first = serve_on_disk(str(remote.path))
    assert first.url
    assert first.stop() == 0
    mount(disk.folder, "-o", "remount,ro")
    (message,) = serve_on_disk.refused(str(remote.path)).splitlines()
    assert "Read-only file system" in message
    assert str(serve_on_disk.data) in message
    mount(disk.folder, "-o", "remount,rw")
    assert serve_on_disk(str(remote.path)).url


def test_a_log_that_takes_no_lines_is_nobodys_trouble(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    begun(remote)
    # No reader of the log and none of the sentences: every write of one fails.
    serve.within = ("sh", "-c", 'exec "$@" >/dev/full 2>/dev/full', "sh", *serve.within)
    service = serve(str(remote.path), "--poll", "0.3")
    service.wait(lambda: remote.tip("refs/heads/main") and _knows(serve.data))
    pushed = remote.change({"greeting.txt": "two\n"})
    service.wait(lambda: _commits(serve.data) == [(pushed, "succeeded")])
    assert service.stop() == 0


def _knows(data: Path) -> bool:
    return bool(_rows(data, "SELECT 1 FROM definitions"))


def _commits(data: Path) -> list[tuple[str, str]]:
    return _rows(data, "SELECT commit_id, status FROM runs")


def _rows(data: Path, query: str) -> list[tuple[str, str]]:
    """Read from aside; nothing as long as there is no database."""
    with contextlib.suppress(sqlite3.OperationalError):
        url = f"file:{data}/dagmill.sqlite?mode=ro"
        with contextlib.closing(sqlite3.connect(url, uri=True)) as database:
            return database.execute(query).fetchall()
    return []
