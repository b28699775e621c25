"""Drives the pure core without processes: a run whose attempts end as the test says.

`Driver` is the shell's loop over `decide` and `apply` with a clock of its own, so that a test
reads as a transcript of facts.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from runner.engine import plan, scope
from runner.engine.events import (
    Ended,
    Event,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Prepared,
    Queued,
    Started,
    StopRequested,
)
from runner.engine.fold import apply, fold
from runner.engine.state import RunState, fresh
from runner.language.load import load
from runner.language.model import Workflow
from runner.triggers import Trigger, TriggerType

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def workflow(text: str) -> Workflow:
    loaded = load(text.encode(), path=".dagu/test.yaml", id="test")
    assert loaded.workflow is not None, loaded.problems
    return loaded.workflow


class Driver:
    """One run. `room` is how many processes may be alive at once."""

    def __init__(self, flow: Workflow, *, room: int = 64, start: bool = True) -> None:
        self.workflow = flow
        self.room = room
        self.now = START
        self.events: list[Event] = []
        self.state: RunState = fresh(flow, prepares=scope.steps_to_prepare(flow))
        self.alive: dict[str, Launched] = {}
        self.preparing: list[str | None] = []
        self.signals: list[tuple[str, int]] = []
        self.decided = 0
        trigger = Trigger(TriggerType.MANUAL, "manual:1", START)
        self.fact(Queued(START, flow.id, flow.name, flow.path, "", "", "", "", "0" * 64, trigger))
        if start:
            self.fact(Started(START, "host", "0"))
            self.decide()
            self.prepared(None)

    def fact(self, event: Event) -> None:
        apply(self.state, event)
        self.events.append(event)

    def decide(self) -> None:
        """Everything that is to be done now."""
        while actions := plan.decide(self.state, self.now, room=self.room - len(self.alive)):
            self.decided += 1
            for action in actions:
                self._do(action)

    def _do(self, action: plan.Action) -> None:
        match action:
            case plan.Record(event):
                self.fact(event)
            case plan.Prepare(step):
                self.fact(PreparationStarted(self.now, step))
                self.preparing.append(step)
            case plan.Launch(step, attempt):
                launched = Launched(self.now, step, attempt, f"{step}.{attempt}", "boot")
                self.fact(launched)
                self.alive[step] = launched
            case plan.Stop(sent):
                self.fact(sent)
                self.signals.append((sent.step, sent.signal))

    def prepared(self, step: str | None, *, met: bool = True, error: str = "") -> None:
        self.preparing.remove(step)
        reason = "" if met else "precondition not met"
        self.fact(Prepared(self.now, step, met, reason, error))
        self.decide()

    def end(
        self,
        step: str,
        code: int = 0,
        *,
        signal: int | None = None,
        retryable: bool = True,
        matched: bool = False,
    ) -> None:
        launched = self.alive.pop(step)
        at = self.state.steps[self.state.index[step]]
        reason = plan.failure(at, exit_code=code, signal=signal, error="")
        lost = plan.is_lost(at, unknown=False)
        self.fact(
            Ended(
                self.now,
                step,
                launched.attempt,
                launched.launch,
                code,
                signal,
                reason,
                retryable=retryable,
                output_matched=matched,
                lost=lost,
            )
        )
        self.decide()

    def void(self, step: str) -> None:
        """A launch of an earlier life never began."""
        launched = self.alive.pop(step)
        self.fact(LaunchVoided(self.now, step, launched.attempt, launched.launch))
        self.decide()

    def lose(self, step: str) -> None:
        """Nobody can know how the step ended."""
        launched = self.alive.pop(step)
        at = self.state.steps[self.state.index[step]]
        reason = plan.failure(at, exit_code=None, signal=None, error="lost")
        lost = plan.is_lost(at, unknown=True)
        self.fact(
            Ended(self.now, step, launched.attempt, launched.launch, None, None, reason, lost=lost)
        )
        self.decide()

    def restart(self) -> None:
        """Another life: the state is folded again from what was recorded."""
        self.state = fold(
            self.workflow, self.events, prepares=scope.steps_to_prepare(self.workflow)
        )

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        self.decide()

    def stop(self, by: str = "ada") -> None:
        self.fact(StopRequested(self.now, by))
        self.decide()

    def finish_all(self, code_of: Callable[[str], int] = lambda _: 0) -> None:
        """End whatever is alive, first launched first, until the run is over."""
        while not self.state.final:
            if self.preparing:
                self.prepared(self.preparing[0])
            elif self.alive:
                step = next(iter(self.alive))
                self.end(step, code_of(step))
            else:
                due = plan.next_due(self.state)
                assert due is not None, "the run is stuck"
                self.wait((due - self.now).total_seconds())

    def status(self, step: str) -> str:
        return self.state.steps[self.state.index[step]].status.value

    def reason(self, step: str) -> str:
        return self.state.steps[self.state.index[step]].reason

    def transcript(self) -> list[str]:
        """The facts in short: `Launched a 1`, `Ended a 1`, `Settled failed`, ..."""
        return [_line(e) for e in self.events]


def _line(event: Event) -> str:
    words = [type(event).__name__]
    for name in ("step", "attempt", "signal", "outcome", "status"):
        value = getattr(event, name, None)
        if value is not None:
            words.append(str(value))
    return " ".join(words)
