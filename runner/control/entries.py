"""What control knows of one workflow file: its `Entry`, read from its bytes and kept as JSON.

Leaves the meaning of a file to `language.load`, and what files mean to each other to `callgraph`
and `catalog`. Its rule: an entry depends on the file's bytes, its path, base.yaml's bytes and the
loader's version alone, so it can be kept under these. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from runner.language import calls, load, source
from runner.language.base import Base
from runner.language.model import (
    Crons,
    Events,
    OverlapPolicy,
    Problem,
    PullRequestFilter,
    PushFilter,
    Workflow,
    WorkflowFilter,
)

ENTRY_FORMAT = 2
"""Raise it when `to_json` changes: entries of another format are read again from their blobs."""

LOADER = load.LOADER_VERSION * 1000 + ENTRY_FORMAT
"""The `loader` of every stored EntryRow: changes with the loader and with this file."""

BASE = "base"
"""What would be the id of base.yaml, were it a workflow."""


NO_EVENTS = Events()


@dataclass(frozen=True, slots=True)
class Call:
    """Another workflow that a file names: in `run`, or among the `ids` of `on: workflow`.

    `caller` is the id of the document that does (`etl#part` for a local one), `name` as written.
    """

    caller: str
    name: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Entry:
    """What control needs to know of one file, without its steps.

    `workflow` is the id, "" where the file's name gives none. With `problems` nothing but `path`,
    `blob`, `base_blob`, `workflow` and the problems means anything. Crons, overlap and the like are
    as in the model. `locals` are (name, id) of its local documents, `calls` its `run` keys,
    `follows` its `on: workflow` ids.
    """

    path: str  # from the repository's root
    blob: str
    workflow: str
    base_blob: str = ""  # of the base.yaml that it was read with
    name: str = ""
    crons: Crons = ()
    stops: Crons = ()
    restarts: Crons = ()
    push: PushFilter | None = None
    events: Events = NO_EVENTS
    max_active_runs: int = 1
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catchup_s: float = 0.0
    skip_if_successful: bool = False
    restart_wait_s: float = 0.0
    retention_days: int = 30
    locals: tuple[tuple[str, str], ...] = ()
    calls: tuple[Call, ...] = ()
    follows: tuple[Call, ...] = ()
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()

    @property
    def schedule(self) -> tuple[Crons, Crons, Crons]:
        """When it starts, stops and restarts: as long as they stay, so does its `live_from`."""
        return self.crons, self.stops, self.restarts


def read(
    data: bytes,
    *,
    path: str,
    blob: str,
    folder: str,
    base: Base | None = None,
    base_blob: str = "",
) -> Entry:
    """The entry of a file at `path` (from the root) below `folder`, whatever it holds.

    `base` holds the defaults of base.yaml. That of base.yaml itself has its problems.
    """
    relative = path.removeprefix(folder.rstrip("/") + "/")
    try:
        workflow = load.workflow_id(relative)
    except ValueError as error:
        return Entry(path, blob, "", base_blob, problems=(Problem(path, 1, 1, str(error)),))
    if workflow == BASE:
        return Entry(path, blob, workflow, problems=load.load_base(data, path=path).problems)
    loaded = load.load(data, path=path, id=workflow, base=base)
    found = loaded.workflow
    if found is None:
        return Entry(path, blob, workflow, base_blob, problems=tuple(loaded.problems))
    schedule = found.schedule
    events = _Listened(found, data)
    return Entry(
        path,
        blob,
        workflow,
        base_blob,
        name=found.name,
        crons=schedule.crons if schedule is not None else (),
        stops=schedule.stops if schedule is not None else (),
        restarts=schedule.restarts if schedule is not None else (),
        push=found.push,
        events=found.events,
        max_active_runs=found.max_active_runs,
        overlap=found.overlap,
        catchup_s=found.catchup_s,
        skip_if_successful=found.skip_if_successful,
        restart_wait_s=found.restart_wait_s,
        retention_days=found.retention_days,
        locals=tuple((local.name, local.id) for local in found.locals),
        calls=_calls(found, data),
        follows=tuple(events.followed()),
        warnings=tuple(sorted((*loaded.warnings, *events.not_yet()))),
    )


def _calls(workflow: Workflow, data: bytes) -> tuple[Call, ...]:
    """Those whose names are known before the workflow runs."""
    found = calls.calls(workflow)
    places = load.located(data, found) if found else []
    return tuple(
        Call(call.caller, call.name, line, column)
        for call, (line, column) in zip(found, places, strict=True)
    )


class _Listened:
    """The places of what a workflow says under `on`; they are looked for only if needed."""

    def __init__(self, workflow: Workflow, data: bytes) -> None:
        self._workflow = workflow
        self._data = data
        self._places: source.Places | None = None

    def _place(self, *place: str | int, on_key: bool = False) -> tuple[int, int]:
        if self._places is None:
            self._places = source.Places(self._data.decode("utf-8-sig"))
        return self._places.find(("on", *place), document=self._places.first, on_key=on_key)

    def followed(self) -> Iterator[Call]:
        followed = self._workflow.events.workflow
        for n, id in enumerate(followed.ids if followed is not None else ()):
            yield Call(self._workflow.id, id, *self._place("workflow", "ids", n))

    def not_yet(self) -> Iterator[Problem]:
        events = self._workflow.events
        for key, said in (("pullRequest", events.pull_request), ("release", events.release)):
            if said is not None:
                message = f'"{key}" is not started by this release yet'
                yield Problem(self._workflow.path, *self._place(key, on_key=True), message)


def to_json(entry: Entry) -> str:
    """Everything but path and blobs, which are the stored row's key, and what a file says by
    saying nothing: a start of the service reads thousands of them."""
    document = {
        name: _ENCODED.get(name, _same)(value)
        for name in _STORED
        if (value := getattr(entry, name)) != _NOTHING_SAID[name]
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str, *, path: str, blob: str, base_blob: str = "") -> Entry:
    document: dict[str, Any] = json.loads(text)
    workflow = document.pop("workflow", "")
    for name, said in document.items():
        if name in ("problems", "warnings"):
            document[name] = tuple(Problem(path, *problem) for problem in said)
        elif (decode := _DECODED.get(name)) is not None:
            document[name] = decode(said)
    return Entry(path, blob, workflow, base_blob, **document)


def _same(value: Any) -> Any:
    return value


def _parts(value: PushFilter | Call) -> list[Any]:
    return list(asdict(value).values())


def _told(problems: Iterable[Problem]) -> list[list[Any]]:
    return [[problem.line, problem.column, problem.message] for problem in problems]


def _calls_of(found: Iterable[Iterable[Any]]) -> tuple[Call, ...]:
    return tuple(Call(*call) for call in found)


def _pairs(found: Iterable[Iterable[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((one, other) for one, other in found)


def _events(document: dict[str, Any]) -> Events:
    pull, release = document["pull_request"], document["release"]
    webhook, workflow = document["webhook"], document["workflow"]
    return Events(
        pull_request=None if pull is None else _pull_request(pull),
        release=None if release is None else tuple(release),
        webhook=None if webhook is None else _pairs(webhook),
        workflow=None if workflow is None else WorkflowFilter(**_tuples(workflow)),
    )


def _pull_request(members: dict[str, Any]) -> PullRequestFilter:
    approve_forks = members.pop("approve_forks")
    return PullRequestFilter(**_tuples(members), approve_forks=approve_forks)


def _tuples(members: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(texts) for name, texts in members.items()}


_STORED = tuple(f.name for f in fields(Entry) if f.name not in ("path", "blob", "base_blob"))
_NOTHING_SAID = {name: getattr(Entry("", "", ""), name) for name in _STORED}
_ENCODED: dict[str, Callable[[Any], Any]] = {
    "push": _parts,
    "events": asdict,
    "calls": lambda calls: [_parts(call) for call in calls],
    "follows": lambda calls: [_parts(call) for call in calls],
    "problems": _told,
    "warnings": _told,
}
_DECODED: dict[str, Callable[[Any], Any]] = {
    "crons": _pairs,
    "stops": _pairs,
    "restarts": _pairs,
    "push": lambda parts: PushFilter(*map(tuple, parts)),
    "events": _events,
    "overlap": OverlapPolicy,
    "locals": _pairs,
    "calls": _calls_of,
    "follows": _calls_of,
}
