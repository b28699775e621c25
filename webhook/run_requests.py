"""The routes of `/api/v1` that ask something of one run: stop, retry, approve.

Translates between HTTP and the requests that `Doors` has; decides nothing. One rule: an answer
that says yes comes after the request is a fact of the run.
"""

from __future__ import annotations

from contextlib import suppress

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runner.control.requests import NotNow, RequestRefused, UnknownRun
from webhook import schemas
from webhook.body import read_capped
from webhook.doors import Doors
from webhook.edge import note
from webhook.problems import Problem

MAX_BODY_BYTES = 64 * 1024
MAX_KEY = 200


async def stop(doors: Doors, request: Request) -> Response:
    """202 while the run is still ending, 200 where nothing is left to end."""
    asked = schemas.read(schemas.StopRun, await _document(request))
    run, by = request.path_params["run"], _name(asked)
    note(request, run=run, kill=asked.kill)
    try:
        row = await doors.requests.stop(run, by=by)
        if asked.kill and row.finished_at is None:
            with suppress(NotNow):  # the first was enough
                row = await doors.requests.stop(run, by=by)
    except RequestRefused as error:
        raise _refusal(error) from error
    return JSONResponse(schemas.run_document(row), 202 if row.finished_at is None else 200)


async def retry(doors: Doors, request: Request) -> Response:
    """201 with the new run; the same Idempotency-Key answers the same run again."""
    asked = schemas.read(schemas.RetryRun, await _document(request))
    if asked.from_step is not None and asked.all_steps:
        raise schemas.BadDocument(
            "all", "from and all exclude each other", remedy=schemas.RetryRun.example
        )
    try:
        row = await doors.requests.retry(
            request.path_params["run"],
            from_step=asked.from_step,
            all_steps=asked.all_steps,
            actor=_name(asked),
            request=idempotency_key(request),
        )
    except RequestRefused as error:
        raise _refusal(error) from error
    note(request, run=row.run, workflow=row.workflow)
    location = {"Location": f"/api/v1/runs/{row.run}"}
    return JSONResponse(schemas.run_document(row), 201, headers=location)


async def approve(doors: Doors, request: Request) -> Response:
    """200 with the run, which goes on or ends."""
    asked = schemas.read(schemas.ApproveRun, await _document(request))
    run = request.path_params["run"]
    note(request, run=run, agreed=asked.agreed)
    try:
        row = await doors.requests.approve(
            run,
            step=asked.step,
            agreed=asked.agreed,
            by=_name(asked),
            comment=asked.comment,
        )
    except RequestRefused as error:
        raise _refusal(error) from error
    return JSONResponse(schemas.run_document(row))


def idempotency_key(request: Request) -> str | None:
    """Raises Problem for one that is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 0 < len(key) <= MAX_KEY:
        raise Problem(
            400,
            f"an Idempotency-Key has 1 to {MAX_KEY} characters",
            place="header Idempotency-Key",
            value=key,
        )
    return key


async def _document(request: Request) -> object:
    """What was sent; nothing counts as an empty object."""
    body = await read_capped(request, MAX_BODY_BYTES)
    return schemas.decode_json(body) if body.strip() else {}


def _name(asked: schemas.RunRequest) -> str:
    # Everyone who has the token may state any name, so it stays visible where it came from.
    return f"{asked.by} (api)" if asked.by else "api"


def _refusal(error: RequestRefused) -> Problem:
    match error:
        case UnknownRun():
            return Problem(404, str(error), place="path", remedy="GET /api/v1/runs lists them")
        case NotNow():
            return Problem(409, str(error))
        case _:
            return Problem(422, str(error))
