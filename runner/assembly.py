"""Settings → objects → one TaskGroup; start, drain, stop. Decides nothing about runs.

The only place where the parts of the service meet, and the only one that reads the model of the
settings: everything else is given plain values. Its rule: what cannot begin is refused before
anything is changed, and nothing that a step could read holds a credential once one may run.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import structlog

from runner import orphans, privacy
from runner.control import environment, local
from runner.control.admission import Admission
from runner.control.applied import Applied
from runner.control.claiming import Claiming
from runner.control.endpoints import Endpoints
from runner.control.firing import Firing
from runner.control.followers import KIND, Followers
from runner.control.intake import Intake, Source
from runner.control.janitor import Janitor
from runner.control.mirror_library import MirrorLibrary
from runner.control.publisher import Publisher, Site
from runner.control.reconciler import Reconciled, Reconciler
from runner.control.reporter import Reporter
from runner.control.requests import RequestRefused, Requests
from runner.control.ticker import Ticker
from runner.engine.engine import Engine
from runner.engine.journal import ACTIVE
from runner.engine.log_files import LogFiles
from runner.engine.secret_values import NO_ACCESS, SecretAccess
from runner.engine.state import RunStatus
from runner.listening import Server, StartRefused, Stop, bind, stop_signals, token, url, web_config
from runner.settings import Settings
from storage import tree
from storage.mask import Mask
from storage.mirror import AccessDenied, Credential, GitError, Mirror, Unreachable, configure_git
from storage.records import Owe, RunRow, Write
from storage.remote import parse_address, url_secrets
from storage.sqlite import SqliteStore, open_store
from storage.store import StorageError
from webhook.app import Doors, create_app

CONNECT_TIMEOUT_S = 15
IO_TIMEOUT_S = 60
INSIST_S = 10  # for so long a second Ctrl-C can end what runs, which is else left alone
TAKE_UP_S = 5
TAKE_UP_LOOK_S = 0.05
MOST_RUNS = 1000  # that are counted at a stop
LONGEST_SUMMARY_DELAY_S = 600
CLEAN_QUIET_S = 0.5  # final runs are cleared up after together
CLEAN_GAP_S = 5
CLEAN_RETRY_S = 6 * 3600  # what another user owns stays until a person sees to it
FLUSH_S = 10  # what is owed at a stop is published for so long
LARGEST_FILE = 1024 * 1024
THREADS = 32

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Started:
    """Where the service is to be found."""

    url: str
    hook_url: str
    hooks_on: bool
    repository: str
    shown_url: str
    data: Path
    token_file: Path


@dataclass(frozen=True, slots=True)
class Leaving:
    """What is under way at a stop: `runs` that are not over, be they only prepared, waiting for a
    retry or clearing up, and `steps` whose processes are alive. After `wait_s` the steps are ended
    (`ends`) or left alone; until then another Ctrl-C ends the runs."""

    runs: int
    steps: int
    wait_s: float
    ends: bool


class Announcer(Protocol):
    """Tells the person at the terminal. Called in the loop, must not block."""

    def listening(self, started: Started) -> None: ...

    def applied(self, reconciled: Reconciled) -> None: ...

    def hindered(self, problem: str) -> None:
        """The repository could not be fetched, or what it holds does not take effect."""

    def stopping(self, leaving: Leaving) -> None:
        """It was asked to stop, and starts nothing more."""


def now() -> datetime:
    return datetime.now(UTC)


async def serve(
    settings: Settings, *, environ: MutableMapping[str, str], announcer: Announcer
) -> int:
    """Serve until TERM or Ctrl-C; the exit code. Raises StartRefused.

    `environ` is the process's environment: the service's credentials are taken out of it.
    """
    sys.setswitchinterval(0.0005)  # else a busy loop delays the store's thread by up to 38 s
    # Python's own number is that of the cores and 4: a silent git server and a few huge logs
    # would take them all, and nothing could be checked out.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS))
    privacy.hide(environ, words=url_secrets(settings.repository))
    with contextlib.closing(bind(settings.host, settings.port)) as listener:
        try:
            store = open_store(settings.data, durability=settings.durability)
        except StorageError as error:
            raise StartRefused(str(error)) from error
        try:
            service = _assemble(
                settings, store, environ=environ, listener=listener, announcer=announcer
            )
            stop = stop_signals()
            if await _begun(service, stop):
                await service.serve(listener, stop)
            return stop.code
        finally:
            await store.close()


async def _begun(service: _Service, stop: Stop) -> bool:
    """False: it was asked to stop before its first look came back. Raises StartRefused."""
    begin, asked = asyncio.ensure_future(service.begin()), asyncio.ensure_future(stop.asked.wait())
    try:
        await asyncio.wait([begin, asked], return_when=asyncio.FIRST_COMPLETED)
        if begin.done():
            begin.result()
        return begin.done()
    except StorageError as error:  # a full disk, say: no traceback for that
        raise StartRefused(str(error)) from error
    finally:
        begin.cancel()
        asked.cancel()
        await asyncio.gather(begin, asked, return_exceptions=True)


def _assemble(
    settings: Settings,
    store: SqliteStore,
    *,
    environ: Mapping[str, str],
    listener: socket.socket,
    announcer: Announcer,
) -> _Service:
    try:
        configure_git(
            settings.data / "git", connect_timeout_s=CONNECT_TIMEOUT_S, io_timeout_s=IO_TIMEOUT_S
        )
        mirror = Mirror(
            settings.data / "repositories" / f"{settings.repository_name}.git",
            url=settings.repository,
            credentials=_credentials(settings),
        )
    except GitError as error:
        raise StartRefused(str(error)) from error
    except OSError as error:
        raise StartRefused(
            f"data folder {settings.data}: {error.strerror} ({error.filename}); "
            "see to its room, owner and mode"
        ) from error
    passed = environment.passed(environ, settings.pass_env)
    return _Service(
        settings,
        store,
        mirror,
        inherited=environment.inherited(environ, settings.pass_env),
        secrets=_secret_access(settings, environ),
        mask=Mask([*_secrets(settings), *passed.values()]),
        url=url(settings.host, listener),
        announcer=announcer,
    )


def _secrets(settings: Settings) -> list[str]:
    """The service's own credentials, which nothing may show."""
    given = (settings.hook_secret, settings.git_token)
    values = [value.get_secret_value() for value in given if value is not None]
    return [*values, *url_secrets(settings.repository)]


def _secret_access(settings: Settings, environ: Mapping[str, str]) -> SecretAccess:
    """What workflows may read as secrets."""
    theirs = {k: v for k, v in environ.items() if not k.startswith("DAGMILL_")}
    return SecretAccess(theirs, settings.secret_env, settings.secrets_dir or NO_ACCESS.folder)


def _credentials(settings: Settings) -> Callable[[str], Credential | None] | None:
    token = settings.git_token.get_secret_value() if settings.git_token else None
    if token is None and settings.ssh_key_file is None:
        return None
    credential = Credential(
        username=settings.git_username,
        password=token,
        ssh_key_file=settings.ssh_key_file,
    )
    return lambda url: credential


def _owes(row: RunRow, *, keep_failed: timedelta) -> tuple[Write, ...]:
    """What a final run owes."""
    if not row.repository or row.finished_at is None or row.parent:
        return ()  # a child run is told and cleared up with its root
    kept = keep_failed if row.status == RunStatus.FAILED else timedelta(0)
    owed = [
        Owe("summary", row.run, row.finished_at),
        Owe("cleanup", row.run, row.finished_at + kept),
    ]
    if row.keep_days:
        owed.append(Owe("expire", row.run, row.finished_at + timedelta(days=row.keep_days)))
    return tuple(owed)


class _Service:
    """The objects of one service, and the order in which they start and stop."""

    def __init__(
        self,
        settings: Settings,
        store: SqliteStore,
        mirror: Mirror,
        *,
        inherited: Mapping[str, str],
        secrets: SecretAccess,
        mask: Mask,
        url: str,
        announcer: Announcer,
    ) -> None:
        self._settings = settings
        self._store = store
        self._mirror = mirror
        self._url = url
        self._announcer = announcer
        self._name = settings.repository_name
        self._token_file = settings.data / "token"
        self._token = ""
        library = MirrorLibrary(store, {self._name: mirror}, folder=settings.path)
        self._claiming = Claiming(queues=settings.queues, zone=settings.timezone, library=library)
        self._engine = Engine(
            store=store,
            runs=settings.data / "runs",
            workspaces=settings.data / "workspaces",
            clock=now,
            inherited=inherited,
            mask=mask,
            zone=settings.timezone,
            url=url,
            owes=self._owes,
            checkout=self._checkout,
            add_git=self._add_git,
            library=library,
            secrets=secrets,
            max_steps=settings.max_steps,
        )
        self._admission = Admission(
            store,
            supervise=self._engine.supervise,
            clock=now,
            runner=version("dagmill"),
            host=socket.gethostname(),
            free_bytes=lambda: shutil.disk_usage(settings.data).free,
            min_free_bytes=settings.min_free_disk,
            stop=self._ask_to_stop,
            queues=settings.queues,
            labels=settings.labels,
            owes=self._owes,
        )
        source = Source(self._read_blob, self._pin, self._applied)
        self._intake = Intake(
            store,
            {self._name: source},
            clock=now,
            queued=self._admission.queued,
            claiming=self._claiming,
        )
        in_force = {self._name: self._applied}
        self._followers = Followers(store, self._intake, applied=in_force, clock=now)
        self._endpoints = Endpoints(store, self._intake, applied=in_force, clock=now)
        self._starter = Reporter(store, KIND, pay=self._followers, clock=now)
        self._requests = self._make_requests()
        self._ticker = self._make_ticker()
        self._folder = parse_address(settings.repository).folder
        self._refs = local.refs_folder(self._folder) if self._folder else None
        self._reconciler = self._make_reconciler()
        self._reporter = self._make_reporter()
        self._cleaners = self._make_cleaners()

    def _owes(self, row: RunRow) -> tuple[Write, ...]:
        keep_failed = timedelta(seconds=self._settings.keep_failed_s)
        return (*_owes(row, keep_failed=keep_failed), *self._followers.owes(row))

    def _applied(self) -> Applied:
        return self._reconciler.applied()

    def _make_requests(self) -> Requests:
        return Requests(
            self._store,
            record=self._engine.request,
            clock=now,
            claiming=self._claiming,
            queued=self._admission.queued,
            pin=self._pin,
            owes=self._owes,
        )

    def _make_ticker(self) -> Ticker:
        return Ticker(
            self._store,
            Firing(self._store, self._intake, stop=self._ask_to_stop, owes=self._owes),
            clock=now,
            zone=self._settings.timezone,
            grace_s=self._settings.tick_grace_s,
        )

    def _make_reconciler(self) -> Reconciler:
        settings = self._settings
        poll_s = settings.poll_s
        if self._folder is not None and self._refs is None:
            poll_s = min(poll_s, local.UNWATCHED_LOOK_S)
        return Reconciler(
            self._store,
            self._mirror,
            repository=self._name,
            url=self._mirror.url,
            branch=settings.branch,
            watch=settings.watch,
            folder=settings.path,
            poll_s=poll_s,
            intake=self._intake,
            ticker=self._ticker,
            clock=now,
            announce=self._announcer.applied,
            warn=self._announcer.hindered,
        )

    def _make_reporter(self) -> Reporter:
        site = Site(self._mirror, self._reconciler.applied, self._ticker.next_times)
        return Reporter(
            self._store,
            "summary",
            pay=Publisher(self._store, {self._name: site}, clock=now),
            clock=now,
            quiet_s=self._settings.summary_quiet_s,
            gap_s=self._settings.summary_gap_s,
            longest_delay_s=LONGEST_SUMMARY_DELAY_S,
        )

    def _make_cleaners(self) -> tuple[Reporter, ...]:
        janitor = Janitor(
            self._store,
            runs=self._settings.data / "runs",
            workspaces=self._settings.data / "workspaces",
            mirrors={self._name: self._mirror},
        )
        return tuple(
            Reporter(
                self._store,
                kind,
                pay=pay,
                clock=now,
                quiet_s=CLEAN_QUIET_S,
                gap_s=CLEAN_GAP_S,
                longest_retry_s=CLEAN_RETRY_S,
            )
            for kind, pay in (("cleanup", janitor.clean_up), ("expire", janitor.expire))
        )

    async def begin(self) -> None:
        """Take up what an earlier process left; look for the first time. Raises StartRefused."""
        self._token = token(self._token_file)
        await self._admission.restore()
        if await self._reconciler.restore():
            return
        try:
            await self._reconciler.look()
        except Unreachable as error:
            raise StartRefused(f"{error}; check the URL and the network") from error
        except AccessDenied as error:
            raise StartRefused(
                f"{error}; the credential is taken from DAGMILL_GIT_TOKEN (and "
                "DAGMILL_GIT_USERNAME), or DAGMILL_SSH_KEY_FILE"
            ) from error
        except GitError as error:
            raise StartRefused(str(error)) from error

    async def serve(self, listener: socket.socket, stop: Stop) -> None:
        """Run until asked to stop."""
        closing = asyncio.Event()
        server = Server(web_config(create_app(self._doors(closing))), closing=closing)
        async with asyncio.TaskGroup() as group:
            web = group.create_task(server.serve([listener]))
            engine = group.create_task(self._engine.run_forever())
            loops = [group.create_task(loop) for loop in self._loops()]
            await asyncio.sleep(0)  # the engine takes up what waits for it before a stop closes it
            self._announcer.listening(self._started())
            await stop.asked.wait()
            # Nothing starts from here on; what runs goes on.
            self._admission.close()
            self._engine.close()
            for task in loops:
                task.cancel()
            await self._leave(stop)
            closing.set()
            server.should_exit = True
            await web
            engine.cancel()

    def _loops(self) -> Iterator[Coroutine[Any, Any, None]]:
        yield self._admission.run_forever()
        yield self._ticker.run_forever()
        yield self._reconciler.run_forever()
        yield self._reporter.run_forever()
        for cleaner in self._cleaners:
            yield cleaner.run_forever()
        yield self._starter.run_forever()
        if os.getpid() == 1:
            yield orphans.reap_forever()
        if self._refs is not None:
            yield local.watch(self._refs, nudge=self._reconciler.nudge)

    async def _leave(self, stop: Stop) -> None:
        """Leave what runs to the next start, or end it where that was asked for, or where it cannot
        outlive this process; publish what is owed. A second Ctrl-C cuts all waits short."""
        in_container = os.getpid() == 1
        wait_s = self._settings.drain_s if in_container else INSIST_S if stop.by_a_person else 0
        under_way = await self._under_way()
        self._announcer.stopping(
            Leaving(len(under_way), self._engine.running_steps, wait_s, ends=in_container)
        )
        await self._first(stop.insisted.wait(), self._wind_down(stop, ends=in_container))
        if stop.insisted.is_set():
            await self._taken_up()
            await self._engine.end_runs("the service stops", timeout_s=self._settings.drain_s)
        if self._engine.running_steps:
            _log.warning("steps_left_running", steps=self._engine.running_steps)

    async def _wind_down(self, stop: Stop, *, ends: bool) -> None:
        """The waits of a stop, as long as nobody insists."""
        waits = []
        if ends:
            waits.append(self._drain_steps())
        if stop.by_a_person:
            waits.append(self._hear_the_person())
        await asyncio.gather(*waits)
        await self._flush()

    async def _drain_steps(self) -> None:
        if not await self._engine.until_idle(self._settings.drain_s):
            await self._engine.end_steps(timeout_s=self._settings.drain_s)

    async def _hear_the_person(self) -> None:
        """As long as there is a run that a second Ctrl-C could end."""
        await self._taken_up()
        await self._engine.drain(INSIST_S)

    async def _under_way(self) -> frozenset[str]:
        """Runs that were admitted and are not over, whether their supervisors are there yet or
        not."""
        with contextlib.suppress(StorageError):
            rows = await self._store.runs(statuses=ACTIVE, limit=MOST_RUNS)
            return self._engine.supervised | {row.run for row in rows}
        return self._engine.supervised

    async def _taken_up(self) -> None:
        """Wait until the runs of an earlier process can be stopped. One that cannot be read never
        can, so not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TAKE_UP_S):
                # the engine has no event for it
                while await self._under_way() - self._engine.supervised:  # noqa: ASYNC110
                    await asyncio.sleep(TAKE_UP_LOOK_S)

    async def _flush(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_S):
                await self._reporter.pay_due()

    async def _first(self, *waits: Coroutine[Any, Any, object]) -> None:
        """Wait until one of them is done, and give the others up."""
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _doors(self, closing: asyncio.Event) -> Doors:
        settings = self._settings
        secret = settings.hook_secret
        secrets_now = (secret.get_secret_value().encode(),) if secret is not None else ()
        return Doors(
            store=self._store,
            clock=now,
            token=self._token,
            hook_secrets={self._name: secrets_now},
            repositories={self._name: self._mirror.url},
            nudge=lambda repository: self._reconciler.nudge(),
            start=self._intake.start_by_hand,
            endpoint=self._endpoints.start,
            log_paths=LogFiles(self._store, self._settings.data / "runs"),
            schedules=self._ticker.lines,
            hosts=tuple({settings.host, "localhost", "127.0.0.1", "::1", *settings.hosts}),
            version=version("dagmill"),
            ready=lambda: self._reconciler.reconciled,
            closing=closing,
            mask=self._engine.mask_of,
            requests=self._requests,
            why_queued=self._admission.why,
        )

    async def _ask_to_stop(self, run: str, by: str) -> None:
        with contextlib.suppress(RequestRefused):  # it is over
            await self._requests.stop(run, by=by)

    def _started(self) -> Started:
        return Started(
            url=self._url,
            hook_url=f"{self._url}/hooks/{self._name}",
            hooks_on=self._settings.hook_secret is not None,
            repository=self._name,
            shown_url=self._mirror.url,
            data=self._settings.data,
            token_file=self._token_file,
        )

    async def _checkout(self, repository: str, commit: str, folder: Path) -> None:
        await self._pin(commit)
        await asyncio.to_thread(tree.checkout, self._mirror.path, commit, folder)

    async def _add_git(self, repository: str, commit: str, folder: Path) -> None:
        await asyncio.to_thread(tree.add_git, self._mirror.path, commit, folder)

    async def _read_blob(self, blob: str) -> bytes:
        return await asyncio.to_thread(self._mirror.read_blob, blob, limit_bytes=LARGEST_FILE)

    async def _pin(self, commit: str) -> None:
        await asyncio.to_thread(self._mirror.pin, commit)
