"""Measuring in pairs: what is measured and its floor take turns, so that a machine whose speed
drifts moves both.

A `Ratio` is for work that takes long enough to be compared round by round; a `Latency` for one
thing that happens many times, whose tail counts too. Both print themselves as one line.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

RESULTS = Path(__file__).parent / "results"
_NAME_WIDTH = 54


@dataclass(frozen=True, slots=True)
class Budget:
    """What a latency should stay below, in seconds."""

    p50_s: float
    p99_s: float | None = None

    def __str__(self) -> str:
        text = f"p50 ≤ {self.p50_s * 1000:g} ms"
        return text if self.p99_s is None else f"{text}, p99 ≤ {self.p99_s * 1000:g} ms"


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that one thing took, each time. `floors_s` are the floor's, taken in turn with
    them; their number may differ, as it is the medians that are compared."""

    name: str
    times_s: tuple[float, ...]
    floors_s: tuple[float, ...] = ()
    budget: Budget | None = None

    def line(self) -> str:
        budget = "for comparison" if self.budget is None else f"budget {self.budget}"
        return f"{self.name:<{_NAME_WIDTH}} {_spread(self.times_s)} ({budget}){self._ratio()}"

    def _ratio(self) -> str:
        if not self.floors_s:
            return ""
        ratio = median(self.times_s) / median(self.floors_s)
        return f"\n{'':<{_NAME_WIDTH}} {ratio:.2f}x its floor: {_spread(self.floors_s)}"


def _spread(times_s: Sequence[float]) -> str:
    ms = [time_s * 1000 for time_s in times_s]
    return (
        f"p50 {median(ms):.2f}, p99 {p99(ms):.2f}, min {min(ms):.2f}, max {max(ms):.2f} ms "
        f"of {len(ms)}"
    )


def p99(values: Sequence[float]) -> float:
    """Never beyond the greatest of few values, as an extrapolation would be."""
    if len(values) < 2:
        return values[0]
    return quantiles(values, n=100, method="inclusive")[98]


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
            f"{self.name:<{_NAME_WIDTH}} {mid:6.2f}x  (min {low:.2f}, max {high:.2f}; {budget}; "
            f"median {took:.4g} ms over {least:.4g} ms)"
        )


Result = Ratio | Latency


def told(result: Result) -> Result:
    """`result`, printed."""
    print(result.line(), flush=True)
    return result


def measure(
    name: str,
    work: Callable[[int], None],
    floor: Callable[[int], None],
    *,
    budget: float | None,
    rounds: int = 5,
) -> Ratio:
    """Time `work` and `floor` in turn; both get the round's number. One warm-up round of each."""
    times, floors = in_turn(work, floor, rounds=rounds)
    return Ratio(name, budget, times, floors)


def in_turn(*works: Callable[[int], None], rounds: int) -> list[tuple[float, ...]]:
    """The seconds that each of `works` took in each round, after a warm-up round of all (-1)."""
    for work in works:
        work(-1)
    found = [[timed(work, i) for work in works] for i in range(rounds)]
    return list(zip(*found, strict=True))


def timed(function: Callable[[int], None], i: int) -> float:
    begin = time.perf_counter()
    function(i)
    return time.perf_counter() - begin


def write(results: Sequence[Result], *, name: str = "latest") -> Path:
    """Keep the figures as JSON under `benchmarks/results/`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "results": [_ratio_document(r) for r in results if isinstance(r, Ratio)],
        "latencies": [_latency_document(r) for r in results if isinstance(r, Latency)],
    }
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def _ratio_document(result: Ratio) -> dict[str, object]:
    low, mid, high = min(result.ratios), median(result.ratios), max(result.ratios)
    return {**asdict(result), "min": low, "median": mid, "max": high}


def _latency_document(result: Latency) -> dict[str, object]:
    times_s = result.times_s
    return {
        **asdict(result),
        "p50_s": median(times_s),
        "p99_s": p99(times_s),
        "min_s": min(times_s),
        "max_s": max(times_s),
        "ratio": median(times_s) / median(result.floors_s) if result.floors_s else None,
    }
