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
from runner.language.load import load
from runner.language.model import Workflow
from storage.store import StorageError, Store


class HistoryError(StorageError):
    """A run is unknown or what is stored of it is not whole."""


@lru_cache(maxsize=256)
def definition(source: str, path: str, id: str) -> Workflow:
    """The workflow of a kept source. Raises HistoryError if this version cannot read it."""
    loaded = load(source.encode(), path=path, id=id)
    if loaded.workflow is None:
        raise HistoryError(
            f"the kept definition of {id} can no longer be read: {loaded.problems[0]}"
        )
    return loaded.workflow


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
        source = await store.source(queued.definition_sha256)
        if source is None:
            raise HistoryError(f"run {run}: its definition {queued.definition_sha256} is missing")
        workflow = definition(source, queued.path, queued.workflow)
        return History(run, events, workflow, await store.values(run))

    def state(self) -> RunState:
        """Where the run stands after its last event."""
        return fold(self.workflow, self.events, prepares=scope.steps_to_prepare(self.workflow))
