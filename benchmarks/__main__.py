"""`make bench`: every benchmark, one line each, figures as JSON."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import floor
from benchmarks.paired import Ratio, measure, write
from benchmarks.push import push_benchmark
from runner.engine import journal
from runner.engine.engine import Engine
from runner.language.load import load
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType
from storage.mask import Mask
from storage.sqlite import open_store

WIDE = 64  # Dagmill's own limit of processes at once


def steps(count: int, *, kind: str) -> str:
    lines = [f"type: {kind}", "steps:"]
    for i in range(count):
        lines += [f"  - name: s{i}", '    command: "true"']
    return "\n".join(lines)


def run(text: str, folder: Path) -> None:
    """One whole run with a fresh store, fully durable as in the service."""
    asyncio.run(_run(text, folder))


async def _run(text: str, folder: Path) -> None:
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


def engine_benchmarks(folder: Path) -> list[Ratio]:
    results = []
    cases = [
        ("chain of 200", "chain", 200, 1, 2.5, 6.0),
        ("chain of 1,000", "chain", 1000, 1, 2.5, 6.0),
        ("fan-out of 1,000", "graph", 1000, WIDE, 3.0, 5.0),
    ]
    for name, kind, count, wide, budget, bare_budget in cases:
        text = steps(count, kind=kind)
        place = folder / f"{kind}-{count}"
        rounds = 5 if count < 1000 else 3
        results.append(
            measure(
                f"{name} / the same wrapped steps",
                lambda i, text=text, place=place: run(text, place / f"run{i}"),
                lambda i, count=count, wide=wide, place=place: floor.wrapped(
                    count, place / f"floor{i}", wide=wide
                ),
                budget=budget,
                rounds=rounds,
            )
        )
        results.append(
            measure(
                f"{name} / bare sh -c true",
                lambda i, text=text, place=place: run(text, place / f"again{i}"),
                lambda _, count=count, wide=wide: floor.bare(count, wide=wide),
                budget=bare_budget,
                rounds=rounds,
            )
        )
    return results


def cold_benchmark(folder: Path) -> Ratio:
    """A new interpreter, one step, until it has exited; its floor is a new interpreter that
    spawns the same step and waits."""
    file = folder / "one.yaml"
    file.write_text(steps(1, kind="chain"))
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

    return measure("cold dagmill run / bare python + sh", cold, bare, budget=None, rounds=9)


def main() -> None:
    print("ratio to the floor of the same run: median (min, max)")
    with tempfile.TemporaryDirectory(prefix="dagmill-bench-") as name:
        folder = Path(name)
        results = [*engine_benchmarks(folder), cold_benchmark(folder)]
        latencies = [push_benchmark(folder / f"push-{hook}", hook=hook) for hook in (True, False)]
    print(f"figures: {write(results, latencies)}")


if __name__ == "__main__":
    main()
