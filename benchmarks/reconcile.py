"""A reconcile of 5,000 workflow files, how long it takes and what it does to writers beside it.

All of it in this process: a task writes a small append every few milliseconds, first beside
nothing, then while a commit takes effect that changes every file. A heartbeat of the loop tells
whether somebody kept the loop, or only the store, from its turn.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pygit2
import yaml

from benchmarks import house
from benchmarks.floor import Database
from benchmarks.house import House
from benchmarks.paired import Budget, Latency, Ratio, Result, told
from benchmarks.repository import BRANCH, Repository
from storage.records import Append, EventRecord, RunRow
from storage.sqlite import SqliteStore

FILES = 5000
ALL_CHANGED = 1  # commits that change all of them, after the first that brings them
ONE_CHANGED = 10
_EVERY_S = 0.005
_BEAT_S = 0.001
_IDLE_S = 4.0


def reconcile_benchmarks(folder: Path) -> list[Result]:
    return [told(result) for result in asyncio.run(_reconciles(folder))]


@dataclass(slots=True)
class _Beside:
    """Seconds that each write's await took, and by how much each heartbeat was late."""

    writes_s: list[float] = field(default_factory=list)
    late_s: list[float] = field(default_factory=list)


async def _reconciles(folder: Path) -> list[Result]:
    repository = Repository(folder / "ops.git")
    least = _Least(folder, repository.path)
    whole: list[float] = []
    whole_floor: list[float] = []
    one: list[float] = []
    one_floor: list[float] = []
    idle, busy = _Beside(), _Beside()
    async with house.opened(folder / "house", remote=repository.path) as parts:
        for version in range(1 + ALL_CHANGED):
            repository.commit({_name(i): _workflow(i, version) for i in range(FILES)})
            if version:  # the first one takes effect by itself: never seen files
                async with _beside(parts.store, idle):
                    await asyncio.sleep(_IDLE_S)
                async with _beside(parts.store, busy):
                    took = await _look(parts)
            else:
                took = await _look(parts)
            assert len(parts.reconciler.applied().workflows) == FILES
            whole.append(took)
            whole_floor.append(least.read_everything())
        for version in range(ONE_CHANGED):
            repository.commit({_name(version): _workflow(version, 1000 + version)})
            one.append(await _look(parts))
            one_floor.append(least.read_what_changed())
    least.close()
    return [
        Ratio(
            f"{FILES:,} never seen files / read, parse, store", None, _cut(whole), _cut(whole_floor)
        ),
        Latency(f"{FILES:,} never seen files take effect", _cut(whole), (), Budget(p50_s=4)),
        Latency(
            f"1 of {FILES:,} files changed takes effect",
            _cut(one),
            _cut(one_floor),
            Budget(p50_s=0.015),
        ),
        Latency("write beside such a reconcile", _cut(busy.writes_s), _cut(idle.writes_s)),
        Latency("loop's delay beside such a reconcile", _cut(busy.late_s), _cut(idle.late_s)),
    ]


def _cut(values: Iterable[float]) -> tuple[float, ...]:
    """To the microsecond, which keeps the file of figures readable."""
    return tuple(round(value, 6) for value in values)


async def _look(parts: House) -> float:
    begin = time.perf_counter()
    await parts.reconciler.look()
    return time.perf_counter() - begin


# Beside it


@asynccontextmanager
async def _beside(store: SqliteStore, found: _Beside) -> AsyncIterator[None]:
    tasks = [
        asyncio.create_task(_write_on(store, found.writes_s)),
        asyncio.create_task(_beat(found.late_s)),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


_names = count()


async def _write_on(store: SqliteStore, took_s: list[float]) -> None:
    """Append one fact after the other to a run of its own."""
    at = datetime.now(UTC)
    run = f"20261122-0000-{next(_names)}"
    row = RunRow(run, "beside", "beside", "beside", "running", "", "manual", "", "", at)
    for seq in count(1):
        record = EventRecord(run, seq, at, "Noted", 1, '{"step":"load","attempt":1}')
        begin = time.perf_counter()
        await store.write(Append(run, seq - 1, (record,), row._replace(seq=seq)))
        took_s.append(time.perf_counter() - begin)
        await asyncio.sleep(_EVERY_S)


async def _beat(late_s: list[float]) -> None:
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(_BEAT_S)
        late_s.append(time.perf_counter() - begin - _BEAT_S)


# The files


def _name(i: int) -> str:
    return f"w{i:04}.yaml"


def _workflow(i: int, version: int) -> str:
    """About thirty lines, with a schedule of its own; every version is another blob."""
    steps = "\n".join(
        f"""\
  - name: part-{number}
    command: "python3 load.py --part {number} --day ${{DAY}}"
    depends: [{f"part-{number - 1}" if number else ""}]
    retryPolicy: {{limit: 3, intervalSec: 10}}
    env: [PART: "{number}"]"""
        for number in range(4)
    )
    return f"""\
# version {version}
name: load-{i}
description: Loads table {i} of the warehouse
type: graph
schedule: "{i % 60} {i % 24} * * *"
tags: [warehouse, nightly]
params: "DAY=today"
timeoutSec: 3600
on: {{push: {{branches: [releases], paths: ["tables/{i}/**"]}}}}
steps:
{steps}
"""


# The floor


class _Least:
    """What reading the files must cost: fetch, read what is new, parse, one durable commit."""

    def __init__(self, folder: Path, remote: Path) -> None:
        self._mirror = pygit2.init_repository(folder / "floor.git", bare=True)
        self._remote = self._mirror.remotes.create_anonymous(str(remote))
        self._database = Database(folder / "floor.sqlite")
        self._seen: pygit2.Tree | None = None

    def read_everything(self) -> float:
        begin = time.perf_counter()
        tree = self._fetched()
        blobs = [entry.id for entry in tree if isinstance(entry, pygit2.Blob)]
        self._store(blobs)
        return time.perf_counter() - begin

    def read_what_changed(self) -> float:
        begin = time.perf_counter()
        before, tree = self._seen, self._fetched()
        assert before is not None
        self._store([delta.new_file.id for delta in before.diff_to_tree(tree).deltas])
        return time.perf_counter() - begin

    def _fetched(self) -> pygit2.Tree:
        self._remote.fetch([f"+{BRANCH}:{BRANCH}"])
        top = self._mirror.references[BRANCH].peel(pygit2.Tree)
        tree = top / ".dagu"
        assert isinstance(tree, pygit2.Tree)
        self._seen = tree
        return tree

    def _store(self, blobs: Iterable[pygit2.Oid]) -> None:
        # not turned into anything and not checked, as no tool could do
        texts = [self._mirror.odb.read(blob)[1] for blob in blobs]
        read = [yaml.load(text, Loader=yaml.CSafeLoader) for text in texts]
        self._database.commit(*(json.dumps(document, default=str) for document in read))

    def close(self) -> None:
        self._database.close()
        self._mirror.free()
