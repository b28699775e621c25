"""`/api/v1/runs/{run}/…`: stop, retry, approve; items and child runs of a run."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from served_door import World
from stored_runs import (
    AT,
    FAILED,
    FAN,
    RELEASE,
    RUNNING,
    WAITING,
    facts,
    fanned,
    run_of,
)

from runner.engine.events import ApprovalRefused, Approved, StopRequested
from runner.engine.journal import Lineage


async def post(client: httpx2.AsyncClient, path: str, document: object) -> httpx2.Response:
    return await client.post(f"/api/v1/runs/{path}", json=document)


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    return document


# Stop


async def test_a_queued_run_is_cancelled_at_once(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE)
    answer = await post(person, f"{run}/stop", {})
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert "cancelled" in problem(await post(person, f"{run}/stop", {}), 409)["detail"]


async def test_a_running_one_is_told_to_stop_and_by_whom(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await run_of(world, RELEASE, *RUNNING)
    answer = await post(person, f"{run}/stop", {"by": "ada@desk"})
    assert (answer.status_code, answer.json()["finished_at"]) == (202, None)
    assert [e.by for e in await facts(world, run) if isinstance(e, StopRequested)] == [
        "ada@desk (api)"
    ]


async def test_to_kill_is_to_ask_twice(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *RUNNING)
    assert (await post(person, f"{run}/stop", {"kill": True})).status_code == 202
    assert sum(isinstance(e, StopRequested) for e in await facts(world, run)) == 2


async def test_a_kill_that_is_only_nearly_asked_for_changes_nothing(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await run_of(world, RELEASE, *RUNNING)
    problem(await post(person, f"{run}/stop", {"kill": "yes"}), 400)
    assert not [e for e in await facts(world, run) if isinstance(e, StopRequested)]


async def test_a_stop_needs_no_body(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE)
    sent = {"Content-Type": "application/json"}
    assert (await person.post(f"/api/v1/runs/{run}/stop", headers=sent)).status_code == 200


@pytest.mark.parametrize("what", ["stop", "retry", "approve"])
async def test_an_unknown_run_is_not_found(person: httpx2.AsyncClient, what: str) -> None:
    document = {"agreed": True} if what == "approve" else {}
    assert "nothere" in problem(await post(person, f"nothere/{what}", document), 404)["detail"]


@pytest.mark.parametrize(
    ("what", "document", "place"),
    [
        ("stop", [], "body"),
        ("stop", {"kil": True}, "kil"),
        ("stop", {"kill": "maybe"}, "kill"),
        ("stop", {"by": ""}, "by"),
        ("retry", {"from": ""}, "from"),
        ("retry", {"from": "build", "all": True}, "all"),
        ("approve", {}, "agreed"),
        ("approve", {"agreed": True, "comment": "x" * 2001}, "comment"),
    ],
)
async def test_a_wrong_request_is_told_what_to_send(
    person: httpx2.AsyncClient, world: World, what: str, document: object, place: str
) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    answer = problem(await post(person, f"{run}/{what}", document), 400)
    assert answer["place"].startswith(place) and answer["remedy"].startswith("send {")
    assert len(await facts(world, run)) == 1 + len(WAITING)


# Approve


async def test_a_person_lets_the_step_go_on(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    sent = {"agreed": True, "comment": "go", "by": "ada"}
    assert (await post(person, f"{run}/approve", sent)).status_code == 200
    assert (await facts(world, run))[-1] == Approved(AT, "gate", "ada (api)", "go")
    problem(await post(person, f"{run}/approve", sent), 409)


async def test_a_person_refuses_the_step(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    sent = {"agreed": False, "step": "gate", "comment": "not today"}
    assert (await post(person, f"{run}/approve", sent)).status_code == 200
    last = (await facts(world, run))[-1]
    assert isinstance(last, ApprovalRefused)
    assert (last.by, last.comment) == ("api", "not today")


async def test_a_step_that_does_not_wait_is_named(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    sent = {"agreed": True, "step": "build"}
    detail = problem(await post(person, f"{run}/approve", sent), 409)["detail"]
    assert '"build"' in detail and '"gate"' in detail


async def test_a_waiting_approval_is_in_the_summary(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    summary = (await person.get(f"/api/v1/runs/{run}")).json()
    assert summary["status"] == "waiting"
    assert summary["steps"][1]["approval"]["message"] == "Ship it?"


# Retry


async def test_a_retry_is_a_new_run(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *FAILED)
    key = {"Idempotency-Key": "once more"}
    url = f"/api/v1/runs/{run}/retry"
    answers = [await person.post(url, json={}, headers=key) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["run"] for answer in answers}) == 1
    new = (await person.get(answers[0].headers["location"])).json()
    assert (new["retry_of"], new["attempt"], new["status"]) == (run, 2, "queued")


async def test_a_run_that_goes_on_cannot_be_retried(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await run_of(world, RELEASE, *RUNNING)
    assert "not over" in problem(await post(person, f"{run}/retry", {}), 409)["detail"]


async def test_a_retry_from_an_unknown_step_says_which_there_are(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await run_of(world, RELEASE, *FAILED)
    answer = await post(person, f"{run}/retry", {"from": "biuld"})
    assert '"build"' in problem(answer, 409)["detail"]


# What belongs to a run


async def test_children_are_listed_by_their_parent(
    person: httpx2.AsyncClient, world: World
) -> None:
    await run_of(world, RELEASE, run="r1")
    below = Lineage(parent="r1", parent_step="build", root="r1")
    await run_of(world, FAN, run="r2", lineage=below)
    for query, expected in (("", ["r1"]), ("?parent=r1", ["r2"]), ("?parent=r2", [])):
        listed = (await person.get(f"/api/v1/runs{query}")).json()["runs"]
        assert [row["run"] for row in listed] == expected, query
    child = (await person.get("/api/v1/runs/r2")).json()
    assert child["parent"] == {"run": "r1", "step": "build", "item": None, "root": "r1"}


async def test_each_item_has_its_log(person: httpx2.AsyncClient, world: World) -> None:
    run = await fanned(world)
    for item, text in ((0, b"one\n"), (1, b"two\n")):
        world.log_file(run, "fetch", 1, item).write_bytes(text)
        url = f"/api/v1/runs/{run}/log?step=fetch&item={item}"
        assert (await person.get(url)).content == text
        assert (await person.get(f"{url}&follow=true")).content == text
    url = f"/api/v1/runs/{run}/log?step=fetch"
    assert problem(await person.get(url), 400)["place"] == "query item"
    problem(await person.get(f"{url}&item=2"), 404)
    problem(await person.get(f"{url}&item=-1"), 400)


async def test_a_step_without_items_has_none(person: httpx2.AsyncClient, world: World) -> None:
    run = await run_of(world, RELEASE, *FAILED)
    answer = await person.get(f"/api/v1/runs/{run}/log?step=build&item=0")
    assert "no items" in problem(answer, 400)["detail"]
