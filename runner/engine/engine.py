"""All runs of this process: each admitted run gets a supervisor in one TaskGroup.

Knows which runs it has and ends with them; a child run lives inside the life of its parent. What a
run does is its supervisor's, when a run may start is admission's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from runner.engine import carry, journal, plan, workspace
from runner.engine.children import Caller, ChildExecutor
from runner.engine.events import ApprovalRefused, Approved, Event, Launched, Queued, Started
from runner.engine.fold import apply
from runner.engine.history import History, HistoryError
from runner.engine.journal import RUN_SCOPE, UnreadableRecord, given_up_writes
from runner.engine.parts import Checkout, Library, Observer, Parts, Slots
from runner.engine.secret_values import NO_ACCESS, SecretAccess
from runner.engine.state import RunStatus
from runner.engine.supervisor import Supervisor
from runner.engine.workspace import Place
from runner.executors import registry
from runner.executors.base import Earlier
from runner.language.model import WorkspaceKind
from storage.mask import Mask
from storage.records import RunRow, Write
from storage.store import Conflict, StorageError, Store

FIRST_WAIT_S = 1.0  # before a run whose supervisor failed is taken up again; doubled each time
LONGEST_WAIT_S = 300.0
GIVEN_UP_GRACE_S = 10.0
LONGEST_STORE_WAIT_S = 10.0  # the disk may have room again soon
MOST_CHILDREN = 100_000
HANDED_ON = frozenset({RUN_SCOPE, carry.RETRIED})  # scopes of values that child runs are made with
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's id of this boot: a process of another one is gone."""
    return BOOT_ID.read_text().strip()


@dataclass(slots=True)
class _Life:
    """A run that is being supervised, and what its child runs get of it."""

    supervisor: Supervisor
    caller: Caller
    workspace: Path
    children: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def is_root(self) -> bool:
        return not self.caller.queued.parent


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
        add_git: Checkout | None = None,
        max_steps: int = 64,
        observe: Observer | None = None,
        library: Library | None = None,
        secrets: SecretAccess = NO_ACCESS,
    ) -> None:
        """`runs` and `workspaces` are folders for logs and checkouts. Without `checkout`,
        `workspaces` itself is the workspace of every run; `add_git` makes a checkout a
        repository. `library` finds sub-workflows, `secrets`
        says where declared ones may come from."""
        self._runs = runs
        self._workspaces = workspaces
        self._parts = Parts(
            store=store,
            executors={
                **registry(clock=clock),
                "run": ChildExecutor(self, store=store, clock=clock, library=library),
            },
            clock=clock,
            boot_id=boot_id(),
            slots=Slots(max_steps),
            inherited=inherited,
            mask=mask,
            zone=zone,
            url=url,
            owes=owes,
            checkout=checkout,
            add_git=add_git,
            observe=observe,
            secrets=secrets,
        )
        self._lives: dict[str, _Life] = {}
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # with the number of their users
        self._masks: dict[str, Mask] = {}  # of runs that are to be taken up again
        self._waiting: list[str] = []
        self._group: asyncio.TaskGroup | None = None
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running_steps(self) -> int:
        """Processes of steps that are alive now."""
        return sum(life.supervisor.running for life in self._lives.values())

    @property
    def supervised(self) -> frozenset[str]:
        """Root runs that this process has and that are not over."""
        return frozenset(run for run, life in self._lives.items() if life.is_root)

    async def run_forever(self) -> None:
        """Own the supervisors until cancelled; then the processes are left alive."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for run in self._waiting:
                self.supervise(run)
            await asyncio.Event().wait()

    def supervise(self, run: str) -> None:
        """Take an admitted run up; nothing if it is taken up already or the engine closed."""
        if self._closed or run in self._lives:
            return
        if self._group is None:
            self._waiting.append(run)
            return
        self._group.create_task(self._guarded(run), name=f"run {run}")

    async def _guarded(self, run: str) -> None:
        row = await self._persistently(run)
        if row is not None:
            facts = {"status": row.status, "reason": row.reason}
            _log().info("run_finished", run=run, workflow=row.workflow, **facts)

    async def _persistently(self, run: str) -> RunRow | None:
        """Supervise a run; if that fails, take it up again like a run of an earlier process. None:
        it cannot be read."""
        wait_s = FIRST_WAIT_S
        while True:
            try:
                row = await self.complete(run)
            except (HistoryError, UnreadableRecord) as error:
                if await self._give_up(run, error):
                    self._masks.pop(run, None)
                    return None
                await asyncio.sleep(wait_s)
            except StorageError as error:
                _log().warning("run_waits", run=run, problem=str(error), retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_STORE_WAIT_S)
            except Exception:  # noqa: BLE001 (the loop's edge)
                # one run that cannot go on must not take the others with it
                _log().exception("run_crashed", run=run, retry_s=wait_s)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                self._masks.pop(run, None)
                return row

    async def _give_up(self, run: str, error: Exception) -> bool:
        """Fail a run whose facts or definition cannot be read: left alone it would hold a place of
        its workflow for ever. What a newer version wrote is left to that version. False: not now,
        the store takes no writes."""
        _log().error("run_not_resumed", run=run, problem=str(error))
        if isinstance(error, UnreadableRecord):
            return True
        try:
            await self._end_launches(run)
            for child in await self._parts.store.runs(
                parent=run, statuses=journal.ACTIVE, limit=MOST_CHILDREN
            ):
                if not await self._give_up(child.run, HistoryError(f"its parent: {error}")):
                    return False
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
        row = await self._parts.store.run(run)
        root = ""
        while row is not None and row.parent:
            root = row.parent
            row = await self._parts.store.run(root)
        folder = workspace.run_folder(self._runs, run, root=root)
        for record in await self._parts.store.events(run):
            event = journal.event(record)
            if isinstance(event, Launched) and event.boot_id == self._parts.boot_id:
                item = "" if event.item is None else f"{event.item}/"
                for launch in folder.glob(f"*/{item}{event.attempt}.{event.launch}"):
                    executor.recall(Earlier(run, launch, same_boot=True))
        await executor.end_left_behind(run, grace_s=GIVEN_UP_GRACE_S)

    async def complete(self, run: str) -> RunRow:
        """Supervise a run to its end in the caller's own task and return its final head."""
        async with self._alone(run):
            life = self._begin(await History.read(self._parts.store, run))
            self._lives[run] = life
        supervisor = life.supervisor
        self._idle.clear()
        try:
            return await supervisor.supervise()
        finally:
            if life.children:  # which were told to leave
                await asyncio.wait(life.children)
            del self._lives[run]
            self._masks[run] = supervisor.mask  # its logs may be read before it is taken up again
            if not self._lives:
                self._idle.set()

    def _begin(self, history: History) -> _Life:
        queued, parts = history.queued, self._parts
        started = next(event for event in history.events if isinstance(event, Started))
        parent = self._lives[queued.parent] if queued.parent else None
        if parent is not None:
            above = parent.supervisor  # it may be given what is secret
            parts = replace(parts, mask=above.mask, veil=above.veil)
        folder = workspace.run_folder(self._runs, history.run, root=queued.root)
        place = self._place(history, parent, folder)

        async def make() -> str:
            if queued.retry_of and parent is None:
                workspace.take_over_children(self._workspaces, queued.retry_of, history.run)
            note = await place.prepare()
            if note:
                folder.mkdir(parents=True, exist_ok=True)
                with (folder / "log").open("a") as log:
                    log.write(f"{note}\n")
            return note

        supervisor = Supervisor(
            history,
            parts=parts,
            folder=folder,
            workspace=place.folder,
            make_workspace=None if place.make is None else make,
            tell_waits=None if parent is None else partial(_tell_waits, parent, queued),
        )
        own = {key: value for key, value in history.values.items() if key[0] in HANDED_ON}
        caller = Caller(history.run, history.workflow, queued, started, own)
        return _Life(supervisor, caller, place.folder)

    def _place(self, history: History, parent: _Life | None, folder: Path) -> Place:
        """Where the steps of a run begin."""
        queued, kind = history.queued, history.workflow.workspace.kind
        if parent is not None and kind is WorkspaceKind.SHARED:
            return Place(parent.workspace)
        if self._parts.checkout is None:
            if kind is WorkspaceKind.NONE:
                return Place(folder / "workspace", _make_empty)
            return Place(self._workspaces)
        before = None
        if queued.retry_of:
            before = self._workspaces / queued.retry_of
            if queued.root:
                before = workspace.workspaces_below(self._workspaces, queued.root) / queued.retry_of
        where = workspace.workspace_folder(self._workspaces, history.run, root=queued.root)
        if kind is WorkspaceKind.NONE:
            return Place(where, _make_empty, before)
        return Place(where, partial(self._check_out, history), before)

    async def _check_out(self, history: History, folder: Path) -> None:
        queued = history.queued
        if self._parts.checkout is not None:
            await self._parts.checkout(queued.repository, queued.commit, folder)
        if history.workflow.workspace.git and self._parts.add_git is not None:
            await self._parts.add_git(queued.repository, queued.commit, folder)

    # What child runs need of it

    def caller(self, run: str) -> Caller:
        return self._lives[run].caller

    def adopt(self, run: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        life = self._lives[run]
        task = asyncio.get_running_loop().create_task(_awaited(work), name=f"child of {run}")
        life.children.add(task)
        task.add_done_callback(life.children.discard)
        return task

    async def complete_child(self, run: str) -> RunRow:
        row = await self._persistently(run)
        while row is None:
            row = await self._parts.store.run(run)
            if row is not None and row.finished_at is None:
                await asyncio.Event().wait()  # a newer version knows how it goes on
        return row

    async def request(self, run: str, event: Event) -> bool:
        """Record what somebody asks of a run that has begun: durable when this returns. False: it
        does not matter to the run, which is over, or has another step or none that waits."""
        if isinstance(event, Approved | ApprovalRefused):
            event = replace(event, comment=self.mask_of(run).text(event.comment))
        life = self._lives.get(run)
        if life is not None:
            if await life.supervisor.request(event):
                return True
            if not life.supervisor.over:
                return False
        while True:
            with suppress(Conflict):  # what was on its way when its supervisor ended came first
                return await self._record(run, event)

    async def _record(self, run: str, event: Event) -> bool:
        """The same, of a run that nobody has just now."""
        async with self._alone(run):
            life = self._lives.get(run)
            if life is not None and not life.supervisor.over:
                return await life.supervisor.request(event)
            row = await self._parts.store.run(run)
            if row is None or row.status not in journal.ACTIVE:
                return False
            state = (await History.read(self._parts.store, run)).state()
            if plan.is_outdated(state, event):
                return False
            after = state.seq
            apply(state, event)
            await self._parts.store.append(
                run,
                after=after,
                records=journal.records(run, after, [event]),
                head=journal.head(run, state),
            )
            return True

    @asynccontextmanager
    async def _alone(self, run: str) -> AsyncIterator[None]:
        """Nobody takes a run up while another writes to it, as that would be missed."""
        lock, users = self._locks.get(run, (asyncio.Lock(), 0))
        self._locks[run] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(run)
            if users > 1:
                self._locks[run] = (lock, users - 1)

    def stop(self, run: str, by: str) -> bool:
        """Ask a supervised run to stop, a second time to be killed. False: it is not here."""
        life = self._lives.get(run)
        if life is None:
            return False
        life.supervisor.request_stop(by)
        return True

    def mask_of(self, run: str) -> Mask:
        """What hides the secrets in a run's growing logs; those of ended steps are scrubbed."""
        life = self._lives.get(run)
        if life is not None:
            return life.supervisor.mask
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
            for life in self._lives.values():
                life.supervisor.interrupt(kill=kill)
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


async def _make_empty(folder: Path) -> None:
    folder.mkdir()  # noqa: ASYNC240 (one call, and quick)


def _tell_waits(parent: _Life, child: Queued, waits: bool) -> None:
    parent.supervisor.note_child_waits(child.parent_step, child.parent_item, waits=waits)


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _log() -> Any:
    import structlog  # here: it loads rich, which `dagmill run` seldom needs

    return structlog.get_logger(__name__)
