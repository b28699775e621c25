"""A step that prints 200 MB, until its end is recorded, against plain redirection to a file."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

from benchmarks import floor
from benchmarks.chains import whole_run
from benchmarks.paired import Result, measure, told

SIZE_BYTES = 200_000_000
_LINE = "2026-11-20T10:00:00Z INFO loaded 1000 rows of table orders"
_PRINTS = f"yes '{_LINE}' | head -c {SIZE_BYTES}"


def output_benchmark(folder: Path) -> list[Result]:
    """Each round deletes what it wrote, for it and its floor alike."""
    name = "a step printing 200 MB / plain redirection"
    ran, redirected = partial(_ran, folder), partial(_redirected, folder)
    return [told(measure(name, ran, redirected, budget=1.1, rounds=5))]


def _ran(folder: Path, i: int) -> None:
    place = folder / f"run{i}"
    whole_run(f'steps: [{{name: prints, command: "{_PRINTS}"}}]\n', place, 0)
    (log,) = (place / "0/runs").rglob("out")
    assert log.stat().st_size == SIZE_BYTES
    log.unlink()


def _redirected(folder: Path, i: int) -> None:
    path = folder / f"plain{i}"
    with path.open("wb") as file:
        subprocess.run(["sh", "-ec", _PRINTS], stdout=file, check=True, env=floor.ENV)
    path.unlink()
