"""From a push to the process that it starts, against a real `dagmill serve`.

The step writes down the time at which it runs; the push is the moment its ref changed. By hook:
a signed delivery is posted at that moment and the repository is not watched otherwise. By
watching: a repository on this machine, noticed by its refs. The floor is one wrapped step.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pygit2

from benchmarks.paired import Latency

WORKFLOWS = 100
SECRET = "a-secret-of-the-benchmark"  # noqa: S105
BRANCH = "refs/heads/main"
_AUTHOR = pygit2.Signature("Ada", "ada@example.com")
_IDLE = "steps: [{name: idle, command: 'true'}]\non: {push: {branches: [none]}}\n"


class Repository:
    """A bare repository with a hundred workflows, one of which starts on every push."""

    def __init__(self, folder: Path, times: Path) -> None:
        self.path = folder / "ops.git"
        self._git = pygit2.init_repository(self.path, bare=True)
        self._git.set_head(BRANCH)
        self._stamp = (
            "on: {push: {branches: [main]}}\nmaxActiveRuns: 0\n"
            f"steps: [{{name: stamp, command: 'date +%s%N >{times}/$GIT_COMMIT'}}]\n"
        )
        self.push(0)

    def push(self, number: int) -> tuple[str, str]:
        """Change a file and move the branch; the commits before and after."""
        folder = self._git.TreeBuilder()
        for i in range(WORKFLOWS - 1):
            folder.insert(f"w{i}.yaml", self._git.create_blob(_IDLE.encode()), 0o100644)
        folder.insert("stamp.yaml", self._git.create_blob(self._stamp.encode()), 0o100644)
        top = self._git.TreeBuilder()
        top.insert(".dagu", folder.write(), 0o040000)
        top.insert("number", self._git.create_blob(str(number).encode()), 0o100644)
        parents = [] if self._git.head_is_unborn else [self._git.head.target]
        message = f"Push {number}"
        commit = self._git.create_commit(None, _AUTHOR, _AUTHOR, message, top.write(), parents)
        self._git.references.create(BRANCH, commit, force=True)
        return str(parents[0]) if parents else "0" * 40, str(commit)


@contextmanager
def service(repository: Path, folder: Path, *, poll_s: float) -> Iterator[tuple[int, str, int]]:
    """A running `dagmill serve`: its port, its name of the repository, its pid."""
    command = [sys.executable, "-m", "runner.cli", "serve", str(repository)]
    flags = ["--data", str(folder / "data"), "--port", "0", "--poll", str(poll_s)]
    env = {**os.environ, "DAGMILL_HOOK_SECRET": SECRET, "PYTHONUNBUFFERED": "1"}
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            [*command, *flags], env=env, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if match := re.search(r"hook URL\s+http://127.0.0.1:(\d+)/hooks/(\S+)", line):
                break
        else:
            raise AssertionError((folder / "serve.log").read_text())
        time.sleep(4)  # the watch of a local repository is confirmed after 2 s
        yield int(match[1]), match[2], process.pid
    finally:
        process.terminate()
        process.communicate(timeout=30)


def announce(port: int, name: str, before: str, after: str) -> None:
    """Post the signed delivery of a push."""
    body = json.dumps(
        {
            "ref": BRANCH,
            "before": before,
            "after": after,
            "repository": {"full_name": "x/ops", "name": "ops"},
            "pusher": {"name": "ada"},
        }
    ).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "push",
        "X-GitHub-Delivery": after,
        "X-Hub-Signature-256": f"sha256={signature}",
    }
    connection.request("POST", f"/hooks/{name}", body, headers)
    answer = connection.getresponse()
    assert answer.status == 202, (answer.status, answer.read())
    connection.close()


def push_benchmark(folder: Path, *, hook: bool, pushes: int = 40) -> Latency:
    times = folder / "times"
    times.mkdir(parents=True)
    repository = Repository(folder, times)
    found = []
    with service(repository.path, folder, poll_s=3600) as (port, name, pid):
        for number in range(1, pushes + 1):
            before, after = repository.push(number)
            begin = time.time_ns()
            if hook:
                announce(port, name, before, after)
            found.append((_written(times / after) - begin) / 1e9)
            time.sleep(0.3)  # each push by itself
        if not hook:
            print(f"resident memory, idle, 100 workflows: {_resident_mib(pid):.0f} MiB", flush=True)
    result = Latency("push → process, by " + ("hook" if hook else "watching"), tuple(found))
    print(result.line(), flush=True)
    return result


def _written(path: Path) -> int:
    ends = time.monotonic() + 30
    while time.monotonic() < ends:
        if path.exists() and (text := path.read_text().strip()):
            return int(text)
        time.sleep(0.001)
    raise AssertionError(f"no process wrote {path}")


def _resident_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) / 1024
