"""What to do next: `decide(state, now) -> actions`.

Every decision about a run is made here: what starts, what is skipped or cancelled, when a signal
is due, what the outcome is. The caller records the facts that the actions stand for, folds them
in with `state.apply`, and asks again until there is nothing to do; one call looks at a bounded
number of steps (all pending ones once, when a run is stopped). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from runner.engine.events import (
    Cancelled,
    Event,
    Finished,
    RunTimedOut,
    Settled,
    Skipped,
    StopSent,
)
from runner.engine.state import (
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
)

SIGTERM = 15
SERVICE_STOPPED = "lost: stopped with the service"


@dataclass(frozen=True, slots=True)
class Prepare:
    """Evaluate what a step (None: the run) needs before it starts; ends with a Prepared."""

    step: str | None


@dataclass(frozen=True, slots=True)
class Launch:
    """Begin an attempt; ends with an Ended."""

    step: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Record the StopSent, then send its signal to the step's process group."""

    sent: StopSent


@dataclass(frozen=True, slots=True)
class Record:
    """A fact with no effect behind it."""

    event: Event


Action = Prepare | Launch | Stop | Record


def decide(state: RunState, now: datetime, *, room: int) -> list[Action]:
    """The next actions, in order; `room` is how many further processes may be started.

    Empty: nothing to do until an event arrives or `next_due` comes.
    """
    if state.final or state.started is None:
        return []
    if state.outcome is None:
        if state.preparation is not Preparation.DONE:
            return _before_the_first_step(state, now)
        if (actions := _deadlines(state, now)) or (actions := _stopping(state, now)):
            return actions
        if (actions := _verdicts(state, now)) or (actions := _starts(state, now, room=room)):
            return actions
        return _settlement(state, now)
    return (
        _deadlines(state, now)
        or _second_stop(state, now)
        or _starts(state, now, room=room)
        or _finish(state, now)
    )


def next_due(state: RunState) -> datetime | None:
    """When `decide` has something to do if nothing else happens."""
    dues = [
        *(deadline.at for deadline in state.deadlines[:1]),
        *(at for at, _ in state.retries[:1]),
    ]
    return min(dues, default=None)


def interruptions(state: RunState, now: datetime, *, kill: bool) -> list[Stop]:
    """What ends the running steps because their machine goes away: the run itself is not stopped,
    a later start goes on with it."""
    return _signals(state, now, kill=kill, reason=SERVICE_STOPPED)


def is_lost(step: StepState, *, unknown: bool) -> bool:
    """Whether an attempt that has ended counts as lost. `unknown`: its end could not be observed;
    where it was told to stop for a reason of its own, that reason stands."""
    return step.stop_reason == SERVICE_STOPPED or (unknown and not step.stop_reason)


def loss(step: StepState, reason: str) -> str:
    """The reason of an attempt that was lost, with why it is not run again where it would be."""
    if step.step.retry_on_loss and step.losses >= MOST_LOSSES:
        return f"{reason}; that was loss {step.losses + 1}, so it is not run again"
    return reason


def failure(step: StepState, *, exit_code: int | None, signal: int | None, error: str) -> str:
    """Why an attempt that has ended failed; "" if it succeeded. `error` is what the executor or
    the reading of its outputs has to say."""
    if step.stop_reason and step.stop_reason != RUN_STOPPED:
        return step.stop_reason  # a timeout, even if the command then exited with 0
    if signal is not None:
        return f"killed by signal {signal}"
    if exit_code:
        return f"exit code {exit_code}"
    return error


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
    step = state.steps[deadline.index]
    if deadline.kind is DeadlineKind.KILL:
        return [_stop(step, now, signal=SIGKILL, reason=step.stop_reason)]
    started_at = step.attempt_started_at or deadline.at
    limit_s = (deadline.at - started_at).total_seconds()
    return [_stop(step, now, signal=_stop_signal(step), reason=f"timed out after {limit_s:g} s")]


def _stop_signal(step: StepState) -> int:
    return step.step.stop_signal or SIGTERM


def _stop(step: StepState, now: datetime, *, signal: int, reason: str) -> Stop:
    return Stop(StopSent(now, step.step.name, signal, reason))


def _stopping(state: RunState, now: datetime) -> list[Action]:
    """Cancel what waits, stop what runs; with a second request kill it."""
    if not state.stopping and state.unmet_condition is None:
        return []
    reason = _why_stopping(state)
    if state.verdicts:
        return [_cancel(state, state.verdicts[0], now, reason)]
    waiting = [*state.pending, *(i for _, i in state.retries)]
    cancelled = [_cancel(state, i, now, reason) for i in waiting]
    return [*cancelled, *_stop_signals(state, now)]


def _cancel(state: RunState, index: int, now: datetime, reason: str) -> Record:
    return Record(Cancelled(now, state.steps[index].step.name, reason))


def _why_stopping(state: RunState) -> str:
    if state.preparation_error:
        return "the run could not be prepared"
    if state.timed_out is not None:
        return f"run timed out after {state.timed_out.timeout_s:g} s"
    if state.stops:
        return f"run stopped by {state.stops[0].by}"
    return "the run's precondition is not met"


def _stop_signals(state: RunState, now: datetime) -> list[Stop]:
    return _signals(state, now, kill=len(state.stops) > 1, reason=RUN_STOPPED)


def _signals(state: RunState, now: datetime, *, kill: bool, reason: str) -> list[Stop]:
    """What stops, or kills, every running step that was not told so before."""
    stops: list[Stop] = []
    for i in state.running:
        step = state.steps[i]
        if step.status is not StepStatus.RUNNING or step.stop_signal_sent == SIGKILL:
            continue
        if kill or step.stop_signal_sent is None:
            signal = SIGKILL if kill else _stop_signal(step)
            stops.append(_stop(step, now, signal=signal, reason=reason))
    return stops


def _second_stop(state: RunState, now: datetime) -> list[Action]:
    """After the outcome: handlers run in spite of a first stop; a second kills them."""
    if len(state.stops) < 2:
        return []
    prepared = [i for i in state.running if state.steps[i].status is StepStatus.PENDING]
    waiting = [*state.ready, *prepared, *(i for _, i in state.retries)]
    cancelled = [_cancel(state, i, now, "run stopped a second time") for i in waiting]
    return [*_stop_signals(state, now), *cancelled]


def _verdicts(state: RunState, now: datetime) -> list[Action]:
    if not state.verdicts:
        return []
    step = state.steps[state.verdicts[0]]
    if step.block is Block.CANCELLED:
        return [Record(Cancelled(now, step.step.name, "upstream failed"))]
    return [Record(Skipped(now, step.step.name, "upstream skipped"))]


def _starts(state: RunState, now: datetime, *, room: int) -> list[Action]:
    limit = state.workflow.max_active_steps
    if room <= 0 or (limit and len(state.running) >= limit):
        return []
    if state.ready:
        step = state.steps[state.ready[0]]
        if step.preparation is Preparation.NEEDED:
            return [Prepare(step.step.name)]
        return [Launch(step.step.name, step.attempt + 1)]
    if state.retries and state.retries[0][0] <= now:
        step = state.steps[state.retries[0][1]]
        return [Launch(step.step.name, step.attempt + 1)]
    return []


def _settlement(state: RunState, now: datetime) -> list[Action]:
    return [Record(_settled(state, now))] if state.open == 0 else []


def _settled(state: RunState, now: datetime) -> Settled:
    """The outcome of the steps, and why."""
    if state.preparation_error:
        return Settled(now, RunStatus.FAILED, state.preparation_error)
    if state.unmet_condition is not None:
        return Settled(now, RunStatus.SKIPPED, state.unmet_condition)
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
    if state.running or state.ready or state.retries or state.outcome is None:
        return []
    status, reason = state.outcome, state.reason
    good = (RunStatus.SUCCEEDED, RunStatus.PARTIALLY_SUCCEEDED)
    if state.failed_handler is not None and status in good:
        handler = state.steps[state.failed_handler].step.name.removeprefix("handlerOn.")
        status, reason = RunStatus.FAILED, f"handler {handler} failed"
    return [Record(Finished(now, status, reason))]
