"""What to do next: `decide(state, now) -> actions`.

Every decision about a run is made here: what starts, what is skipped or cancelled, when a signal
is due, what the outcome is. The caller records the facts that the actions stand for, folds them
in with `state.apply`, and asks again until there is nothing to do; one call looks at a bounded
number of steps (all pending ones once, when a run is stopped). Pure.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from runner.engine.events import (
    ApprovalAsked,
    ApprovalRefused,
    Approved,
    Cancelled,
    ChildWaits,
    Event,
    Finished,
    Judged,
    Prepared,
    RunTimedOut,
    Settled,
    Skipped,
    StopSent,
)
from runner.engine.state import (
    HANDLER_TIMEOUT_S,
    MOST_LOSSES,
    RUN_STOPPED,
    SIGKILL,
    Block,
    DeadlineKind,
    Preparation,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
    Unit,
)
from runner.language.model import Approval

SIGTERM = 15
SERVICE_STOPPED = "lost: stopped with the service"


@dataclass(frozen=True, slots=True)
class Prepare:
    """Evaluate what a step (None: the run), or an item of it, needs before it starts; ends with a
    Prepared."""

    step: str | None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Launch:
    """Begin an attempt; ends with an Ended."""

    step: str
    attempt: int
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """Evaluate the condition of a repeatPolicy; ends with a Judged."""

    step: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Conclude:
    """All items of a parallel step are over: record the Ended that says what they amount to."""

    step: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Record the StopSent, then send its signal to the unit's process group."""

    sent: StopSent


@dataclass(frozen=True, slots=True)
class Record:
    """A fact with no effect behind it."""

    event: Event


Action = Prepare | Launch | Judge | Conclude | Stop | Record


def decide(state: RunState, now: datetime, *, room: int) -> list[Action]:
    """The next actions, in order; `room` is how many further processes may be started.

    Empty: nothing to do until an event arrives or `next_due` comes.
    """
    if state.final or state.started is None:
        return []
    if state.outcome is None:
        if state.preparation is not Preparation.DONE:
            return _before_the_first_step(state, now)
        if (actions := _deadlines(state, now)) or (actions := _conclusions(state)):
            return actions
        if (actions := _stopping(state, now)) or (actions := _verdicts(state, now)):
            return actions
        return _starts(state, now, room=room) or _settlement(state, now)
    return (
        _deadlines(state, now)
        or _conclusions(state)
        or _second_stop(state, now)
        or _starts(state, now, room=room)
        or _finish(state, now)
    )


def next_due(state: RunState) -> datetime | None:
    """When `decide` has something to do if nothing else happens."""
    dues = [
        *(deadline.at for deadline in state.deadlines[:1]),
        *(entry[0] for entry in state.retries[:1]),
    ]
    return min(dues, default=None)


def interruptions(state: RunState, now: datetime, *, kill: bool) -> list[Stop]:
    """What ends the running steps because their machine goes away: the run itself is not stopped,
    a later start goes on with it. Child runs are told by themselves."""
    stops = _signals(state, now, kill=kill, reason=SERVICE_STOPPED)
    return [s for s in stops if state.steps[state.index[s.sent.step]].step.run is None]


def is_outdated(state: RunState, event: Event) -> bool:
    """Whether a fact that arrives means nothing any more. What was evaluated comes too late if its
    step was cancelled; nobody is asked twice."""
    match event:
        case Prepared(step=None):
            return state.outcome is not None
        case Prepared(step=str(step)) | Judged(step=step):
            return state.unit_of(step, event.item).final
        case Approved() | ApprovalRefused():
            return state.index.get(event.step) not in state.waiting
        case ChildWaits():
            unit = state.unit_of(event.step, event.item)
            return unit.status is not StepStatus.RUNNING or unit.child_waits is event.waits
        case _:
            return False


def is_lost(unit: Unit, *, unknown: bool) -> bool:
    """Whether an attempt that has ended counts as lost. `unknown`: its end could not be observed;
    where it was told to stop for a reason of its own, that reason stands."""
    return unit.stop_reason == SERVICE_STOPPED or (unknown and not unit.stop_reason)


def loss(unit: Unit, reason: str) -> str:
    """The reason of an attempt that was lost, with why it is not run again where it would be."""
    if unit.step.retry_on_loss and unit.losses >= MOST_LOSSES:
        return f"{reason}; that was loss {unit.losses + 1}, so it is not run again"
    return reason


def failure(unit: Unit, *, exit_code: int | None, signal: int | None, error: str) -> str:
    """Why an attempt that has ended failed; "" if it succeeded. `error` is what the executor or
    the reading of its outputs has to say."""
    if unit.stop_reason and unit.stop_reason != RUN_STOPPED:
        return unit.stop_reason  # a timeout, even if the command then exited with 0
    if signal is not None:
        return f"killed by signal {signal}"
    if exit_code:
        return f"exit code {exit_code}"
    return error


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What the items of a parallel step amount to; `reason` "" for a success."""

    reason: str = ""
    exit_code: int | None = None
    skipped: bool = False
    matched: bool = False


def conclusion(step: StepState) -> Conclusion:
    """Of a parallel step whose items are all over."""
    items = step.items or []
    counts = Counter(item.status for item in items)
    bad = [i for i in items if i.status in (StepStatus.FAILED, StepStatus.CANCELLED)]
    if bad:
        word = "failed" if counts[StepStatus.FAILED] else "were cancelled"
        first = next((i for i in bad if i.status is StepStatus.FAILED), bad[0])
        number = counts[StepStatus.FAILED] or len(bad)
        why = f"{number} of {len(items)} items {word}; item {first.item}: {first.reason}"
        return Conclusion(why, first.exit_code, matched=any(item.matched for item in bad))
    if items and counts[StepStatus.SKIPPED] == len(items):
        return Conclusion(f"all {len(items)} items were skipped", skipped=True)
    return Conclusion()


def _before_the_first_step(state: RunState, now: datetime) -> list[Action]:
    if state.stops:
        return [Record(_settled(state, now))]
    if state.preparation is Preparation.NEEDED:
        return [Prepare(None)]
    return []


def _deadlines(state: RunState, now: datetime) -> list[Action]:
    if not state.deadlines or state.deadlines[0].at > now:
        return []
    deadline = state.deadlines[0]
    if deadline.kind is DeadlineKind.RUN_TIMEOUT:
        return [Record(RunTimedOut(now, state.workflow.timeout_s or 0.0))]
    if deadline.kind is DeadlineKind.APPROVAL:
        step = state.steps[deadline.index]
        asked_at = step.asked.at if step.asked is not None else deadline.at
        reason = f"not approved within {_length(deadline.at - asked_at)}"
        return [Record(ApprovalRefused(now, step.step.name, "", reason))]
    unit = state.unit((deadline.index, deadline.item))
    if deadline.kind is DeadlineKind.KILL:
        return [_stop(unit, now, signal=SIGKILL, reason=unit.stop_reason)]
    limit_s = HANDLER_TIMEOUT_S if unit.step.timeout_s is None else unit.step.timeout_s
    return [_stop(unit, now, signal=_stop_signal(unit), reason=f"timed out after {limit_s:g} s")]


def _length(time: timedelta) -> str:
    seconds = time.total_seconds()
    for unit_s, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g} {unit if seconds != unit_s else unit[:-1]}"
    return f"{seconds:g} s"


def _stop_signal(unit: Unit) -> int:
    return unit.step.stop_signal or SIGTERM


def _stop(unit: Unit, now: datetime, *, signal: int, reason: str) -> Stop:
    return Stop(StopSent(now, unit.step.name, signal, reason, unit.item))


def _conclusions(state: RunState) -> list[Action]:
    return [Conclude(state.steps[i].step.name) for i in list(state.concluding)[:1]]


def _stopping(state: RunState, now: datetime) -> list[Action]:
    """Cancel what waits, stop what runs; with a second request kill it."""
    if not state.stopping and state.unmet_condition is None:
        return []
    reason = _why_stopping(state)
    if state.verdicts:
        return [_cancel(state, state.verdicts[0], now, reason)]
    waiting = dict.fromkeys((*state.pending, *_waiting_steps(state)))
    cancelled = [_cancel(state, i, now, reason) for i in waiting]
    return [*cancelled, *_stop_signals(state, now)]


def _waiting_steps(state: RunState) -> list[int]:
    """Steps that began and of which something waits: for a place, its next attempt, a verdict."""
    found = [index for _, index, _ in state.retries]
    found += [index for index, _ in state.to_judge]
    found += [unit.index for unit in state.running.values() if unit.judging]
    return [*found, *(i for i in state.fanned if state.steps[i].queue or _prepares(state, i))]


def _prepares(state: RunState, index: int) -> bool:
    items = state.steps[index].items or ()
    return any(i.preparation is Preparation.GOING_ON and not i.final for i in items)


def _cancel(state: RunState, index: int, now: datetime, reason: str) -> Record:
    """What does not begin any more; of a run that is skipped it is skipped, too."""
    name = state.steps[index].step.name
    if state.unmet_condition is not None and not state.stopping:
        return Record(Skipped(now, name, reason))
    return Record(Cancelled(now, name, reason))


def _why_stopping(state: RunState) -> str:
    if state.preparation_error:
        return "the run could not be prepared"
    if state.init_failure:
        return "handler init failed"
    if state.timed_out is not None:
        return f"run timed out after {state.timed_out.timeout_s:g} s"
    if state.stops:
        return f"run stopped by {state.stops[0].by}"
    return "the run's precondition is not met"


def _stop_signals(state: RunState, now: datetime) -> list[Stop]:
    return _signals(state, now, kill=len(state.stops) > 1, reason=RUN_STOPPED)


def _signals(state: RunState, now: datetime, *, kill: bool, reason: str) -> list[Stop]:
    """What stops, or kills, every running unit that was not told so before."""
    stops: list[Stop] = []
    for unit in state.running.values():
        if unit.status is not StepStatus.RUNNING or unit.stop_signal_sent == SIGKILL:
            continue
        if kill or unit.stop_signal_sent is None:
            signal = SIGKILL if kill else _stop_signal(unit)
            stops.append(_stop(unit, now, signal=signal, reason=reason))
    return stops


def _second_stop(state: RunState, now: datetime) -> list[Action]:
    """After the outcome: handlers run in spite of a first stop; a second kills them."""
    if len(state.stops) < 2:
        return []
    prepared = [u.index for u in state.running.values() if u.status is StepStatus.PENDING]
    begun = (*state.ready, *state.ready_runs, *state.waiting, *prepared, *_waiting_steps(state))
    reason = "run stopped a second time"
    cancelled = [_cancel(state, i, now, reason) for i in dict.fromkeys(begun)]
    return [*_stop_signals(state, now), *cancelled]


def _verdicts(state: RunState, now: datetime) -> list[Action]:
    if not state.verdicts:
        return []
    step = state.steps[state.verdicts[0]]
    if step.block is Block.CANCELLED:
        return [Record(Cancelled(now, step.step.name, "upstream failed"))]
    return [Record(Skipped(now, step.step.name, "upstream skipped"))]


def _starts(state: RunState, now: datetime, *, room: int) -> list[Action]:
    """What may begin next. Steps that only wait for a child run need no place."""
    if state.ready_runs:
        return [_begin(state.steps[state.ready_runs[0]], now)]
    limit = state.workflow.max_active_steps
    has_place = room > 0 and not (limit and state.occupied >= limit)
    if state.to_judge and has_place:
        unit = state.unit(state.to_judge[0])
        return [Judge(unit.step.name, unit.item)]
    if state.ready and has_place:
        return [_begin(state.steps[state.ready[0]], now)]
    if state.retries and state.retries[0][0] <= now:
        unit = state.unit(state.retries[0][1:])
        if has_place or unit.step.run is not None:
            return [Launch(unit.step.name, unit.attempt + 1, unit.item)]
    return []


def _begin(step: StepState, now: datetime) -> Action:
    """The first thing that a step still needs, or its launch."""
    name = step.step.name
    if step.preparation is Preparation.NEEDED:
        return Prepare(name)
    if step.step.approval is not None and step.answered is None:
        return Record(_question(name, step.step.approval, now))
    if step.items is None:
        return Launch(name, step.attempt + 1)
    item = step.items[step.queue[0]]
    if item.preparation is Preparation.NEEDED:
        return Prepare(name, item.item)
    return Launch(name, item.attempt + 1, item.item)


def _question(step: str, approval: Approval, now: datetime) -> ApprovalAsked:
    due = now + timedelta(seconds=approval.timeout_s)
    return ApprovalAsked(now, step, approval.message, approval.roles, due)


def _settlement(state: RunState, now: datetime) -> list[Action]:
    # with no step open the init handler may still be on its way, where the run was stopped
    over = state.open == 0 and not (state.running or state.to_judge or state.concluding)
    return [Record(_settled(state, now))] if over else []


def _settled(state: RunState, now: datetime) -> Settled:
    """The outcome of the steps, and why."""
    if state.preparation_error:
        return Settled(now, RunStatus.FAILED, state.preparation_error)
    if state.unmet_condition is not None:
        return Settled(now, RunStatus.SKIPPED, state.unmet_condition)
    if state.init_failure:
        return Settled(now, RunStatus.FAILED, state.init_failure)
    if state.timed_out is not None:
        return Settled(now, RunStatus.FAILED, f"timed out after {state.timed_out.timeout_s:g} s")
    if state.stops:
        return Settled(now, RunStatus.CANCELLED, f"stopped by {state.stops[0].by}")
    if state.first_failure is not None:
        step = state.steps[state.first_failure]
        return Settled(now, RunStatus.FAILED, f'step "{step.step.name}" failed: {step.reason}')
    if state.tolerated and not state.succeeded:
        return Settled(now, RunStatus.FAILED, "a failure was tolerated, but no step succeeded")
    if state.tolerated:
        return Settled(now, RunStatus.PARTIALLY_SUCCEEDED, "some steps failed and were tolerated")
    return Settled(now, RunStatus.SUCCEEDED, "")


def _finish(state: RunState, now: datetime) -> list[Action]:
    going_on = state.running or state.ready or state.ready_runs or state.retries or state.waiting
    if going_on or state.to_judge or state.outcome is None:
        return []
    status, reason = state.outcome, state.reason
    good = (RunStatus.SUCCEEDED, RunStatus.PARTIALLY_SUCCEEDED)
    if state.failed_handler is not None and status in good:
        handler = state.steps[state.failed_handler].step.name.removeprefix("handlerOn.")
        status, reason = RunStatus.FAILED, f"handler {handler} failed"
    return [Record(Finished(now, status, reason))]
