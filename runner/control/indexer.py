"""Reads the workflow files of a commit into a catalog, parsing only what was never seen.

Knows blobs, stored entries and the thread that parses; leaves what an entry says to `catalog`.
Its rule: an entry is found again by blob, path and loader version, so a commit costs what it
changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from runner.control import catalog
from runner.control.catalog import Catalog, Entry
from runner.language.model import Problem
from storage.mirror import Mirror, ObjectMissing, Snapshot, SnapshotFile
from storage.records import EntryRow, PutEntry
from storage.store import Store

LARGEST_FILE = 1024 * 1024
_SLICE = 20  # files parsed before the other tasks get the interpreter: about 5 ms

Named = tuple[str, str]  # path, blob


class Indexer:
    """One per repository; `folder` holds the workflows, from the repository's root."""

    def __init__(self, store: Store, mirror: Mirror, *, folder: str) -> None:
        self._store = store
        self._mirror = mirror
        self._folder = folder
        self._known: dict[Named, Entry] = {}
        self._last: Catalog | None = None
        self._of: Snapshot | None = None  # that `_last` was made of

    async def catalog(self, commit: str) -> Catalog:
        """The catalog of a commit; an empty one where the folder is missing or has no workflow."""
        if self._last is not None and self._last.commit == commit:
            return self._last  # a push is looked at twice: as the served tip, and as what moved
        snapshot, files, refused = await asyncio.to_thread(self._listed, commit)
        if self._last is not None and self._of is not None and snapshot.files is self._of.files:
            self._last = replace(self._last, commit=commit)
        else:
            read = await self.entries(files)
            self._last = await asyncio.to_thread(catalog.build, commit, [*read.values(), *refused])
        self._of = snapshot
        return self._last

    def _listed(self, commit: str) -> tuple[Snapshot, list[Named], list[Entry]]:
        """The folder's files, those of them that are to be read, and the entries of the others."""
        snapshot = self._mirror.snapshot(commit, folder=self._folder, since=self._of)
        files: list[Named] = []
        refused: list[Entry] = []
        for file in snapshot.files:
            if catalog.is_workflow_file(file.path):
                if (entry := _refused(file, self._folder)) is None:
                    files.append((file.path, file.blob))
                else:
                    refused.append(entry)
        return snapshot, files, refused

    async def entries(self, files: Sequence[Named]) -> Mapping[Named, Entry]:
        """(path, blob) → entry, from memory, else the store, else the blobs."""
        found: dict[Named, Entry] = {}
        missing: list[Named] = []
        for name in files:
            if (entry := self._known.get(name)) is None:
                missing.append(name)
            else:
                found[name] = entry
        if missing:
            found.update(await self._stored(missing))
            found.update(await self._parse([name for name in missing if name not in found]))
        self._known = found
        return found

    async def readable(self, files: Sequence[Named]) -> Mapping[Named, Entry]:
        """The same without those whose blobs the mirror does not have."""
        try:
            return await self.entries(files)
        except ObjectMissing:
            found: dict[Named, Entry] = {}
            for name in files:
                with contextlib.suppress(ObjectMissing):
                    found.update(await self.entries([name]))
            self._known = found
            return found

    async def _stored(self, files: Sequence[Named]) -> dict[Named, Entry]:
        rows = await self._store.entries(catalog.LOADER, [(blob, "", path) for path, blob in files])
        return {
            (path, blob): catalog.from_json(row.entry, path=path, blob=blob)
            for (blob, _, path), row in rows.items()
        }

    async def _parse(self, files: Sequence[Named]) -> dict[Named, Entry]:
        parsed: dict[Named, Entry] = {}
        for start in range(0, len(files), _SLICE):
            part = files[start : start + _SLICE]
            entries = await asyncio.to_thread(self._read, part)
            await self._store.write(*(PutEntry(_row(entry)) for entry in entries))
            parsed.update(zip(part, entries, strict=True))
        return parsed

    def _read(self, files: Sequence[Named]) -> list[Entry]:
        return [
            catalog.read(
                self._mirror.read_blob(blob, limit_bytes=LARGEST_FILE),
                path=path,
                blob=blob,
                folder=self._folder,
            )
            for path, blob in files
        ]


def _refused(file: SnapshotFile, folder: str) -> Entry | None:
    """The entry of a file that is not even read; None for an ordinary one."""
    if file.kind != "file":
        message = f"a {file.kind} is not followed; commit the workflow itself"
    elif file.size_bytes > LARGEST_FILE:
        message = f"the file has {file.size_bytes} bytes; a workflow may have {LARGEST_FILE}"
    else:
        return None
    named = catalog.read(b"", path=file.path, blob=file.blob, folder=folder)
    return Entry(
        file.path, file.blob, named.workflow, problems=(Problem(file.path, 1, 1, message),)
    )


def _row(entry: Entry) -> EntryRow:
    return EntryRow(entry.blob, "", entry.path, catalog.LOADER, catalog.to_json(entry))
