"""Why a run starts: each kind of trigger with the unique key that elects its one run.

The key is the election: two that would start the same run write the same key and the store
refuses the second. Keys hold no text that a workflow may change (no schedule, no name). Pure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

_STAMP = "%Y-%m-%dT%H:%MZ"


class TriggerType(StrEnum):
    PUSH = "push"
    SCHEDULE = "schedule"
    MANUAL = "manual"
    PULL_REQUEST = "pull_request"
    RELEASE = "release"
    WEBHOOK = "webhook"  # the workflow's own endpoint
    WORKFLOW = "workflow"  # the end of another workflow's run
    API = "api"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to start one workflow.

    `before` and `after` are commit ids of a push (`before` None: a new ref), `slot` the cron
    slot (aware UTC), `previous_slot` the one before it, `delivery` the id of the webhook
    delivery that announced a push, `actor` a name for people, never for trust. `source` is the
    run whose end started this one, `chain` how many runs were started so, one after the other.
    """

    type: TriggerType
    key: str
    at: datetime
    actor: str | None = None
    before: str | None = None
    after: str | None = None
    delivery: str | None = None
    slot: datetime | None = None
    previous_slot: datetime | None = None
    source: str = ""
    chain: int = 0


def push_key(repository: str, ref: str, *, n: int, workflow: str) -> str:
    """`ref` is the full ref, `n` the number of the observed move."""
    return f"push:{repository}:{ref}:{n}:{workflow}"


def tick_key(repository: str, workflow: str, *, kind: str, slot: datetime) -> str:
    """`kind` is start, stop or restart; `slot` an aware datetime on a whole minute."""
    return tick_prefix(repository, workflow, kind=kind) + _stamp(slot)


def tick_prefix(repository: str, workflow: str, *, kind: str) -> str:
    """How every such key of the workflow begins, and no other key."""
    return f"tick:{repository}:{workflow}:{kind}:"


def missed_key(repository: str, workflow: str, *, slot: datetime, kind: str = "start") -> str:
    """Of the note that a slot did not run. It is no election: a slot that was noted under a wrong
    clock still finds its tick key free."""
    return missed_prefix(repository, workflow, kind=kind) + _stamp(slot)


def missed_prefix(repository: str, workflow: str, *, kind: str = "start") -> str:
    head = "missed" if kind == "start" else f"missed-{kind}"
    return f"{head}:{repository}:{workflow}:"


def prefixes_until(prefix: str, at: datetime) -> list[str]:
    """Prefixes that together begin the keys `prefix` + slot of all slots up to `at`, and no
    others: each is cut off at a digit and ends in a smaller one."""
    stamp = _stamp(at)
    cuts = [(i, int(digit)) for i, digit in enumerate(stamp) if digit.isdigit()]
    smaller = [f"{prefix}{stamp[:i]}{less}" for i, digit in cuts for less in range(digit)]
    return [*smaller, prefix + stamp]


def slot_of(key: str) -> datetime:
    """The slot (aware UTC) at the end of a tick or missed key."""
    return datetime.strptime(key[-len("2026-01-01T00:00Z") :], _STAMP).replace(tzinfo=UTC)


def _stamp(slot: datetime) -> str:
    return slot.astimezone(UTC).strftime(_STAMP)


def manual_key(request: str) -> str:
    """`request` is the caller's Idempotency-Key, or a new id."""
    return f"manual:{request}"


def child_key(parent: str, step: str, *, attempt: int, item: int | None) -> str:
    """Of the run that an attempt of a `run` step makes, or of an item of it."""
    return f"child:{parent}:{step}:{attempt}:{'-' if item is None else item}"


def child_run(parent: str, step: str, *, attempt: int, item: int | None) -> str:
    """The id of that run: the same whenever it is asked for, so that it is made once. It begins
    as its parent's does, with the instant of the run that all began with."""
    return run_of_child(parent, child_key(parent, step, attempt=attempt, item=item))


def run_of_child(parent: str, key: str) -> str:
    """The id of the child run that has this key."""
    return parent[: len("20261123-000000-")] + hashlib.sha256(key.encode()).hexdigest()[:12]


def retry_key(run: str, ordinal: int) -> str:
    """`ordinal` counts the retries of the run from 1."""
    return f"retry:{run}:{ordinal}"


def after_key(run: str, workflow: str) -> str:
    """Of the run that a workflow has because `run` ended (`on: workflow`)."""
    return f"after:{run}:{workflow}"


def hook_key(repository: str, workflow: str, request: str) -> str:
    """Of a call of a workflow's own endpoint: `request` is the sender's webhook-id or
    Idempotency-Key, else a digest of what was sent."""
    return f"hook:{repository}:{workflow}:{request}"
