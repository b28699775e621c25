"""How each fact changes what is known of a run.

`apply` takes one event and changes the state in place; nothing else does. It keeps what `plan`
needs to decide without looking at every step (see `state`). Cost is linear in units plus
dependencies over the whole run, a factor log n for the heaps. Pure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import assert_never

from runner.engine.events import (
    ApprovalAsked,
    ApprovalRefused,
    Approved,
    Cancelled,
    Carried,
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
    Queued,
    RunTimedOut,
    Settled,
    Skipped,
    Started,
    StopRequested,
    StopSent,
)
from runner.engine.state import (
    HANDLER_TIMEOUT_S,
    MOST_LOSSES,
    RUN_STOPPED,
    SIGKILL,
    Block,
    Deadline,
    DeadlineKind,
    Preparation,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
    Unit,
    fresh,
)
from runner.language.model import RepeatMode, Step, Workflow


def fold(
    workflow: Workflow,
    events: Iterable[Event],
    *,
    prepares: frozenset[str],
    item_prepares: frozenset[str] = frozenset(),
) -> RunState:
    state = fresh(workflow, prepares=prepares, item_prepares=item_prepares)
    for event in events:
        apply(state, event)
    return state


def apply(state: RunState, event: Event) -> None:
    """Fold one event in."""
    state.seq += 1
    match event:
        case Launched():  # the most frequent ones first: a match tries its cases in order
            _launched(state, event)
        case Ended():
            _ended(state, event)
        case PreparationStarted():
            _preparation_started(state, event)
        case Prepared():
            _prepared(state, event)
        case ApprovalAsked() | Approved() | ApprovalRefused():
            _approval(state, event)
        case LaunchVoided():
            _launch_voided(state, event)
        case StopSent():
            _stop_sent(state, event)
        case JudgingStarted():
            key = state.to_judge.popleft()
            _enter(state, state.unit(key), occupies=True)
        case Judged():
            _judged(state, event)
        case ChildWaits():
            _child_waits(state, event)
        case Skipped() | Cancelled():
            _passed_over(state, event)
        case Carried():
            _carried(state, event)
        case Queued() | Started() | StopRequested() | RunTimedOut() | Settled() | Finished():
            _of_run(state, event)
        case _:
            assert_never(event)
    _drop_void(state)
    if state.waiting or state.held_up or state.status is RunStatus.WAITING:
        _note_waiting(state, event.at)
    while state.deadlines and _void(state, state.deadlines[0]):
        heappop(state.deadlines)


def _of_run(
    state: RunState,
    event: Queued | Started | StopRequested | RunTimedOut | Settled | Finished,
) -> None:
    match event:
        case Queued():
            state.queued = event
            state.params = event.params
        case Started():
            state.started = event
            state.status = RunStatus.RUNNING
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


# What runs, and what could


def _enter(state: RunState, unit: Unit, *, occupies: bool) -> None:
    state.running[unit.key] = unit
    unit.occupies = occupies
    state.occupied += occupies


def _leave(state: RunState, unit: Unit) -> None:
    if state.running.pop(unit.key, None) is not None:
        state.occupied -= unit.occupies
        unit.occupies = False
        state.held_up -= unit.child_waits
        unit.child_waits = False


def _offer(state: RunState, step: StepState) -> None:
    """The step can begin, or some of its items can."""
    if step.items is not None and not step.open_items:
        state.concluding.append(step.index)
    elif not step.enqueued:
        step.enqueued = True
        heappush(_heap(state, step), step.index)


def _heap(state: RunState, step: StepState) -> list[int]:
    alone = step.step.run is None or step.preparation is not Preparation.DONE
    return state.ready if alone or step.prepares_items else state.ready_runs


def _withdraw(state: RunState, step: StepState) -> None:
    # plan only ever takes the top, so this is a pop and not a search
    for heap in (state.ready, state.ready_runs):
        if heap and heap[0] == step.index:
            heappop(heap)
            step.enqueued = False


def _take_place(state: RunState, unit: Unit) -> None:
    """The unit leaves the place where it waited to begin, or to begin again."""
    step = state.steps[unit.index]
    if unit.status is StepStatus.RETRYING:
        heappop(state.retries)
        return
    if unit.item is None:
        _withdraw(state, step)
        return
    step.queue.popleft()
    state.pending.pop(step.index, None)
    state.fanned[step.index] = None
    unit.active = True
    step.active_items += 1
    if not _can_begin_item(step):
        _withdraw(state, step)


def _can_begin_item(step: StepState) -> bool:
    most = step.step.parallel.max_concurrent if step.step.parallel is not None else 1
    return bool(step.queue) and step.active_items < most


def _give_place(state: RunState, unit: Unit, *, back: bool) -> None:
    """An item gives up its place; `back`: it waits for another one, first of all."""
    step = state.steps[unit.index]
    if unit.item is None:
        return
    if unit.active:
        unit.active = False
        step.active_items -= 1
    if back:
        step.queue.appendleft(unit.item)
    if _can_begin_item(step):
        _offer(state, step)


def _list_items(step: StepState, previews: tuple[str, ...]) -> None:
    preparation = Preparation.NEEDED if step.prepares_items else Preparation.DONE
    step.previews = previews
    step.items = [
        Unit(step=step.step, index=step.index, item=n, preparation=preparation)
        for n in range(len(previews))
    ]
    step.queue = deque(range(len(previews)))
    step.open_items = len(previews)


# Preparations


def _preparation_started(state: RunState, event: PreparationStarted) -> None:
    if event.step is None:
        state.preparation = Preparation.GOING_ON
        return
    unit = state.unit_of(event.step, event.item)
    unit.preparation = Preparation.GOING_ON
    _take_place(state, unit)
    _enter(state, unit, occupies=True)


def _prepared(state: RunState, event: Prepared) -> None:
    if event.step is None:
        _run_prepared(state, event)
        return
    step = state.steps[state.index[event.step]]
    unit = step.unit(event.item)
    if unit.preparation is Preparation.NEEDED:  # it took no time, so that it never began
        _take_place(state, unit)
    unit.preparation = Preparation.DONE
    _leave(state, unit)
    if event.items is not None:
        _list_items(step, event.items)
    if event.error:
        unit.reason = event.error
        _fail(state, unit, event.at)
    elif not event.met:
        unit.reason = event.reason
        _end(state, unit, StepStatus.SKIPPED, event.at)
    elif unit.item is None:
        _offer(state, step)
    else:
        _give_place(state, unit, back=True)


def _run_prepared(state: RunState, event: Prepared) -> None:
    state.preparation = Preparation.DONE
    state.params = event.params
    if event.error:
        state.preparation_error = event.error
        return
    if not event.met:
        state.unmet_condition = event.reason
        return
    state.remark = event.reason
    timeout_s = state.workflow.timeout_s
    if timeout_s is not None and state.started is not None:
        _set_run_deadline(state, state.started.at + timedelta(seconds=timeout_s))
    if state.init is None:
        _release(state)
    else:
        state.pending[state.init] = None
        _offer(state, state.steps[state.init])


def _release(state: RunState) -> None:
    """Steps may begin from here on."""
    state.released = True
    for step in state.steps[: state.first_handler]:
        if step.unmet == 0 and not step.final:
            _unblock(state, step)


def _unblock(state: RunState, step: StepState) -> None:
    if step.block is Block.NONE:
        _offer(state, step)
    else:
        state.verdicts.append(step.index)


def _set_run_deadline(state: RunState, at: datetime) -> None:
    state.run_deadline = at
    heappush(state.deadlines, Deadline(at, DeadlineKind.RUN_TIMEOUT))


# Approval


def _approval(state: RunState, event: ApprovalAsked | Approved | ApprovalRefused) -> None:
    step = state.steps[state.index[event.step]]
    match event:
        case ApprovalAsked():
            _withdraw(state, step)
            step.status = StepStatus.WAITING
            step.asked = event
            state.waiting[step.index] = None
            heappush(state.deadlines, Deadline(event.due, DeadlineKind.APPROVAL, step.index))
        case Approved():
            del state.waiting[step.index]
            step.status = StepStatus.PENDING
            step.answered = event
            _offer(state, step)
        case ApprovalRefused():
            del state.waiting[step.index]
            step.answered = event
            step.reason = event.reason
            _fail(state, step, event.at)
        case _:
            assert_never(event)


def _note_waiting(state: RunState, at: datetime) -> None:
    """Whether the run waits for people and for nothing else; its time limit stands still then."""
    busy = (
        not (state.waiting or state.held_up)
        or len(state.running) > state.held_up
        or state.ready
        or state.ready_runs
        or state.retries
        or state.concluding
        or state.to_judge
        or state.verdicts
    )
    if state.status is RunStatus.RUNNING and not busy and state.outcome is None:
        state.status = RunStatus.WAITING
        state.waiting_since = at
    elif state.status is RunStatus.WAITING and busy:
        state.status = RunStatus.RUNNING
        since, state.waiting_since = state.waiting_since, None
        if state.run_deadline is not None and since is not None and state.timed_out is None:
            _set_run_deadline(state, state.run_deadline + (at - since))


# Attempts


def _launched(state: RunState, event: Launched) -> None:
    step = state.steps[state.index[event.step]]
    unit = step.unit(event.item)
    _take_place(state, unit)
    state.pending.pop(step.index, None)
    if event.item is not None:
        step.status = StepStatus.RUNNING
        step.attempt = max(step.attempt, event.attempt)
        step.started_at = step.started_at or event.at
    unit.status = StepStatus.RUNNING
    unit.attempt = event.attempt
    unit.launch, unit.boot_id = event.launch, event.boot_id
    unit.stop_signal_sent, unit.stop_reason = None, ""
    unit.started_at = unit.started_at or event.at
    unit.attempt_started_at = event.at
    unit.due = unit.deadline = unit.waits_since = None
    _enter(state, unit, occupies=step.step.run is None)
    timeout_s = step.step.timeout_s
    if timeout_s is None and step.index >= state.first_handler:
        timeout_s = HANDLER_TIMEOUT_S
    if timeout_s is not None:
        _set_deadline(state, unit, event.at + timedelta(seconds=timeout_s))


def _set_deadline(state: RunState, unit: Unit, at: datetime) -> None:
    unit.deadline = at
    heappush(state.deadlines, Deadline(at, DeadlineKind.STEP_TIMEOUT, *unit.key, unit.launch))


def _child_waits(state: RunState, event: ChildWaits) -> None:
    """The time limit of a step stands still while its child run waits for people only."""
    unit = state.unit_of(event.step, event.item)
    state.held_up += event.waits - unit.child_waits
    unit.child_waits = event.waits
    since, unit.waits_since = unit.waits_since, event.at if event.waits else None
    if not event.waits and since is not None and unit.deadline is not None:
        _set_deadline(state, unit, unit.deadline + (event.at - since))


def _launch_voided(state: RunState, event: LaunchVoided) -> None:
    """As if the launch had not been: the unit waits where it waited before."""
    unit = state.unit_of(event.step, event.item)
    _leave(state, unit)
    unit.attempt -= 1
    unit.launch, unit.attempt_started_at = "", None
    if unit.attempt:
        unit.status, unit.due = StepStatus.RETRYING, event.at
        heappush(state.retries, (event.at, *unit.key))
        return
    unit.status, unit.started_at = StepStatus.PENDING, None
    if unit.item is not None:
        _give_place(state, unit, back=True)
        return
    if state.before_outcome(unit):
        state.pending[unit.index] = None
    _offer(state, state.steps[unit.index])


def _stop_sent(state: RunState, event: StopSent) -> None:
    unit = state.unit_of(event.step, event.item)
    first = unit.stop_signal_sent is None
    unit.stop_signal_sent = event.signal
    if first:
        unit.stop_reason = event.reason
    if first and unit.step.run is None:  # a child run has its own time to clean up
        at = event.at + timedelta(seconds=state.workflow.max_clean_up_s)
        heappush(state.deadlines, Deadline(at, DeadlineKind.KILL, *unit.key, unit.launch))


def _ended(state: RunState, event: Ended) -> None:
    step = state.steps[state.index[event.step]]
    if step.items is not None and event.item is None:
        _concluded(state, step, event)
        return
    unit = step.unit(event.item)
    if not event.launch:  # could not be started: it leaves the place where it waited
        _take_place(state, unit)
        unit.attempt = event.attempt
        unit.started_at = unit.started_at or event.at
        unit.attempt_started_at = event.at
    _leave(state, unit)
    unit.exit_code, unit.signal = event.exit_code, event.signal
    unit.reason, unit.log, unit.outputs = event.reason, event.log, event.outputs
    unit.ended_at, unit.matched = event.at, event.output_matched
    unit.lost = event.lost
    unit.losses += event.lost
    if event.skipped:
        _end(state, unit, StepStatus.SKIPPED, event.at)
    elif _code_decides(unit):
        if not _repeats(state, unit, event.at):
            _close(state, unit, event.at)
    elif _retries_again(state, unit, event):
        wait_s = 0.0 if event.lost else _retry_wait_s(unit)
        _try_again(state, unit, event.at + timedelta(seconds=wait_s))
    elif not _repeats(state, unit, event.at):
        _close(state, unit, event.at)


def _try_again(state: RunState, unit: Unit, at: datetime) -> None:
    unit.status, unit.due = StepStatus.RETRYING, at
    heappush(state.retries, (at, *unit.key))


def _close(state: RunState, unit: Unit, at: datetime) -> None:
    """The last attempt of a unit is over: what its end says counts."""
    if not unit.reason:
        _end(state, unit, StepStatus.SUCCEEDED, at)
    elif unit.stop_reason == RUN_STOPPED:
        _end(state, unit, StepStatus.CANCELLED, at)
    else:
        _fail(state, unit, at)


def _fail(state: RunState, unit: Unit, at: datetime) -> None:
    """A failed item only counts for its step; what a failed step is worth, `continueOn` says."""
    if not isinstance(unit, StepState):
        _end(state, unit, StepStatus.FAILED, at)
        return
    policy = unit.step.continue_on
    unit.tolerated = policy.failure or unit.matched or _is_one_of(unit.exit_code, policy.exit_codes)
    if unit.tolerated and policy.mark_success:
        unit.reason = f"{unit.reason}, counted as success"
        _end(state, unit, StepStatus.SUCCEEDED, at)
    else:
        _end(state, unit, StepStatus.FAILED, at)


def _may_go_on(state: RunState, unit: Unit) -> bool:
    """Whether another attempt may follow."""
    stopped = unit.stop_reason == RUN_STOPPED
    return not stopped and not (state.stopping and state.before_outcome(unit))


def _retries_again(state: RunState, unit: Unit, event: Ended) -> bool:
    policy = unit.step.retry
    if not event.reason or not _may_go_on(state, unit):
        return False
    if event.lost:
        return unit.step.retry_on_loss and unit.losses <= MOST_LOSSES
    if policy is None or not event.retryable or _tries(unit) > policy.limit:
        return False
    if not policy.exit_codes:
        return True
    return _is_one_of(event.exit_code, policy.exit_codes)


def _tries(unit: Unit) -> int:
    """Attempts of this execution that count."""
    return unit.attempt - unit.losses - unit.spent


def _is_one_of(code: int | None, codes: Sequence[int]) -> bool:
    """A process's code is its low byte: 429 also means the 173 that the system makes of it."""
    return code is not None and (code in codes or code in {known & 0xFF for known in codes})


def _retry_wait_s(unit: Unit) -> float:
    policy = unit.step.retry
    if policy is None:
        return 0.0
    return _growing(policy.interval_s, policy.factor, _tries(unit), most=policy.max_interval_s)


def _growing(first_s: float, factor: float, n: int, *, most: float | None) -> float:
    # the exponent is capped: 2.0**1024 is an OverflowError
    wait_s = first_s * factor ** min(n - 1, 64)
    return min(wait_s, most if most is not None else 86_400.0 * 7)


# Repetitions


def _repeats(state: RunState, unit: Unit, at: datetime) -> bool:
    """Whether another execution follows, or is still to be judged. Also turns the end of the last
    one into what the policy makes of it."""
    policy = unit.step.repeat
    if policy is None or unit.stop_reason or unit.lost or not _may_go_on(state, unit):
        return False
    last = policy.limit is not None and unit.repetition >= policy.limit
    if policy.exit_codes:
        return _repeats_by_code(state, unit, at, last=last)
    if unit.reason:
        return False
    if policy.condition is None:
        if not last:
            _repeat(state, unit, at)
        return not last
    if last and policy.mode is RepeatMode.WHILE:
        return False
    unit.status, unit.judging = StepStatus.RETRYING, True
    state.to_judge.append(unit.key)
    return True


def _code_decides(unit: Unit) -> bool:
    """Whether the code of an attempt is one that repeatPolicy speaks of: then it is no failure that
    a retry could mend."""
    policy = unit.step.repeat
    if policy is None or not policy.exit_codes or unit.exit_code is None or unit.stop_reason:
        return False
    return policy.mode is RepeatMode.UNTIL or _is_one_of(unit.exit_code, policy.exit_codes)


def _repeats_by_code(state: RunState, unit: Unit, at: datetime, *, last: bool) -> bool:
    policy = unit.step.repeat
    if policy is None or unit.exit_code is None:
        return False
    listed = _is_one_of(unit.exit_code, policy.exit_codes)
    if policy.mode is RepeatMode.UNTIL and listed:
        unit.reason = ""  # what was waited for
        return False
    if policy.mode is not RepeatMode.UNTIL and not listed:
        return False
    if not last:
        _repeat(state, unit, at)
    elif policy.mode is RepeatMode.UNTIL:
        unit.reason = f"exit code {unit.exit_code}, {_not_met(unit)}"
    return not last


def _not_met(unit: Unit) -> str:
    return f"still not met after {unit.repetition} executions"


def _repeat(state: RunState, unit: Unit, at: datetime) -> None:
    policy = unit.step.repeat
    if policy is None:
        raise ValueError(f"step {unit.step.name} has no repeatPolicy")
    wait_s = _growing(policy.interval_s, policy.factor, unit.repetition, most=policy.max_interval_s)
    unit.repetition += 1
    unit.spent = unit.attempt - unit.losses
    _try_again(state, unit, at + timedelta(seconds=wait_s))


def _judged(state: RunState, event: Judged) -> None:
    unit = state.unit_of(event.step, event.item)
    _leave(state, unit)
    unit.judging = False
    policy = unit.step.repeat
    until = policy is not None and policy.mode is RepeatMode.UNTIL
    last = policy is not None and policy.limit is not None and unit.repetition >= policy.limit
    if event.error:
        unit.reason = event.error
    elif event.met is not until and not last and _may_go_on(state, unit):
        _repeat(state, unit, event.at)
        return
    elif until and not event.met:
        unit.reason = _not_met(unit)
    _close(state, unit, event.at)


# Ends


def _concluded(state: RunState, step: StepState, event: Ended) -> None:
    """All items of a parallel step are over, and this is what they amount to."""
    if state.concluding and state.concluding[0] == step.index:
        state.concluding.popleft()
    state.fanned.pop(step.index, None)
    step.reason, step.exit_code, step.outputs = event.reason, event.exit_code, event.outputs
    step.ended_at, step.matched = event.at, event.output_matched
    if event.skipped:
        _end(state, step, StepStatus.SKIPPED, event.at)
        return
    if any(item.status is StepStatus.CANCELLED for item in step.items or ()):
        step.stop_reason = RUN_STOPPED
    _close(state, step, event.at)


def _passed_over(state: RunState, event: Skipped | Cancelled) -> None:
    step = state.steps[state.index[event.step]]
    step.reason = event.reason
    state.waiting.pop(step.index, None)
    if step.index in state.fanned:
        _cancel_items(state, step, event.at)
        return
    _forget(state, step)
    status = StepStatus.SKIPPED if isinstance(event, Skipped) else StepStatus.CANCELLED
    _end(state, step, status, event.at)


def _cancel_items(state: RunState, step: StepState, at: datetime) -> None:
    """All that do not run now; those that do are told to stop one by one."""
    waiting = {i.key for i in step.items or () if not i.final and i.status != StepStatus.RUNNING}
    state.retries = [entry for entry in state.retries if entry[1:] not in waiting]
    heapify(state.retries)
    state.to_judge = deque(key for key in state.to_judge if key not in waiting)
    step.queue.clear()
    for _, n in waiting:
        item = step.unit(n)
        _leave(state, item)
        item.reason = step.reason
        _end(state, item, StepStatus.CANCELLED, at)


def _forget(state: RunState, unit: Unit) -> None:
    """It waits no longer for another attempt, nor is it being prepared or judged."""
    if unit.status is StepStatus.RETRYING:
        state.retries = [entry for entry in state.retries if entry[1:] != unit.key]
        heapify(state.retries)
        state.to_judge = deque(key for key in state.to_judge if key != unit.key)
    _leave(state, unit)


def _end(state: RunState, unit: Unit, status: StepStatus, at: datetime) -> None:
    """A unit is final."""
    if isinstance(unit, StepState):
        _become(state, unit, status, at)
        return
    step = state.steps[unit.index]
    unit.status, unit.judging = status, False
    unit.ended_at = unit.ended_at or at
    step.open_items -= 1
    _give_place(state, unit, back=False)
    if not step.open_items:
        state.concluding.append(step.index)


def _become(state: RunState, step: StepState, status: StepStatus, at: datetime) -> None:
    """A step is final: count it and tell its dependents."""
    step.status, step.judging = status, False
    step.ended_at = step.ended_at or at
    if step.open_items:  # none of them had begun
        _pass_over_items(step)
    if step.index >= state.first_handler:
        _handler_over(state, step)
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
        if below.unmet == 0 and not below.final and state.released:
            _unblock(state, below)


def _pass_over_items(step: StepState) -> None:
    skipped = step.status is StepStatus.SKIPPED
    for item in step.items or ():
        if not item.final:
            item.status = StepStatus.SKIPPED if skipped else StepStatus.CANCELLED
            item.reason = step.reason
    step.open_items = 0
    step.queue.clear()


def _handler_over(state: RunState, step: StepState) -> None:
    failed = step.status is StepStatus.FAILED and not step.tolerated
    if step.index == state.init:
        state.pending.pop(step.index, None)
        if failed:
            state.init_failure = f"handler init failed: {step.reason}"
        elif step.status is not StepStatus.CANCELLED:
            _release(state)
        return
    if failed and state.failed_handler is None:
        state.failed_handler = step.index
    _next_handler(state)


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


def _carried(state: RunState, event: Carried) -> None:
    """Taken over as it is; nothing begins before the run is prepared."""
    step = state.steps[state.index[event.step]]
    if event.items is not None:
        _list_items(step, event.items)
    if event.status == StepStatus.PENDING:
        return
    unit = step.unit(event.item)
    unit.carried, unit.attempt, unit.launch = event.run, event.attempt, event.launch
    unit.reason, unit.exit_code = event.reason, event.exit_code
    unit.log, unit.outputs, unit.ended_at = event.log, event.outputs, event.at
    if event.item is None:
        _become(state, step, StepStatus(event.status), event.at)
        return
    unit.status = StepStatus(event.status)
    step.open_items -= 1
    step.queue.remove(event.item)


# The end of the run


def _settled(state: RunState, event: Settled) -> None:
    state.outcome = RunStatus(event.outcome)
    state.reason = event.reason
    workflow = state.workflow
    wanted: list[Step | None] = []
    if state.outcome in (RunStatus.SUCCEEDED, RunStatus.PARTIALLY_SUCCEEDED):
        wanted.append(workflow.on_success)
    elif state.outcome is RunStatus.FAILED:
        wanted.append(workflow.on_failure)
    elif state.outcome is RunStatus.CANCELLED:
        wanted.append(workflow.on_cancel)
    if state.outcome is not RunStatus.SKIPPED:
        wanted.append(workflow.on_exit)
    state.next_handlers = deque(state.index[h.name] for h in wanted if h is not None)
    _next_handler(state)


def _next_handler(state: RunState) -> None:
    if state.next_handlers:
        _offer(state, state.steps[state.next_handlers.popleft()])


def _drop_void(state: RunState) -> None:
    """Keep valid what plan looks at first; what is void below is dropped when it surfaces."""
    while state.verdicts and state.steps[state.verdicts[0]].final:
        state.verdicts.popleft()
    for heap in (state.ready, state.ready_runs):
        while heap and not _can_begin(state.steps[heap[0]]):
            state.steps[heappop(heap)].enqueued = False


def _can_begin(step: StepState) -> bool:
    if step.final or step.status is StepStatus.WAITING:
        return False
    return step.items is None or _can_begin_item(step) or step.preparation is Preparation.NEEDED


def _void(state: RunState, deadline: Deadline) -> bool:
    if deadline.kind is DeadlineKind.RUN_TIMEOUT:
        over = state.timed_out is not None or state.outcome is not None or state.open == 0
        return over or state.status is RunStatus.WAITING or deadline.at != state.run_deadline
    if deadline.kind is DeadlineKind.APPROVAL:
        return deadline.index not in state.waiting
    unit = state.unit((deadline.index, deadline.item))
    if unit.status is not StepStatus.RUNNING or unit.launch != deadline.launch:
        return True
    if deadline.kind is DeadlineKind.STEP_TIMEOUT:
        moved = unit.child_waits or deadline.at != unit.deadline
        return moved or unit.stop_signal_sent is not None
    return unit.stop_signal_sent == SIGKILL
