"""Runs a workflow text for real: real store, real processes, a workspace of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.engine import journal, summary
from runner.engine.engine import Engine
from runner.engine.events import Event
from runner.engine.history import History
from runner.engine.parts import Checkout, Library
from runner.engine.secret_values import NO_ACCESS, SecretAccess
from runner.engine.state import RunState
from runner.language.load import load
from runner.language.params import bind, from_arguments, mentions
from runner.triggers import Trigger, TriggerType
from storage.mask import Mask
from storage.sqlite import SqliteStore, open_store

RUN = "20261122-030000-00000000abcd"
PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@dataclass
class Done:
    """A run that is over."""

    document: dict[str, Any]
    state: RunState
    events: Sequence[Event]
    folder: Path

    @property
    def status(self) -> str:
        return str(self.document["status"])

    def step(self, name: str) -> dict[str, Any]:
        steps = [*self.document["steps"], *self.document["handlers"]]
        return next(s for s in steps if s["name"] == name)

    def tail(self, name: str) -> str:
        log = self.state.steps[self.state.index[name]].log
        assert log is not None, f"{name} printed to no log"
        return log.tail.strip()

    def tail_of(self, name: str, item: int) -> str:
        """As `tail`, of one item of a parallel step."""
        log = self.state.unit_of(name, item).log
        assert log is not None, f"item {item} of {name} printed to no log"
        return log.tail.strip()

    def files(self, pattern: str) -> list[Path]:
        return sorted(self.folder.rglob(pattern))


class Bench:
    """A store and an engine over `folder`; `seen` is called with new events as they are durable."""

    def __init__(
        self,
        folder: Path,
        *,
        inherited: Mapping[str, str] = PATH,
        seen: Callable[[RunState, Sequence[Event]], None] | None = None,
        max_steps: int = 64,
        secrets: SecretAccess = NO_ACCESS,
        library: Library | None = None,
        checkout: Checkout | None = None,
    ) -> None:
        self.folder = folder
        self.library = library
        self.checkout = checkout
        self.inherited = inherited
        self.seen = seen
        self.max_steps = max_steps
        self.secrets = secrets
        self.events: list[Event] = []  # that became durable since the last start
        self._news = asyncio.Event()
        self._running: list[asyncio.Task[Any]] = []
        self.workspace = folder / "workspace"
        self.workspace.mkdir(exist_ok=True)
        self.open()

    def open(self) -> None:
        self.store: SqliteStore = open_store(self.folder / "data", durability="process")
        self.engine = Engine(
            store=self.store,
            runs=self.folder / "runs",
            workspaces=self.workspace,
            clock=self.now,
            inherited=self.inherited,
            mask=Mask(()),
            zone="UTC",
            observe=self._observe,
            max_steps=self.max_steps,
            secrets=self.secrets,
            library=self.library,
            checkout=self.checkout,
        )

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC)

    def _observe(self, state: RunState, new: Sequence[Event]) -> None:
        self.events += new
        self._news.set()
        if self.seen is not None:
            self.seen(state, new)

    # A life that ends before its runs do

    def begin(self, run: str = RUN) -> None:
        """Supervise the run until it is over or `restart`."""
        self._running.append(asyncio.create_task(self.engine.complete(run)))

    async def until(self, found: Callable[[Event], bool]) -> Event:
        """The first event since the last start that `found` accepts, waited for."""
        async with asyncio.timeout(30):
            while not (events := [e for e in self.events if found(e)]):
                self._news.clear()
                await self._news.wait()
        return events[0]

    async def leave(self) -> None:
        """End this life as a service does that leaves its steps alone."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._running.clear()
        self.events.clear()
        await self.store.close()

    async def restart(self) -> None:
        await self.leave()
        self.open()

    async def queue(
        self,
        text: str,
        *given: str,
        run: str = RUN,
        origin: journal.Origin | None = None,
        start: bool = True,
    ) -> None:
        loaded = load(text.encode(), path=".dagu/test.yaml", id="test")
        flow = loaded.workflow
        assert flow is not None, loaded.problems
        bound = bind(
            flow.params, from_arguments(given), mentioned=lambda name: mentions(flow, name)
        )
        at = datetime.now(UTC)
        trigger = Trigger(TriggerType.MANUAL, journal.new_run_id(at), at)
        writes = journal.queued_writes(
            run,
            at=at,
            workflow=flow,
            source=text,
            origin=origin or journal.Origin(),
            trigger=trigger,
            params=bound,
        )
        await self.store.write(*writes)
        if start:
            await self.start(run)

    async def start(self, run: str) -> None:
        """Let a queued run leave the queue."""
        row = await self.store.run(run)
        assert row is not None
        at = self.now()
        await self.store.write(*journal.started_writes(row, at=at, runner="0", host="host", room=0))

    async def complete(self, run: str = RUN) -> Done:
        async with asyncio.timeout(50):
            await self.engine.complete(run)
        return await self.done(run)

    async def complete_begun(self, run: str = RUN) -> Done:
        """Wait for the end of what `begin` began."""
        async with asyncio.timeout(50):
            await asyncio.gather(*self._running)
        return await self.done(run)

    async def done(self, run: str) -> Done:
        history = await History.read(self.store, run)
        state = history.state()
        return Done(summary.document(run, state), state, history.events, self.folder / "runs")

    async def close(self) -> None:
        await self.store.close()


async def run_text(
    folder: Path, text: str, *given: str, origin: journal.Origin | None = None, **options: Any
) -> Done:
    """Run a workflow text to its end."""
    bench = Bench(folder, **options)
    try:
        await bench.queue(text, *given, origin=origin)
        return await bench.complete()
    finally:
        await bench.close()
