"""Pays what facts owe: reads the due rows of one kind, has them paid, deletes or postpones them.

Knows when to act (quiet time, gap between two payments, back-off) and nothing of what is told to
whom: `pay` reads the present truth and acts. Its rule: a row is deleted only if nobody owed it
again meanwhile, so states in between coalesce and a restart resumes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from storage.records import OwedRow, Pay, Postpone
from storage.store import StorageError, Store

BURST = 3  # payments that need not wait for the gap after a calm time
_MOST_DOUBLINGS = 32  # of the wait: after a week of failures a float would not hold it

_log = structlog.get_logger(__name__)


class NotPaid(Exception):
    """What was owed could not be told; try again later. The message is for people."""


class Payer(Protocol):
    def __call__(self, rows: Sequence[OwedRow]) -> Awaitable[None]:
        """Make the outside world agree with the store for these rows. One call at a time; a
        second call for the same rows changes nothing. Raises NotPaid."""


class Reporter:
    """One reader of one kind of owed rows. `clock` gives aware UTC datetimes.

    `longest_delay_s`: nothing of this kind is ever put off for longer, so that what seems to be
    was written before the clock went back, and is due. None: it may be.
    """

    def __init__(
        self,
        store: Store,
        kind: str,
        *,
        pay: Payer,
        clock: Callable[[], datetime],
        quiet_s: float = 0,
        gap_s: float = 0,
        retry_s: float = 5,
        longest_retry_s: float = 600,
        batch: int = 200,
        longest_delay_s: float | None = None,
    ) -> None:
        self._store = store
        self._kind = kind
        self._pay = pay
        self._clock = clock
        self._quiet_s = quiet_s
        self._gap_s = gap_s
        self._retry_s = retry_s
        self._longest_retry_s = longest_retry_s
        self._batch = batch
        self._longest_delay_s = longest_delay_s
        self._owed = asyncio.Event()
        self._paying = asyncio.Lock()
        self._allowed = float(BURST)  # payments that may be made at once, as of `_counted_at`
        self._counted_at: float | None = None  # loop time

    async def run_forever(self) -> None:
        forget = self._store.listen(f"owed:{self._kind}", self._owed.set)
        try:
            while True:
                try:
                    await self._until_due()
                    await self._until_quiet()
                    await self.pay_due()
                except StorageError as error:  # what is owed stays owed
                    _log.warning(
                        "report_waits", kind=self._kind, wait_s=self._retry_s, problem=str(error)
                    )
                    await asyncio.sleep(self._retry_s)
                except Exception:  # noqa: BLE001 (the loop's edge)
                    _log.exception("report_crashed", kind=self._kind)
                    await asyncio.sleep(self._retry_s)
        finally:
            forget()

    async def pay_due(self) -> bool:
        """Pay everything that is due now; False if some of it had to be postponed."""
        async with self._paying:
            while rows := await self._due():
                try:
                    await self._pay(rows)
                except NotPaid as error:
                    wait_s = await self._postpone(rows, str(error))
                    self._say(rows, str(error), wait_s=wait_s)
                    return False
                except Exception as error:  # who called says it
                    await self._postpone(rows, repr(error))
                    raise
                finally:
                    self._allowed = self._refilled() - 1
                await self._store.write(*(Pay(row.kind, row.key, row.version) for row in rows))
            return True

    async def _due(self) -> list[OwedRow]:
        due = self._clock()
        first = await self._store.owed_next(self._kind)
        if first is not None and self._is_beyond(first):
            due = first
        return await self._store.owed(self._kind, due=due, limit=self._batch)

    def _is_beyond(self, due: datetime) -> bool:
        ahead_s = (due - self._clock()).total_seconds()
        return self._longest_delay_s is not None and ahead_s > self._longest_delay_s

    async def _postpone(self, rows: Sequence[OwedRow], error: str) -> float:
        """Put off for how many seconds."""
        doublings = min(_MOST_DOUBLINGS, *(row.tries for row in rows))
        wait_s = min(self._retry_s * 2.0**doublings, self._longest_retry_s)
        later = self._clock() + timedelta(seconds=wait_s)
        await self._store.write(
            *(Postpone(row.kind, row.key, row.version, later, error) for row in rows)
        )
        return wait_s

    def _say(self, rows: Sequence[OwedRow], error: str, *, wait_s: float) -> None:
        # A refusal that stays the same is said once, over restarts too.
        say = _log.info if all(row.last_error == error for row in rows) else _log.warning
        say("report_postponed", kind=self._kind, rows=len(rows), wait_s=wait_s, error=error)

    async def _until_due(self) -> None:
        while True:
            self._owed.clear()
            first = await self._store.owed_next(self._kind)
            if first is None:
                await self._owed.wait()
                continue
            wait = (first - self._clock()).total_seconds()
            if wait <= 0 or self._is_beyond(first):
                return
            await self._notice(wait)

    async def _until_quiet(self) -> None:
        """Wait until nothing was owed for `quiet_s`, but never longer than `gap_s` for that; and
        until another payment is allowed: a few at once, under load one each `gap_s`."""
        loop = asyncio.get_running_loop()
        first = loop.time()
        while await self._notice(min(self._quiet_s, first + self._gap_s - loop.time())):
            self._owed.clear()
        await asyncio.sleep(max(0.0, (1 - self._refilled()) * self._gap_s))

    def _refilled(self) -> float:
        """How many payments may be made now."""
        now = asyncio.get_running_loop().time()
        since, self._counted_at = now - (self._counted_at or now), now
        gained = since / self._gap_s if self._gap_s else BURST
        self._allowed = min(BURST, self._allowed + gained)
        return self._allowed

    async def _notice(self, timeout_s: float) -> bool:
        """True if something more was owed within the time."""
        if timeout_s <= 0:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._owed.wait()
        except TimeoutError:
            return False
        return True
