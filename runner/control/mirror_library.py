"""The sub-workflows that runs of a served repository find: the files of their pinned commit.

Knows ids, names and texts at a commit; leaves what a name means to `language.subworkflows`. Its
rule: what a commit holds never changes, so that the last few are remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from runner.control import callgraph, catalog
from runner.control.catalog import Catalog
from runner.control.indexer import LARGEST_FILE, Indexer
from runner.engine.parts import Found
from runner.language.load import workflow_id
from runner.language.subworkflows import Index
from storage.mirror import BlobTooLarge, Mirror, Snapshot
from storage.store import Store

_KEPT = 8


@dataclass(frozen=True, slots=True)
class _Shelf:
    """One commit: `files` has (path, blob) by id."""

    index: Index
    files: Mapping[str, tuple[str, str]]
    base_blob: str


class MirrorLibrary:
    """Of the repositories that have a mirror; `folder` holds their workflows."""

    def __init__(self, store: Store, mirrors: Mapping[str, Mirror], *, folder: str) -> None:
        self._mirrors = mirrors
        self._folder = folder
        # their own, as an indexer remembers one commit and those of runs are older
        self._indexers = {
            name: Indexer(store, mirror, folder=folder) for name, mirror in mirrors.items()
        }
        self._shelves: dict[tuple[str, str], _Shelf] = {}

    async def index(self, repository: str, commit: str) -> Index:
        return (await self._shelf(repository, commit)).index

    async def read(self, repository: str, commit: str, id: str) -> Found | None:
        shelf = await self._shelf(repository, commit)
        if id not in shelf.files:
            return None
        path, blob = shelf.files[id]
        mirror = self._mirrors[repository]
        source = await asyncio.to_thread(_text, mirror, blob)
        base = await asyncio.to_thread(_text, mirror, shelf.base_blob) if shelf.base_blob else ""
        if source is None or base is None:
            return None
        return Found(source, path, blob, base)

    async def _shelf(self, repository: str, commit: str) -> _Shelf:
        key = (repository, commit)
        if key not in self._shelves:
            found = await self._indexers[repository].catalog(commit)
            mirror = self._mirrors[repository]
            snapshot = await asyncio.to_thread(mirror.snapshot, commit, folder=self._folder)
            if len(self._shelves) >= _KEPT:
                del self._shelves[next(iter(self._shelves))]
            self._shelves[key] = self._filled(found, snapshot)
        return self._shelves[key]

    def _filled(self, found: Catalog, snapshot: Snapshot) -> _Shelf:
        files: dict[str, tuple[str, str]] = {}
        twice: set[str] = set()  # `x.yaml` beside `x.yml`: nobody knows which is meant
        base_blob = ""
        for file in snapshot.files:
            if catalog.is_base(file.path, folder=self._folder):
                base_blob = file.blob
            elif catalog.is_workflow_file(file.path) and file.kind == "file":
                try:
                    id = workflow_id(file.path.removeprefix(self._folder.rstrip("/") + "/"))
                except ValueError:
                    continue
                if id in files:
                    twice.add(id)
                files[id] = (file.path, file.blob)
        index = callgraph.index_of(found.entries, known=files)
        return _Shelf(index, {k: v for k, v in files.items() if k not in twice}, base_blob)


def _text(mirror: Mirror, blob: str) -> str | None:
    try:
        return mirror.read_blob(blob, limit_bytes=LARGEST_FILE).decode("utf-8-sig")
    except (BlobTooLarge, UnicodeDecodeError):
        return None
