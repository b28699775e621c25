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

    version: ClassVar[int] = 1
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


@dataclass(frozen=True, slots=True)
class Started:
    """The run left the queue."""

    version: ClassVar[int] = 1
    at: datetime
    host: str
    runner: str  # Dagmill's version


@dataclass(frozen=True, slots=True)
class PreparationStarted:
    """What must be evaluated before a step (None: before the run) is being evaluated. It may
    be evaluated again after a crash."""

    version: ClassVar[int] = 1
    at: datetime
    step: str | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Preconditions were judged. `met` False skips; `error` fails instead ("" if none).

    For the run itself (step None) `params` are its (name or position, masked value) pairs.
    """

    version: ClassVar[int] = 1
    at: datetime
    step: str | None
    met: bool
    reason: str = ""
    error: str = ""
    params: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Launched:
    """From here on the attempt may have begun. Committed before its process is spawned."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    attempt: int
    launch: str
    boot_id: str


@dataclass(frozen=True, slots=True)
class LaunchVoided:
    """A launch never began and never will; it used up no attempt. `reason` says what kept it from
    beginning, "" where the service died first."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    attempt: int
    launch: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StopSent:
    """A signal is about to be sent to the step's process group."""

    version: ClassVar[int] = 1
    at: datetime
    step: str
    signal: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ended:
    """An attempt is over, or (launch "") could not be started.

    `reason` is "" for a success; `exit_code` None where nothing ran; `signal` the number of the
    signal that ended it; `retryable` False where another attempt cannot help. `lost`: the machine
    or the wrapper died under it, and nobody can know how it ended; `onLoss` says what follows.
    """

    version: ClassVar[int] = 2  # 1 had no `lost`
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


@dataclass(frozen=True, slots=True)
class Skipped:
    version: ClassVar[int] = 1
    at: datetime
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    version: ClassVar[int] = 1
    at: datetime
    step: str
    reason: str


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
    | Launched
    | LaunchVoided
    | StopSent
    | Ended
    | Skipped
    | Cancelled
    | StopRequested
    | RunTimedOut
    | Settled
    | Finished
)
