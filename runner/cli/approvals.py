"""Approval of the steps of a run without a service: asks at the terminal, or decides at once.

Watches the run as an observer and answers through the engine. One rule: where nobody can be asked
the answer is no, unless `--approve` said yes beforehand.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum

import click

from runner.cli.screen import run_of
from runner.cli.terminal import shown
from runner.engine.events import ApprovalAsked, ApprovalRefused, Approved, Event
from runner.engine.state import RunState, StepStatus

NOBODY = "there is nobody to ask; use --approve"

# records what somebody asks of a run; False: it does not matter to it any more
Record = Callable[[str, Event], Awaitable[bool]]


class Answer(Enum):
    """How a question is answered."""

    ASK = "ask"
    APPROVE = "approve"
    REFUSE = "refuse"


def how(*, approve: bool) -> Answer:
    """What `--approve` and the terminal come to."""
    if approve:
        return Answer.APPROVE
    return Answer.ASK if sys.stdin.isatty() and sys.stderr.isatty() else Answer.REFUSE


@dataclass(slots=True)
class _Question:
    """A step that waits. `agreed` None: yes or no is still to come, else the comment is."""

    run: str
    step: str
    message: str
    state: RunState
    agreed: bool | None = None

    @property
    def waits(self) -> bool:
        step = self.state.steps[self.state.index[self.step]]
        return step.status is StepStatus.WAITING


class Approvals:
    """An observer of the engine. `by` is who decides. Call `close` when the run is over."""

    def __init__(self, answer: Answer, *, root: str, by: str) -> None:
        self._answer = answer
        self._root = root
        self._by = by
        self._record: Record | None = None
        self._questions: list[_Question] = []
        self._tasks: set[asyncio.Future[bool]] = set()
        self._reads = False

    def answer_through(self, record: Record) -> None:
        """Before the run begins."""
        self._record = record

    def watch(self, state: RunState, new: Sequence[Event]) -> None:
        run = run_of(state.queued, root=self._root)
        for event in new:
            if isinstance(event, ApprovalAsked):
                self._asked(_Question(run, event.step, event.message, state))
        if self._questions and not self._questions[0].waits:
            self._next()  # it was decided by its time limit, or the run is stopped

    def close(self) -> None:
        self._questions.clear()
        self._stop_reading()

    def _asked(self, question: _Question) -> None:
        match self._answer:
            case Answer.APPROVE:
                self._say(question, Approved(_now(), question.step, self._by, "--approve"))
            case Answer.REFUSE:
                refusal = ApprovalRefused(_now(), question.step, self._by, NOBODY)
                self._say(question, refusal)
            case Answer.ASK:
                self._questions.append(question)
                if len(self._questions) == 1:
                    self._ask()

    def _say(self, question: _Question, event: Event) -> None:
        if self._record is None:
            raise RuntimeError("`answer_through` comes first")
        task = asyncio.ensure_future(self._record(question.run, event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # At the terminal

    def _ask(self) -> None:
        question = self._questions[0]
        message = shown(question.message) or "go on?"
        click.echo(f"{shown(question.step)}: {message} [y/n] ", err=True, nl=False)
        if not self._reads:
            # A thread that reads would keep the process alive after Ctrl-C.
            asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._read)
            self._reads = True

    def _read(self) -> None:
        """A line was typed: a terminal gives whole ones."""
        typed = os.read(sys.stdin.fileno(), 4096).decode(errors="replace")
        if not self._questions:
            return
        question = self._questions[0]
        if not typed:  # Ctrl-D
            click.echo(err=True)
            self._decide(question, agreed=False, comment="")
        elif question.agreed is not None:
            self._decide(question, agreed=question.agreed, comment=typed.strip())
        elif typed.strip().lower() in ("y", "yes", "n", "no"):
            question.agreed = typed.strip().lower().startswith("y")
            click.echo("comment (may be empty): ", err=True, nl=False)
        else:
            click.echo("y or n: ", err=True, nl=False)

    def _decide(self, question: _Question, *, agreed: bool, comment: str) -> None:
        event: Event = Approved(_now(), question.step, self._by, comment)
        if not agreed:
            event = ApprovalRefused(
                _now(), question.step, self._by, f"refused by {self._by}", comment
            )
        self._say(question, event)
        self._next()

    def _next(self) -> None:
        """The first question is over."""
        del self._questions[0]
        self._questions = [question for question in self._questions if question.waits]
        if self._questions:
            self._ask()
        else:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._reads:
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self._reads = False


def _now() -> datetime:
    return datetime.now(UTC)
