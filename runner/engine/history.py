"""A run as the store has it: its events, its definition, and the values that it passed on.

Reads and never writes. The definition is the kept source text of the run's first event, so a run
reads the same whatever happened to the file since.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from runner.engine import journal, scope
from runner.engine.events import Event, Queued
from runner.engine.fold import fold
from runner.engine.state import RunState
from runner.language import subworkflows
from runner.language.base import Base
from runner.language.load import load, load_base
from runner.language.model import Workflow
from storage.store import StorageError, Store


class HistoryError(StorageError):
    """A run is unknown or what is stored of it is not whole."""


class UnreadableDefinition(HistoryError):
    """A file is no workflow to this version; `problem` says why."""

    def __init__(self, message: str, problem: str) -> None:
        super().__init__(message)
        self.problem = problem


def definition(source: str, path: str, id: str, base: str = "") -> Workflow:
    """The workflow `id` of a kept source (a local document: `<id of the file>#<number>`) and its
    base.yaml ("" where there was none). Raises HistoryError, UnreadableDefinition where this
    version cannot read it."""
    file = subworkflows.file_of(id)
    workflow = _file(source, path, file, base)
    found = next((local for local in workflow.locals if local.id == id), None)
    if id != file and found is None:
        raise HistoryError(f"{path} has no document {id}")
    return found or workflow


@lru_cache(maxsize=256)
def _file(source: str, path: str, id: str, base: str) -> Workflow:
    loaded = load(source.encode(), path=path, id=id, base=_base(base) if base else None)
    if loaded.workflow is None:
        problem = str(loaded.problems[0])
        told = f"the kept definition of {id} can no longer be read: {problem}"
        raise UnreadableDefinition(told, problem)
    return loaded.workflow


@lru_cache(maxsize=16)
def _base(source: str) -> Base:
    loaded = load_base(source.encode(), path="base.yaml")
    if loaded.base is None:
        problem = str(loaded.problems[0])
        raise UnreadableDefinition(f"the kept base can no longer be read: {problem}", problem)
    return loaded.base


@dataclass(frozen=True, slots=True)
class History:
    """`values` are the real ones, (scope, name) → value: never to be shown."""

    run: str
    events: tuple[Event, ...]
    workflow: Workflow
    values: dict[tuple[str, str], str]

    @staticmethod
    async def read(store: Store, run: str) -> History:
        """Raises HistoryError."""
        records = await store.events(run)
        if not records:
            raise HistoryError(f"no run {run}")
        events = tuple(journal.event(r) for r in records)
        queued = events[0]
        if not isinstance(queued, Queued):
            raise HistoryError(f"run {run} does not begin with a Queued event")
        texts = [await _source(store, run, sha256) for sha256 in _kept(queued)]
        workflow = definition(texts[0], queued.path, queued.workflow, *texts[1:])
        return History(run, events, workflow, await store.values(run))

    @property
    def queued(self) -> Queued:
        """The first event."""
        first = self.events[0]
        if not isinstance(first, Queued):
            raise HistoryError(f"run {self.run} does not begin with a Queued event")
        return first

    def state(self) -> RunState:
        """Where the run stands after its last event."""
        return fold(
            self.workflow,
            self.events,
            prepares=scope.steps_to_prepare(self.workflow),
            item_prepares=scope.items_to_prepare(self.workflow),
        )


def _kept(queued: Queued) -> list[str]:
    return [sha256 for sha256 in (queued.definition_sha256, queued.base_sha256) if sha256]


async def _source(store: Store, run: str, sha256: str) -> str:
    text = await store.source(sha256)
    if text is None:
        raise HistoryError(f"run {run}: its definition {sha256} is missing")
    return text
