"""The door as it is served: uvicorn on loopback over the real store, with one workflow known."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx2
import pytest
import uvicorn
from starlette.applications import Starlette

from runner.control import applied, catalog
from runner.control.claiming import Claiming
from runner.control.endpoints import Endpoints
from runner.control.intake import Intake, Source
from runner.control.requests import Requests
from runner.engine.engine import Engine
from storage.mask import Mask
from storage.records import EntryRow, PutEntry, PutRepository, RaiseApplied, RepositoryRow
from storage.sqlite import SqliteStore, open_store
from webhook.app import Doors, create_app

AT = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
TOKEN = "a-token-for-tests"
SECRET = b"It's a Secret to Everybody"
COMMIT = "c0" * 20

ETL = """\
name: Nightly load
schedule: "30 2 * * *"
params:
  - DAY: today
steps:
  - name: extract
    command: echo $DAY
  - name: load
    command: echo done
    depends: extract
"""


@dataclass
class Line:
    """A live schedule, as the ticker gives it."""

    repository: str = "ops"
    workflow: str = "etl"
    name: str = "Nightly load"
    schedule: str = "30 2 * * *"
    zone: str = "UTC"
    kind: str = "start"
    next_at: datetime | None = datetime(2026, 11, 21, 2, 30, tzinfo=UTC)


@dataclass
class World:
    """What the app stands on, and what it did to it."""

    store: SqliteStore
    logs: Path
    nudged: list[str] = field(default_factory=list)
    is_ready: bool = False
    mask: Mask = field(default_factory=Mask)

    def log_file(self, run: str, step: str, attempt: int, item: int | None = None) -> Path:
        of = "" if item is None else f"-{item}"
        return self.logs / f"{run}-{step}{of}-{attempt}.log"

    async def log_paths(
        self, run: str, step: str, attempt: int | None, item: int | None
    ) -> tuple[Path, ...]:
        out = self.log_file(run, step, attempt or 1, item)
        return out, out.with_suffix(".err")


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = open_store(tmp_path / "data")
    yield opened
    await opened.close()


@pytest.fixture
async def world(store: SqliteStore, tmp_path: Path) -> World:
    logs = tmp_path / "logs"
    logs.mkdir()
    return World(store, logs)


@pytest.fixture
async def in_force(store: SqliteStore) -> applied.Applied:
    """`etl.yaml`, reconciled at COMMIT."""
    entry = catalog.read(ETL.encode(), path=".dagu/etl.yaml", blob="b10b", folder=".dagu")
    before = applied.Applied("ops", "refs/heads/main")
    after = applied.take_effect(before, catalog.build(COMMIT, [entry]), at=AT)
    await store.write(
        PutRepository(RepositoryRow("ops", "https://github.com/acme/ops.git", after.ref)),
        RaiseApplied("ops", 1, COMMIT, AT),
        PutEntry(_entry_row(entry)),
        *applied.writes(before, after),
    )
    return after


def _entry_row(entry: catalog.Entry) -> EntryRow:
    return EntryRow(entry.blob, "", entry.path, catalog.LOADER, catalog.to_json(entry))


@pytest.fixture
def doors(world: World, in_force: applied.Applied) -> Doors:
    async def read_blob(blob: str) -> bytes:
        return ETL.encode()

    async def pin(commit: str) -> None:
        assert commit == COMMIT

    intake = Intake(
        world.store,
        {"ops": Source(read_blob=read_blob, pin=pin, applied=lambda: in_force)},
        clock=lambda: AT,
        queued=lambda repository, workflow: None,
        claiming=Claiming(queues={}),
    )
    engine = Engine(
        store=world.store,
        runs=world.logs,
        workspaces=world.logs,
        clock=lambda: AT,
        inherited={},
        mask=Mask(),
        zone="UTC",
    )
    requests = Requests(
        world.store,
        record=engine.request,  # no run is supervised, so it writes each request itself
        clock=lambda: AT,
        claiming=Claiming(queues={}),
        queued=lambda repository, workflow: None,
        pin=pin,
    )
    endpoints = Endpoints(world.store, intake, applied={"ops": lambda: in_force}, clock=lambda: AT)
    return Doors(
        store=world.store,
        clock=lambda: AT,
        token=TOKEN,
        hook_secrets={"ops": (SECRET,), "open": ()},
        repositories={"ops": "https://github.com/acme/ops.git", "open": "/srv/git/open.git"},
        nudge=world.nudged.append,
        start=intake.start_by_hand,
        endpoint=endpoints.start,
        requests=requests,
        log_paths=world.log_paths,
        schedules=lambda: [Line()],
        hosts=("127.0.0.1", "localhost"),
        version="1.2.3",
        ready=lambda: world.is_ready,
        mask=lambda run: world.mask,
    )


@pytest.fixture
def app(doors: Doors) -> Starlette:
    return create_app(doors)


@pytest.fixture
async def address(app: Starlette, doors: Doors) -> AsyncIterator[tuple[str, int]]:
    """(host, port) of the served app."""
    # The socket listens before the server runs, so a request can wait but not be refused.
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, http="httptools", ws="none", lifespan="off", log_config=None)
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(sockets=[listening]))
        yield listening.getsockname()
        doors.closing.set()
        server.should_exit = True
    listening.close()


@pytest.fixture
async def anyone(address: tuple[str, int]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client without a token."""
    # Loading certificates, for plain HTTP, would take longer than the tests.
    plain = httpx2.AsyncHTTPTransport(verify=False, trust_env=False)
    async with httpx2.AsyncClient(
        base_url=f"http://{address[0]}:{address[1]}", transport=plain, timeout=20
    ) as client:
        yield client


@pytest.fixture
async def person(anyone: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """A client with the token."""
    anyone.headers["Authorization"] = f"Bearer {TOKEN}"
    return anyone


def routes_of(app: Starlette) -> Sequence[str]:
    return [route.path for route in app.routes]  # type: ignore[attr-defined]
