"""The workflows that a run may call, read at its commit, as far as their names are known before it
runs.

Reads files through the library; leaves what a name means to `language.subworkflows` and what is
done with the workflows to its caller. What cannot be read is left out: the step that calls it will
say so.
"""

from __future__ import annotations

from functools import lru_cache

from runner.engine.parts import Library
from runner.language.load import load, load_base
from runner.language.model import Workflow
from runner.language.subworkflows import (
    UnknownSubworkflow,
    file_of,
    is_dynamic,
    local_ids,
    resolve,
)

MOST_FILES = 1000
"""That are read for one run."""

Callees = dict[tuple[str, str], Workflow]
"""(id of the document that calls, name as written) → the document that it calls."""


async def callees(workflow: Workflow, *, library: Library, repository: str, commit: str) -> Callees:
    """All that a run of `workflow`, the first document of its file, may call at `commit`. Raises
    StorageError."""
    if not any(_names(document) for document in (workflow, *workflow.locals)):
        return {}
    index = await library.index(repository, commit)
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
                if file not in files and len(files) < MOST_FILES:
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
