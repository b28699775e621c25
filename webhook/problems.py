"""Errors as answers: RFC 9457 problem documents that name the place, the value and the remedy.

Knows how an error looks on the wire; what is wrong is decided where `Problem` is raised. One
rule: `value` is never a secret, and a 500 says nothing about what happened inside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from storage.store import Refused, StorageError

NOTES = "dagmill.notes"  # key of the scope: values for the request's one line in the log
MEDIA_TYPE = "application/problem+json"

log = structlog.get_logger("webhook.problems")


class Problem(Exception):
    """An answer with an error status.

    `detail` is one sentence for people; `place` says where in the request (`header Host`,
    `params.DATE`), `value` what stood there, `remedy` what to do.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        place: str = "",
        value: str = "",
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.place = place
        self.value = value[:200]
        self.remedy = remedy
        self.headers = dict(headers or {})

    def response(self) -> Response:
        document: dict[str, str | int] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        for member in ("place", "value", "remedy"):
            if text := getattr(self, member):
                document[member] = text
        # ASCII, because a value may hold lone surrogates, which have no UTF-8.
        body = json.dumps(document, ensure_ascii=True).encode("ascii")
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


async def from_problem(request: Request, error: Exception) -> Response:
    """Starlette's handler for `Problem`."""
    assert isinstance(error, Problem)  # noqa: S101 — registered for this class only
    request.scope.setdefault(NOTES, {})["refused"] = error.detail
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        # The answer says nothing of the cause, so the log must.
        cause = error.__cause__
        if isinstance(cause, StorageError):
            log.error("request_refused", path=request.url.path, problem=str(cause))
        else:
            log.error("request_refused", path=request.url.path, exc_info=cause)
    return error.response()


async def from_storage_error(request: Request, error: Exception) -> Response:
    """A disk or database that fails is no mistake of the request, which may succeed later."""
    if isinstance(error, Refused):
        raise error
    problem = Problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the service cannot read or write what it keeps just now",
        remedy="the service's log says why; send the request again later",
        headers={"Retry-After": "60"},
    )
    problem.__cause__ = error
    return await from_problem(request, problem)


async def from_http_exception(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in our form."""
    assert isinstance(error, HTTPException)  # noqa: S101 — registered for this class only
    path = request.url.path
    match error.status_code:
        case 404:
            problem = Problem(
                404, f"there is nothing at {path}", place="path", value=path, remedy="see /"
            )
        case 405:
            allowed = (error.headers or {}).get("Allow", "")
            problem = Problem(
                405,
                f"{path} does not take {request.method}",
                place="method",
                value=request.method,
                remedy=f"use one of: {allowed}" if allowed else "",
                headers=error.headers,
            )
        case status:
            problem = Problem(status, error.detail, headers=error.headers)
    return problem.response()


def internal() -> Problem:
    """The answer to what nobody foresaw; the traceback is in the service's log."""
    return Problem(
        500,
        "the service failed to answer this request",
        remedy="the service's log has the traceback; the request may be sent again",
    )
