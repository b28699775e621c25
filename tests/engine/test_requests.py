"""What is asked of runs that exist: to stop, and to let a step go on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from real_run import RUN
from retrying import ORIGIN, Desk

from runner.control.requests import NotNow, UnknownRun
from runner.engine import journal
from runner.engine.events import ApprovalAsked, Approved, StopRequested
from storage.records import RunRow

ASKS = "steps: [{name: ship, id: s, approval: true, command: echo ship >>made}]"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


async def begun(desk: Desk, text: str, *, asked: int = 1) -> None:
    """Start a run and wait until so many steps wait for a person."""
    await desk.queue(text, origin=ORIGIN)
    desk.begin()
    async with asyncio.timeout(20):
        while sum(isinstance(e, ApprovalAsked) for e in desk.events) < asked:
            await desk.until(lambda e: isinstance(e, ApprovalAsked))
            await asyncio.sleep(0)


async def approve(
    desk: Desk, run: str = RUN, step: str | None = None, *, agreed: bool = True
) -> RunRow:
    return await desk.requests.approve(run, step=step, agreed=agreed, by="anna", comment="fine")


# Stop


async def test_a_queued_run_is_stopped_before_it_begins(desk: Desk) -> None:
    await desk.queue("steps: [{name: a, command: 'true'}]", origin=ORIGIN, start=False)
    row = await desk.requests.stop(RUN, by="anna")
    assert (row.status, row.reason) == ("cancelled", "stopped by anna")
    with pytest.raises(NotNow, match=r"is over \(cancelled\)"):
        await desk.requests.stop(RUN, by="anna")
    with pytest.raises(UnknownRun):
        await desk.requests.stop("nobody", by="anna")


async def test_a_run_that_nobody_has_just_now_is_stopped_when_it_is_taken_up(desk: Desk) -> None:
    await desk.queue("steps: [{name: a, command: 'touch a'}]", origin=ORIGIN)
    await desk.requests.stop(RUN, by="anna")
    done = await desk.complete()
    assert (done.status, done.document["reason"]) == ("cancelled", "stopped by anna")


async def test_a_request_is_durable_when_it_is_answered(desk: Desk) -> None:
    await begun(desk, ASKS)
    await desk.requests.stop(RUN, by="anna")
    await desk.leave()
    desk.open()
    assert any(r.type == StopRequested.__name__ for r in await desk.store.events(RUN))
    assert (await desk.complete()).status == "cancelled"


# Approve


async def test_a_step_goes_on_when_a_person_agrees(desk: Desk) -> None:
    await begun(desk, ASKS)
    row = await desk.store.run(RUN)
    assert row is not None
    assert row.status == "waiting"
    await approve(desk, step="s")
    done = await desk.complete_begun()
    assert (done.status, desk.made()) == ("succeeded", ["ship"])
    (fact,) = [e for e in done.events if isinstance(e, Approved)]
    assert (fact.by, fact.comment) == ("anna", "fine")


async def test_a_comment_shows_no_secret_of_the_run(desk: Desk) -> None:
    await begun(desk, "params: [API_TOKEN: t0p-s3cret]\n" + ASKS)
    await desk.requests.approve(RUN, step=None, agreed=True, by="anna", comment="with t0p-s3cret")
    done = await desk.complete_begun()
    assert done.step("ship")["approval"]["comment"] == "with ***"


async def test_a_step_fails_when_a_person_refuses(desk: Desk) -> None:
    await begun(desk, ASKS)
    await approve(desk, agreed=False)
    done = await desk.complete_begun()
    assert (done.status, done.step("ship")["reason"]) == ("failed", "refused by anna")
    assert desk.made() == []
    with pytest.raises(NotNow, match="is over"):
        await approve(desk)


async def test_the_one_step_that_waits_is_found_below_the_run(desk: Desk) -> None:
    desk.write("load", ASKS)
    await begun(desk, "steps: [{name: a, run: load}]")
    with pytest.raises(NotNow, match='step "other" does not wait for approval; waiting: "ship"'):
        await approve(desk, step="other")
    await approve(desk)
    done = await desk.complete_begun()
    assert (done.status, desk.made()) == ("succeeded", ["ship"])


async def test_of_several_that_wait_one_must_be_named(desk: Desk) -> None:
    desk.write("load", ASKS)
    await begun(desk, "steps: [{name: a, run: load, parallel: [x, y]}]", asked=2)
    with pytest.raises(NotNow, match="several steps wait for approval"):
        await approve(desk, step="ship")
    for row in await desk.children(RUN):
        await approve(desk, row.run)
    done = await desk.complete_begun()
    assert (done.status, desk.made()) == ("succeeded", ["ship", "ship"])


async def test_of_two_answers_at_once_one_counts(desk: Desk) -> None:
    await begun(desk, ASKS)
    answers = await asyncio.gather(
        approve(desk), approve(desk, agreed=False), return_exceptions=True
    )
    done = await desk.complete_begun()
    assert [isinstance(answer, NotNow) for answer in answers].count(True) == 1
    assert done.status == ("failed" if isinstance(answers[0], NotNow) else "succeeded")


async def test_an_answer_while_nobody_has_the_run_counts_when_it_is_taken_up(desk: Desk) -> None:
    await begun(desk, ASKS)
    await desk.restart()
    await approve(desk)
    with pytest.raises(NotNow, match="no step of run"):
        await approve(desk)
    done = await desk.complete()
    assert (done.status, desk.made()) == ("succeeded", ["ship"])


async def test_a_run_that_waits_below_another_makes_it_wait(desk: Desk) -> None:
    desk.write("load", ASKS)
    await begun(desk, "steps: [{name: a, run: load}]")
    async with asyncio.timeout(20):
        while (row := await desk.store.run(RUN)) is None or row.status != "waiting":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert row.status in journal.ACTIVE
    await desk.restart()
    desk.begin()
    await approve(desk)
    assert (await desk.complete_begun()).status == "succeeded"


async def test_a_question_holds_the_values_that_the_step_sees_and_no_secret(desk: Desk) -> None:
    await begun(
        desk,
        "params: [TEAM: shop, DB_PASSWORD: hunter22]\n"
        "steps: [{name: ship, approval: {message: 'Ship $TEAM ($DB_PASSWORD)?'}, command: 'true'}]",
    )
    asked = next(event for event in desk.events if isinstance(event, ApprovalAsked))
    assert asked.message == "Ship shop (***)?"


async def test_who_refused_and_why_stands_in_the_summary(desk: Desk) -> None:
    await begun(desk, ASKS)
    await approve(desk, agreed=False)
    done = await desk.complete_begun()
    approval = done.step("ship")["approval"]
    assert (approval["answer"], approval["answered_by"]) == ("refused", "anna")
    assert approval["comment"] == "fine"
