"""Reads the workflow files of a commit into a catalog, parsing only what was never seen.

Knows blobs, stored entries and the thread that parses; leaves what an entry says to `catalog`.
Its rule: an entry is found again by its blob, base.yaml's blob, path and loader version, so a
commit costs what it changes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from runner.control import catalog
from runner.control.catalog import Catalog, Entry
from runner.language.load import Base, load_base
from runner.language.model import Problem
from storage.mirror import Mirror, ObjectMissing, Snapshot, SnapshotFile
from storage.records import EntryRow, PutEntry
from storage.store import Store

LARGEST_FILE = 1024 * 1024
_SLICE = 20  # files parsed before the other tasks get the interpreter: about 5 ms

_KEPT_BASES = 16

Named = tuple[str, str, str]  # path, blob, base.yaml's blob ("": there is none)


class Indexer:
    """One per repository; `folder` holds the workflows, from the repository's root."""

    def __init__(self, store: Store, mirror: Mirror, *, folder: str) -> None:
        self._store = store
        self._mirror = mirror
        self._folder = folder
        self._known: dict[Named, Entry] = {}
        self._last: Catalog | None = None
        self._of: Snapshot | None = None  # that `_last` was made of
        self._bases: dict[str, Base | None] = {}  # blob → what it says, None if it is bad

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
        base = self._base_of(snapshot)
        files: list[Named] = []
        refused: list[Entry] = []
        for file in snapshot.files:
            if catalog.is_workflow_file(file.path):
                if (entry := _refused(file, self._folder)) is None:
                    is_base = catalog.is_base(file.path, folder=self._folder)
                    files.append((file.path, file.blob, "" if is_base else base))
                else:
                    refused.append(entry)
        return snapshot, files, refused

    def _base_of(self, snapshot: Snapshot) -> str:
        """The blob of base.yaml; "" where there is none, or one that cannot be read."""
        for file in snapshot.files:
            if catalog.is_base(file.path, folder=self._folder):
                return file.blob if _refused(file, self._folder) is None else ""
        return ""

    async def entries(self, files: Sequence[Named]) -> Mapping[Named, Entry]:
        """Named → entry, from memory, else the store, else the blobs."""
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
        keys = [(blob, base, path) for path, blob, base in files]
        rows = await self._store.entries(catalog.LOADER, keys)
        return {
            (path, blob, base): catalog.from_json(row.entry, path=path, blob=blob, base_blob=base)
            for (blob, base, path), row in rows.items()
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
                base=self._base(base),
                base_blob=base,
            )
            for path, blob, base in files
        ]

    def _base(self, blob: str) -> Base | None:
        """None: there is none, or a bad one, with which no workflow of its commit takes effect."""
        if not blob:
            return None
        if blob not in self._bases:
            data = self._mirror.read_blob(blob, limit_bytes=LARGEST_FILE)
            if len(self._bases) >= _KEPT_BASES:
                del self._bases[next(iter(self._bases))]
            self._bases[blob] = load_base(data, path=f"{self._folder}/{catalog.BASE}.yaml").base
        return self._bases[blob]


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
    return EntryRow(entry.blob, entry.base_blob, entry.path, catalog.LOADER, catalog.to_json(entry))
