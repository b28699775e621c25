"""All runs of this process: each admitted run gets a supervisor in one TaskGroup.

Knows which runs it has and ends with them; what a run does is its supervisor's, when a run may
start is admission's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from runner.engine import journal, workspace
from runner.engine.events import Launched, Queued
from runner.engine.history import History, HistoryError
from runner.engine.journal import UnreadableRecord, given_up_writes
from runner.engine.parts import Checkout, Observer, Parts, Slots
from runner.engine.state import RunStatus
from runner.engine.supervisor import Supervisor
from runner.executors import registry
from runner.executors.base import Earlier
from storage.mask import Mask
from storage.records import RunRow, Write
from storage.store import Conflict, StorageError, Store

FIRST_WAIT_S = 1.0  # before a run whose supervisor failed is taken up again; doubled each time
LONGEST_WAIT_S = 300.0
GIVEN_UP_GRACE_S = 10.0
LONGEST_STORE_WAIT_S = 10.0  # the disk may have room again soon
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's id of this boot: a process of another one is gone."""
    return BOOT_ID.read_text().strip()


class Engine:
    """Supervises runs. `run_forever` owns their tasks; call the rest while it runs."""

    def __init__(
        self,
        *,
        store: Store,
        runs: Path,
        workspaces: Path,
        clock: Callable[[], datetime],
        inherited: Mapping[str, str],
        mask: Mask,
        zone: str,
        url: str = "",
        owes: Callable[[RunRow], Sequence[Write]] = lambda _: (),
        checkout: Checkout | None = None,
        max_steps: int = 64,
        observe: Observer | None = None,
    ) -> None:
        """`runs` and `workspaces` are folders for logs and checkouts. Without `checkout`,
        `workspaces` itself is the workspace of every run."""
        self._runs = runs
        self._workspaces = workspaces
        self._parts = Parts(
            store=store,
            executors=registry(clock=clock),
            clock=clock,
            boot_id=boot_id(),
            slots=Slots(max_steps),
            inherited=inherited,
            mask=mask,
            zone=zone,
            url=url,
            owes=owes,
            checkout=checkout,
            observe=observe,
        )
        self._supervisors: dict[str, Supervisor] = {}
        self._masks: dict[str, Mask] = {}  # of runs that are to be taken up again
        self._waiting: list[str] = []
        self._group: asyncio.TaskGroup | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running_steps(self) -> int:
        """Processes of steps that are alive now."""
        return sum(s.running for s in self._supervisors.values())

    @property
    def supervised(self) -> frozenset[str]:
        """Runs that this process has and that are not over."""
        return frozenset(self._supervisors)

    async def run_forever(self) -> None:
        """Own the supervisors until cancelled; then the processes are left alive."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for run in self._waiting:
                self.supervise(run)
            await asyncio.Event().wait()

    def supervise(self, run: str) -> None:
        """Take an admitted run up; nothing if it is taken up already or the engine closed."""
        if self._closed or run in self._supervisors:
            return
        if self._group is None:
            self._waiting.append(run)
            return
        self._group.create_task(self._guarded(run), name=f"run {run}")

    async def _guarded(self, run: str) -> None:
        """Supervise a run; if that fails, take it up again like a run of an earlier process."""
        import structlog  # here: it loads rich, and `dagmill run` never comes this way

        log = structlog.get_logger(__name__)
        wait_s = FIRST_WAIT_S
        while True:
            try:
                row = await self.complete(run)
            except (HistoryError, UnreadableRecord) as error:
                if await self._give_up(run, error):
                    self._masks.pop(run, None)
                    return
                await asyncio.sleep(wait_s)
            except StorageError as error:
                log.warning("run_waits", run=run, problem=str(error), retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_STORE_WAIT_S)
            except Exception:
                # the loop's edge: one run that cannot go on must not take the others with it
                log.exception("run_crashed", run=run, retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                self._masks.pop(run, None)
                facts = {"status": row.status, "reason": row.reason}
                log.info("run_finished", run=run, workflow=row.workflow, **facts)
                return

    async def _give_up(self, run: str, error: Exception) -> bool:
        """Fail a run whose facts or definition cannot be read: left alone it would hold a place of
        its workflow for ever. What a newer version wrote is left to that version. False: not now,
        the store takes no writes."""
        import structlog

        log = structlog.get_logger(__name__)
        log.error("run_not_resumed", run=run, problem=str(error))
        if isinstance(error, UnreadableRecord):
            return True
        try:
            await self._end_launches(run)
            row = await self._parts.store.run(run)
            if row is not None and row.finished_at is None:
                at = self._parts.clock()
                writes = given_up_writes(row, at=at, reason=str(error))
                owed = self._parts.owes(row._replace(status=RunStatus.FAILED, finished_at=at))
                with suppress(Conflict):
                    await self._parts.store.write(*writes, *owed)
        except StorageError:
            return False
        return True

    async def _end_launches(self, run: str) -> None:
        """End what runs of a run whose definition, and so its steps, cannot be read any more."""
        executor = self._parts.executor
        folder = workspace.run_folder(self._runs, run)
        for record in await self._parts.store.events(run):
            event = journal.event(record)
            if isinstance(event, Launched) and event.boot_id == self._parts.boot_id:
                for launch in folder.glob(f"*/{event.attempt}.{event.launch}"):
                    executor.recall(Earlier(run, launch, same_boot=True))
        await executor.end_left_behind(run, grace_s=GIVEN_UP_GRACE_S)

    async def complete(self, run: str) -> RunRow:
        """Supervise a run to its end in the caller's own task and return its final head."""
        history = await History.read(self._parts.store, run)
        folder = workspace.run_folder(self._runs, run)
        place = self._workspaces
        if self._parts.checkout is not None:
            place = workspace.workspace_folder(self._workspaces, run)
        supervisor = Supervisor(
            history,
            parts=self._parts,
            folder=folder,
            workspace=place,
            make_workspace=self._maker(history, place),
        )
        self._supervisors[run] = supervisor
        self._idle.clear()
        try:
            row = await supervisor.supervise()
        finally:
            del self._supervisors[run]
            self._masks[run] = supervisor.mask  # its logs may be read before it is taken up again
            if not self._supervisors:
                self._idle.set()
        return row

    def _maker(self, history: History, place: Path) -> Callable[[], Awaitable[None]] | None:
        """What makes the run's workspace; None where it is there already."""
        checkout, queued = self._parts.checkout, history.events[0]
        if checkout is None or not isinstance(queued, Queued):
            return None

        async def make() -> None:
            if place.exists():  # of an earlier process that did not get to its end
                await asyncio.to_thread(workspace.remove, place)
            await checkout(queued.repository, queued.commit, place)

        return make

    def stop(self, run: str, by: str) -> bool:
        """Ask a supervised run to stop, a second time to be killed. False: it is not here."""
        supervisor = self._supervisors.get(run)
        if supervisor is None:
            return False
        supervisor.request_stop(by)
        return True

    def mask_of(self, run: str) -> Mask:
        """What hides the secrets in a run's growing logs; those of ended steps are scrubbed."""
        supervisor = self._supervisors.get(run)
        if supervisor is not None:
            return supervisor.mask
        return self._masks.get(run, self._parts.mask)

    def close(self) -> None:
        """Take no further run up, and launch no further step of those that are here."""
        self._closed = True
        self._parts.slots.close()

    async def end_runs(self, by: str, *, timeout_s: float) -> None:
        """Stop all runs, handlers included; those that take longer are killed."""
        self._parts.slots.open()  # for handlers
        for _ in range(2):  # a second request kills
            for run in self.supervised:
                self.stop(run, by)
            if await self.drain(timeout_s):
                return

    async def end_steps(self, *, timeout_s: float) -> None:
        """End the running steps but not their runs, which a later start goes on with."""
        for kill in (False, True):
            for supervisor in self._supervisors.values():
                supervisor.interrupt(kill=kill)
            if await self.until_idle(timeout_s):
                return

    async def until_idle(self, timeout_s: float) -> bool:
        """Wait until no step runs. False: some still did when the time was over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._parts.slots.idle.wait()
        return self._parts.slots.idle.is_set()

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no run is left. False: some still were when the time was over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return self._idle.is_set()
