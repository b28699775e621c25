"""The service's parts in this process: real store, mirror, control and engine, no HTTP.

For what a benchmark must see from inside (a clock that it moves, a store that it writes to
meanwhile). `prepared`: no commit is checked out, the folder of workspaces is every run's.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks import floor
from runner.control.admission import Admission
from runner.control.claiming import Claiming
from runner.control.firing import Firing
from runner.control.intake import Intake, Source
from runner.control.reconciler import Reconciler
from runner.control.ticker import Ticker
from runner.engine.engine import Engine
from storage import tree
from storage.mask import Mask
from storage.mirror import Mirror, configure_git
from storage.sqlite import SqliteStore, open_store

REPOSITORY = "ops"
_LARGEST_FILE = 1024 * 1024


@dataclass(slots=True)
class Clock:
    """The machine's, moved by `ahead`."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass(frozen=True, slots=True)
class House:
    clock: Clock
    store: SqliteStore
    mirror: Mirror
    engine: Engine
    admission: Admission
    intake: Intake
    ticker: Ticker
    reconciler: Reconciler


@asynccontextmanager
async def opened(folder: Path, *, remote: Path, prepared: bool = False) -> AsyncIterator[House]:
    """All parts of one repository, in `folder`, which is made. Nothing runs by itself but the
    engine and admission."""
    (folder / "workspaces").mkdir(parents=True)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)  # as the service does
    configure_git(folder / "git", connect_timeout_s=15, io_timeout_s=60)
    store = open_store(folder / "data")
    mirror = Mirror(folder / "data/ops.git", url=str(remote))
    try:
        house = _built(folder, store, mirror, prepared=prepared)
        async with asyncio.TaskGroup() as group:
            loops = [
                group.create_task(loop)
                for loop in (house.engine.run_forever(), house.admission.run_forever())
            ]
            yield house
            await house.engine.drain(30)
            for task in loops:
                task.cancel()
    finally:
        mirror.close()
        await store.close()
        sys.setswitchinterval(interval)


def _built(folder: Path, store: SqliteStore, mirror: Mirror, *, prepared: bool) -> House:
    clock = Clock()

    async def checkout(repository: str, commit: str, place: Path) -> None:
        await asyncio.to_thread(tree.checkout, mirror.path, commit, place)

    async def read(blob: str) -> bytes:
        return await asyncio.to_thread(mirror.read_blob, blob, limit_bytes=_LARGEST_FILE)

    async def pin(commit: str) -> None:
        await asyncio.to_thread(mirror.pin, commit)

    engine = Engine(
        store=store,
        runs=folder / "runs",
        workspaces=folder / "workspaces",
        clock=clock,
        inherited=floor.ENV,
        mask=Mask(()),
        zone="UTC",
        checkout=None if prepared else checkout,
    )

    async def stop(run: str, by: str) -> None:
        engine.stop(run, by)

    admission = Admission(
        store,
        supervise=engine.supervise,
        clock=clock,
        runner="0",
        host="bench",
        free_bytes=lambda: 10**12,
        min_free_bytes=0,
        stop=stop,
        queues={},
    )
    source = Source(read, pin, lambda: house.reconciler.applied())
    claiming = Claiming(queues={})
    intake = Intake(
        store, {REPOSITORY: source}, clock=clock, queued=admission.queued, claiming=claiming
    )
    firing = Firing(store, intake, stop=stop, owes=lambda _: ())
    ticker = Ticker(store, firing, clock=clock, zone="UTC", grace_s=300)
    reconciler = Reconciler(
        store,
        mirror,
        repository=REPOSITORY,
        url=mirror.url,
        branch=None,
        watch=(),
        folder=".dagu",
        poll_s=3600,
        intake=intake,
        ticker=ticker,
        clock=clock,
    )
    house = House(clock, store, mirror, engine, admission, intake, ticker, reconciler)
    return house
