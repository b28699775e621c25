"""`POST /hooks/{repo}` over real HTTP and the real store: what is let in, kept, and owed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from github_deliveries import Sample, headers, own, samples, signature
from served_door import AT, SECRET, World
from structlog.testing import capture_logs

from storage.records import DeliveryRow, Pay, Write
from storage.sqlite import SqliteStore
from storage.store import StorageError
from webhook.app import Doors, create_app

PUSH = own("push_branch").body


async def post(
    client: httpx2.AsyncClient,
    body: bytes = PUSH,
    *,
    to: str = "ops",
    event: str = "push",
    without: str = "",
    **changed: str,
) -> httpx2.Response:
    sent = headers(body, secret=SECRET, event=event)
    sent |= {name.replace("_", "-"): value for name, value in changed.items()}
    sent.pop(without, None)
    return await client.post(f"/hooks/{to}", content=body, headers=sent)


async def stored(store: SqliteStore, answer: httpx2.Response) -> DeliveryRow:
    row = await store.delivery(answer.json()["delivery"])
    assert row is not None
    return row


async def owed(store: SqliteStore) -> list[str]:
    return [row.key for row in await store.owed("fetch", due=AT)]


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"] and document["detail"]
    return document


async def test_a_signed_push_is_kept_with_the_fetch_that_it_owes(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answer = await post(anyone)
    assert answer.status_code == 202
    assert answer.json()["verdict"] == "accepted"
    row = await stored(world.store, answer)
    assert (row.repository, row.provider, row.event, row.actor) == ("ops", "github", "push", "ada")
    assert (row.ref, row.after) == ("refs/heads/main", "b2" * 20)
    assert row.size_bytes == len(PUSH)
    assert await owed(world.store) == ["ops"]
    assert world.nudged == ["ops"]
    found = await world.store.delivery_for("ops", "refs/heads/main", "b2" * 20)
    assert found == row


async def test_kept_headers_hold_no_signature(anyone: httpx2.AsyncClient, world: World) -> None:
    row = await stored(world.store, await post(anyone, Authorization="Bearer x", Cookie="a=b"))
    assert set(json.loads(row.headers)) == {
        "user-agent",
        "content-type",
        "x-github-event",
        "x-github-delivery",
        "x-github-hook-id",
    }


@pytest.mark.parametrize("name", ["ping", "ping_of_an_organisation"])
async def test_a_ping_is_answered_and_kept_and_owes_nothing(
    anyone: httpx2.AsyncClient, world: World, name: str
) -> None:
    answer = await post(anyone, own(name).body, event="ping")
    assert answer.status_code == 200
    assert (await stored(world.store, answer)).verdict == "ping"
    assert await owed(world.store) == [] and world.nudged == []


@pytest.mark.parametrize("name", ["create", "delete", "issues", "pull_request", "status"])
async def test_another_event_is_ignored_with_a_reason(
    anyone: httpx2.AsyncClient, world: World, name: str
) -> None:
    answer = await post(anyone, own(name).body, event=name)
    assert answer.status_code == 200
    assert answer.json()["verdict"] == "ignored"
    assert name in answer.json()["reason"]
    assert (await stored(world.store, answer)).verdict == "ignored"
    assert await owed(world.store) == [] and world.nudged == []


async def test_a_push_of_our_own_status_branch_starts_no_fetch(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answer = await post(anyone, own("push_status_branch").body)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "ignored")
    assert await owed(world.store) == []


async def test_a_redelivery_is_answered_with_the_first_verdict(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    first = await post(anyone)
    again = await post(anyone, X_GitHub_Delivery="another-guid")
    assert again.status_code == 200
    assert again.json() == {**first.json(), "duplicate": True}


async def test_a_redelivered_push_nudges_also_when_its_fetch_was_made(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    await post(anyone)
    for row in await world.store.owed("fetch", due=AT):
        await world.store.write(Pay(row.kind, row.key, row.version))
    answer = await post(anyone)
    assert (answer.status_code, answer.json()["duplicate"]) == (200, True)
    assert world.nudged == ["ops", "ops"]
    assert await owed(world.store) == []  # a look, and nothing that is owed over restarts


async def test_a_redelivery_that_starts_nothing_nudges_nobody(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    for _ in range(2):
        await post(anyone, own("ping").body, event="ping")
        await post(anyone, own("push_status_branch").body)
    assert world.nudged == []


async def test_twenty_equal_deliveries_at_once_are_one(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    answers = await asyncio.gather(*(post(anyone) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [202]
    assert len({answer.json()["delivery"] for answer in answers}) == 1


@pytest.mark.parametrize("other", [b"", b"sha256=", b"wrong"])
async def test_a_redelivery_with_a_wrong_signature_learns_nothing(
    anyone: httpx2.AsyncClient, world: World, other: bytes
) -> None:
    await post(anyone)
    answer = await post(anyone, X_Hub_Signature_256=signature(PUSH, other))
    problem(answer, 401)
    assert "accepted" not in answer.text
    assert world.nudged == ["ops"]


async def test_a_missing_signature_is_refused_whatever_the_legacy_one_says(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    import hmac

    legacy = "sha1=" + hmac.new(SECRET, PUSH, "sha1").hexdigest()
    problem(await post(anyone, without="X-Hub-Signature-256", X_Hub_Signature=legacy), 401)
    problem(await post(anyone, X_Hub_Signature_256="sha256="), 401)
    assert await owed(world.store) == []


async def test_an_unknown_repository_is_refused_before_anything_is_read(
    anyone: httpx2.AsyncClient,
) -> None:
    assert "nothere" in problem(await post(anyone, to="nothere"), 404)["detail"]


async def test_a_repository_without_a_secret_refuses_every_hook_and_says_why(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    document = problem(await post(anyone, to="open"), 403)
    assert "no secret is configured" in document["detail"]
    assert "DAGMILL_HOOK_SECRET" in document["remedy"]


async def test_a_hook_of_another_repository_is_refused(
    anyone: httpx2.AsyncClient, world: World
) -> None:
    body = PUSH.replace(b"acme/ops", b"acme/shop")
    document = problem(await post(anyone, body), 403)
    assert document["value"] == "acme/shop"
    assert await owed(world.store) == []


@pytest.mark.parametrize("forge", ["Gitea", "Gogs", "Forgejo", "Gitlab"])
async def test_another_forge_is_not_taken_for_github(
    anyone: httpx2.AsyncClient, world: World, forge: str
) -> None:
    body = PUSH
    sent = headers(body, secret=SECRET) | {f"X-{forge}-Event": "push"}
    answer = await anyone.post("/hooks/ops", content=body, headers=sent)
    assert "not yet supported" in problem(answer, 501)["detail"]
    assert await owed(world.store) == []


async def test_a_request_of_no_forge_is_refused(anyone: httpx2.AsyncClient) -> None:
    problem(await anyone.post("/hooks/ops", json={}), 400)


async def test_a_form_body_is_refused_with_the_setting_to_change(
    anyone: httpx2.AsyncClient,
) -> None:
    answer = await post(anyone, Content_Type="application/x-www-form-urlencoded")
    assert "application/json" in problem(answer, 415)["remedy"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10**5])
async def test_a_signed_body_that_is_no_json_object_is_refused(
    anyone: httpx2.AsyncClient, world: World, body: bytes
) -> None:
    problem(await post(anyone, body), 400)
    assert await owed(world.store) == []


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"repository": null, "sender": null, "ref": null}',
        b'{"repository": 7, "sender": [], "ref": {}, "after": 1e999}',
        b'{"repository": {"full_name": null}, "sender": {"login": 3}}',
        b'{"ref": "refs/heads/\\u0000\\u202e", "after": ""}',
    ],
)
async def test_null_and_missing_members_are_no_error(
    anyone: httpx2.AsyncClient, world: World, body: bytes
) -> None:
    answer = await post(anyone, body)
    assert answer.status_code == 202, answer.text
    assert (await stored(world.store, answer)).size_bytes == len(body)


async def test_a_body_of_declared_size_above_the_limit_is_not_read(
    anyone: httpx2.AsyncClient, doors: Doors, address: tuple[str, int]
) -> None:
    reader, writer = await asyncio.open_connection(*address)
    lines = [
        "POST /hooks/ops HTTP/1.1",
        "Host: x",
        f"Content-Length: {doors.max_hook_bytes + 1}",
        *(f"{k}: {v}" for k, v in headers(b"", secret=SECRET).items()),
        "",
        "",
    ]
    writer.write("\r\n".join(lines).encode())  # and not one byte of the body
    await writer.drain()
    status = await reader.readline()
    writer.close()
    assert b" 413 " in status


async def test_a_chunked_body_above_the_limit_is_cut_off(
    anyone: httpx2.AsyncClient, doors: Doors, world: World
) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent <= doors.max_hook_bytes:
            sent += 65536
            yield b" " * 65536

    sent_headers = headers(b"", secret=SECRET)
    answer = await anyone.post("/hooks/ops", content=endless(), headers=sent_headers)
    problem(answer, 413)


async def test_a_body_of_just_the_limit_is_taken(anyone: httpx2.AsyncClient, doors: Doors) -> None:
    body = b"{" + b" " * (doors.max_hook_bytes - 2) + b"}"
    assert (await post(anyone, body)).status_code == 202
    problem(await post(anyone, body + b" "), 413)


async def test_get_is_not_allowed(anyone: httpx2.AsyncClient) -> None:
    answer = await anyone.get("/hooks/ops")
    assert problem(answer, 405)["value"] == "GET"
    assert "POST" in answer.headers["allow"]


class Broken:
    """The real store, whose disk is full: this cannot be provoked in a test."""

    def __init__(self, store: SqliteStore, error: Exception) -> None:
        self._store = store
        self._error = error

    async def write(self, *writes: Write) -> None:
        raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("error", [StorageError("disk full"), OSError(28, "No space left")])
async def test_a_delivery_that_cannot_be_stored_is_sent_again_later(
    doors: Doors, world: World, error: Exception
) -> None:
    broken: Any = Broken(world.store, error)
    transport = httpx2.ASGITransport(create_app(replace(doors, store=broken)))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        with capture_logs() as lines:
            answer = await post(client)
    assert "disk" not in problem(answer, 503)["detail"]
    assert int(answer.headers["retry-after"]) > 0
    assert world.nudged == []
    causes = [line.get("exc_info") or line.get("problem") for line in lines]
    assert error in causes or str(error) in causes, "the log has the cause"


@pytest.mark.parametrize("sample", samples(), ids=str)
async def test_every_recorded_delivery_is_taken_signed_and_refused_forged(
    world: World, doors: Doors, sample: Sample
) -> None:
    served = replace(doors, repositories={"ops": sample.full_name or "acme/ops"})
    transport = httpx2.ASGITransport(create_app(served))
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        event = sample.event or "unknown"
        forged = signature(sample.body, b"not the secret")
        problem(await post(client, sample.body, event=event, X_Hub_Signature_256=forged), 401)
        assert await owed(world.store) == []
        answer = await post(client, sample.body, event=event)
    is_wanted = sample.event == "push" and sample.name != "push_status_branch"
    assert answer.status_code == (202 if is_wanted else 200), answer.text
    assert await owed(world.store) == (["ops"] if is_wanted else [])


async def test_the_log_has_one_line_for_a_delivery_and_nothing_of_its_body(
    anyone: httpx2.AsyncClient,
) -> None:
    with capture_logs() as lines:
        await post(anyone)
    assert len(lines) == 1
    assert lines[0]["event"] == "request_finished"
    assert (lines[0]["status"], lines[0]["verdict"]) == (202, "accepted")
    text = json.dumps(lines, default=str)
    assert "Größen" not in text and "example.com" not in text
    assert signature(PUSH, SECRET) not in text
