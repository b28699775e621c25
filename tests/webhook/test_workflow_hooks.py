"""`POST /hooks/{repo}/{workflow}` over real HTTP and the real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import httpx2
import pytest
from github_deliveries import signature
from served_door import AT, COMMIT, SECRET, World
from structlog.testing import capture_logs

from runner.control import applied, catalog
from runner.control.claiming import Claiming
from runner.control.endpoints import Endpoints
from runner.control.intake import MOST_QUEUED, Intake, Source
from runner.engine import journal
from runner.engine.events import Queued
from runner.triggers import hook_key
from storage.records import DeliveryRow, RunRow
from storage.store import StorageError
from webhook.doors import Doors
from webhook.workflow_hooks import MAX_BODY_BYTES

FILES = {
    "deploy/web": """\
on: {webhook: {params: {VERSION: release.tag_name, FIRST: "items[0].id", SIZE: size}}}
params: [{VERSION: none}, {FIRST: ""}, {SIZE: ""}]
steps: [{command: echo $VERSION}]
""",
    "plain": "steps: [{command: ls}]\n",
    "bare": "on: webhook\nsteps: [{command: ls}]\n",
    "strict": "on: {webhook: {params: {NOWHERE: a}}}\nsteps: [{command: ls}]\n",
}
SHOWN = {"Authorization": f"Bearer {SECRET.decode()}"}
BODY = b'{"release": {"tag_name": "v1.10"}, "items": [{"id": "one"}], "size": 0.80}'


@dataclass
class Told:
    """What the service was told about queued runs."""

    queued: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def doors(doors: Doors, world: World, told: Told) -> Doors:
    """The doors of a service with FILES in force."""
    entries = [
        catalog.read(text.encode(), path=f".dagu/{id}.yaml", blob=id, folder=".dagu")
        for id, text in FILES.items()
    ]
    built = catalog.build(COMMIT, entries)
    assert not built.problems
    before = applied.Applied("ops", "refs/heads/main")
    in_force = applied.take_effect(before, built, at=AT)

    async def read_blob(blob: str) -> bytes:
        return FILES[blob].encode()

    async def pin(commit: str) -> None:
        pass

    intake = Intake(
        world.store,
        {"ops": Source(read_blob, pin, lambda: in_force)},
        clock=lambda: AT,
        queued=lambda repository, workflow: told.queued.append((repository, workflow)),
        claiming=Claiming(queues={}),
    )
    endpoints = Endpoints(world.store, intake, applied={"ops": lambda: in_force}, clock=lambda: AT)
    return replace(doors, endpoint=endpoints.start)


async def post(
    client: httpx2.AsyncClient,
    body: bytes = BODY,
    *,
    to: str = "ops/deploy/web",
    signed: bool = True,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> httpx2.Response:
    sent = {"Content-Type": "application/json"}
    if signed:
        sent["X-Hub-Signature-256"] = signature(body, SECRET)
    return await client.post(f"/hooks/{to}", content=body, headers={**sent, **headers})


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    return document


async def run_of(world: World, answer: httpx2.Response) -> tuple[RunRow, Queued]:
    run = answer.json()["run"]
    row = await world.store.run(run)
    first = journal.event((await world.store.events(run))[0])
    assert row is not None and isinstance(first, Queued)
    return row, first


async def delivery(world: World, answer: httpx2.Response) -> DeliveryRow:
    row = await world.store.delivery(answer.json()["delivery"])
    assert row is not None
    return row


async def nothing_started(world: World) -> bool:
    return await world.store.runs() == []


async def test_a_signed_body_becomes_a_run_with_its_params(
    anyone: httpx2.AsyncClient, world: World, told: Told
) -> None:
    answer = await post(anyone)
    assert answer.status_code == 202
    row, queued = await run_of(world, answer)
    assert answer.headers["location"] == f"/api/v1/runs/{row.run}"
    assert (row.workflow, row.status, row.trigger_type) == ("deploy/web", "queued", "webhook")
    assert row.commit == COMMIT
    assert queued.params == (("VERSION", "v1.10"), ("FIRST", "one"), ("SIZE", "0.80"))
    assert queued.trigger.delivery == answer.json()["delivery"]
    values = await world.store.values(row.run)
    assert values["run", "event"] == BODY.decode()
    stored = await delivery(world, answer)
    assert (stored.repository, stored.provider, stored.event) == ("ops", "webhook", "deploy/web")
    assert told.queued == [("ops", "deploy/web")]


async def test_the_secret_itself_may_be_shown_instead(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answer = await post(anyone, signed=False, headers=SHOWN)
    assert answer.status_code == 202
    assert "authorization" not in (await delivery(world, answer)).headers


@pytest.mark.parametrize("name", ["webhook-id", "Idempotency-Key"])
async def test_a_repeated_id_answers_the_first_run(
    anyone: httpx2.AsyncClient, world: World, name: str
) -> None:
    first = await post(anyone, headers={name: "evt_1"})
    again = await post(anyone, BODY.replace(b"v1.10", b"v2"), headers={name: "evt_1"})
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == {
        "run": first.json()["run"],
        "workflow": "deploy/web",
        "duplicate": True,
    }
    assert await world.store.trigger(hook_key("ops", "deploy/web", "evt_1")) is not None
    other = await post(anyone, to="ops/bare", headers={name: "evt_1"})
    assert other.status_code == 202
    assert len(await world.store.runs()) == 2


async def test_an_id_that_comes_twice_at_once_starts_one_run(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answers = await asyncio.gather(
        *(post(anyone, headers={"webhook-id": "evt_1"}) for _ in range(8))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [202]
    assert len({answer.json()["run"] for answer in answers}) == 1
    assert len(await world.store.runs()) == 1


async def test_without_an_id_each_request_is_one_of_its_own(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answers = [await post(anyone) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len(await world.store.runs()) == 2


async def test_a_workflow_without_params_takes_any_json(anyone: httpx2.AsyncClient) -> None:
    for body in (b"{}", b"[]", b"1", b"null"):
        assert (await post(anyone, body, to="ops/bare")).status_code == 202


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"12345678901234567890", "12345678901234567890"),
        (b"1.10", "1.10"),
        (b"true", "true"),
        (b"null", ""),
        (b'"$(reboot) `id`"', "$(reboot) `id`"),
        (b'{"b": [1, 2.50]}', '{"b":[1,2.50]}'),
    ],
)
async def test_values_arrive_as_they_were_written(
    anyone: httpx2.AsyncClient, world: World, value: bytes, text: str
) -> None:
    answer = await post(anyone, BODY.replace(b"0.80", value))
    _, queued = await run_of(world, answer)
    assert dict(queued.params)["SIZE"] == text


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b'{"release": {}, "items": [{"id": 1}], "size": 1}', "release.tag_name"),
        (b'{"release": {"tag_name": 1}, "items": [], "size": 1}', "items[0].id"),
        (b"[]", "release.tag_name"),
    ],
)
async def test_a_path_that_the_body_lacks_is_named(
    anyone: httpx2.AsyncClient, world: World, body: bytes, path: str
) -> None:
    document = problem(await post(anyone, body), 422)
    assert f'"{path}"' in document["detail"]
    assert await nothing_started(world)


async def test_a_param_that_the_workflow_does_not_have_is_refused(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    document = problem(await post(anyone, b'{"a": 1}', to="ops/strict"), 422)
    assert "NOWHERE" in document["detail"]
    assert await nothing_started(world)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"{}{}", b"NaN"])
async def test_a_body_that_is_not_json_is_refused(
    anyone: httpx2.AsyncClient, world: World, body: bytes
) -> None:
    problem(await post(anyone, body), 400)
    assert await nothing_started(world)


async def test_a_value_with_a_nul_is_refused(anyone: httpx2.AsyncClient, world: World) -> None:
    document = problem(await post(anyone, BODY.replace(b"v1.10", b"v\\u0000")), 422)
    assert "NUL" in document["detail"]
    assert await nothing_started(world)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic eDp5"},
        {"X-Hub-Signature-256": "sha256=" + "0" * 64},
        {"X-Hub-Signature-256": "nonsense"},
        {"X-Hub-Signature-256": signature(BODY, b"another secret")},
        {"Authorization": "Bearer wrong", "X-Hub-Signature-256": signature(BODY, SECRET)},
    ],
)
async def test_who_does_not_know_the_secret_learns_nothing(
    anyone: httpx2.AsyncClient, world: World, headers: dict[str, str]
) -> None:
    answers = [
        await post(anyone, to=f"ops/{id}", signed=False, headers=headers) for id in ("bare", "x")
    ]
    documents = [problem(answer, 401) for answer in answers]
    assert documents[0] == documents[1]
    assert await nothing_started(world)


async def test_only_workflows_that_listen_have_an_endpoint(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    assert "on: webhook" in problem(await post(anyone, to="ops/plain"), 404)["detail"]
    assert 'did you mean "bare"?' in problem(await post(anyone, to="ops/bear"), 404)["detail"]
    problem(await post(anyone, to="elsewhere/bare"), 404)
    assert await nothing_started(world)


async def test_without_a_secret_every_endpoint_is_closed(anyone: httpx2.AsyncClient) -> None:
    problem(await post(anyone, to="open/bare"), 403)


async def test_what_is_not_json_by_its_header_is_refused(anyone: httpx2.AsyncClient) -> None:
    problem(await post(anyone, headers={"Content-Type": "text/plain"}), 415)


async def test_a_body_beyond_the_limit_is_refused(anyone: httpx2.AsyncClient, world: World) -> None:
    problem(await post(anyone, b'"' + b"a" * MAX_BODY_BYTES + b'"', to="ops/bare"), 413)
    assert await nothing_started(world)


@pytest.mark.parametrize("request_id", ["", "x" * 201])
async def test_an_id_of_a_bad_length_is_refused(
    anyone: httpx2.AsyncClient, world: World, request_id: str
) -> None:
    problem(await post(anyone, headers={"webhook-id": request_id}), 400)
    assert await nothing_started(world)


async def test_a_full_queue_is_said_and_the_id_can_be_used_later(
    anyone: httpx2.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*given: object, **named: object) -> int:
        return MOST_QUEUED

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "count_runs", full)
        answer = await post(anyone, headers={"webhook-id": "evt_1"})
    assert answer.headers["retry-after"] == "60"
    problem(answer, 429)
    assert (await post(anyone, headers={"webhook-id": "evt_1"})).status_code == 202


async def test_what_cannot_be_stored_is_answered_with_503(
    anyone: httpx2.AsyncClient, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*writes: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "write", broken)
        answer = await post(anyone, headers={"webhook-id": "evt_1"})
    assert "disk" not in answer.text
    problem(answer, 503)
    assert (await post(anyone, headers={"webhook-id": "evt_1"})).status_code == 202


async def test_the_log_has_neither_payload_nor_secret(anyone: httpx2.AsyncClient) -> None:
    with capture_logs() as logs:
        await post(anyone)
        await post(anyone, signed=False, headers=SHOWN)
        await post(anyone, b'{"release": "v1.10"}')
    text = json.dumps(logs, default=str)
    assert "deploy/web" in text
    assert "v1.10" not in text
    assert SECRET.decode() not in text
