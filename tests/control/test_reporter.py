from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from house import House

from runner.control.reporter import NotPaid, Reporter
from storage.records import Owe, OwedRow


class Payments:
    def __init__(self) -> None:
        self.paid: list[list[str]] = []
        self.happened = asyncio.Event()
        self.refuse = 0
        self.meanwhile: Owe | None = None
        self.house: House | None = None

    async def __call__(self, rows: Sequence[OwedRow]) -> None:
        if self.refuse:
            self.refuse -= 1
            raise NotPaid("not now")
        if self.house is not None and self.meanwhile is not None:
            await self.house.store.write(self.meanwhile)
            self.meanwhile = None
        self.paid.append([row.key for row in rows])
        self.happened.set()


def reporter(house: House, payments: Payments) -> Reporter:
    return Reporter(house.store, "summary", pay=payments, clock=house.clock, retry_s=10)


async def owe(house: House, *keys: str) -> None:
    await house.store.write(*(Owe("summary", key, house.clock()) for key in keys))


async def test_what_is_due_is_paid_together_and_once(house: House) -> None:
    payments = Payments()
    await owe(house, "a", "b")
    assert await reporter(house, payments).pay_due()
    assert await reporter(house, payments).pay_due()
    assert payments.paid == [["a", "b"]]


async def test_what_is_owed_again_while_it_is_paid_is_paid_again(house: House) -> None:
    payments = Payments()
    payments.house, payments.meanwhile = house, Owe("summary", "a", house.clock())
    await owe(house, "a")
    await reporter(house, payments).pay_due()
    assert payments.paid == [["a"], ["a"]]


async def test_a_refusal_waits_longer_each_time(house: House) -> None:
    payments = Payments()
    payments.refuse = 2
    await owe(house, "a")
    waits = []
    for _ in range(2):
        assert not await reporter(house, payments).pay_due()
        due = await house.store.owed_next("summary")
        assert due is not None
        waits.append((due - house.clock()).total_seconds())
        house.clock.at = due
    assert waits == [10, 20]
    assert await reporter(house, payments).pay_due()
    assert payments.paid == [["a"]]


async def test_a_bug_in_paying_is_postponed_and_not_hidden(house: House) -> None:
    async def broken(rows: Sequence[OwedRow]) -> None:
        raise ZeroDivisionError

    await owe(house, "a")
    with pytest.raises(ZeroDivisionError):
        await Reporter(house.store, "summary", pay=broken, clock=house.clock).pay_due()
    (row,) = await house.store.owed("summary", due=house.clock.at.replace(year=2027))
    assert (row.tries, row.last_error) == (1, "ZeroDivisionError()")


async def test_owing_wakes_the_reader(house: House) -> None:
    payments = Payments()
    loop = asyncio.create_task(reporter(house, payments).run_forever())
    await asyncio.sleep(0)
    await owe(house, "a")
    async with asyncio.timeout(20):
        await payments.happened.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert payments.paid == [["a"]]
