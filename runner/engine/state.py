"""What is known of a run: the data that its events fold into.

Keeps what `plan` needs to decide without looking at every step: counts of unmet dependencies,
heaps of ready steps and of due instants, the set of what runs. What runs is a unit: a step, or one
item of a parallel step. `fold` changes it and nothing else does. Pure.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from runner.engine.events import (
    ApprovalAsked,
    ApprovalRefused,
    Approved,
    LogDigest,
    OutputNote,
    Queued,
    RunTimedOut,
    Started,
    StopRequested,
)
from runner.language.model import Step, Workflow

HANDLER_TIMEOUT_S = 600.0
SIGKILL = 9  # pure: the number, not the module `signal`
RUN_STOPPED = "run stopped"  # the StopSent reason that makes a step cancelled and not failed
MOST_LOSSES = 10  # a step that takes its machine down each time must not do so for ever


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"  # for a person
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    WAITING = "waiting"  # for people, and for nothing else
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


FINAL_STEP = frozenset(
    {StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED, StepStatus.SKIPPED}
)


class Preparation(StrEnum):
    """Where a unit (or the run) stands with what must be evaluated before it starts."""

    NEEDED = "needed"
    GOING_ON = "going on"
    DONE = "done"


class Block(StrEnum):
    """What a step's dependencies left it: the stronger one wins."""

    NONE = ""
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


NO_ITEM = -1
Key = tuple[int, int]  # of a unit: the step's index, and the item's number or NO_ITEM


@dataclass(slots=True, kw_only=True)
class Unit:
    """What is launched, retried and repeated: a step that is not parallel, or an item of one that
    is. `attempt` counts the attempts that were begun."""

    step: Step
    index: int
    item: int | None
    preparation: Preparation
    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    launch: str = ""
    boot_id: str = ""  # of the boot that the launch belongs to
    stop_signal_sent: int | None = None
    stop_reason: str = ""
    lost: bool = False  # nobody can know how the last attempt ended
    losses: int = 0  # attempts that ended so; they use up no retry
    repetition: int = 1  # which execution of a repeatPolicy this is
    spent: int = 0  # attempts without losses that the executions before used up
    judging: bool = False  # whether there is another execution is being found out
    matched: bool = False  # continueOn.output was found
    occupies: bool = False  # it holds a place among those that run
    deadline: datetime | None = None  # of this attempt; moved on while its child run waits
    child_waits: bool = False  # its child run waits for people and for nothing else
    waits_since: datetime | None = None
    active: bool = False  # an item that holds one of its step's maxConcurrent places
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: datetime | None = None  # of the first attempt
    attempt_started_at: datetime | None = None
    ended_at: datetime | None = None
    due: datetime | None = None  # of the next attempt
    log: LogDigest | None = None
    outputs: tuple[OutputNote, ...] = ()
    carried: str = ""  # the run whose result this is

    @property
    def key(self) -> Key:
        return self.index, NO_ITEM if self.item is None else self.item

    @property
    def final(self) -> bool:
        return self.status in FINAL_STEP


@dataclass(slots=True, kw_only=True)
class StepState(Unit):
    """One step or handler of one run. Of a parallel one `items` are the units, once its list is
    known (`previews`: their masked beginnings)."""

    unmet: int
    prepares_items: bool = False
    block: Block = Block.NONE
    tolerated: bool = False
    asked: ApprovalAsked | None = None
    answered: Approved | ApprovalRefused | None = None
    enqueued: bool = False
    items: list[Unit] | None = None
    previews: tuple[str, ...] = ()
    queue: deque[int] = field(default_factory=deque)  # items that can begin
    open_items: int = 0
    active_items: int = 0

    def unit(self, item: int | None) -> Unit:
        if item is None:
            return self
        if self.items is None:
            raise ValueError(f"step {self.step.name} has no items")
        return self.items[item]


class DeadlineKind(StrEnum):
    STEP_TIMEOUT = "step timeout"
    KILL = "kill"
    APPROVAL = "approval"
    RUN_TIMEOUT = "run timeout"


@dataclass(frozen=True, slots=True, order=True)
class Deadline:
    """Something to do at `at`; void once the launch it was set for is over."""

    at: datetime
    kind: DeadlineKind
    index: int = -1
    item: int = NO_ITEM
    launch: str = ""


@dataclass(slots=True)
class RunState:
    """The whole run. Made by `fresh`, changed by `apply` only."""

    workflow: Workflow
    steps: list[StepState]
    index: dict[str, int]
    dependents: list[list[int]]
    init: int | None  # the index of the init handler
    seq: int = 0
    queued: Queued | None = None
    status: RunStatus = RunStatus.QUEUED
    reason: str = ""
    started: Started | None = None
    preparation: Preparation = Preparation.NEEDED
    released: bool = False  # steps may begin: the run is prepared, and its init handler over
    params: tuple[tuple[str, str], ...] = ()
    finished_at: datetime | None = None
    outcome: RunStatus | None = None
    open: int = 0  # steps that are not final, handlers not counted
    succeeded: int = 0
    tolerated: int = 0
    first_failure: int | None = None
    verdicts: deque[int] = field(default_factory=deque)  # blocked steps, to be skipped or cancelled
    ready: list[int] = field(default_factory=list)  # heap by document order
    ready_runs: list[int] = field(default_factory=list)  # those that take no place: `run` steps
    retries: list[tuple[datetime, int, int]] = field(default_factory=list)  # heap: due, key
    deadlines: list[Deadline] = field(default_factory=list)  # heap
    running: dict[Key, Unit] = field(default_factory=dict)  # running, being prepared or judged
    occupied: int = 0  # places that they hold
    pending: dict[int, None] = field(default_factory=dict)  # steps neither begun nor final
    fanned: dict[int, None] = field(
        default_factory=dict
    )  # parallel steps some of whose items began
    waiting: dict[int, None] = field(default_factory=dict)  # steps that wait for a person
    held_up: int = 0  # of those that run: whose child runs wait for people
    to_judge: deque[Key] = field(default_factory=deque)
    concluding: deque[int] = field(default_factory=deque)  # parallel steps whose items are all over
    next_handlers: deque[int] = field(default_factory=deque)
    failed_handler: int | None = None
    stops: list[StopRequested] = field(default_factory=list)
    timed_out: RunTimedOut | None = None
    run_deadline: datetime | None = None
    waiting_since: datetime | None = None
    preparation_error: str = ""
    init_failure: str = ""
    unmet_condition: str | None = None
    remark: str = ""  # what people should know of the run's files

    @property
    def final(self) -> bool:
        return self.finished_at is not None

    @property
    def first_handler(self) -> int:
        return len(self.workflow.steps)

    @property
    def stopping(self) -> bool:
        """No further step may begin (handlers still do)."""
        return (
            bool(self.stops)
            or self.timed_out is not None
            or bool(self.preparation_error or self.init_failure)
        )

    def failed_steps(self) -> list[str]:
        return [s.step.name for s in self.steps if s.status is StepStatus.FAILED]

    def unit(self, key: Key) -> Unit:
        index, item = key
        return self.steps[index].unit(None if item == NO_ITEM else item)

    def unit_of(self, step: str, item: int | None) -> Unit:
        return self.steps[self.index[step]].unit(item)

    def before_outcome(self, unit: Unit) -> bool:
        """Whether it is a step, or the init handler, and so ends when the run is stopped."""
        return unit.index < self.first_handler or unit.index == self.init


def fresh(
    workflow: Workflow, *, prepares: frozenset[str], item_prepares: frozenset[str] = frozenset()
) -> RunState:
    """The state before the first event. `prepares` names the steps that need something evaluated
    before each of them starts (preconditions, command substitutions, lists of parallel steps),
    `item_prepares` those that need it for each of their items."""
    steps = [*workflow.steps, *workflow.handlers]
    index = {step.name: i for i, step in enumerate(steps)}
    dependents: list[list[int]] = [[] for _ in steps]
    states = []
    for i, step in enumerate(steps):
        before = set(step.depends)
        for name in before:
            dependents[index[name]].append(i)
        needed = step.name in prepares or step.parallel is not None
        states.append(
            StepState(
                step=step,
                index=i,
                item=None,
                unmet=len(before),
                preparation=Preparation.NEEDED if needed else Preparation.DONE,
                prepares_items=step.name in item_prepares,
            )
        )
    for below in dependents:
        below.sort()
    state = RunState(
        workflow=workflow,
        steps=states,
        index=index,
        dependents=dependents,
        init=None if workflow.on_init is None else index[workflow.on_init.name],
        open=len(workflow.steps),
    )
    state.pending = dict.fromkeys(range(len(workflow.steps)))
    return state
