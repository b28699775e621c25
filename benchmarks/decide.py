"""What deciding costs a step as runs grow: the pure core alone, no process, no store.

A whole run is unfolded with invented outcomes; its time over its steps must not grow with their
number. The floor of a run of many steps is the run of 200, measured in turn with it.
"""

from __future__ import annotations

import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.chains import WIDE, workflow_text
from benchmarks.paired import Ratio, Result, told
from runner.engine import plan
from runner.engine.events import Ended, Event, Launched, Prepared, Queued, Started
from runner.engine.fold import apply
from runner.engine.state import RunState, fresh
from runner.language.load import load
from runner.language.model import Workflow
from runner.triggers import Trigger, TriggerType

LEAST = 200
COUNTS = (1000, 2000)
ROUNDS = 7
_AT = datetime(2026, 11, 20, tzinfo=UTC)


def decide_benchmarks(_: Path) -> list[Result]:
    """Both times of a ratio are seconds a step."""
    results: list[Result] = []
    for shape, kind in (("chain", "chain"), ("fan-out", "graph")):
        flows = {count: _workflow(count, kind=kind) for count in (LEAST, *COUNTS)}
        rounds = [{n: _per_step_s(flow) for n, flow in flows.items()} for _ in range(ROUNDS)]
        for count in COUNTS:
            name = f"decide + apply a step, {shape} of {count:,} / of {LEAST}"
            times = tuple(found[count] for found in rounds)
            floors = tuple(found[LEAST] for found in rounds)
            results.append(told(Ratio(name, None, times, floors)))
    return results


def _workflow(count: int, *, kind: str) -> Workflow:
    text = workflow_text(count, kind=kind)
    flow = load(text.encode(), path=".dagu/bench.yaml", id="bench").workflow
    assert flow is not None
    return flow


def _per_step_s(flow: Workflow) -> float:
    state = fresh(flow, prepares=frozenset())
    begin = time.perf_counter()
    _unfold(state)
    took_s = time.perf_counter() - begin
    assert state.final and state.succeeded == len(flow.steps)
    return took_s / len(flow.steps)


def _unfold(state: RunState) -> None:
    """What a supervisor does with a run, with every attempt a success, in the order begun."""
    trigger = Trigger(TriggerType.MANUAL, "bench", _AT)
    apply(state, Queued(_AT, "bench", "bench", "", "", "", "", "", "", trigger))
    apply(state, Started(_AT, "bench", "0"))
    alive: deque[Ended] = deque()
    while not state.final:
        while actions := plan.decide(state, _AT, room=WIDE - len(alive)):
            for action in actions:
                apply(state, _fact(action, alive))
        if alive:
            apply(state, alive.popleft())


def _fact(action: plan.Action, alive: deque[Ended]) -> Event:
    match action:
        case plan.Prepare(step):
            return Prepared(_AT, step, met=True)
        case plan.Launch(step, attempt):
            alive.append(Ended(_AT, step, attempt, "launch", 0, None, ""))
            return Launched(_AT, step, attempt, "launch", "boot")
        case plan.Record(event):
            return event
        case plan.Stop(sent):
            return sent
