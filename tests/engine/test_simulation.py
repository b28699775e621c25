"""One seeded simulation: random workflows, random ends, stops and clock steps; the promises that
hold for every one of them."""

from __future__ import annotations

import random

import pytest
from run_driver import Driver

from runner.engine import journal
from runner.engine.events import Ended, Finished, Launched, LaunchVoided, Settled
from runner.engine.fold import fold
from runner.engine.plan import next_due
from runner.engine.scope import steps_to_prepare
from runner.engine.state import FINAL_STEP
from runner.language.model import Condition, ContinueOn, RetryPolicy, Step, Workflow


def random_workflow(rng: random.Random) -> Workflow:
    steps = []
    for i in range(rng.randint(1, 12)):
        above = [f"s{j}" for j in range(i) if rng.random() < 0.3]
        steps.append(
            Step(
                name=f"s{i}",
                command="x",
                depends=tuple(above),
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
            )
        )
    handler = Step(name="handlerOn.exit", command="x", timeout_s=30.0)
    return Workflow(
        id="sim",
        name="sim",
        path=".dagu/sim.yaml",
        steps=tuple(steps),
        on_exit=handler if rng.random() < 0.5 else None,
        on_failure=Step(name="handlerOn.failure", command="x") if rng.random() < 0.5 else None,
        timeout_s=rng.choice([None, None, 40.0]),
        max_active_steps=rng.choice([0, 1, 2]),
        max_clean_up_s=4.0,
    )


def simulate(rng: random.Random) -> Driver:
    run = Driver(random_workflow(rng), room=rng.randint(1, 5))
    for _ in range(2000):
        if run.state.final:
            return run
        choice = rng.random()
        if run.preparing and choice < 0.4:
            step = rng.choice(run.preparing)
            if step in run.preparing:
                settle_preparation(run, step, rng)
        elif run.alive and choice < 0.8:
            step = rng.choice(list(run.alive))
            killed = run.state.steps[run.state.index[step]].stop_signal_sent is not None
            code = 143 if killed and rng.random() < 0.8 else rng.choice([0, 0, 0, 1, 2])
            run.end(step, code, signal=15 if code == 143 else None)
        elif choice < 0.84:
            run.restart()
            for step in [s for s in run.alive if rng.random() < 0.3]:
                if step in run.alive:
                    rng.choice([run.void, run.lose])(step)
        elif choice < 0.97:
            run.wait(rng.choice([0, 1, 5]))
        elif len(run.state.stops) < 3:
            run.stop()
    raise AssertionError(f"not over: {run.transcript()}")


def settle_preparation(run: Driver, step: str | None, rng: random.Random) -> None:
    final = step is not None and run.state.steps[run.state.index[step]].final
    if final:  # cancelled meanwhile: its result is dropped
        run.preparing.remove(step)
    else:
        run.prepared(step, met=rng.random() < 0.7, error="" if rng.random() < 0.9 else "broken")


@pytest.mark.parametrize("seed", range(200))
def test_the_promises_hold_for_a_random_run(seed: int) -> None:
    run = simulate(random.Random(seed))
    events = run.events
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(e, Finished) for e in events) == 1
    assert sum(isinstance(e, Settled) for e in events) == 1
    assert not run.alive
    assert all(s.status in FINAL_STEP for s in run.state.steps[: run.state.first_handler])
    settled = next(i for i, e in enumerate(events) if isinstance(e, Settled))
    launches: dict[str, int] = {}
    ended: set[tuple[str, int]] = set()
    alive = 0
    for i, event in enumerate(events):
        if isinstance(event, Launched):
            handler = event.step.startswith("handlerOn.")
            assert handler is (i > settled)
            launches[event.step] = launches.get(event.step, 0) + 1
            assert event.attempt == launches[event.step]
            alive += 1
            assert alive <= run.room
        elif isinstance(event, LaunchVoided):
            assert event.attempt == launches[event.step]
            launches[event.step] -= 1
            alive -= 1
        elif isinstance(event, Ended):
            assert (event.step, event.attempt) not in ended
            ended.add((event.step, event.attempt))
            alive -= 1
    for step in run.state.steps:
        limit = step.step.retry.limit if step.step.retry else 0
        assert step.attempt <= limit + step.losses + 1
        assert not step.losses or step.step.retry_on_loss or step.losses == 1
    assert next_due(run.state) is None or run.state.final


@pytest.mark.parametrize("seed", range(40))
def test_the_state_is_the_same_when_folded_again_from_records(seed: int) -> None:
    run = simulate(random.Random(seed))
    records = journal.records("r", 0, run.events)
    again = fold(
        run.workflow,
        [journal.event(r) for r in records],
        prepares=steps_to_prepare(run.workflow),
    )
    assert [journal.event(r) for r in records] == run.events
    assert again == run.state
