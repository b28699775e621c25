"""The facts of a run, past tense and versioned: an append-only log whose fold is the run's state.

Events never hold a secret or a step's output: values that steps pass on live in the store's
run_values, output bytes in log files; an event has their size, digest and a masked preview.
`journal` turns events into records and back. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from runner.triggers import Trigger


@dataclass(frozen=True, slots=True)
class LogDigest:
    """What a finished attempt printed; `tail` is its last lines (at most 20 and 2 KiB), masked."""

    bytes: int
    lines: int
    sha256: str
    tail: str


@dataclass(frozen=True, slots=True)
class OutputNote:
    """A value that a step passed on; `preview` is masked and short."""

    name: str
    size_bytes: int
    sha256: str
    preview: str


@dataclass(frozen=True, slots=True)
class Queued:
    """The run exists. `params` are the given (name or position, masked value) pairs in order."""

    version: ClassVar[int] = 2  # 1 knew no sub-workflows, no retries and no base.yaml
    at: datetime
    workflow: str
    name: str
    path: str
    repository: str
    ref: str
    commit: str
    blob: str
    definition_sha256: str
    trigger: Trigger
    params: tuple[tuple[str, str], ...] = ()
    dirty: bool = False  # only of `dagmill run`: the working tree differs from the commit
    base_sha256: str = ""  # of base.yaml's text, "" where there is none
    parent: str = ""  # of a child run: the run, its step, and the item's number, if it has one
    parent_step: str = ""
    parent_item: int | None = None
    root: str = ""  # of a child run: the run that all began with
    retry_of: str = ""  # the run that this one does again in part
    attempt: int = 1  # counts the chain of retries
    priority: int = 0  # higher ones leave the queue first
    not_before: datetime | None = None  # it stays queued until then


@dataclass(frozen=True, slots=True)
class Started:
    """The run left the queue."""

    version: ClassVar[int] = 1
    at: datetime
    host: str
    runner: str  # Dagmill's version


@dataclass(frozen=True, slots=True)
class PreparationStarted:
    """What must be evaluated before a step (None: before the run) or an item of a parallel step is
    being evaluated. It may be evaluated again after a crash."""

    version: ClassVar[int] = 2  # 1 had no `item`, nor had 1 of the five below that have one
    at: datetime
    step: str | None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Preconditions were judged. `met` False skips; `error` fails instead ("" if none).

    For the run itself (step None) `params` are its (name or position, masked value) pairs. For a
    parallel step `items` are the masked beginnings of its items; None where they were known or
    there are none to be known.
    """

    version: ClassVar[int] = 2
    at: datetime
    step: str | None
    met: bool
    reason: str = ""
    error: str = ""
    params: tuple[tuple[str, str], ...] = ()
    items: tuple[str, ...] | None = None
    item: int | None = None


@dataclass(frozen=True, slots=True)
class ApprovalAsked:
    """A step waits for a person, until `due`."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    message: str
    roles: tuple[str, ...]
    due: datetime


@dataclass(frozen=True, slots=True)
class Approved:
    version: ClassVar[int] = 1
    at: datetime
    step: str
    by: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalRefused:
    """A person said no, or (by "") nobody said anything in time; the step fails for `reason`."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    by: str
    reason: str
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Launched:
    """From here on the attempt may have begun. Committed before its process is spawned."""

    version: ClassVar[int] = 2
    at: datetime
    step: str
    attempt: int
    launch: str
    boot_id: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class LaunchVoided:
    """A launch never began and never will; it used up no attempt. `reason` says what kept it from
    beginning, "" where the service died first."""

    version: ClassVar[int] = 2
    at: datetime
    step: str
    attempt: int
    launch: str
    reason: str = ""
    item: int | None = None


@dataclass(frozen=True, slots=True)
class StopSent:
    """A signal is about to be sent to the step's process group."""

    version: ClassVar[int] = 2
    at: datetime
    step: str
    signal: int
    reason: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over, or (launch "") could not be started.

    `reason` is "" for a success; `exit_code` None where nothing ran; `signal` the number of the
    signal that ended it; `retryable` False where another attempt cannot help. `lost`: the machine
    or the wrapper died under it, and nobody can know how it ended; `onLoss` says what follows.
    `skipped`: a child run that was skipped. Of a parallel step as a whole (`attempt` 0, `item`
    None) it says what its items amount to, all of which are over.
    """

    version: ClassVar[int] = 3  # 1 had no `lost`, 2 neither `item` nor `skipped`
    at: datetime
    step: str
    attempt: int
    launch: str
    exit_code: int | None
    signal: int | None
    reason: str
    retryable: bool = True
    output_matched: bool = False  # continueOn.output found
    log: LogDigest | None = None
    outputs: tuple[OutputNote, ...] = ()
    lost: bool = False
    skipped: bool = False
    item: int | None = None


@dataclass(frozen=True, slots=True)
class JudgingStarted:
    """Whether a step or item that ended runs once more (`repeatPolicy.condition`) is being
    evaluated; after a crash it may be evaluated again."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """`met` is what the condition came to; `error` why it came to nothing ("" if it did)."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    met: bool
    error: str = ""
    item: int | None = None


@dataclass(frozen=True, slots=True)
class ChildWaits:
    """The child run of a step waits for people and for nothing else, or (`waits` False) goes on."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    waits: bool
    item: int | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    version: ClassVar[int] = 1
    at: datetime
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A step that had not begun, or all items of a parallel step that do not run now."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Carried:
    """Taken over from the run that this one retries, where it has `status`: a step, or one item of
    a parallel step. It was run by `run`, whose logs have it. With `status` pending only the list of
    a parallel step is taken over: `items` as in Prepared."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    status: str
    run: str
    item: int | None = None
    attempt: int = 0
    launch: str = ""
    reason: str = ""
    exit_code: int | None = None
    log: LogDigest | None = None
    outputs: tuple[OutputNote, ...] = ()
    items: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A person or the service asks the run to stop; a second request kills."""

    version: ClassVar[int] = 1
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class RunTimedOut:
    version: ClassVar[int] = 1
    at: datetime
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome, recorded before any handler starts; it never changes."""

    version: ClassVar[int] = 1
    at: datetime
    outcome: str
    reason: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The final status. Nothing follows."""

    version: ClassVar[int] = 1
    at: datetime
    status: str
    reason: str


Event = (
    Queued
    | Started
    | PreparationStarted
    | Prepared
    | ApprovalAsked
    | Approved
    | ApprovalRefused
    | Launched
    | LaunchVoided
    | StopSent
    | Ended
    | JudgingStarted
    | Judged
    | ChildWaits
    | Skipped
    | Cancelled
    | Carried
    | StopRequested
    | RunTimedOut
    | Settled
    | Finished
)
