"""The parts of control around a real store, a real mirror and a clock that tests move.

No engine: a test ends runs itself, by writing the head that a final run has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from git_remotes import Remote

from runner.control.admission import Admission
from runner.control.claiming import Claiming
from runner.control.firing import Firing
from runner.control.followers import Followers
from runner.control.intake import Intake, Source
from runner.control.reconciler import Reconciled, Reconciler
from runner.control.reporter import Reporter
from runner.control.ticker import Ticker
from runner.engine import journal
from runner.engine.events import StopRequested
from runner.engine.parts import Library
from storage.mirror import Mirror, ObjectMissing
from storage.records import Append, EventRecord, Owe, RunRow
from storage.sqlite import SqliteStore
from storage.store import StorageError

BEGIN = datetime(2026, 11, 20, 10, 0, 30, tzinfo=UTC)


@dataclass
class Clock:
    at: datetime = BEGIN

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **delta: float) -> None:
        self.at += timedelta(**delta)


@dataclass
class House:
    """One repository, "ops". `started` are the runs that admission handed on."""

    remote: Remote
    store: SqliteStore
    mirror: Mirror
    branch: str | None = None
    url: str = "the url"
    watch: tuple[str, ...] = ()
    grace_s: float = 300
    clock: Clock = field(default_factory=Clock)
    started: list[str] = field(default_factory=list)
    reconciled: list[Reconciled] = field(default_factory=list)
    stopped: list[tuple[str, str]] = field(default_factory=list)  # run, by
    queues: dict[str, int] = field(default_factory=dict)
    library: Library | None = None
    free_bytes: int = 10**12
    unstoppable: set[str] = field(default_factory=set)
    most_stopped: int | None = None  # then the service dies
    lost: set[str] = field(default_factory=set)  # blobs that cannot be read

    def __post_init__(self) -> None:
        self.build()

    def build(self) -> None:
        """All parts anew, as after a restart."""
        self.admission = Admission(
            self.store,
            supervise=self.started.append,
            clock=self.clock,
            runner="1.0",
            host="here",
            free_bytes=lambda: self.free_bytes,
            min_free_bytes=10**6,
            stop=self._stop,
            queues=self.queues,
        )
        self.intake = Intake(
            self.store,
            {"ops": Source(self._read, self._pin, lambda: self.reconciler.applied())},
            clock=self.clock,
            queued=self.admission.queued,
            claiming=Claiming(queues=self.queues, library=self.library),
        )
        self.ticker = Ticker(
            self.store,
            Firing(
                self.store,
                self.intake,
                stop=self._stop,
                owes=lambda row: (Owe("summary", row.run, self.clock()),),
            ),
            clock=self.clock,
            zone="UTC",
            grace_s=self.grace_s,
        )
        self.reconciler = Reconciler(
            self.store,
            self.mirror,
            repository="ops",
            url=self.url,
            branch=self.branch,
            watch=self.watch,
            folder=".dagu",
            poll_s=3600,
            intake=self.intake,
            ticker=self.ticker,
            clock=self.clock,
            announce=self.reconciled.append,
        )
        self.followers = Followers(
            self.store,
            self.intake,
            applied={"ops": lambda: self.reconciler.applied()},
            clock=self.clock,
        )
        self.starter = Reporter(self.store, "after", pay=self.followers, clock=self.clock)

    async def _read(self, blob: str) -> bytes:
        if blob in self.lost:
            raise ObjectMissing(f"blob {blob} is gone")
        return await asyncio.to_thread(self.mirror.read_blob, blob, limit_bytes=10**6)

    async def _stop(self, run: str, by: str) -> None:
        if run in self.unstoppable:
            raise StorageError(f"run {run}: the disk is full")
        if len(self.stopped) == self.most_stopped:
            raise OSError("the service dies")
        row = await self.store.run(run)
        assert row is not None
        fact = StopRequested(self.clock(), by)
        records = journal.records(run, row.seq, [fact])
        head = row._replace(seq=row.seq + 1)
        await self.store.append(run, after=row.seq, records=records, head=head)
        self.stopped.append((run, by))

    async def _pin(self, commit: str) -> None:
        await asyncio.to_thread(self.mirror.pin, commit)

    async def push(self, **files: str | None) -> str:
        """Commit workflows (name → text, None deletes) and look at them."""
        changes = {f".dagu/{name}.yaml": text for name, text in files.items()}
        self.clock.forward(seconds=0.001)
        commit = self.remote.change(changes)
        await self.reconciler.look()
        return commit

    async def runs(self) -> list[tuple[str, str]]:
        """(workflow, commit) of all runs, oldest first."""
        runs = sorted(await self.store.runs(), key=lambda run: (run.queued_at, run.workflow))
        return [(run.workflow, run.commit) for run in runs]

    async def verdicts(self) -> dict[str, str]:
        """Trigger key → verdict."""
        rows = await self.store.triggers(repository="ops", limit=10_000)
        return {row.key: row.verdict for row in rows}

    async def restart(self, **forward: float) -> None:
        """End the service, and begin it again when so much time has passed."""
        self.clock.forward(**forward)
        self.build()
        await self.reconciler.restore()

    async def begin(self, run: str) -> None:
        """Take the run out of the queue, whatever room there is."""
        row = await self.store.run(run)
        assert row is not None
        writes = journal.started_writes(row, at=self.clock(), runner="1.0", host="here", room=0)
        await self.store.write(*writes)

    async def finish(self, run: str, *, status: str = "succeeded") -> RunRow:
        """Give the run the end that the engine would give it, with what it then owes."""
        row = await self.store.run(run)
        assert row is not None
        at = self.clock()
        final = row._replace(status=status, started_at=at, finished_at=at)
        settled = EventRecord(
            run, row.seq + 1, at, "Settled", 1, f'{{"outcome":"{status}","reason":""}}'
        )
        finished = EventRecord(
            run, row.seq + 2, at, "Finished", 1, f'{{"status":"{status}","reason":""}}'
        )
        await self.store.write(
            Append(run, row.seq, (settled, finished), final),
            Owe("summary", run, at),
            *self.followers.owes(final),
        )
        return final

    async def until(self, holds: Callable[[], bool], topic: str) -> None:
        """Wait for a commit that touches `topic` until `holds`."""
        news = asyncio.Event()
        forget = self.store.listen(topic, news.set)
        try:
            while not holds():
                async with asyncio.timeout(20):
                    await news.wait()
                    news.clear()
                    await asyncio.sleep(0)
        finally:
            forget()
