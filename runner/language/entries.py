"""The keys of a workflow file: one class per map, one field per key.

The only place that knows raw key names. A field is the key's camelCase in snake_case, which is
also its alias in a file. What entries mean together (names, dependencies, schedules) is
`definition`'s. A description of each key stands in `schema`. Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel

from runner.language import kinds
from runner.language.faults import quoted
from runner.language.kinds import (
    Amount,
    Boolean,
    Command,
    Count,
    Counts,
    Declarations,
    Factor,
    Filled,
    Form,
    Items,
    Line,
    Pairs,
    Positive,
    Script,
    Seconds,
    Signal,
    Size,
    Tags,
    Text,
    TextMap,
    Texts,
    Words,
    as_boolean,
    as_list,
    as_text,
    as_text_fields,
    as_text_tuple,
    as_tree,
    between,
    holds_reference,
    one_of,
    refuse,
    setting,
)
from runner.language.model import (
    MapItem,
    OverlapPolicy,
    RepeatMode,
    WorkflowType,
    WorkspaceKind,
)
from runner.language.source import Data

Nested = dict[str, Any]  # key -> the Entry class of what it holds

PROCESS_EXECUTORS = ("command", "shell")
_HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_HTTP_COMMAND = re.compile(rf"\s*(?:{'|'.join(_HTTP_METHODS)})\s+\S", re.IGNORECASE)
_ENDS = ("succeeded", "partially_succeeded", "failed", "cancelled", "skipped")
_PULL_REQUEST_TYPES = (
    *("opened", "synchronize", "closed", "reopened", "edited", "labeled", "unlabeled"),
    *("ready_for_review", "converted_to_draft", "assigned", "unassigned", "review_requested"),
)
_RELEASE_TYPES = (
    *("published", "released", "prereleased", "created", "edited", "deleted", "unpublished"),
)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _as_steps(raw: Data) -> list[Data]:
    """A map of steps as a list, each with its name filled in."""
    if isinstance(raw, dict):
        return [_named(name, step) for name, step in raw.items()]
    return raw if isinstance(raw, list) else refuse("a list or a map of steps", raw)


def _named(name: str, step: Data) -> Data:
    return {"name": name} | step if isinstance(step, dict) else step


def _as_schedule(raw: Data) -> Data:
    return raw if isinstance(raw, dict) else {"start": raw}


def _as_events(raw: Data) -> Data:
    """`on: push`, and lists of names and of maps, as one map."""
    if not isinstance(raw, str | list):
        return raw
    events: dict[str, Data] = {}
    for event in as_list(raw):
        if isinstance(event, list):
            refuse("the name of an event, or a map", event)
        events |= event if isinstance(event, dict) else {as_text(event): None}
    return events


def _as_map(raw: Data) -> Data:
    return {} if raw is None else raw


def _as_approval(raw: Data) -> Data:
    if isinstance(raw, dict):
        return raw
    return {} if as_boolean(raw) else None


def _as_parallel(raw: Data) -> Data:
    return raw if isinstance(raw, dict) else {"items": raw}


def _as_concurrency(raw: Data) -> Data:
    return {"group": raw} if isinstance(raw, str) else raw


def _as_secrets(raw: Data) -> list[Data]:
    if isinstance(raw, dict) and "name" not in raw:
        refuse("a list such as `- {name: DB_PASSWORD, env: DB_PASSWORD}`", raw)
    return as_list(raw)


def _as_workspace(raw: Data) -> Data:
    return {"kind": raw} if isinstance(raw, str) else raw


def _as_executor(raw: Data) -> Data:
    return raw if isinstance(raw, dict) else {"type": raw}


def _as_repeat(raw: Data) -> RepeatMode | bool:
    if raw in ("while", "until"):
        return RepeatMode(raw)
    try:
        return as_boolean(raw)
    except ValueError:
        refuse("true, false, while or until", raw)


class Entry(BaseModel):
    """A map of the file."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,  # snake_case of a key is its alias
        defer_build=True,
    )
    nested: ClassVar[Nested] = {}


class ConditionEntry(Entry):
    condition: Text
    expected: Annotated[str | None, BeforeValidator(as_text), Form("text")] = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, raw: Data) -> Data:
        return {"condition": raw} if isinstance(raw, str) else raw


Conditions = Annotated[tuple[ConditionEntry, ...], BeforeValidator(as_list), Form("conditions")]


class ContinueOnEntry(Entry):
    failure: Boolean = False
    skipped: Boolean = False
    exit_code: Counts = ()
    output: Texts = ()
    mark_success: Boolean = False


class RetryEntry(Entry):
    limit: Count
    interval_sec: Seconds = 5.0
    backoff: Factor = 1.0
    max_interval_sec: Seconds | None = None
    exit_code: Counts = ()


class RepeatEntry(Entry):
    repeat: Annotated[RepeatMode | bool, PlainValidator(_as_repeat), Form("repeat")] = True
    interval_sec: Seconds = 0.0
    limit: Positive | None = None
    condition: Filled | None = None
    expected: Annotated[str | None, BeforeValidator(as_text), Form("text")] = None
    exit_code: Counts = ()
    backoff: Factor = 1.0
    max_interval_sec: Seconds | None = None


class ParallelEntry(Entry):
    items: Items
    max_concurrent: Positive = 10


class ApprovalEntry(Entry):
    message: Text = ""
    timeout_sec: Seconds = 7 * 86400.0
    roles: Texts = ()


class ResourcesEntry(Entry):
    cpus: Amount | None = None
    memory: Size | None = None
    nice: Annotated[int, PlainValidator(between(-20, 19)), Form("nice")] | None = None


# Executors. Values are texts that are expanded when the step starts, so that a kind is checked
# only where nothing is to be put in.

_SettingText = Annotated[str, PlainValidator(as_text), Form("text")]
_SettingTexts = Annotated[tuple[str, ...], PlainValidator(as_text_tuple), Form("texts")]
_SettingMap = Annotated[Any, PlainValidator(as_text_fields), Form("pairs")]
_SettingTree = Annotated[Any, PlainValidator(as_tree), Form("anything")]
_SettingBoolean = Annotated[str, PlainValidator(setting(as_boolean)), Form("setting boolean")]
_SettingAmount = Annotated[str, PlainValidator(setting(kinds.as_amount)), Form("setting amount")]
_SettingSize = Annotated[str, PlainValidator(setting(kinds.as_size)), Form("setting size")]
_SettingSeconds = Annotated[str, PlainValidator(setting(kinds.as_seconds)), Form("setting seconds")]
_SettingPort = Annotated[str, PlainValidator(setting(between(1, 65535))), Form("setting port")]


def _as_method(raw: Data) -> str:
    if holds_reference(raw):
        return as_text(raw)
    return one_of(_same(*_HTTP_METHODS))(raw.upper() if isinstance(raw, str) else raw)


class DockerConfig(Entry):
    image: _SettingText = ""
    container_name: _SettingText = ""
    volumes: _SettingTexts = ()
    cpus: _SettingAmount = ""
    memory: _SettingSize = ""
    gpus: _SettingText = ""
    env: _SettingMap = MapItem(())
    user: _SettingText = ""
    working_dir: _SettingText = ""
    entrypoint: Annotated[Any, PlainValidator(as_tree), Form("words")] = ""
    network: _SettingText = ""
    platform: _SettingText = ""
    pull: Annotated[
        str,
        PlainValidator(setting(one_of(_same("always", "missing", "never")))),
        Form("always|missing|never"),
    ] = ""
    auto_remove: _SettingBoolean = ""


class HttpConfig(Entry):
    url: _SettingText = ""
    method: Annotated[str, PlainValidator(_as_method), Form("|".join(_HTTP_METHODS))] = ""
    headers: _SettingMap = MapItem(())
    query: _SettingMap = MapItem(())
    body: _SettingTree = ""
    timeout: _SettingSeconds = ""
    as_json: _SettingBoolean = Field("", alias="json")
    silent: _SettingBoolean = ""
    skip_tls_verify: _SettingBoolean = Field("", alias="skipTLSVerify")


class MailConfig(Entry):
    to: _SettingTexts = ()
    cc: _SettingTexts = ()
    bcc: _SettingTexts = ()
    sender: _SettingText = Field("", alias="from")
    subject: _SettingText = ""
    message: _SettingText = ""
    html: _SettingText = ""
    attachments: _SettingTexts = ()


class SshConfig(Entry):
    host: _SettingText = ""
    port: _SettingPort = ""
    user: _SettingText = ""
    key: _SettingText = ""
    password: _SettingText = ""
    strict_host_key: _SettingBoolean = ""
    shell: _SettingText = ""


class JqConfig(Entry):
    input: _SettingTree = ""
    raw: _SettingBoolean = ""


CONFIGS: dict[str, type[Entry]] = {
    "docker": DockerConfig,
    "http": HttpConfig,
    "mail": MailConfig,
    "ssh": SshConfig,
    "jq": JqConfig,
}
EXECUTORS = (*PROCESS_EXECUTORS, *CONFIGS)


def _as_config(raw: Data, info: ValidationInfo) -> Entry | None:
    name = info.data.get("type")
    if name in PROCESS_EXECUTORS:
        if raw:
            raise ValueError(f"{quoted(name)} takes no config")
        return None
    if name is None:  # told already
        return None
    # What it raises becomes faults at their places below this one.
    return CONFIGS[name].model_validate({} if raw is None else raw)


class ExecutorEntry(Entry):
    type: Annotated[str, PlainValidator(one_of(_same(*EXECUTORS))), Form("|".join(EXECUTORS))]
    config: Annotated[Any, PlainValidator(_as_config), Form("config")] = Field(
        None, validate_default=True
    )


class StepEntry(Entry):
    nested: ClassVar[Nested] = {
        "preconditions": ConditionEntry,
        "precondition": ConditionEntry,
        "continueOn": ContinueOnEntry,
        "retryPolicy": RetryEntry,
        "repeatPolicy": RepeatEntry,
        "parallel": ParallelEntry,
        "approval": ApprovalEntry,
        "resources": ResourcesEntry,
        "executor": ExecutorEntry,
    }

    name: Line | None = None
    id: Text | None = None
    description: Text = ""
    command: Command | None = None
    script: Script | None = None
    shell: Words | None = None
    executor: (
        Annotated[
            ExecutorEntry, BeforeValidator(_as_executor), Form(f"or a map: {'|'.join(EXECUTORS)}")
        ]
        | None
    ) = None
    run: Filled | None = None
    params: Declarations | None = None
    parallel: Annotated[ParallelEntry | None, BeforeValidator(_as_parallel), Form("parallel")] = (
        None
    )
    approval: Annotated[ApprovalEntry | None, BeforeValidator(_as_approval), Form("approval")] = (
        None
    )
    depends: Texts | None = None
    output: Text | None = None
    stdout: Text | None = None
    stderr: Text | None = None
    env: Pairs = ()
    dir: Text | None = None
    preconditions: Conditions | None = None
    precondition: Conditions | None = None
    continue_on: ContinueOnEntry | None = None
    retry_policy: RetryEntry | None = None
    repeat_policy: RepeatEntry | None = None
    timeout_sec: Seconds | None = None
    signal_on_stop: Signal | None = None
    on_loss: (
        Annotated[bool, PlainValidator(one_of({"fail": False, "retry": True})), Form("fail|retry")]
        | None
    ) = None
    mail_on_error: Boolean = False
    worker_selector: TextMap | None = None
    resources: ResourcesEntry | None = None


HANDLERS = ("init", "success", "failure", "cancel", "exit")


class HandlersEntry(Entry):
    nested: ClassVar[Nested] = {key: StepEntry for key in HANDLERS}

    init: StepEntry | None = None
    success: StepEntry | None = None
    failure: StepEntry | None = None
    cancel: StepEntry | None = None
    exit: StepEntry | None = None


class ScheduleEntry(Entry):
    start: Texts = ()
    stop: Texts = ()
    restart: Texts = ()


class PushEntry(Entry):
    branches: Texts = ()
    tags: Texts = ()
    paths: Texts = ()


_PullRequestType = Annotated[
    str, PlainValidator(one_of(_same(*_PULL_REQUEST_TYPES))), Form("|".join(_PULL_REQUEST_TYPES))
]
_ReleaseType = Annotated[
    str, PlainValidator(one_of(_same(*_RELEASE_TYPES))), Form("|".join(_RELEASE_TYPES))
]
_End = Annotated[str, PlainValidator(one_of(_same(*_ENDS))), Form("|".join(_ENDS))]


class PullRequestEntry(Entry):
    types: Annotated[
        tuple[_PullRequestType, ...], BeforeValidator(as_list), Form("list or one")
    ] = ()
    branches: Texts = ()
    paths: Texts = ()
    forks: Annotated[
        bool, PlainValidator(one_of({"ignore": False, "approve": True})), Form("ignore|approve")
    ] = False


class ReleaseEntry(Entry):
    types: Annotated[tuple[_ReleaseType, ...], BeforeValidator(as_list), Form("list or one")] = ()


class WebhookEntry(Entry):
    params: TextMap = Field(default_factory=dict)


class UpstreamEntry(Entry):
    ids: Texts = ()
    status: Annotated[tuple[_End, ...], BeforeValidator(as_list), Form("list or one")] = ()


class EventsEntry(Entry):
    nested: ClassVar[Nested] = {
        "push": PushEntry,
        "pullRequest": PullRequestEntry,
        "release": ReleaseEntry,
        "webhook": WebhookEntry,
        "workflow": UpstreamEntry,
    }

    push: Annotated[PushEntry | None, BeforeValidator(_as_map)] = None
    pull_request: Annotated[PullRequestEntry | None, BeforeValidator(_as_map)] = None
    release: Annotated[ReleaseEntry | None, BeforeValidator(_as_map)] = None
    webhook: Annotated[WebhookEntry | None, BeforeValidator(_as_map)] = None
    workflow: Annotated[UpstreamEntry | None, BeforeValidator(_as_map)] = None


class SecretEntry(Entry):
    name: Text
    env: Filled | None = None
    file: Filled | None = None
    command: Filled | None = None


class WorkspaceEntry(Entry):
    kind: Annotated[
        WorkspaceKind,
        PlainValidator(one_of({kind.value: kind for kind in WorkspaceKind})),
        Form("shared|own|none"),
    ] = WorkspaceKind.SHARED
    git: Boolean = False


class ConcurrencyEntry(Entry):
    group: Filled
    max: Positive = 1
    cancel_in_progress: Boolean = False


class SmtpEntry(Entry):
    host: Text = ""
    port: _SettingPort = ""
    username: Text = ""
    password: Text = ""
    tls: Annotated[
        str,
        PlainValidator(setting(one_of(_same("starttls", "tls", "none")))),
        Form("starttls|tls|none"),
    ] = ""


class MailOnEntry(Entry):
    failure: Boolean = False
    success: Boolean = False


class MailEntry(Entry):
    sender: Text = Field("", alias="from")
    to: Texts = ()
    prefix: Text = ""
    attach_logs: Boolean = False


class WorkflowEntry(Entry):
    nested: ClassVar[Nested] = {
        "schedule": ScheduleEntry,
        "on": EventsEntry,
        "steps": StepEntry,
        "handlerOn": HandlersEntry,
        "preconditions": ConditionEntry,
        "precondition": ConditionEntry,
        "secrets": SecretEntry,
        "workspace": WorkspaceEntry,
        "concurrency": ConcurrencyEntry,
        "smtp": SmtpEntry,
        "mailOn": MailOnEntry,
        "errorMail": MailEntry,
        "infoMail": MailEntry,
    }

    name: Line | None = None
    description: Text = ""
    group: Line = ""
    tags: Tags = ()
    type: (
        Annotated[
            WorkflowType,
            PlainValidator(one_of({kind.value: kind for kind in WorkflowType})),
            Form("graph|chain"),
        ]
        | None
    ) = None
    schedule: Annotated[ScheduleEntry, BeforeValidator(_as_schedule), Form("schedule")] | None = (
        None
    )
    timezone: Text | None = None
    catchup_window: Seconds = 0.0
    overlap_policy: Annotated[
        OverlapPolicy,
        PlainValidator(one_of({policy.value: policy for policy in OverlapPolicy})),
        Form("skip|latest|all"),
    ] = OverlapPolicy.SKIP
    skip_if_successful: Boolean = False
    on: Annotated[EventsEntry, BeforeValidator(_as_events), Form("events")] | None = None
    params: Declarations = ()
    env: Pairs = ()
    dotenv: Texts = ()
    secrets: Annotated[tuple[SecretEntry, ...], BeforeValidator(_as_secrets)] = ()
    shell: Words | None = None
    working_dir: Text | None = None
    workspace: (
        Annotated[WorkspaceEntry, BeforeValidator(_as_workspace), Form("workspace")] | None
    ) = None
    steps: Annotated[tuple[StepEntry, ...], BeforeValidator(_as_steps), Form("steps")] | None = None
    handler_on: HandlersEntry | None = None
    preconditions: Conditions | None = None
    precondition: Conditions | None = None
    timeout_sec: Seconds | None = None
    delay_sec: Seconds = 0.0
    restart_wait_sec: Seconds = 0.0
    on_loss: Annotated[
        bool, PlainValidator(one_of({"fail": False, "retry": True})), Form("fail|retry")
    ] = False
    max_active_runs: Count = 1
    max_active_steps: Count = 0
    queue: Line = ""
    priority: Annotated[int, PlainValidator(between(-100, 100)), Form("priority")] = 0
    concurrency: (
        Annotated[ConcurrencyEntry, BeforeValidator(_as_concurrency), Form("concurrency")] | None
    ) = None
    worker_selector: TextMap | None = None
    max_clean_up_time_sec: Seconds = 60.0
    max_output_size: Size = 1024 * 1024
    hist_retention_days: Count = 30
    smtp: SmtpEntry | None = None
    mail_on: MailOnEntry | None = None
    error_mail: MailEntry | None = None
    info_mail: MailEntry | None = None
    log_dir: Text | None = None


def is_http_command(command: str) -> bool:
    """Whether `command` is `METHOD URL`, as a step with `executor: http` has it."""
    return _HTTP_COMMAND.match(command) is not None
