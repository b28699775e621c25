"""`POST /hooks/{repo}`: a forge says that something happened.

Authenticates before it reads, stores the delivery and the fetch that it owes in one
transaction, and only then answers; what really happened is found out by fetching. Providers
know the forges. One rule: the payload is a nudge and never the truth, and it is never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from storage.records import DeliveryRow, Owe, PutDelivery, Write
from storage.store import Duplicate, StorageError
from webhook.body import read_capped
from webhook.doors import Doors
from webhook.edge import note
from webhook.problems import Problem
from webhook.providers import NotYetSupported, UnknownForge, recognise
from webhook.providers.base import (
    BadPayload,
    BadSignature,
    Hook,
    Kind,
    Provider,
    clip,
    same_repository,
)

STORED_WITHIN_S = 8.0  # a forge hangs up after 10; what is stored later all the same is not lost
ACCEPTED, IGNORED, PING = "accepted", "ignored", "ping"
# Kept with a delivery, for people. No header that can hold a secret or a signature.
_KEPT_HEADERS = (
    "user-agent",
    "content-type",
    "x-github-event",
    "x-github-delivery",
    "x-github-hook-id",
)


def routes(doors: Doors) -> list[Route]:
    async def receive(request: Request) -> Response:
        return await _receive(doors, request)

    return [Route("/hooks/{repository}", receive, methods=["POST"])]


async def _receive(doors: Doors, request: Request) -> Response:
    repository = request.path_params["repository"]
    provider, secrets = _admit(doors, repository, headers=request.headers)
    body = await read_capped(request, doors.max_hook_bytes)
    try:
        provider.authenticate(request.headers, body, secrets=secrets)
        hook = provider.read(request.headers, body)
    except BadSignature as error:
        raise unauthenticated(error) from error
    except BadPayload as error:
        raise Problem(400, str(error), place="body", remedy="send the forge's own JSON") from error
    _check_repository(doors, repository, hook=hook)
    row = _delivery(doors, repository, provider=provider, hook=hook, body=body, request=request)
    note(
        request,
        repository=row.repository,
        provider=row.provider,
        event_type=row.event,
        ref=row.ref,
        verdict=row.verdict,
        delivery=row.delivery,
        size_bytes=row.size_bytes,
    )
    return await _store(doors, row)


def _admit(
    doors: Doors, repository: str, *, headers: Headers
) -> tuple[Provider, tuple[bytes, ...]]:
    """Everything that can be refused without reading the body."""
    secrets = secrets_of(doors, repository)
    provider = _provider(headers)
    try:
        provider.check_headers(headers)
    except BadSignature as error:
        raise unauthenticated(error) from error
    check_content_type(headers)
    return provider, secrets


def secrets_of(doors: Doors, repository: str) -> tuple[bytes, ...]:
    """The secrets of the repository's hooks. Problem 404 or 403 where there are none."""
    if repository not in doors.repositories:
        raise Problem(
            404,
            f'no repository is called "{repository}"',
            place="path",
            value=repository,
            remedy="use the name under which the repository is served",
        )
    secrets = tuple(secret for secret in doors.hook_secrets.get(repository, ()) if secret)
    if not secrets:
        raise Problem(
            403,
            f'hooks of "{repository}" are refused because no secret is configured',
            place="configuration",
            remedy="set DAGMILL_HOOK_SECRET for the service, and the same secret at the forge",
        )
    return secrets


def _provider(headers: Headers) -> Provider:
    try:
        return recognise(headers)
    except NotYetSupported as error:
        raise Problem(
            501,
            str(error),
            place="headers",
            value=error.forge,
            remedy="nothing is lost: the repository is polled",
        ) from error
    except UnknownForge as error:
        raise Problem(
            400,
            str(error),
            place="headers",
            remedy="send X-GitHub-Event and X-Hub-Signature-256, as GitHub does",
        ) from error


def check_content_type(headers: Headers) -> None:
    given = headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            415,
            "a delivery must be JSON",
            place="header Content-Type",
            value=given,
            remedy="set the content type to application/json where the hook is sent from",
        )


def unauthenticated(error: BadSignature) -> Problem:
    return Problem(
        401,
        str(error),
        place="header X-Hub-Signature-256",
        remedy="compare the two secrets, then redeliver",
        headers={"WWW-Authenticate": "X-Hub-Signature-256"},
    )


def _check_repository(doors: Doors, repository: str, *, hook: Hook) -> None:
    if hook.repository and not same_repository(doors.repositories[repository], hook.repository):
        raise Problem(
            403,
            f'the delivery is about "{hook.repository}", which is not the repository '
            f'that is served as "{repository}"',
            place="repository.full_name",
            value=hook.repository,
            remedy="set the hook's URL to the name of its own repository",
        )


def _delivery(
    doors: Doors,
    repository: str,
    *,
    provider: Provider,
    hook: Hook,
    body: bytes,
    request: Request,
) -> DeliveryRow:
    verdict, reason = _judge(doors, hook)
    kept = {
        name: clip(request.headers[name], 200) for name in _KEPT_HEADERS if name in request.headers
    }
    return DeliveryRow(
        delivery=uuid.uuid4().hex,
        repository=repository,
        provider=provider.name,
        event=hook.event,
        received_at=doors.clock(),
        digest=hashlib.sha256(body).hexdigest(),
        verdict=verdict,
        reason=reason,
        sender_id=hook.sender_id,
        actor=hook.actor,
        ref=hook.ref,
        after=hook.after,
        headers=json.dumps(kept, separators=(",", ":")),
        size_bytes=len(body),
    )


def _judge(doors: Doors, hook: Hook) -> tuple[str, str]:
    """(verdict, reason) of an authentic delivery."""
    match hook.kind:
        case Kind.PING:
            return PING, ""
        case Kind.PUSH if hook.ref in doors.own_refs:
            return IGNORED, f"{hook.ref} is written by Dagmill itself"
        case Kind.PUSH:
            return ACCEPTED, ""
        case Kind.OTHER:
            return IGNORED, f'event "{hook.event}" starts nothing'


async def _store(doors: Doors, row: DeliveryRow) -> Response:
    writes: list[Write] = [PutDelivery(row)]
    if row.verdict == ACCEPTED:
        writes.append(Owe("fetch", row.repository, row.received_at))
    try:
        async with asyncio.timeout(STORED_WITHIN_S):
            await doors.store.write(*writes)
    except Duplicate:
        return await _answer_duplicate(doors, row)
    except TimeoutError:
        late = f"not stored within {STORED_WITHIN_S:g} s; is the database held by others?"
        raise _unavailable() from StorageError(late)
    except Exception as error:  # whatever the database says, the forge must see 503
        raise _unavailable() from error
    if row.verdict == ACCEPTED:
        doors.nudge(row.repository)
    return _answer(row, duplicate=False)


async def _answer_duplicate(doors: Doors, row: DeliveryRow) -> Response:
    try:
        first = await doors.store.delivery_by_digest(row.repository, row.digest)
    except Exception as error:
        raise _unavailable() from error
    if row.verdict == ACCEPTED:
        # The same bytes may announce another push, or be sent again by hand because the look was
        # in vain. Who replays an old delivery gets no more than that: looks are made one at a
        # time, nudges during one are one, and a failed one is followed by a least wait. Nothing
        # is owed, since a start looks anyway.
        doors.nudge(row.repository)
    return _answer(first or row, duplicate=True)


def _unavailable() -> Problem:
    return Problem(
        503,
        "the delivery could not be stored",
        remedy="redeliver it later; the repository is polled meanwhile",
        headers={"Retry-After": "60"},
    )


def _answer(row: DeliveryRow, *, duplicate: bool) -> Response:
    document: dict[str, str | bool] = {"verdict": row.verdict, "delivery": row.delivery}
    if row.reason:
        document["reason"] = row.reason
    if row.verdict == PING:
        document["pong"] = "the secret fits"
    if duplicate:
        document["duplicate"] = True
    status = 202 if row.verdict == ACCEPTED and not duplicate else 200
    return JSONResponse(document, status)
