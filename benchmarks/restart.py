"""A restart of `dagmill serve` while 200 steps run: from exec until it listens and has them all.

The service is killed (`kill -9`) before each restart. That it has a step is seen from outside: it
holds a pidfd for each process that it waits for. Only root may look there, as the service hides
itself from its own user's processes. The floor is a Python program that reads the same 200 files
of processes and opens a pidfd for each.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.paired import Latency, Result, told
from benchmarks.repository import Repository
from benchmarks.serving import Served, serving
from benchmarks.witness import Witness, witness

RUNNING = 200
RESTARTS = 5
_WITHIN_S = 60
_ADOPT = """\
import os, pathlib, sys
held = []
for begin in pathlib.Path(sys.argv[1]).rglob("begin"):
    held.append(os.pidfd_open(int(begin.read_text().split()[1])))
assert len(held) == int(sys.argv[2]), len(held)
"""


def restart_benchmark(folder: Path) -> list[Result]:
    if os.geteuid() != 0:
        print("restart with running steps: left out, only root sees what the service waits for")
        return []
    gate = folder / "gate"
    os.mkfifo(gate)
    with witness(folder) as seen:
        repository = Repository(folder / "ops.git")
        repository.commit({"waits.yaml": _workflow(seen, gate)})
        try:
            return [told(_restarts(repository, folder, seen, gate))]
        finally:
            _open(gate)  # whatever happened, no step stays behind


def _open(gate: Path) -> None:
    """Every reader that waits goes on; nothing happens if none does."""
    os.close(os.open(gate, os.O_RDWR))


def _workflow(seen: Witness, gate: Path) -> str:
    """A step that waits, without any work, until somebody opens the gate."""
    begun, ended = (seen.command(f"{word}-$DAG_RUN_ID") for word in ("begun", "ended"))
    waits = f"{begun}; read -r _ <{gate} || true; {ended}"
    return f"maxActiveRuns: 0\nsteps: [{{name: waits, command: '{waits}'}}]\n"


def _restarts(repository: Repository, folder: Path, seen: Witness, gate: Path) -> Latency:
    times, floors = [], []
    settings = {"DAGMILL_MAX_STEPS": str(2 * RUNNING)}
    with serving(repository.path, folder, settings=settings) as served:
        connection = served.connect()
        runs = [served.start(connection, "waits") for _ in range(RUNNING)]
        connection.close()
        for run in runs:
            seen.wait(f"begun-{run}")
        os.kill(served.pid, signal.SIGKILL)
    for last in [False] * (RESTARTS - 1) + [True]:
        floors.append(_floor(folder / "data/runs"))
        begin = time.monotonic()
        with serving(repository.path, folder, settings=settings, settle_s=0) as served:
            _wait_until_adopted(served)
            times.append(time.monotonic() - begin)
            if last:
                _let_through(served, seen, gate, runs)
            else:
                os.kill(served.pid, signal.SIGKILL)
    name = f"restart: exec → {RUNNING} running steps adopted"
    return Latency(name, tuple(times), tuple(floors))


def _wait_until_adopted(served: Served) -> None:
    ends = time.monotonic() + _WITHIN_S
    while (held := _pidfds(served.pid)) < RUNNING:
        assert time.monotonic() < ends, f"only {held} of {RUNNING} steps were adopted"
        time.sleep(0.002)


def _pidfds(pid: int) -> int:
    held = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            held += "pidfd" in str(descriptor.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile
    return held


def _floor(launches: Path) -> float:
    begin = time.monotonic()
    subprocess.run([sys.executable, "-c", _ADOPT, str(launches), str(RUNNING)], check=True)
    return time.monotonic() - begin


def _let_through(served: Served, seen: Witness, gate: Path, runs: list[str]) -> None:
    """End all steps, and see that the service counts each as a success."""
    _open(gate)
    for run in runs:
        seen.wait(f"ended-{run}")
    connection = served.connect()
    ends = time.monotonic() + _WITHIN_S
    while (succeeded := _succeeded(served, connection)) < len(runs):
        assert time.monotonic() < ends, f"only {succeeded} of {len(runs)} runs succeeded"
        time.sleep(0.2)
    connection.close()


def _succeeded(served: Served, connection: http.client.HTTPConnection) -> int:
    headers = {"Authorization": f"Bearer {served.token}"}
    connection.request("GET", "/api/v1/runs?status=succeeded&limit=200", headers=headers)
    return len(json.loads(connection.getresponse().read())["runs"])
