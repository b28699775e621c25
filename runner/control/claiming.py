"""Writes down what a new run claims, which takes reading the workflows that it may call.

Reads files at the run's commit through the library, as far as their names are known before it
runs; leaves what a name means to `language.subworkflows` and what is claimed to `claims`. A file
that cannot be read claims nothing: the step that calls it will say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import structlog

from runner.control.claims import UNLISTED, claims_of, facts
from runner.engine import scope
from runner.engine.journal import Origin
from runner.engine.parts import Library
from runner.language.load import load, load_base
from runner.language.model import Workflow
from runner.language.params import Bound
from runner.language.subworkflows import (
    Index,
    UnknownSubworkflow,
    file_of,
    is_dynamic,
    local_ids,
    resolve,
)
from runner.triggers import Trigger
from storage.records import PutClaims

_log = structlog.get_logger(__name__)

MOST_FILES = 1000
"""That are read for one run."""

Callees = dict[tuple[str, str], Workflow]
"""(id of the document that calls, name as written) → the document that it calls."""


class Claiming:
    """One for the service. `queues`: how many runs of each named queue may be active at once;
    `zone` is that of DATE where a workflow names none. Without `library` only the documents of
    the workflow's own file are known."""

    def __init__(
        self, *, queues: Mapping[str, int], zone: str = "UTC", library: Library | None = None
    ) -> None:
        self._queues = queues
        self._zone = zone
        self._library = library
        self._unlisted: set[str] = set()  # queues of which that was said

    async def writes(
        self, run: str, workflow: Workflow, *, bound: Bound, origin: Origin, trigger: Trigger
    ) -> tuple[PutClaims, ...]:
        """What belongs to the writes that make a root run; nothing where it claims nothing.
        Raises StorageError."""
        self._warn(workflow.queue)
        found = await callees(
            workflow, library=self._library, repository=origin.repository, commit=origin.commit
        )
        zone = workflow.timezone or self._zone
        claims = claims_of(
            workflow,
            bound,
            repository=origin.repository,
            base=scope.dates(trigger.slot or trigger.at, zone),
            facts=facts(
                workflow,
                trigger,
                run=run,
                repository=origin.repository,
                ref=origin.ref,
                commit=origin.commit,
            ),
            queues=self._queues,
            called=lambda caller, name: found.get((caller, name)),
        )
        return (PutClaims(run, claims),) if claims else ()

    def _warn(self, queue: str) -> None:
        if queue and queue not in self._queues and queue not in self._unlisted:
            self._unlisted.add(queue)
            remedy = f"list it: --queue {queue}=MAX"
            _log.warning("queue_not_listed", queue=queue, max=UNLISTED, remedy=remedy)


async def callees(
    workflow: Workflow, *, library: Library | None, repository: str, commit: str
) -> Callees:
    """All that a run of `workflow`, the first document of its file, may call at `commit`. Raises
    StorageError."""
    if not any(_names(document) for document in (workflow, *workflow.locals)):
        return {}
    index = Index() if library is None else await library.index(repository, commit)
    files: dict[str, Workflow | None] = {workflow.id: workflow}
    found: Callees = {}
    waiting = [workflow]
    while waiting:
        main = waiting.pop()
        locals = local_ids(main)
        for caller in (main, *main.locals):
            for name in _names(caller):
                try:
                    id = resolve(name, caller=caller.id, locals=locals, index=index)
                except UnknownSubworkflow:
                    continue
                file = file_of(id)
                if library is not None and file not in files and len(files) < MOST_FILES:
                    files[file] = await _read(library, repository, commit, file)
                    if (new := files[file]) is not None:
                        waiting.append(new)
                called = _document(files.get(file), id)
                if called is not None:
                    found[caller.id, name] = called
    return found


def _names(workflow: Workflow) -> list[str]:
    steps = (*workflow.steps, *workflow.handlers)
    return [step.run for step in steps if step.run is not None and not is_dynamic(step.run)]


async def _read(library: Library, repository: str, commit: str, id: str) -> Workflow | None:
    found = await library.read(repository, commit, id)
    return None if found is None else _loaded(found.source, found.path, id, found.base)


@lru_cache(maxsize=256)
def _loaded(source: str, path: str, id: str, base: str) -> Workflow | None:
    defaults = load_base(base.encode(), path="base.yaml").base if base else None
    return load(source.encode(), path=path, id=id, base=defaults).workflow


def _document(main: Workflow | None, id: str) -> Workflow | None:
    documents = () if main is None else (main, *main.locals)
    return next((document for document in documents if document.id == id), None)
