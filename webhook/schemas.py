"""The documents that the API takes and gives, and their query parameters.

Knows shapes and nothing of the store. One rule: a number in a parameter keeps the text that the
sender wrote (`1.10` stays `1.10`), because a workflow sees text. Pure.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from runner.language.model import Param
from runner.language.params import NAME, from_arguments
from storage.records import RepositoryRow, RunRow, TriggerRow

RUN_STATUSES = (
    "queued",
    "running",
    "waiting",
    "succeeded",
    "partially_succeeded",
    "failed",
    "cancelled",
    "skipped",
)


class BadDocument(ValueError):
    """What was sent has the wrong shape: `place` says where, the message what."""

    def __init__(self, place: str, message: str, *, value: str = "", remedy: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.value = value
        self.remedy = remedy


class Body(BaseModel):
    """What a request sends; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    example: ClassVar[str]


class StartRun(Body):
    """Body of `POST /api/v1/runs`."""

    example = (
        'send {"workflow": "ID", "repository": "NAME", "params": {"KEY": "value"}}; '
        "only workflow is needed"
    )

    workflow: str = Field(min_length=1, max_length=500)
    repository: str | None = Field(default=None, min_length=1, max_length=200)
    params: dict[str, Any] | list[Any] | str | None = None


class RunRequest(Body):
    """A request about a run. `by` is who asks, as the sender states it."""

    by: str | None = Field(default=None, min_length=1, max_length=100)


class StopRun(RunRequest):
    """Body of `POST /api/v1/runs/{run}/stop`."""

    example = 'send {"kill": false}, or nothing'

    kill: StrictBool = False


class RetryRun(RunRequest):
    """Body of `POST /api/v1/runs/{run}/retry`."""

    example = 'send {"from": "STEP"} or {"all": true}, or nothing'

    from_step: str | None = Field(default=None, alias="from", min_length=1, max_length=500)
    all_steps: StrictBool = Field(default=False, alias="all")


class ApproveRun(RunRequest):
    """Body of `POST /api/v1/runs/{run}/approve`."""

    example = 'send {"agreed": true}, or false; "step" and "comment" may be added'

    agreed: StrictBool
    step: str | None = Field(default=None, min_length=1, max_length=500)
    comment: str = Field(default="", max_length=2000)


_Body = TypeVar("_Body", bound=Body)


def read(kind: type[_Body], document: object) -> _Body:
    """`document`, decoded from JSON, as what a route takes. Raises BadDocument."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        message = f"{place}: {first['msg']}"
        raise BadDocument(place, message, remedy=kind.example) from error


@dataclass(frozen=True, slots=True)
class _Number:
    """A JSON number as it was written. Not a `str`, so that it is not taken for one."""

    text: str


def decode_json(body: bytes) -> Any:
    """JSON with numbers as their source text. Raises BadDocument."""
    try:
        return json.loads(body, parse_int=_Number, parse_float=_Number, parse_constant=_Number)
    except RecursionError as error:
        raise BadDocument("body", "the body is nested too deeply") from error
    except ValueError as error:
        raise BadDocument("body", f"the body is not JSON: {error}") from error


def params_of(given: dict[str, Any] | list[Any]) -> tuple[Param, ...]:
    """Params of an object, or of a list of texts (`K=v` or positional) and one-key objects.

    Raises BadDocument. A text as a whole is the language's to parse, not this function's.
    """
    if isinstance(given, dict):
        return tuple(_named(key, value, place=f"params.{key}") for key, value in given.items())
    return tuple(_item(item, place=f"params[{index}]") for index, item in enumerate(given))


def _item(item: Any, *, place: str) -> Param:
    if isinstance(item, Mapping):
        if len(item) != 1:
            raise BadDocument(place, "an object in the list must have exactly one key")
        ((key, value),) = item.items()
        return _named(key, value, place=place)
    (param,) = from_arguments([_clean(text_of(item), place=place)])
    return param


def _named(key: str, value: Any, *, place: str) -> Param:
    if not NAME.fullmatch(key):
        raise BadDocument(
            place,
            "a parameter's name is made of letters, digits and _, and does not start with a digit",
            value=key,
        )
    return Param(key, _clean(text_of(value), place=place))


def _clean(text: str, *, place: str) -> str:
    # Neither can be put into an environment variable or a UTF-8 column.
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise BadDocument(place, "a parameter holds no NUL and no half of a surrogate pair")
    return text


def text_of(value: Any) -> str:
    """A decoded JSON value as a workflow sees it: scalars as written, null "", others compact."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _compact(value)


def _compact(value: Any) -> str:
    match value:
        case _Number():
            return value.text
        case dict():
            members = (f"{_compact(k)}:{_compact(v)}" for k, v in value.items())
            return "{" + ",".join(members) + "}"
        case list():
            return "[" + ",".join(_compact(item) for item in value) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def run_document(row: RunRow) -> dict[str, object]:
    """A run as lists show it."""
    duration_ms = None
    if row.started_at is not None and row.finished_at is not None:
        duration_ms = round((row.finished_at - row.started_at).total_seconds() * 1000)
    return {
        "run": row.run,
        "repository": row.repository,
        "workflow": row.workflow,
        "name": row.name,
        "status": row.status,
        "reason": row.reason,
        "trigger": row.trigger_type,
        "ref": row.ref,
        "commit": row.commit,
        "queued_at": instant(row.queued_at),
        "started_at": instant(row.started_at),
        "finished_at": instant(row.finished_at),
        "duration_ms": duration_ms,
        "parent": row.parent,
    }


def repository_document(row: RepositoryRow) -> dict[str, object]:
    return {
        "repository": row.repository,
        "url": row.url,
        "branch": row.branch,
        "applied": row.applied,
        "applied_commit": row.applied_commit,
        "applied_at": instant(row.applied_at),
        "fetched_at": instant(row.fetched_at),
        "problem": row.problem,
    }


def trigger_document(row: TriggerRow) -> dict[str, object]:
    return {
        "key": row.key,
        "repository": row.repository,
        "workflow": row.workflow,
        "at": instant(row.at),
        "verdict": row.verdict,
        "run": row.run,
        "cause": row.cause,
    }


def instant(at: datetime | None) -> str | None:
    """RFC 3339 in UTC, as every time in the API."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def cursor_of(row: RunRow) -> str:
    """An opaque text that continues a list after `row`."""
    return base64.urlsafe_b64encode(f"{row.queued_at.isoformat()} {row.run}".encode()).decode()


def read_cursor(cursor: str) -> tuple[datetime, str]:
    """Raises BadDocument for what `cursor_of` did not write."""
    try:
        text = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True).decode()
        at, _, run = text.partition(" ")
        queued_at = datetime.fromisoformat(at)
    except (ValueError, binascii.Error) as error:
        raise BadDocument("cursor", "this is not a cursor of this list", value=cursor) from error
    if queued_at.tzinfo is None or not run:
        raise BadDocument("cursor", "this is not a cursor of this list", value=cursor)
    return queued_at, run
