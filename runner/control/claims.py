"""What a run holds while it is active: its place in concurrency groups and in its named queue.

Knows which groups a run and all that it may call belong to, as far as that can be told when it is
queued: nothing is run for it, so backticks stay as they are written and what a step will put out
is not there yet. Leaves waiting for room to admission. Its rule: limits are taken by root runs
only, so the groups of all called workflows are claimed with the root, at once. Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from runner.engine import scope
from runner.engine.scope import Evaluated, RunScope, ScopeError
from runner.language import expand, params
from runner.language.expand import ExpandError
from runner.language.model import Concurrency, Param, Step, Workflow
from runner.language.params import Bound, ParamError
from runner.language.subworkflows import MOST_DEPTH, is_dynamic
from runner.triggers import Trigger
from storage.mask import is_secret_name
from storage.records import Claim

UNLISTED = 1
"""How many runs of a queue may be active that the settings do not name."""

_QUEUE, _GROUP = "queue:", "group:"
_MOST_CALLS = 2_000  # that are looked at for one run

Called = Callable[[str, str], Workflow | None]
"""(id of the document that calls, name as written) → what it calls, None where nobody knows."""


def queue_claim(queue: str, queues: Mapping[str, int]) -> Claim:
    """`queues`: how many runs of each may be active at once (0: no limit)."""
    return Claim(_QUEUE + queue, queues.get(queue, UNLISTED))


def queue_of(claim: Claim) -> str | None:
    """The name of the queue that is claimed; None for a group."""
    return claim.name.removeprefix(_QUEUE) if claim.name.startswith(_QUEUE) else None


def shown(claim: Claim) -> str:
    """What is claimed, in words."""
    if (queue := queue_of(claim)) is not None:
        return f'queue "{queue}"'
    _, _, group = claim.name.removeprefix(_GROUP).partition(":")
    return f'concurrency group "{group}"'


def facts(
    workflow: Workflow, trigger: Trigger, *, run: str, repository: str, ref: str, commit: str
) -> dict[str, str]:
    """What is stronger than any other value of a run, and known when it is queued."""
    return {
        "DAG_NAME": workflow.name,
        "DAG_RUN_ID": run,
        "GIT_COMMIT": commit,
        "GIT_REF": ref,
        "GIT_BRANCH": ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else "",
        "GIT_REPOSITORY": repository,
        "EVENT_NAME": trigger.type.value,
    }


def claims_of(
    workflow: Workflow,
    bound: Bound,
    *,
    repository: str,
    base: Mapping[str, str],
    facts: Mapping[str, str],
    queues: Mapping[str, int],
    called: Called,
) -> tuple[Claim, ...]:
    """All that a root run of `workflow` claims. `base` are the weakest values, `facts` the
    strongest."""
    walk = _Walk(base, facts, called)
    walk.visit(workflow, bound, depth=0)
    found = [
        Claim(f"{_GROUP}{repository}:{text}", group.max, group.cancel_in_progress)
        for text, group in walk.groups.items()
    ]
    if workflow.queue:
        found.append(queue_claim(workflow.queue, queues))
    return tuple(found)


def _hidden(values: Mapping[str, str]) -> dict[str, str]:
    """Secrets as their digests: what a group is called is stored and shown."""
    return {k: _digest(v) if is_secret_name(k) else v for k, v in values.items()}


def _digest(text: str) -> str:
    return f"sha256-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


@dataclass(slots=True)
class _Walk:
    """Over the calls of a run; a workflow that gets the same values again is not looked at
    again."""

    base: Mapping[str, str]
    facts: Mapping[str, str]
    called: Called
    groups: dict[str, Concurrency] = field(default_factory=dict)
    _seen: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)

    def visit(self, workflow: Workflow, bound: Bound, *, depth: int) -> None:
        key = (workflow.id, tuple(f"{p.name}={p.value}" for p in bound.params))
        if key in self._seen or len(self._seen) >= _MOST_CALLS:
            return
        self._seen.add(key)
        facts = self.facts if depth == 0 else _of_child(self.facts, workflow)
        steps = list(_calls(workflow))
        if workflow.concurrency is None and not steps:
            return
        values = _hidden({**self.base, **_values(workflow, bound, self.base), **facts})
        if workflow.concurrency is not None:
            self._add(workflow.concurrency, values)
        if depth < MOST_DEPTH:
            for step, name in steps:
                child = self.called(workflow.id, name)
                if child is not None:
                    given = _known(step.params, values)
                    self.visit(child, _bound(child, given), depth=depth + 1)

    def _add(self, group: Concurrency, values: Mapping[str, str]) -> None:
        text = _expanded(group.group, values).strip()
        if not text:
            return
        other = self.groups.get(text, group)
        limits = [most for most in (group.max, other.max) if most]
        cancels = group.cancel_in_progress or other.cancel_in_progress
        self.groups[text] = Concurrency(text, min(limits, default=0), cancels)


def _of_child(facts: Mapping[str, str], workflow: Workflow) -> dict[str, str]:
    """A child's id is not known before it starts."""
    return {**{k: v for k, v in facts.items() if k != "DAG_RUN_ID"}, "DAG_NAME": workflow.name}


def _calls(workflow: Workflow) -> Iterator[tuple[Step, str]]:
    for step in (*workflow.steps, *workflow.handlers):
        if step.run is not None and not is_dynamic(step.run):
            yield step, step.run


def _values(workflow: Workflow, bound: Bound, base: Mapping[str, str]) -> dict[str, str]:
    """Env and params by name; backticks stand for themselves."""
    resolving = scope.resolve_run(workflow, bound, base)
    try:
        asked = next(resolving)
        while True:
            asked = resolving.send(Evaluated(0, asked.what))
    except StopIteration as stop:
        resolved: RunScope = stop.value
    except ScopeError:  # the run will fail and say so
        resolved = RunScope(tuple(p for p in bound.params if p.given))
    positional = {str(n): value for n, value in enumerate(resolved.positional, 1)}
    return {
        **dict(resolved.env),
        **resolved.named(given=False),
        **resolved.named(given=True),
        **positional,
    }


def _known(given: Iterable[Param], values: Mapping[str, str]) -> list[Param]:
    """What a step gives to the workflow that it runs, where only known values are needed."""
    return [
        Param(param.name, _expanded(param.value, values))
        for param in given
        if "`" not in param.value and not expand.unset(param.value, values)
    ]


def _bound(workflow: Workflow, given: Sequence[Param]) -> Bound:
    try:
        return params.bind(workflow.params, given, mentioned=lambda _: True)
    except ParamError:  # the step will fail and say so
        return params.bind(workflow.params, (), mentioned=lambda _: True)


def _expanded(text: str, values: Mapping[str, str]) -> str:
    try:
        return expand.expand(text, values)
    except ExpandError:
        return text
