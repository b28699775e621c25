"""What a retry takes over from the run that it does again in part.

Knows which steps and items run again: those that failed or were cancelled, those that a person
names, and all that depends on them. The rest is carried with its outputs. A failed `run` step
whose inputs are the same has its child run retried in the same way, which is written down in the
new run's values until that step begins. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runner.engine.events import Carried
from runner.engine.state import RunState, StepState, StepStatus, Unit
from runner.language.faults import LanguageError, did_you_mean, quoted
from runner.language.model import Workflow
from runner.triggers import child_run

RETRIED = "retried"  # the scope of run_values that has the `Again` of child runs
_OF_RUN = (("run", "scope"), ("run", "event"))  # params and env as they came out; what began it
_RUN_AGAIN = frozenset({StepStatus.FAILED, StepStatus.CANCELLED})

Where = tuple[str, int | None]  # a step, and the item's number
Values = Mapping[tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Again:
    """Which run is done again, and what of it: `from_step` (a name) and all below it, or all steps,
    besides what failed. `children` are those that a person asked for, by the step that made them.
    """

    run: str
    from_step: str | None = None
    all_steps: bool = False
    children: Mapping[Where, Again] = field(default_factory=dict)

    @property
    def asks(self) -> bool:
        """Whether more is asked for than what failed."""
        return self.all_steps or self.from_step is not None or bool(self.children)


@dataclass(frozen=True, slots=True)
class Taken:
    """The first facts of the new run after Queued, and values for it: (scope, name, value)."""

    events: tuple[Carried, ...] = ()
    values: tuple[tuple[str, str, str], ...] = ()


def step_named(workflow: Workflow, text: str) -> str:
    """The name of the step that `text` names, or is the id of. Raises LanguageError."""
    names = {step.name: step.name for step in workflow.steps}
    names = {step.id: step.name for step in workflow.steps if step.id} | names
    if text not in names:
        near = did_you_mean(text, names)
        raise LanguageError(f'workflow "{workflow.id}" has no step {quoted(text)}{near}')
    return names[text]


def carry(state: RunState, values: Values, again: Again, *, at: datetime) -> Taken:
    """What a retry of a final run takes over. `state` and `values` are the old run's."""
    begun, follow = _run_again(state, again)
    events: list[Carried] = []
    kept: list[str] = []  # scopes of values
    for step in state.steps[: state.first_handler]:
        name = step.step.name
        if step.index not in begun and step.index not in follow:
            events += _whole(step, again.run, at)
            kept += (f"out:{name}", f"items:{name}", f"result:{name}")
        elif step.index in begun and step.items is not None:
            events += _items(step, again, at)
            kept += (f"items:{name}", f"result:{name}")
    scopes = frozenset(kept)
    taken = [(*key, value) for key, value in values.items() if key[0] in scopes]
    taken += [(*key, values[key]) for key in _OF_RUN if key in values]
    children = (child for i in sorted(begun) for child in _children(state.steps[i], again))
    taken += [(RETRIED, _label(*where), _text(child)) for where, child in children]
    return Taken(tuple(events), tuple(taken))


def planned_child(values: Values, step: str, item: int | None) -> Again | None:
    """Which child run the first attempt of a step retries, if it does."""
    text = values.get((RETRIED, _label(step, item)))
    return None if text is None else _again(json.loads(text))


def _run_again(state: RunState, again: Again) -> tuple[set[int], set[int]]:
    """The steps that run again as they stood, with what succeeded in them; and those that run
    wholly anew, since what they depend on does or somebody wants it."""
    steps = state.steps[: state.first_handler]
    named = {state.index[again.from_step]} if again.from_step is not None else set()
    if again.all_steps:
        named = {step.index for step in steps}
    begun = {step.index for step in steps if step.status in _RUN_AGAIN}
    begun |= {state.index[step] for step, _ in again.children}
    below = _below(state, begun | named)
    return begun - below - named, below | named


def _below(state: RunState, above: Iterable[int]) -> set[int]:
    """All that depends on one of `above`, however far away."""
    found: set[int] = set()
    stack = list(above)
    while stack:
        for i in state.dependents[stack.pop()]:
            if i not in found:
                found.add(i)
                stack.append(i)
    return found


def _whole(step: StepState, run: str, at: datetime) -> Iterator[Carried]:
    if step.items is not None:
        yield _list(step, run, at)
        yield from (_carried(item, run, at) for item in step.items)
    yield _carried(step, run, at)


def _items(step: StepState, again: Again, at: datetime) -> Iterator[Carried]:
    """The list of a parallel step, and those of its items that do not run again."""
    yield _list(step, again.run, at)
    for item in step.items or ():
        asked = (step.step.name, item.item) in again.children
        if item.status not in _RUN_AGAIN and not asked:
            yield _carried(item, again.run, at)


def _list(step: StepState, run: str, at: datetime) -> Carried:
    return Carried(at, step.step.name, StepStatus.PENDING, run, items=step.previews)


def _carried(unit: Unit, run: str, at: datetime) -> Carried:
    return Carried(
        at,
        unit.step.name,
        unit.status,
        unit.carried or run,
        item=unit.item,
        attempt=unit.attempt,
        launch=unit.launch,
        reason=unit.reason,
        exit_code=unit.exit_code,
        log=unit.log,
        outputs=unit.outputs,
    )


def _children(step: StepState, again: Again) -> Iterator[tuple[Where, Again]]:
    """The child runs of a step that runs again as it stood, of which those that failed, and those
    that were asked for, are retried in their turn."""
    if step.step.run is None:
        return
    for unit in step.items if step.items is not None else [step]:
        where = step.step.name, unit.item
        asked = again.children.get(where)
        if asked is not None:
            yield where, asked
        elif unit.status in _RUN_AGAIN and unit.attempt:
            yield where, Again(made_by(unit, again.run))


def made_by(unit: Unit, run: str) -> str:
    """The child run of a unit's last attempt, in a final `run`."""
    return child_run(unit.carried or run, unit.step.name, attempt=unit.attempt, item=unit.item)


def _label(step: str, item: int | None) -> str:
    return f"{'-' if item is None else item}:{step}"


def _text(again: Again) -> str:
    return json.dumps(_plain(again), separators=(",", ":"), ensure_ascii=False)


def _plain(again: Again) -> dict[str, Any]:
    return {
        "run": again.run,
        "from": again.from_step,
        "all": again.all_steps,
        "children": [[*where, _plain(child)] for where, child in again.children.items()],
    }


def _again(data: dict[str, Any]) -> Again:
    children = {(step, item): _again(child) for step, item, child in data["children"]}
    return Again(data["run"], data["from"], data["all"], children)
