"""The service as process 1 of a container: it drains, and it reaps whom nobody else would."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from git_remotes import Remote
from service_process import Served, Service, begun
from small_disk import unavailable

from runner.orphans import zombies

pytestmark = pytest.mark.timeout(180)

# --kill-child: what a failing test leaves goes with it
UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def contained(serve: Served) -> Served:
    """Starts services that are process 1 of a pid namespace."""
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        unavailable(f"needs the right to make a pid namespace: {tried.stderr.strip()}")
    serve.within = (*UNSHARE, *serve.within)
    return serve


def served(contained: Served, remote: Remote, **settings: str) -> Service:
    service = contained(str(remote.path), "--poll", "0.3", **settings)
    assert service.url
    return service


def process_1(service: Service) -> int:
    """Its pid out here."""
    unshare = service.process.pid
    return int(Path(f"/proc/{unshare}/task/{unshare}/children").read_text().split()[0])


def test_orphans_are_reaped_and_steps_keep_their_exit_codes(
    contained: Served, remote: Remote, tmp_path: Path
) -> None:
    # A subshell that is gone at once leaves its child to process 1, here in its own session too.
    leaves = "(sleep 0.2 &); (setsid sleep 0.3 &); sleep 0.5; exit 3"
    begun(remote, **{".dagu/leaves.yaml": f"on: push\nsteps: [{{command: '{leaves}'}}]"})
    service = served(contained, remote)
    first = process_1(service)
    remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_finished", workflow="leaves")["run"]
    assert "exit code 3" in service.get(f"/api/v1/runs/{run}")["reason"]
    service.wait(lambda: not zombies(first) and not _children(first))
    os.kill(first, signal.SIGTERM)
    assert service.stop(0) == 0


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_stop_drains_then_ends_steps_and_the_next_start_goes_on(
    contained: Served, remote: Remote, tmp_path: Path
) -> None:
    long = f"""
    on: push
    steps:
      - name: again
        onLoss: retry
        command: "echo a >>{tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
      - name: never
        command: "echo n >>{tmp_path}/begun; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    """
    begun(remote, **{".dagu/long.yaml": long})
    service = served(contained, remote, drain_s="1")
    remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_admitted", workflow="long")["run"]
    written = tmp_path / "begun"
    service.wait(lambda: written.exists() and len(written.read_text()) == 4)
    os.kill(process_1(service), signal.SIGTERM)
    assert service.stop(0) == 0
    (tmp_path / "go").touch()
    again = served(contained, remote, drain_s="1")
    done = again.fact("run_finished", run=run)
    assert done["status"] == "failed"
    steps = {s["name"]: s for s in again.get(f"/api/v1/runs/{run}")["steps"]}
    assert steps["again"]["status"] == "succeeded"
    assert steps["never"]["status"] == "failed"
    assert "lost: stopped with the service" in steps["never"]["reason"]
    assert sorted(written.read_text().split()) == ["a", "a", "n"]


def test_a_second_ctrl_c_ends_the_runs_without_waiting_for_the_drain(
    contained: Served, remote: Remote, tmp_path: Path
) -> None:
    long = f"steps: [{{command: 'touch {tmp_path}/begun; sleep 600'}}]"
    begun(remote, **{".dagu/long.yaml": long})
    service = served(contained, remote, drain_s="500")
    service.fact("catalog_applied")
    run = service.started("long")
    service.wait((tmp_path / "begun").exists)
    first = process_1(service)
    os.kill(first, signal.SIGINT)
    service.wait(lambda: any("1 run under way, 1 step still" in line for line in service.said))
    os.kill(first, signal.SIGINT)
    assert service.fact("run_finished", run=run)["status"] == "cancelled"
    assert service.process.wait(60) == 130
