"""Stands for an executor that a workflow may name and that this version does not have.

Its rule: it says so at once, and nothing ever ran.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

from runner.executors.base import Earlier, Execution, Outcome, Task


class Unavailable:
    """An Executor each attempt of which ends with an error."""

    def __init__(self, type: str, *, clock: Callable[[], datetime]) -> None:
        self._error = f"executor {type} is not available yet"
        self._clock = clock

    def start(self, task: Task, done: Callable[[Outcome], None]) -> Execution:
        return _Told(asyncio.get_running_loop().call_soon(done, self._outcome()))

    def _outcome(self) -> Outcome:
        return Outcome(self._clock(), error=self._error)

    async def resume(self, earlier: Earlier, done: Callable[[Outcome], None]) -> Outcome:
        return self._outcome()

    def recall(self, earlier: Earlier) -> None:
        """There is nobody."""

    def has_left_behind(self, run: str) -> bool:
        return False

    async def end_left_behind(self, run: str, *, grace_s: float) -> None:
        """There is nobody."""


class _Told:
    """Its end is on its way."""

    def __init__(self, told: asyncio.Handle) -> None:
        self._told = told

    def send(self, signal: int) -> None:
        """There is nobody."""

    def leave(self) -> None:
        self._told.cancel()
