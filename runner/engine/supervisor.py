"""The loop round `plan`: one task per run that records facts and then carries out effects.

It owns the run's folded state. Facts that arrive (an attempt ended, a stop was asked for) and the
actions that `decide` answers with become one append; effects (spawning, signals) are released
when that append is durable. It decides nothing itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Generator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, assert_never

from runner.engine import findings, plan, scope, workspace
from runner.engine.attempts import Attempts
from runner.engine.evaluation import end_evaluations, evaluate
from runner.engine.events import (
    Ended,
    Event,
    Finished,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Prepared,
    StopRequested,
)
from runner.engine.findings import Finding
from runner.engine.fold import apply, fold
from runner.engine.history import History, HistoryError
from runner.engine.journal import RUN_SCOPE, head, records
from runner.engine.parts import Parts
from runner.engine.postponed import Postponed
from runner.engine.scope import Evaluated, Evaluation, RunScope, ScopeError, Verdict
from runner.engine.state import SIGKILL, Preparation, StepState, StepStatus
from runner.executors.base import Earlier, Execution, Outcome, Task, Void, is_passing
from storage.git_errors import NoRoom
from storage.mask import Mask
from storage.records import PutValues, RunRow, Write
from storage.store import Conflict, StorageError

STORE_RETRY_S = 1.0
SAY_AGAIN_S = 60.0
LAUNCH_RETRY_S = 1.0  # doubled each time: every try of a launch leaves two facts in the run
LONGEST_LAUNCH_RETRY_S = 30.0
LONGEST_SLEEP_S = 60.0
BEFORE_PREPARATION = 2  # a run's first facts, Queued and Started, begin nothing

Effect = Callable[[], None]
Fact = tuple[Event, tuple[Write, ...]]
Found = TypeVar("Found")


class Supervisor:
    """Takes one admitted run to its end. `supervise` is called once."""

    def __init__(self, history: History, *, parts: Parts, folder: Path, workspace: Path) -> None:
        self.run = history.run
        self._parts = parts
        self._workflow = history.workflow
        self._prepares = scope.steps_to_prepare(history.workflow)
        self._state = fold(history.workflow, history.events, prepares=self._prepares)
        self._attempts = Attempts(
            history, state=self._state, parts=parts, folder=folder, workspace=workspace
        )
        self._workspace = workspace
        self._inbox: list[Fact] = []
        self._wake = asyncio.Event()
        self._executions: dict[str, Execution] = {}
        self._preparations: dict[str | None, asyncio.Task[None]] = {}
        self._held = 0  # slots taken for what runs or is being prepared
        self._begun_before = len(history.events) > BEFORE_PREPARATION
        self._earlier = [e for e in history.events if isinstance(e, Launched)]
        self._refused: dict[str, float] = {}  # step → seconds to its next try
        self._said: dict[tuple[str, str, str], float] = {}  # problem → loop time to say it again
        self._interrupt: Literal["", "stop", "kill"] = ""
        self._over = False

    @property
    def running(self) -> int:
        """Steps whose processes are alive now."""
        return len(self._executions)

    @property
    def mask(self) -> Mask:
        """What hides the run's secrets, as far as they are known by now."""
        return self._attempts.mask

    def request_stop(self, by: str) -> None:
        """Ask the run to stop; a second time kills. Takes effect in the loop's next turn."""
        self._deliver((StopRequested(self._parts.clock(), by), ()))

    def interrupt(self, *, kill: bool = False) -> None:
        """End what runs, as the machine goes away; the run itself goes on with a later start."""
        self._interrupt = "kill" if kill else "stop"
        self._wake.set()

    async def supervise(self) -> RunRow:
        """Run to the end and return the final head. Cancelling it leaves the processes alive."""
        try:
            if self._begun_before:
                await self._take_up()
            while not self._state.final:
                if not await self._turn():
                    await self._wait()
        finally:
            self._let_go()
        return head(self.run, self._state)

    def _let_go(self) -> None:
        """Leave alone what still runs: it is taken up again by whoever supervises the run next."""
        self._over = True
        for task in self._preparations.values():
            task.cancel()
        for execution in self._executions.values():
            execution.leave()
        self._parts.slots.forget(self._wake.set)
        self._release(self._held - len(self._preparations))  # those give back their own

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
        begun = [state.steps[i] for i in state.running]
        running = [step for step in begun if step.status is StepStatus.RUNNING]
        if all(launched.boot_id != self._parts.boot_id for launched in self._earlier):
            await self._mend_files()
        found = await asyncio.gather(*(self._resume(step) for step in running))
        if found:
            import structlog  # here: it loads rich, which a run seldom needs

            counts = {word: found.count(word) for word in ("running", "ended", "void", "lost")}
            structlog.get_logger(__name__).info("steps_taken_up", run=self.run, **counts)
        if state.preparation is Preparation.GOING_ON:
            end_evaluations(self._evaluation_mark(None))
            self._hold()
            self._begin_preparation(None)
        for step in begun:
            if step.preparation is Preparation.GOING_ON:
                end_evaluations(self._evaluation_mark(step.step.name))
                self._hold()
                self._begin_preparation(step.step.name)

    async def _mend_files(self) -> None:
        async def mend() -> None:
            self._attempts.mend_files()

        try:
            await self._in_time("files_not_mended", mend)
        except OSError as error:
            self._say("files_not_mended", error)  # who needs them will say so again

    async def _resume(self, step: StepState) -> str:
        """What became of a step that ran: `running`, `ended`, `void` or `lost`."""
        task = self._attempts.earlier_task(step)
        self._hold()
        earlier = Earlier(
            self.run,
            task.folder,
            same_boot=step.boot_id == self._parts.boot_id,
            killed=step.stop_signal_sent == SIGKILL,
        )
        executor = self._parts.executor
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
            self._release()
            now = self._parts.clock()
            self._deliver((LaunchVoided(now, task.step, task.attempt, task.launch), ()))
            return "void"
        if isinstance(found, Outcome):
            finding = await asyncio.to_thread(self._attempts.findings, task)
            self._concluded(task, found, finding)
            return "lost" if found.lost else "ended"
        self._executions[task.step] = found
        if step.stop_signal_sent is not None:
            found.send(step.stop_signal_sent)  # whether it was sent nobody knows
        return "running"

    # The loop

    async def _turn(self) -> bool:
        """Fold what arrived, decide until nothing is left, append once, then do. False: idle."""
        arrived, self._inbox = self._inbox, []
        new: list[Event] = []
        also: list[Write] = []
        effects: list[Effect] = []
        after = self._state.seq
        for event, writes in arrived:
            if self._outdated(event):
                continue
            self._record(event, new)
            also.extend(writes)
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
        self._stop_unwanted_preparations()
        if not new:
            self._interrupt = ""
            if leaves:
                await self._attempts.end_left_behind()
                return True
            if self._state.ready or self._state.retries:
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
        for effect in effects:
            effect()
        return True

    def _outdated(self, event: Event) -> bool:
        """A preparation's result that came after its step was cancelled."""
        if not isinstance(event, Prepared):
            return False
        if event.step is None:
            return self._state.outcome is not None
        return self._state.steps[self._state.index[event.step]].final

    def _record(self, event: Event, new: list[Event]) -> None:
        apply(self._state, event)
        new.append(event)

    async def _read_again(self, arrived: list[Fact]) -> None:
        """Someone wrote first: fold again from the store and put back what had arrived."""
        history = await self._history()
        self._state = fold(self._workflow, history.events, prepares=self._prepares)
        self._attempts.state = self._state
        self._release(self._held - len(self._executions) - len(self._preparations))
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
            case plan.Record(event):
                self._record(event, new)
            case plan.Prepare(step):
                self._prepare(step, now, new=new, also=also, effects=effects)
            case plan.Launch(step, attempt):
                self._launch(step, attempt, now, new=new, effects=effects)
            case plan.Stop(sent):
                self._record(sent, new)
                effects.append(lambda: self._send(sent.step, sent.signal))
            case _:
                assert_never(action)

    def _send(self, step: str, signal: int) -> None:
        if (execution := self._executions.get(step)) is not None:
            execution.send(signal)

    def _launch(
        self, step: str, attempt: int, now: datetime, *, new: list[Event], effects: list[Effect]
    ) -> None:
        launch = secrets.token_hex(4)
        try:
            task = self._attempts.task(step, attempt, launch)
        except (ScopeError, OSError) as error:
            ended = Ended(now, step, attempt, "", None, None, str(error), retryable=False)
            self._record(ended, new)
            return
        self._record(Launched(now, step, attempt, launch, self._parts.boot_id), new)
        self._hold()
        effects.append(lambda: self._spawn(task))

    def _spawn(self, task: Task) -> None:
        try:
            self._attempts.write_files(task)
        except OSError as error:
            problem, refused = f"could not be started: {error}", is_passing(error)
            self._ended(task, Outcome(self._parts.clock(), error=problem, refused=refused))
            return
        executor = self._parts.executor
        self._executions[task.step] = executor.start(task, lambda o: self._ended(task, o))

    def _ended(self, task: Task, outcome: Outcome) -> None:
        """An attempt is over: read what it left, here if that is quick, else in a thread."""
        if outcome.refused:
            self._postpone(task, outcome)
            return
        if findings.reads_quickly(task):
            self._concluded(task, outcome, self._attempts.findings(task))
            return
        reading = asyncio.get_running_loop().run_in_executor(None, self._attempts.findings, task)
        reading.add_done_callback(lambda f: self._concluded(task, outcome, f.result()))

    def _concluded(self, task: Task, outcome: Outcome, finding: Finding) -> None:
        if self._over:
            return  # whoever supervises the run next reads it again
        try:
            fact = self._attempts.conclude(task, outcome, finding)
        except OSError as error:
            if is_passing(error):
                self._say("outputs_wait", error, step=task.step)
                self._later(task, STORE_RETRY_S, lambda: self._concluded(task, outcome, finding))
                return
            lost = Finding(finding.log, error=f"its outputs could not be kept: {error}")
            fact = self._attempts.conclude(task, outcome, lost)
        self._executions.pop(task.step, None)
        self._release()
        self._deliver(fact)

    def _postpone(self, task: Task, outcome: Outcome) -> None:
        """The machine had no room for a launch, and it did not begin: make it void and launch
        again when that may succeed. A stop meanwhile ends it."""

        def void() -> None:
            self._executions.pop(task.step, None)
            self._release()
            self._attempts.forget(task)
            now = self._parts.clock()
            voided = LaunchVoided(now, task.step, task.attempt, task.launch, outcome.error)
            self._deliver((voided, ()))

        def stopped() -> None:
            self._concluded(task, outcome, self._attempts.findings(task))

        wait_s = self._refused.get(task.step, LAUNCH_RETRY_S)
        self._refused[task.step] = min(2 * wait_s, LONGEST_LAUNCH_RETRY_S)
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
        self._executions[task.step] = Postponed(wait_s, call, stopped=stopped)

    # Preparations

    def _prepare(
        self,
        step: str | None,
        now: datetime,
        *,
        new: list[Event],
        also: list[Write],
        effects: list[Effect],
    ) -> None:
        if step is None and not self._parts.checkout:
            done = self._at_once(now)
            if done is not None:
                self._record(done[0], new)
                also.extend(done[1])
                return
        self._record(PreparationStarted(now, step), new)
        self._hold()
        effects.append(lambda: self._begin_preparation(step))

    def _at_once(self, now: datetime) -> Fact | None:
        """The run's preparation, if no process is needed for it."""
        generator = self._attempts.preparation_of_run()
        try:
            self._attempts.lay_out()
            next(generator)
        except StopIteration as stop:
            return self._prepared_run(now, *stop.value)
        except (ScopeError, OSError) as error:
            return Prepared(now, None, True, error=str(error)), ()
        return None

    def _begin_preparation(self, step: str | None) -> None:
        task = asyncio.get_running_loop().create_task(self._preparation(step))
        self._preparations[step] = task
        task.add_done_callback(lambda _: self._preparation_over(step))

    def _preparation_over(self, step: str | None) -> None:
        self._preparations.pop(step, None)
        self._release()
        self._wake.set()

    def _stop_unwanted_preparations(self) -> None:
        for step, task in self._preparations.items():
            settled = self._state.outcome is not None
            if settled if step is None else self._state.steps[self._state.index[step]].final:
                task.cancel()

    async def _preparation(self, step: str | None) -> None:
        """Make the workspace (for the run), judge conditions, run command substitutions."""
        try:
            if step is None:
                await self._in_time("preparation_waits", self._make_place)
                result = await self._drive(
                    self._attempts.preparation_of_run(), step, cwd=self._workspace
                )
                self._deliver(self._prepared_run(self._parts.clock(), *result))
            else:
                cwd = self._attempts.directory(step)
                texts, verdict = await self._drive(self._attempts.preparation(step), step, cwd=cwd)
                event = Prepared(
                    self._parts.clock(), step, verdict.met, verdict.reason, verdict.error
                )
                self._deliver((event, self._attempts.keep_texts(step, texts)))
        except (ScopeError, OSError, StorageError) as error:
            self._deliver((Prepared(self._parts.clock(), step, True, error=str(error)), ()))

    async def _make_place(self) -> None:
        """The workspace, and the files that every step sees."""
        await self._make_workspace()
        self._attempts.lay_out()

    async def _make_workspace(self) -> None:
        queued = self._state.queued
        if self._parts.checkout is not None and queued is not None:
            if self._workspace.exists():  # of an earlier process that did not get to its end
                await asyncio.to_thread(workspace.remove, self._workspace)
            await self._parts.checkout(queued.repository, queued.commit, self._workspace)

    def _prepared_run(self, now: datetime, found: RunScope, verdict: Verdict) -> Fact:
        self._attempts.run_scope = found
        event = Prepared(
            now,
            None,
            verdict.met,
            verdict.reason,
            verdict.error,
            params=self._attempts.masked_params(),
        )
        return event, (PutValues(self.run, ((RUN_SCOPE, "scope", found.text()),)),)

    def _evaluation_mark(self, step: str | None) -> str:
        return f"{self.run}/{0 if step is None else self._state.index[step] + 1}"

    async def _drive(
        self, generator: Generator[Evaluation, Evaluated, Any], step: str | None, *, cwd: Path
    ) -> Any:
        """Feed a generator the evaluations that it asks for."""
        answer: Evaluated | None = None
        try:
            while True:
                wanted = next(generator) if answer is None else generator.send(answer)
                answer = await evaluate(wanted, cwd=cwd, mark=self._evaluation_mark(step))
        except StopIteration as stop:
            return stop.value


def _finishes(actions: list[plan.Action]) -> bool:
    last = actions[-1]
    return isinstance(last, plan.Record) and isinstance(last.event, Finished)
