"""The world around the service: who pushes, who announces it by hooks, who starts runs by hand.

Threads that never give up: what the service did not answer is sent again until it does.
They keep what they did, because the checks compare it with what became of it. One rule: nobody
here knows when the service is killed.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import json
import random
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pygit2
from chaos import workflows
from git_remotes import GitHttpServer

SECRET = "a secret of the hook"
MAIN = "refs/heads/main"
FEATURES = ("refs/heads/feature/a", "refs/heads/feature/b")
WATCH = ("main", "feature/*", "refs/tags/v*")
# Unfinished runs; with more of them nothing is started by hand, or pushed: they would only wait.
MOST_OPEN = {"by hand": 14, "pushes": 24}
PATIENCE_S = 90.0  # for a fact that must come; the machine may be slow
_ASK_S = 0.15
_NULL = "0" * 40
_ADA = pygit2.Signature("Ada", "ada@example.com")


@dataclass(frozen=True)
class File:
    blob: str
    text: str


Files = dict[str, File]


@dataclass(frozen=True)
class Observed:
    """A push that was followed until the service had seen it: it is the `n`-th move of `ref`."""

    ref: str
    n: int
    commit: str


@dataclass(frozen=True)
class Asked:
    """One start by hand: `answers` are the runs that the service named for the key."""

    key: str
    workflow: str
    answers: tuple[str, ...]


@dataclass
class Deeds:
    """All that was done to the service from outside."""

    commits: dict[str, Files] = field(default_factory=dict)
    parents: dict[str, str | None] = field(default_factory=dict)
    peeled: dict[str, str] = field(default_factory=dict)  # tag object → commit
    observed: list[Observed] = field(default_factory=list)
    delivered: dict[str, int] = field(default_factory=dict)  # digest → status of the last answer
    asked: list[Asked] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    pushes: int = 0


class Data:
    """The service's database, read beside it."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "dagmill.sqlite"

    @contextlib.contextmanager
    def opened(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=5)
        try:
            yield connection
        finally:
            connection.close()

    def rows(self, query: str, *values: object) -> list[tuple[object, ...]]:
        """The rows; none while the database cannot be read (it is being opened or made)."""
        try:
            with self.opened() as connection:
                return connection.execute(query, values).fetchall()
        except sqlite3.OperationalError:
            return []

    def open_runs(self) -> int:
        query = (
            "SELECT count(*) FROM runs "
            "WHERE status IN ('queued', 'running', 'waiting') AND parent = ''"
        )
        rows = self.rows(query)
        return int(str(rows[0][0])) if rows else 0


class Door:
    """The service's HTTP side, which may be closed at any time."""

    def __init__(self, port: int, data: Path) -> None:
        self.port = port
        self._data = data

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes] | None:
        """(status, body), or None if there was no whole answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def deliver(self, body: bytes) -> int | None:
        signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        answer = self.post("/hooks/ops", body, headers)
        return None if answer is None else answer[0]

    def ask(self, workflow: str, *, key: str, nap: str) -> tuple[int, bytes] | None:
        params = {"NAP": nap} if "NAP" in workflows.KINDS[workflow].text else {}
        body = json.dumps({"workflow": workflow, "params": params}).encode()
        return self._api("/api/v1/runs", body, {"Idempotency-Key": key})

    def approve(self, run: str) -> tuple[int, bytes] | None:
        return self._api(f"/api/v1/runs/{run}/approve", b'{"agreed": true}', {})

    def _api(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes] | None:
        try:
            token = (self._data / "token").read_text().strip()
        except OSError:
            return None
        return self.post(path, body, {"Authorization": f"Bearer {token}", **headers})


class Worker:
    """A thread that does one thing after the other until it is told to stop."""

    def __init__(self, name: str, deeds: Deeds) -> None:
        self.deeds = deeds
        self.stopping = threading.Event()
        self.deserted = False
        self._thread = threading.Thread(target=self._run, name=name)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Let it end what it has begun."""
        self.stopping.set()
        self._thread.join()

    def abandon(self) -> None:
        """End it soon, done or not."""
        self.deserted = True
        self.stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def work(self) -> None:
        """Until `stopping`."""
        raise NotImplementedError

    def _run(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001 (a thread's edge: the report must name it)
            self.deeds.problems.append(f"the harness itself: {self._thread.name}: {error!r}")


class Outages(Worker):
    """Lets the git server fail for a moment, now and then."""

    def __init__(self, server: GitHttpServer, deeds: Deeds, *, rng: random.Random) -> None:
        super().__init__("outages", deeds)
        self._server = server
        self._rng = rng

    def work(self) -> None:
        while not self.stopping.wait(self._rng.uniform(3, 15)):
            self._server.status = 503
            self.stopping.wait(self._rng.uniform(0.2, 1.5))
            self._server.status = None


class Courier(Worker):
    """Announces pushes: the same bytes again and again until they are answered with 2xx."""

    def __init__(self, door: Door, deeds: Deeds) -> None:
        super().__init__("courier", deeds)
        self._door = door
        self._bodies: list[bytes] = []
        self._more = threading.Condition()

    def send(self, ref: str, *, before: str | None, after: str | None) -> None:
        """To be delivered soon."""
        document = {
            "ref": ref,
            "before": before or _NULL,
            "after": after or _NULL,
            "repository": {"full_name": "ops"},
            "sender": {"login": "ada"},
            "pushed": self.deeds.pushes,
        }
        with self._more:
            self._bodies.append(json.dumps(document).encode())
            self._more.notify()

    def work(self) -> None:
        """Ends when it is told to and everything is delivered."""
        while True:
            with self._more:
                while not self._bodies and not self.stopping.is_set():
                    self._more.wait(0.2)
                if not self._bodies:
                    return
                body = self._bodies[0]
            self._deliver(body)
            with self._more:
                del self._bodies[0]

    def _deliver(self, body: bytes) -> None:
        deadline = time.monotonic() + PATIENCE_S
        digest = hashlib.sha256(body).hexdigest()
        while time.monotonic() < deadline and not self.deserted:
            status = self._door.deliver(body)
            if status is not None:
                self.deeds.delivered[digest] = status
                if 200 <= status < 300:
                    return
                if status != 503:
                    self.deeds.problems.append(f"a delivery was answered with {status}: {body!r}")
                    return
            time.sleep(_ASK_S)
        self.deeds.problems.append(f"a delivery was not accepted in {PATIENCE_S:g} s: {body!r}")


class Caller(Worker):
    """Starts runs by hand: one key again and again until its run is named, sometimes once more."""

    def __init__(self, door: Door, data: Data, deeds: Deeds, *, rng: random.Random) -> None:
        super().__init__("caller", deeds)
        self._door = door
        self._data = data
        self._rng = rng

    def work(self) -> None:
        while not self.stopping.wait(self._rng.uniform(0.1, 0.8)):
            if self._data.open_runs() < MOST_OPEN["by hand"]:
                self._start(self._rng.choice(workflows.BY_HAND))

    def _start(self, workflow: str) -> None:
        key = f"{self._rng.getrandbits(64):016x}"
        nap = self._rng.choice(("0", "0.1", "0.4", "1.2"))
        answers = [self._insist(workflow, key=key, nap=nap)]
        if self._rng.random() < 0.2:
            answers.append(self._insist(workflow, key=key, nap=nap))
        self.deeds.asked.append(Asked(key, workflow, tuple(run for run in answers if run)))

    def _insist(self, workflow: str, *, key: str, nap: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and not self.deserted:
            answer = self._door.ask(workflow, key=key, nap=nap)
            if answer is not None and answer[0] == 201:
                return str(json.loads(answer[1])["run"])
            if answer is not None and answer[0] < 500:
                self.deeds.problems.append(f"{workflow} by hand: {answer[0]} {answer[1]!r}")
                return ""
            time.sleep(_ASK_S)
        self.deeds.problems.append(f"{workflow} by hand: no answer in {PATIENCE_S:g} s, key {key}")
        return ""


class Approver(Worker):
    """Lets every step go on that waits for a person, in its own time."""

    def __init__(self, door: Door, data: Data, deeds: Deeds, *, rng: random.Random) -> None:
        super().__init__("approver", deeds)
        self._door = door
        self._data = data
        self._rng = rng

    def work(self) -> None:
        while not self.stopping.wait(self._rng.uniform(0.1, 0.8)):
            waiting = "SELECT run FROM runs WHERE status = 'waiting' AND parent = ''"
            for (run,) in self._data.rows(waiting):
                answer = self._door.approve(str(run))
                # 409: an answer of before was lost, and the step goes on.
                if answer is not None and answer[0] not in (200, 409, 503):
                    self.deeds.problems.append(f"approval of {run}: {answer[0]} {answer[1]!r}")


@dataclass
class Held:
    """A ref that is left alone until the service has seen where it is."""

    tip: str | None
    since: float


class Pusher(Worker):
    """Writes to the repository as people do: commits, bursts, tags, force, deletions, mistakes."""

    def __init__(
        self, repository: Path, data: Data, deeds: Deeds, *, courier: Courier, rng: random.Random
    ) -> None:
        super().__init__("pusher", deeds)
        self._git = pygit2.Repository(str(repository))
        self._data = data
        self._courier = courier
        self._rng = rng
        self._held: dict[str, Held] = {}
        self._count = 0
        self._tags = 0
        self.tips: dict[str, str] = {}

    def first(self) -> None:
        """The first commit, on the served branch and on one more; seen first, it starts nothing."""
        files = {path: self._file(text) for path, text in workflows.first_files().items()}
        commit = self._commit(files, parent=None)
        for ref in (MAIN, FEATURES[0]):
            self._git.references.create(ref, commit, force=True)
            self.tips[ref] = commit

    def work(self) -> None:
        acts = {
            self._single: 5,
            self._burst: 4,
            self._tag: 2,
            self._back: 2,
            self._branch_gone: 2,
            self._mistake: 3,
            self._reschedule: 2,
        }
        while not self.stopping.wait(self._rng.uniform(0.1, 0.7)):
            self._look()
            if self._data.open_runs() < MOST_OPEN["pushes"]:
                self._rng.choices(list(acts), list(acts.values()))[0]()

    def close(self) -> str:
        """A last commit: everything mended, nothing scheduled. Returns it."""
        text = workflows.MINUTE.format(nap="0").replace('schedule: "* * * * *"\n', "")
        changes = {workflows.path_of(name): text for name in workflows.MINUTELY}
        changes[workflows.path_of("brittle")] = workflows.BRITTLE
        changes[workflows.path_of("shifty")] = workflows.SHIFTY.format(schedule="")
        return self._change(MAIN, changes)

    def wait_until_seen(self) -> None:
        """Until every ref that is held was seen."""
        while self._held:
            self._look()
            time.sleep(0.1)

    # What it does

    def _single(self) -> None:
        if (ref := self._some_branch()) is not None:
            self._change(ref, {})
            self._maybe_hold(ref)

    def _burst(self) -> None:
        """Several commits, pushed one by one or some at once."""
        if (ref := self._some_branch()) is None:
            return
        for _ in range(self._rng.randint(2, 4)):
            before = self.tips.get(ref)
            commit = self._next_commit(ref, {})
            if self._rng.random() < 0.7:
                self._move(ref, before=before, after=commit)
            else:
                self._move(ref, before=before, after=self._commit(self._next(commit), commit))
        self._maybe_hold(ref)

    def _tag(self) -> None:
        tags = [ref for ref in self.tips if ref.startswith("refs/tags/") and ref not in self._held]
        if tags and self._rng.random() < 0.3:
            ref = self._rng.choice(tags)
            gone = self._rng.random() < 0.5
        else:
            self._tags += 1
            ref, gone = f"refs/tags/v{self._tags}", False
        target = None if gone else self.tips[MAIN]
        if target is not None and self._rng.random() < 0.5:
            made = self._annotated(ref.removeprefix("refs/tags/"), target)
            self.deeds.peeled[made] = target
            target = made
        self._move(ref, before=self.tips.get(ref), after=target)
        self._maybe_hold(ref)

    def _annotated(self, name: str, commit: str) -> str:
        """A tag's object. Written by hand: `create_tag` would move the ref as well."""
        tagger = "tagger Ada <ada@example.com> 0 +0000"
        text = f"Tag {self._next_number()}"
        body = f"object {commit}\ntype commit\ntag {name}\n{tagger}\n\n{text}\n"
        return str(self._git.write(pygit2.enums.ObjectType.TAG, body.encode()))

    def _back(self) -> None:
        """By force, to an older commit."""
        if (ref := self._some_branch()) is None:
            return
        older = self.tips.get(ref)
        for _ in range(self._rng.randint(1, 3)):
            older = (self.deeds.parents[older] or older) if older else None
        if older is not None and older != self.tips[ref]:
            self._move(ref, before=self.tips[ref], after=older)
            self._maybe_hold(ref)

    def _branch_gone(self) -> None:
        ref = self._rng.choice(FEATURES)
        if ref in self._held:
            return
        if ref in self.tips:
            self._move(ref, before=self.tips[ref], after=None)
            self._maybe_hold(ref)
        if ref not in self._held and ref not in self.tips:
            self._move(ref, before=None, after=self.tips[MAIN])
            self._maybe_hold(ref)

    def _mistake(self) -> None:
        if MAIN in self._held:
            return
        path = workflows.path_of("brittle")
        now = self.deeds.commits[self.tips[MAIN]].get(path)
        text = workflows.BRITTLE if now and now.text == workflows.BROKEN else workflows.BROKEN
        self._change(MAIN, {path: text})
        self._maybe_hold(MAIN)

    def _reschedule(self) -> None:
        if MAIN in self._held:
            return
        schedule = self._rng.choice(workflows.SHIFTS)
        self._change(
            MAIN, {workflows.path_of("shifty"): workflows.SHIFTY.format(schedule=schedule)}
        )
        self._maybe_hold(MAIN)

    # How it does it

    def _some_branch(self) -> str | None:
        """A branch that is free to be pushed to; one that is gone comes back from main."""
        ref = self._rng.choice((MAIN, MAIN, *FEATURES))
        return None if ref in self._held else ref

    def _next_number(self) -> int:
        self._count += 1
        return self._count

    def _file(self, text: str) -> File:
        return File(str(self._git.create_blob(text.encode())), text)

    def _next(self, commit: str, changes: dict[str, str] | None = None) -> Files:
        note = {"note.txt": f"{self._next_number()}\n"}
        changed = {path: self._file(text) for path, text in {**note, **(changes or {})}.items()}
        return {**self.deeds.commits[commit], **changed}

    def _next_commit(self, ref: str, changes: dict[str, str]) -> str:
        tip = self.tips.get(ref) or self.tips[MAIN]
        return self._commit(self._next(tip, changes), tip)

    def _change(self, ref: str, changes: dict[str, str]) -> str:
        commit = self._next_commit(ref, changes)
        self._move(ref, before=self.tips.get(ref), after=commit)
        return commit

    def _commit(self, files: Files, parent: str | None) -> str:
        top, folder = self._git.TreeBuilder(), self._git.TreeBuilder()
        for path, file in files.items():
            builder = folder if path.startswith(".dagu/") else top
            builder.insert(path.removeprefix(".dagu/"), file.blob, pygit2.enums.FileMode.BLOB)
        top.insert(".dagu", folder.write(), pygit2.enums.FileMode.TREE)
        parents = [parent] if parent else []
        made = self._git.create_commit(None, _ADA, _ADA, "Change", top.write(), parents)
        self.deeds.commits[str(made)] = files
        self.deeds.parents[str(made)] = parent
        return str(made)

    def _move(self, ref: str, *, before: str | None, after: str | None) -> None:
        """Push; announced by a hook or left to be found."""
        self.deeds.pushes += 1
        if after is None:
            self._git.references.delete(ref)
            del self.tips[ref]
        else:
            self._git.references.create(ref, after, force=True)
            self.tips[ref] = after
        if self._rng.random() < 0.5:
            self._courier.send(ref, before=before, after=after)

    # What the service has seen

    def _maybe_hold(self, ref: str) -> None:
        if self._rng.random() < 0.5:
            self.hold(ref)

    def hold(self, ref: str) -> None:
        """Leave the ref alone until the service has seen it: its newest commit must run then."""
        self._held[ref] = Held(self.tips.get(ref), time.monotonic())

    def _look(self) -> None:
        for ref, held in list(self._held.items()):
            rows = self._data.rows("SELECT n, oid FROM refs WHERE ref = ?", ref)
            if held.tip is None and (not rows or rows[0][1] is None):
                del self._held[ref]
            elif rows and rows[0][1] == held.tip is not None:
                commit = self.deeds.peeled.get(held.tip, held.tip)
                self.deeds.observed.append(Observed(ref, int(str(rows[0][0])), commit))
                del self._held[ref]
            elif time.monotonic() - held.since > PATIENCE_S:
                now = rows[0] if rows else None
                self.deeds.problems.append(
                    f"{ref} was pushed to {held.tip} and not seen in {PATIENCE_S:g} s: {now}"
                )
                del self._held[ref]
