"""Which names a step can see, with which values, and its texts expanded with them.

Layers of values, weakest first, make one environment; texts of the workflow are expanded in it.
Nothing is run here: what needs a process (backticks, conditions that are commands) is asked for
by yielding an `Evaluation` and receiving its `Evaluated`. Command lines are made by
`command_line`, conditions judged by `verdicts`. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar
from zoneinfo import ZoneInfo

from runner.language import expand
from runner.language.model import Condition, MapItem, Param, Step, Tree, Workflow
from runner.language.params import Bound, BoundParam

LARGEST_VALUE = 96 * 1024  # the kernel refuses an environment string of 128 KiB
LARGEST_ENVIRONMENT = 1024 * 1024
_MOST_TURNS = 20  # of params that use env that uses params: each looks at all of env again
ITEM, ITEM_INDEX = "ITEM", "ITEM_INDEX"
_ITEM_WORD = re.compile(r"(?<!\w)ITEM(?:_INDEX)?(?!\w)")

T = TypeVar("T")
Refs = Mapping[str, Mapping[str, str]]  # step id → what `${id.stdout}` and the like stand for
Pairs = tuple[tuple[str, str], ...]


class ScopeError(Exception):
    """A step cannot begin; the message names the variable or path and the remedy."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A command to run before a step: shell text under `argv[:-1]`, its trimmed stdout wanted."""

    argv: tuple[str, ...]
    env: dict[str, str]
    what: str  # for messages


@dataclass(frozen=True, slots=True)
class Evaluated:
    exit_code: int
    stdout: str  # trimmed


@dataclass(frozen=True, slots=True)
class RunScope:
    """What belongs to the whole run, resolved once and kept: params and workflow-level env (that
    of base.yaml, then of dotenv files, then the workflow's own).

    A given param came from outside: it is stronger than a step's env.
    """

    params: tuple[BoundParam, ...] = ()
    env: Pairs = ()

    @property
    def positional(self) -> tuple[str, ...]:
        """`$1`, `$2`, ..."""
        return Bound(self.params).positional

    def named(self, *, given: bool) -> dict[str, str]:
        return {p.name: p.value for p in self.params if p.name is not None and p.given is given}

    def mapped(self, change: Callable[[str], str]) -> RunScope:
        """One with each value changed."""
        params = tuple(replace(p, value=change(p.value)) for p in self.params)
        return RunScope(params, tuple((name, change(value)) for name, value in self.env))

    def text(self) -> str:
        return json.dumps([params_text(Bound(self.params)), self.env])

    @staticmethod
    def read(text: str) -> RunScope:
        params, env = json.loads(text)
        return RunScope(read_params(params).params, _pairs(env))


def params_text(bound: Bound) -> str:
    """Parameters as they are kept with a run; `read_params` reads them."""
    return json.dumps([[p.name, p.value, p.given, p.position] for p in bound.params])


def read_params(text: str) -> Bound:
    return Bound(tuple(BoundParam(*fields) for fields in json.loads(text)))


@dataclass(frozen=True, slots=True)
class StepTexts:
    """The texts of a step after expansion; None where it has none. `config` is its executor's."""

    env: Pairs = ()
    dir: str | None = None
    argv: tuple[str, ...] | None = None
    run: str | None = None
    params: tuple[Param, ...] = ()
    stdout: str | None = None
    stderr: str | None = None
    config: Tree | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what was prepared may begin; `error` "" unless it could not be judged."""

    met: bool = True
    reason: str = ""
    error: str = ""


def _pairs(value: Sequence[Sequence[str]]) -> Pairs:
    return tuple((k, v) for k, v in value)


def dates(at: datetime, zone: str) -> dict[str, str]:
    """The weakest layer: DATE and MONTH of `at` in `zone`."""
    local = at.astimezone(ZoneInfo(zone))
    return {"DATE": f"{local:%Y-%m-%d}", "MONTH": f"{local:%Y-%m}"}


# What needs a process before a step, or an item of it, starts


def needs_process(texts: Sequence[str]) -> bool:
    """Whether expanding any of these takes a command substitution."""
    return any("`" in text and expand.substitutions(text) for text in texts)


def steps_to_prepare(workflow: Workflow) -> frozenset[str]:
    """Names of the steps that need something evaluated before each of them starts. The list of a
    parallel step always does."""
    return frozenset(step.name for step in _all(workflow) if _is_prepared(step))


def items_to_prepare(workflow: Workflow) -> frozenset[str]:
    """Names of the parallel steps that need something evaluated before each of their items: where
    ITEM occurs in a precondition, or in a text with backticks."""
    found = (step for step in _all(workflow) if step.parallel is not None)
    return frozenset(step.name for step in found if _items_are_prepared(step))


def _all(workflow: Workflow) -> tuple[Step, ...]:
    return (*workflow.steps, *workflow.handlers)


def _is_prepared(step: Step) -> bool:
    waits = step.preconditions or step.parallel is not None
    return bool(waits) or needs_process(_own_texts(step))


def _items_are_prepared(step: Step) -> bool:
    of_item = item_names(step)
    if any(condition_is_of_item(c, of_item) for c in step.preconditions):
        return True
    return needs_process([text for text in _own_texts(step) if is_of_item(text, of_item)])


def item_names(step: Step) -> frozenset[str]:
    """The names whose values differ between the items of a step."""
    names = frozenset({ITEM, ITEM_INDEX})
    for name, text in step.env:
        if is_of_item(text, names):
            names |= {name}
    return names


def is_of_item(text: str, names: frozenset[str]) -> bool:
    """Whether `text` means something else for each item, whose own names are `names`. The word
    ITEM counts wherever it stands, as in `printenv ITEM`."""
    if not names:
        return False
    return _ITEM_WORD.search(text) is not None or not names.isdisjoint(expand.names_in(text))


def condition_is_of_item(condition: Condition, names: frozenset[str]) -> bool:
    return is_of_item(condition.condition, names) or is_of_item(condition.expected or "", names)


def has_texts(step: Step) -> bool:
    """Whether our own expansion is for any text of a step."""
    texts = (step.dir, step.argv, step.run, step.stdout, step.stderr, step.executor)
    return bool(step.env or step.params) or any(text is not None for text in texts)


def _own_texts(step: Step) -> list[str]:
    """Every text of a step that our own expansion is for."""
    texts = [*(v for _, v in step.env), *(step.argv or ()), *(p.value for p in step.params)]
    texts += [t for t in (step.dir, step.run, step.stdout, step.stderr) if t is not None]
    return [*texts, *(_leaves(step.executor.config) if step.executor is not None else ())]


def _leaves(tree: Tree) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    for inner in (value for _, value in tree.fields) if isinstance(tree, MapItem) else tree:
        yield from _leaves(inner)


# The run's own scope


def dotenv_paths(
    workflow: Workflow,
    bound: Bound,
    base: Mapping[str, str],
    *,
    secrets: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """The paths of `dotenv`, expanded with what is known without a process. Raises ScopeError."""
    if not any(map(expand.names_in, workflow.dotenv)):
        names = dict(base)
    else:
        quick = replace(
            workflow,
            env=_without_process(workflow.env),
            base_env=_without_process(workflow.base_env),
        )
        known = [p for p in bound.params if p.given or not needs_process((p.value,))]
        found = without_process(resolve_run(quick, Bound(tuple(known)), base, secrets=secrets))
        names = layers(base, found, {}, secrets=secrets).names(fixed={})
    return tuple(required("dotenv", text, plain(text, names), names) for text in workflow.dotenv)


def _without_process(pairs: Pairs) -> Pairs:
    return tuple((name, text) for name, text in pairs if not needs_process((text,)))


def resolve_run(
    workflow: Workflow,
    bound: Bound,
    base: Mapping[str, str],
    *,
    dotenv: Pairs = (),
    secrets: Mapping[str, str] | None = None,
) -> Generator[Evaluation, Evaluated, RunScope]:
    """Expand env and declared params; `base` is the service's environment over the dates, `dotenv`
    what the files say, which is data.

    Env may use params and params may use env, whichever is written first: what of env uses a param
    is expanded once that is known, and all of it again with all params.
    """
    results: dict[str, str] = {}
    given = {p.name: p.value for p in bound.params if p.given and p.name is not None}
    strong = {**(secrets or {}), **given}
    waiting = {name for p in bound.params if not p.given for name in _names_of(p)}
    run_env = _RunEnv(workflow, dotenv, base, results)
    env, late = yield from run_env.expanded(strong, waiting)
    scope = {**base, **dict(env), **(secrets or {})}
    params: list[BoundParam] = []
    turns = 0
    for param in bound.params:
        value = param.value
        if not param.given:
            if late and turns < _MOST_TURNS and not late.isdisjoint(_words(value)):
                turns += 1
                env, late = yield from run_env.expanded(strong, waiting)
                scope |= {name: text for name, text in env if name not in strong}
            value = yield from expanded(value, scope, results)
        for name in _names_of(param):
            check_value(name, value)
            scope[name] = strong[name] = value
            waiting.discard(name)
        params.append(replace(param, value=value))
    env, _ = yield from run_env.expanded(strong)
    return RunScope(tuple(params), env)


def _names_of(param: BoundParam) -> list[str]:
    position = str(param.position) if param.position else None
    return [name for name in (param.name, position) if name is not None]


def _words(text: str) -> frozenset[str]:
    """All names that a text may use; a command in backticks also as in `printenv X`."""
    names = expand.names_in(text)
    return names | frozenset(re.findall(r"\w+", text)) if "`" in text else names


@dataclass(frozen=True, slots=True)
class _RunEnv:
    """The env of a run, that of base.yaml, of dotenv files and the workflow's own."""

    workflow: Workflow
    dotenv: Pairs
    base: Mapping[str, str]
    results: dict[str, str]

    def expanded(
        self, strong: Mapping[str, str], waiting: Collection[str] = ()
    ) -> Generator[Evaluation, Evaluated, tuple[Pairs, set[str]]]:
        """What is known of it while the params `waiting` are not, and the names of the rest.
        `strong` are values of params and secrets, which no env of their name hides."""
        late: set[str] = set()
        unknown = set(waiting)
        scope = {**self.base, **strong}

        def ready(pairs: Pairs) -> Pairs:
            found = []
            for name, text in pairs:
                if unknown.isdisjoint(_words(text)):
                    found.append((name, text))
                else:
                    late.add(name)
                    unknown.add(name)
            return tuple(found)

        base_env, env = ready(self.workflow.base_env), ready(self.workflow.env)
        first = yield from _expand_all(base_env, scope, self.results, strong=strong)
        for name, value in self.dotenv:
            check_value(name, value)
            scope[name] = strong.get(name, value)
        last = yield from _expand_all(env, scope, self.results, strong=strong)
        return (*first, *self.dotenv, *last), late


def _expand_all(
    pairs: Pairs,
    scope: dict[str, str],
    results: dict[str, str],
    refs: Refs | None = None,
    *,
    strong: Collection[str] = (),
) -> Generator[Evaluation, Evaluated, Pairs]:
    """Expand values in order, each in `scope`, which gets it unless its name is one of `strong`:
    that has a stronger value there."""
    done = []
    for name, text in pairs:
        value = yield from expanded(text, scope, results, refs)
        check_value(name, value)
        if name not in strong:
            scope[name] = value
        done.append((name, value))
    return tuple(done)


def check_value(name: str, value: str) -> None:
    """Raises ScopeError for a value that no variable can have."""
    if "\0" in value:
        raise ScopeError(f"{name} holds a NUL byte, which no process can be given; remove it")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ScopeError(f"{name} holds bytes that are not UTF-8; encode them, or use a file")


def expanded(
    text: str, scope: Mapping[str, str], results: dict[str, str], refs: Refs | None = None
) -> Generator[Evaluation, Evaluated, str]:
    """Our own expansion; each command substitution runs once per run or step and is kept."""
    found = []
    for command in expand.substitutions(text):
        if command not in results:
            evaluated = yield Evaluation(
                ("/bin/sh", "-c", command), exported(scope), f"`{command}`"
            )
            if evaluated.exit_code != 0:
                raise ScopeError(f"`{command}` failed with exit code {evaluated.exit_code}")
            results[command] = evaluated.stdout
        found.append(results[command])
    try:
        return expand.expand(text, scope, step_refs=refs or {}, substitutions=found)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error


def expanded_tree(
    tree: Tree, scope: Mapping[str, str], results: dict[str, str], refs: Refs | None = None
) -> Generator[Evaluation, Evaluated, Tree]:
    """A tree with all its texts expanded; keys stay as they are."""
    if isinstance(tree, str):
        return (yield from expanded(tree, scope, results, refs))
    if isinstance(tree, MapItem):
        fields = []
        for key, value in tree.fields:
            fields.append((key, (yield from expanded_tree(value, scope, results, refs))))
        return MapItem(tuple(fields))
    inner = []
    for value in tree:
        inner.append((yield from expanded_tree(value, scope, results, refs)))
    return tuple(inner)


# One step


@dataclass(frozen=True, slots=True)
class Layers:
    """The names of a step, in two parts: those weaker than its own env, and those stronger."""

    below: Mapping[str, str]
    above: Mapping[str, str]

    def names(
        self,
        env: Pairs = (),
        *,
        fixed: Mapping[str, str],
        item: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """The whole environment. `item`: ITEM and ITEM_INDEX, `fixed`: DAG_*, GIT_*, EVENT_*."""
        return {**self.below, **dict(env), **self.above, **(item or {}), **fixed}


def layers(
    base: Mapping[str, str],
    run: RunScope,
    outputs: Mapping[str, str],
    *,
    secrets: Mapping[str, str] | None = None,
) -> Layers:
    """`base` is the service's environment over the dates. `$1` and so on are names like others."""
    positional = {str(n): value for n, value in enumerate(run.positional, 1)}
    declared, given = run.named(given=False), run.named(given=True)
    below = {**base, **dict(run.env), **(secrets or {}), **declared, **positional}
    return Layers(below, {**given, **outputs})


def exported(scope: Mapping[str, str]) -> dict[str, str]:
    """What of a scope can stand in a process's environment: see `oversized`."""
    left_out = oversized(scope)
    # a NAME that is a number is a shell positional and not an environment variable
    return {k: v for k, v in scope.items() if k not in left_out and not k.isdigit()}


def oversized(scope: Mapping[str, str]) -> frozenset[str]:
    """Names whose values no environment can hold: each over 96 KiB, and the largest of the rest
    until all fit into 1 MiB."""
    if sum(map(len, scope.values())) < LARGEST_VALUE // 4:  # at most 4 bytes a character
        return frozenset()
    sizes = {k: len(v.encode()) for k, v in scope.items()}
    out = {k for k, size in sizes.items() if size > LARGEST_VALUE}
    total = sum(size + len(k) + 2 for k, size in sizes.items() if k not in out)
    for name in sorted(sizes.keys() - out, key=lambda k: -sizes[k]):
        if total <= LARGEST_ENVIRONMENT:
            break
        out.add(name)
        total -= sizes[name] + len(name) + 2
    return frozenset(out)


def step_texts(
    step: Step,
    scope: Mapping[str, str],
    refs: Refs,
    *,
    results: dict[str, str],
    leave_out: frozenset[str] = frozenset(),
    strong: Collection[str] = (),
) -> Generator[Evaluation, Evaluated, StepTexts]:
    """Expand env, in order, and then all other texts of a step. `results` are those of commands
    in backticks and gets those that are new. Left out are the texts that use one of the names
    `leave_out`. `strong` are the names in `scope` that are stronger than the step's env."""
    inner = dict(scope)

    def wanted(text: str | None) -> bool:
        return text is not None and not is_of_item(text, leave_out)

    def one(text: str | None) -> Generator[Evaluation, Evaluated, str | None]:
        if text is None or not wanted(text):
            return None
        return (yield from expanded(text, inner, results, refs))

    own = tuple((name, text) for name, text in step.env if wanted(text))
    env = yield from _expand_all(own, inner, results, refs, strong=strong)
    folder = yield from one(step.dir)
    words = []
    for word in step.argv or ():
        words.append((yield from one(word)))
    run = yield from one(step.run)
    params = []
    for param in step.params:
        params.append(Param(param.name, (yield from one(param.value)) or ""))
    stdout = yield from one(step.stdout)
    stderr = yield from one(step.stderr)
    config = step.executor.config if step.executor is not None else None
    tree = None
    if config is not None and all(wanted(text) for text in _leaves(config)):
        tree = yield from expanded_tree(config, inner, results, refs)
    argv = None if step.argv is None else tuple(word or "" for word in words)
    return StepTexts(env, folder, argv, run, tuple(params), stdout, stderr, tree)


def without_process(generator: Generator[Evaluation, Evaluated, T]) -> T:
    """The result of an expansion that needs no process."""
    try:
        next(generator)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration.value is Any
    raise AssertionError("a step with command substitutions was not prepared")


def plain(text: str, scope: Mapping[str, str]) -> str:
    """A text that stands where no process may be started for it. Raises ScopeError."""
    if needs_process((text,)):
        raise ScopeError(f"{short(text)}: backticks cannot be used here; put them into env")
    try:
        return expand.expand(text, scope)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error


def required(
    what: str, text: str, value: str, scope: Mapping[str, str], refs: Refs | None = None
) -> str:
    """`value`, which `text` came to, as it stands for a path, an address or a name: not empty, and
    without a template that nothing was put into. Raises ScopeError and names the variable."""
    left = "{{" in value and r"\{{" not in text
    if value.strip() and not left:
        return value
    problem = f"still holds {{{{ ({short(value)})" if left else "comes out empty"
    unset = expand.unset(text, scope, step_refs=refs or {})
    empty = [n for n in sorted(expand.names_in(text)) if n in scope and not scope[n].strip()]
    why = f": {unset[0]} is not set" if unset else f": {empty[0]} is empty" if empty else ""
    raise ScopeError(f'{what} "{short(text)}" {problem}{why}')


def short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."
