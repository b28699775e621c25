"""What a workflow says, as plain frozen values.

Knows the meaning of a loaded file and nothing of YAML, key spellings or positions: `document`
and `load` leave those behind. Texts that may hold `$X` or backticks are kept as they were
written; `expand` puts values in when a run needs them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """Something wrong in a file. `str()` is `path:line:column: message`, line and column from 1."""

    path: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}: {self.message}"


class WorkflowType(StrEnum):
    GRAPH = "graph"
    CHAIN = "chain"


@dataclass(frozen=True, slots=True)
class Param:
    """One declared parameter; `name` is None for a positional one, `value` its unexpanded text."""

    name: str | None
    value: str


@dataclass(frozen=True, slots=True)
class Condition:
    """`expected` None: `condition` is a command that must exit 0.

    Else some line of the expanded `condition` equals `expected` or matches its `re:` pattern.
    """

    condition: str
    expected: str | None = None


@dataclass(frozen=True, slots=True)
class ContinueOn:
    """Which results of a step let its dependents start all the same."""

    failure: bool = False
    skipped: bool = False
    exit_codes: tuple[int, ...] = ()
    output: tuple[str, ...] = ()  # substrings, or `re:` patterns
    mark_success: bool = False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`limit` extra attempts; the n-th waits interval_s * factor**(n-1), at most max_interval_s."""

    limit: int
    interval_s: float = 5.0
    factor: float = 1.0
    max_interval_s: float | None = None
    exit_codes: tuple[int, ...] = ()  # empty: any failure


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph, or one handler.

    Exactly one of `command`, `argv` or only `script` says what runs: `command` is shell text,
    `argv` a list that runs without a shell, `script` the text of a file (run by the shell, by
    `command`/`argv` as its interpreter, or by its own shebang).
    """

    name: str
    id: str | None = None
    description: str = ""
    command: str | None = None
    argv: tuple[str, ...] | None = None
    script: str | None = None
    shell: tuple[str, ...] | None = None  # words as written; None: the workflow's, else `sh -e`
    depends: tuple[str, ...] = ()  # names of steps (ids resolved, chain order filled in by load)
    env: tuple[tuple[str, str], ...] = ()
    dir: str | None = None
    output: str | None = None
    preconditions: tuple[Condition, ...] = ()
    continue_on: ContinueOn = field(default_factory=ContinueOn)
    retry: RetryPolicy | None = None
    timeout_s: float | None = None
    stop_signal: int | None = None  # number; None: TERM
    retry_on_loss: bool = False  # run again when nobody can know how an attempt ended


@dataclass(frozen=True, slots=True)
class Schedule:
    """When runs start: `crons` are validated five-field texts without a zone prefix, each with its
    zone (IANA name; None: the service's own setting)."""

    crons: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class PushFilter:
    """`on: push`. Empty `branches` and `tags` both: all of both; only one given: only that kind.

    Patterns: `*` stays inside `/`, `**` crosses, `!` excludes, the last match wins. `paths`
    (empty: any) is ignored for tags.
    """

    branches: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workflow:
    """One workflow, whole and valid. `id` is its path below `.dagu/` without the ending."""

    id: str
    name: str
    path: str  # of its file, from the repository's root
    steps: tuple[Step, ...]
    type: WorkflowType = WorkflowType.GRAPH
    description: str = ""
    group: str = ""
    tags: tuple[str, ...] = ()
    schedule: Schedule | None = None
    timezone: str | None = None  # IANA name; also the zone of DATE and MONTH
    push: PushFilter | None = None
    params: tuple[Param, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    shell: tuple[str, ...] | None = None
    working_dir: str | None = None
    preconditions: tuple[Condition, ...] = ()
    on_success: Step | None = None  # handlers; named handlerOn.success, .failure, .exit
    on_failure: Step | None = None
    on_exit: Step | None = None
    timeout_s: float | None = None
    max_active_runs: int = 1  # 0: no limit
    max_active_steps: int = 0  # 0: no limit
    max_clean_up_s: float = 60.0
    max_output_bytes: int = 1024 * 1024
    locals: tuple[Workflow, ...] = ()  # further documents of the file

    @property
    def handlers(self) -> tuple[Step, ...]:
        return tuple(h for h in (self.on_success, self.on_failure, self.on_exit) if h is not None)
