"""Events ↔ records, and the writes that begin a run.

Knows how facts are written down and read again, also those of older versions; leaves what they
mean to `state` and where they are kept to the store. A record that this version cannot read is
an error and never skipped.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from runner.engine import events as ev
from runner.engine.events import (
    Event,
    Finished,
    LogDigest,
    OutputNote,
    Queued,
    Settled,
    Started,
)
from runner.engine.scope import params_text
from runner.engine.state import RunState, RunStatus
from runner.language.model import Workflow
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType
from runner.veil import starred
from storage.mask import STARS, Mask, is_secret_name
from storage.records import (
    Append,
    EventRecord,
    PutSource,
    PutValues,
    RequireClaims,
    RequireRoom,
    RunRow,
    Write,
)

RUN_SCOPE = "run"  # the scope of run_values that belongs to the run as a whole
PARAMS = "params"

NO_MASK = Mask()

ACTIVE = (RunStatus.RUNNING, RunStatus.WAITING)
"""Runs that have begun and are not over: what limits count."""


class UnreadableRecord(Exception):
    """A record was written by a newer version, or is damaged."""


_TYPES: dict[str, type[Event]] = {
    cls.__name__: cls
    for cls in (
        ev.Queued,
        ev.Started,
        ev.PreparationStarted,
        ev.Prepared,
        ev.ApprovalAsked,
        ev.Approved,
        ev.ApprovalRefused,
        ev.Launched,
        ev.LaunchVoided,
        ev.StopSent,
        ev.Ended,
        ev.JudgingStarted,
        ev.Judged,
        ev.ChildWaits,
        ev.Skipped,
        ev.Cancelled,
        ev.Carried,
        ev.StopRequested,
        ev.RunTimedOut,
        ev.Settled,
        ev.Finished,
    )
}
_FIELDS = {
    name: tuple(f.name for f in fields(cls) if f.name != "at") for name, cls in _TYPES.items()
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a definition comes from; all "" for a file outside any repository."""

    repository: str = ""
    ref: str = ""
    commit: str = ""
    blob: str = ""
    dirty: bool = False


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a run stands among others: see `Queued`. A root run has neither parent nor root."""

    parent: str = ""
    parent_step: str = ""
    parent_item: int | None = None
    root: str = ""
    retry_of: str = ""
    attempt: int = 1


ROOT = Lineage()


def new_run_id(at: datetime) -> str:
    """Sorts by time; the random part makes it unique (48 bits within one second)."""
    return f"{at.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(6)}"


def record(run: str, seq: int, event: Event) -> EventRecord:
    name = type(event).__name__
    data = json.dumps(
        {f: getattr(event, f) for f in _FIELDS[name]},
        default=_plain,
        separators=(",", ":"),
        ensure_ascii=False,
    )
    return EventRecord(run, seq, event.at, name, event.version, data)


def event(record: EventRecord) -> Event:
    """Raises UnreadableRecord."""
    cls = _TYPES.get(record.type)
    if cls is None or record.version > cls.version:
        raise UnreadableRecord(
            f"run {record.run}, event {record.seq}: {record.type} version {record.version} was "
            "written by a newer Dagmill; use that version or a newer one"
        )
    data = json.loads(record.data)
    if cls is Queued:
        data["trigger"] = _trigger(data["trigger"])
    for name in ("due", "not_before"):
        if data.get(name) is not None:
            data[name] = datetime.fromisoformat(data[name])
    for name in ("items", "roles"):
        if data.get(name) is not None:
            data[name] = tuple(data[name])
    if data.get("params") is not None:
        data["params"] = tuple((k, v) for k, v in data["params"])
    if data.get("log") is not None:
        data["log"] = LogDigest(**data["log"])
    if data.get("outputs") is not None:
        data["outputs"] = tuple(OutputNote(**o) for o in data["outputs"])
    return cls(at=record.at, **data)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return asdict(value)


def _trigger(data: dict[str, Any]) -> Trigger:
    for name in ("at", "slot", "previous_slot"):
        if data[name] is not None:
            data[name] = datetime.fromisoformat(data[name])
    return Trigger(**{**data, "type": TriggerType(data["type"])})


def records(run: str, after: int, new: Sequence[Event]) -> tuple[EventRecord, ...]:
    """`new` as the records that follow seq `after`."""
    return tuple(record(run, seq, e) for seq, e in enumerate(new, after + 1))


def head(run: str, state: RunState) -> RunRow:
    """The row that lists show, from the folded state."""
    queued = state.queued
    if queued is None:
        raise ValueError(f"run {run} has no Queued event")
    row = _first_head(run, queued, seq=state.seq, keep_days=state.workflow.retention_days)
    return row._replace(
        status=state.status,
        reason=state.reason,
        started_at=state.started.at if state.started else None,
        finished_at=state.finished_at,
    )


def queued_writes(
    run: str,
    *,
    at: datetime,
    workflow: Workflow,
    source: str,
    origin: Origin,
    trigger: Trigger,
    params: Bound,
    base: str = "",
    lineage: Lineage = ROOT,
    not_before: datetime | None = None,
    carried: Sequence[Event] = (),
    mask: Mask = NO_MASK,
) -> tuple[Write, ...]:
    """What makes a run exist: its sources (`base` is base.yaml's text), its first events and head,
    and its given params. `carried` are the facts that a retry takes over."""
    sha256, base_sha256 = _sha256(source), _sha256(base) if base else ""
    if not_before is None and workflow.delay_s and not lineage.parent:
        not_before = at + timedelta(seconds=workflow.delay_s)
    queued = Queued(
        at=at,
        workflow=workflow.id,
        name=workflow.name,
        path=workflow.path,
        repository=origin.repository,
        ref=origin.ref,
        commit=origin.commit,
        blob=origin.blob,
        definition_sha256=sha256,
        trigger=trigger,
        params=_shown(params, mask),
        dirty=origin.dirty,
        base_sha256=base_sha256,
        parent=lineage.parent,
        parent_step=lineage.parent_step,
        parent_item=lineage.parent_item,
        root=lineage.root,
        retry_of=lineage.retry_of,
        attempt=lineage.attempt,
        priority=workflow.priority,
        not_before=not_before,
    )
    facts = (queued, *carried)
    return (
        PutSource(sha256, source),
        *((PutSource(base_sha256, base),) if base else ()),
        Append(
            run,
            0,
            records(run, 0, facts),
            _first_head(run, queued, seq=len(facts), keep_days=workflow.retention_days),
        ),
        PutValues(run, ((RUN_SCOPE, PARAMS, params_text(params)),)),
    )


def _first_head(run: str, queued: Queued, *, seq: int, keep_days: int) -> RunRow:
    return RunRow(
        run=run,
        repository=queued.repository,
        workflow=queued.workflow,
        name=queued.name,
        status=RunStatus.QUEUED,
        reason="",
        trigger_type=queued.trigger.type,
        ref=queued.ref,
        commit=queued.commit,
        queued_at=queued.at,
        seq=seq,
        parent=queued.parent,
        retry_of=queued.retry_of,
        attempt=queued.attempt,
        priority=queued.priority,
        not_before=queued.not_before,
        keep_days=keep_days,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shown(params: Bound, mask: Mask) -> tuple[tuple[str, str], ...]:
    """What was given, secrets left out; declared values are known once the run is prepared."""
    labelled = ((p.name or str(p.position), p.value) for p in params.params if p.given)
    return tuple((k, STARS if is_secret_name(k) else mask.text(starred(v))) for k, v in labelled)


def started_writes(
    row: RunRow, *, at: datetime, runner: str, host: str, room: int, claims: bool = False
) -> tuple[Write, ...]:
    """What takes a queued run out of the queue. `room`: its workflow's limit of active runs;
    `claims`: it claims something besides.

    Written, they raise Busy when there is no room and Conflict when the run is no longer queued.
    """
    started = Started(at, host, runner)
    new = row._replace(status=RunStatus.RUNNING, started_at=at, seq=row.seq + 1)
    return (
        RequireRoom(row.repository, row.workflow, ACTIVE, room),
        *((RequireClaims(row.run),) if claims else ()),
        Append(row.run, row.seq, records(row.run, row.seq, [started]), new),
    )


def given_up_writes(row: RunRow, *, at: datetime, reason: str) -> tuple[Write, ...]:
    """What ends a queued run that can never start; written, they raise Conflict when it is no
    longer queued."""
    facts = (Settled(at, RunStatus.FAILED, reason), Finished(at, RunStatus.FAILED, reason))
    new = row._replace(
        status=RunStatus.FAILED, reason=reason, finished_at=at, seq=row.seq + len(facts)
    )
    return (Append(row.run, row.seq, records(row.run, row.seq, facts), new),)
