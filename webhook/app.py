"""The HTTP application: which routes there are, and what stands around them.

Knows no setting and no forge; `hooks` and `api` hold the endpoints, `edge` what every request
passes. One rule: raw Starlette routes, each listed here or one call away.
"""

from __future__ import annotations

from html import escape

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from storage.store import StorageError
from webhook import api, hooks, workflow_hooks
from webhook.doors import Doors, ScheduleLine, StartByHand
from webhook.edge import Edge
from webhook.problems import Problem, from_http_exception, from_problem, from_storage_error

__all__ = ["Doors", "ScheduleLine", "StartByHand", "create_app"]


def create_app(doors: Doors) -> Starlette:
    """The app over `doors`. Starts no task and keeps no state of its own."""
    return Starlette(
        routes=[
            *_own_routes(doors),
            *hooks.routes(doors),
            *workflow_hooks.routes(doors),
            *api.routes(doors),
        ],
        middleware=[Middleware(Edge, hosts=doors.hosts, token=doors.token)],
        exception_handlers={
            Problem: from_problem,
            HTTPException: from_http_exception,
            StorageError: from_storage_error,
        },
    )


def _own_routes(doors: Doors) -> list[Route]:
    async def front(request: Request) -> Response:
        return HTMLResponse(_front_page(doors))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def ready(request: Request) -> Response:
        """200 once every repository was reconciled."""
        is_ready = doors.ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    return [Route("/", front), Route("/health", health), Route("/ready", ready)]


def _front_page(doors: Doors) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Dagmill</title></head>'
        f"<body><h1>Dagmill {escape(doors.version)}</h1>"
        "<p>It runs. Pages for people come with a later version; until then:</p><ul>"
        "<li><code>dagmill status</code>, <code>dagmill runs</code>, <code>dagmill show</code>"
        " on the command line</li>"
        "<li>the API at <code>/api/v1/</code>, with the bearer token from the file"
        " <code>token</code> in the data folder</li>"
        "<li>webhooks go to <code>/hooks/</code> and the name of the repository</li>"
        "</ul></body></html>\n"
    )
