"""`POST /hooks/{repo}/{workflow-id}`: somebody's program starts a run of a workflow.

Authenticates like the repository's own hooks, by signature or by the secret itself, and answers
once the run is stored. Leaves which workflows listen, and what they take out of the body, to
`Doors.endpoint`. One rule: nothing is told about a workflow to who has not shown the secret.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runner.control import intake
from runner.control.endpoints import BadBody
from storage.records import DeliveryRow, RunRow
from storage.store import StorageError
from webhook.body import read_capped
from webhook.doors import Doors
from webhook.edge import note
from webhook.hooks import (
    ACCEPTED,
    STORED_WITHIN_S,
    check_content_type,
    secrets_of,
    unauthenticated,
)
from webhook.problems import Problem
from webhook.providers.base import BadSignature, clip
from webhook.providers.github import GitHub

MAX_BODY_BYTES = 1024 * 1024  # it becomes a value of the run
PROVIDER = "webhook"
_SIGNED = GitHub()  # its signature is the one that senders of all kinds have
_REQUEST_HEADERS = ("webhook-id", "idempotency-key")
_LONGEST_REQUEST = 200
_KEPT_HEADERS = ("user-agent", "content-type", *_REQUEST_HEADERS)


def routes(doors: Doors) -> list[Route]:
    async def receive(request: Request) -> Response:
        return await _receive(doors, request)

    return [Route("/hooks/{repository}/{workflow:path}", receive, methods=["POST"])]


async def _receive(doors: Doors, request: Request) -> Response:
    repository, workflow = request.path_params["repository"], request.path_params["workflow"]
    secrets = secrets_of(doors, repository)
    shown = _check_headers(request.headers, secrets=secrets)
    check_content_type(request.headers)
    asked = _asked(request.headers)
    body = await read_capped(request, min(MAX_BODY_BYTES, doors.max_hook_bytes))
    if not shown:
        try:
            _SIGNED.authenticate(request.headers, body, secrets=secrets)
        except BadSignature as error:
            raise unauthenticated(error) from error
    delivery = _delivery(doors, repository, workflow=workflow, body=body, headers=request.headers)
    row, is_new = await _start(doors, delivery, workflow, body=body, asked=asked)
    note(
        request,
        repository=repository,
        provider=PROVIDER,
        workflow=row.workflow,
        run=row.run,
        verdict=ACCEPTED,
        size_bytes=len(body),
    )
    return _answer(row, delivery, is_new=is_new)


def _check_headers(headers: Headers, *, secrets: Sequence[bytes]) -> bool:
    """Whether the request shows the secret itself; else it must be signed. Problem 401."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.casefold() == "bearer":
        # Digests have one length, so that the comparison tells nothing about the secret's.
        sent = hashlib.sha256(given.strip().encode("utf-8", "surrogateescape")).digest()
        fits = [hmac.compare_digest(sent, hashlib.sha256(secret).digest()) for secret in secrets]
        if not any(fits):
            raise _refused("the bearer token is not the secret of the repository's hooks")
        return True
    if not headers.get("x-hub-signature-256"):
        raise _refused("the request neither shows nor is signed with the secret of the hooks")
    try:
        _SIGNED.check_headers(headers)
    except BadSignature as error:
        raise unauthenticated(error) from error
    return False


def _refused(detail: str) -> Problem:
    return Problem(
        401,
        detail,
        place="header Authorization",
        remedy="send `Authorization: Bearer …` with DAGMILL_HOOK_SECRET, or X-Hub-Signature-256 "
        "with sha256= and the HMAC-SHA256 of the body",
        headers={"WWW-Authenticate": 'Bearer realm="dagmill hooks", X-Hub-Signature-256'},
    )


def _asked(headers: Headers) -> str | None:
    """The sender's id of the request: what has it is started once."""
    for name in _REQUEST_HEADERS:
        given = headers.get(name)
        if given is not None:
            if not 0 < len(given) <= _LONGEST_REQUEST:
                raise Problem(
                    400,
                    f"the id of a request has 1 to {_LONGEST_REQUEST} characters",
                    place=f"header {name}",
                    value=given,
                )
            return given
    return None


def _delivery(
    doors: Doors, repository: str, *, workflow: str, body: bytes, headers: Headers
) -> DeliveryRow:
    kept = {name: clip(headers[name], 200) for name in _KEPT_HEADERS if name in headers}
    return DeliveryRow(
        delivery=uuid.uuid4().hex,
        repository=repository,
        provider=PROVIDER,
        event=clip(workflow),
        received_at=doors.clock(),
        digest=hashlib.sha256(body).hexdigest(),
        verdict=ACCEPTED,
        headers=json.dumps(kept, separators=(",", ":")),
        size_bytes=len(body),
    )


async def _start(
    doors: Doors, delivery: DeliveryRow, workflow: str, *, body: bytes, asked: str | None
) -> tuple[RunRow, bool]:
    try:
        async with asyncio.timeout(STORED_WITHIN_S):
            return await doors.endpoint(delivery, workflow, body=body, request=asked)
    except intake.NotStarted as error:
        raise _not_started(error) from error
    except TimeoutError:
        late = f"not stored within {STORED_WITHIN_S:g} s; is the database held by others?"
        raise _unavailable() from StorageError(late)
    except StorageError as error:
        raise _unavailable() from error


def _not_started(error: intake.NotStarted) -> Problem:
    match error:
        case intake.UnknownWorkflow():
            return Problem(404, str(error), place="path", remedy="`dagmill status` lists them")
        case BadBody():
            return Problem(400, str(error), place="body", remedy="send one JSON document")
        case intake.UnfitParams():
            return Problem(
                422, str(error), place="body", remedy="see `on: webhook` of the workflow"
            )
        case intake.QueueFull():
            return Problem(429, str(error), headers={"Retry-After": "60"})
        case _:
            return Problem(409, str(error))


def _unavailable() -> Problem:
    return Problem(
        503,
        "the run could not be stored",
        remedy="send it again later, with the same webhook-id or Idempotency-Key",
        headers={"Retry-After": "60"},
    )


def _answer(row: RunRow, delivery: DeliveryRow, *, is_new: bool) -> Response:
    document: dict[str, str | bool] = {"run": row.run, "workflow": row.workflow}
    if is_new:
        document["delivery"] = delivery.delivery
    else:
        document["duplicate"] = True
    where = {"Location": f"/api/v1/runs/{row.run}"}
    return JSONResponse(document, 202 if is_new else 200, headers=where)
