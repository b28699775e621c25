"""How each question of `Store` is put to SQLite: functions of a connection and plain values.

Each list comes out of one index in its order and stops at its limit, however many rows are
stored; `tests/storage/test_sqlite.py` holds the query plans to that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from storage.records import (
    Claim,
    DefinitionRow,
    DeliveryRow,
    EntryRow,
    EventRecord,
    OwedRow,
    RefRow,
    RepositoryRow,
    RunRow,
    TriggerRow,
)
from storage.sqlite_writes import instant, instant_or_none, microseconds

_RUN = (
    "run, repository, workflow, name, status, reason, trigger_type, ref, commit_id, queued_at,"
    " started_at, finished_at, seq, parent, retry_of, attempt, priority, not_before, keep_days"
)
_RUN_OF_JOIN = ", ".join(f"runs.{column}" for column in _RUN.split(", "))
_TRIGGER = "key, repository, workflow, at, verdict, run, cause"
_REPOSITORY = "repository, url, branch, applied, applied_commit, applied_at, fetched_at, problem"
_DELIVERY = (
    "delivery, repository, provider, event, received_at, digest, verdict, reason, sender_id,"
    " actor, ref, after, headers, size_bytes"
)


class RunFilter(NamedTuple):
    """Which runs a list asks for; None: any. `statuses` has no value twice. Root runs, or the
    children of `parent`."""

    repository: str | None = None
    workflow: str | None = None
    statuses: tuple[str, ...] | None = None
    commit: str | None = None
    before: tuple[datetime, str] | None = None
    parent: str = ""


def events(connection: sqlite3.Connection, run: str, after: int) -> list[EventRecord]:
    rows = connection.execute(
        "SELECT seq, at, type, version, data FROM events WHERE run = ? AND seq > ? ORDER BY seq",
        (run, after),
    ).fetchall()
    return [
        EventRecord(run, seq, instant(at), type_, version, data)
        for seq, at, type_, version, data in rows
    ]


def run(connection: sqlite3.Connection, run: str) -> RunRow | None:
    return _one_run(connection, f"SELECT {_RUN} FROM runs WHERE run = ?", (run,))  # noqa: S608


def runs(connection: sqlite3.Connection, asked: RunFilter, limit: int) -> list[RunRow]:
    """Newest first by (queued_at, run)."""
    if asked.statuses == ():
        return []
    sql, values = runs_query(asked, limit)
    return [_run_row(row) for row in connection.execute(sql, values).fetchall()]


def runs_query(asked: RunFilter, limit: int) -> tuple[str, list[str | int]]:
    """The statement of `runs` with its values; `asked.statuses` is not empty."""
    if asked.statuses is None:
        return _runs_of_status(asked, None, limit)
    # SQLite would collect and sort every run of several statuses; the newest few of each, merged,
    # come straight out of the index.
    parts: list[str] = []
    values: list[str | int] = []
    for status in asked.statuses:
        sql, some = _runs_of_status(asked, status, limit)
        parts.append(f"SELECT * FROM ({sql})")  # noqa: S608 (texts of this module only)
        values += some
    union = " UNION ALL ".join(parts)
    return f"{union} ORDER BY queued_at DESC, run DESC LIMIT ?", [*values, limit]


def _runs_of_status(
    asked: RunFilter, status: str | None, limit: int
) -> tuple[str, list[str | int]]:
    # The partial indexes are used where a term reads as their own condition does.
    terms = ["parent = ? AND parent <> ''" if asked.parent else "parent = ''"]
    values: list[str | int] = [asked.parent] if asked.parent else []
    for column, value in (
        ("repository", asked.repository),
        ("workflow", asked.workflow),
        ("status", status),
        ("commit_id", asked.commit),
    ):
        if value is not None:
            # A "+" keeps a term from choosing the index: a commit has few runs and a parent few
            # children, their indexes are best.
            lesser = bool(asked.parent or (asked.commit and column != "commit_id"))
            terms.append(f"{'+' if lesser else ''}{column} = ?")
            values.append(value)
    if asked.commit and not asked.parent:
        terms.append("commit_id <> ''")  # as the index's own condition says
    if asked.before is not None:
        terms.append("(queued_at, run) < (?, ?)")
        values += (microseconds(asked.before[0]), asked.before[1])
    where = " AND ".join(terms)
    sql = (
        f"SELECT {_RUN} FROM runs WHERE {where}"  # noqa: S608 (texts of this module only)
        " ORDER BY queued_at DESC, run DESC LIMIT ?"
    )
    return sql, [*values, limit]


QUEUED = (
    f"SELECT {_RUN} FROM runs"  # noqa: S608
    " WHERE repository = ? AND workflow = ? AND status = 'queued' AND parent = ''"
    " ORDER BY priority DESC, queued_at, run LIMIT ?"
)


def queued(
    connection: sqlite3.Connection, repository: str, workflow: str, limit: int
) -> list[RunRow]:
    """In the order in which they leave the queue."""
    rows = connection.execute(QUEUED, (repository, workflow, limit)).fetchall()
    return [_run_row(row) for row in rows]


def claims(connection: sqlite3.Connection, run: str) -> tuple[Claim, ...]:
    rows = connection.execute(
        "SELECT name, max, cancels FROM claims WHERE run = ? ORDER BY name", (run,)
    )
    return tuple(Claim(name, most, bool(cancels)) for name, most, cancels in rows)


def claimants(connection: sqlite3.Connection, name: str, statuses: tuple[str, ...]) -> list[RunRow]:
    """Oldest first."""
    rows = connection.execute(claimants_query(len(statuses)), (name, *statuses)).fetchall()
    return [_run_row(row) for row in rows]


def claimants_query(statuses: int) -> str:
    return (
        f"SELECT {_RUN_OF_JOIN} FROM claims CROSS JOIN runs ON runs.run = claims.run"  # noqa: S608
        f" WHERE claims.name = ? AND runs.status IN ({','.join('?' * statuses)})"
        " ORDER BY runs.queued_at, runs.run"
    )


CANCELLING = (
    f"SELECT claims.name, {_RUN_OF_JOIN} FROM claims"  # noqa: S608
    " CROSS JOIN runs ON runs.run = claims.run"
    " WHERE claims.cancels = 1 AND runs.status = 'queued' ORDER BY runs.queued_at, runs.run"
)


def cancelling(connection: sqlite3.Connection) -> list[tuple[str, RunRow]]:
    return [(name, _run_row(tuple(row))) for name, *row in connection.execute(CANCELLING)]


LATEST = (
    f"SELECT {_RUN} FROM runs"  # noqa: S608
    " WHERE repository = ? AND workflow = ? AND parent = '' AND finished_at IS NOT NULL"
    " ORDER BY queued_at DESC, run DESC LIMIT 1"
)


def latest_run(connection: sqlite3.Connection, repository: str, workflow: str) -> RunRow | None:
    return _one_run(connection, LATEST, (repository, workflow))


def values(connection: sqlite3.Connection, run: str) -> dict[tuple[str, str], str]:
    rows = connection.execute("SELECT scope, name, value FROM run_values WHERE run = ?", (run,))
    return {(scope, name): value for scope, name, value in rows}


def source(connection: sqlite3.Connection, sha256: str) -> str | None:
    row = connection.execute("SELECT text FROM sources WHERE sha256 = ?", (sha256,)).fetchone()
    return None if row is None else str(row[0])


def trigger(connection: sqlite3.Connection, key: str) -> TriggerRow | None:
    row = connection.execute(
        f"SELECT {_TRIGGER} FROM triggers WHERE key = ?",  # noqa: S608
        (key,),
    ).fetchone()
    return None if row is None else _trigger_row(row)


def triggers(
    connection: sqlite3.Connection, repository: str, workflow: str | None, limit: int
) -> list[TriggerRow]:
    """Newest first by (at, key)."""
    of_workflow = "" if workflow is None else " AND workflow = ?"
    rows = connection.execute(
        f"SELECT {_TRIGGER} FROM triggers WHERE repository = ?{of_workflow}"  # noqa: S608
        " ORDER BY at DESC, key DESC LIMIT ?",
        (repository, limit) if workflow is None else (repository, workflow, limit),
    ).fetchall()
    return [_trigger_row(row) for row in rows]


def newest_keys(connection: sqlite3.Connection, prefixes: Sequence[str]) -> dict[str, str]:
    found = {}
    for prefix in prefixes:
        # the first text that begins with no such prefix: a range of the primary key, not a LIKE
        beyond = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        (key,) = connection.execute(
            "SELECT max(key) FROM triggers WHERE key >= ? AND key < ?", (prefix, beyond)
        ).fetchone()
        if key is not None:
            found[prefix] = key
    return found


def commits_in_use(
    connection: sqlite3.Connection, repository: str, but_for: frozenset[str]
) -> frozenset[str]:
    rows = connection.execute(
        "SELECT '', commit_id FROM runs WHERE repository = ? AND status IN"
        " ('queued', 'running', 'waiting') AND parent = ''"
        " UNION SELECT run, commit_id FROM owed JOIN runs ON runs.run = owed.key"
        " WHERE owed.kind = 'cleanup' AND repository = ?",
        (repository, repository),
    )
    return frozenset(commit for run, commit in rows if commit and run not in but_for)


def refs(connection: sqlite3.Connection, repository: str) -> dict[str, RefRow]:
    rows = connection.execute(
        "SELECT ref, n, oid, seen_at FROM refs WHERE repository = ?", (repository,)
    )
    return {ref: RefRow(repository, ref, n, oid, instant(seen_at)) for ref, n, oid, seen_at in rows}


def repository(connection: sqlite3.Connection, name: str) -> RepositoryRow | None:
    row = connection.execute(
        f"SELECT {_REPOSITORY} FROM repositories WHERE repository = ?",  # noqa: S608
        (name,),
    ).fetchone()
    return None if row is None else _repository_row(row)


def repositories(connection: sqlite3.Connection) -> list[RepositoryRow]:
    """By name."""
    rows = connection.execute(f"SELECT {_REPOSITORY} FROM repositories ORDER BY repository")  # noqa: S608
    return [_repository_row(row) for row in rows]


def definitions(
    connection: sqlite3.Connection, repository: str, ref: str
) -> dict[str, DefinitionRow]:
    """By workflow id, in its order."""
    rows = connection.execute(
        "SELECT workflow, path, commit_id, blob, base_blob, live_from, problem_commit, problems"
        " FROM definitions WHERE repository = ? AND ref = ? ORDER BY workflow",
        (repository, ref),
    )
    return {
        workflow: DefinitionRow(
            repository=repository,
            ref=ref,
            workflow=workflow,
            path=path,
            commit=commit,
            blob=blob,
            base_blob=base_blob,
            live_from=instant(live_from),
            problem_commit=problem_commit,
            problems=problems,
        )
        for workflow, path, commit, blob, base_blob, live_from, problem_commit, problems in rows
    }


def entries(
    connection: sqlite3.Connection, loader: int, keys: Sequence[tuple[str, str, str]]
) -> dict[tuple[str, str, str], EntryRow]:
    found: dict[tuple[str, str, str], EntryRow] = {}
    # SQLite before 3.32 takes 999 values a statement.
    for start in range(0, len(keys), 300):
        some = keys[start : start + 300]
        marks = ",".join(["(?,?,?)"] * len(some))
        # A cross join keeps its order: each key is looked up, the table is not gone through.
        rows = connection.execute(
            f"WITH wanted (blob, base_blob, path) AS (VALUES {marks})"  # noqa: S608 (marks only)
            " SELECT blob, base_blob, path, entry FROM wanted"
            " CROSS JOIN entries USING (blob, base_blob, path) WHERE loader = ?",
            [*(part for key in some for part in key), loader],
        )
        for blob, base_blob, path, entry in rows:
            found[blob, base_blob, path] = EntryRow(blob, base_blob, path, loader, entry)
    return found


def delivery(connection: sqlite3.Connection, delivery: str) -> DeliveryRow | None:
    return _one_delivery(connection, "delivery = ?", (delivery,))


def delivery_by_digest(
    connection: sqlite3.Connection, repository: str, digest: str
) -> DeliveryRow | None:
    return _one_delivery(connection, "repository = ? AND digest = ?", (repository, digest))


def delivery_for(
    connection: sqlite3.Connection, repository: str, ref: str, after: str
) -> DeliveryRow | None:
    """The newest accepted delivery that announced `ref` at `after`."""
    return _one_delivery(
        connection,
        "repository = ? AND ref = ? AND after = ? AND verdict = 'accepted'"
        " ORDER BY received_at DESC, delivery DESC LIMIT 1",
        (repository, ref, after),
    )


def owed(connection: sqlite3.Connection, kind: str, due: datetime, limit: int) -> list[OwedRow]:
    rows = connection.execute(
        "SELECT key, version, not_before, tries, last_error FROM owed"
        " WHERE kind = ? AND not_before <= ? ORDER BY not_before, key LIMIT ?",
        (kind, microseconds(due), limit),
    )
    return [
        OwedRow(kind, key, version, instant(not_before), tries, last_error)
        for key, version, not_before, tries, last_error in rows
    ]


def owed_next(connection: sqlite3.Connection, kind: str) -> datetime | None:
    (earliest,) = connection.execute(
        "SELECT min(not_before) FROM owed WHERE kind = ?", (kind,)
    ).fetchone()
    return instant_or_none(earliest)


def _one_run(connection: sqlite3.Connection, sql: str, values: tuple[str, ...]) -> RunRow | None:
    row = connection.execute(sql, values).fetchone()
    return None if row is None else _run_row(row)


def _run_row(row: tuple[Any, ...]) -> RunRow:
    run, repository, workflow, name, status, reason, trigger_type, ref, commit, *rest = row
    queued_at, started_at, finished_at, seq, parent, retry_of, attempt, *rest = rest
    priority, not_before, keep_days = rest
    return RunRow(
        run=run,
        repository=repository,
        workflow=workflow,
        name=name,
        status=status,
        reason=reason,
        trigger_type=trigger_type,
        ref=ref,
        commit=commit,
        queued_at=instant(queued_at),
        started_at=instant_or_none(started_at),
        finished_at=instant_or_none(finished_at),
        seq=seq,
        parent=parent,
        retry_of=retry_of,
        attempt=attempt,
        priority=priority,
        not_before=instant_or_none(not_before),
        keep_days=keep_days,
    )


def _trigger_row(row: tuple[Any, ...]) -> TriggerRow:
    key, repository, workflow, at, verdict, run, cause = row
    return TriggerRow(key, repository, workflow, instant(at), verdict, run, cause)


def _repository_row(row: tuple[Any, ...]) -> RepositoryRow:
    name, url, branch, applied, applied_commit, applied_at, fetched_at, problem = row
    return RepositoryRow(
        repository=name,
        url=url,
        branch=branch,
        applied=applied,
        applied_commit=applied_commit,
        applied_at=instant_or_none(applied_at),
        fetched_at=instant_or_none(fetched_at),
        problem=problem,
    )


def _one_delivery(
    connection: sqlite3.Connection, where: str, values: tuple[str, ...]
) -> DeliveryRow | None:
    row = connection.execute(
        f"SELECT {_DELIVERY} FROM deliveries WHERE {where}",  # noqa: S608 (texts of this module)
        values,
    ).fetchone()
    if row is None:
        return None
    delivery, repository, provider, event, received_at, *rest = row
    return DeliveryRow(delivery, repository, provider, event, instant(received_at), *rest)
