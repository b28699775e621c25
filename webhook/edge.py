"""The outermost layer of every request: who may pass, headers for browsers, one line in the log.

Plain ASGI, because Starlette's own base middleware would break streams. Routes know nothing of
it but `note`. One rule: whatever happens inside, the caller gets a whole answer that leaks
nothing, and the log gets the traceback.
"""

from __future__ import annotations

import time
from email.utils import formatdate

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webhook.auth import check_change, check_host, check_token
from webhook.problems import NOTES, Problem, internal

# Asked by machines that know only an address, and answered with nothing worth reading.
_ANY_HOST = ("/health", "/ready")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

log = structlog.get_logger("webhook")


def note(request: Request, **values: object) -> None:
    """Add values to the request's one line in the log. Never a payload, never a secret."""
    request.scope.setdefault(NOTES, {}).update(values)


class Edge:
    """Wraps the routes of the app."""

    def __init__(self, app: ASGIApp, *, hosts: tuple[str, ...], token: str) -> None:
        self._app = app
        self._hosts = hosts
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault(NOTES, {})
        began = time.perf_counter()
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers["Date"] = formatdate(usegmt=True)
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_with_headers)
        except Problem as problem:
            scope[NOTES]["refused"] = problem.detail
            await problem.response()(scope, receive, send_with_headers)
        except Exception:
            if status:
                raise  # half an answer is out; the server must cut the connection
            log.exception("request_failed", method=scope["method"], path=scope["path"])
            await internal().response()(scope, receive, send_with_headers)
        finally:
            if scope["path"] not in _ANY_HOST:
                log.info(
                    "request_finished",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    duration_ms=round((time.perf_counter() - began) * 1000, 1),
                    **scope[NOTES],
                )

    def _check(self, scope: Scope) -> None:
        path = scope["path"]
        # A hook is authenticated by its signature, and comes by whatever name a tunnel has.
        if path.startswith("/hooks/") or path in _ANY_HOST:
            return
        headers = Headers(scope=scope)
        check_host(headers, hosts=self._hosts)
        if path == "/api" or path.startswith("/api/"):
            check_token(headers, token=self._token)
            check_change(scope["method"], headers)
