"""`make bench`: every benchmark, one line a result, figures as JSON.

`make bench ARGS="decide push"` runs those only, and says how long each took.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.chains import chain_benchmarks, cold_benchmark
from benchmarks.decide import decide_benchmarks
from benchmarks.minute import minute_benchmarks
from benchmarks.output import output_benchmark
from benchmarks.paired import Result, write
from benchmarks.push import push_benchmarks
from benchmarks.reconcile import reconcile_benchmarks
from benchmarks.restart import restart_benchmark
from benchmarks.trigger import trigger_benchmarks
from runner import log

BENCHMARKS: dict[str, Callable[[Path], list[Result]]] = {
    "chains": chain_benchmarks,
    "cold": cold_benchmark,
    "output": output_benchmark,
    "decide": decide_benchmarks,
    "trigger": trigger_benchmarks,
    "push": push_benchmarks,
    "minute": minute_benchmarks,
    "reconcile": reconcile_benchmarks,
    "restart": restart_benchmark,
}
"""Name → benchmark: it gets an empty folder, prints its results and gives them back."""


def main(names: list[str]) -> int:
    if unknown := set(names) - BENCHMARKS.keys():
        print(f"no benchmark is called {', '.join(sorted(unknown))}; use {', '.join(BENCHMARKS)}")
        return 2
    print("ratio to the floor of the same run: median (min, max)")
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory(prefix="dagmill-bench-") as scratch,
        (Path(scratch) / "log").open("w") as stream,
    ):
        log.configure(stream)  # as costly as the service's
        for name in names or BENCHMARKS:
            begin = time.monotonic()
            folder = Path(scratch) / name
            folder.mkdir()
            results += BENCHMARKS[name](folder)
            print(f"({name} took {time.monotonic() - begin:.0f} s)", flush=True)
    print(f"figures: {write(results, name='-'.join(names) or 'latest')}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
