"""Asks the runs to stop that slots of a schedule have named: once each, whenever the service dies.

What is owed is written with the slot's row; here it is paid. Which runs a slot names is firing's.
Its rule: a run that was asked by a slot is not asked by it again, as a second stop kills.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from runner.engine import journal
from runner.engine.events import StopRequested
from storage.records import Owe, Pay, TriggerRow
from storage.store import StorageError, Store

KIND = "stop"
_ALWAYS = datetime.fromtimestamp(0, UTC)  # due at once, whatever the clock says

_log = structlog.get_logger(__name__)


class Stops:
    """`stop(run, by)` asks an active run to stop and returns when that is durable."""

    def __init__(self, store: Store, stop: Callable[[str, str], Awaitable[object]]) -> None:
        self._store = store
        self._stop = stop
        self._asking = asyncio.Lock()

    def owe(self, key: str) -> Owe:
        """What the row of the slot with this key owes to the runs that its cause names."""
        return Owe(KIND, key, _ALWAYS)

    async def pay(self) -> None:
        """Ask whom slots of now, or of a service that died, have not asked yet."""
        async with self._asking:
            for row in await self._store.owed(KIND, due=_ALWAYS):
                trigger = await self._store.trigger(row.key)
                if trigger is not None:
                    await self._ask(trigger)
                await self._store.write(Pay(row.kind, row.key, row.version))

    async def _ask(self, trigger: TriggerRow) -> None:
        cause = json.loads(trigger.cause)
        by = f"schedule ({trigger.key.split(':')[3]} {cause['schedule']})"
        for run in cause.get("runs") or cause.get("stops") or ():
            try:
                if await self._is_asked(run, by, since=trigger.at):
                    continue
                await self._stop(run, by)
            except StorageError as error:
                # Not again: a run that was asked twice is killed.
                _log.error("slot_stopped_not", run=run, problem=str(error))
            else:
                _log.info("slot_stopped", workflow=trigger.workflow, run=run)

    async def _is_asked(self, run: str, by: str, *, since: datetime) -> bool:
        events = (journal.event(record) for record in await self._store.events(run))
        return any(isinstance(e, StopRequested) and e.by == by and e.at >= since for e in events)
