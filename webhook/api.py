"""The routes of `/api/v1`: start, list and show runs, their logs, and what is scheduled.

Translates between HTTP and the store; decides nothing about runs. `edge` has checked the token
before any of these is called. One rule: an error names the place, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from difflib import get_close_matches

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from runner.control import catalog, intake
from runner.engine import log_files, summary
from runner.engine.history import History, HistoryError
from runner.engine.state import RunStatus
from runner.language import params
from runner.language.model import Param, Step
from storage.records import DefinitionRow, RepositoryRow
from webhook import log_stream, run_requests, schemas
from webhook.body import read_capped
from webhook.doors import Doors, ScheduleLine
from webhook.edge import note
from webhook.problems import Problem

MAX_BODY_BYTES = 1024 * 1024
MAX_LIMIT = 200
_Endpoint = Callable[[Doors, Request], Awaitable[Response]]


def routes(doors: Doors) -> list[Route]:
    def route(path: str, **endpoints: _Endpoint) -> Route:
        async def call(request: Request) -> Response:
            method = "GET" if request.method == "HEAD" else request.method
            try:
                return await endpoints[method](doors, request)
            except schemas.BadDocument as error:
                raise Problem(
                    400, str(error), place=error.place, value=error.value, remedy=error.remedy
                ) from error

        return Route(f"/api/v1/{path}", call, methods=list(endpoints))

    return [
        route("runs", GET=_list_runs, POST=_start_run),
        route("runs/{run}", GET=_show_run),
        route("runs/{run}/log", GET=_log),
        route("runs/{run}/stop", POST=run_requests.stop),
        route("runs/{run}/retry", POST=run_requests.retry),
        route("runs/{run}/approve", POST=run_requests.approve),
        route("workflows", GET=_workflows),
        route("repositories", GET=_repositories),
        route("triggers", GET=_triggers),
        route("version", GET=_version),
    ]


async def _version(doors: Doors, request: Request) -> Response:
    return JSONResponse({"version": doors.version})


async def _start_run(doors: Doors, request: Request) -> Response:
    """201 with the run; the same Idempotency-Key answers the same run again."""
    body = await read_capped(request, MAX_BODY_BYTES)
    asked = schemas.read(schemas.StartRun, schemas.decode_json(body))
    key = run_requests.idempotency_key(request)
    given = _params(asked)
    try:
        row = await doors.start(
            asked.repository, asked.workflow, params=given, actor="api", request=key
        )
    except intake.NotStarted as error:
        raise _refusal(error) from error
    note(request, run=row.run, workflow=row.workflow)
    return JSONResponse(
        schemas.run_document(row), 201, headers={"Location": f"/api/v1/runs/{row.run}"}
    )


def _params(asked: schemas.StartRun) -> tuple[Param, ...]:
    match asked.params:
        case None:
            return ()
        case str() as text:
            try:
                return tuple(params.parse_words(text))
            except params.ParamError as error:
                raise schemas.BadDocument("params", str(error), value=text) from error
        case given:
            return schemas.params_of(given)


def _refusal(error: intake.NotStarted) -> Problem:
    match error:
        case intake.UnknownWorkflow():
            return Problem(
                404, str(error), remedy="`dagmill status` lists them, GET /api/v1/workflows too"
            )
        case intake.UnfitParams():
            return Problem(422, str(error), place="params")
        case intake.QueueFull():
            return Problem(429, str(error), headers={"Retry-After": "60"})
        case _:
            return Problem(409, str(error))


async def _list_runs(doors: Doors, request: Request) -> Response:
    query = _query(
        request, {"workflow", "repository", "status", "commit", "parent", "limit", "cursor"}
    )
    statuses = _statuses(request)
    limit = _number(query, "limit", default=50, least=1, most=MAX_LIMIT)
    cursor = query.get("cursor")
    rows = await doors.store.runs(
        parent=query.get("parent", ""),
        repository=query.get("repository"),
        workflow=query.get("workflow"),
        statuses=statuses or None,
        commit=query.get("commit"),
        before=schemas.read_cursor(cursor) if cursor else None,
        limit=limit + 1,  # one more tells whether there is a next page
    )
    page = rows[:limit]
    following = schemas.cursor_of(page[-1]) if len(rows) > limit else None
    return JSONResponse({"runs": [schemas.run_document(row) for row in page], "next": following})


def _statuses(request: Request) -> tuple[str, ...]:
    given = [s for text in request.query_params.getlist("status") for s in text.split(",") if s]
    for status in given:
        if status not in schemas.RUN_STATUSES:
            raise Problem(
                400,
                f'"{status}" is not the status of a run',
                place="query status",
                value=status,
                remedy="use " + ", ".join(schemas.RUN_STATUSES),
            )
    return tuple(given)


async def _show_run(doors: Doors, request: Request) -> Response:
    """The summary document, also of a run that goes on."""
    history = await _history(doors, request.path_params["run"])
    document = summary.document(history.run, history.state())
    if document["status"] == RunStatus.QUEUED:
        document["reason"] = doors.why_queued(history.run)
    return JSONResponse(document)


async def _history(doors: Doors, run: str) -> History:
    if await doors.store.run(run) is None:
        raise Problem(
            404,
            f'there is no run "{run}"',
            place="path",
            value=run,
            remedy="GET /api/v1/runs lists them",
        )
    try:
        return await History.read(doors.store, run)
    except HistoryError as error:
        raise Problem(500, str(error), remedy="the run's row is still in the list") from error


async def _log(doors: Doors, request: Request) -> Response:
    """The bytes of one attempt's log; with `follow=true` until the attempt is over."""
    query = _query(request, {"step", "item", "attempt", "offset", "follow"})
    run, name = request.path_params["run"], query.get("step", "")
    number = _number(query, "attempt", default=0, least=1, most=10**6) or None
    offset = _number(query, "offset", default=0, least=0, most=2**62)
    follow = query.get("follow", "false")
    if follow not in ("true", "false"):
        raise Problem(400, "follow is true or false", place="query follow", value=follow)
    history = await _history(doors, run)
    step = _step(history, name)
    item = _item(query, step)
    attempt = log_stream.attempt_of(history.events, name, item=item, number=number)
    if follow == "true":
        stream = log_stream.follow(doors, run, step=name, item=item, attempt=number, offset=offset)
    elif not _was_launched(history, name, item=item, attempt=attempt.number):
        of = "" if item is None else f", item {item},"
        raise Problem(
            404,
            f'step "{name}"{of} of run {run} has no such log: that attempt has not started',
            place="query attempt" if number else "query step",
            value=str(number or name),
            remedy="follow=true waits for it",
        )
    else:
        paths = await doors.log_paths(run, name, attempt.number, item)
        stream = log_stream.read(doors, run, paths=paths, offset=offset)
    return StreamingResponse(stream, media_type="text/plain; charset=utf-8")


def _was_launched(history: History, step: str, *, item: int | None, attempt: int | None) -> bool:
    if attempt is None:
        return False
    if log_files.newest_launch(history.events, step, item=item, attempt=attempt) is not None:
        return True
    carried = log_files.carried_result(history.events, step, item=item)
    return carried is not None and carried.attempt == attempt


def _item(query: dict[str, str], step: Step) -> int | None:
    """Which item's log is wanted; None where the step has none."""
    if step.parallel is None and "item" in query:
        raise Problem(
            400,
            f'step "{step.name}" has no items',
            place="query item",
            value=query["item"],
            remedy="leave item out",
        )
    if step.parallel is None:
        return None
    if "item" not in query:
        raise Problem(
            400,
            f'step "{step.name}" runs once for each item of a list; say which one is meant',
            place="query item",
            remedy="item=0 is the first",
        )
    return _number(query, "item", default=0, least=0, most=10**6)


def _step(history: History, name: str) -> Step:
    steps = (*history.workflow.steps, *history.workflow.handlers)
    for step in steps:
        if step.name == name:
            return step
    raise _no_step(history.run, name, known=[step.name for step in steps])


def _no_step(run: str, step: str, *, known: list[str]) -> Problem:
    near = get_close_matches(step, known, 1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    names = ", ".join(known)
    if not step:
        return Problem(
            400,
            "say which step's log is wanted",
            place="query step",
            remedy=f"use one of: {names}",
        )
    return Problem(
        404,
        f'run {run} has no step "{step}"{hint}',
        place="query step",
        value=step,
        remedy=f"use one of: {names}",
    )


async def _workflows(doors: Doors, request: Request) -> Response:
    query = _query(request, {"repository"})
    documents = [
        document
        for repository in await _chosen(doors, query.get("repository"))
        for document in await _workflow_documents(doors, repository)
    ]
    return JSONResponse({"workflows": documents})


async def _workflow_documents(doors: Doors, repository: RepositoryRow) -> list[dict[str, object]]:
    """The workflows in force, by id."""
    rows = await doors.store.definitions(repository.repository, repository.branch)
    keys = {w: (row.blob, row.base_blob, row.path) for w, row in rows.items()}
    entries = await doors.store.entries(catalog.LOADER, keys.values())
    lines = [x for x in doors.schedules() if x.repository == repository.repository]
    documents = []
    for workflow, row in sorted(rows.items()):
        stored = entries.get(keys[workflow])
        name = (
            catalog.from_json(stored.entry, path=row.path, blob=row.blob).name
            if stored
            else workflow
        )
        own = [x for x in lines if x.workflow == workflow]
        documents.append(_workflow_document(repository, row, name=name, lines=own))
    return documents


def _workflow_document(
    repository: RepositoryRow, row: DefinitionRow, *, name: str, lines: Sequence[ScheduleLine]
) -> dict[str, object]:
    stale = bool(row.problems)
    return {
        "repository": row.repository,
        "workflow": row.workflow,
        "name": name,
        "path": row.path,
        # A run's commit: a stale workflow stays wholly at its last good one.
        "commit": row.commit if stale else repository.applied_commit,
        "schedules": [
            {
                "schedule": x.schedule,
                "zone": x.zone,
                "kind": x.kind,
                "next_at": schemas.instant(x.next_at),
            }
            for x in lines
        ],
        "stale": stale,
        "problem_commit": row.problem_commit,
        "problems": row.problems.splitlines(),
    }


async def _repositories(doors: Doors, request: Request) -> Response:
    _query(request, set())
    rows = await doors.store.repositories()
    return JSONResponse({"repositories": [schemas.repository_document(row) for row in rows]})


async def _triggers(doors: Doors, request: Request) -> Response:
    query = _query(request, {"repository", "workflow", "limit"})
    limit = _number(query, "limit", default=50, least=1, most=MAX_LIMIT)
    rows = [
        trigger
        for repository in await _chosen(doors, query.get("repository"))
        for trigger in await doors.store.triggers(
            repository=repository.repository, workflow=query.get("workflow"), limit=limit
        )
    ]
    rows.sort(key=lambda row: row.at, reverse=True)
    return JSONResponse({"triggers": [schemas.trigger_document(row) for row in rows[:limit]]})


async def _chosen(doors: Doors, name: str | None) -> list[RepositoryRow]:
    """The named repository, or all."""
    rows = await doors.store.repositories()
    if name is None:
        return rows
    chosen = [row for row in rows if row.repository == name]
    if not chosen:
        names = [row.repository for row in rows]
        raise Problem(
            404,
            f'no repository is called "{name}"',
            place="query repository",
            value=name,
            remedy="use one of: " + ", ".join(names),
        )
    return chosen


def _query(request: Request, known: set[str]) -> dict[str, str]:
    """The query parameters; one that the route does not know is an error, never ignored."""
    given = dict(request.query_params)
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            raise Problem(
                400,
                f'this route has no query parameter "{name}"',
                place="query",
                value=name,
                remedy=f'did you mean "{near[0]}"?'
                if near
                else "use only: " + (", ".join(sorted(known)) or "none"),
            )
    return given


def _number(query: dict[str, str], name: str, *, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= number <= most:
        raise Problem(
            400,
            f"{name} is a whole number from {least} to {most}",
            place=f"query {name}",
            value=text,
        )
    return number
