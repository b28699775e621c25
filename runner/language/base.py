"""What `.dagu/base.yaml` gives to every workflow, and how a workflow's own keys go over it.

Scalars and lists of a workflow replace those of the base, maps are merged key by key. What is
appended instead (env, params, tags, secrets) `definition` puts together, from what is kept here
beside the entry. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.language.entries import Entry, HandlersEntry, MailEntry, MailOnEntry, SmtpEntry

if TYPE_CHECKING:
    from runner.language.entries import WorkflowEntry
    from runner.language.model import Param, Problem, Secret

_MERGED = (HandlersEntry, MailEntry, MailOnEntry, SmtpEntry)
_APPENDED = frozenset({"params", "env", "tags", "secrets"})
_SPELLINGS = {"precondition": "preconditions", "preconditions": "precondition"}


@dataclass(frozen=True, slots=True)
class Base:
    """A valid `base.yaml`. Its env is weaker than everything else a workflow says."""

    entry: WorkflowEntry
    params: tuple[Param, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadedBase:
    """`base` is None exactly when there are problems."""

    base: Base | None
    problems: tuple[Problem, ...] = ()


def merged(entry: WorkflowEntry, base: Base) -> WorkflowEntry:
    """`entry`, and where it says nothing what `base` says; of lists that are appended only its
    own part."""
    own = entry.model_fields_set
    updates: dict[str, Any] = {}
    for name in base.entry.model_fields_set - _APPENDED:
        theirs = getattr(base.entry, name)
        if name not in own and _SPELLINGS.get(name) not in own:
            updates[name] = theirs
        elif isinstance(theirs, _MERGED):
            updates[name] = _over(theirs, getattr(entry, name))
        elif isinstance(theirs, dict):
            updates[name] = theirs | (getattr(entry, name) or {})
    return entry.model_copy(update=updates) if updates else entry


def _over(theirs: Entry, own: Entry | None) -> Entry:
    if own is None:
        return theirs
    return theirs.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
