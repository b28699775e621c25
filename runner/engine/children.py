"""Runs that a step of another run makes: an executor whose attempts are runs.

Finds the definition, makes the run once (its id is that of its parent, step, attempt and item),
has the engine supervise it, and tells its end as the attempt's. Leaves what the run does to its own
supervisor, and which name means what to `language.subworkflows`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from signal import SIGKILL
from typing import NamedTuple, Protocol

from runner.engine import carry, journal, workspace
from runner.engine.carry import Again, Taken
from runner.engine.events import Event, Queued, Started, StopRequested
from runner.engine.history import History, HistoryError, UnreadableDefinition, definition
from runner.engine.journal import PARAMS, RUN_SCOPE, Lineage, Origin
from runner.engine.parts import Found, Library
from runner.engine.scope import RunScope, read_params
from runner.engine.state import RunStatus
from runner.executors.base import Call, Earlier, Execution, Outcome, Task, Void, is_passing
from runner.language import params, subworkflows
from runner.language.faults import LanguageError, quoted
from runner.language.model import Param, Workflow
from runner.language.subworkflows import MOST_DEPTH, Index
from runner.triggers import child_key, child_run
from runner.veil import starred
from storage.git_errors import GitError, NoRoom
from storage.mask import Mask, is_secret_name
from storage.records import Append, PutValues, RunRow, Write
from storage.store import Conflict, StorageError, Store

ITEM, ITEM_INDEX = "item", "item_index"  # of run_values, in the scope of the run
RETRY_S = 1.0  # until the store can be used again


class NotMade(Exception):
    """A child run cannot be: no such workflow, a circle, params that do not fit. For people."""


@dataclass(slots=True)
class Caller:
    """What a run gives to those that it makes. `values` are its own when it was taken up."""

    run: str
    workflow: Workflow
    queued: Queued
    started: Started
    values: Mapping[tuple[str, str], str]
    known: dict[str, Definition] = field(default_factory=dict)  # by the name it was called by

    @property
    def root(self) -> str:
        return self.queued.root or self.run


class Definition(NamedTuple):
    """A workflow, and the texts that it was read from."""

    workflow: Workflow
    source: str
    base: str
    blob: str


class Family(Protocol):
    """What the engine does for runs that make others."""

    def caller(self, run: str) -> Caller: ...

    def mask_of(self, run: str) -> Mask: ...

    def adopt(self, run: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """A task that is over, and was cancelled if need be, before the life of `run` is."""

    async def complete_child(self, run: str) -> RunRow:
        """Supervise it to its end, taking it up again where that fails."""

    async def request(self, run: str, event: Event) -> bool:
        """Record what somebody asks of a run. False: it does not matter to it any more."""


class ChildExecutor:
    """Carries `run` steps out. See `Executor` for the contract."""

    def __init__(
        self,
        family: Family,
        *,
        store: Store,
        clock: Callable[[], datetime],
        library: Library | None,
    ) -> None:
        self.family = family
        self.store = store
        self.clock = clock
        self._library = library

    def start(self, task: Task, done: Callable[[Outcome], None]) -> Execution:
        earlier = Earlier(
            task.run,
            task.folder,
            same_boot=True,
            step=task.step,
            attempt=task.attempt,
            item=task.item,
        )
        return _Child(self, earlier, done, task=task)

    async def resume(
        self, earlier: Earlier, done: Callable[[Outcome], None]
    ) -> Execution | Outcome | Void:
        row = await self.store.run(id_of(earlier))
        if row is None:
            return Void()
        if row.finished_at is not None:
            return await self.outcome(row, earlier.folder)
        return _Child(self, earlier, done)

    def recall(self, earlier: Earlier) -> None:
        """A child run sees to what its own steps left."""

    def has_left_behind(self, run: str) -> bool:
        return False

    async def end_left_behind(self, run: str, *, grace_s: float) -> None:
        """A child run sees to what its own steps left."""

    # Making one

    async def make(self, task: Task) -> RunRow:
        """The child run of the task, made now or before. Raises NotMade; StorageError where it is
        not made."""
        if task.call is None:
            raise NotMade(f'step "{task.step}" has no sub-workflow')
        caller = self.family.caller(task.run)
        found = caller.known.get(task.call.workflow)
        if found is None:
            found = await self._definition(caller, task.call.workflow)
            caller.known[task.call.workflow] = found
        writes = await self._writes(task, task.call, caller, found)
        (*_, row) = (write.head for write in writes if isinstance(write, Append))
        note(task.folder, row)
        with suppress(Conflict):  # an earlier process made it
            await self.store.write(*writes)
        return row

    async def _definition(self, caller: Caller, name: str) -> Definition:
        """What a name means to the caller. Raises NotMade, StorageError."""
        own = await self._texts(caller)
        file = subworkflows.file_of(caller.workflow.id)
        home = definition(own.source, own.path, file, own.base)
        locals = subworkflows.local_ids(home)
        commit = caller.queued.repository, caller.queued.commit
        index = Index()
        if self._library is not None and name not in locals:
            index = await self._library.index(*commit)
        try:
            id = subworkflows.resolve(name, caller=caller.workflow.id, locals=locals, index=index)
        except LanguageError as error:
            raise NotMade(str(error)) from error
        await self._refuse_endless(id, caller)
        if name in locals:
            workflow = definition(own.source, own.path, id, own.base)
            return Definition(workflow, own.source, own.base, caller.queued.blob)
        found = await self._library.read(*commit, id) if self._library is not None else None
        if found is None:
            raise NotMade(f"workflow {quoted(id)} cannot be read")
        workflow = await asyncio.to_thread(_loaded, found, id)
        return Definition(workflow, found.source, found.base, found.blob)

    async def _texts(self, caller: Caller) -> Found:
        queued = caller.queued
        source = await self.store.source(queued.definition_sha256)
        base = await self.store.source(queued.base_sha256) if queued.base_sha256 else ""
        if source is None or base is None:
            raise HistoryError(f"run {caller.run}: its definition is missing")
        return Found(source, queued.path, queued.blob, base)

    async def _refuse_endless(self, id: str, caller: Caller) -> None:
        callers = [caller.workflow.id]
        above = caller.queued.parent
        while above:
            row = await self.store.run(above)
            if row is None:
                break
            callers.append(row.workflow)
            above = row.parent
        callers.reverse()
        if circle := subworkflows.circle(id, callers):
            raise NotMade(f"the sub-workflows run each other without end: {circle}")
        if len(callers) > MOST_DEPTH:
            raise NotMade(
                f"workflow {quoted(id)} would be the {len(callers)}th run below run {caller.root}; "
                f"at most {MOST_DEPTH} may be nested"
            )

    async def _writes(
        self, task: Task, call: Call, caller: Caller, found: Definition
    ) -> tuple[Write, ...]:
        """What makes the run, already started: it is admitted with its parent."""
        run, at, queued = id_of(task), self.clock(), caller.queued
        again = carry.planned_child(caller.values, task.step, task.item)
        old = await self._old(again, found) if task.attempt == 1 else None
        taken, bound = Taken(), None
        if again is not None and old is not None:
            taken = carry.carry(old.state(), old.values, again, at=at)
            bound = read_params(old.values[RUN_SCOPE, PARAMS])
        made = journal.queued_writes(
            run,
            at=at,
            workflow=found.workflow,
            source=found.source,
            base=found.base,
            origin=Origin(
                queued.repository, queued.ref, queued.commit, found.blob, dirty=queued.dirty
            ),
            trigger=replace(
                queued.trigger,
                key=child_key(task.run, task.step, attempt=task.attempt, item=task.item),
            ),
            params=bound or _bound(found.workflow, call),
            mask=self.family.mask_of(task.run),
            lineage=Lineage(
                parent=task.run,
                parent_step=task.step,
                parent_item=task.item,
                root=caller.root,
                retry_of="" if old is None else old.run,
                attempt=queued.attempt,
            ),
            carried=taken.events,
        )
        (row,) = (write.head for write in made if isinstance(write, Append))
        started = journal.started_writes(
            row, at=at, runner=caller.started.runner, host=caller.started.host, room=0
        )
        values = (*_item_values(task, call, caller), *taken.values)
        return (*made, *started, *((PutValues(run, values),) if values else ()))

    async def _old(self, again: Again | None, found: Definition) -> History | None:
        """The run that a new one retries; None where there is none, or not of this workflow."""
        row = await self.store.run(again.run) if again is not None else None
        if row is None or row.finished_at is None or row.workflow != found.workflow.id:
            return None
        try:
            history = await History.read(self.store, row.run)
        except HistoryError:
            return None
        return history if (RUN_SCOPE, PARAMS) in history.values else None

    # Its end

    async def outcome(self, row: RunRow, folder: Path) -> Outcome:
        """What the end of a child run is to the step that made it. Raises StorageError."""
        with suppress(OSError):  # a full disk makes no failure of a run that is over
            note(folder, row)
        at = row.finished_at or self.clock()
        if row.status == RunStatus.CANCELLED:
            error = "child cancelled"
        elif row.status == RunStatus.SKIPPED:
            error = row.reason
        elif row.status == RunStatus.FAILED:
            error = f"child run {row.run} failed: {row.reason}"
        else:
            error = ""
        try:
            history = await History.read(self.store, row.run)
        except HistoryError as problem:
            return Outcome(at, error=error or str(problem))
        result, hidden = _result(row, history)
        return Outcome(
            at,
            error=error,
            skipped=row.status == RunStatus.SKIPPED,
            result=result,
            secrets=hidden,
        )


class _Child:
    """A child run that goes on, or is about to be made."""

    def __init__(
        self,
        executor: ChildExecutor,
        earlier: Earlier,
        done: Callable[[Outcome], None],
        *,
        task: Task | None = None,
    ) -> None:
        self._executor = executor
        self._run = id_of(earlier)
        self._earlier = earlier
        self._made_by = task
        self._done = done
        self._asked = 0
        self._wanted = 0  # stop requests that the child should have had by now
        self._news = asyncio.Event()
        self._task = executor.family.adopt(earlier.run, self._live)

    def send(self, signal: int) -> None:
        self._asked += 1
        self._wanted = 2 if signal == SIGKILL or self._asked > 1 else 1
        self._news.set()

    def leave(self) -> None:
        self._task.cancel()

    async def _live(self) -> None:
        try:
            outcome = await self._followed()
        except Exception as error:  # noqa: BLE001 (the loop's edge: the step must hear of it)
            import structlog  # here: it loads rich, which `dagmill run` seldom needs

            structlog.get_logger(__name__).exception("child_not_followed", run=self._run)
            problem = f"child run {self._run} could not be followed: {error}"
            outcome = Outcome(self._executor.clock(), error=problem, lost=True)
        self._done(outcome)

    async def _followed(self) -> Outcome:
        if self._made_by is not None and (hindered := await self._make(self._made_by)) is not None:
            return hindered
        stops = asyncio.ensure_future(self._pass_stops_on())
        try:
            row = await self._executor.family.complete_child(self._run)
        finally:
            stops.cancel()
            await asyncio.gather(stops, return_exceptions=True)
        return await self._end(row)

    async def _make(self, task: Task) -> Outcome | None:
        """None: it is there."""
        clock = self._executor.clock
        try:
            await self._executor.make(task)
        except (NotMade, LanguageError, HistoryError) as error:
            return Outcome(clock(), error=str(error))
        except (StorageError, OSError) as error:
            ours = isinstance(error, StorageError) and not isinstance(error, GitError)
            passing = ours or isinstance(error, NoRoom) or is_passing(error)
            problem = f"the child run could not be made: {error}"
            return Outcome(clock(), error=problem, refused=passing)
        return None

    async def _end(self, row: RunRow) -> Outcome:
        while True:
            try:
                return await self._executor.outcome(row, self._earlier.folder)
            except StorageError:
                await asyncio.sleep(RETRY_S)

    async def _pass_stops_on(self) -> None:
        """Ask the child to stop as often as its step was told to, counting what others asked."""
        executor = self._executor
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                records = await executor.store.events(self._run)
                had = sum(record.type == StopRequested.__name__ for record in records)
                for _ in range(self._wanted - had):
                    by = f"run {self._earlier.run}"
                    await executor.family.request(self._run, StopRequested(executor.clock(), by))
            except StorageError:
                await asyncio.sleep(RETRY_S)
                self._news.set()


def id_of(launch: Task | Earlier) -> str:
    """The run that a launch makes."""
    return child_run(launch.run, launch.step, attempt=launch.attempt, item=launch.item)


def note(folder: Path, row: RunRow) -> None:
    """Write the log of a `run` step: a line for its run's begin, and one for its end."""
    lines = [f"run {row.run} of {row.workflow} started"]
    if row.finished_at is not None:
        why = f": {row.reason}" if row.reason else ""
        lines.append(f"run {row.run} of {row.workflow} ended, {row.status}{why}")
    with suppress(FileNotFoundError):  # somebody deleted the folder, which ends no run
        workspace.write(folder / "out", "\n".join(lines) + "\n")


def _loaded(found: Found, id: str) -> Workflow:
    """Raises NotMade."""
    try:
        return definition(found.source, found.path, id, found.base)
    except UnreadableDefinition as error:
        raise NotMade(f"workflow {quoted(id)} is broken: {error.problem}") from error


def _bound(workflow: Workflow, call: Call) -> params.Bound:
    """Raises ParamError. What the caller's file writes may name anything; a name that comes from
    data must be declared or mentioned."""
    given = [Param(name, value) for name, value in call.params]
    bound = params.bind(
        workflow.params,
        given,
        mentioned=lambda name: not call.from_data or params.mentions(workflow, name),
    )
    if not call.veil:
        return bound
    hidden = (replace(p, value=call.veil.hide(p.value)) if p.given else p for p in bound.params)
    return params.Bound(tuple(hidden))


def _item_values(task: Task, call: Call, caller: Caller) -> tuple[tuple[str, str, str], ...]:
    """ITEM and its number: of the step's own item, else of the one that its caller runs for."""
    if call.item is not None:
        text = call.veil.hide(call.item)
        return (RUN_SCOPE, ITEM, text), (RUN_SCOPE, ITEM_INDEX, str(task.item))
    keys = ((RUN_SCOPE, ITEM), (RUN_SCOPE, ITEM_INDEX))
    return tuple((*key, caller.values[key]) for key in keys if key in caller.values)


def _result(row: RunRow, history: History) -> tuple[str, tuple[str, ...]]:
    """The JSON that stands for a child run's stdout, and what of it is secret."""
    values = history.values
    scope = RunScope.read(values[RUN_SCOPE, "scope"]) if (RUN_SCOPE, "scope") in values else None
    given = scope.params if scope else ()
    named = {p.name or str(p.position): starred(p.value) for p in given}
    outputs: dict[str, str] = {}
    state = history.state()
    for step in state.steps[: state.first_handler]:
        for output in step.outputs:
            outputs[output.name] = values[f"out:{step.step.name}", output.name]
    document = {
        "name": row.name,
        "runId": row.run,
        "params": named,
        "status": row.status,
        "outputs": outputs,
    }
    secret = [v for pairs in (named, outputs) for k, v in pairs.items() if is_secret_name(k)]
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False), tuple(secret)
