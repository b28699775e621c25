"""Which workflow a `run: NAME` means, and whether calling it would never end.

Knows ids and names, not files: who asks brings what there is at the commit. Local documents come
first, then the id, then relative to the caller's file, then a name that only one workflow has.
Pure.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from runner.language.faults import LanguageError, did_you_mean, quoted
from runner.language.load import ENDINGS
from runner.language.model import Workflow

MOST_DEPTH = 10
"""How many runs may stand above a child run."""


@dataclass(frozen=True, slots=True)
class Index:
    """The workflows of a repository at one commit, broken ones as well: their ids, and name → id,
    "" for a name that several have."""

    ids: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)


class UnknownSubworkflow(LanguageError):
    """No workflow, or more than one, is meant."""


def file_of(id: str) -> str:
    """The id of the file's workflow, for a local document of the file too."""
    return id.partition("#")[0]


def is_dynamic(name: str) -> bool:
    """Whether only a run knows what the name will be."""
    return any(mark in name for mark in ("$", "`", "{{"))


def local_ids(workflow: Workflow) -> dict[str, str]:
    """Name → id of the local documents in the file of `workflow`, its main document."""
    return {local.name: local.id for local in workflow.locals}


def resolve(name: str, *, caller: str, locals: Mapping[str, str], index: Index) -> str:
    """The id that `name` means in the workflow with the id `caller`. `locals`: name → id of the
    documents of the caller's file. Raises UnknownSubworkflow."""
    if not name.strip():
        raise UnknownSubworkflow('the name of the sub-workflow ("run") is empty')
    if name in locals:
        return locals[name]
    for id in _ids(name, caller=caller):
        if id in index.ids:
            return id
    named = index.names.get(name)
    if named:
        return named
    if named is not None:
        raise UnknownSubworkflow(f"several workflows are named {quoted(name)}; write the id of one")
    near = did_you_mean(name, [*locals, *sorted(index.ids), *sorted(index.names)])
    raise UnknownSubworkflow(f"there is no workflow {quoted(name)}{near}")


def _ids(name: str, *, caller: str) -> Iterable[str]:
    """The ids that a name may be, nearest to what it says first."""
    folder = posixpath.dirname(file_of(caller))
    ending = next((e for e in ENDINGS if name.endswith(e)), "")
    for text in (name, name.removesuffix(ending)) if ending else (name,):
        yield text
        yield posixpath.normpath(posixpath.join(folder, text))


def circle(id: str, callers: Sequence[str]) -> str:
    """`a → b → a` where the workflow `id` is one of its own `callers` (the outermost first), ""
    where it is not."""
    if id not in callers:
        return ""
    return " → ".join((*callers[callers.index(id) :], id))
