"""`/api/v1/runs/{run}/…`: stop, retry, approve; items and child runs of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
from served_door import AT, COMMIT, World

from runner.engine import journal
from runner.engine.events import (
    ApprovalAsked,
    ApprovalRefused,
    Approved,
    Ended,
    Event,
    Finished,
    Launched,
    OutputNote,
    PreparationStarted,
    Prepared,
    Settled,
    Started,
    StopRequested,
)
from runner.engine.history import History
from runner.engine.journal import Lineage, Origin
from runner.language.load import load
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType

RELEASE = """\
steps:
  - name: build
    command: make
  - name: gate
    depends: build
    approval: {message: "Ship it?"}
    command: ./ship
"""
FAN = """\
steps:
  - name: fetch
    parallel: [one, two]
    command: echo $ITEM
"""


async def run_of(
    world: World, text: str, *events: Event, run: str = "r1", lineage: Lineage | None = None
) -> str:
    """A run of the workflow `text`, to which these facts happened."""
    workflow = load(text.encode(), path=".dagu/release.yaml", id="release").workflow
    assert workflow is not None
    await world.store.write(
        *journal.queued_writes(
            run,
            at=AT,
            workflow=workflow,
            source=text,
            origin=Origin("ops", "refs/heads/main", COMMIT, "b10b"),
            trigger=Trigger(TriggerType.MANUAL, f"manual:{run}", AT),
            params=Bound(()),
            **({} if lineage is None else {"lineage": lineage}),
        )
    )
    if events:
        await add(world, run, events)
    return run


async def add(world: World, run: str, events: Sequence[Event]) -> None:
    past = await History.read(world.store, run)
    now = History(run, (*past.events, *events), past.workflow, past.values)
    await world.store.append(
        run,
        after=len(past.events),
        records=journal.records(run, len(past.events), events),
        head=journal.head(run, now.state()),
    )


async def facts(world: World, run: str) -> list[Event]:
    return [journal.event(record) for record in await world.store.events(run)]


async def post(client: httpx2.AsyncClient, path: str, document: object) -> httpx2.Response:
    return await client.post(f"/api/v1/runs/{path}", json=document)


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    return document


RUNNING = (
    Started(AT, "host", "1"),
    PreparationStarted(AT, None),
    Prepared(AT, None, True),
    Launched(AT, "build", 1, "b1", "boot"),
)
WAITING = (
    *RUNNING,
    Ended(AT, "build", 1, "b1", 0, None, ""),
    ApprovalAsked(AT, "gate", "Ship it?", (), AT),
)
FAILED = (
    *RUNNING,
    Ended(AT, "build", 1, "b1", 3, None, "exit code 3", retryable=False),
    Settled(AT, "failed", "step build failed"),
    Finished(AT, "failed", "step build failed"),
)

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


async def fanned(world: World) -> str:
    """A run whose list has two items; the second one failed."""
    return await run_of(
        world,
        FAN,
        Started(AT, "host", "1"),
        PreparationStarted(AT, None),
        Prepared(AT, None, True),
        PreparationStarted(AT, "fetch"),
        Prepared(AT, "fetch", True, items=("one", "two")),
        Launched(AT, "fetch", 1, "l0", "boot", item=0),
        Launched(AT, "fetch", 1, "l1", "boot", item=1),
        Ended(AT, "fetch", 1, "l1", 3, None, "exit code 3", item=1, retryable=False),
        Ended(AT, "fetch", 1, "l0", 0, None, "", item=0, outputs=(OutputNote("A", 1, "", "x"),)),
    )


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
