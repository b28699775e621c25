"""A bare repository of workflows that grows by whole commits, without a working tree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pygit2

BRANCH = "refs/heads/main"
_AUTHOR = pygit2.Signature("Ada", "ada@example.com")


class Repository:
    """At `path`; its branch `main` begins with the first `commit`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._git = pygit2.init_repository(path, bare=True)
        self._git.set_head(BRANCH)
        self._folder: dict[str, pygit2.Oid] = {}

    def commit(self, workflows: Mapping[str, str]) -> tuple[str, str]:
        """Put these files (name in `.dagu/` → text) over those that are there, and move the
        branch; the commits before and after."""
        for name, text in workflows.items():
            self._folder[name] = self._git.create_blob(text.encode())
        folder = self._git.TreeBuilder()
        for name, blob in self._folder.items():
            folder.insert(name, blob, 0o100644)
        top = self._git.TreeBuilder()
        top.insert(".dagu", folder.write(), 0o040000)
        parents = [] if self._git.head_is_unborn else [self._git.head.target]
        commit = self._git.create_commit(None, _AUTHOR, _AUTHOR, "Change", top.write(), parents)
        self._git.references.create(BRANCH, commit, force=True)
        return str(parents[0]) if parents else "0" * 40, str(commit)
