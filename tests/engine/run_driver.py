"""Drives the pure core without processes: a run whose attempts end as the test says.

`Driver` is the shell's loop over `decide` and `apply` with a clock of its own, so that a test
reads as a transcript of facts. A unit is called by its step's name, an item of a parallel step
`name#0`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from runner.engine import plan, scope
from runner.engine.events import (
    ApprovalRefused,
    Approved,
    Carried,
    Ended,
    Event,
    Judged,
    JudgingStarted,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Prepared,
    Queued,
    Started,
    StopRequested,
)
from runner.engine.fold import apply, fold
from runner.engine.state import RunState, Unit, fresh
from runner.language.load import load
from runner.language.model import Workflow
from runner.triggers import Trigger, TriggerType

START = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)


def workflow(text: str) -> Workflow:
    loaded = load(text.encode(), path=".dagu/test.yaml", id="test")
    assert loaded.workflow is not None, loaded.problems
    return loaded.workflow


def label(step: str, item: int | None) -> str:
    return step if item is None else f"{step}#{item}"


def parts_of(unit: str) -> tuple[str, int | None]:
    step, _, item = unit.partition("#")
    return step, int(item) if item else None


class Driver:
    """One run. `room` is how many processes may be alive at once."""

    def __init__(
        self,
        flow: Workflow,
        *,
        room: int = 64,
        start: bool = True,
        carried: Iterable[Carried] = (),
        item_prepares: frozenset[str] = frozenset(),
    ) -> None:
        self.workflow = flow
        self.room = room
        self.now = START
        self.events: list[Event] = []
        self.item_prepares = item_prepares
        self.state: RunState = fresh(
            flow, prepares=scope.steps_to_prepare(flow), item_prepares=item_prepares
        )
        self.alive: dict[str, Launched] = {}
        self.preparing: list[str | None] = []
        self.judging: list[str] = []
        self.signals: list[tuple[str, int]] = []
        self.decided = 0
        trigger = Trigger(TriggerType.MANUAL, "manual:1", START)
        self.fact(Queued(START, flow.id, flow.name, flow.path, "", "", "", "", "0" * 64, trigger))
        for fact in carried:
            self.fact(fact)
        if start:
            self.fact(Started(START, "host", "0"))
            self.decide()
            self.prepared(None)

    def fact(self, event: Event) -> None:
        apply(self.state, event)
        self.events.append(event)

    def unit(self, name: str) -> Unit:
        return self.state.unit_of(*parts_of(name))

    @property
    def places(self) -> int:
        """How many processes are alive."""
        return sum(self.unit(name).step.run is None for name in self.alive)

    def decide(self) -> None:
        """Everything that is to be done now."""
        while actions := plan.decide(self.state, self.now, room=self.room - self.places):
            self.decided += 1
            for action in actions:
                self._do(action)
        self.judging = [name for name in self.judging if not self.unit(name).final]
        self.preparing = [
            name for name in self.preparing if name is None or not self.unit(name).final
        ]

    def _do(self, action: plan.Action) -> None:
        match action:
            case plan.Record(event):
                self.fact(event)
            case plan.Prepare(step, item):
                self.fact(PreparationStarted(self.now, step, item))
                self.preparing.append(None if step is None else label(step, item))
            case plan.Launch(step, attempt, item):
                name = label(step, item)
                launched = Launched(self.now, step, attempt, f"{name}.{attempt}", "boot", item)
                self.fact(launched)
                self.alive[name] = launched
            case plan.Judge(step, item):
                self.fact(JudgingStarted(self.now, step, item))
                self.judging.append(label(step, item))
            case plan.Conclude(step):
                found = plan.conclusion(self.state.steps[self.state.index[step]])
                end = Ended(self.now, step, 0, "", found.exit_code, None, found.reason)
                self.fact(replace(end, skipped=found.skipped, output_matched=found.matched))
            case plan.Stop(sent):
                self.fact(sent)
                self.signals.append((label(sent.step, sent.item), sent.signal))

    def prepared(
        self, name: str | None, *, met: bool = True, error: str = "", items: int | None = None
    ) -> None:
        self.preparing.remove(name)
        reason = "" if met else "precondition not met"
        step, item = (None, None) if name is None else parts_of(name)
        previews = None if items is None else tuple(f"item {n}" for n in range(items))
        self.fact(Prepared(self.now, step, met, reason, error, items=previews, item=item))
        self.decide()

    def judged(self, name: str, *, met: bool, error: str = "") -> None:
        self.judging.remove(name)
        step, item = parts_of(name)
        self.fact(Judged(self.now, step, met, error, item))
        self.decide()

    def approve(self, step: str) -> None:
        self.fact(Approved(self.now, step, "ada"))
        self.decide()

    def refuse(self, step: str) -> None:
        self.fact(ApprovalRefused(self.now, step, "ada", "refused by ada"))
        self.decide()

    def end(
        self,
        name: str,
        code: int = 0,
        *,
        signal: int | None = None,
        retryable: bool = True,
        matched: bool = False,
        skipped: bool = False,
    ) -> None:
        launched = self.alive.pop(name)
        unit = self.unit(name)
        reason = plan.failure(unit, exit_code=code, signal=signal, error="")
        lost = plan.is_lost(unit, unknown=False)
        self.fact(
            Ended(
                self.now,
                launched.step,
                launched.attempt,
                launched.launch,
                code,
                signal,
                "skipped" if skipped else reason,
                retryable=retryable,
                output_matched=matched,
                lost=lost,
                skipped=skipped,
                item=launched.item,
            )
        )
        self.decide()

    def void(self, name: str) -> None:
        """A launch of an earlier life never began."""
        gone = self.alive.pop(name)
        self.fact(LaunchVoided(self.now, gone.step, gone.attempt, gone.launch, item=gone.item))
        self.decide()

    def lose(self, name: str) -> None:
        """Nobody can know how the unit ended."""
        gone = self.alive.pop(name)
        unit = self.unit(name)
        reason = plan.failure(unit, exit_code=None, signal=None, error="lost")
        lost = plan.is_lost(unit, unknown=True)
        end = Ended(self.now, gone.step, gone.attempt, gone.launch, None, None, reason, lost=lost)
        self.fact(replace(end, item=gone.item))
        self.decide()

    def restart(self) -> None:
        """Another life: the state is folded again from what was recorded."""
        self.state = fold(
            self.workflow,
            self.events,
            prepares=scope.steps_to_prepare(self.workflow),
            item_prepares=self.item_prepares,
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
            elif self.judging:
                self.judged(self.judging[0], met=False)
            elif self.alive:
                name = next(iter(self.alive))
                self.end(name, code_of(name))
            else:
                due = plan.next_due(self.state)
                assert due is not None, "the run is stuck"
                self.wait((due - self.now).total_seconds())

    def status(self, name: str) -> str:
        return self.unit(name).status.value

    def reason(self, name: str) -> str:
        return self.unit(name).reason

    def transcript(self) -> list[str]:
        """The facts in short: `Launched a 1`, `Ended a 1`, `Settled failed`, ..."""
        return [_line(e) for e in self.events]


def _line(event: Event) -> str:
    words = [type(event).__name__]
    if isinstance(event, Queued):
        return words[0]
    for name in ("step", "item", "attempt", "signal", "outcome", "status"):
        value = getattr(event, name, None)
        if value is not None:
            words.append(str(value))
    return " ".join(words)
