"""The loop round `plan`: one task per run that records facts and then carries out effects.

It owns the run's folded state. Facts that arrive (an attempt ended, a stop was asked for) and the
actions that `decide` answers with become one append; effects (spawning, signals) are released
when that append is durable. It decides nothing itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, assert_never

from runner.engine import findings, plan
from runner.engine.attempts import Attempts
from runner.engine.evaluation import end_evaluations, evaluate
from runner.engine.events import (
    ApprovalAsked,
    ChildWaits,
    Ended,
    Event,
    Finished,
    Judged,
    JudgingStarted,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Prepared,
    StopRequested,
)
from runner.engine.findings import Finding
from runner.engine.fold import apply
from runner.engine.history import History, HistoryError
from runner.engine.journal import head, records
from runner.engine.parts import Parts
from runner.engine.postponed import Postponed
from runner.engine.scope import Evaluated, Evaluation, RunScope, ScopeError, Verdict
from runner.engine.state import SIGKILL, Preparation, RunStatus, StepStatus, Unit
from runner.executors.base import Earlier, Execution, Outcome, Task, Void, is_passing
from runner.veil import Veil
from storage.git_errors import NoRoom
from storage.mask import Mask
from storage.records import RunRow, Write
from storage.store import Conflict, StorageError

STORE_RETRY_S = 1.0
SAY_AGAIN_S = 60.0
LAUNCH_RETRY_S = 1.0  # doubled each time: every try of a launch leaves two facts in the run
LONGEST_LAUNCH_RETRY_S = 30.0
LONGEST_SLEEP_S = 60.0
BEFORE_PREPARATION = 2  # a run's first facts, Queued and Started, begin nothing

Effect = Callable[[], None]
Found = TypeVar("Found")
Name = tuple[str, int | None]  # of a unit: its step, and the item's number
_THE_RUN = ("", None)  # in the place of a unit: what is prepared is the run


class Fact(NamedTuple):
    """An event with the writes that belong to it. `answer` is told whether it was recorded: False
    where it had no meaning any more."""

    event: Event
    writes: tuple[Write, ...] = ()
    answer: asyncio.Future[bool] | None = None

    def settle(self, recorded: bool) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_result(recorded)


class Supervisor:
    """Takes one admitted run to its end. `supervise` is called once. `make_workspace` makes the
    workspace anew or takes it over, and says what a person should know of it; None: it is there
    already. `tell_waits` is told when the run begins to wait for people only, and when it goes
    on."""

    def __init__(
        self,
        history: History,
        *,
        parts: Parts,
        folder: Path,
        workspace: Path,
        make_workspace: Callable[[], Awaitable[str]] | None = None,
        tell_waits: Callable[[bool], None] | None = None,
    ) -> None:
        self.run = history.run
        self._parts = parts
        self._workflow = history.workflow
        self._state = history.state()
        self._attempts = Attempts(
            history, state=self._state, parts=parts, folder=folder, workspace=workspace
        )
        self._workspace = workspace
        self._make_workspace = make_workspace
        self._note = ""  # about the workspace
        self._inbox: list[Fact] = []
        self._wake = asyncio.Event()
        self._executions: dict[Name, Execution] = {}
        self._preparations: dict[Name, asyncio.Task[None]] = {}
        self._judgements: dict[Name, asyncio.Task[None]] = {}
        self._held = 0  # slots taken for what runs or is being evaluated
        self._earlier = [e for e in history.events if isinstance(e, Launched)]
        begun = (Launched, PreparationStarted, Prepared)
        self._begun_before = any(isinstance(e, begun) for e in history.events)
        self._refused: dict[Name, float] = {}  # unit → seconds to its next try
        self._said: dict[tuple[str, str, str], float] = {}  # problem → loop time to say it again
        self._interrupt: Literal["", "stop", "kill"] = ""
        self._over = False
        self._tell_waits = tell_waits
        self._told_waits = False

    @property
    def running(self) -> int:
        """Steps whose processes are alive now; a child run counts its own."""
        return sum(self._takes_place(step) for step, _ in self._executions)

    @property
    def mask(self) -> Mask:
        """What hides the run's secrets, as far as they are known by now."""
        return self._attempts.mask

    @property
    def veil(self) -> Veil:
        """What hides the run's declared secrets in what is stored."""
        return self._attempts.veil

    @property
    def over(self) -> bool:
        """Whether it records nothing more."""
        return self._over

    def request_stop(self, by: str) -> None:
        """Ask the run to stop; a second time kills. Takes effect in the loop's next turn."""
        self._deliver(Fact(StopRequested(self._parts.clock(), by)))

    def request(self, event: Event) -> Awaitable[bool]:
        """Record what a person asked for. True when it is durable, False if it has no meaning (a
        step that does not wait was approved, the run is over)."""
        answer = asyncio.get_running_loop().create_future()
        fact = Fact(event, answer=answer)
        if self._over:
            fact.settle(recorded=False)
        else:
            self._deliver(fact)
        return answer

    def interrupt(self, *, kill: bool = False) -> None:
        """End what runs, as the machine goes away; the run itself goes on with a later start."""
        self._interrupt = "kill" if kill else "stop"
        self._wake.set()

    async def supervise(self) -> RunRow:
        """Run to the end and return the final head. Cancelling it leaves the processes alive."""
        try:
            if self._begun_before:
                await self._take_up()
                self._tell_parent()
            while not self._state.final:
                if not await self._turn():
                    await self._wait()
        finally:
            self._let_go()
        return head(self.run, self._state)

    def _let_go(self) -> None:
        """Leave alone what still runs: it is taken up again by whoever supervises the run next."""
        self._over = True
        for fact in self._inbox:
            fact.settle(recorded=False)
        evaluations = [*self._preparations.values(), *self._judgements.values()]
        for task in evaluations:
            task.cancel()
        for execution in self._executions.values():
            execution.leave()
        self._parts.slots.forget(self._wake.set)
        self._release(self._held - len(evaluations))  # those give back their own

    def _deliver(self, fact: Fact) -> None:
        self._inbox.append(fact)
        self._wake.set()

    async def _wait(self) -> None:
        """Until a fact arrives, a slot becomes free or an instant comes."""
        due = plan.next_due(self._state)
        timer = None
        if due is not None:
            # the loop's clock stands still while the machine is suspended
            delay_s = min(max(0.0, (due - self._parts.clock()).total_seconds()), LONGEST_SLEEP_S)
            timer = asyncio.get_running_loop().call_later(delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._wake.clear()

    # Recovery

    async def _take_up(self) -> None:
        """Find out what became of all that an earlier process had begun. Nothing is decided before
        it is known: a step that ended in time must not be timed out for it."""
        attempts, state = self._attempts, self._state
        attempts.recall(self._earlier, boot_id=self._parts.boot_id)
        begun = list(state.running.values())
        for unit in begun:
            if unit.child_waits:  # if it still does, it says so again
                self.note_child_waits(unit.step.name, unit.item, waits=False)
        running = [unit for unit in begun if unit.status is StepStatus.RUNNING]
        if all(launched.boot_id != self._parts.boot_id for launched in self._earlier):
            await self._mend_files()
        await self._read_secrets()
        found = await asyncio.gather(*(self._resume(unit) for unit in running))
        if found:
            import structlog  # here: it loads rich, which a run seldom needs

            counts = {word: found.count(word) for word in ("running", "ended", "void", "lost")}
            structlog.get_logger(__name__).info("steps_taken_up", run=self.run, **counts)
        if state.preparation is Preparation.GOING_ON:
            end_evaluations(self._evaluation_mark(_THE_RUN))
            self._hold()
            self._begin_preparation(_THE_RUN)
        for unit in begun:
            if unit.status is StepStatus.RUNNING:
                continue
            name = (unit.step.name, unit.item)
            end_evaluations(self._evaluation_mark(name))
            self._hold()
            if unit.judging:
                self._begin_judgement(name)
            else:
                self._begin_preparation(name)

    async def _read_secrets(self) -> None:
        """Values that are never stored are read again. What needs one that cannot be read now will
        say so; what runs needs none."""
        try:
            await self._attempts.preparations.read_secrets()
        except ScopeError as error:
            self._say("secrets_not_read", error)

    async def _mend_files(self) -> None:
        async def mend() -> None:
            self._attempts.mend_files()

        try:
            await self._in_time("files_not_mended", mend)
        except OSError as error:
            self._say("files_not_mended", error)  # who needs them will say so again

    async def _resume(self, unit: Unit) -> str:
        """What became of a unit that ran: `running`, `ended`, `void` or `lost`."""
        task = self._attempts.earlier_task(unit)
        self._hold_for(task.step)
        earlier = Earlier(
            self.run,
            task.folder,
            same_boot=unit.boot_id == self._parts.boot_id,
            killed=unit.stop_signal_sent == SIGKILL,
            step=task.step,
            attempt=task.attempt,
            item=task.item,
        )
        executor = self._parts.executor_of(unit.step)
        found: Execution | Outcome | Void
        try:
            found = await self._in_time(
                "step_not_taken_up",
                lambda: executor.resume(earlier, lambda o: self._ended(task, o)),
                step=task.step,
            )
        except OSError as error:
            found = Outcome(self._parts.clock(), error=f"lost: {error}", lost=True)
        if isinstance(found, Void):
            self._release_for(task.step)
            self._deliver(Fact(self._voided(task)))
            return "void"
        if isinstance(found, Outcome):
            finding = await asyncio.to_thread(self._attempts.endings.findings, task, found)
            self._concluded(task, found, finding)
            return "lost" if found.lost else "ended"
        self._executions[_name(task)] = found
        if unit.stop_signal_sent is not None:
            found.send(unit.stop_signal_sent)  # whether it was sent nobody knows
        return "running"

    def _voided(self, task: Task, reason: str = "") -> LaunchVoided:
        now = self._parts.clock()
        return LaunchVoided(now, task.step, task.attempt, task.launch, reason, task.item)

    # The loop

    async def _turn(self) -> bool:
        """Fold what arrived, decide until nothing is left, append once, then do. False: idle."""
        arrived, self._inbox = self._inbox, []
        new: list[Event] = []
        also: list[Write] = []
        effects: list[Effect] = []
        after = self._state.seq
        for fact in arrived:
            if plan.is_outdated(self._state, fact.event):
                fact.settle(recorded=False)
                continue
            self._record(fact.event, new)
            also.extend(fact.writes)
        now = self._parts.clock()
        if self._interrupt:
            for stop in plan.interruptions(self._state, now, kill=self._interrupt == "kill"):
                self._take(stop, now, new=new, also=also, effects=effects)
        leaves = False
        while actions := plan.decide(self._state, now, room=self._parts.slots.room):
            if leaves := _finishes(actions) and self._attempts.has_left_behind():
                break
            for action in actions:
                self._take(action, now, new=new, also=also, effects=effects)
        self._stop_unwanted_evaluations()
        if not new:
            self._interrupt = ""
            if leaves:
                await self._attempts.end_left_behind()
                return True
            if self._state.ready or self._state.retries or self._state.to_judge:
                self._parts.slots.tell_when_free(self._wake.set)
            return False
        if isinstance(new[-1], Finished):
            also.extend(self._parts.owes(head(self.run, self._state)))
        try:
            await self._parts.store.append(
                self.run,
                after=after,
                records=records(self.run, after, new),
                head=head(self.run, self._state),
                also=also,
            )
        except Conflict:
            await self._read_again(arrived)
            return True
        except StorageError as error:
            await self._wait_for_disk("run_not_recorded", error)
            await self._read_again(arrived)
            return True
        if self._parts.observe is not None:
            self._parts.observe(self._state, new)
        self._interrupt = ""
        self._tell_parent()
        for fact in arrived:
            fact.settle(recorded=True)
        for effect in effects:
            effect()
        return True

    def _tell_parent(self) -> None:
        """A run waits for people as long as all that it runs does."""
        waits = self._state.status is RunStatus.WAITING
        if waits is not self._told_waits and self._tell_waits is not None:
            self._told_waits = waits
            self._tell_waits(waits)

    def note_child_waits(self, step: str, item: int | None, *, waits: bool) -> None:
        """The child run of a step waits for people, or goes on."""
        self._deliver(Fact(ChildWaits(self._parts.clock(), step, waits, item)))

    def _record(self, event: Event, new: list[Event]) -> None:
        apply(self._state, event)
        new.append(event)

    async def _read_again(self, arrived: list[Fact]) -> None:
        """Someone wrote first: fold again from the store and put back what had arrived."""
        history = await self._history()
        self._state = history.state()
        self._attempts.state = self._state
        evaluations = len(self._preparations) + len(self._judgements)
        self._release(self._held - self.running - evaluations)
        self._inbox = arrived + self._inbox

    async def _history(self) -> History:
        """What the store has, as soon as it can be read; what runs must not be forgotten."""
        while True:
            try:
                return await History.read(self._parts.store, self.run)
            except HistoryError:
                raise
            except StorageError as error:
                await self._wait_for_disk("run_not_read", error)

    async def _in_time(
        self, event: str, work: Callable[[], Coroutine[Any, Any, Found]], *, step: str = ""
    ) -> Found:
        """Do `work`, again as long as the machine has no room for it, which `event` says. Raises
        what else it raises."""
        while True:
            try:
                return await work()
            except (OSError, NoRoom) as error:
                if not isinstance(error, NoRoom) and not is_passing(error):
                    raise
                await self._wait_for_disk(event, error, step=step)

    async def _wait_for_disk(self, event: str, error: Exception, *, step: str = "") -> None:
        """The disk may have room again soon, the database be free."""
        self._say(event, error, step=step, retry_s=STORE_RETRY_S)
        await asyncio.sleep(STORE_RETRY_S)

    def _say(self, event: str, problem: object, *, step: str = "", retry_s: float = 0) -> None:
        """Log what holds the run up: again only if it is another thing, or after a while."""
        now, said = asyncio.get_running_loop().time(), (event, step, str(problem))
        if self._said.get(said, now) > now:
            return
        self._said = {**self._said, said: now + SAY_AGAIN_S}
        import structlog  # here: it loads rich, which a run seldom needs

        log = structlog.get_logger(__name__)
        more = {"step": step} if step else {}
        log.warning(event, run=self.run, problem=str(problem), retry_s=retry_s, **more)

    # Slots

    def _hold(self) -> None:
        self._parts.slots.take()
        self._held += 1

    def _release(self, count: int = 1) -> None:
        self._held -= count
        self._parts.slots.give(count)

    def _takes_place(self, step: str) -> bool:
        """A step that waits for a child run has no process of its own."""
        return self._state.steps[self._state.index[step]].step.run is None

    def _hold_for(self, step: str) -> None:
        if self._takes_place(step):
            self._hold()

    def _release_for(self, step: str) -> None:
        if self._takes_place(step):
            self._release()

    # Actions

    def _take(
        self,
        action: plan.Action,
        now: datetime,
        *,
        new: list[Event],
        also: list[Write],
        effects: list[Effect],
    ) -> None:
        match action:
            case plan.Record(ApprovalAsked() as asked):
                message = self._attempts.preparations.question(asked.step, asked.message)
                self._record(replace(asked, message=message), new)
            case plan.Record(event):
                self._record(event, new)
            case plan.Prepare(step, item):
                name = _THE_RUN if step is None else (step, item)
                self._prepare(name, now, new=new, also=also, effects=effects)
            case plan.Launch(step, attempt, item):
                self._launch((step, item), attempt, now, new=new, effects=effects)
            case plan.Judge(judged, item):
                self._record(JudgingStarted(now, judged, item), new)
                self._hold()
                effects.append(lambda: self._begin_judgement((judged, item)))
            case plan.Conclude(parallel):
                self._conclude_items(parallel, now, new=new, also=also)
            case plan.Stop(sent):
                self._record(sent, new)
                effects.append(lambda: self._send((sent.step, sent.item), sent.signal))
            case _:
                assert_never(action)

    def _send(self, name: Name, signal: int) -> None:
        if (execution := self._executions.get(name)) is not None:
            execution.send(signal)

    def _launch(
        self, name: Name, attempt: int, now: datetime, *, new: list[Event], effects: list[Effect]
    ) -> None:
        launch = secrets.token_hex(4)
        step, item = name
        try:
            task = self._attempts.task(step, attempt, launch, item)
        except (ScopeError, OSError) as error:
            why = self.mask.text(str(error))
            ended = Ended(now, step, attempt, "", None, None, why, retryable=False, item=item)
            self._record(ended, new)
            return
        self._record(Launched(now, step, attempt, launch, self._parts.boot_id, item), new)
        self._hold_for(step)
        effects.append(lambda: self._spawn(task))

    def _conclude_items(
        self, step: str, now: datetime, *, new: list[Event], also: list[Write]
    ) -> None:
        try:
            event, writes = self._attempts.endings.conclude_items(step, now)
        except OSError as error:
            problem = f"its output could not be kept: {error}"
            event, writes = Ended(now, step, 0, "", None, None, problem, retryable=False), ()
        self._record(event, new)
        also.extend(writes)

    def _spawn(self, task: Task) -> None:
        try:
            self._attempts.write_files(task)
        except OSError as error:
            problem, refused = f"could not be started: {error}", is_passing(error)
            self._ended(task, Outcome(self._parts.clock(), error=problem, refused=refused))
            return
        executor = self._parts.executor_of(self._state.steps[self._state.index[task.step]].step)
        self._executions[_name(task)] = executor.start(task, lambda o: self._ended(task, o))

    def _ended(self, task: Task, outcome: Outcome) -> None:
        """An attempt is over: read what it left, here if that is quick, else in a thread."""
        if outcome.refused:
            self._postpone(task, outcome)
            return
        if findings.reads_quickly(task):
            self._concluded(task, outcome, self._attempts.endings.findings(task, outcome))
            return
        loop = asyncio.get_running_loop()
        reading = loop.run_in_executor(None, self._attempts.endings.findings, task, outcome)
        reading.add_done_callback(lambda f: self._concluded(task, outcome, f.result()))

    def _concluded(self, task: Task, outcome: Outcome, finding: Finding) -> None:
        if self._over:
            return  # whoever supervises the run next reads it again
        try:
            event, writes = self._attempts.endings.conclude(task, outcome, finding)
        except OSError as error:
            if is_passing(error):
                self._say("outputs_wait", error, step=task.step)
                self._later(task, STORE_RETRY_S, lambda: self._concluded(task, outcome, finding))
                return
            lost = Finding(finding.log, error=f"its outputs could not be kept: {error}")
            event, writes = self._attempts.endings.conclude(task, outcome, lost)
        self._executions.pop(_name(task), None)
        self._release_for(task.step)
        self._deliver(Fact(event, writes))

    def _postpone(self, task: Task, outcome: Outcome) -> None:
        """The machine had no room for a launch, and it did not begin: make it void and launch
        again when that may succeed. A stop meanwhile ends it."""

        def void() -> None:
            self._executions.pop(_name(task), None)
            self._release_for(task.step)
            self._attempts.forget(task)
            self._deliver(Fact(self._voided(task, outcome.error)))

        def stopped() -> None:
            self._concluded(task, outcome, self._attempts.endings.findings(task, outcome))

        wait_s = self._refused.get(_name(task), LAUNCH_RETRY_S)
        self._refused[_name(task)] = min(2 * wait_s, LONGEST_LAUNCH_RETRY_S)
        self._say("launch_waits", outcome.error, step=task.step, retry_s=wait_s)
        self._later(task, wait_s, void, stopped=stopped)

    def _later(
        self,
        task: Task,
        wait_s: float,
        call: Callable[[], None],
        *,
        stopped: Callable[[], None] = lambda: None,
    ) -> None:
        self._executions[_name(task)] = Postponed(wait_s, call, stopped=stopped)

    # Evaluations

    def _prepare(
        self,
        name: Name,
        now: datetime,
        *,
        new: list[Event],
        also: list[Write],
        effects: list[Effect],
    ) -> None:
        done = self._at_once(name, now)
        if done is not None:
            self._record(done.event, new)
            also.extend(done.writes)
            return
        step, item = name
        self._record(PreparationStarted(now, step or None, item), new)
        self._hold()
        effects.append(lambda: self._begin_preparation(name))

    def _at_once(self, name: Name, now: datetime) -> Fact | None:
        """A preparation for which no process is needed."""
        step, item = name
        try:
            if name == _THE_RUN:
                if self._make_workspace is not None or self._workflow.secrets:
                    return None
                self._attempts.lay_out()
                next(self._attempts.preparations.of_run())
            else:
                next(self._attempts.preparations.of(step, item))
        except StopIteration as stop:
            if name == _THE_RUN:
                return self._prepared_run(now, *stop.value)
            return Fact(*self._attempts.preparations.prepared(step, item, stop.value, now))
        except (ScopeError, OSError) as error:
            why = self.mask.text(str(error))
            return Fact(Prepared(now, step or None, True, error=why, item=item))
        return None

    def _begin_preparation(self, name: Name) -> None:
        self._begin_evaluation(name, self._preparation(name), self._preparations)

    def _begin_judgement(self, name: Name) -> None:
        self._begin_evaluation(name, self._judgement(name), self._judgements)

    def _begin_evaluation(
        self,
        name: Name,
        work: Coroutine[Any, Any, None],
        going_on: dict[Name, asyncio.Task[None]],
    ) -> None:
        def over(_: asyncio.Task[None]) -> None:
            going_on.pop(name, None)
            self._release()
            self._wake.set()

        task = asyncio.get_running_loop().create_task(work)
        going_on[name] = task
        task.add_done_callback(over)

    def _stop_unwanted_evaluations(self) -> None:
        for name, task in (*self._preparations.items(), *self._judgements.items()):
            if name == _THE_RUN:
                unwanted = self._state.outcome is not None
            else:
                unwanted = self._state.unit_of(*name).final
            if unwanted:
                task.cancel()

    async def _preparation(self, name: Name) -> None:
        """Make the workspace (for the run), judge conditions, run command substitutions."""
        step, item = name
        try:
            if name == _THE_RUN:
                await self._in_time("preparation_waits", self._make_place)
                await self._attempts.preparations.read_secrets()
                generator = self._attempts.preparations.of_run()
                result = await self._drive(generator, name, cwd=self._workspace)
                self._deliver(self._prepared_run(self._parts.clock(), *result))
            else:
                cwd = self._attempts.directory(step)
                found = await self._drive(self._attempts.preparations.of(step, item), name, cwd=cwd)
                now = self._parts.clock()
                self._deliver(Fact(*self._attempts.preparations.prepared(step, item, found, now)))
        except (ScopeError, OSError, StorageError) as error:
            now = self._parts.clock()
            why = self.mask.text(str(error))
            self._deliver(Fact(Prepared(now, step or None, True, error=why, item=item)))

    async def _judgement(self, name: Name) -> None:
        """Find out whether a step runs once more."""
        step, item = name
        try:
            cwd = self._attempts.directory(step)
            generator = self._attempts.preparations.judgement(step, item)
            verdict: Verdict = await self._drive(generator, name, cwd=cwd)
            met, error = verdict.met, verdict.error
        except (ScopeError, OSError) as problem:
            why = self.mask.text(str(problem))
            met, error = False, f"whether it repeats cannot be told: {why}"
        self._deliver(Fact(Judged(self._parts.clock(), step, met, error, item)))

    async def _make_place(self) -> None:
        """The workspace, and the files that every step sees."""
        if self._make_workspace is not None:
            self._note = await self._make_workspace() or self._note
        self._attempts.lay_out()

    def _prepared_run(self, now: datetime, found: RunScope, verdict: Verdict) -> Fact:
        preparations = self._attempts.preparations
        return Fact(*preparations.prepared_run(found, verdict, now, note=self._note))

    def _evaluation_mark(self, name: Name) -> str:
        step, item = name
        number = 0 if name == _THE_RUN else self._state.index[step] + 1
        return f"{self.run}/{number}" if item is None else f"{self.run}/{number}/{item}"

    async def _drive(
        self, generator: Generator[Evaluation, Evaluated, Any], name: Name, *, cwd: Path
    ) -> Any:
        """Feed a generator the evaluations that it asks for."""
        answer: Evaluated | None = None
        try:
            while True:
                wanted = next(generator) if answer is None else generator.send(answer)
                answer = await evaluate(wanted, cwd=cwd, mark=self._evaluation_mark(name))
        except StopIteration as stop:
            return stop.value


def _finishes(actions: list[plan.Action]) -> bool:
    last = actions[-1]
    return isinstance(last, plan.Record) and isinstance(last.event, Finished)


def _name(task: Task) -> Name:
    return task.step, task.item
