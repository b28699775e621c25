"""One storm: a service on one data folder, killed again and again while the world goes on.

Knows when to kill; leaves what happens meanwhile to `outside`, what must hold afterwards to
`checks`. The seed fixes what is tried; what meets with what is the machine's. One rule: before
anything is judged, the service has had the time to end everything that began.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from chaos import checks, evidence, outside, victim
from chaos.evidence import Event, Window, World
from chaos.outside import Approver, Caller, Courier, Data, Deeds, Door, Outages, Pusher, Worker
from git_remotes import GitHttpServer, Remote, git_http_server, make_remote

LONGEST_LIFE_S = 2.5
_CALLERS = 3
_STOPPED = 0.08  # of the lives: ended by TERM
SETTLE_S = 180.0
# Moments that are aimed at: right after these lines of the log.
AIMS = (
    "run_admitted",
    "catalog_applied",
    "summaries_published",
    "slot_fired",
    "run_finished",
    "run_resumed",
)
# Right after one of these grew. Of running runs only, so that it is seen within a millisecond.
_FACTS = "SELECT count(*) FROM runs JOIN events USING (run) WHERE status = 'running' AND type = "
QUERIES = (
    *(
        f"{_FACTS}'{kind}'"
        for kind in ("Prepared", "Launched", "StopSent", "Ended", "LaunchVoided")
    ),
    f"""{_FACTS}'StopSent' AND data LIKE '%"signal":9,%'""",
    "SELECT count(*) FROM runs WHERE status = 'running'",
    "SELECT count(*) FROM runs WHERE status = 'waiting'",
    "SELECT count(*) FROM runs WHERE parent != ''",
    "SELECT count(*) FROM runs",
    "SELECT sum(n) FROM refs",
    "SELECT applied FROM repositories",
    "SELECT count(*) FROM deliveries",
    "SELECT count(*) FROM triggers",
    "SELECT count(*) FROM owed WHERE kind = 'summary'",
    "SELECT count(*) FROM owed WHERE kind = 'cleanup'",
)
# Never said by a service that is well; what a definition is told may be.
_HARMLESS_ERRORS = frozenset({"definition_broken"})


@dataclass(frozen=True)
class Storm:
    """What to do. `power_cut`: the machine dies with the service, each start has a new boot id."""

    seed: int
    kills: int
    power_cut: bool = False
    progress: Callable[[str], None] = lambda line: None


@dataclass
class Report:
    """What came of it. `folder` is None where nothing was broken: it is removed then."""

    storm: Storm
    figures: dict[str, object]
    violations: list[str]
    folder: Path | None

    def __str__(self) -> str:
        figures = ", ".join(f"{value} {name}" for name, value in self.figures.items())
        kind = "power cuts" if self.storm.power_cut else "kills"
        lines = [f"seed {self.storm.seed}, {self.storm.kills} {kind}: {figures}"]
        lines += [f"  {line}" for line in self.violations]
        if self.folder is not None:
            lines.append(f"  kept: {self.folder}")
        return "\n".join(lines)


def rage(storm: Storm, *, folder: Path | None = None, keep: bool = False) -> Report:
    """Do all of it; on success, and unless `keep`, the folder is removed."""
    place = folder or Path(tempfile.mkdtemp(prefix="dagmill-chaos-"))
    place.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    deeds = Deeds()
    with git_http_server(place / "remotes") as server:
        remote = make_remote(place / "remotes")
        remote.git("--git-dir", str(remote.path), "config", "core.logAllRefUpdates", "always")
        remote.git("--git-dir", str(remote.path), "config", "receive.autogc", "false")
        weather = _Weather(storm, place, deeds, server=server, remote=remote)
        try:
            window = weather.run()
        finally:
            weather.end()
    world = evidence.gather(
        data=weather.data,
        repository=remote.path,
        effects=weather.effects,
        window=window,
        power_cut=storm.power_cut,
        deeds=deeds,
        first_refs=weather.first_refs,
    )
    broken = checks.violations(world)
    figures = _figures(world, weather, seconds=time.monotonic() - began)
    if broken or keep:
        _write_down(place, world, broken)
        return Report(storm, figures, broken, place)
    shutil.rmtree(place)
    return Report(storm, figures, broken, None)


@dataclass
class _Weather:
    """The storm as it goes on."""

    storm: Storm
    folder: Path
    deeds: Deeds
    server: GitHttpServer
    remote: Remote
    kills_at: list[int] = field(default_factory=list)  # microseconds
    aims: Counter[str] = field(default_factory=Counter)
    starts_at: list[int] = field(default_factory=list)
    facts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.data = self.folder / "data"
        self.effects = self.folder / "effects"
        self.effects.touch()
        self.rng = random.Random(self.storm.seed)
        port = _free_port()
        self.rows = Data(self.data)
        self.machine = victim.Machine(
            arguments=self._arguments(port),
            environ=self._environ(),
            folder=self.folder,
            power_cut=self.storm.power_cut,
        )
        door = Door(port, self.data)
        self.courier = Courier(door, self.deeds)
        self.callers = [
            Caller(door, self.rows, self.deeds, rng=self._random(f"caller {number}"))
            for number in range(_CALLERS)
        ]
        self.pusher = Pusher(
            self.remote.path,
            self.rows,
            self.deeds,
            courier=self.courier,
            rng=self._random("pusher"),
        )
        self.outages = Outages(self.server, self.deeds, rng=self._random("outages"))
        self.approver = Approver(door, self.rows, self.deeds, rng=self._random("approver"))
        self.workers: list[Worker] = [
            *(self.pusher, self.courier, *self.callers, self.outages, self.approver)
        ]
        self.stops = 0
        self.victim: victim.Victim | None = None
        self.first_refs: frozenset[str] = frozenset()

    def _random(self, name: str) -> random.Random:
        return random.Random(f"{self.storm.seed} {name}")

    def _arguments(self, port: int) -> list[str]:
        watch = [word for pattern in outside.WATCH for word in ("--watch", pattern)]
        return [
            *(self.server.url(self.remote), "--branch", "main", *watch, "--poll", "1"),
            *("--data", str(self.data), "--port", str(port)),
        ]

    def _environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "CHAOS_EFFECTS": str(self.effects),
            "DAGMILL_PASS_ENV": "CHAOS_EFFECTS",
            "DAGMILL_HOOK_SECRET": outside.SECRET,
            "DAGMILL_SUMMARY_QUIET_S": "0.1",
            "DAGMILL_SUMMARY_GAP_S": "0.3",
            "DAGMILL_KEEP_FAILED_S": "0",
            "DAGMILL_MIN_FREE_DISK": "0",
        }

    # Its course

    def run(self) -> Window:
        self.pusher.first()
        self.first_refs = frozenset(self.pusher.tips)
        earliest = datetime.now(UTC)
        self._start()
        self._must_see("catalog_applied")
        since = datetime.now(UTC)
        for worker in self.workers:
            worker.begin()
        for number in range(1, self.storm.kills + 1):
            self._one_life()
            self._start()
            if number % 10 == 0:
                self.storm.progress(self._progress(number))
        return self._settle(earliest, since)

    def _one_life(self) -> None:
        """Let the service live for a while, then kill it; sometimes stop it gently before."""
        if self.rng.random() < _STOPPED and not self.storm.power_cut:
            time.sleep(self.rng.uniform(0.5, LONGEST_LIFE_S))
            self._stop()
            self._start()
        self._wait_for_the_moment()
        running = self._running()
        if not running.alive and not running.stopped:
            self.deeds.problems.append(self._own_end(running))
        self.kills_at.append(_now())
        running.kill()
        self._count(running)

    def _wait_for_the_moment(self) -> None:
        running, rng = self._running(), self.rng
        kinds = {
            "uniform": 34,
            "line": 16,
            "commit": 10,
            "table": 22,
            "start": 8,
            "twice": 5,
            "term": 5,
        }
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        self.aims[kind] += 1
        if kind != "start":
            running.serves(within_s=outside.PATIENCE_S)
        match kind:
            case "uniform":
                time.sleep(rng.uniform(0, LONGEST_LIFE_S))
            case "line":
                aim = rng.choice(AIMS)
                new = aim != "run_resumed"
                running.sees(lambda f: f["event"] == aim, within_s=LONGEST_LIFE_S, new=new)
                time.sleep(rng.choice((0, 0, 0.005, 0.02)))
            case "commit":
                _await_commits(self.data, rng.randint(1, 40), within_s=LONGEST_LIFE_S)
            case "table":
                _await_growth(self.data, rng.choice(QUERIES), within_s=2 * LONGEST_LIFE_S)
                time.sleep(rng.choice((0, rng.uniform(0, 0.004), rng.uniform(0, 0.02))))
            case "start":
                time.sleep(rng.uniform(0, 1.0))
            case "term":
                time.sleep(rng.uniform(0, LONGEST_LIFE_S))
                running.terminate()
                time.sleep(rng.uniform(0, 0.3))
            case "twice":
                time.sleep(rng.uniform(0, 1.5))
                self.kills_at.append(_now())
                running.kill()
                self._count(running)
                self._start()
                time.sleep(rng.uniform(0, 0.3))

    def _settle(self, earliest: datetime, since: datetime) -> Window:
        """The last life: everything that began ends, and nothing begins."""
        for worker in (self.outages, *self.callers, self.pusher):
            worker.end()
        until = datetime.now(UTC)
        last = self.pusher.close()
        for ref in list(self.pusher.tips):
            self.pusher.hold(ref)
        self.pusher.wait_until_seen()
        self.courier.end()
        deadline = time.monotonic() + SETTLE_S
        while open_ := self._open(last):
            if time.monotonic() > deadline:
                self.deeds.problems.append(f"after {SETTLE_S:g} s it was still not over: {open_}")
                break
            if not self._running().alive:
                self.deeds.problems.append(self._own_end(self._running()))
                break
            time.sleep(0.1)
        self.approver.end()
        latest = datetime.now(UTC)
        if self._running().alive:
            self._stop()
        return Window(earliest, since, until, latest)

    def _open(self, last: str) -> list[str]:
        """What is still to come."""
        found = [
            f"run {run} of {workflow} is {status}"
            for run, workflow, status in self.rows.rows(
                "SELECT run, workflow, status FROM runs WHERE finished_at IS NULL"
            )
        ]
        # runs are deleted in a month
        owed = self.rows.rows("SELECT * FROM owed WHERE kind != 'expire'")
        found += [f"owed: {row}" for row in owed]
        row = self.rows.rows("SELECT applied_commit FROM repositories")
        if row != [(last,)]:
            found.append(f"{last} is not applied, {row} is")
        return found

    # The service

    def _start(self) -> None:
        self.starts_at.append(_now())
        self.victim = victim.start(self.machine, len(self.starts_at))

    def _stop(self) -> None:
        """TERM, and no other sign: what runs goes on."""
        self.stops += 1
        running = self._running()
        if code := running.stop():
            self.deeds.problems.append(f"TERM: {self._own_end(running)} {code}")
        self._count(running)

    def _running(self) -> victim.Victim:
        assert self.victim is not None
        return self.victim

    def _must_see(self, event: str) -> None:
        running = self._running()
        seen = running.sees(lambda f: f["event"] == event, within_s=outside.PATIENCE_S, new=False)
        assert seen, f"no {event}: {running.facts} {running.errors}"

    def _own_end(self, running: victim.Victim) -> str:
        return f"life {running.number} ended by itself ({running.process.poll()}): " + "\n".join(
            [*map(str, running.facts[-5:]), *running.errors[-30:]]
        )

    def _count(self, running: victim.Victim) -> None:
        """Keep what a life said that is over."""
        self.facts.update(fact["event"] for fact in running.facts)
        for fact in running.facts:
            if _is_bad(fact):
                self.deeds.problems.append(f"life {running.number} said {_short(fact)}")
        errors = running.errors[:-1] if running.killed else running.errors
        if errors:
            text = "\n".join(errors[-30:])
            self.deeds.problems.append(f"life {running.number} wrote to stderr: {text}")

    def _progress(self, number: int) -> str:
        kind = "power cuts" if self.storm.power_cut else "kills"
        runs, open_ = len(self.rows.rows("SELECT run FROM runs")), self.rows.open_runs()
        return (
            f"seed {self.storm.seed}: {number} of {self.storm.kills} {kind}, {runs} runs, "
            f"{open_} open, {self.deeds.pushes} pushes"
        )

    def end(self) -> None:
        """Leave no thread and no process of the harness, whatever happened."""
        for worker in self.workers:
            worker.abandon()
        if self.victim is not None and self.victim.alive:
            self.victim.kill()
            for pid in evidence.processes(self.data):  # steps, if the storm was broken off
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _is_bad(fact: dict[str, Any]) -> bool:
    level = fact.get("level")
    return "exception" in fact or (level == "error" and fact["event"] not in _HARMLESS_ERRORS)


def _short(fact: dict[str, Any]) -> str:
    return "\n".join(f"{key}: {value}" for key, value in fact.items())[-3000:]


def _now() -> int:
    return time.time_ns() // 1000


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Aiming at commits: PRAGMA data_version changes when another connection wrote


def _await_commits(data: Path, number: int, *, within_s: float) -> None:
    """Until `number` transactions were written."""
    with Data(data).opened() as connection:
        deadline = time.monotonic() + within_s
        seen = _version(connection)
        while number and time.monotonic() < deadline:
            if (now := _version(connection)) != seen:
                seen, number = now, number - 1
            time.sleep(0.0005)


def _await_growth(data: Path, query: str, *, within_s: float) -> None:
    """Until the query answers a larger number than just before."""
    with Data(data).opened() as connection:
        deadline = time.monotonic() + within_s
        seen, before = _version(connection), _answer(connection, query)
        while time.monotonic() < deadline:
            if (version := _version(connection)) != seen:
                seen, now = version, _answer(connection, query)
                if now > before:
                    return
                before = now
            time.sleep(0.0003)


def _version(connection: sqlite3.Connection) -> int:
    return _answer(connection, "PRAGMA data_version")


def _answer(connection: sqlite3.Connection, query: str) -> int:
    """A number; 0 if there is none, or the database is just being opened."""
    try:
        row = connection.execute(query).fetchone()
    except sqlite3.OperationalError:
        return 0
    return int(row[0] or 0) if row else 0


# What is told


def _figures(world: World, weather: _Weather, *, seconds: float) -> dict[str, object]:
    events = [event for of_run in world.events.values() for event in of_run]
    types = Counter(event.type for event in events)
    ended = [event.data for event in events if event.type == "Ended"]
    return {
        "starts": len(weather.starts_at),
        "stops": weather.stops,
        "runs": len(world.runs),
        "launches": types["Launched"],
        "open at a kill": sum(1 for _ in _open_at_a_kill(world, weather.kills_at)),
        "adopted": _adopted(world, weather),
        "voided": types["LaunchVoided"],
        "lost": sum(bool(data.get("lost")) for data in ended),
        "below others": sum(bool(run.parent) for run in world.runs.values()),
        "retries": sum(data["attempt"] > 1 for data in ended),
        "slots": sum(row.key.startswith(("tick:", "missed:")) for row in world.triggers),
        "pushes": world.deeds.pushes,
        "hooks": len(world.deeds.delivered),
        "by hand": len(world.deeds.asked),
        "publications": len(world.status_moves),
        "s": round(seconds),
    }


def _open_at_a_kill(world: World, kills_at: list[int]) -> Iterator[tuple[int, Event]]:
    """Launches that were open when the service was killed: the last such moment, and their end."""
    for events in world.events.values():
        began = {e.data["launch"]: e.at for e in events if e.type == "Launched"}
        for event in events:
            if event.type in ("Ended", "LaunchVoided") and event.data["launch"] in began:
                during = [at for at in kills_at if began[event.data["launch"]] < at < event.at]
                if during:
                    yield during[-1], event


def _adopted(world: World, weather: _Weather) -> int:
    """Launches that were still running when the service came back."""
    if weather.storm.power_cut:
        return 0  # nothing was; one that was being stopped then is said to have been stopped
    return sum(
        event.at > next(start for start in weather.starts_at if start > kill)
        and event.type == "Ended"
        and not event.data.get("lost")
        for kill, event in _open_at_a_kill(world, weather.kills_at)
    )


def _write_down(folder: Path, world: World, broken: list[str]) -> None:
    """All facts of the runs that a violation names, beside the violations."""
    lines = [*broken, ""]
    for run, events in sorted(world.events.items()):
        if any(run in line for line in broken):
            lines.append(str(world.runs.get(run)))
            lines += [f"  {e.at} {e.seq} {e.type} {json.dumps(e.data)[:400]}" for e in events]
            lines += [f"  {e}" for e in world.effects if e.run == run]
    (folder / "violations.txt").write_text("\n".join(lines) + "\n")
