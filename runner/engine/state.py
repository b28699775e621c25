"""What is known of a run: the fold of its events.

`apply` takes one event and changes the state in place; nothing else does. It keeps what `plan`
needs to decide without looking at every step: counts of unmet dependencies, heaps of ready steps
and of due instants, the set of running ones. Cost is linear in steps plus dependencies over the
whole run (a factor log n for the heaps). Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from heapq import heappop, heappush
from typing import assert_never

from runner.engine.events import (
    Cancelled,
    Ended,
    Event,
    Finished,
    Launched,
    LaunchVoided,
    LogDigest,
    OutputNote,
    PreparationStarted,
    Prepared,
    Queued,
    RunTimedOut,
    Settled,
    Skipped,
    Started,
    StopRequested,
    StopSent,
)
from runner.language.model import Step, Workflow

HANDLER_TIMEOUT_S = 600.0
SIGKILL = 9  # pure: the number, not the module `signal`
RUN_STOPPED = "run stopped"  # the StopSent reason that makes a step cancelled and not failed
MOST_LOSSES = 10  # a step that takes its machine down each time must not do so for ever


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


FINAL_STEP = frozenset(
    {StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.SKIPPED}
)


class Preparation(StrEnum):
    """Where a step (or the run) stands with what must be evaluated before it starts."""

    NEEDED = "needed"
    GOING_ON = "going on"
    DONE = "done"


class Block(StrEnum):
    """What a step's dependencies left it: the stronger one wins."""

    NONE = ""
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class StepState:
    """One step or handler of one run. `attempt` counts the attempts that were begun."""

    step: Step
    index: int
    unmet: int
    preparation: Preparation
    status: StepStatus = StepStatus.PENDING
    block: Block = Block.NONE
    attempt: int = 0
    launch: str = ""
    boot_id: str = ""  # of the boot that the launch belongs to
    stop_signal_sent: int | None = None
    stop_reason: str = ""
    tolerated: bool = False
    lost: bool = False  # nobody can know how the last attempt ended
    losses: int = 0  # attempts that ended so; they use up no retry
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: datetime | None = None  # of the first attempt
    attempt_started_at: datetime | None = None
    ended_at: datetime | None = None
    due: datetime | None = None  # of the next attempt
    log: LogDigest | None = None
    outputs: tuple[OutputNote, ...] = ()

    @property
    def final(self) -> bool:
        return self.status in FINAL_STEP


class DeadlineKind(StrEnum):
    STEP_TIMEOUT = "step timeout"
    KILL = "kill"
    RUN_TIMEOUT = "run timeout"


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """Something to do at `at`; void once the launch it was set for is over."""

    at: datetime
    kind: DeadlineKind
    index: int = -1
    launch: str = ""


@dataclass(slots=True)
class RunState:
    """The whole run. Made by `fresh`, changed by `apply` only."""

    workflow: Workflow
    steps: list[StepState]
    handlers: list[int]  # indexes behind the steps: success, failure, exit, where defined
    index: dict[str, int]
    dependents: list[list[int]]
    seq: int = 0
    queued: Queued | None = None
    status: RunStatus = RunStatus.QUEUED
    reason: str = ""
    started: Started | None = None
    preparation: Preparation = Preparation.NEEDED
    params: tuple[tuple[str, str], ...] = ()
    finished_at: datetime | None = None
    outcome: RunStatus | None = None
    open: int = 0  # steps that are not final, handlers not counted
    succeeded: int = 0
    tolerated: int = 0
    first_failure: int | None = None
    verdicts: deque[int] = field(default_factory=deque)  # blocked steps, to be skipped or cancelled
    ready: list[int] = field(default_factory=list)  # heap by document order
    retries: list[tuple[datetime, int]] = field(default_factory=list)  # heap
    deadlines: list[Deadline] = field(default_factory=list)  # heap
    running: dict[int, None] = field(default_factory=dict)  # running or being prepared
    pending: dict[int, None] = field(default_factory=dict)  # steps neither begun nor final
    next_handlers: deque[int] = field(default_factory=deque)
    failed_handler: int | None = None
    stops: list[StopRequested] = field(default_factory=list)
    timed_out: RunTimedOut | None = None
    preparation_error: str = ""
    unmet_condition: str | None = None

    @property
    def final(self) -> bool:
        return self.finished_at is not None

    @property
    def first_handler(self) -> int:
        return len(self.workflow.steps)

    @property
    def stopping(self) -> bool:
        """No further step may begin (handlers still do)."""
        return bool(self.stops) or self.timed_out is not None or bool(self.preparation_error)

    def failed_steps(self) -> list[str]:
        return [s.step.name for s in self.steps if s.status is StepStatus.FAILED]


def fresh(workflow: Workflow, *, prepares: frozenset[str]) -> RunState:
    """The state before the first event. `prepares` names the steps that need something evaluated
    before each of them starts (preconditions, command substitutions)."""
    steps = [*workflow.steps, *workflow.handlers]
    index = {step.name: i for i, step in enumerate(steps)}
    dependents: list[list[int]] = [[] for _ in steps]
    states = []
    for i, step in enumerate(steps):
        needed = step.name in prepares or bool(step.preconditions)
        before = set(step.depends)
        for name in before:
            dependents[index[name]].append(i)
        states.append(
            StepState(
                step=step,
                index=i,
                unmet=len(before),
                preparation=Preparation.NEEDED if needed else Preparation.DONE,
            )
        )
    for below in dependents:
        below.sort()
    state = RunState(
        workflow=workflow,
        steps=states,
        handlers=list(range(len(workflow.steps), len(steps))),
        index=index,
        dependents=dependents,
        open=len(workflow.steps),
    )
    state.pending = dict.fromkeys(range(len(workflow.steps)))
    return state


def fold(workflow: Workflow, events: Iterable[Event], *, prepares: frozenset[str]) -> RunState:
    state = fresh(workflow, prepares=prepares)
    for event in events:
        apply(state, event)
    return state


def apply(state: RunState, event: Event) -> None:
    """Fold one event in."""
    state.seq += 1
    match event:
        case Queued():
            state.queued = event
            state.params = event.params
        case Started():
            state.started = event
            state.status = RunStatus.RUNNING
        case PreparationStarted():
            _preparation_started(state, event)
        case Prepared():
            _prepared(state, event)
        case Launched():
            _launched(state, event)
        case LaunchVoided():
            _launch_voided(state, event)
        case StopSent():
            _stop_sent(state, event)
        case Ended():
            _ended(state, event)
        case Skipped() | Cancelled():
            _passed_over(state, event)
        case StopRequested():
            state.stops.append(event)
        case RunTimedOut():
            state.timed_out = event
        case Settled():
            _settled(state, event)
        case Finished():
            state.status = RunStatus(event.status)
            state.reason = event.reason
            state.finished_at = event.at
        case _:
            assert_never(event)
    _drop_void(state)


def _preparation_started(state: RunState, event: PreparationStarted) -> None:
    if event.step is None:
        state.preparation = Preparation.GOING_ON
        return
    step = state.steps[state.index[event.step]]
    step.preparation = Preparation.GOING_ON
    _leave_ready(state, step)
    state.running[step.index] = None


def _prepared(state: RunState, event: Prepared) -> None:
    if event.step is None:
        _run_prepared(state, event)
        return
    step = state.steps[state.index[event.step]]
    step.preparation = Preparation.DONE
    state.running.pop(step.index, None)
    if event.error:
        step.reason = event.error
        step.tolerated = step.step.continue_on.failure
        _become(state, step, StepStatus.FAILED, event.at)
    elif not event.met:
        step.reason = event.reason
        _become(state, step, StepStatus.SKIPPED, event.at)
    else:
        heappush(state.ready, step.index)


def _run_prepared(state: RunState, event: Prepared) -> None:
    state.preparation = Preparation.DONE
    state.params = event.params
    if event.error:
        state.preparation_error = event.error
        return
    if not event.met:
        state.unmet_condition = event.reason
        return
    timeout_s = state.workflow.timeout_s
    if timeout_s is not None and state.started is not None:
        at = state.started.at + timedelta(seconds=timeout_s)
        heappush(state.deadlines, Deadline(at, DeadlineKind.RUN_TIMEOUT))
    for step in state.steps[: state.first_handler]:
        if step.unmet == 0:
            heappush(state.ready, step.index)


def _launched(state: RunState, event: Launched) -> None:
    step = state.steps[state.index[event.step]]
    if step.status is StepStatus.RETRYING:
        heappop(state.retries)
    else:
        _leave_ready(state, step)
    state.pending.pop(step.index, None)
    step.status = StepStatus.RUNNING
    step.attempt = event.attempt
    step.launch, step.boot_id = event.launch, event.boot_id
    step.stop_signal_sent, step.stop_reason = None, ""
    step.started_at = step.started_at or event.at
    step.attempt_started_at = event.at
    step.due = None
    state.running[step.index] = None
    timeout_s = step.step.timeout_s
    if timeout_s is None and step.index >= state.first_handler:
        timeout_s = HANDLER_TIMEOUT_S
    if timeout_s is not None:
        at = event.at + timedelta(seconds=timeout_s)
        heappush(state.deadlines, Deadline(at, DeadlineKind.STEP_TIMEOUT, step.index, event.launch))


def _launch_voided(state: RunState, event: LaunchVoided) -> None:
    """As if the launch had not been: the step waits where it waited before."""
    step = state.steps[state.index[event.step]]
    state.running.pop(step.index, None)
    step.attempt -= 1
    step.launch, step.attempt_started_at = "", None
    if step.attempt:
        step.status, step.due = StepStatus.RETRYING, event.at
        heappush(state.retries, (event.at, step.index))
        return
    step.status, step.started_at = StepStatus.PENDING, None
    if step.index < state.first_handler:
        state.pending[step.index] = None
    heappush(state.ready, step.index)


def _leave_ready(state: RunState, step: StepState) -> None:
    # plan only ever takes the top, so this is a pop and not a search
    if state.ready and state.ready[0] == step.index:
        heappop(state.ready)


def _stop_sent(state: RunState, event: StopSent) -> None:
    step = state.steps[state.index[event.step]]
    first = step.stop_signal_sent is None
    step.stop_signal_sent = event.signal
    if first:
        step.stop_reason = event.reason
        at = event.at + timedelta(seconds=state.workflow.max_clean_up_s)
        heappush(state.deadlines, Deadline(at, DeadlineKind.KILL, step.index, step.launch))


def _ended(state: RunState, event: Ended) -> None:
    step = state.steps[state.index[event.step]]
    if not event.launch:  # could not be started: it leaves the place where it waited
        if step.status is StepStatus.RETRYING:
            heappop(state.retries)
        else:
            _leave_ready(state, step)
        step.attempt = event.attempt
        step.started_at = step.started_at or event.at
        step.attempt_started_at = event.at
    state.running.pop(step.index, None)
    step.exit_code, step.signal = event.exit_code, event.signal
    step.reason, step.log, step.outputs = event.reason, event.log, event.outputs
    step.ended_at = event.at
    step.lost = event.lost
    step.losses += event.lost
    if not event.reason:
        _become(state, step, StepStatus.SUCCEEDED, event.at)
    elif _retries_again(state, step, event):
        step.status = StepStatus.RETRYING
        step.due = event.at + timedelta(seconds=0 if event.lost else _retry_wait_s(step))
        heappush(state.retries, (step.due, step.index))
    elif step.stop_reason == RUN_STOPPED:
        _become(state, step, StepStatus.CANCELLED, event.at)
    else:
        _fail(state, step, event)


def _fail(state: RunState, step: StepState, event: Ended) -> None:
    policy = step.step.continue_on
    step.tolerated = (
        policy.failure or event.output_matched or (event.exit_code in policy.exit_codes)
    )
    if step.tolerated and policy.mark_success:
        step.reason = f"{event.reason}, counted as success"
        _become(state, step, StepStatus.SUCCEEDED, event.at)
    else:
        _become(state, step, StepStatus.FAILED, event.at)


def _retries_again(state: RunState, step: StepState, event: Ended) -> bool:
    policy = step.step.retry
    if step.stop_reason == RUN_STOPPED or (step.index < state.first_handler and state.stopping):
        return False
    if event.lost:
        return step.step.retry_on_loss and step.losses <= MOST_LOSSES
    if policy is None or not event.retryable or step.attempt - step.losses > policy.limit:
        return False
    if not policy.exit_codes:
        return True
    # a process's code is its low byte: 429 in a policy means the 173 that the system made of it
    return event.exit_code is not None and event.exit_code in {c & 0xFF for c in policy.exit_codes}


def _retry_wait_s(step: StepState) -> float:
    policy = step.step.retry
    if policy is None:
        return 0.0
    # the exponent is capped: 2.0**1024 is an OverflowError
    wait_s = policy.interval_s * policy.factor ** min(step.attempt - step.losses - 1, 64)
    return min(wait_s, policy.max_interval_s if policy.max_interval_s is not None else 86_400.0 * 7)


def _passed_over(state: RunState, event: Skipped | Cancelled) -> None:
    step = state.steps[state.index[event.step]]
    if step.status is StepStatus.RETRYING:
        state.retries = [entry for entry in state.retries if entry[1] != step.index]
    state.running.pop(step.index, None)  # it was being prepared
    step.reason = event.reason
    status = StepStatus.SKIPPED if isinstance(event, Skipped) else StepStatus.CANCELLED
    _become(state, step, status, event.at)


def _become(state: RunState, step: StepState, status: StepStatus, at: datetime) -> None:
    """A step is final: count it and tell its dependents."""
    step.status = status
    step.ended_at = step.ended_at or at
    if step.index >= state.first_handler:
        if status is StepStatus.FAILED and not step.tolerated and state.failed_handler is None:
            state.failed_handler = step.index
        _next_handler(state)
        return
    state.pending.pop(step.index, None)
    state.open -= 1
    if status is StepStatus.SUCCEEDED:
        state.succeeded += 1
    elif status is StepStatus.FAILED:
        if step.tolerated:
            state.tolerated += 1
        elif state.first_failure is None:
            state.first_failure = step.index
    block = _block_below(step)
    for i in state.dependents[step.index]:
        below = state.steps[i]
        below.unmet -= 1
        if block is Block.CANCELLED or below.block is Block.NONE:
            below.block = block if block is not Block.NONE else below.block
        if below.unmet == 0 and not below.final:
            if below.block is Block.NONE:
                heappush(state.ready, i)
            else:
                state.verdicts.append(i)


def _block_below(step: StepState) -> Block:
    match step.status:
        case StepStatus.FAILED:
            return Block.NONE if step.tolerated else Block.CANCELLED
        case StepStatus.CANCELLED:
            return Block.CANCELLED
        case StepStatus.SKIPPED:
            return Block.NONE if step.step.continue_on.skipped else Block.SKIPPED
        case _:
            return Block.NONE


def _settled(state: RunState, event: Settled) -> None:
    state.outcome = RunStatus(event.outcome)
    state.reason = event.reason
    workflow = state.workflow
    wanted: list[Step | None] = []
    if state.outcome in (RunStatus.SUCCEEDED, RunStatus.PARTIALLY_SUCCEEDED):
        wanted.append(workflow.on_success)
    elif state.outcome is RunStatus.FAILED:
        wanted.append(workflow.on_failure)
    if state.outcome is not RunStatus.SKIPPED:
        wanted.append(workflow.on_exit)
    state.next_handlers = deque(state.index[h.name] for h in wanted if h is not None)
    _next_handler(state)


def _next_handler(state: RunState) -> None:
    if state.next_handlers:
        heappush(state.ready, state.next_handlers.popleft())


def _drop_void(state: RunState) -> None:
    """Keep valid what plan looks at first; what is void below is dropped when it surfaces."""
    while state.verdicts and state.steps[state.verdicts[0]].final:
        state.verdicts.popleft()
    while state.ready and state.steps[state.ready[0]].final:
        heappop(state.ready)
    while state.deadlines and _void(state, state.deadlines[0]):
        heappop(state.deadlines)


def _void(state: RunState, deadline: Deadline) -> bool:
    if deadline.kind is DeadlineKind.RUN_TIMEOUT:
        return state.timed_out is not None or state.outcome is not None or state.open == 0
    step = state.steps[deadline.index]
    if step.status is not StepStatus.RUNNING or step.launch != deadline.launch:
        return True
    if deadline.kind is DeadlineKind.STEP_TIMEOUT:
        return step.stop_signal_sent is not None
    return step.stop_signal_sent == SIGKILL
