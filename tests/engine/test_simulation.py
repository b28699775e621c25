"""One seeded simulation: random workflows with parallel steps, sub-workflows, repetitions and
approvals; random ends, verdicts, stops, losses and clock steps; the promises that hold for all."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest
from run_driver import START, Driver, label, parts_of

from runner.engine import journal
from runner.engine.events import (
    Approved,
    Carried,
    ChildWaits,
    Ended,
    Event,
    Finished,
    JudgingStarted,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Prepared,
    Settled,
    StopRequested,
)
from runner.engine.fold import fold
from runner.engine.plan import next_due
from runner.engine.scope import steps_to_prepare
from runner.engine.state import FINAL_STEP, StepStatus
from runner.language.model import (
    Approval,
    Condition,
    ContinueOn,
    Parallel,
    RepeatMode,
    RepeatPolicy,
    RetryPolicy,
    Step,
    Workflow,
)

SEEDS = int(os.environ.get("DAGMILL_EXAMPLES", "400"))


def random_repeat(rng: random.Random) -> RepeatPolicy | None:
    if rng.random() < 0.75:
        return None
    mode = rng.choice(list(RepeatMode))
    condition = Condition("x") if mode is not RepeatMode.ALWAYS and rng.random() < 0.5 else None
    codes = (1,) if mode is not RepeatMode.ALWAYS and condition is None else ()
    return RepeatPolicy(mode, 2.0, rng.randint(1, 4), condition, codes)


def random_step(rng: random.Random, i: int) -> Step:
    return Step(
        name=f"s{i}",
        command="x",
        run="child" if rng.random() < 0.2 else None,
        depends=tuple(f"s{j}" for j in range(i) if rng.random() < 0.3),
        preconditions=(Condition("true"),) if rng.random() < 0.2 else (),
        continue_on=ContinueOn(
            failure=rng.random() < 0.2,
            skipped=rng.random() < 0.2,
            exit_codes=(2,) if rng.random() < 0.2 else (),
            mark_success=rng.random() < 0.2,
        ),
        retry=RetryPolicy(rng.randint(0, 2), 3.0) if rng.random() < 0.3 else None,
        timeout_s=20.0 if rng.random() < 0.2 else None,
        retry_on_loss=rng.random() < 0.3,
        parallel=Parallel(source="$X", max_concurrent=rng.randint(1, 4))
        if rng.random() < 0.3
        else None,
        repeat=random_repeat(rng),
        approval=Approval(timeout_s=rng.choice([10.0, 600.0])) if rng.random() < 0.15 else None,
    )


def random_handler(rng: random.Random, name: str) -> Step | None:
    if rng.random() < 0.5:
        return None
    parallel = Parallel(source="$X", max_concurrent=2) if rng.random() < 0.2 else None
    return Step(name=f"handlerOn.{name}", command="x", timeout_s=30.0, parallel=parallel)


def random_workflow(rng: random.Random) -> Workflow:
    return Workflow(
        id="sim",
        name="sim",
        path=".dagu/sim.yaml",
        steps=tuple(random_step(rng, i) for i in range(rng.randint(1, 10))),
        on_init=random_handler(rng, "init"),
        on_success=random_handler(rng, "success"),
        on_failure=random_handler(rng, "failure"),
        on_cancel=random_handler(rng, "cancel"),
        on_exit=random_handler(rng, "exit"),
        timeout_s=rng.choice([None, None, 40.0]),
        max_active_steps=rng.choice([0, 1, 2]),
        max_clean_up_s=4.0,
    )


def random_carried(rng: random.Random, flow: Workflow) -> list[Carried]:
    """What a retry may take over: steps above which everything is taken over too, and of a
    parallel step some of its items."""
    if rng.random() < 0.7:
        return []
    found: list[Carried] = []
    whole: set[str] = set()
    for step in flow.steps:
        if rng.random() < 0.6 and whole.issuperset(step.depends):
            whole.add(step.name)
            status = rng.choice([StepStatus.SUCCEEDED, StepStatus.SUCCEEDED, StepStatus.SKIPPED])
            found.append(Carried(START, step.name, status, "old", attempt=1, launch="old"))
        elif step.parallel is not None and rng.random() < 0.5:
            items = ("a", "b", "c")
            found.append(Carried(START, step.name, StepStatus.PENDING, "old", items=items))
            done = StepStatus.SUCCEEDED
            found += [
                Carried(START, step.name, done, "old", item=n, attempt=1)
                for n in range(2)
                if rng.random() < 0.5
            ]
    return found


def simulate(rng: random.Random) -> Driver:
    flow = random_workflow(rng)
    item_prepares = frozenset(
        s.name for s in flow.steps if s.parallel is not None and rng.random() < 0.3
    )
    run = Driver(
        flow,
        room=rng.randint(1, 5),
        carried=random_carried(rng, flow),
        item_prepares=item_prepares,
    )
    for _ in range(4000):
        if run.state.final:
            return run
        act(run, rng)
    raise AssertionError(f"not over: {run.transcript()}")


def act(run: Driver, rng: random.Random) -> None:
    choice = rng.random()
    children = [name for name in run.alive if run.unit(name).step.run is not None]
    if children and rng.random() < 0.1:
        unit = run.unit(rng.choice(children))
        run.fact(ChildWaits(run.now, unit.step.name, not unit.child_waits, unit.item))
        run.decide()
    if run.preparing and choice < 0.4:
        settle_preparation(run, rng.choice(run.preparing), rng)
    elif run.judging and choice < 0.5:
        error = "" if rng.random() < 0.9 else "broken"
        run.judged(rng.choice(run.judging), met=rng.random() < 0.5, error=error)
    elif run.alive and choice < 0.8:
        end_one(run, rng.choice(list(run.alive)), rng)
    elif run.state.waiting and choice < 0.83:
        step = run.state.steps[rng.choice(list(run.state.waiting))].step.name
        rng.choice([run.approve, run.approve, run.refuse])(step)
    elif choice < 0.86:
        run.restart()
        for name in [n for n in run.alive if rng.random() < 0.3]:
            if name in run.alive:
                rng.choice([run.void, run.lose])(name)
    elif choice < 0.98:
        run.wait(rng.choice([0, 1, 5]))
    elif len(run.state.stops) < 3:
        run.stop()


def end_one(run: Driver, name: str, rng: random.Random) -> None:
    unit = run.unit(name)
    if unit.step.run is not None and rng.random() < 0.1:
        run.end(name, skipped=True)
        return
    stopped = unit.stop_signal_sent is not None
    code = 143 if stopped and rng.random() < 0.8 else rng.choice([0, 0, 0, 1, 2])
    run.end(name, code, signal=15 if code == 143 else None)


def settle_preparation(run: Driver, name: str | None, rng: random.Random) -> None:
    items = None
    if name is not None and "#" not in name:
        step = run.state.steps[run.state.index[name]]
        if step.step.parallel is not None and step.items is None:
            items = rng.randint(0, 6)
    met, error = rng.random() < 0.8, "" if rng.random() < 0.9 else "broken"
    run.prepared(name, met=met, error=error, items=items if met and not error else None)


def of_step(event: Event) -> bool:
    return not str(getattr(event, "step", "handlerOn.")).startswith("handlerOn.")


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_promises_hold_for_a_random_run(seed: int) -> None:
    run = simulate(random.Random(seed))
    events = run.events
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(e, Finished) for e in events) == 1
    assert sum(isinstance(e, Settled) for e in events) == 1
    assert not run.alive
    assert all(s.status in FINAL_STEP for s in run.state.steps[: run.state.first_handler])
    assert all(
        i.status in FINAL_STEP
        for s in run.state.steps[: run.state.first_handler]
        for i in s.items or ()
    )
    assert not run.state.running and run.state.occupied == 0
    assert next_due(run.state) is None or run.state.final
    check_launches(run)
    check_limits(run)


def check_launches(run: Driver) -> None:
    """Each attempt of each unit begins and ends once, in its time."""
    settled = next(i for i, e in enumerate(run.events) if isinstance(e, Settled))
    launches: Counter[str] = Counter()
    ended: set[tuple[str, int]] = set()
    approved: set[str] = set()
    stopped = init_over = False
    for i, event in enumerate(run.events):
        if isinstance(event, Approved):
            approved.add(event.step)
        elif isinstance(event, StopRequested):
            stopped = True
        elif isinstance(event, Launched):
            name = label(event.step, event.item)
            step = run.unit(event.step).step
            launches[name] += 1
            assert event.attempt == launches[name]
            assert of_step(event) or event.step == "handlerOn.init" or i > settled
            if of_step(event):
                assert i < settled and not stopped
                assert init_over or run.workflow.on_init is None
                assert step.approval is None or event.step in approved
        elif isinstance(event, LaunchVoided):
            launches[label(event.step, event.item)] -= 1
        elif isinstance(event, Ended):
            name = label(event.step, event.item)
            assert (name, event.attempt) not in ended
            ended.add((name, event.attempt))
        init_over = init_over or (
            getattr(event, "step", None) == "handlerOn.init" and isinstance(event, Ended | Prepared)
        )
    for name, count in launches.items():
        check_attempts(run, name, count)


def check_attempts(run: Driver, name: str, count: int) -> None:
    unit = run.unit(name)
    assert unit.attempt == count
    retries = unit.step.retry.limit if unit.step.retry else 0
    repeats = unit.step.repeat.limit or 1 if unit.step.repeat else 1
    assert unit.repetition <= repeats
    assert count <= (retries + 1) * repeats + unit.losses
    assert not unit.losses or unit.step.retry_on_loss or unit.losses == 1


def check_limits(run: Driver) -> None:
    """Never more processes than there is room for, or than the workflow and its steps allow."""
    alive: dict[str, str] = {}  # unit → what it does
    for event in run.events:
        match event:
            case PreparationStarted(step=str(step)) | JudgingStarted(step=step):
                alive[label(step, event.item)] = "evaluates"
            case Launched():
                alive[label(event.step, event.item)] = "runs"
            case _ if getattr(event, "step", None) is not None:
                name = label(event.step, getattr(event, "item", None))
                if type(event).__name__ != "StopSent":
                    alive.pop(name, None)
                if type(event).__name__ in ("Cancelled", "Skipped"):
                    for other in [n for n in alive if parts_of(n)[0] == name]:
                        if alive[other] == "evaluates":
                            del alive[other]
        takes = [
            n for n, what in alive.items() if run.unit(n).step.run is None or what == "evaluates"
        ]
        running = [n for n in takes if alive[n] == "runs"]
        assert len(running) <= run.room
        assert not run.workflow.max_active_steps or len(takes) <= run.workflow.max_active_steps
        items = Counter(parts_of(n)[0] for n, what in alive.items() if "#" in n)
        for step, count in items.items():
            parallel = run.unit(step).step.parallel
            assert parallel is not None and count <= parallel.max_concurrent


@pytest.mark.parametrize("seed", range(SEEDS // 5))
def test_the_state_is_the_same_when_folded_again_from_records(seed: int) -> None:
    run = simulate(random.Random(seed))
    records = journal.records("r", 0, run.events)
    again = fold(
        run.workflow,
        [journal.event(r) for r in records],
        prepares=steps_to_prepare(run.workflow),
        item_prepares=run.item_prepares,
    )
    assert [journal.event(r) for r in records] == run.events
    assert again == run.state
