"""`/api/v1` and its door: tokens, hosts, starting, listing, showing and following runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from served_door import AT, COMMIT, TOKEN, World, routes_of
from starlette.applications import Starlette
from structlog.testing import capture_logs

from runner.engine import journal
from runner.engine.events import Ended, Event, Finished, Launched, Settled, Started
from runner.engine.history import History
from storage.mask import Mask
from webhook.app import Doors

OPEN = {"/", "/health", "/ready", "/hooks/{repository}", "/hooks/{repository}/{workflow:path}"}


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["status"] == status
    assert document["title"] and document["detail"]
    return document


async def start(client: httpx2.AsyncClient, **document: object) -> str:
    answer = await client.post("/api/v1/runs", json={"workflow": "etl", **document})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["run"])


async def add(world: World, run: str, *events: Event) -> None:
    """Let these facts happen to a run."""
    history = await History.read(world.store, run)
    await world.store.append(
        run,
        after=len(history.events),
        records=journal.records(run, len(history.events), events),
        head=_head(history, events),
    )


def _head(history: History, events: Sequence[Event]) -> Any:
    after = History(history.run, (*history.events, *events), history.workflow, history.values)
    return journal.head(history.run, after.state())


def launched(step: str, attempt: int = 1) -> Launched:
    return Launched(AT, step, attempt, f"{step}{attempt}", "boot")


def ended(step: str, attempt: int = 1, exit_code: int = 0) -> Ended:
    reason = "" if exit_code == 0 else f"exit code {exit_code}"
    return Ended(AT, step, attempt, f"{step}{attempt}", exit_code, None, reason, retryable=False)


# Who may ask


async def test_every_route_but_the_open_ones_asks_for_the_token(
    app: Starlette, anyone: httpx2.AsyncClient
) -> None:
    closed = [path for path in routes_of(app) if path not in OPEN]
    assert len(closed) >= 7
    for path in closed:
        url = path.replace("{run}", "x")
        for sent in (
            {},
            {"Authorization": "Bearer"},
            {"Authorization": "Bearer wrong"},
            {"Authorization": f"Basic {TOKEN}"},
        ):
            answer = await anyone.get(url, headers=sent)
            assert "Bearer" in answer.headers["www-authenticate"]
            assert TOKEN not in problem(answer, 401)["remedy"]


@pytest.mark.parametrize("token", [TOKEN + "x", TOKEN[:-1], TOKEN.upper(), "\u00e4"])
async def test_a_token_that_is_not_the_token_is_refused(
    anyone: httpx2.AsyncClient, token: str
) -> None:
    sent = {b"Authorization": b"Bearer " + token.encode("latin-1")}
    problem(await anyone.get("/api/v1/version", headers=sent), 401)


async def test_the_token_opens_the_api(person: httpx2.AsyncClient) -> None:
    assert (await person.get("/api/v1/version")).json() == {"version": "1.2.3"}


@pytest.mark.parametrize("path", ["/", "/api/v1/version", "/nothing"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1"]
)
async def test_a_foreign_host_name_is_refused(
    person: httpx2.AsyncClient, path: str, host: str
) -> None:
    document = problem(await person.get(path, headers={"Host": host}), 421)
    assert "127.0.0.1" in document["remedy"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1"])
async def test_a_listed_host_is_served_on_any_port(person: httpx2.AsyncClient, host: str) -> None:
    assert (await person.get("/api/v1/version", headers={"Host": host})).status_code == 200


async def test_probes_are_answered_under_any_name(anyone: httpx2.AsyncClient, world: World) -> None:
    probe = {"Host": "10.1.2.3"}
    assert (await anyone.get("/health", headers=probe)).status_code == 200
    assert (await anyone.get("/ready", headers=probe)).status_code == 503
    world.is_ready = True
    assert (await anyone.get("/ready", headers=probe)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["]
)
async def test_a_foreign_page_may_change_nothing(
    person: httpx2.AsyncClient, world: World, origin: str
) -> None:
    answer = await person.post("/api/v1/runs", json={"workflow": "etl"}, headers={"Origin": origin})
    problem(answer, 403)
    assert await world.store.runs() == []


async def test_a_change_must_be_json(person: httpx2.AsyncClient, world: World) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await person.post(
            "/api/v1/runs", content=b'{"workflow":"etl"}', headers={"Content-Type": content_type}
        )
        problem(answer, 415)
    assert await world.store.runs() == []


async def test_every_answer_carries_the_headers_that_browsers_need(
    anyone: httpx2.AsyncClient,
) -> None:
    for path in ("/", "/health", "/nothing", "/api/v1/runs", "/hooks/ops"):
        sent = (await anyone.get(path)).headers
        assert "default-src 'none'" in sent["content-security-policy"]
        assert sent["x-content-type-options"] == "nosniff"
        assert sent["cache-control"] == "no-store"


async def test_the_front_page_says_where_things_are(anyone: httpx2.AsyncClient) -> None:
    answer = await anyone.get("/")
    assert answer.status_code == 200
    assert "1.2.3" in answer.text and "/api/v1/" in answer.text


async def test_what_is_not_there_is_a_problem_document(person: httpx2.AsyncClient) -> None:
    assert problem(await person.get("/api/v1/nothing"), 404)["value"] == "/api/v1/nothing"
    answer = await person.delete("/api/v1/runs", headers={"Content-Type": "application/json"})
    assert "POST" in problem(answer, 405)["remedy"]


async def test_a_failure_inside_leaks_nothing_and_is_in_the_log(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await start(person)
    # A fact that this version cannot read, as a newer version would leave it.
    history = await History.read(world.store, run)
    newer = journal.record(run, 2, Started(AT, "host", "9"))
    await world.store.append(
        run,
        after=1,
        records=[newer._replace(version=99)],
        head=_head(history, [Started(AT, "host", "9")]),
    )
    with capture_logs() as lines:
        answer = await person.get(f"/api/v1/runs/{run}")
    assert "newer" not in problem(answer, 500)["detail"]
    assert "Traceback" not in answer.text
    failed = [line for line in lines if line["event"] == "request_failed"]
    assert failed and failed[0]["exc_info"]


# Starting


async def test_a_started_run_is_at_its_location(person: httpx2.AsyncClient, world: World) -> None:
    answer = await person.post("/api/v1/runs", json={"workflow": "etl", "params": {"DAY": "1.10"}})
    assert answer.status_code == 201
    assert answer.json()["status"] == "queued"
    shown = await person.get(answer.headers["location"])
    assert shown.status_code == 200
    assert shown.json()["params"] == {"DAY": "1.10"}
    assert shown.json()["commit"] == COMMIT


@pytest.mark.parametrize(
    ("params", "seen"),
    [
        (b'{"DAY": 1.10}', "1.10"),
        (b'{"DAY": 12345678901234567890123}', "12345678901234567890123"),
        (b'{"DAY": null}', ""),
        (b'{"DAY": true}', "true"),
        (b'{"DAY": {"a": [0.80, "x", null]}}', '{"a":[0.80,"x",null]}'),
        (b'"DAY=\\"a b\\""', "a b"),
        (b'["DAY=a b"]', "a b"),
        (b'[{"DAY": 3}]', "3"),
        (b'["$(reboot)"]', "$(reboot)"),
        (b"{}", "today"),
        (b"null", "today"),
    ],
)
async def test_params_arrive_as_they_were_written(
    person: httpx2.AsyncClient, params: bytes, seen: str
) -> None:
    body = b'{"workflow": "etl", "params": ' + params + b"}"
    answer = await person.post(
        "/api/v1/runs", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 201, answer.text
    shown = (await person.get(answer.headers["location"])).json()
    assert list(shown["params"].values()) in ([seen], []) and (shown["params"] or seen == "today")


async def test_the_same_idempotency_key_starts_one_run(
    person: httpx2.AsyncClient, world: World
) -> None:
    key = {"Idempotency-Key": "deploy-17"}
    answers = [
        await person.post("/api/v1/runs", json={"workflow": "etl"}, headers=key) for _ in range(3)
    ]
    assert len({answer.json()["run"] for answer in answers}) == 1
    assert len(await world.store.runs()) == 1


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        (b"{", 400, "body"),
        (b"[]", 400, "body"),
        (b"[" * 10**5, 400, "body"),
        (b"{}", 400, "workflow"),
        (b'{"workflow": 5}', 400, "workflow"),
        (b'{"workflow": ""}', 400, "workflow"),
        (b'{"workflow": "etl", "parms": {}}', 400, "parms"),
        (b'{"workflow": "etl", "params": 5}', 400, "params"),
        (b'{"workflow": "etl", "params": {"a-b": 1}}', 400, "params.a-b"),
        (b'{"workflow": "etl", "params": [{"A": 1, "B": 2}]}', 400, "params[0]"),
        (b'{"workflow": "etl", "params": {"DAY": "\\u0000"}}', 400, "params.DAY"),
        (b'{"workflow": "etl", "params": {"DAY": "\\ud800"}}', 400, "params.DAY"),
        (b'{"workflow": "etl", "params": "\\"open"}', 400, "params"),
        (b'{"workflow": "etl", "params": {"DAYS": 1}}', 422, "params"),
        (b'{"workflow": "elt"}', 404, None),
        (b'{"workflow": "etl", "repository": "osp"}', 404, None),
    ],
)
async def test_a_wrong_request_names_the_place(
    person: httpx2.AsyncClient, world: World, body: bytes, status: int, place: str | None
) -> None:
    answer = await person.post(
        "/api/v1/runs", content=body, headers={"Content-Type": "application/json"}
    )
    document = problem(answer, status)
    if place is not None:
        assert document["place"].startswith(place)
    assert await world.store.runs() == []


async def test_a_wrong_workflow_is_told_the_nearest_one(person: httpx2.AsyncClient) -> None:
    answer = await person.post("/api/v1/runs", json={"workflow": "elt"})
    assert '"etl"' in problem(answer, 404)["detail"]


# Lists


async def test_a_list_goes_on_at_its_cursor(person: httpx2.AsyncClient) -> None:
    started = {await start(person) for _ in range(5)}
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await person.get("/api/v1/runs", params=query)).json()
        assert len(page["runs"]) <= 2
        seen += [run["run"] for run in page["runs"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == 5 and set(seen) == started


async def test_a_list_is_filtered(person: httpx2.AsyncClient, world: World) -> None:
    waiting, running = await start(person), await start(person)
    await add(world, running, Started(AT, "host", "1"))
    for query, expected in [
        ({"status": "queued"}, {waiting}),
        ({"status": "running,queued"}, {waiting, running}),
        ({"workflow": "etl", "repository": "ops"}, {waiting, running}),
        ({"workflow": "other"}, set()),
        ({"commit": COMMIT}, {waiting, running}),
        ({"commit": "0" * 40}, set()),
    ]:
        answer = await person.get("/api/v1/runs", params=query)
        assert {run["run"] for run in answer.json()["runs"]} == expected, query


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=-1",
        "limit=ten",
        "limit=" + "9" * 30,
        "cursor=x",
        "cursor=%00",
        "cursor=" + "A" * 40,
        "status=done",
        "statuss=failed",
    ],
)
async def test_a_wrong_query_is_refused_and_never_ignored(
    person: httpx2.AsyncClient, query: str
) -> None:
    assert problem(await person.get(f"/api/v1/runs?{query}"), 400)["value"]


async def test_workflows_have_their_schedule_and_what_is_wrong(person: httpx2.AsyncClient) -> None:
    document = (await person.get("/api/v1/workflows")).json()
    assert document["workflows"] == [
        {
            "repository": "ops",
            "workflow": "etl",
            "name": "Nightly load",
            "path": ".dagu/etl.yaml",
            "commit": COMMIT,
            "schedules": [
                {
                    "schedule": "30 2 * * *",
                    "zone": "UTC",
                    "kind": "start",
                    "next_at": "2026-11-21T02:30:00Z",
                }
            ],
            "stale": False,
            "problem_commit": "",
            "problems": [],
        }
    ]
    problem(await person.get("/api/v1/workflows?repository=osp"), 404)


async def test_repositories_and_triggers_are_listed(person: httpx2.AsyncClient) -> None:
    run = await start(person)
    (repository,) = (await person.get("/api/v1/repositories")).json()["repositories"]
    assert (repository["repository"], repository["applied_commit"]) == ("ops", COMMIT)
    (trigger,) = (await person.get("/api/v1/triggers?workflow=etl")).json()["triggers"]
    assert (trigger["verdict"], trigger["run"]) == ("run", run)


# Logs


async def test_an_unknown_run_or_step_is_named(person: httpx2.AsyncClient) -> None:
    run = await start(person)
    problem(await person.get("/api/v1/runs/nothere"), 404)
    problem(await person.get("/api/v1/runs/nothere/log?step=load"), 404)
    assert "extract" in problem(await person.get(f"/api/v1/runs/{run}/log"), 400)["remedy"]
    document = problem(await person.get(f"/api/v1/runs/{run}/log?step=lode&follow=true"), 404)
    assert '"load"' in document["detail"]
    problem(await person.get(f"/api/v1/runs/{run}/log?step=load"), 404)


async def test_a_log_is_read_from_an_offset(person: httpx2.AsyncClient, world: World) -> None:
    run = await start(person)
    await add(world, run, Started(AT, "host", "1"), launched("extract"), ended("extract"))
    world.log_file(run, "extract", 1).write_bytes(b"0123456789\xff\x00")
    url = f"/api/v1/runs/{run}/log?step=extract"
    answer = await person.get(url)
    assert answer.content == b"0123456789\xff\x00"
    assert answer.headers["content-type"].startswith("text/plain")
    assert (await person.get(url + "&offset=8")).content == b"89\xff\x00"
    assert (await person.get(url + "&offset=99")).content == b""
    assert (await person.get(url + "&follow=true")).content == b"0123456789\xff\x00"
    problem(await person.get(url + "&attempt=2"), 404)
    problem(await person.get(url + "&follow=maybe"), 400)


async def test_a_log_in_two_files_has_stderr_behind_stdout(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await start(person)
    await add(world, run, Started(AT, "host", "1"), launched("extract"), ended("extract"))
    out = world.log_file(run, "extract", 1)
    out.write_bytes(b"value\n")
    out.with_suffix(".err").write_bytes(b"a warning\n")
    url = f"/api/v1/runs/{run}/log?step=extract"
    assert (await person.get(url)).content == b"value\na warning\n"
    assert (await person.get(url + "&offset=8")).content == b"warning\n"


async def test_a_followed_log_grows_until_its_attempt_ended(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await start(person)
    url = f"/api/v1/runs/{run}/log?step=extract&follow=true"
    file = world.log_file(run, "extract", 1)
    async with person.stream("GET", url) as answer:
        pieces = answer.aiter_bytes()
        await add(world, run, Started(AT, "host", "1"), launched("extract"))
        with file.open("ab", buffering=0) as log:
            log.write(b"one\n")
            assert await anext(pieces) == b"one\n"
            log.write(b"two\n")
            assert await anext(pieces) == b"two\n"
            log.write(b"three\n")
        await add(world, run, ended("extract"))
        assert b"".join([piece async for piece in pieces]) == b"three\n"


async def test_a_log_that_grows_shows_no_secret(person: httpx2.AsyncClient, world: World) -> None:
    world.mask = Mask(["hunter22"])
    run = await start(person)
    await add(world, run, Started(AT, "host", "1"), launched("extract"))
    file = world.log_file(run, "extract", 1)
    file.write_bytes(b"password=hun")
    url = f"/api/v1/runs/{run}/log?step=extract"
    async with person.stream("GET", url + "&follow=true") as answer:
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"password="
        with file.open("ab") as log:
            log.write(b"ter22\nbye\n")
        seen = b"password="
        while b"bye" not in seen:
            seen += await anext(pieces)
        # The end of a step replaces its log by a scrubbed one of another length.
        scrubbed = file.with_suffix(".scrubbed")
        scrubbed.write_bytes(b"password=***\nbye\n")
        scrubbed.replace(file)
        await add(world, run, ended("extract"))
        seen += b"".join([piece async for piece in pieces])
    assert seen == b"password=***\nbye\n"
    assert (await person.get(url)).content == b"password=***\nbye\n"


async def test_following_a_step_that_never_starts_ends_with_the_run(
    person: httpx2.AsyncClient, world: World
) -> None:
    run = await start(person)
    async with person.stream("GET", f"/api/v1/runs/{run}/log?step=load&follow=true") as answer:
        assert answer.status_code == 200
        await add(
            world,
            run,
            Started(AT, "host", "1"),
            launched("extract"),
            ended("extract", exit_code=3),
            Settled(AT, "failed", "step extract failed"),
            Finished(AT + timedelta(seconds=1), "failed", "step extract failed"),
        )
        assert await answer.aread() == b""


async def test_a_followed_log_ends_when_the_service_stops(
    person: httpx2.AsyncClient, world: World, doors: Doors
) -> None:
    run = await start(person)
    await add(world, run, Started(AT, "host", "1"), launched("extract"))
    world.log_file(run, "extract", 1).write_bytes(b"so far")
    async with person.stream("GET", f"/api/v1/runs/{run}/log?step=extract&follow=true") as answer:
        pieces = answer.aiter_bytes()
        assert await anext(pieces) == b"so far"
        doors.closing.set()
        assert [piece async for piece in pieces] == []


async def test_a_reader_that_goes_away_leaves_no_listener(
    person: httpx2.AsyncClient, world: World, doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_listening = asyncio.Event()
    listen = world.store.listen

    def watched(topic: str, callback: Any) -> Any:
        stop = listen(topic, callback)

        def stop_and_tell() -> None:
            stop()
            ended_listening.set()

        return stop_and_tell

    monkeypatch.setattr(world.store, "listen", watched)
    run = await start(person)
    await add(world, run, Started(AT, "host", "1"), launched("extract"))
    world.log_file(run, "extract", 1).write_bytes(b"so far")
    async with person.stream("GET", f"/api/v1/runs/{run}/log?step=extract&follow=true") as answer:
        assert await anext(answer.aiter_bytes()) == b"so far"
        await answer.aclose()
    async with asyncio.timeout(10):
        await ended_listening.wait()
