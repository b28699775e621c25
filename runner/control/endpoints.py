"""A workflow's own endpoint (`on: webhook`): what was sent there becomes a run.

Knows which workflows have one, and takes their params out of the body; leaves who may send to the
door. Its rule: the sender's id of the request is the key, and the delivery and the run that it
makes are stored together.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime

from runner.control.applied import Applied, Definition
from runner.control.intake import (
    MOST_QUEUED,
    Intake,
    NotStarted,
    QueueFull,
    UnfitParams,
    UnknownWorkflow,
)
from runner.language import exact_json
from runner.language.model import Param
from runner.triggers import Trigger, TriggerType, hook_key
from storage.records import DeliveryRow, PutDelivery, RunRow
from storage.store import Duplicate, Store


class BadBody(NotStarted):
    """The body is not JSON."""


class Endpoints:
    """One for all repositories. `applied`: repository → what is in force there now."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        *,
        applied: Mapping[str, Callable[[], Applied]],
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._intake = intake
        self._applied = applied
        self._clock = clock

    async def start(
        self, delivery: DeliveryRow, workflow: str, *, body: bytes, request: str | None
    ) -> tuple[RunRow, bool]:
        """The run of what was sent, and whether it was made now: a second delivery with the same
        `request` answers the run of the first. Raises NotStarted.

        `delivery` is stored with the run, its digest made unique for the request.
        """
        repository = delivery.repository
        definition, wanted = self._find(repository, workflow)
        key = hook_key(repository, workflow, request or delivery.delivery)
        if (first := await self._run_of(key)) is not None:
            return first, False
        given = _params(body, wanted, workflow=workflow)
        trigger = Trigger(TriggerType.WEBHOOK, key, self._clock(), delivery=delivery.delivery)
        cause = {"delivery": delivery.delivery, "commit": definition.commit}
        run, writes = await self._intake.start(
            definition, trigger, cause=cause, given=given, event=body.decode()
        )
        if run is None:
            raise QueueFull(
                f'workflow "{workflow}" has {MOST_QUEUED} queued runs; try again when some ended'
            )
        digest = hashlib.sha256(key.encode() + b"\0" + body).hexdigest()
        try:
            await self._store.write(PutDelivery(delivery._replace(digest=digest)), *writes)
        except Duplicate:
            if (first := await self._run_of(key)) is not None:
                return first, False
            raise
        self._intake.queued(repository, workflow)
        row = await self._store.run(run)
        if row is None:
            raise RuntimeError(f"run {run} was stored and is not there")
        return row, True

    async def _run_of(self, key: str) -> RunRow | None:
        row = await self._store.trigger(key)
        return None if row is None or row.run is None else await self._store.run(row.run)

    def _find(
        self, repository: str, workflow: str
    ) -> tuple[Definition, tuple[tuple[str, str], ...]]:
        """The definition in force and its mapping (param, JSON path)."""
        applied = self._applied[repository]()
        definition, live = applied.definition(workflow), applied.workflows.get(workflow)
        if definition is None or live is None:
            near = difflib.get_close_matches(workflow, applied.workflows, n=1)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise UnknownWorkflow(f'no workflow has the id "{workflow}"{hint}')
        wanted = live.entry.events.webhook
        if wanted is None:
            raise UnknownWorkflow(
                f'workflow "{workflow}" has no endpoint; it gets one by `on: webhook`'
            )
        return definition, wanted


def _params(
    body: bytes, wanted: tuple[tuple[str, str], ...], *, workflow: str
) -> tuple[Param, ...]:
    """What the mapping takes out of the body. Raises BadBody, UnfitParams."""
    try:
        document = exact_json.read(body.decode())
    except ValueError as error:
        raise BadBody(f"the body is not JSON: {error}") from error
    given: list[Param] = []
    for name, path in wanted:
        try:
            found = exact_json.at(document, path)
            value = "" if found is None else exact_json.text(found)
        except (LookupError, ValueError) as error:
            raise UnfitParams(
                f'the body has no "{path}", which workflow "{workflow}" takes for {name}'
            ) from error
        if "\0" in value:
            raise UnfitParams(f'"{path}", which is taken for {name}, holds a NUL')
        given.append(Param(name, value))
    return tuple(given)
