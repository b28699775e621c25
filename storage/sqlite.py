"""The store on one machine: SQLite in WAL mode, one thread that writes, a few that read.

Knows the data folder's lock, the schema's version, how writes share a commit and how answers come
back to the event loop; the statements are in `sqlite_writes` and `sqlite_reads`. One rule: a
future is resolved only after the commit that decided it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Concatenate, Final, Literal, ParamSpec, TypeVar

from storage import migrations, sqlite_reads
from storage.records import (
    Append,
    Claim,
    DefinitionRow,
    DeliveryRow,
    EntryRow,
    EventRecord,
    OwedRow,
    RefRow,
    RepositoryRow,
    RunRow,
    TriggerRow,
    Write,
)
from storage.sqlite_writes import count_runs, perform, topics
from storage.store import Refused, StorageError, StoreUnusable

DATABASE: Final = "dagmill.sqlite"
LOCK: Final = "lock"

_READERS: Final = 2  # so that one slow list does not hold up the rest
_LOCK_WAIT_S: Final = 1.0
_LOCK_LOOK_S: Final = 0.02

_Submission = tuple[tuple[Write, ...], "asyncio.Future[None]"]
_Question = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]"]
_P = ParamSpec("_P")
_T = TypeVar("_T")


def open_store(
    folder: Path,
    *,
    durability: Literal["host", "process"] = "host",
    migrations_folder: Path | None = None,
) -> SqliteStore:
    """Open the data folder, making it (0700) and its database where they are missing.

    `durability` "host": a write outlives a loss of power; "process": only the death of this
    process. `migrations_folder` stands in for the package's own in tests. Blocks for some
    milliseconds. Raises StoreUnusable, and has then changed nothing in an existing database, if
    the folder cannot be made or written, another process uses it, its schema is newer than this
    program or of another history, or the file is no database of ours.
    """
    lock = _take(folder)
    try:
        connection = _open_database(
            folder / DATABASE,
            synchronous="FULL" if durability == "host" else "NORMAL",
            known=migrations.load("sqlite", folder=migrations_folder),
        )
    except BaseException:
        os.close(lock)
        raise
    return SqliteStore(folder / DATABASE, connection=connection, lock=lock)


class SqliteStore:
    """`storage.store.Store` on a connection from `open_store`, of one event loop: that of its
    first call. It ends its threads and gives the folder back in `close` only.

    A cancelled `write` may have been done or not.
    """

    def __init__(self, database: Path, *, connection: sqlite3.Connection, lock: int) -> None:
        self._database = database
        self._lock = lock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Future[None] | None = None
        self._pending: list[_Submission] = []  # of this turn of the loop
        self._batches: SimpleQueue[list[_Submission] | None] = SimpleQueue()
        self._questions: SimpleQueue[_Question | None] = SimpleQueue()
        self._listeners: dict[str, list[_Listener]] = {}
        self._readers: list[threading.Thread] = []
        # Daemons: a program that dies without `close` must not hang on them; SQLite does not mind.
        self._writer = threading.Thread(
            target=self._write_batches, args=(connection,), name="store-writer", daemon=True
        )
        self._writer.start()

    # Writing

    async def write(self, *writes: Write) -> None:
        loop = self._attached()
        future: asyncio.Future[None] = loop.create_future()
        if not self._pending:
            loop.call_soon(self._flush)
        self._pending.append((writes, future))
        await future

    async def append(
        self,
        run: str,
        *,
        after: int,
        records: Sequence[EventRecord],
        head: RunRow,
        also: Sequence[Write] = (),
    ) -> None:
        await self.write(Append(run, after, tuple(records), head), *also)

    def _flush(self) -> None:
        """Hand what this turn submitted to the writer, but for what was cancelled since."""
        batch = [submission for submission in self._pending if not submission[1].done()]
        self._pending = []
        if batch:
            self._batches.put(batch)

    def _write_batches(self, connection: sqlite3.Connection) -> None:
        """The writer thread."""
        batch = self._batches.get()
        while batch is not None:
            following: list[_Submission] | None = []
            # What came in while the last commit was on its way shares the next one.
            while following is not None and not self._batches.empty():
                following = self._batches.get()
                batch += following or ()
            outcomes = _commit(connection, [writes for writes, _ in batch], database=self._database)
            self._call_in_loop(self._settle, batch, outcomes)
            batch = None if following is None else self._batches.get()
        for reader in self._readers:
            reader.join()
        connection.close()  # as the last one, so that SQLite clears its log away
        os.close(self._lock)
        self._call_in_loop(self._settle_closed)

    def _settle(self, batch: Sequence[_Submission], outcomes: Sequence[Exception | None]) -> None:
        touched: set[str] = set()
        for (writes, future), error in zip(batch, outcomes, strict=True):
            if error is None and self._listeners:
                for write in writes:
                    touched.update(topics(write))
            if not future.done():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
        for topic in touched:
            for listener in self._listeners.get(topic, ()):
                listener.wake()

    def listen(self, topic: str, callback: Callable[[], None]) -> Callable[[], None]:
        listener = _Listener(callback)
        self._listeners.setdefault(topic, []).append(listener)

        def end() -> None:
            listener.ended = True
            among = self._listeners.get(topic, [])
            if listener in among:
                among.remove(listener)
            if not among:
                self._listeners.pop(topic, None)

        return end

    # Reading

    async def _ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> _T:
        """Put a function of `sqlite_reads` to a reader thread."""
        loop = self._attached()
        future: asyncio.Future[_T] = loop.create_future()
        if len(self._readers) < _READERS:
            reader = threading.Thread(target=self._answer, name="store-reader", daemon=True)
            self._readers.append(reader)
            reader.start()
        self._questions.put((lambda connection: question(connection, *args, **kwargs), future))
        return await future

    def _answer(self) -> None:
        """A reader thread."""
        connection: sqlite3.Connection | None = None
        while (asked := self._questions.get()) is not None:
            question, future = asked
            try:
                if connection is None:
                    connection = _connect(self._database)
                    connection.execute("PRAGMA query_only = 1")
                answer = question(connection)
            except sqlite3.Error as error:
                unread = StorageError(f"cannot read {self._database}: {error}")
                unread.__cause__ = error
                self._call_in_loop(_fail, future, unread)
            except Exception as error:  # noqa: BLE001 (the asker gets it; the thread goes on)
                self._call_in_loop(_fail, future, error)
            else:
                self._call_in_loop(_resolve, future, answer)
        if connection is not None:
            connection.close()

    async def events(self, run: str, *, after: int = 0) -> list[EventRecord]:
        return await self._ask(sqlite_reads.events, run, after)

    async def run(self, run: str) -> RunRow | None:
        return await self._ask(sqlite_reads.run, run)

    async def runs(
        self,
        *,
        repository: str | None = None,
        workflow: str | None = None,
        statuses: Iterable[str] | None = None,
        commit: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
        parent: str = "",
    ) -> list[RunRow]:
        asked = sqlite_reads.RunFilter(
            repository=repository,
            workflow=workflow,
            statuses=None if statuses is None else tuple(dict.fromkeys(statuses)),
            commit=commit,
            before=before,
            parent=parent,
        )
        return await self._ask(sqlite_reads.runs, asked, limit)

    async def queued(self, repository: str, workflow: str, *, limit: int) -> list[RunRow]:
        return await self._ask(sqlite_reads.queued, repository, workflow, limit)

    async def claims(self, run: str) -> tuple[Claim, ...]:
        return await self._ask(sqlite_reads.claims, run)

    async def claimants(self, name: str, *, statuses: Iterable[str]) -> list[RunRow]:
        return await self._ask(sqlite_reads.claimants, name, tuple(statuses))

    async def cancelling(self) -> list[tuple[str, RunRow]]:
        return await self._ask(sqlite_reads.cancelling)

    async def count_runs(self, repository: str, workflow: str, *, statuses: Iterable[str]) -> int:
        return await self._ask(count_runs, repository, workflow, tuple(statuses))

    async def latest_run(self, repository: str, workflow: str) -> RunRow | None:
        return await self._ask(sqlite_reads.latest_run, repository, workflow)

    async def values(self, run: str) -> dict[tuple[str, str], str]:
        return await self._ask(sqlite_reads.values, run)

    async def source(self, sha256: str) -> str | None:
        return await self._ask(sqlite_reads.source, sha256)

    async def trigger(self, key: str) -> TriggerRow | None:
        return await self._ask(sqlite_reads.trigger, key)

    async def triggers(
        self, *, repository: str, workflow: str | None = None, limit: int = 50
    ) -> list[TriggerRow]:
        return await self._ask(sqlite_reads.triggers, repository, workflow, limit)

    async def newest_keys(self, prefixes: Iterable[str]) -> dict[str, str]:
        return await self._ask(sqlite_reads.newest_keys, tuple(prefixes))

    async def commits_in_use(
        self, repository: str, *, but_for: Iterable[str] = ()
    ) -> frozenset[str]:
        return await self._ask(sqlite_reads.commits_in_use, repository, frozenset(but_for))

    async def refs(self, repository: str) -> dict[str, RefRow]:
        return await self._ask(sqlite_reads.refs, repository)

    async def repository(self, name: str) -> RepositoryRow | None:
        return await self._ask(sqlite_reads.repository, name)

    async def repositories(self) -> list[RepositoryRow]:
        return await self._ask(sqlite_reads.repositories)

    async def definitions(self, repository: str, ref: str) -> dict[str, DefinitionRow]:
        return await self._ask(sqlite_reads.definitions, repository, ref)

    async def entries(
        self, loader: int, keys: Iterable[tuple[str, str, str]]
    ) -> dict[tuple[str, str, str], EntryRow]:
        return await self._ask(sqlite_reads.entries, loader, tuple(keys))

    async def delivery(self, delivery: str) -> DeliveryRow | None:
        return await self._ask(sqlite_reads.delivery, delivery)

    async def delivery_by_digest(self, repository: str, digest: str) -> DeliveryRow | None:
        return await self._ask(sqlite_reads.delivery_by_digest, repository, digest)

    async def delivery_for(self, repository: str, ref: str, after: str) -> DeliveryRow | None:
        return await self._ask(sqlite_reads.delivery_for, repository, ref, after)

    async def owed(self, kind: str, *, due: datetime, limit: int = 100) -> list[OwedRow]:
        return await self._ask(sqlite_reads.owed, kind, due, limit)

    async def owed_next(self, kind: str) -> datetime | None:
        return await self._ask(sqlite_reads.owed_next, kind)

    # The end

    async def close(self) -> None:
        if self._closed is None:
            loop = self._attached()
            self._closed = loop.create_future()
            self._flush()
            for _ in self._readers:
                self._questions.put(None)
            self._batches.put(None)
        # Shielded: who is cancelled here must not leave the next caller of `close` with nothing.
        await asyncio.shield(self._closed)

    def _settle_closed(self) -> None:
        if self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _attached(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if self._closed is not None:
            raise StorageError(f"the store {self._database} is closed; open it again")
        return self._loop

    def _call_in_loop(self, callback: Callable[..., None], *args: object) -> None:
        """From a thread. A loop that is gone has nobody left who waits."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(callback, *args)


class _Listener:
    """A callback that is due at most once at a time."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._due = False
        self.ended = False

    def wake(self) -> None:
        """In the loop."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        self._due = False
        if not self.ended:
            self._callback()


def _resolve(future: asyncio.Future[_T], answer: _T) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


# A commit


def _commit(
    connection: sqlite3.Connection, batch: Sequence[tuple[Write, ...]], *, database: Path
) -> list[Exception | None]:
    """Commit a batch of writes in one transaction, each whole or not at all; None: it is stored.

    The first pass goes without savepoints, which cost two statements a write; only if one is
    refused does a second one find out how the others stand without it.
    """
    try:
        try:
            outcomes = _perform_together(connection, batch)
        except Exception as error:  # noqa: BLE001 (told to whom it concerns; the thread goes on)
            _roll_back(connection)
            if len(batch) == 1 or _is_locked(error):  # which took seconds to find out
                return [_told(error, database=database) for _ in batch]
            outcomes = _perform_apart(connection, batch, database=database)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        # All fail, the refused ones too: what they were refused for may be in this very batch.
        _roll_back(connection)
        return [_told(error, database=database) for _ in batch]
    return outcomes


def _perform_together(
    connection: sqlite3.Connection, batch: Sequence[tuple[Write, ...]]
) -> list[Exception | None]:
    connection.execute("BEGIN IMMEDIATE")
    for writes in batch:
        perform(connection, writes)
    return [None] * len(batch)


def _perform_apart(
    connection: sqlite3.Connection, batch: Sequence[tuple[Write, ...]], *, database: Path
) -> list[Exception | None]:
    outcomes: list[Exception | None] = []
    connection.execute("BEGIN IMMEDIATE")
    for writes in batch:
        connection.execute("SAVEPOINT one")
        try:
            perform(connection, writes)
        except Exception as error:
            if not connection.in_transaction:  # SQLite gave all of it up, say on a full disk
                raise
            connection.execute("ROLLBACK TO one")
            outcomes.append(_told(error, database=database))
        else:
            outcomes.append(None)
        connection.execute("RELEASE one")
    return outcomes


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        # Should even this fail, the next BEGIN does too, and says so to its writers.
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def _told(error: Exception, *, database: Path) -> Exception:
    """The error as the protocol knows it. What is none of the database's is a mistake of the
    caller's (a naive datetime, a gap in seq) and stays what it is."""
    if isinstance(error, Refused) or not isinstance(error, sqlite3.Error):
        return error
    told = StorageError(
        f"cannot write {database}: {error}; nothing of this write was stored, "
        f"it can be tried again {_remedy(error)}"
    )
    told.__cause__ = error
    return told


def _remedy(error: sqlite3.Error) -> str:
    """When a write that failed may succeed."""
    match _primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "when no other process holds the database; `fuser` tells which one does"
        case sqlite3.SQLITE_FULL:
            return "when the disk has room again; free some"
        case sqlite3.SQLITE_READONLY:
            return "when its file system can be written again"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "when a copy of the database was restored"
        case _:
            return "when the disk takes writes"


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.Error) and _primary_code(error) == sqlite3.SQLITE_BUSY


def _primary_code(error: sqlite3.Error) -> int | None:
    """SQLite's result code without its details; None for what the module itself raised."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


# Opening


def _take(folder: Path) -> int:
    """Make the folder and lock it; returns the lock's file descriptor."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tighten(folder)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"data folder {folder}: {error.strerror} ({error.filename}); "
            "choose a folder that this user can make and write"
        ) from error
    try:
        _lock(lock)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(lock)
        raise StoreUnusable(
            f"data folder {folder} is already in use by process {holder}; "
            "stop that one, or choose another folder"
        ) from error
    except OSError as error:
        os.close(lock)
        raise StoreUnusable(
            f"data folder {folder} cannot be locked: {error.strerror}; "
            "choose one on a local file system"
        ) from error
    with contextlib.suppress(OSError):  # a full disk: then nobody learns who holds it
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _lock(lock: int) -> None:
    """Lock it, if need be after a moment: of a service that was killed a child that had not yet
    become a step may hold it. Raises BlockingIOError."""
    ends = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > ends:
                raise
            time.sleep(_LOCK_LOOK_S)
        else:
            return


def _tighten(folder: Path) -> None:
    """Close a new, empty or own folder to others: the database holds real values.

    Someone else's folder that was named by mistake (say /tmp) keeps its mode.
    """
    names = {entry.name for entry in os.scandir(folder)}
    mode = folder.stat().st_mode
    if mode & 0o077 and not mode & 0o1000 and (not names or DATABASE in names):
        with contextlib.suppress(PermissionError):  # of another owner, who lets us write
            folder.chmod(0o700)


def _open_database(
    database: Path, *, synchronous: str, known: Sequence[migrations.Migration]
) -> sqlite3.Connection:
    try:
        # Made by us and not by SQLite, so that others cannot read it whatever the umask; SQLite
        # gives its log the same mode.
        os.close(os.open(database, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(database)
    except (OSError, sqlite3.Error) as error:
        raise StoreUnusable(
            f"{database} cannot be opened: {error}; see to its owner and mode, "
            "or choose another data folder"
        ) from error
    try:
        _migrate(connection, database=database, synchronous=synchronous, known=known)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise StoreUnusable(f"{database} cannot be used: {_why_unusable(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _why_unusable(error: sqlite3.Error) -> str:
    match _primary_code(error):
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"{error}; end the other process that holds it (`fuser` tells which), try again"
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"{error}; does the disk have room and take writes? Free some, try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return (
                f"{error}; see to its owner and mode and to its file system, "
                "or choose another data folder"
            )
        case _:
            return (
                f"{error}; put a copy back in its place, take out what can be read with "
                "`sqlite3 FILE .recover`, or choose another data folder"
            )


def _connect(database: Path) -> sqlite3.Connection:
    # No implicit transactions. The thread that opens the writer's connection hands it over.
    return sqlite3.connect(database, isolation_level=None, check_same_thread=False)


def _migrate(
    connection: sqlite3.Connection,
    *,
    database: Path,
    synchronous: str,
    known: Sequence[migrations.Migration],
) -> None:
    applied = _applied(connection, database=database)
    remaining = migrations.missing(known, applied, database=str(database))
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreUnusable(
            f"{database} cannot have a write-ahead log (its mode stays {mode}); "
            "choose a data folder on a local file system"
        )
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    if not remaining:
        return
    script = ["BEGIN IMMEDIATE;"]
    if not applied:
        script.append(
            "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " checksum TEXT NOT NULL);"
        )
    for migration in remaining:
        script += (
            migration.sql,
            "INSERT INTO migrations (number, name, checksum) VALUES"  # noqa: S608 (our own files)
            f" ({migration.number}, '{migration.name}', '{migration.checksum}');",
        )
    script.append("COMMIT;")
    connection.executescript("\n".join(script))


def _applied(connection: sqlite3.Connection, *, database: Path) -> dict[int, str]:
    """Number → checksum of what the database was built from; empty for a new file."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "migrations" in tables:
        return dict(connection.execute("SELECT number, checksum FROM migrations").fetchall())
    if tables:
        raise StoreUnusable(f"{database} is another program's database; choose another data folder")
    return {}
