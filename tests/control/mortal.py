"""A process that dies at a chosen moment: parts whose calls end it before or after their effect."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from house import House


class Died(BaseException):
    """The process is gone: nothing may catch it."""


class Fate:
    """Death comes at the `steps`-th step, and nothing is done afterwards. 0: never."""

    def __init__(self, steps: int) -> None:
        self._left = steps or 10**9

    def step(self) -> None:
        self._left -= 1
        if self._left <= 0:
            raise Died

    @property
    def came(self) -> bool:
        return self._left <= 0


class Mortal:
    """`real`, with a step of its fate before and after each call of one of `names`."""

    def __init__(self, real: Any, fate: Fate, *names: str) -> None:
        self.real = real
        self._fate = fate
        self._names = names

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.real, name)
        if name not in self._names:
            return call
        if not inspect.iscoroutinefunction(call):

            def blocking(*args: Any, **kwargs: Any) -> Any:
                self._fate.step()
                result = call(*args, **kwargs)
                self._fate.step()
                return result

            return blocking

        async def awaited(*args: Any, **kwargs: Any) -> Any:
            self._fate.step()
            result = await call(*args, **kwargs)
            self._fate.step()
            return result

        return awaited


def doom(house: House, fate: Fate) -> None:
    """From here on the house's store and mirror have this fate. `restart` ends it."""
    house.store = Mortal(house.store, fate, "write")  # type: ignore[assignment]
    house.mirror = Mortal(  # type: ignore[assignment]
        house.mirror, fate, "fetch", "snapshot", "pin", "fetch_branch", "push"
    )


async def restart(house: House) -> bool:
    """Everything in memory is gone; the next process takes up what is stored."""
    house.store = getattr(house.store, "real", house.store)
    house.mirror = getattr(house.mirror, "real", house.mirror)
    house.build()
    restored = await house.reconciler.restore()
    await house.admission.restore()
    house.ticker.release()
    await asyncio.sleep(0)
    return restored
