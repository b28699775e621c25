"""A file's bytes as a `Workflow`, or as every problem there is in them.

Goes through `source` (YAML), `document` (shape), `definition` (meaning) and `lint`, and only
where one of them found something works out lines and columns. Its rule: whatever the bytes are,
the answer is a value, quickly. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from runner.language import definition, document, lint, source
from runner.language.base import Base as Base
from runner.language.base import LoadedBase as LoadedBase
from runner.language.calls import Call, local_cycles
from runner.language.entries import WorkflowEntry
from runner.language.faults import Fault, quoted
from runner.language.model import Problem, Workflow

LOADER_VERSION = 3  # raise it with every change that makes another workflow of the same bytes

MAX_BYTES = 1024 * 1024
MAX_PROBLEMS = 100
ENDINGS = (".yaml", ".yml")

_ID_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Loaded:
    """`workflow` is None exactly when there are problems; warnings never stop a run."""

    workflow: Workflow | None
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Read:
    """One document: its number in the file, what it defines, and what is to be told about it."""

    number: int
    workflow: Workflow | None
    faults: list[Fault]
    warnings: list[Fault] = field(default_factory=list)
    entry: WorkflowEntry | None = None


def workflow_id(path: str) -> str:
    """The id of the workflow in the file at `path` below `.dagu/`.

    Raises ValueError with the reason for a name that makes no id.
    """
    ending = next((e for e in ENDINGS if path.endswith(e)), None)
    if ending is None:
        raise ValueError(f"{quoted(path)} does not end in .yaml or .yml")
    stem = path.removesuffix(ending)
    for part in stem.split("/"):
        if not _ID_PART.fullmatch(part):
            raise ValueError(
                f"{quoted(part)} in {quoted(path)} cannot be part of a workflow's id: rename it to "
                "letters, digits, '.', '_' and '-', not starting with '.'"
            )
    return stem


def load(data: bytes, *, path: str, id: str, base: Base | None = None) -> Loaded:
    """Read the workflow with `id` from the bytes of its file. `path` is shown in messages.

    `base` is that of `load_base`, where the repository has a `.dagu/base.yaml`.
    """
    text = _decoded(data, path)
    if isinstance(text, Problem):
        return Loaded(None, (text,))
    try:
        read = source.read(text)
    except source.SourceError as error:
        return Loaded(None, (Problem(path, error.line, error.column, str(error)),))
    documents = _documents(read.documents, id=id, path=path, base=base)
    problems = [Problem(path, m.line, m.column, m.message) for m in read.mistakes]
    if not documents:
        problems.append(Problem(path, 1, 1, "the file holds no workflow; it needs steps"))
    elif any(d.faults or d.warnings for d in documents):
        places = source.Places(text)
        problems += _placed(places, path, ((d.number, f) for d in documents for f in d.faults))
        warnings = _placed(places, path, ((d.number, f) for d in documents for f in d.warnings))
        if not problems:
            return Loaded(_whole(documents), (), tuple(sorted(warnings)))
    if problems:
        return Loaded(None, _first(problems, path))
    return Loaded(_whole(documents))


def load_base(data: bytes, *, path: str) -> LoadedBase:
    """Read the defaults of all workflows from the bytes of `base.yaml`; an empty one has none."""
    text = _decoded(data, path)
    if isinstance(text, Problem):
        return LoadedBase(None, (text,))
    try:
        read = source.read(text)
    except source.SourceError as error:
        return LoadedBase(None, (Problem(path, error.line, error.column, str(error)),))
    problems = [Problem(path, m.line, m.column, m.message) for m in read.mistakes]
    filled = [(n, data) for n, data in enumerate(read.documents) if data is not None]
    number, first = filled[0] if filled else (0, {})
    base, faults = _base(first, path)
    told = [(number, fault) for fault in faults]
    told += [(n, Fault((), "a base is one document; remove this one")) for n, _ in filled[1:]]
    if told:
        problems += _placed(source.Places(text), path, told)
    return LoadedBase(None, _first(problems, path)) if problems else LoadedBase(base)


def located(data: bytes, calls: Sequence[Call]) -> list[tuple[int, int]]:
    """Line and column of each of `calls` in the file that they were loaded from."""
    places = source.Places(data.decode("utf-8-sig"))
    return [places.find(call.place, document=call.document or places.first) for call in calls]


def _base(data: source.Data, path: str) -> tuple[Base | None, list[Fault]]:
    entry, faults = document.read(data)
    if entry is None:
        return None, faults
    base, found = definition.define_base(entry, path=path, broken=faults)
    return base, [*faults, *found]


def _decoded(data: bytes, path: str) -> str | Problem:
    if len(data) > MAX_BYTES:
        return Problem(
            path, 1, 1, f"the file has more than {MAX_BYTES:,} bytes; make several of it"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8", errors="replace")
        return _at_end_of(before, path, "the file is not UTF-8; save it as UTF-8")
    if "\0" in text:
        return _at_end_of(text[: text.index("\0")], path, "the file holds a NUL byte; remove it")
    return text


def _at_end_of(before: str, path: str, message: str) -> Problem:
    return Problem(path, before.count("\n") + 1, len(before) - before.rfind("\n"), message)


def _documents(
    documents: Iterable[source.Data], *, id: str, path: str, base: Base | None
) -> list[_Read]:
    """Every document that is not empty; the first is the workflow, the others are its own."""
    read: list[_Read] = []
    names: set[str] = set()
    for number, data in enumerate(documents):
        if data is None:
            continue
        if not read:
            read.append(_document(data, number, id=id, path=path, base=base))
            continue
        local_id = f"{id}#{number}"
        local = _document(data, number, id=local_id, path=path, base=base)
        if isinstance(data, dict) and not local.faults:
            local = _named(local, data, names)
        read.append(local)
    if read and not any(d.faults for d in read):
        _look_through(read)
    return read


def _look_through(documents: list[_Read]) -> None:
    """What can be said only when all documents are good: cycles and warnings."""
    workflows = [d.workflow for d in documents if d.workflow is not None]
    calling = any(step.run is not None for w in workflows for step in (*w.steps, *w.handlers))
    if calling:
        _find_cycles(documents)
    for n, one in enumerate(documents):
        if one.entry is None or one.workflow is None:
            continue
        given = lint.given_to(one.workflow.name, workflows) if n and calling else frozenset()
        one.warnings[:] = lint.warnings(one.entry, one.workflow, is_local=n > 0, given=given)


def _find_cycles(documents: list[_Read]) -> None:
    for call, message in local_cycles(_whole(documents)):
        caller = next(d for d in documents if d.workflow and d.workflow.id == call.caller)
        caller.faults.append(Fault(call.place, message))


def _document(data: source.Data, number: int, *, id: str, path: str, base: Base | None) -> _Read:
    entry, faults = document.read(data)
    if entry is None:
        return _Read(number, None, faults)
    workflow, found = definition.define(entry, id=id, path=path, broken=faults, base=base)
    return _Read(number, workflow, [*faults, *found], entry=entry)


def _named(local: _Read, data: dict[str, source.Data], names: set[str]) -> _Read:
    """A sub-workflow is found by its name, so it needs one of its own."""
    workflow = local.workflow
    if workflow is None or not data.get("name"):
        fault = Fault((), 'a further document of a file is a sub-workflow and needs a "name"')
        return replace(local, faults=[fault])
    name = workflow.name
    if name in names:
        fault = Fault(("name",), f"another document of this file is named {quoted(name)}")
        return replace(local, faults=[fault])
    names.add(name)
    return local


def _whole(documents: list[_Read]) -> Workflow:
    first, *others = (d.workflow for d in documents)
    if first is None:  # pragma: no cover  a document without faults has a workflow
        raise AssertionError("a document without faults has no workflow")
    return replace(first, locals=tuple(w for w in others if w is not None)) if others else first


def _placed(places: source.Places, path: str, faults: Iterable[tuple[int, Fault]]) -> list[Problem]:
    problems: list[Problem] = []
    for number, fault in faults:
        if len(problems) > MAX_PROBLEMS:  # one more than is told, so that "more" can be said
            break
        line, column = places.find(fault.place, document=number, on_key=fault.on_key)
        problems.append(Problem(path, line, column, fault.message))
    return problems


def _first(problems: list[Problem], path: str) -> tuple[Problem, ...]:
    unique = sorted(set(problems))
    if len(unique) <= MAX_PROBLEMS:
        return tuple(unique)
    told = unique[:MAX_PROBLEMS]
    last = told[-1]
    return (
        *told,
        Problem(path, last.line, last.column, "there are more problems; these come first"),
    )
