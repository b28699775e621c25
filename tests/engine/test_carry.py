"""What a retry takes over, over random runs: never what failed, nor what depends on what runs."""

from __future__ import annotations

import os
import random

import pytest
from run_driver import Driver, label
from test_simulation import act, simulate

from runner.engine.carry import Again, carry, planned_child, step_named
from runner.engine.events import Carried, Ended, Event, Launched
from runner.engine.state import StepStatus
from runner.language.faults import LanguageError
from runner.triggers import child_run

SEEDS = int(os.environ.get("DAGMILL_EXAMPLES", "200"))
OLD = "20261123-000000-aaaaaaaaaaaa"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_retry_carries_what_is_whole_and_ends(seed: int) -> None:
    rng = random.Random(seed)
    old = simulate(rng)
    names = [step.name for step in old.workflow.steps]
    from_step = rng.choice(names) if rng.random() < 0.3 else None
    again = Again(OLD, from_step, rng.random() < 0.1)
    taken = carry(old.state, {}, again, at=old.now)
    whole = {e.step for e in taken.events if e.item is None and e.status != StepStatus.PENDING}
    for step in old.state.steps[: old.state.first_handler]:
        if step.step.name in whole:
            assert step.status in (StepStatus.SUCCEEDED, StepStatus.SKIPPED)
            assert whole.issuperset(step.step.depends)
            assert not again.all_steps
            assert step.step.name != from_step
        elif from_step is None and not again.all_steps and whole.issuperset(step.step.depends):
            assert step.status in (StepStatus.FAILED, StepStatus.CANCELLED)
    new = Driver(old.workflow, carried=taken.events)
    for _ in range(4000):
        if new.state.final:
            break
        act(new, rng)
    assert new.state.final
    carried = {label(e.step, e.item) for e in taken.events if e.status != StepStatus.PENDING}
    launched = {label(e.step, e.item) for e in new.events if isinstance(e, Launched)}
    assert not carried & launched


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_retry_that_takes_over_everything_launches_no_step(seed: int) -> None:
    rng = random.Random(seed)
    old = simulate(rng)
    if any(
        step.status in (StepStatus.FAILED, StepStatus.CANCELLED)
        for step in old.state.steps[: old.state.first_handler]
    ):
        return
    taken = carry(old.state, {}, Again(OLD), at=old.now)
    new = Driver(old.workflow, carried=taken.events)
    new.finish_all()
    steps = {step.name for step in old.workflow.steps}
    begun: list[Event] = [e for e in new.events if isinstance(e, Launched | Ended)]
    assert not [e for e in begun if e.step in steps]


def test_a_carried_result_is_what_it_was() -> None:
    carried = 0
    for old in map(simulate, map(random.Random, range(50))):
        for event in carry(old.state, {}, Again(OLD), at=old.now).events:
            unit = old.state.unit_of(event.step, event.item)
            assert isinstance(event, Carried)
            if event.status != StepStatus.PENDING:
                carried += 1
                assert event.run == (unit.carried or OLD)
                assert (event.status, event.reason) == (unit.status, unit.reason)
    assert carried > 20


def test_an_id_names_a_step_as_its_name_does() -> None:
    old = simulate(random.Random(1))
    first = old.workflow.steps[0].name
    assert step_named(old.workflow, first) == first
    with pytest.raises(LanguageError, match=f'did you mean "{first}"'):
        step_named(old.workflow, f"{first}x")


def again_in(driver: Driver) -> int:
    """How many child runs a retry of the run would do again, each found by its step and item."""
    kept = carry(driver.state, {}, Again(OLD), at=driver.now).values
    values = {(place, name): value for place, name, value in kept}
    found = 0
    for step in driver.state.steps[: driver.state.first_handler]:
        for unit in step.items or [step]:
            planned = planned_child(values, step.step.name, unit.item)
            if planned is not None:
                found += 1
                run = unit.carried or OLD
                made = child_run(run, step.step.name, attempt=unit.attempt, item=unit.item)
                assert planned == Again(made)
    return found


def test_the_children_to_be_done_again_are_found_by_step_and_item() -> None:
    text = {("a", 3): Again("c1", "x", children={("b", None): Again("c2", all_steps=True)})}
    found = sum(again_in(simulate(random.Random(seed))) for seed in range(100))
    assert found > 10
    assert Again(OLD, children=text).asks
