"""The floors: the least that anybody must do, with nothing around it.

`wrapped` runs the same wrapped step with its launch folder and log file as Dagmill does; `bare`
runs `sh -c true` and is printed beside it; `spawn` is one such step; `Follower` does by hand
what a push needs.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pygit2
from pygit2.enums import CheckoutStrategy

from runner.executors.command import wrapped as wrapped_argv

ENV = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def bare(count: int, *, wide: int) -> None:
    """`count` times `sh -c true`, `wide` at once."""
    _loop(count, wide=wide, start=lambda _: os.posix_spawn("/bin/sh", ["sh", "-c", "true"], ENV))


def wrapped(count: int, folder: Path, *, wide: int, command: str = "true") -> None:
    """`count` wrapped steps, `wide` at once, each with a folder and a log of its own. `{}` in
    `command` is a step's number."""
    _loop(
        count,
        wide=wide,
        start=lambda i: spawn(folder / str(i), command=command.replace("{}", str(i))),
    )


def spawn(folder: Path, *, command: str) -> int:
    """Start one wrapped step whose launch folder is `folder`, which is made; its pid."""
    folder.mkdir(parents=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(folder / "out"), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    argv = wrapped_argv(folder, ("sh", "-e", "-c", command, "sh"))
    return os.posix_spawn("/bin/sh", argv, ENV, file_actions=actions, setsid=False)


def _loop(count: int, *, wide: int, start: Callable[[int], int]) -> None:
    alive: set[int] = set()
    for i in range(count):
        alive.add(start(i))
        if len(alive) >= wide:
            alive.discard(os.wait()[0])
    while alive:
        alive.discard(os.wait()[0])


class Database:
    """A table that takes one row in one durable commit, as the store's are."""

    def __init__(self, path: Path) -> None:
        self._rows = sqlite3.connect(path, isolation_level=None)
        self._rows.execute("PRAGMA journal_mode = WAL")
        self._rows.execute("PRAGMA synchronous = FULL")
        self._rows.execute("CREATE TABLE facts (seq INTEGER PRIMARY KEY, data TEXT NOT NULL)")

    def commit(self, *facts: str) -> None:
        self._rows.execute("BEGIN IMMEDIATE")
        self._rows.executemany("INSERT INTO facts (data) VALUES (?)", [(fact,) for fact in facts])
        self._rows.execute("COMMIT")

    def close(self) -> None:
        self._rows.close()


class Follower:
    """What a push must cost at the least: fetch its commit, note it, write its files, start."""

    def __init__(self, folder: Path, *, remote: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._mirror = pygit2.init_repository(folder / "mirror.git", bare=True)
        self._remote = self._mirror.remotes.create_anonymous(str(remote))
        self._database = Database(folder / "facts.sqlite")
        self.fetch()

    def fetch(self) -> None:
        self._remote.fetch(["+refs/heads/main:refs/remotes/origin/main"])

    def follow(self, commit: str, *, command: str) -> int:
        """The pid of the wrapped `command`, started on the files of `commit`."""
        self.fetch()
        self._database.commit(commit)
        files = self._folder / commit
        files.mkdir()
        self._mirror.checkout_tree(  # type: ignore[no-untyped-call]  # pygit2 has no types for it
            self._mirror[commit].peel(pygit2.Tree),
            directory=str(files),
            strategy=CheckoutStrategy.FORCE | CheckoutStrategy.DONT_UPDATE_INDEX,
        )
        return spawn(self._folder / f"launch-{commit}", command=command)

    def close(self) -> None:
        self._database.close()
        self._mirror.free()
