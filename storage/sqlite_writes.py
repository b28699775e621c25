"""How each write of `records` is carried out in SQLite: one function and few statements a kind.

Every function works inside a transaction that its caller opened, and leaves its rollback to the
caller. SQLite lets go of the interpreter's lock in each statement, so their number is what a
write costs beside a busy event loop: a usual append takes two.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from storage.records import (
    Append,
    DeleteRun,
    DropDefinition,
    EventRecord,
    Move,
    NoteTrigger,
    Owe,
    Pay,
    Postpone,
    PutClaims,
    PutDefinition,
    PutDelivery,
    PutEntry,
    PutRepository,
    PutSource,
    PutTrigger,
    PutValues,
    RaiseApplied,
    RequireApplied,
    RequireClaims,
    RequireRoom,
    RunRow,
    TriggerRow,
    Write,
)
from storage.store import Busy, Conflict, Duplicate

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(at: datetime) -> int:
    """An aware datetime as it is stored; TypeError for a naive one."""
    return (at - _EPOCH) // _MICROSECOND


def microseconds_or_none(at: datetime | None) -> int | None:
    return None if at is None else microseconds(at)


def instant(stored: int) -> datetime:
    return _EPOCH + timedelta(microseconds=stored)


def instant_or_none(stored: int | None) -> datetime | None:
    return None if stored is None else instant(stored)


def perform(connection: sqlite3.Connection, writes: Iterable[Write]) -> None:
    """Do all of `writes` in their order; an exception may leave the first of them done.

    Raises Conflict, Duplicate, Busy, sqlite3.Error, or ValueError, TypeError and the like for a
    write that no database could store.
    """
    for write in writes:
        _PERFORMERS[type(write)](connection, write)


# Runs

_INSERT_HEAD = (
    "INSERT INTO runs (repository, workflow, name, status, reason, trigger_type, ref, commit_id,"
    " queued_at, started_at, finished_at, seq, run, parent, retry_of, attempt, priority,"
    " not_before, keep_days) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
    " ON CONFLICT DO NOTHING"
)
# Most appends change nothing of the head but its seq, which stands in no index.
_ADVANCE_HEAD = (
    "UPDATE runs SET seq = ? WHERE run = ? AND seq = ? AND repository = ? AND workflow = ?"
    " AND name = ? AND status = ? AND reason = ? AND trigger_type = ? AND ref = ?"
    " AND commit_id = ? AND queued_at = ? AND started_at IS ? AND finished_at IS ?"
)
_REPLACE_HEAD = (
    "UPDATE runs SET repository = ?, workflow = ?, name = ?, status = ?, reason = ?,"
    " trigger_type = ?, ref = ?, commit_id = ?, queued_at = ?, started_at = ?, finished_at = ?,"
    " seq = ? WHERE run = ? AND seq = ?"
)
# The n-th text inserts n + 1 events, so that one statement serves the usual append.
_INSERT_EVENTS = tuple(
    "INSERT INTO events (run, seq, at, type, version, data) VALUES "  # noqa: S608 (marks only)
    + ",".join(["(?,?,?,?,?,?)"] * count)
    for count in range(1, 17)
)


def _append(connection: sqlite3.Connection, write: Append) -> None:
    last = write.after + len(write.records)
    _check_append(write)
    head = _head(write.head)
    if write.after == 0:
        values = (*head, last, write.run, *_kept(write.head))
        changed = connection.execute(_INSERT_HEAD, values).rowcount
    else:
        where = (write.run, write.after)
        changed = connection.execute(_ADVANCE_HEAD, (last, *where, *head)).rowcount
        if not changed:
            changed = connection.execute(_REPLACE_HEAD, (*head, last, *where)).rowcount
    if not changed:
        raise Conflict(
            f"run {write.run}: its last event is no longer {write.after}; "
            "read what was written first, and decide again"
        )
    _insert_events(connection, write.records)
    if write.head.finished_at is not None:
        connection.execute("DELETE FROM claims WHERE run = ?", (write.run,))


def _check_append(write: Append) -> None:
    if not write.records or write.after < 0:
        raise ValueError(f"run {write.run}: an append after {write.after} needs records")
    if write.head.run != write.run:
        raise ValueError(f"run {write.run}: the head is of run {write.head.run}")
    for seq, record in enumerate(write.records, start=write.after + 1):
        if record.seq != seq or record.run != write.run:
            raise ValueError(
                f"run {write.run}: event {seq} was expected, not {record.seq} of {record.run}"
            )


def _head(row: RunRow) -> tuple[str | int | None, ...]:
    return (
        row.repository,
        row.workflow,
        row.name,
        row.status,
        row.reason,
        row.trigger_type,
        row.ref,
        row.commit,
        microseconds(row.queued_at),
        microseconds_or_none(row.started_at),
        microseconds_or_none(row.finished_at),
    )


def _kept(row: RunRow) -> tuple[str | int | None, ...]:
    """What only the first append says."""
    return (
        row.parent,
        row.retry_of,
        row.attempt,
        row.priority,
        microseconds_or_none(row.not_before),
        row.keep_days,
    )


def _insert_events(connection: sqlite3.Connection, records: tuple[EventRecord, ...]) -> None:
    most = len(_INSERT_EVENTS)
    for start in range(0, len(records), most):
        some = records[start : start + most]
        values: list[str | int] = []
        for event in some:
            values += (
                event.run,
                event.seq,
                microseconds(event.at),
                event.type,
                event.version,
                event.data,
            )
        connection.execute(_INSERT_EVENTS[len(some) - 1], values)


def _put_values(connection: sqlite3.Connection, write: PutValues) -> None:
    connection.executemany(
        "INSERT INTO run_values (run, scope, name, value) VALUES (?,?,?,?)"
        " ON CONFLICT (run, scope, name) DO UPDATE SET value = excluded.value",
        [(write.run, scope, name, value) for scope, name, value in write.values],
    )


def _put_source(connection: sqlite3.Connection, write: PutSource) -> None:
    connection.execute(
        "INSERT INTO sources (sha256, text) VALUES (?,?) ON CONFLICT DO NOTHING",
        (write.sha256, write.text),
    )


def _require_room(connection: sqlite3.Connection, write: RequireRoom) -> None:
    if write.limit == 0:
        return
    count = count_runs(connection, write.repository, write.workflow, write.statuses)
    if count >= write.limit:
        raise Busy(
            f"workflow {write.workflow}: {count} of at most {write.limit} runs are "
            f"{' or '.join(write.statuses)}"
        )


def count_runs(
    connection: sqlite3.Connection, repository: str, workflow: str, statuses: tuple[str, ...]
) -> int:
    """How many root runs of the workflow have one of `statuses`."""
    marks = ",".join("?" * len(statuses))
    (count,) = connection.execute(
        "SELECT count(*) FROM runs WHERE repository = ? AND workflow = ?"  # noqa: S608 (marks only)
        f" AND status IN ({marks}) AND parent = ''",
        (repository, workflow, *statuses),
    ).fetchone()
    return int(count)


def _put_claims(connection: sqlite3.Connection, write: PutClaims) -> None:
    connection.execute("DELETE FROM claims WHERE run = ?", (write.run,))
    connection.executemany(
        "INSERT INTO claims (run, name, max, cancels) VALUES (?,?,?,?)",
        [(write.run, claim.name, claim.max, claim.cancels) for claim in write.claims],
    )


def _require_claims(connection: sqlite3.Connection, write: RequireClaims) -> None:
    full = connection.execute(
        "SELECT mine.name, mine.max, count(*) FROM claims AS mine"
        " CROSS JOIN claims AS theirs ON theirs.name = mine.name AND theirs.run <> mine.run"
        " CROSS JOIN runs ON runs.run = theirs.run AND runs.status IN ('running', 'waiting')"
        " WHERE mine.run = ? AND mine.max > 0"
        " GROUP BY mine.name, mine.max HAVING count(*) >= mine.max LIMIT 1",
        (write.run,),
    ).fetchone()
    if full is not None:
        name, most, count = full
        raise Busy(f"{name}: {count} of at most {most} runs are running or waiting")


def _delete_run(connection: sqlite3.Connection, write: DeleteRun) -> None:
    row = connection.execute("SELECT finished_at FROM runs WHERE run = ?", (write.run,)).fetchone()
    if row is None:
        return
    if row[0] is None:
        raise Conflict(f"run {write.run} is not over; it can be deleted when it is")
    tree = connection.execute(
        "WITH RECURSIVE tree (run) AS (VALUES (?) UNION"
        " SELECT runs.run FROM tree CROSS JOIN runs ON runs.parent = tree.run"
        " WHERE runs.parent <> '') SELECT run FROM tree",
        (write.run,),
    ).fetchall()
    for table in ("events", "run_values", "claims", "runs"):
        connection.executemany(f"DELETE FROM {table} WHERE run = ?", tree)  # noqa: S608 (our own)


# Triggers and deliveries


def _put_trigger(connection: sqlite3.Connection, write: PutTrigger) -> None:
    if not _insert_trigger(connection, write.row):
        raise Duplicate(write.row.key)


def _note_trigger(connection: sqlite3.Connection, write: NoteTrigger) -> None:
    _insert_trigger(connection, write.row)


def _insert_trigger(connection: sqlite3.Connection, row: TriggerRow) -> bool:
    """False if its key is there already."""
    inserted = connection.execute(
        "INSERT INTO triggers (key, repository, workflow, at, verdict, run, cause)"
        " VALUES (?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        (
            row.key,
            row.repository,
            row.workflow,
            microseconds(row.at),
            row.verdict,
            row.run,
            row.cause,
        ),
    ).rowcount
    return bool(inserted)


def _put_delivery(connection: sqlite3.Connection, write: PutDelivery) -> None:
    row = write.row
    inserted = connection.execute(
        "INSERT INTO deliveries (delivery, repository, provider, event, received_at, digest,"
        " verdict, reason, sender_id, actor, ref, after, headers, size_bytes)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING",
        (
            row.delivery,
            row.repository,
            row.provider,
            row.event,
            microseconds(row.received_at),
            row.digest,
            row.verdict,
            row.reason,
            row.sender_id,
            row.actor,
            row.ref,
            row.after,
            row.headers,
            row.size_bytes,
        ),
    ).rowcount
    if not inserted:
        raise Duplicate(f"delivery:{row.repository}:{row.digest}")


# Refs, repositories, definitions


def _move(connection: sqlite3.Connection, write: Move) -> None:
    row = write.row
    values = (row.n, row.oid, microseconds(row.seen_at), row.repository, row.ref)
    if row.n == 1:
        changed = connection.execute(
            "INSERT INTO refs (n, oid, seen_at, repository, ref) VALUES (?,?,?,?,?)"
            " ON CONFLICT DO NOTHING",
            values,
        ).rowcount
    else:
        changed = connection.execute(
            "UPDATE refs SET n = ?, oid = ?, seen_at = ?"
            " WHERE repository = ? AND ref = ? AND n = ?",
            (*values, row.n - 1),
        ).rowcount
    if not changed:
        raise Conflict(
            f"{row.repository}: {row.ref} is not at move {row.n - 1} any more; "
            "read its row, and fetch again"
        )


def _put_repository(connection: sqlite3.Connection, write: PutRepository) -> None:
    row = write.row
    connection.execute(
        "INSERT INTO repositories (repository, url, branch, applied, applied_commit, applied_at,"
        " fetched_at, problem) VALUES (?,?,?,0,'',NULL,?,?)"
        " ON CONFLICT (repository) DO UPDATE SET url = excluded.url, branch = excluded.branch,"
        " fetched_at = excluded.fetched_at, problem = excluded.problem",
        (row.repository, row.url, row.branch, microseconds_or_none(row.fetched_at), row.problem),
    )


def _raise_applied(connection: sqlite3.Connection, write: RaiseApplied) -> None:
    changed = connection.execute(
        "UPDATE repositories SET applied = ?, applied_commit = ?, applied_at = ?"
        " WHERE repository = ? AND applied = ?",
        (write.to, write.commit, microseconds(write.at), write.repository, write.to - 1),
    ).rowcount
    if not changed:
        raise Conflict(
            f"{write.repository}: the applied definitions are not number {write.to - 1} any more; "
            "read the repository again"
        )


def _require_applied(connection: sqlite3.Connection, write: RequireApplied) -> None:
    found = connection.execute(
        "SELECT 1 FROM repositories WHERE repository = ? AND applied = ?",
        (write.repository, write.n),
    ).fetchone()
    if found is None:
        raise Conflict(
            f"{write.repository}: the applied definitions are not number {write.n} any more; "
            "compute again from the present ones"
        )


def _put_definition(connection: sqlite3.Connection, write: PutDefinition) -> None:
    row = write.row
    connection.execute(
        "INSERT OR REPLACE INTO definitions (repository, ref, workflow, path, commit_id, blob,"
        " base_blob, live_from, problem_commit, problems) VALUES (?,?,?,?,?,?,?,?,?,?)",
        (
            row.repository,
            row.ref,
            row.workflow,
            row.path,
            row.commit,
            row.blob,
            row.base_blob,
            microseconds(row.live_from),
            row.problem_commit,
            row.problems,
        ),
    )


def _drop_definition(connection: sqlite3.Connection, write: DropDefinition) -> None:
    connection.execute(
        "DELETE FROM definitions WHERE repository = ? AND ref = ? AND workflow = ?",
        (write.repository, write.ref, write.workflow),
    )


def _put_entry(connection: sqlite3.Connection, write: PutEntry) -> None:
    row = write.row
    connection.execute(
        "INSERT OR REPLACE INTO entries (blob, base_blob, path, loader, entry) VALUES (?,?,?,?,?)",
        (row.blob, row.base_blob, row.path, row.loader, row.entry),
    )


# What is owed


def _owe(connection: sqlite3.Connection, write: Owe) -> None:
    connection.execute(
        "INSERT INTO owed (kind, key, version, not_before, tries, last_error)"
        " VALUES (?,?,1,?,0,'') ON CONFLICT (kind, key) DO UPDATE SET version = version + 1,"
        " tries = 0, not_before = min(not_before, excluded.not_before)",
        (write.kind, write.key, microseconds(write.not_before)),
    )


def _pay(connection: sqlite3.Connection, write: Pay) -> None:
    connection.execute(
        "DELETE FROM owed WHERE kind = ? AND key = ? AND version = ?",
        (write.kind, write.key, write.version),
    )


def _postpone(connection: sqlite3.Connection, write: Postpone) -> None:
    connection.execute(
        "UPDATE owed SET tries = tries + 1, not_before = ?, last_error = ?"
        " WHERE kind = ? AND key = ? AND version = ?",
        (microseconds(write.not_before), write.error, write.kind, write.key, write.version),
    )


# A table and not a `match`: eight isinstance checks before a late case show in a chain's time.
# Its values take one kind of write each, which `Callable` cannot say.
_PERFORMERS: dict[type[Write], Callable[[sqlite3.Connection, Any], None]] = {
    Append: _append,
    PutValues: _put_values,
    PutSource: _put_source,
    PutTrigger: _put_trigger,
    NoteTrigger: _note_trigger,
    Move: _move,
    PutRepository: _put_repository,
    RaiseApplied: _raise_applied,
    RequireApplied: _require_applied,
    RequireRoom: _require_room,
    PutClaims: _put_claims,
    RequireClaims: _require_claims,
    DeleteRun: _delete_run,
    PutDefinition: _put_definition,
    DropDefinition: _drop_definition,
    PutEntry: _put_entry,
    PutDelivery: _put_delivery,
    Owe: _owe,
    Pay: _pay,
    Postpone: _postpone,
}


def topics(write: Write) -> tuple[str, ...]:
    """What `Store.listen` calls the things that this write touched."""
    match write:
        case Append():
            ended = write.head.finished_at is not None and not write.head.parent
            return (f"run:{write.run}", "runs", *(("ended",) if ended else ()))
        case DeleteRun():
            return ("runs",)
        case Owe() | Postpone():
            return (f"owed:{write.kind}",)
        case PutDefinition():
            return (f"definitions:{write.row.repository}",)
        case DropDefinition() | RaiseApplied():
            return (f"definitions:{write.repository}",)
        case _:
            return ()
