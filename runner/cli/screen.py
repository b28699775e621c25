"""Live lines of a run and the runs below it: what began, what ended and how, what steps printed.

Knows events and the terminal. One rule: the run goes on when nobody reads the lines any more, and
a list of a thousand items takes no thousand lines: of a long one only failures are shown, and how
far it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import click

from runner.cli.terminal import shown
from runner.engine import summary
from runner.engine.events import (
    ApprovalAsked,
    ApprovalRefused,
    Approved,
    Cancelled,
    Ended,
    Event,
    Finished,
    Judged,
    Launched,
    LogDigest,
    Prepared,
    Queued,
    Skipped,
)
from runner.engine.state import RunState, RunStatus, StepState, StepStatus, Unit
from runner.triggers import run_of_child

MOST_ITEMS = 20  # of a list whose items have a line each
_GOOD = (RunStatus.SUCCEEDED, RunStatus.SKIPPED)
_MOST_VALUE = 40


def run_of(queued: Queued | None, *, root: str) -> str:
    """The id of the run that an observer is told of, the root or one below it."""
    if queued is None or not queued.parent:
        return root
    return run_of_child(queued.parent, queued.trigger.key)


@dataclass(slots=True)
class _Place:
    """Where the lines of a run stand. `brief`: one of so many that only failures are shown."""

    above: str = ""
    brief: bool = False
    began: dict[tuple[str, int | None], datetime] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)  # of a long list: tenths that were told


class Screen:
    """An observer of the engine. `folder` is where the logs are; `asks`: a person is asked for
    approval, which then needs no line here."""

    def __init__(self, folder: Path, *, root: str, asks: bool = False) -> None:
        self._folder = folder
        self._root = root
        self._asks = asks
        self._places: dict[str, _Place] = {}

    def show(self, state: RunState, new: Sequence[Event]) -> None:
        try:
            self._show(state, new)
            sys.stdout.flush()
        except OSError:  # a closed pipe, a full disk; Python would complain again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _show(self, state: RunState, new: Sequence[Event]) -> None:
        place = self._place(state.queued)
        for event in new:
            match event:
                case Launched():
                    self._launched(place, state.unit_of(event.step, event.item), event)
                case Ended(attempt=0, item=None) if _is_list(state, event.step):
                    self._concluded(place, state.steps[state.index[event.step]], event)
                case Ended():
                    self._ended(place, state, event)
                case Judged():
                    self._judged(place, state.unit_of(event.step, event.item), event)
                case Prepared():
                    self._prepared(place, state, event)
                case Finished():
                    if state.queued is None or not state.queued.parent:
                        self._finished(state, event)
                case _:
                    self._passed(place, event)

    def _place(self, queued: Queued | None) -> _Place:
        run = run_of(queued, root=self._root)
        if run not in self._places:
            place = _Place()
            if queued is not None and queued.parent:
                parent = self._places.get(queued.parent) or _Place()
                item = "" if queued.parent_item is None else f" [{queued.parent_item}]"
                place.above = f"{parent.above}{queued.parent_step}{item} / "
                place.brief = parent.brief or queued.parent_step in parent.told
            self._places[run] = place
        return self._places[run]

    def _passed(self, place: _Place, event: Event) -> None:
        """A step that did not run, or waits for a person."""
        match event:
            case Skipped():
                self._line("∅", "bright_black", place, f"{event.step}: skipped, {event.reason}")
            case Cancelled():
                self._line("■", "yellow", place, f"{event.step}: cancelled, {event.reason}")
            case ApprovalAsked() if not self._asks:
                message = f": {event.message}" if event.message else ""
                self._line("?", "yellow", place, f"{event.step} waits for approval{message}")
            case Approved():
                comment = f": {event.comment}" if event.comment else ""
                self._line("✔", "green", place, f"{event.step}: approved by {event.by}{comment}")
            case ApprovalRefused():
                comment = f": {event.comment}" if event.comment else ""
                self._line("✘", "red", place, f"{event.step}: {event.reason}{comment}")
            case _:
                pass

    def _prepared(self, place: _Place, state: RunState, event: Prepared) -> None:
        if event.step is None:
            return
        title = event.step if event.item is None else f"{event.step} [{event.item}]"
        if event.error:
            self._line("✘", "red", place, f"{title}: {event.error}", always=True)
        elif not event.met:
            self._line("∅", "bright_black", place, f"{title}: skipped, {event.reason}")

    def _launched(self, place: _Place, unit: Unit, event: Launched) -> None:
        place.began[event.step, event.item] = event.at
        step = unit.step
        if event.item is not None:
            return  # its line comes when it ends
        again = f" (attempt {event.attempt})" if event.attempt > 1 and unit.repetition == 1 else ""
        if unit.repetition > 1:
            again = f" (round {unit.repetition})"
        runs = f" runs {step.run}" if step.run is not None else ""
        self._line("▶", "blue", place, f"{event.step}{runs}{again}")

    def _ended(self, place: _Place, state: RunState, event: Ended) -> None:
        step = state.steps[state.index[event.step]]
        unit = step.unit(event.item)
        many = event.item is not None and len(step.items or ()) > MOST_ITEMS
        began = place.began.get((event.step, event.item), event.at)
        title = f"{event.step}{_item(step, event.item)} ({_took(began, event.at)})"
        if many:
            place.told.setdefault(event.step, 0)
        reason = unit.reason if unit.final else event.reason
        if not unit.final and unit.spent == unit.attempt - unit.losses:
            reason = ""  # the next round follows, whatever the exit code
        if reason and not event.skipped:
            again = ", will be tried again" if unit.due is not None else ""
            if step.step.run is None:
                self._tail(place, event.log, always=True)
            counted = unit.status is StepStatus.SUCCEEDED  # continueOn.markSuccess
            mark, colour = ("✔", "green") if counted else ("✘", "red")
            self._line(mark, colour, place, f"{title}: {reason}{again}", always=True)
        elif event.skipped:
            if not many:
                self._line("∅", "bright_black", place, f"{title}: skipped, {event.reason}")
        elif not many:
            if step.step.run is None:  # else its log only names the run that has them
                self._tail(place, event.log)
            self._line("✔", "green", place, title)
        if many:
            self._progress(place, step)

    def _judged(self, place: _Place, unit: Unit, event: Judged) -> None:
        """Only where it makes of what had succeeded a failure."""
        if unit.final and unit.reason:
            title = event.step if event.item is None else f"{event.step} [{event.item}]"
            self._line("✘", "red", place, f"{title}: {unit.reason}", always=True)

    def _progress(self, place: _Place, step: StepState) -> None:
        """A line at each tenth of a long list."""
        items = step.items or []
        over = len(items) - step.open_items
        tenth = 10 * over // len(items)
        if tenth <= place.told[step.step.name] or over == len(items):
            return
        place.told[step.step.name] = tenth
        failed = sum(item.status is StepStatus.FAILED for item in items)
        bad = f", {failed} failed" if failed else ""
        self._line("▶", "blue", place, f"{step.step.name}: {over} of {len(items)}{bad}")

    def _concluded(self, place: _Place, step: StepState, event: Ended) -> None:
        items = step.items or []
        good = sum(item.status is StepStatus.SUCCEEDED for item in items)
        began = min(
            (at for (name, _), at in place.began.items() if name == event.step), default=event.at
        )
        said = f"{event.step}: {good} of {len(items)} items succeeded ({_took(began, event.at)})"
        reason = step.reason or event.reason  # the step's says whether it counts as a success
        if event.skipped:
            self._line("∅", "bright_black", place, f"{event.step}: skipped, {reason}")
        elif event.reason:
            self._line("✘", "red", place, f"{said}: {reason}")
        else:
            self._line("✔", "green", place, said)

    def _tail(self, place: _Place, log: LogDigest | None, *, always: bool = False) -> None:
        if log is None or not log.tail or (place.brief and not always):
            return
        lines = log.tail.rstrip("\n").split("\n")
        if log.lines > len(lines):
            click.echo(f"  │ … {log.lines - len(lines)} lines before")
        for line in lines:
            click.echo(f"  │ {shown(line)}")

    def _finished(self, state: RunState, event: Finished) -> None:
        good = event.status in _GOOD
        started_at = state.started.at if state.started else event.at
        why = f": {event.reason}" if event.reason else ""
        mark, colour = ("✔", "green") if good else ("✘", "red")
        took = _took(started_at, event.at)
        click.echo(f"{click.style(mark, fg=colour)} {shown(f'{event.status} ({took}){why}')}")
        click.echo(f"  logs: {self._folder}")

    @staticmethod
    def _line(mark: str, colour: str, place: _Place, text: str, *, always: bool = False) -> None:
        if always or not place.brief:
            click.echo(f"{click.style(mark, fg=colour)} {shown(place.above + text)}")


def _is_list(state: RunState, step: str) -> bool:
    return state.steps[state.index[step]].items is not None


def _item(step: StepState, item: int | None) -> str:
    """` [3] value`, of an item; items count from 0, as ITEM_INDEX does."""
    if item is None:
        return ""
    value = step.previews[item] if item < len(step.previews) else ""
    short = value if len(value) <= _MOST_VALUE else value[: _MOST_VALUE - 1] + "…"
    return f" [{item}] {short}".rstrip()


def _took(began: datetime, ended: datetime) -> str:
    return summary.duration((ended - began) // timedelta(milliseconds=1))
