"""What is there once the storm is over: database, repository, effects, files, processes.

Gathers it into one plain `World`, so that the checks can be fed with a doctored one; judges
nothing. One rule: it reads what is on disk and asks no part of Dagmill.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pygit2
from chaos.outside import Data, Deeds

STATUS = "refs/heads/dagmill/status"
_PINS = "refs/pins/"


@dataclass(frozen=True)
class Run:
    run: str
    workflow: str
    status: str
    ref: str
    commit: str
    trigger: str
    queued_at: int  # microseconds
    finished_at: int | None
    parent: str = ""  # the run that made it


@dataclass(frozen=True)
class Event:
    seq: int
    at: int
    type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Trigger:
    key: str
    workflow: str
    verdict: str
    run: str | None
    cause: dict[str, Any]


@dataclass(frozen=True)
class Effect:
    """A line that a step wrote: "B" it began, "E" it ended by itself with `code`."""

    kind: str
    run: str
    step: str
    attempt: int
    launch: str
    code: int | None


@dataclass(frozen=True)
class Launch:
    """The files of one launch. `said` is what it wrote to stderr; `exit` None: no such file."""

    said: tuple[str, ...]
    size_bytes: int
    sha256: str
    exit: str | None


@dataclass(frozen=True)
class Window:
    """When the minute schedules were live: surely from..to, possibly earliest..latest."""

    earliest: datetime
    since: datetime
    until: datetime
    latest: datetime


@dataclass
class World:
    """Everything that the checks look at."""

    window: Window
    power_cut: bool
    deeds: Deeds
    first_refs: frozenset[str] = frozenset()  # there at the first sight
    runs: dict[str, Run] = field(default_factory=dict)
    events: dict[str, list[Event]] = field(default_factory=dict)
    triggers: list[Trigger] = field(default_factory=list)
    refs: dict[str, tuple[int, str | None]] = field(default_factory=dict)
    tips: dict[str, str] = field(default_factory=dict)
    deliveries: dict[str, str] = field(default_factory=dict)  # digest → verdict
    owed: list[str] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    launches: dict[tuple[str, str], Launch] = field(default_factory=dict)  # (run, launch)
    summaries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # path, document
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    reverted: list[str] = field(default_factory=list)  # summaries changed or deleted later
    status_moves: list[tuple[str, str]] = field(default_factory=list)
    status_line: list[str] = field(default_factory=list)  # first parents, oldest first
    applied: str = ""  # the commit in force
    pins: list[str] = field(default_factory=list)  # commits
    left: list[str] = field(default_factory=list)


def gather(
    *,
    data: Path,
    repository: Path,
    effects: Path,
    window: Window,
    power_cut: bool,
    deeds: Deeds,
    first_refs: frozenset[str],
) -> World:
    """Read everything. The service must be gone."""
    world = World(window, power_cut, deeds, first_refs)
    _database(world, Data(data))
    world.effects = list(_effects(effects))
    for run in world.runs:
        world.launches.update(_launches(data, run))
    _repository(world, repository)
    world.pins = list(_pins(data))
    world.left = [f"process {pid}: {line[:200]}" for pid, line in processes(data).items()]
    world.left += _files(data)
    return world


def _database(world: World, data: Data) -> None:
    with data.opened() as connection:
        for row in connection.execute(
            "SELECT run, workflow, status, ref, commit_id, trigger_type, queued_at, finished_at, "
            "parent FROM runs"
        ):
            world.runs[row[0]] = Run(*row)
        for run, seq, at, kind, text in connection.execute(
            "SELECT run, seq, at, type, data FROM events ORDER BY run, seq"
        ):
            event = Event(seq, at, kind, json.loads(text))
            world.events.setdefault(run, []).append(event)
        world.triggers = [
            Trigger(key, workflow, verdict, run, json.loads(cause))
            for key, workflow, verdict, run, cause in connection.execute(
                "SELECT key, workflow, verdict, run, cause FROM triggers"
            )
        ]
        world.refs = {
            ref: (n, oid) for ref, n, oid in connection.execute("SELECT ref, n, oid FROM refs")
        }
        ((world.applied,),) = connection.execute("SELECT applied_commit FROM repositories")
        world.deliveries = dict(connection.execute("SELECT digest, verdict FROM deliveries"))
        world.owed = [
            f"{kind} {key}: {tries} tries, {error}"
            for kind, key, tries, error in connection.execute(
                "SELECT kind, key, tries, last_error FROM owed WHERE kind != 'expire'"
            )
        ]


def _effects(path: Path) -> Iterator[Effect]:
    for line in path.read_text().splitlines():
        kind, run, step, attempt, out, code = line.split("\t")
        yield Effect(
            kind, run, step, int(attempt), _launch_of(Path(out).parent), int(code) if code else None
        )


def _launch_of(folder: Path) -> str:
    """The launch's id: the folder of an attempt is `<attempt>.<launch>`."""
    return folder.name.partition(".")[2]


def _launches(data: Path, run: str) -> Iterator[tuple[tuple[str, str], Launch]]:
    """Also of a run below another, whose folder is in that of the root; those of an item lie one
    folder deeper."""
    (folder,) = (data / "runs" / f"{run[:4]}-{run[4:6]}").glob(f"*/{run}")
    for launch in (*folder.glob("*/*.*/"), *folder.glob("*/*/*.*/")):
        out, err = (_content(launch / name) for name in ("out", "err"))
        digest = _sha256(out)
        if err:
            digest = _sha256(f"{digest}{_sha256(err)}".encode())
        said = tuple((err or out).decode(errors="replace").splitlines())
        code = (launch / "exit").read_text() if (launch / "exit").exists() else None
        yield (run, _launch_of(launch)), Launch(said, len(out) + len(err), digest, code)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _repository(world: World, path: Path) -> None:
    git = pygit2.Repository(str(path))
    names = [name for name in git.references if name.startswith(("refs/heads/", "refs/tags/"))]
    world.tips = {name: str(git.references[name].target) for name in names}
    if (tip := world.tips.pop(STATUS, None)) is None:
        return
    tree = git[tip].peel(pygit2.Tree)
    for name, text in _json_files(git, tree, ""):
        if name.startswith("runs/"):
            world.summaries.append((name, json.loads(text)))
        elif name.startswith("latest/"):
            world.latest[name.removeprefix("latest/").removesuffix(".json")] = json.loads(text)
    world.reverted = _git(
        path, "log", "--format=", "--name-status", "--diff-filter=MD", tip, "--", "runs/"
    )
    world.status_line = _git(path, "rev-list", "--first-parent", "--reverse", tip)
    log = (path / "logs" / STATUS).read_text().splitlines()
    world.status_moves = [(line.split()[0], line.split()[1]) for line in log]


def _json_files(git: pygit2.Repository, tree: Any, prefix: str) -> Iterator[tuple[str, str]]:
    for entry in tree:
        name = prefix + entry.name
        if entry.type_str == "tree":
            yield from _json_files(git, entry, f"{name}/")
        elif name.endswith(".json"):
            yield name, entry.data.decode()


def _git(path: Path, *arguments: str) -> list[str]:
    done = subprocess.run(["git", *arguments], cwd=path, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line]


# What is left


def processes(data: Path) -> dict[int, str]:
    """pid → command line of the processes that stand in a file or folder of `data`, or are told
    of one: the service and its steps, with all that those left behind."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            told = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
            if any(str(data).encode() in text for text in told):
                found[int(entry.name)] = told[0].replace(b"\0", b" ").decode(errors="replace")
    return found


def _files(data: Path) -> Iterator[str]:
    """Files and folders that should be gone."""
    yield from (f"workspace {path}" for path in (data / "workspaces").glob("*"))
    for mirror in (data / "repositories").glob("*.git"):
        for path in mirror.rglob("*"):
            if path.suffix == ".lock" and path.name != "dagmill.lock":
                yield f"lock {path}"
            elif path.name.startswith(("tmp_", "pack_git2_", ".tmp")):
                yield f"temporary file {path}"
    for path in data.rglob("*"):
        if path.name.endswith((".scrubbed", ".tmp", ".part")):
            yield f"temporary file {path}"


def _pins(data: Path) -> Iterator[str]:
    """The commits that the mirrors keep for themselves."""
    for mirror in (data / "repositories").glob("*.git"):
        names = list(pygit2.Repository(str(mirror)).references)
        yield from (n.removeprefix(_PINS) for n in names if n.startswith(_PINS))
