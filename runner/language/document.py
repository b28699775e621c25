"""The shape of a workflow file: the only place that knows raw key names.

Turns plain data (`source`) into typed entries and says which keys are unknown, not built yet,
or hold the wrong kind of value. What entries mean together (names, dependencies, schedules) is
`definition`'s. Its rule: whatever is wrong with one key never hides another's fault. Pure.
"""

from __future__ import annotations

import copy
import math
import re
import shlex
import signal
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from runner.language.faults import Fault, Place, did_you_mean, quoted
from runner.language.model import WorkflowType
from runner.language.source import Data, camel

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*([smhd]?)")
_SIZE = re.compile(r"([0-9]+)\s*(B|[kKMG](?:i?B)?)?", re.IGNORECASE)
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
MAX_FAULTS = 100  # of one document; one more is kept, which shows that there are more
_MAX_DURATION_S = 10 * 366 * 86400
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_EXECUTORS_NOW = ("command", "shell")
_EXECUTORS_LATER = ("docker", "http", "mail", "ssh", "jq")


def _shown(raw: Data) -> str:
    match raw:
        case None:
            return "nothing"
        case str():
            return quoted(raw)
        case list():
            return "a list"
        case _:
            return "a map"


def _refuse(wanted: str, raw: Data) -> NoReturn:
    raise ValueError(f"must be {wanted}, not {_shown(raw)}")


def _text(raw: Data) -> str:
    if isinstance(raw, str):
        return raw
    return "" if raw is None else _refuse("text", raw)


def _line(raw: Data) -> str:
    text = _text(raw)
    return text if text.isprintable() and len(text) <= 200 else _refuse("one line of text", raw)


def _texts(raw: Data) -> list[Data]:
    if raw is None:
        return []
    return raw if isinstance(raw, list) else [raw]


def _words(raw: Data) -> tuple[str, ...]:
    try:
        words = [_text(w) for w in raw] if isinstance(raw, list) else shlex.split(_text(raw))
    except ValueError as error:
        raise ValueError(f"must be a command line: {error}") from error
    return tuple(words) if words and words[0] else _refuse("a command line", raw)


def _tags(raw: Data) -> tuple[str, ...]:
    parts = _text(raw).split(",") if not isinstance(raw, list) else [_text(t) for t in raw]
    return tuple(dict.fromkeys(t.strip().lower() for t in parts if t.strip()))


def _boolean(raw: Data) -> bool:
    if raw in _TRUE:
        return True
    return False if raw in _FALSE else _refuse("true or false", raw)


def _whole(raw: Data) -> int:
    if not isinstance(raw, str) or not _INT.fullmatch(raw) or len(raw) > 18:
        _refuse("a whole number", raw)
    return int(raw, 0) if raw[:2] in ("0o", "0x") else int(raw)


def _count(raw: Data) -> int:
    number = _whole(raw)
    return number if number >= 0 else _refuse("0 or more", raw)


def _seconds(raw: Data) -> float:
    found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        _refuse("a number of seconds or a duration such as 90s, 10m, 6h or 2d", raw)
    seconds = float(found[1]) * _UNIT_S[found[2]]
    return seconds if seconds <= _MAX_DURATION_S else _refuse("at most ten years", raw)


def _size(raw: Data) -> int:
    found = _SIZE.fullmatch(raw) if isinstance(raw, str) and len(raw) < 24 else None
    if found is None:
        _refuse("a number of bytes or a size such as 512KiB or 5MiB", raw)
    unit = (found[2] or "B").upper()
    base = 1000 if len(unit) == 2 else 1024  # KB is 1000; K and KiB are 1024
    size = int(found[1]) * int(base ** "BKMG".index(unit[0]))
    return size if size > 0 else _refuse("more than 0", raw)


def _factor(raw: Data) -> float:
    """`true` doubles each wait, a number multiplies it."""
    if raw in _TRUE:
        return 2.0
    if raw in _FALSE:
        return 1.0
    number = float(raw) if isinstance(raw, str) and _FLOAT.fullmatch(raw) else math.nan
    return number if 1.0 <= number <= 1000.0 else _refuse("true, or a factor from 1 to 1000", raw)


def _signal(raw: Data) -> int:
    name = _text(raw).strip().upper()
    known = {s.name: s.value for s in signal.Signals}
    number = known.get(name) or known.get("SIG" + name)
    if number is None:
        plain = [n.removeprefix("SIG") for n in known]
        near = did_you_mean(name.removeprefix("SIG"), plain)
        raise ValueError(f"must be a signal such as TERM or SIGINT, not {_shown(raw)}{near}")
    return number


def _on_loss(raw: Data) -> bool:
    return bool(raw == "retry") if raw in ("fail", "retry") else _refuse("fail or retry", raw)


def _kind(raw: Data) -> WorkflowType:
    return WorkflowType(raw) if raw in ("graph", "chain") else _refuse("graph or chain", raw)


def _executor(raw: Data) -> str:
    """Only the executors that run a command are built; both mean the same."""
    config: Data = None
    name = raw
    if isinstance(raw, dict):
        unknown = [k for k in raw if k not in ("type", "config")]
        if unknown:
            raise ValueError(f"has type and config only, not {quoted(unknown[0])}")
        name, config = raw.get("type"), raw.get("config")
    if name in _EXECUTORS_LATER:
        raise ValueError(f"{quoted(name)} is not yet supported")
    if name not in _EXECUTORS_NOW:
        near = (
            did_you_mean(name, _EXECUTORS_NOW + _EXECUTORS_LATER) if isinstance(name, str) else ""
        )
        raise ValueError(f"must be the name of an executor, not {_shown(name)}{near}")
    if config:
        raise ValueError(f"{quoted(name)} takes no config")
    return str(name)


def _pairs(raw: Data) -> list[Data]:
    """A map as one-key maps, so that both spellings of `env` read alike."""
    if isinstance(raw, dict):
        return [{key: value} for key, value in raw.items()]
    if isinstance(raw, str):
        raise ValueError("must be a map, or a list of maps such as `- KEY: value`")
    return [item if item is not None else {} for item in raw or []]


def _pair(raw: Data) -> dict[str, str]:
    if isinstance(raw, dict):
        return {key: _item(key, value) for key, value in raw.items()}
    hint = f'; write "{raw.partition("=")[0]}: …"' if isinstance(raw, str) and "=" in raw else ""
    raise ValueError(f"must be a map such as `KEY: value`, not {_shown(raw)}{hint}")


def _item(key: str, raw: Data) -> str:
    if isinstance(raw, list | dict):
        raise ValueError(f"{quoted(key)} must be text, not {_shown(raw)}")
    return raw if isinstance(raw, str) else ""


def _declarations(raw: Data) -> list[Data]:
    return _pairs(raw) if isinstance(raw, dict) else _texts(raw)


def _declaration(raw: Data) -> str | dict[str, str]:
    return _pair(raw) if isinstance(raw, dict | list) else _text(raw)


def _command(raw: Data) -> str | tuple[str, ...]:
    if isinstance(raw, list):
        words = tuple(_text(word) for word in raw)
        return words if words and words[0] else _refuse("text or a list of words", raw)
    text = _text(raw)
    return text if text.strip() else _refuse("text or a list of words", raw)


def _script(raw: Data) -> str:
    text = _text(raw)
    return text if text.strip() else _refuse("the text of a script", raw)


def _steps(raw: Data) -> list[Data]:
    """A map of steps as a list, each with its name filled in."""
    if isinstance(raw, dict):
        return [_named(name, step) for name, step in raw.items()]
    return raw if isinstance(raw, list) else _refuse("a list or a map of steps", raw)


def _named(name: str, step: Data) -> Data:
    if not isinstance(step, dict):
        return step
    return {"name": name} | step


def _schedule(raw: Data) -> Data:
    return raw if isinstance(raw, dict) else {"start": raw}


def _events(raw: Data) -> Data:
    if isinstance(raw, str | list):
        return {name: None for name in _texts(raw) if isinstance(name, str)}
    return raw


def _event(raw: Data) -> Data:
    return {} if raw is None else raw


Text = Annotated[str, BeforeValidator(_text)]
Line = Annotated[str, BeforeValidator(_line)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_texts)]
Words = Annotated[tuple[str, ...], PlainValidator(_words)]
Boolean = Annotated[bool, PlainValidator(_boolean)]
Count = Annotated[int, PlainValidator(_count)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(_texts)]
Seconds = Annotated[float, PlainValidator(_seconds)]
Size = Annotated[int, PlainValidator(_size)]
Pairs = Annotated[
    tuple[Annotated[dict[str, str], PlainValidator(_pair)], ...],
    BeforeValidator(_pairs),
]


Nested = dict[str, Any]  # key -> the Entry class of what it holds


class Entry(BaseModel):
    """A map of the file. `later` are keys of the language that this release does not run."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,  # snake_case of a key is its alias
        defer_build=True,
    )
    later: ClassVar[tuple[str, ...]] = ()
    nested: ClassVar[Nested] = {}


class ConditionEntry(Entry):
    condition: Text
    expected: Annotated[str | None, BeforeValidator(_text)] = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, raw: Data) -> Data:
        return {"condition": raw} if isinstance(raw, str) else raw


Conditions = Annotated[tuple[ConditionEntry, ...], BeforeValidator(_texts)]


class ContinueOnEntry(Entry):
    failure: Boolean = False
    skipped: Boolean = False
    exit_code: Counts = ()
    output: Texts = ()
    mark_success: Boolean = False


class RetryEntry(Entry):
    limit: Count
    interval_sec: Seconds = 5.0
    backoff: Annotated[float, PlainValidator(_factor)] = 1.0
    max_interval_sec: Seconds | None = None
    exit_code: Counts = ()


class StepEntry(Entry):
    later = (
        *("run", "params", "approval", "parallel", "stdout", "stderr", "repeatPolicy"),
        *("mailOnError", "workerSelector", "resources"),
    )
    nested: ClassVar[Nested] = {
        "preconditions": ConditionEntry,
        "precondition": ConditionEntry,
        "continueOn": ContinueOnEntry,
        "retryPolicy": RetryEntry,
    }

    name: Line | None = None
    id: Text | None = None
    description: Text = ""
    command: Annotated[str | tuple[str, ...], PlainValidator(_command)] | None = None
    script: Annotated[str, PlainValidator(_script)] | None = None
    shell: Words | None = None
    executor: Annotated[str, PlainValidator(_executor)] | None = None
    depends: Texts | None = None
    output: Text | None = None
    env: Pairs = ()
    dir: Text | None = None
    preconditions: Conditions | None = None
    precondition: Conditions | None = None
    continue_on: ContinueOnEntry | None = None
    retry_policy: RetryEntry | None = None
    timeout_sec: Seconds | None = None
    signal_on_stop: Annotated[int, PlainValidator(_signal)] | None = None
    on_loss: Annotated[bool, PlainValidator(_on_loss)] | None = None


class HandlersEntry(Entry):
    later = ("init", "cancel")
    nested: ClassVar[Nested] = {
        "success": StepEntry,
        "failure": StepEntry,
        "exit": StepEntry,
    }

    success: StepEntry | None = None
    failure: StepEntry | None = None
    exit: StepEntry | None = None


class ScheduleEntry(Entry):
    later = ("stop", "restart")

    start: Texts = ()


class PushEntry(Entry):
    branches: Texts = ()
    tags: Texts = ()
    paths: Texts = ()


class EventsEntry(Entry):
    later = ("pullRequest", "release", "webhook", "workflow")
    nested: ClassVar[Nested] = {"push": PushEntry}

    push: Annotated[PushEntry | None, BeforeValidator(_event)] = None


class WorkflowEntry(Entry):
    later = (
        *("catchupWindow", "overlapPolicy", "skipIfSuccessful", "dotenv", "secrets", "workspace"),
        *("delaySec", "queue", "priority", "concurrency", "workerSelector"),
        *("histRetentionDays", "smtp", "mailOn", "errorMail", "infoMail", "restartWaitSec"),
        "logDir",
    )
    nested: ClassVar[Nested] = {
        "schedule": ScheduleEntry,
        "on": EventsEntry,
        "steps": StepEntry,
        "handlerOn": HandlersEntry,
        "preconditions": ConditionEntry,
        "precondition": ConditionEntry,
    }

    name: Line | None = None
    description: Text = ""
    group: Line = ""
    tags: Annotated[tuple[str, ...], PlainValidator(_tags)] = ()
    type: Annotated[WorkflowType, PlainValidator(_kind)] | None = None
    schedule: Annotated[ScheduleEntry, BeforeValidator(_schedule)] | None = None
    timezone: Text | None = None
    on: Annotated[EventsEntry, BeforeValidator(_events)] | None = None
    params: Annotated[
        tuple[Annotated[str | dict[str, str], PlainValidator(_declaration)], ...],
        BeforeValidator(_declarations),
    ] = ()
    env: Pairs = ()
    shell: Words | None = None
    working_dir: Text | None = None
    steps: Annotated[tuple[StepEntry, ...], BeforeValidator(_steps)] | None = None
    handler_on: HandlersEntry | None = None
    preconditions: Conditions | None = None
    precondition: Conditions | None = None
    timeout_sec: Seconds | None = None
    max_active_runs: Count = 1
    max_active_steps: Count = 0
    max_clean_up_time_sec: Seconds = 60.0
    max_output_size: Size = 1024 * 1024
    on_loss: Annotated[bool, PlainValidator(_on_loss)] = False


def read(data: Data) -> tuple[WorkflowEntry | None, list[Fault]]:
    """One document as entries, and every fault of its shape.

    With faults the entries are those of what is left without them, so that the checks that
    follow can speak about the rest; None where nothing sensible is left.
    """
    if not isinstance(data, dict):
        return None, [Fault((), f"a workflow is a map of keys such as steps, not {_shown(data)}")]
    try:
        return WorkflowEntry.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    faults = [_fault(detail) for detail in details[: MAX_FAULTS + 1]]
    if len(faults) > MAX_FAULTS:
        return None, faults
    rest = copy.deepcopy(data)
    for fault in faults:
        _drop(rest, fault.place)
    try:
        return WorkflowEntry.model_validate(rest), faults
    except ValidationError:
        return None, faults


def is_command_key(key: str) -> bool:
    """Whether a fault at this key of a step may explain why the step seems to run nothing."""
    spelled = camel(key)
    fields = {to_camel(name) for name in StepEntry.model_fields}
    return spelled in ("command", "script", "executor") or spelled not in fields


def _fault(detail: ErrorDetails) -> Fault:
    place = _place(detail["loc"])
    key = next((quoted(name) for name in reversed(place) if isinstance(name, str)), "the value")
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(place)
        case "value_error":
            message = str(detail["ctx"]["error"])
            return Fault(place, message if message.startswith('"') else f"{key} {message}")
        case "missing":
            return Fault(place[:-1], f"{key} is missing")
        case "model_type" | "model_attributes_type" | "dict_type":
            if place and place[0] == "steps" and len(place) == 2:
                return Fault(place, "a step must be a map of keys such as `command: make`")
            return Fault(place, f"{key} must be a map, not {_shown(detail['input'])}")
        case "tuple_type":
            return Fault(place, f"{key} must be a list, not {_shown(detail['input'])}")
        case _:
            return Fault(place, f"{key}: {detail['msg']}")


def _place(loc: tuple[str | int, ...]) -> Place:
    return tuple(camel(part) if isinstance(part, str) else part for part in loc)


def _unknown(place: Place) -> Fault:
    """A key that the map at this place does not have, or does not have yet."""
    key = str(place[-1])
    entry: type[Entry] = WorkflowEntry
    for part in place[:-1]:
        if isinstance(part, str) and part in entry.nested:
            entry = entry.nested[part]
    known = [to_camel(name) for name in entry.model_fields]
    if key in entry.later:
        return Fault(place, f"{quoted(key)} is not yet supported", on_key=True)
    if key in known:
        return Fault(place, f"{quoted(key)} is given in two spellings; keep one", on_key=True)
    near = did_you_mean(key, [*known, *entry.later])
    return Fault(place, f"{quoted(key)} is not a key that is known here{near}", on_key=True)


def _drop(data: Data, place: Place) -> None:
    """Take the value at `place` out of `data`; an item of a list leaves a harmless one behind."""
    trail: list[tuple[Data, Any]] = []
    node = data
    for part in place:
        key = _key_in(node, part)
        if key is None and isinstance(node, dict):
            return  # gone already, with what held it
        if key is None:
            continue
        trail.append((node, key))
        node = node[key]
    if not trail:
        return
    container, key = trail[-1]
    if isinstance(container, dict) and not (place[0] == "steps" and len(trail) == 2):
        del container[key]
        return
    above = trail[-2][1] if len(trail) > 1 else ""
    container[key] = _HARMLESS.get(above, "0")


_HARMLESS: dict[Any, Data] = {
    "steps": {},
    "env": {},
    "precondition": "true",
    "preconditions": "true",
}


def _key_in(node: Data, part: str | int) -> str | int | None:
    if isinstance(node, dict):
        if isinstance(part, int):
            keys = list(node)
            return keys[part] if part < len(keys) else None
        return next((k for k in node if k == part or camel(k) == part), None)
    return part if isinstance(node, list) and isinstance(part, int) and part < len(node) else None
