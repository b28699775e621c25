"""A disk without room, at each kind of write: it is said, nothing is lost, and all goes on."""

from __future__ import annotations

import hashlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from git_remotes import Remote
from service_process import SECRET, Served, Service, begun, deliver, published
from small_disk import SmallDisk, mounted

pytestmark = pytest.mark.timeout(180)

FAST = ("--poll", "0.3")


def serving(serve: Served, remote: Remote, **settings: str) -> Service:
    service = serve(str(remote.path), *FAST, min_free_disk="0", hook_secret=SECRET, **settings)
    service.fact("catalog_applied")
    assert service.url
    return service


def workspace(service: Service, run: str) -> Path:
    return service.data / "workspaces" / run


def step(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in document["steps"] if s["name"] == name)
    return found


def test_a_start_without_room_is_refused_in_words_and_succeeds_with_room(
    serve_on_disk: Served, disk: SmallDisk, remote: Remote
) -> None:
    begun(remote)
    for leave_kib in (0, 16, 200):
        disk.fill(leave=leave_kib << 10)
        (message,) = serve_on_disk.refused(str(remote.path), min_free_disk="0").splitlines()
        assert str(disk.folder) in message
        assert "room" in message
        disk.free()
    serving(serve_on_disk, remote)


def test_all_that_was_under_way_on_a_full_disk_goes_on_when_it_has_room(
    serve_on_disk: Served, disk: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    two = f"""
    steps:
      - name: first
        command: "touch begun; until [ -e {go} ]; do sleep 0.05; done"
      - name: second
        depends: first
        command: "cat greeting.txt; echo once >>{tmp_path}/effects"
    """
    begun(remote, **{".dagu/two.yaml": two})
    service = serving(serve_on_disk, remote)
    run = service.started("two")
    service.wait(lambda: list(workspace(service, run).glob("begun")))
    disk.fill()
    go.touch()
    assert "free some" in service.fact("run_not_recorded", run=run)["problem"]
    assert service.trigger("hello").status_code == 503
    pushed = remote.change({"greeting.txt": "two\n"})
    assert deliver(service, remote, ref="refs/heads/main", after=pushed).status_code == 503
    service.fact("fetch_failed")
    disk.free()
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    assert published(service, remote, run=run)["status"] == "succeeded"
    of_push = service.fact("run_admitted", commit=pushed)["run"]
    assert published(service, remote, run=of_push)["status"] == "succeeded"
    assert (tmp_path / "effects").read_text() == "once\n"
    assert len(service.facts_of("run_finished")) == 2
    service.untroubled()
    assert service.stop() == 0


@pytest.fixture
def part(request: pytest.FixtureRequest, serve: Served) -> Iterator[SmallDisk]:
    """A small disk for one folder of the data folder; the database has room."""
    serve.data.mkdir(mode=0o700)
    with mounted(serve.data / request.param, size="2m") as disk:
        yield disk


@pytest.mark.parametrize(
    ("part", "leave"), [("runs", 0), ("workspaces", 8 << 10)], indirect=["part"]
)
def test_a_run_that_cannot_be_prepared_for_want_of_room_waits_and_runs_once(
    serve: Served, part: SmallDisk, remote: Remote, tmp_path: Path, leave: int
) -> None:
    step = f"steps: [{{command: 'cat greeting.txt; echo once >>{tmp_path}/effects'}}]"
    begun(remote, **{".dagu/write.yaml": step, "large": "y" * 30_000})
    service = serving(serve, remote)
    part.fill(leave=leave)
    run = service.started("write")
    assert "No space left" in service.fact("preparation_waits", run=run)["problem"]
    part.free()
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    assert (tmp_path / "effects").read_text() == "once\n"
    assert len(service.facts_of("preparation_waits")) == 1, "said once, not at each try"
    service.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
@pytest.mark.parametrize("second", ["command", "script"])
def test_a_step_that_cannot_begin_for_want_of_room_is_launched_when_there_is_some(
    serve: Served, part: SmallDisk, remote: Remote, tmp_path: Path, second: str
) -> None:
    two = f"""
    handlerOn:
      success: {{command: "grep -c second $DAG_RUN_SUMMARY_FILE"}}
    steps:
      - name: first
        command: "touch begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
      - name: second
        depends: first
        {second}: "echo once >>{tmp_path}/effects"
    """
    begun(remote, **{".dagu/two.yaml": two})
    service = serving(serve, remote)
    run = service.started("two")
    service.wait(lambda: list(workspace(service, run).glob("begun")))
    part.fill()
    (tmp_path / "go").touch()
    service.fact("launch_waits", run=run, step="second")
    part.free()
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    assert (tmp_path / "effects").read_text() == "once\n"
    assert [p.name for p in (service.data / "runs").rglob("begin") if not p.stat().st_size] == []
    service.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
def test_a_step_that_waits_for_room_can_be_stopped(
    serve: Served, part: SmallDisk, remote: Remote
) -> None:
    begun(remote, **{".dagu/one.yaml": "steps: [{name: one, script: 'echo hello'}]"})
    service = serving(serve, remote)
    service.fact("run_finished", run=service.started("one"))
    part.fill(leave=4 << 10)  # for what every step of a run sees
    run = service.started("one")
    service.fact("launch_waits", run=run)
    service.process.send_signal(signal.SIGINT)
    service.wait(lambda: any("1 step still running" in line for line in service.said))
    service.process.send_signal(signal.SIGINT)
    assert service.fact("run_finished", run=run)["status"] == "cancelled"
    service.untroubled()


@pytest.mark.parametrize("part", ["repositories"], indirect=True)
def test_a_mirror_without_room_fetches_and_publishes_when_there_is_some(
    serve: Served, part: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    waits = f"steps: [{{command: 'touch begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done'}}]"
    begun(remote, **{".dagu/waits.yaml": waits})
    service = serving(serve, remote)
    run = service.started("waits")
    service.wait(lambda: list(workspace(service, run).glob("begun")))
    part.fill()
    (tmp_path / "go").touch()
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    service.fact("report_postponed", kind="summary")
    pushed = remote.change({"greeting.txt": "two\n", "large": os.urandom(20_000).hex()})
    assert "No space left" in service.fact("fetch_failed")["problem"]
    part.free()
    of_push = service.fact("run_admitted", commit=pushed)["run"]
    assert published(service, remote, run=run)["status"] == "succeeded"
    assert published(service, remote, run=of_push)["status"] == "succeeded"
    service.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
def test_a_step_that_fills_the_disk_with_its_log_ends_with_its_own_code(
    serve: Served, part: SmallDisk, remote: Remote
) -> None:
    yes = "steps: [{name: much, command: 'yes || exit 7'}]"
    begun(remote, **{".dagu/much.yaml": yes})
    service = serving(serve, remote)
    run = service.started("much")
    assert service.fact("run_finished", run=run)["status"] == "failed"
    shown = service.get(f"/api/v1/runs/{run}")
    assert step(shown, "much")["exit_code"] == 7
    service.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
def test_a_log_that_fills_the_disk_is_scrubbed_where_it_is(
    serve: Served, part: SmallDisk, remote: Remote
) -> None:
    loud = "steps: [{name: much, command: 'yes \"says $APP_TOKEN here\" || exit 7'}]"
    begun(remote, **{".dagu/much.yaml": f"env: [APP_TOKEN: hunter2-hunter2]\n{loud}"})
    service = serving(serve, remote)
    run = service.started("much")
    service.fact("run_finished", run=run)
    (out,) = (service.data / "runs").rglob("out")
    assert out.stat().st_size > 1 << 20
    text = out.read_bytes()
    assert b"hunter2-hunter2" not in text
    assert b"says *************** here" in text
    log = step(service.get(f"/api/v1/runs/{run}"), "much")["log"]
    assert log["sha256"] == hashlib.sha256(text).hexdigest()
    assert log["bytes"] == len(text)
    service.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
def test_a_restart_on_a_full_disk_makes_a_launch_void_and_launches_it_once(
    serve: Served, part: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    one = f"steps: [{{name: one, script: 'echo once >>{tmp_path}/effects'}}]"
    begun(remote, **{".dagu/one.yaml": one})
    service = serving(serve, remote)
    service.fact("run_finished", run=service.started("one"))
    (tmp_path / "effects").unlink()
    part.fill(leave=4 << 10)  # for what every step of a run sees
    run = service.started("one")
    service.fact("launch_waits", run=run)
    service.process.kill()
    service.stop()
    part.fill()
    again = serve(str(remote.path), *FAST, min_free_disk="0")
    again.fact("launch_waits", run=run)
    part.free()
    assert again.fact("run_finished", run=run)["status"] == "succeeded"
    assert (tmp_path / "effects").read_text() == "once\n"
    again.untroubled()


@pytest.mark.parametrize("part", ["runs"], indirect=True)
def test_a_step_that_ends_on_a_full_disk_while_the_service_is_away_keeps_its_code(
    serve: Served, part: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    waits = f"""
    steps:
      - command: |
          echo $PPID >{tmp_path}/wrapper; touch begun
          until [ -e {tmp_path}/go ]; do sleep 0.05; done
          exit 7
    """
    begun(remote, **{".dagu/waits.yaml": waits})
    service = serving(serve, remote)
    run = service.started("waits")
    service.wait(lambda: list(workspace(service, run).glob("begun")))
    service.process.kill()
    service.stop()
    part.fill()
    wrapper = os.pidfd_open(int((tmp_path / "wrapper").read_text()))
    (tmp_path / "go").touch()
    assert select.select([wrapper], [], [], 30)[0], "the wrapper has ended"
    os.close(wrapper)
    again = serve(str(remote.path), *FAST, min_free_disk="0")
    assert "exit code 7" in again.fact("run_finished", run=run)["reason"]
    again.untroubled()
