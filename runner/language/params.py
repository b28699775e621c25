"""The parameters of a workflow: what it declares, what a start overrides, what a run gets.

Parses the word grammar (`a b K=v K2="x y"`) and binds overrides to declared parameters. Values
of overrides are data and are never expanded; declared values stay unexpanded text, `expand`
takes them in order when the run starts. Pure.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from runner.language.expand import names_in
from runner.language.faults import LanguageError, did_you_mean, quoted
from runner.language.model import Condition, Mailing, MapItem, Param, Step, Tree, Workflow

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LONGEST_NAME = 200  # an output is kept in a file of its name
_BLANKS = re.compile(r"\s+")
_NAMED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_SINGLE = re.compile(r"'([^']*)'")
# One word without quotes: templates and backticks keep their blanks.
_RUN = re.compile(r"(?:\\.|`(?:[^`\\]|\\.)*`|\{\{[^{}]*\}\}|\S)+", re.DOTALL)
_PROTECTED = frozenset({"PATH", "HOME", "SHELL", "IFS", "BASH_ENV", "NODE_OPTIONS"})
_PROTECTED_HEADS = ("LD_", "BASH_FUNC_", "PYTHON", "GIT_", "DAG_", "DAGMILL_")


class ParamError(LanguageError):
    """Parameters that cannot be parsed, or that the workflow does not take."""


@dataclass(frozen=True, slots=True)
class BoundParam:
    """One parameter of a run. `given`: `value` is data from outside, else unexpanded text.

    `position` is n where it is also `$n`: always for an unnamed one.
    """

    name: str | None
    value: str
    given: bool
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The parameters of a run: the declared ones in order, then what was given beyond them.

    To get values, go through `params` in order, take the value of a given one as it is and
    expand that of another with the ones before it (by name and by `$n`) in scope.
    """

    params: tuple[BoundParam, ...]

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        return tuple((p.name, p.value) for p in self.params if p.name is not None)

    @property
    def positional(self) -> tuple[str, ...]:
        """`$1`, `$2`, … in order."""
        placed = sorted((p.position, p.value) for p in self.params if p.position is not None)
        return tuple(value for _, value in placed)

    @property
    def given(self) -> frozenset[str]:
        """The names (or `$n` as text) whose values came from outside."""
        names = {p.name for p in self.params if p.given and p.name is not None}
        return frozenset(names | {str(p.position) for p in self.params if p.given and p.position})


def parse_words(text: str) -> tuple[Param, ...]:
    """Parse `a b K=v K2="x y"`. Quotes count where a value begins; `\\"` is a quote inside one.

    Raises ParamError for a quote that is not closed.
    """
    words: list[Param] = []
    at = _blanks_end(text, 0)
    while at < len(text):
        named = _NAMED.match(text, at)
        name, start = (named[1], named.end()) if named else (None, at)
        value, at = _value(text, start)
        words.append(Param(name=name, value=value))
        at = _blanks_end(text, at)
    return tuple(words)


def from_arguments(words: Iterable[str]) -> tuple[Param, ...]:
    """Overrides as a command line gives them: `NAME=value` is named, any other word positional.

    Values are taken as they are: the shell has done the quoting.
    """
    given = ((word, _NAMED.match(word)) for word in words)
    return tuple(
        Param(name=named[1], value=word[named.end() :]) if named else Param(name=None, value=word)
        for word, named in given
    )


def parse_declared(items: Iterable[str | Mapping[str, str]]) -> tuple[Param, ...]:
    """The items of a `params` list: texts of words, and maps of names.

    Raises ParamError for the first item that is wrong; load calls it item by item.
    """
    declared: list[Param] = []
    for item in items:
        if isinstance(item, str):
            declared.extend(parse_words(item))
            continue
        for name, value in item.items():
            check_name(name)
            declared.append(Param(name=name, value=value))
    for param in declared:
        if "\0" in param.value:
            raise ParamError(f"the value of {_label(param)} holds NUL, which no variable can")
    return tuple(declared)


def check_name(name: str) -> None:
    """Raises ParamError where `name` cannot be the name of a variable."""
    if not NAME.fullmatch(name):
        fixed = re.sub(r"\W", "_", name, flags=re.ASCII)
        hint = f'; write "{fixed}"' if NAME.fullmatch(fixed) and len(fixed) < 60 else ""
        raise ParamError(f"{quoted(name)} is not a name: letters, digits and _ only{hint}")


def bind(
    declared: Sequence[Param],
    overrides: Sequence[Param],
    *,
    mentioned: Callable[[str], bool],
) -> Bound:
    """Put `overrides` (from outside: a person, the API, a trigger) over `declared`.

    The n-th positional override fills the n-th parameter that the workflow itself declares, named
    or not, and is `$n`.
    A name that is not declared is taken only if the workflow mentions it, protected names only
    where declared. Raises ParamError, naming the parameter.
    """
    by_position = [o.value for o in overrides if o.name is None]
    by_name = _by_name(overrides)
    for value in by_position:
        _refuse_odd("a positional parameter", value)
    names = [p.name for p in declared if p.name is not None]
    _refuse_unknown(by_name, names, mentioned=mentioned)
    bound: list[BoundParam] = []
    position = len(by_position)
    slots = itertools.count()
    for param in declared:
        slot = len(by_position) if param.of_base else next(slots)
        if slot < len(by_position):
            if param.name in by_name:
                raise ParamError(f"{param.name} is given twice: by name and as ${slot + 1}")
            bound.append(BoundParam(param.name, by_position[slot], True, slot + 1))
        elif param.name is None:
            position += 1
            bound.append(BoundParam(None, param.value, False, position))
        elif param.name in by_name:
            bound.append(BoundParam(param.name, by_name[param.name], True))
        else:
            bound.append(BoundParam(param.name, param.value, False))
    for slot in range(next(slots), len(by_position)):
        bound.append(BoundParam(None, by_position[slot], True, slot + 1))
    extra = (name for name in by_name if name not in names)
    bound.extend(BoundParam(name, by_name[name], True) for name in extra)
    return Bound(tuple(bound))


def is_protected(name: str) -> bool:
    """Whether a value from outside may set `name` only where the workflow declares it."""
    return name in _PROTECTED or name.startswith(_PROTECTED_HEADS)


def mentions(workflow: Workflow, name: str) -> bool:
    """Whether some text of `workflow` refers to the variable `name`.

    A script counts with every word in it, since an interpreter reads variables in its own way.
    """
    word = re.compile(rf"(?<!\w){re.escape(name)}(?!\w)")
    if any(name in names_in(text) for text in texts(workflow)):
        return True
    steps = (*workflow.steps, *workflow.handlers)
    scripts = (s.script for s in steps if s.script is not None)
    return any(word.search(script) for script in scripts) or any(
        mentions(local, name) for local in workflow.locals
    )


def texts(workflow: Workflow) -> Iterable[str]:
    """Every text of `workflow` that may refer to a variable, its sub-workflows left out."""
    yield from (p.value for p in workflow.params)
    yield from (value for _, value in (*workflow.base_env, *workflow.env))
    yield workflow.working_dir or ""
    yield workflow.concurrency.group if workflow.concurrency is not None else ""
    yield from workflow.dotenv
    yield from (secret.text for secret in workflow.secrets)
    yield from _mail_texts(workflow.mailing)
    yield from _condition_texts(workflow.preconditions)
    for step in (*workflow.steps, *workflow.handlers):
        yield from step_texts(step)


def step_texts(step: Step) -> Iterable[str]:
    """Every text of `step` that may refer to a variable."""
    yield step.command or ""
    yield from step.argv or ()
    yield step.script or ""
    yield from (step.dir or "", step.stdout or "", step.stderr or "", step.run or "")
    yield from (value for _, value in step.env)
    yield from (param.value for param in step.params)
    yield from _condition_texts(step.preconditions)
    if step.parallel is not None:
        yield step.parallel.source or ""
        yield from tree_texts(step.parallel.items)
    if step.executor is not None:
        yield from tree_texts(step.executor.config)
    if step.repeat is not None and step.repeat.condition is not None:
        yield from _condition_texts((step.repeat.condition,))
    if step.approval is not None:
        yield step.approval.message


def tree_texts(tree: Tree) -> Iterable[str]:
    """Every text in `tree`, keys left out."""
    match tree:
        case str():
            yield tree
        case MapItem(fields):
            for _, value in fields:
                yield from tree_texts(value)
        case _:
            for value in tree:
                yield from tree_texts(value)


def _mail_texts(mailing: Mailing) -> Iterable[str]:
    smtp = mailing.smtp
    if smtp is not None:
        yield from (smtp.host, smtp.port, smtp.username, smtp.password)
    for mail in (mailing.error, mailing.info):
        if mail is not None:
            yield from (mail.sender, *mail.to, mail.prefix)


def _condition_texts(conditions: Iterable[Condition]) -> Iterable[str]:
    for condition in conditions:
        yield condition.condition
        yield condition.expected or ""


def _by_name(overrides: Iterable[Param]) -> dict[str, str]:
    values: dict[str, str] = {}
    for override in overrides:
        if override.name is None:
            continue
        check_name(override.name)
        _refuse_odd(override.name, override.value)
        if override.name in values:
            raise ParamError(f"{override.name} is given twice")
        values[override.name] = override.value
    return values


def _refuse_unknown(
    given: Iterable[str], declared: Sequence[str], *, mentioned: Callable[[str], bool]
) -> None:
    for name in given:
        if name in declared:
            continue
        if is_protected(name):
            raise ParamError(f"{name} is protected; the workflow must declare it under params")
        if not mentioned(name):
            near = did_you_mean(name, declared)
            raise ParamError(f"{name} is not a parameter of this workflow{near}")


def _refuse_odd(label: str, value: str) -> None:
    if "\0" in value:
        raise ParamError(f"the value of {label} holds NUL, which no variable can")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ParamError(f"the value of {label} is not valid UTF-8; give binary data as a file")


def _label(param: Param) -> str:
    return param.name or "a positional parameter"


def _value(text: str, start: int) -> tuple[str, int]:
    """The value that begins at `start` and where it ends."""
    if text[start : start + 1] == '"':
        found = _DOUBLE.match(text, start)
        if found is None:
            raise ParamError(
                f"the quote before {quoted(text[start + 1 : start + 21])} is not closed"
            )
        return _with_rest(found[1].replace('\\"', '"'), text, found.end())
    if text[start : start + 1] == "'":
        found = _SINGLE.match(text, start)
        if found is not None:
            return _with_rest(found[1], text, found.end())
    return _with_rest("", text, start)


def _with_rest(value: str, text: str, at: int) -> tuple[str, int]:
    """`value` with what follows it up to the next blank, as in `"a b"/c`."""
    rest = _RUN.match(text, at)
    return (value + rest[0], rest.end()) if rest else (value, at)


def _blanks_end(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at
