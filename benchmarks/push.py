"""From a push to the process that it starts, against a real `dagmill serve`.

The push is the moment its ref changed. By hook: a signed delivery is posted at that moment and
the repository is not watched otherwise. By watching: a repository on this machine, noticed by
its refs. The floor fetches the same commit, commits one row, writes the files and starts the step.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.floor import Follower
from benchmarks.paired import Budget, Latency, Result, told
from benchmarks.repository import Repository
from benchmarks.serving import Served, serving
from benchmarks.witness import Witness, witness

WORKFLOWS = 100
PUSHES = {"hook": 40, "watching": 20}
_IDLE = "steps: [{name: idle, command: 'true'}]\non: {push: {branches: [none]}}\n"


def push_benchmarks(folder: Path) -> list[Result]:
    return [told(_push_benchmark(folder / way, way=way)) for way in PUSHES]


def _push_benchmark(folder: Path, *, way: str) -> Latency:
    folder.mkdir(parents=True)
    with witness(folder) as seen:
        repository = Repository(folder / "ops.git")
        repository.commit(dict.fromkeys([f"w{i}.yaml" for i in range(WORKFLOWS - 1)], _IDLE))
        repository.commit({"marks.yaml": _workflow(seen, 0)})
        follower = Follower(folder / "floor", remote=repository.path)
        times, floors = [], []
        with serving(repository.path, folder) as served:
            for number in range(1, PUSHES[way] + 1):
                before, after = repository.commit({"marks.yaml": _workflow(seen, number)})
                times.append(_followed(served, seen, before, after, by_hook=way == "hook"))
                time.sleep(0.2)  # each push by itself
                floors.append(_followed_by_hand(follower, seen, after))
            if way == "watching":
                mib = served.resident_mib()
                print(f"resident memory, idle, {WORKFLOWS} workflows: {mib:.0f} MiB", flush=True)
        follower.close()
    name = f"push → process, by {way} (unprepared)"
    budget = Budget(p50_s=0.06) if way == "hook" else None
    return Latency(name, tuple(times), tuple(floors), budget)


def _workflow(seen: Witness, number: int) -> str:
    """One that a push to main starts, and that each push changes."""
    return (
        "on: {push: {branches: [main]}}\nmaxActiveRuns: 0\n"
        f"steps: [{{name: mark, command: '{seen.command('$GIT_COMMIT')}'}}]\n# {number}\n"
    )


def _followed(served: Served, seen: Witness, before: str, after: str, *, by_hook: bool) -> float:
    begin = time.monotonic()
    if by_hook:
        served.announce(before, after)
    return seen.wait(after) - begin


def _followed_by_hand(follower: Follower, seen: Witness, commit: str) -> float:
    begin = time.monotonic()
    pid = follower.follow(commit, command=seen.command(f"by-hand-{commit}"))
    found = seen.wait(f"by-hand-{commit}") - begin
    os.waitpid(pid, 0)
    return found
