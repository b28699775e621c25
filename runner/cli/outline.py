"""What a run would do, as a document: steps in waves, texts with the values that are known, the
sub-workflows that they call.

Knows what a workflow says and which values stand before a run; runs nothing, so what only a run
can know (outputs, items, backticks) stays as written. Its rule: every workflow is described once,
however often it is called, and names that sound secret show no value. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner.language import expand, params
from runner.language.faults import LanguageError
from runner.language.model import (
    Condition,
    MapItem,
    Parallel,
    Param,
    RepeatPolicy,
    RetryPolicy,
    Step,
    Tree,
    Workflow,
)
from runner.language.subworkflows import MOST_DEPTH
from storage.mask import STARS, Mask, is_secret_name

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Called:
    """A workflow, and the main document of its file, which knows the local ones."""

    workflow: Workflow
    main: Workflow


# (name as expanded, who calls) → what is meant; raises LanguageError
Find = Callable[[str, Called], Called]


@dataclass(slots=True)
class _Walk:
    """What the description of a whole tree shares. `outside` are values that no workflow gives."""

    find: Find
    outside: Mapping[str, str]
    described: set[str] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def outline(
    called: Called, bound: params.Bound, *, find: Find, outside: Mapping[str, str]
) -> Document:
    """The document of one workflow and all that it calls. `problems` lists what would fail."""
    walk = _Walk(find, outside)
    document = _workflow(called, bound, walk, callers=())
    masked: Document = Mask(walk.secrets).json({**document, "problems": walk.problems})
    return masked


def _workflow(
    called: Called, bound: params.Bound, walk: _Walk, *, callers: tuple[str, ...]
) -> Document:
    workflow = called.workflow
    document: Document = {"id": workflow.id, "name": workflow.name, "path": workflow.path}
    scope, given, env = _scope(workflow, bound, walk.outside)
    walk.secrets.update(value for name, value in scope.items() if is_secret_name(name))
    document["params"] = given
    if workflow.id in walk.described:
        return {**document, "described": True}
    walk.described.add(workflow.id)
    waves = _waves(workflow.steps)
    strong = frozenset(p.name for p in bound.params if p.given and p.name is not None)
    inside = _Inside(called, scope, walk, (*callers, workflow.id), strong)
    return {
        **document,
        **_said(
            description=workflow.description,
            type=workflow.type.value,
            env=env,
            dotenv=list(workflow.dotenv),
            secrets=[{"name": s.name, "from": s.source.value} for s in workflow.secrets],
            working_dir=_known(workflow.working_dir, scope),
            preconditions=[_condition(c, scope) for c in workflow.preconditions],
            timeout_s=workflow.timeout_s,
            max_active_steps=workflow.max_active_steps,
            delay_s=workflow.delay_s if not callers else 0,
            queue=workflow.queue,
            concurrency=workflow.concurrency
            and expand.expand_known(workflow.concurrency.group, scope),
        ),
        "waves": waves,
        "steps": [inside.step(step) for step in workflow.steps],
        "handlers": [inside.step(handler) for handler in workflow.handlers],
    }


def _waves(steps: Sequence[Step]) -> list[list[str]]:
    """Names of the steps that can start together at the earliest, in document order."""
    wave = {step.name: 0 for step in steps}
    unmet = {step.name: len(set(step.depends)) for step in steps}
    below: dict[str, list[str]] = {step.name: [] for step in steps}
    for step in steps:
        for name in set(step.depends):
            below[name].append(step.name)
    ready = [name for name, number in unmet.items() if not number]
    for name in ready:  # which grows
        for dependent in below[name]:
            wave[dependent] = max(wave[dependent], wave[name] + 1)
            unmet[dependent] -= 1
            if not unmet[dependent]:
                ready.append(dependent)
    waves: list[list[str]] = [[] for _ in range(1 + max(wave.values(), default=-1))]
    for step in steps:
        waves[wave[step.name]].append(step.name)
    return waves


def _scope(
    workflow: Workflow, bound: params.Bound, outside: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """(every known value, the params to be shown, the env to be shown)."""
    strong = {p.name: p.value for p in bound.params if p.given and p.name is not None}
    secrets = {secret.name: STARS for secret in workflow.secrets}
    scope = {**outside, **strong, **secrets}
    env = _env(workflow, scope, strong.keys() | secrets.keys())
    scope |= env | strong
    shown: dict[str, str] = {}
    for param in bound.params:
        value = param.value if param.given else expand.expand_known(param.value, scope)
        for name in (param.name, str(param.position) if param.position else None):
            if name is not None:
                scope[name] = value
        shown[param.name or str(param.position)] = _hidden(param.name or "", value)
    named = {p.name: scope[p.name] for p in bound.params if p.name is not None}
    env = _env(workflow, {**outside, **secrets, **named}, named.keys() | secrets.keys())
    return (
        {**scope, **env, **secrets, **named},
        shown,
        {name: _hidden(name, value) for name, value in env.items()},
    )


def _env(workflow: Workflow, scope: Mapping[str, str], strong: Collection[str]) -> dict[str, str]:
    """In order, each in the scope and those before it whose names are not `strong` there."""
    inner, env = dict(scope), {}
    for name, text in (*workflow.base_env, *workflow.env):
        env[name] = expand.expand_known(text, inner)
        if name not in strong:
            inner[name] = env[name]
    return env


def _hidden(name: str, value: str) -> str:
    return STARS if value and is_secret_name(name) else value


def _known(text: str | None, scope: Mapping[str, str]) -> str | None:
    return None if text is None else expand.expand_known(text, scope)


def _said(**facts: Any) -> Document:
    """What is there."""
    return {name: fact for name, fact in facts.items() if fact not in (None, "", 0, [], {}, False)}


@dataclass(frozen=True, slots=True)
class _Inside:
    """Where a step stands: its workflow, the values known there, who called it, and the names
    that are stronger than its own env."""

    called: Called
    scope: Mapping[str, str]
    walk: _Walk
    callers: tuple[str, ...]
    strong: frozenset[str]

    def step(self, step: Step) -> Document:
        env: dict[str, str] = {}
        scope = dict(self.scope)
        for name, text in step.env:
            env[name] = expand.expand_known(text, scope)
            if name not in self.strong:
                scope[name] = env[name]
        document = _said(
            id=step.id,
            description=step.description,
            depends=list(step.depends),
            **self._work(step, scope),
            env={name: _hidden(name, value) for name, value in env.items()},
            dir=_known(step.dir, scope),
            stdout=_known(step.stdout, scope),
            stderr=_known(step.stderr, scope),
            output=step.output,
            preconditions=[_condition(c, scope) for c in step.preconditions],
            parallel=step.parallel and _parallel(step.parallel, scope),
            approval=step.approval
            and _said(
                message=step.approval.message,
                timeout_s=step.approval.timeout_s,
                roles=list(step.approval.roles),
            ),
            retry=step.retry and _retry(step.retry),
            repeat=step.repeat and _repeat(step.repeat, scope),
            timeout_s=step.timeout_s,
            continue_on=_continue_on(step),
        )
        return {"name": step.name, **document}

    def _work(self, step: Step, scope: Mapping[str, str]) -> Document:
        """What runs."""
        work = _said(
            command=step.command,
            argv=[expand.expand_known(word, scope) for word in step.argv or ()],
            script=step.script,
            shell=list(step.shell or ()),
        )
        if step.executor is not None:
            config = _tree(step.executor.config, scope)
            work["executor"] = {"type": step.executor.type, "config": config}
        if step.run is not None:
            work["run"] = self._call(step, step.run, scope)
        return work

    def _call(self, step: Step, text: str, scope: Mapping[str, str]) -> Document:
        """The sub-workflow of a step, or why there is none."""
        name = expand.expand_known(text, scope)
        given = [Param(p.name, expand.expand_known(p.value, scope)) for p in step.params]
        call = {"name": name, "params": {p.name or str(n): p.value for n, p in enumerate(given, 1)}}
        if expand.names_in(name) or "`" in name:
            return {**call, "unknown": "its name is known only in a run"}
        try:
            called = self.walk.find(name, self.called)
            if called.workflow.id in self.callers:
                circle = " → ".join((*self.callers, called.workflow.id))
                raise LanguageError(f"{circle} is a circle")
            if len(self.callers) > MOST_DEPTH:
                raise LanguageError(f"it is called at depth {len(self.callers)}, over {MOST_DEPTH}")
            bound = params.bind(called.workflow.params, given, mentioned=lambda name: True)
        except LanguageError as error:
            place = f"{self.called.workflow.id}, step {step.name}"
            self.walk.problems.append(f"{place}: {error}")
            return {**call, "problem": str(error)}
        return {
            **call,
            "workflow": _workflow(called, bound, self.walk, callers=self.callers),
        }


def _condition(condition: Condition, scope: Mapping[str, str]) -> Document:
    if condition.expected is None:
        return {"command": condition.condition}
    return {
        "condition": expand.expand_known(condition.condition, scope),
        "expected": expand.expand_known(condition.expected, scope),
    }


def _parallel(parallel: Parallel, scope: Mapping[str, str]) -> Document:
    """`items` where they are known."""
    document: Document = {"max_concurrent": parallel.max_concurrent}
    if parallel.source is None:
        return {**document, "items": [_item(item, scope) for item in parallel.items]}
    text = expand.expand_known(parallel.source, scope)
    if text == parallel.source or expand.names_in(text) or "`" in text:
        return {**document, "source": parallel.source}
    return {**document, "source": parallel.source, "items": _listed(text)}


def _listed(text: str) -> list[str]:
    """The items of a text: those of a JSON array, else its words."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        return text.split()
    return [
        item if isinstance(item, str) else json.dumps(item, separators=(",", ":")) for item in found
    ]


def _item(item: Tree, scope: Mapping[str, str]) -> str:
    if isinstance(item, str):
        return expand.expand_known(item, scope)
    return json.dumps(_tree(item, scope), separators=(",", ":"), ensure_ascii=False)


def _tree(tree: Tree, scope: Mapping[str, str]) -> Any:
    match tree:
        case str():
            return expand.expand_known(tree, scope)
        case MapItem():
            return {
                name: STARS if is_secret_name(name) and value else _tree(value, scope)
                for name, value in tree.fields
            }
        case _:
            return [_tree(one, scope) for one in tree]


def _retry(retry: RetryPolicy) -> Document:
    return _said(
        limit=retry.limit,
        interval_s=retry.interval_s,
        factor=retry.factor,
        max_interval_s=retry.max_interval_s,
        exit_codes=list(retry.exit_codes),
    )


def _repeat(repeat: RepeatPolicy, scope: Mapping[str, str]) -> Document:
    return _said(
        mode=repeat.mode.value,
        interval_s=repeat.interval_s,
        limit=repeat.limit,
        condition=repeat.condition and _condition(repeat.condition, scope),
        exit_codes=list(repeat.exit_codes),
        factor=repeat.factor,
        max_interval_s=repeat.max_interval_s,
    )


def _continue_on(step: Step) -> Document:
    policy = step.continue_on
    return _said(
        failure=policy.failure,
        skipped=policy.skipped,
        exit_codes=list(policy.exit_codes),
        output=list(policy.output),
        mark_success=policy.mark_success,
    )
