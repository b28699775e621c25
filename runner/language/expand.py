"""Putting values into text: our own expansion, and the one rewriting that shell text gets.

Expansion is for texts that no shell reads; it works in one pass, so nothing inside a value is
ever looked at again. Shell text is left to the shell, which finds all variables exported; only
`${NAME.key[0]}` is replaced by a generated variable, where the shell would look at it at all
(`shelltext`). Which values are in scope, and running backtick commands, is the engine's. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

from runner.language import exact_json
from runner.language.faults import LanguageError, quoted
from runner.language.shelltext import active_braces

VARIABLE_PREFIX = "DAGMILL_PATH_"
STEP_FIELDS = ("stdout", "stderr", "exitCode")

_NO_REFS: Mapping[str, Mapping[str, str]] = {}
_NAME = r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+"
_PATH = r"(?:\.[A-Za-z0-9_-]+|\[[0-9]+\])"
_PIECE = re.compile(
    rf"""
      \\(?P<escaped>\$|`|\{{\{{)
    | `(?P<command>(?:[^`\\]|\\.)*)`
    | \$\{{(?P<braced>{_NAME})\}}
    | \$\{{(?P<base>{_NAME}|[A-Za-z][A-Za-z0-9_-]*)(?P<path>\.[A-Za-z0-9_-]+{_PATH}*)\}}
    | \$(?P<bare>[A-Za-z_][A-Za-z0-9_]*|[0-9])
    | \{{\{{\s*\.(?P<template>[A-Za-z_][A-Za-z0-9_]*)(?P<inner>{_PATH}*)\s*\}}\}}
    """,
    re.VERBOSE | re.DOTALL,
)
_SHELL_PATH = re.compile(
    rf"\$\{{(?P<base>{_NAME}|[A-Za-z][A-Za-z0-9_-]*)(?P<path>\.[A-Za-z0-9_-]+{_PATH}*)\}}"
)
_MENTION = re.compile(r"\$\{?[#!]?([A-Za-z_][A-Za-z0-9_]*|[0-9])|\{\{\s*\.([A-Za-z_][A-Za-z0-9_]*)")
_STEP_OF_PATH = re.compile(r"\.([A-Za-z0-9_-]+)|\[([0-9]+)\]")
_ESCAPED_TICK = re.compile(r"\\([`\\])")


class ExpandError(LanguageError):
    """A value that a text needs is not there; the message names it."""


@dataclass(frozen=True, slots=True)
class _Value:
    """A reference. `path` is "" for a plain one; `written` is how it stands in the text."""

    name: str
    path: str
    written: str
    stays: bool  # undefined: stays as written, else becomes empty


@dataclass(frozen=True, slots=True)
class _Command:
    """A backtick command, by its place among those of the text."""

    index: int
    written: str


@dataclass(frozen=True, slots=True)
class Template:
    """A text taken apart: literal pieces, references, and backtick commands."""

    pieces: tuple[str | _Value | _Command, ...]
    commands: tuple[str, ...]


def expand(
    text: str,
    scope: Mapping[str, str],
    *,
    step_refs: Mapping[str, Mapping[str, str]] = _NO_REFS,
    substitutions: Sequence[str] = (),
) -> str:
    """`text` with the values of `scope` put in, in one pass.

    `$X` and `{{.X}}` that `scope` does not have stay, `${X}` becomes empty. `step_refs` has, by
    step id, the texts for `stdout`, `stderr` and `exitCode`. `substitutions` are the results of
    `substitutions(text)` in order; without any, backticks stay as written. Raises ExpandError
    for a path into something that is not set, not JSON, or does not have it.
    """
    template = parse(text)
    if substitutions and len(substitutions) != len(template.commands):
        raise ValueError(f"{len(template.commands)} results needed, {len(substitutions)} given")
    return "".join(
        piece
        if isinstance(piece, str)
        else _resolve(piece, scope, step_refs)
        if isinstance(piece, _Value)
        else (substitutions[piece.index] if substitutions else piece.written)
        for piece in template.pieces
    )


def expand_known(text: str, scope: Mapping[str, str]) -> str:
    """`text` with the values that are known before a run put in; every other reference, also one
    whose path is not there, and every backtick command stay as written."""
    return "".join(
        piece if isinstance(piece, str) else _known_or_written(piece, scope)
        for piece in parse(text).pieces
    )


def _known_or_written(piece: _Value | _Command, scope: Mapping[str, str]) -> str:
    if isinstance(piece, _Command) or piece.name not in scope:
        return piece.written
    try:
        return _resolve(piece, scope, _NO_REFS)
    except ExpandError:
        return piece.written


def substitutions(text: str) -> tuple[str, ...]:
    """The commands in backticks, in order, as the shell is to get them."""
    return parse(text).commands


def rewrite_shell(
    text: str,
    scope: Mapping[str, str],
    *,
    step_refs: Mapping[str, Mapping[str, str]] = _NO_REFS,
) -> tuple[str, dict[str, str]]:
    """Shell text with each `${NAME.key…}` that the shell would look at as `${DAGMILL_PATH_n}`,
    and the values of these variables, to be exported.

    The same reference gets the same variable. Raises ExpandError like `expand`.
    """
    names: dict[str, str] = {}
    values: dict[str, str] = {}
    parts: list[str] = []
    end = 0
    if _SHELL_PATH.search(text) is None:  # most texts: no need to know where the shell looks
        return text, values
    for start in active_braces(text):
        found = _SHELL_PATH.match(text, start)
        if found is None or not _is_reference(found["base"], step_refs):
            continue
        written = found[0]
        if written not in names:
            names[written] = f"{VARIABLE_PREFIX}{len(names) + 1}"
            reference = _Value(found["base"], found["path"], written, stays=False)
            values[names[written]] = _resolve(reference, scope, step_refs)
        parts += (text[end:start], "${", names[written], "}")
        end = found.end()
    return "".join((*parts, text[end:])), values


def names_in(text: str) -> frozenset[str]:
    """The names of all variables that `text`, shell's or ours, might mention; `$1` is "1"."""
    if "$" not in text and "{{" not in text:
        return frozenset()
    return frozenset(found[1] or found[2] for found in _MENTION.finditer(text))


def unset(
    text: str,
    scope: Mapping[str, str],
    *,
    step_refs: Mapping[str, Mapping[str, str]] = _NO_REFS,
) -> tuple[str, ...]:
    """The names that our own expansion of `text` needs and `scope` does not have, in order."""
    wanted = (piece.name for piece in parse(text).pieces if isinstance(piece, _Value))
    return tuple(
        dict.fromkeys(name for name in wanted if name not in scope and name not in step_refs)
    )


@lru_cache(maxsize=512)
def parse(text: str) -> Template:
    """Take `text` apart. Never fails: what is no reference is literal."""
    pieces: list[str | _Value | _Command] = []
    commands: list[str] = []
    end = 0
    for found in _PIECE.finditer(text):
        if found.start() > end:
            pieces.append(text[end : found.start()])
        end = found.end()
        if found["command"] is not None:
            pieces.append(_Command(len(commands), found[0]))
            commands.append(_ESCAPED_TICK.sub(r"\1", found["command"]))
        elif found["escaped"] is not None:
            pieces.append(found["escaped"])
        else:
            pieces.append(_reference(found))
    pieces.append(text[end:])
    return Template(pieces=tuple(pieces), commands=tuple(commands))


def _reference(found: re.Match[str]) -> _Value:
    if found["braced"] is not None:
        return _Value(found["braced"], "", found[0], stays=False)
    if found["base"] is not None:
        return _Value(found["base"], found["path"], found[0], stays=False)
    if found["bare"] is not None:
        return _Value(found["bare"], "", found[0], stays=True)
    return _Value(found["template"], found["inner"], found[0], stays=True)


def _is_reference(base: str, step_refs: Mapping[str, Mapping[str, str]]) -> bool:
    """`${a-b.c}` is the shell's default value unless `a-b` is the id of a step."""
    return "-" not in base or base in step_refs


def _resolve(
    reference: _Value, scope: Mapping[str, str], step_refs: Mapping[str, Mapping[str, str]]
) -> str:
    value = scope.get(reference.name)
    if not reference.path:
        if value is not None:
            return value
        return reference.written if reference.stays else ""
    if value is not None:
        return _at_path(value, reference)
    if reference.name in step_refs:
        return _of_step(step_refs[reference.name], reference)
    if reference.stays or not _is_reference(reference.name, step_refs):
        return reference.written
    raise ExpandError(f"{reference.written}: {reference.name} is not set")


def _of_step(fields: Mapping[str, str], reference: _Value) -> str:
    field = reference.path.removeprefix(".")
    if field not in STEP_FIELDS:
        raise ExpandError(
            f"{reference.written}: a step has {', '.join(STEP_FIELDS)}, not {quoted(field)}"
        )
    if field not in fields:
        raise ExpandError(f"{reference.written}: the step {reference.name} has not run")
    return fields[field]


def _at_path(document: str, reference: _Value) -> str:
    try:
        node = exact_json.read(document)
    except ValueError as error:
        raise ExpandError(f"{reference.written}: {reference.name} does not hold JSON") from error
    walked = reference.name
    for key, index in _STEP_OF_PATH.findall(reference.path):
        try:
            node = _below(node, key, index)
        except LookupError as error:
            missing = f".{key}" if key else f"[{index}]"
            raise ExpandError(f"{reference.written}: {walked} has no {missing}") from error
        walked += f".{key}" if key else f"[{index}]"
    return _as_text(node, reference)


def _below(node: Any, key: str, index: str) -> Any:
    """Raises LookupError where `node` has no such item."""
    if isinstance(node, dict) and key:
        return node[key]
    if isinstance(node, list) and (index or (key.isdecimal() and key.isascii())):
        number = index or key
        return node[int(number)] if len(number) < 10 else _nowhere(number)
    return _nowhere(key or index)


def _nowhere(name: str) -> NoReturn:
    raise LookupError(name)


def _as_text(node: Any, reference: _Value) -> str:
    try:
        return exact_json.text(node)
    except ValueError as error:
        raise ExpandError(f"{reference.written}: {error}") from error
