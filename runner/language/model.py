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
    """One declared parameter; `name` is None for a positional one, `value` its unexpanded text.
    `of_base`: base.yaml declares it, which does not count among the places of the workflow."""

    name: str | None
    value: str
    of_base: bool = False


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


class RepeatMode(StrEnum):
    """What makes a step that ended run once more."""

    ALWAYS = "always"  # while it succeeds
    WHILE = "while"  # while the condition holds, or the exit code is one of the list
    UNTIL = "until"  # until it does


@dataclass(frozen=True, slots=True)
class RepeatPolicy:
    """At most `limit` executions (None: any number); the n-th wait is interval_s * factor**(n-1),
    at most max_interval_s. At most one of `condition` and `exit_codes` is given."""

    mode: RepeatMode
    interval_s: float = 0.0
    limit: int | None = None
    condition: Condition | None = None
    exit_codes: tuple[int, ...] = ()
    factor: float = 1.0
    max_interval_s: float | None = None


@dataclass(frozen=True, slots=True)
class MapItem:
    """A map whose values are unexpanded texts, or lists and maps of them, in the file's order."""

    fields: tuple[tuple[str, Tree], ...]


Tree = str | tuple["Tree", ...] | MapItem


@dataclass(frozen=True, slots=True)
class Parallel:
    """A step that runs once for each item. `source` is the text (`${VAR}`) that the list comes
    from, else `items` are its items, unexpanded."""

    items: tuple[Tree, ...] = ()
    source: str | None = None
    max_concurrent: int = 10


@dataclass(frozen=True, slots=True)
class Approval:
    """A person must agree before the step's command; not within `timeout_s`: the step fails."""

    message: str = ""
    timeout_s: float = 7 * 86400.0
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    """An executor other than `command`, with its unexpanded config."""

    type: str
    config: MapItem = MapItem(())


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of a step's process; `memory_bytes` and `cpus` None: none."""

    cpus: float | None = None
    memory_bytes: int | None = None
    nice: int | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One node of the graph, or one handler.

    Exactly one of `run`, `command`, `argv` or only `script` says what runs: `run` names a
    sub-workflow (unexpanded), `command` is shell text, `argv` a list that runs without a shell,
    `script` the text of a file (run by the shell, by `command`/`argv` as its interpreter, or by its
    own shebang). None of them where only an `executor` or an `approval` is given. `params` are
    those of a `run`, parsed and unexpanded.
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
    run: str | None = None
    params: tuple[Param, ...] = ()
    parallel: Parallel | None = None
    repeat: RepeatPolicy | None = None
    approval: Approval | None = None
    executor: ExecutorConfig | None = None  # None: a local process
    stdout: str | None = None  # path below `dir`, unexpanded
    stderr: str | None = None
    mail_on_error: bool = False
    worker_selector: tuple[tuple[str, str], ...] = ()
    resources: Resources | None = None


Crons = tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Schedule:
    """When runs start, are stopped, and are stopped and started: validated five-field texts without
    a zone prefix, each with its zone (IANA name; None: the service's own setting)."""

    crons: Crons
    stops: Crons = ()
    restarts: Crons = ()


class OverlapPolicy(StrEnum):
    """What becomes of a slot that finds a run of its workflow active or queued."""

    SKIP = "skip"
    LATEST = "latest"  # one slot waits, a newer one takes its place
    ALL = "all"


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
class PullRequestFilter:
    """`on: pullRequest`; `branches` are those that a pull request goes into. Empty: any.

    `approve_forks`: a request from a fork waits for a person; else it is ignored.
    """

    types: tuple[str, ...] = ()
    branches: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    approve_forks: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowFilter:
    """`on: workflow`: runs of the workflows `ids` that end with one of `statuses` (empty: any)."""

    ids: tuple[str, ...]
    statuses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Events:
    """Repository events other than pushes that start runs; None: does not listen.

    `release` has the types (empty: any), `webhook` (param, JSON path) pairs.
    """

    pull_request: PullRequestFilter | None = None
    release: tuple[str, ...] | None = None
    webhook: tuple[tuple[str, str], ...] | None = None
    workflow: WorkflowFilter | None = None


class SecretSource(StrEnum):
    ENV = "env"
    FILE = "file"
    COMMAND = "command"


@dataclass(frozen=True, slots=True)
class Secret:
    """A variable whose value is read at each start and never stored. `text` is the name of a
    variable, a path, or a command."""

    name: str
    source: SecretSource
    text: str


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most `max` running root runs of all workflows that name the same expanded `group`."""

    group: str
    max: int = 1
    cancel_in_progress: bool = False


class WorkspaceKind(StrEnum):
    SHARED = "shared"  # a child uses its parent's
    OWN = "own"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Workspace:
    kind: WorkspaceKind = WorkspaceKind.SHARED
    git: bool = False  # with a detached .git, without remote or credentials


@dataclass(frozen=True, slots=True)
class Smtp:
    """Unexpanded texts; `tls` is starttls, tls or none."""

    host: str = ""
    port: str = ""
    username: str = ""
    password: str = ""
    tls: str = ""


@dataclass(frozen=True, slots=True)
class Mail:
    """Whom a run's end is told, and how; unexpanded texts."""

    sender: str = ""
    to: tuple[str, ...] = ()
    prefix: str = ""
    attach_logs: bool = False


@dataclass(frozen=True, slots=True)
class Mailing:
    """Everything that a workflow says about mail."""

    smtp: Smtp | None = None
    on_failure: bool = False
    on_success: bool = False
    error: Mail | None = None
    info: Mail | None = None


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
    on_init: Step | None = None  # handlers; named handlerOn.init, .success, ...
    on_success: Step | None = None
    on_failure: Step | None = None
    on_cancel: Step | None = None
    on_exit: Step | None = None
    timeout_s: float | None = None
    max_active_runs: int = 1  # 0: no limit
    max_active_steps: int = 0  # 0: no limit
    max_clean_up_s: float = 60.0
    max_output_bytes: int = 1024 * 1024
    locals: tuple[Workflow, ...] = ()  # further documents of the file; their ids are `<id>#<n>`
    events: Events = Events()
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catchup_s: float = 0.0  # how old a missed slot may be and still fire; 0: only the grace
    skip_if_successful: bool = False
    delay_s: float = 0.0
    restart_wait_s: float = 0.0
    queue: str = ""
    priority: int = 0
    concurrency: Concurrency | None = None
    worker_selector: tuple[tuple[str, str], ...] = ()
    retention_days: int = 30  # 0: for ever
    base_env: tuple[tuple[str, str], ...] = ()  # of base.yaml: weaker than dotenv
    dotenv: tuple[str, ...] = ()
    secrets: tuple[Secret, ...] = ()
    workspace: Workspace = Workspace()
    mailing: Mailing = Mailing()

    @property
    def handlers(self) -> tuple[Step, ...]:
        known = (self.on_init, self.on_success, self.on_failure, self.on_cancel, self.on_exit)
        return tuple(handler for handler in known if handler is not None)
