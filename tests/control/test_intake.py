from __future__ import annotations

import asyncio

import pytest
from house import House

from runner.control import intake
from runner.control.intake import NotStarted, QueueFull, UnfitParams, UnknownWorkflow
from runner.language.model import Param
from storage.records import RunRow

PLAIN = 'params: "A=1"\nsteps: [{command: "echo $A"}]\n'


async def start(house: House, workflow: str, *params: Param, request: str | None = None) -> RunRow:
    return await house.intake.start_by_hand(
        None, workflow, params=params, actor="ada", request=request
    )


async def test_a_run_by_hand_is_at_the_applied_commit(house: House) -> None:
    tip = await house.push(a=PLAIN)
    run = await start(house, "a", Param("A", "2"))
    assert (run.commit, run.status, run.trigger_type) == (tip, "queued", "manual")


async def test_the_same_request_answers_the_first_run(house: House) -> None:
    await house.push(a=PLAIN)
    both = await asyncio.gather(start(house, "a", request="k"), start(house, "a", request="k"))
    assert both[0].run == both[1].run == (await start(house, "a", request="k")).run
    assert len(await house.runs()) == 1


async def test_a_request_for_another_workflow_never_answers_with_the_first_one(
    house: House,
) -> None:
    await house.push(a=PLAIN, b=PLAIN)
    first = await start(house, "a", request="k")
    with pytest.raises(NotStarted, match=f'{first.run} of workflow "a"; use another key for "b"'):
        await start(house, "b", request="k")


async def test_requests_without_a_key_are_different_runs(house: House) -> None:
    await house.push(a=PLAIN)
    assert (await start(house, "a")).run != (await start(house, "a")).run


async def test_an_unknown_workflow_is_answered_with_the_nearest_name(house: House) -> None:
    await house.push(load=PLAIN)
    with pytest.raises(UnknownWorkflow, match='did you mean "load"'):
        await start(house, "laod")


async def test_an_unknown_repository_is_answered_with_the_nearest_name(house: House) -> None:
    with pytest.raises(UnknownWorkflow, match='did you mean "ops"'):
        await house.intake.start_by_hand("opps", "a", params=(), actor="ada", request=None)


async def test_a_param_that_the_workflow_does_not_take_is_refused(house: House) -> None:
    await house.push(a=PLAIN)
    with pytest.raises(UnfitParams, match="NOPE"):
        await start(house, "a", Param("NOPE", "1"))
    assert await house.runs() == []


async def test_a_full_queue_refuses_with_the_reason(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MOST_QUEUED", 2)
    await house.push(a="on: push\n" + PLAIN)
    await start(house, "a")
    await start(house, "a")
    with pytest.raises(QueueFull, match="2 queued runs") as refused:
        await start(house, "a")
    assert isinstance(refused.value, NotStarted)
    await house.push(b=PLAIN)
    assert (await house.verdicts())["push:ops:refs/heads/main:2:a"] == "queue_full"
    assert len(await house.runs()) == 2
