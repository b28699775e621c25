"""Steps that do not end when they are told to, leave processes behind, or are very many."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from git_remotes import Remote
from service_process import Served, Service, begun

pytestmark = pytest.mark.timeout(180)

MANY = 200


def serving(serve: Served, remote: Remote, **settings: str) -> Service:
    service = serve(str(remote.path), "--poll", "0.3", **settings)
    assert service.url
    return service


def facts(data: Path, run: str, kind: str) -> int:
    """How many facts of a kind the run has, read from aside."""
    url = f"file:{data}/dagmill.sqlite?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as database:
        query = "SELECT count(*) FROM events WHERE run = ? AND type = ?"
        count: int = database.execute(query, (run, kind)).fetchone()[0]
    return count


def steps(service: Service, run: str) -> dict[str, dict[str, Any]]:
    return {s["name"]: s for s in service.get(f"/api/v1/runs/{run}")["steps"]}


def number_in(file: Path) -> int | None:
    """The number of a process, once its line is whole."""
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


def is_there(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize(("restarted", "clean_up_s"), [(False, 1), (True, 3)])
def test_a_step_that_ignores_term_is_killed_when_its_time_to_clean_up_is_over(
    serve: Served, remote: Remote, tmp_path: Path, restarted: bool, clean_up_s: int
) -> None:
    ignores = f"""
    maxCleanUpTimeSec: {clean_up_s}
    steps:
      - name: deaf
        timeoutSec: 1
        command: "trap '' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.1; done"
    """
    begun(remote, **{".dagu/deaf.yaml": ignores})
    service = serving(serve, remote)
    run = service.started("deaf")
    service.wait(lambda: facts(service.data, run, "StopSent") == 1)
    if restarted:
        service.process.kill()
        service.stop()
        service = serving(serve, remote)
    service.fact("run_finished", run=run)
    deaf = steps(service, run)["deaf"]
    assert deaf["reason"] == "timed out after 1 s"
    assert deaf["signal"] == signal.SIGKILL
    assert facts(service.data, run, "StopSent") == 2
    pid = number_in(tmp_path / "pid")
    assert pid
    assert not is_there(pid)


def test_a_step_that_cleans_up_when_told_to_end_is_given_the_time(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    tidy = f"""
    steps:
      - name: tidy
        timeoutSec: 1
        command: |
          trap 'sleep 0.3; echo bye >{tmp_path}/said; exit 0' TERM
          while :; do sleep 0.1; done
    """
    begun(remote, **{".dagu/tidy.yaml": tidy})
    service = serving(serve, remote)
    run = service.started("tidy")
    service.fact("run_finished", run=run)
    assert (tmp_path / "said").read_text() == "bye\n"
    assert steps(service, run)["tidy"]["exit_code"] == 0
    assert steps(service, run)["tidy"]["reason"] == "timed out after 1 s"
    assert facts(service.data, run, "StopSent") == 1


@pytest.mark.parametrize("killed", [False, True])
def test_what_a_step_left_in_its_group_ends_with_the_run_and_what_left_the_group_stays(
    serve: Served, remote: Remote, tmp_path: Path, killed: bool
) -> None:
    leaves = f"""
    steps:
      - name: leaves
        command: |
          sleep 1000 & echo $! >{tmp_path}/inside
          setsid sh -c 'echo $$ >{tmp_path}/outside; exec sleep 1000' &
          until [ -s {tmp_path}/outside ]; do sleep 0.05; done
      - name: waits
        depends: leaves
        command: "touch begun; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    """
    begun(remote, **{".dagu/leaves.yaml": leaves})
    service = serving(serve, remote)
    run = service.started("leaves")
    service.wait(lambda: list((service.data / "workspaces" / run).glob("begun")))
    inside, outside = number_in(tmp_path / "inside"), number_in(tmp_path / "outside")
    assert inside
    assert outside
    try:
        if killed:
            service.process.kill()
            service.stop()
            service = serving(serve, remote)
        assert is_there(inside), "it may go on as long as the run does"
        (tmp_path / "go").touch()
        assert service.fact("run_finished", run=run)["status"] == "succeeded"
        assert not is_there(inside)
        assert is_there(outside)
    finally:
        os.kill(outside, signal.SIGKILL)


def many(folder: Path) -> str:
    """Steps that wait together for a writer of a pipe, then end each with its own code."""
    os.mkfifo(folder / "pipe")
    lines = ["maxActiveSteps: 0", "steps:"]
    for i in range(MANY):
        command = f"touch {folder}/begun/{i}; cat {folder}/pipe; exit {i % 5}"
        lines.append(f'  - {{name: s{i}, command: "{command}", continueOn: {{failure: true}}}}')
    (folder / "begun").mkdir()
    return "\n".join(lines)


def let_go(folder: Path) -> None:
    """All that wait for the pipe find it open and empty."""
    os.close(os.open(folder / "pipe", os.O_WRONLY))


def test_many_running_steps_are_left_at_a_stop_and_adopted_with_their_own_codes(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    begun(remote, **{".dagu/many.yaml": many(tmp_path)})
    service = serving(serve, remote, max_steps="300")
    run = service.started("many")
    service.wait(lambda: len(list((tmp_path / "begun").iterdir())) == MANY)
    assert service.stop() == 0
    assert service.fact("steps_left_running")["steps"] == MANY
    again = serving(serve, remote, max_steps="300")
    again.fact("run_resumed", run=run)
    let_go(tmp_path)
    again.fact("run_finished", run=run)
    found = steps(again, run)
    assert [found[f"s{i}"]["exit_code"] for i in range(MANY)] == [i % 5 for i in range(MANY)]
    assert facts(again.data, run, "Launched") == MANY
    again.untroubled()


def test_a_second_ctrl_c_ends_many_running_steps(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    begun(remote, **{".dagu/many.yaml": many(tmp_path)})
    service = serving(serve, remote, max_steps="300")
    run = service.started("many")
    service.wait(lambda: len(list((tmp_path / "begun").iterdir())) == MANY)
    service.process.send_signal(signal.SIGINT)
    service.wait(lambda: any(f"{MANY} steps still running" in line for line in service.said))
    service.process.send_signal(signal.SIGINT)
    assert service.fact("run_finished", run=run)["status"] == "cancelled"
    assert service.stop() == 130
    service.untroubled()
