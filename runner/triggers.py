"""Why a run starts: each kind of trigger with the unique key that elects its one run.

The key is the election: two that would start the same run write the same key and the store
refuses the second. Keys hold no text that a workflow may change (no schedule, no name). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum


class TriggerType(StrEnum):
    PUSH = "push"
    SCHEDULE = "schedule"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Trigger:
    """One reason to start one workflow.

    `before` and `after` are commit ids of a push (`before` None: a new ref), `slot` the cron
    slot (aware UTC), `previous_slot` the one before it, `delivery` the id of the webhook
    delivery that announced a push, `actor` a name for people, never for trust.
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


def push_key(repository: str, ref: str, *, n: int, workflow: str) -> str:
    """`ref` is the full ref, `n` the number of the observed move."""
    return f"push:{repository}:{ref}:{n}:{workflow}"


def tick_key(repository: str, workflow: str, *, kind: str, slot: datetime) -> str:
    """`kind` is start, stop or restart; `slot` an aware datetime on a whole minute."""
    return f"tick:{repository}:{workflow}:{kind}:{slot.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def manual_key(request: str) -> str:
    """`request` is the caller's Idempotency-Key, or a new id."""
    return f"manual:{request}"
