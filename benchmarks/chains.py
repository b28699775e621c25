"""Whole runs in this process, and one step of a cold `dagmill run`, against bare spawning."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks import floor
from benchmarks.paired import Ratio, Result, in_turn, measure, told
from runner.engine import journal
from runner.engine.engine import Engine
from runner.language.load import load
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType
from storage.mask import Mask
from storage.sqlite import open_store

WIDE = 64  # Dagmill's own limit of processes at once


def workflow_text(count: int, *, kind: str) -> str:
    lines = [f"type: {kind}", "steps:"]
    for i in range(count):
        lines += [f"  - name: s{i}", '    command: "true"']
    return "\n".join(lines)


def chain_benchmarks(folder: Path) -> list[Result]:
    results: list[Result] = []
    cases = [
        ("chain of 200", "chain", 200, 1, 2.5, 6.0),
        ("chain of 1,000", "chain", 1000, 1, 2.5, 6.0),
        ("fan-out of 1,000", "graph", 1000, WIDE, 3.0, 5.0),
    ]
    for name, kind, count, wide, budget, bare_budget in cases:
        place = folder / f"{kind}-{count}"
        ran, wrapped, bare = in_turn(
            partial(whole_run, workflow_text(count, kind=kind), place / "run"),
            partial(_wrapped, count, wide, place / "floor"),
            partial(_bare, count, wide),
            rounds=5 if count < 1000 else 3,
        )
        results += [
            told(Ratio(f"{name} / the same wrapped steps", budget, ran, wrapped)),
            told(Ratio(f"{name} / bare sh -c true", bare_budget, ran, bare)),
        ]
    return results


def _wrapped(count: int, wide: int, folder: Path, i: int) -> None:
    floor.wrapped(count, folder / str(i), wide=wide)


def _bare(count: int, wide: int, _: int) -> None:
    floor.bare(count, wide=wide)


def whole_run(text: str, folder: Path, i: int) -> None:
    """One whole run with a fresh store, fully durable as in the service."""
    asyncio.run(_unfolded(text, folder / str(i)))


async def _unfolded(text: str, folder: Path) -> None:
    at = datetime.now(UTC)
    flow = load(text.encode(), path=".dagu/bench.yaml", id="bench").workflow
    assert flow is not None
    store = open_store(folder / "data")
    engine = Engine(
        store=store,
        runs=folder / "runs",
        workspaces=folder,
        clock=lambda: datetime.now(UTC),
        inherited=floor.ENV,
        mask=Mask(()),
        zone="UTC",
        max_steps=WIDE,
    )
    name = journal.new_run_id(at)
    trigger = Trigger(TriggerType.MANUAL, name, at)
    await store.write(
        *journal.queued_writes(
            name,
            at=at,
            workflow=flow,
            source=text,
            origin=journal.Origin(),
            trigger=trigger,
            params=Bound(()),
        )
    )
    row = await store.run(name)
    assert row is not None
    await store.write(*journal.started_writes(row, at=at, runner="0", host="bench", room=0))
    done = await engine.complete(name)
    assert done.status == "succeeded", done
    await store.close()


def cold_benchmark(folder: Path) -> list[Result]:
    """A new interpreter, one step, until it has exited; its floor is a new interpreter that
    spawns the same step and waits."""
    file = folder / "one.yaml"
    file.write_text(workflow_text(1, kind="chain"))
    env = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    spawn = (
        "import os; pid = os.posix_spawn('/bin/sh', ['sh', '-c', 'true'], os.environ); "
        "os.waitpid(pid, 0)"
    )

    def cold(_: int) -> None:
        command = [sys.executable, "-m", "runner.cli", "run", str(file), "--json"]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)

    def bare(_: int) -> None:
        subprocess.run([sys.executable, "-c", spawn], check=True, env=env)

    name = "cold dagmill run / bare python + sh"
    return [told(measure(name, cold, bare, budget=None, rounds=9))]
