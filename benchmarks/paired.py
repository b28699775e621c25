"""Measuring in pairs: what is measured and its floor take turns, so that a machine whose speed
drifts moves both. The result is the ratio of each pair: min, median, max."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one thing took, each time; for what has no floor but the clock."""

    name: str
    times_s: tuple[float, ...]

    def line(self) -> str:
        cuts = quantiles(self.times_s, n=100)
        return (
            f"{self.name:<46} p50 {median(self.times_s) * 1000:.0f} ms, "
            f"p99 {cuts[98] * 1000:.0f} ms, min {min(self.times_s) * 1000:.0f} ms "
            f"({len(self.times_s)} times)"
        )


@dataclass(frozen=True, slots=True)
class Ratio:
    """`times_s` and `floors_s` belong together pair by pair."""

    name: str
    budget: float | None
    times_s: tuple[float, ...]
    floors_s: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        return [t / f for t, f in zip(self.times_s, self.floors_s, strict=True)]

    def line(self) -> str:
        low, mid, high = min(self.ratios), median(self.ratios), max(self.ratios)
        took, least = median(self.times_s) * 1000, median(self.floors_s) * 1000
        budget = f"budget ≤ {self.budget:g}" if self.budget is not None else "for comparison"
        return (
            f"{self.name:<46} {mid:6.2f}x  (min {low:.2f}, max {high:.2f}; {budget}; "
            f"median {took:.0f} ms over {least:.0f} ms)"
        )


def measure(
    name: str,
    work: Callable[[int], None],
    floor: Callable[[int], None],
    *,
    budget: float | None,
    rounds: int = 5,
) -> Ratio:
    """Time `work` and `floor` in turn; both get the round's number. One warm-up round of each."""
    pairs = [(_timed(work, -1), _timed(floor, -1))]
    for i in range(rounds):
        pairs.append((_timed(work, i), _timed(floor, i)))
    times, floors = zip(*pairs[1:], strict=True)
    result = Ratio(name, budget, times, floors)
    print(result.line(), flush=True)
    return result


def _timed(function: Callable[[int], None], i: int) -> float:
    begin = time.perf_counter()
    function(i)
    return time.perf_counter() - begin


def write(results: list[Ratio], latencies: list[Latency]) -> Path:
    """Keep the figures as JSON under `benchmarks/results/`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "latest.json"
    document = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "results": [
            {
                "name": r.name,
                "budget": r.budget,
                "min": min(r.ratios),
                "median": median(r.ratios),
                "max": max(r.ratios),
                "times_s": r.times_s,
                "floors_s": r.floors_s,
            }
            for r in results
        ],
        "latencies": [{"name": found.name, "times_s": found.times_s} for found in latencies],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path
