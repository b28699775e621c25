"""The sub-workflows that `dagmill run` finds: the files of a folder as they are now.

Knows ids, names and texts of files; leaves what a name means to `language.subworkflows`. Its rule:
a file is parsed only where a name must be looked for, as a run seldom needs one.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from runner.engine.parts import Found
from runner.language.load import ENDINGS, MAX_BYTES, load, workflow_id
from runner.language.subworkflows import Index

BASE = "base"


class FolderLibrary:
    """`folder` is what ids count from and `root` what shown paths do; `deep`: folders below
    `folder` belong to it, as below `.dagu/`. Repository and commit do not matter."""

    def __init__(self, folder: Path, *, root: Path, deep: bool = True) -> None:
        self._folder = folder
        self._root = root
        self._deep = deep

    async def index(self, repository: str, commit: str) -> Index:
        files = await asyncio.to_thread(lambda: dict(self._files()))
        return Index(frozenset(files), _Names(files))

    async def read(self, repository: str, commit: str, id: str) -> Found | None:
        return await asyncio.to_thread(self._read, id)

    def base(self) -> str:
        """The text of base.yaml, "" where there is none or it is no text; a folder that is no
        `.dagu` has none."""
        if not self._deep:
            return ""
        files = [self._folder / f"{BASE}{ending}" for ending in ENDINGS]
        return next((text for file in files if (text := _text(file)) is not None), "")

    def _read(self, id: str) -> Found | None:
        for ending in ENDINGS:
            file = self._folder / f"{id}{ending}"
            if (text := _text(file)) is not None:
                return Found(text, file.relative_to(self._root).as_posix(), base=self.base())
        return None

    def _files(self) -> Iterator[tuple[str, Path]]:
        for place, folders, names in os.walk(self._folder):
            folders[:] = sorted(folders) if self._deep else []
            for name in sorted(names):
                file = Path(place, name)
                if name.endswith(ENDINGS) and not file.is_symlink():
                    try:
                        id = workflow_id(file.relative_to(self._folder).as_posix())
                    except ValueError:
                        continue  # `validate` says so
                    if id != BASE:
                        yield id, file


class _Names(Mapping[str, str]):
    """Name → id, read when it is first asked for."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    @cached_property
    def _known(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for id, file in self._files.items():
            if (text := _text(file)) is None:
                continue
            workflow = load(text.encode(), path=file.name, id=id).workflow
            if workflow is not None:
                names[workflow.name] = "" if workflow.name in names else id
        return names

    def __getitem__(self, name: str) -> str:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def _text(file: Path) -> str | None:
    """None for what is no file of text, or too large to be a workflow."""
    if not file.is_file():  # a pipe would make us wait
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        return data.decode("utf-8-sig") if len(data) <= MAX_BYTES else None
    except (OSError, UnicodeDecodeError):
        return None
