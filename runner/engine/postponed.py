"""What stands in a step's place while the machine has no room for it.

Knows a timer and nothing of steps. Its rule: it calls back once, for the time or for a signal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Postponed:
    """An Execution without a process: `call` comes after `wait_s`, or `stopped` at a signal."""

    def __init__(
        self, wait_s: float, call: Callable[[], None], *, stopped: Callable[[], None]
    ) -> None:
        self._stopped = stopped
        self._timer = asyncio.get_running_loop().call_later(wait_s, call)

    def send(self, signal: int) -> None:
        if not self._timer.cancelled():
            self._timer.cancel()
            self._stopped()

    def leave(self) -> None:
        self._timer.cancel()
