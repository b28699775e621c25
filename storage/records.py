"""The rows that the store keeps and the writes it takes, as plain frozen values.

Storage knows no workflows: ids, statuses and event types are texts here. Every `at` is an
aware UTC datetime. A write is data, so that several which must agree travel in one transaction.
Named tuples, as 32 frozen dataclasses would cost `dagmill run` a tenth of its start. Pure.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple


class EventRecord(NamedTuple):
    """One fact of a run. `data` is compact JSON; `seq` counts from 1 without gaps."""

    run: str
    seq: int
    at: datetime
    type: str
    version: int
    data: str


class RunRow(NamedTuple):
    """The head of a run: a fold of its events, kept so that lists are fast."""

    run: str
    repository: str  # "" for a local run
    workflow: str  # id
    name: str  # what people see
    status: str
    reason: str
    trigger_type: str
    ref: str  # full ref, "" where none
    commit: str  # 40 hex digits, "" where none
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    seq: int = 0  # of the last event; kept by the store
    # The first append says these; later heads leave them as they are.
    parent: str = ""  # of a child run, which stands in no list but its parent's; "" for a root
    retry_of: str = ""  # the run that this one does again, "" for a first attempt
    attempt: int = 1  # counts the chain of retries
    priority: int = 0  # higher leaves the queue first
    not_before: datetime | None = None  # it stays queued until then
    keep_days: int = 30  # after its end; 0: for ever


class Claim(NamedTuple):
    """What a run holds while it is active, as at most `max` runs may at once (0: no limit).
    `cancels`: it wants older runs of the same name stopped."""

    name: str
    max: int
    cancels: bool = False


class TriggerRow(NamedTuple):
    """Why something started or did not. `verdict` is `run` or the reason it did not run
    (overlap, not_matched, broken, queue_full, ...); `cause` is compact JSON for people."""

    key: str
    repository: str
    workflow: str
    at: datetime
    verdict: str
    run: str | None
    cause: str


class RefRow(NamedTuple):
    """The n-th observed move of a ref; `oid` None: deleted. A tag's oid is its own object's."""

    repository: str
    ref: str
    n: int
    oid: str | None
    seen_at: datetime


class RepositoryRow(NamedTuple):
    """`applied` counts the applied definitions of the served branch; 0: none yet.
    `problem` is the last failure of a fetch or reconcile, "" after a success."""

    repository: str
    url: str  # without credentials
    branch: str  # full ref of the served branch, "" before the first fetch
    applied: int = 0
    applied_commit: str = ""
    applied_at: datetime | None = None
    fetched_at: datetime | None = None
    problem: str = ""


class DefinitionRow(NamedTuple):
    """The last good definition of a workflow on a ref, and where it stands.

    `live_from`: only slots after it exist. A stale one has `problems` (one `path:line:column:
    message` a line) of the newer file at `problem_commit`; it runs wholly at `commit`.
    """

    repository: str
    ref: str
    workflow: str
    path: str
    commit: str
    blob: str
    base_blob: str
    live_from: datetime
    problem_commit: str = ""
    problems: str = ""


class EntryRow(NamedTuple):
    """What the loader found in a blob, as JSON of its own making; keyed so that a new loader
    version or base file reads again."""

    blob: str
    base_blob: str
    path: str
    loader: int
    entry: str


class DeliveryRow(NamedTuple):
    """One authenticated webhook delivery. `headers` (JSON) holds no secret. `ref` and `after` are
    what the sender says: hints, never the truth."""

    delivery: str  # our own id
    repository: str
    provider: str
    event: str
    received_at: datetime
    digest: str  # sha256 of the signed bytes
    verdict: str  # accepted, ignored, ping
    reason: str = ""
    sender_id: str = ""  # the forge's delivery id: shown, never trusted
    actor: str = ""
    ref: str = ""
    after: str = ""
    headers: str = "{}"
    size_bytes: int = 0


class OwedRow(NamedTuple):
    """Work that a fact owes. Who pays reads the present truth, acts, and deletes the row only
    where `version` is unchanged."""

    kind: str
    key: str
    version: int
    not_before: datetime
    tries: int
    last_error: str


# Writes. Those of one call to `Store.write` happen all or not at all, in their order.


class Append(NamedTuple):
    """Add `records` after `after` (0: a new run) and replace the head, but for what only the first
    append says. Conflict if the run has another last seq. A run that is final (`finished_at` set)
    holds no claims any more."""

    run: str
    after: int
    records: tuple[EventRecord, ...]
    head: RunRow


class PutValues(NamedTuple):
    """Keep real values that steps pass on: (scope, name, value), replacing equal (scope, name)."""

    run: str
    values: tuple[tuple[str, str, str], ...]


class PutSource(NamedTuple):
    """Keep a text under its sha256; a second time changes nothing."""

    sha256: str
    text: str


class PutTrigger(NamedTuple):
    """Duplicate if the key is there already."""

    row: TriggerRow


class NoteTrigger(NamedTuple):
    """Keep the row unless its key is there already; then nothing changes."""

    row: TriggerRow


class Move(NamedTuple):
    """Conflict unless the stored n of the ref is `row.n - 1` (a ref never seen has 0)."""

    row: RefRow


class PutRepository(NamedTuple):
    """Insert or replace everything but `applied`, `applied_commit` and `applied_at`."""

    row: RepositoryRow


class RaiseApplied(NamedTuple):
    """Conflict unless the stored `applied` is `to - 1`."""

    repository: str
    to: int
    commit: str
    at: datetime


class RequireApplied(NamedTuple):
    """Conflict unless the stored `applied` is `n`."""

    repository: str
    n: int


class RequireRoom(NamedTuple):
    """Busy if `limit` or more runs of the workflow have one of `statuses` (limit 0: no limit)."""

    repository: str
    workflow: str
    statuses: tuple[str, ...]
    limit: int


class PutClaims(NamedTuple):
    """What the run claims, in place of what it claimed before."""

    run: str
    claims: tuple[Claim, ...]


class RequireClaims(NamedTuple):
    """Busy if, for one of the run's claims, `max` or more other runs that are running or waiting
    hold it."""

    run: str


class DeleteRun(NamedTuple):
    """Forget a final run and its children: rows, events, values, claims. Nothing if it is unknown;
    Conflict if it is not final. Its triggers stay, as a key elects once and for all."""

    run: str


class PutDefinition(NamedTuple):
    row: DefinitionRow


class DropDefinition(NamedTuple):
    repository: str
    ref: str
    workflow: str


class PutEntry(NamedTuple):
    row: EntryRow


class PutDelivery(NamedTuple):
    """Duplicate if the repository has a delivery of this digest already."""

    row: DeliveryRow


class Owe(NamedTuple):
    """Insert, or raise `version` by one, set `tries` to 0 and bring `not_before` forward."""

    kind: str
    key: str
    not_before: datetime


class Pay(NamedTuple):
    """Delete the owed row if it still has `version`; else leave it."""

    kind: str
    key: str
    version: int


class Postpone(NamedTuple):
    """Count a try of the owed row, if it still has `version`, and set when to try again."""

    kind: str
    key: str
    version: int
    not_before: datetime
    error: str


Write = (
    Append
    | PutValues
    | PutSource
    | PutTrigger
    | NoteTrigger
    | Move
    | PutRepository
    | RaiseApplied
    | RequireApplied
    | RequireRoom
    | PutClaims
    | RequireClaims
    | DeleteRun
    | PutDefinition
    | DropDefinition
    | PutEntry
    | PutDelivery
    | Owe
    | Pay
    | Postpone
)
