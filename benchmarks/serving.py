"""A real `dagmill serve` in a process of its own, and the two ways in: its hook and its API."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.repository import BRANCH

_SECRET = "a-secret-of-the-benchmark"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Served:
    """Where it listens, what it calls the repository, its API's token and its pid."""

    port: int
    repository: str
    token: str
    pid: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port)

    def announce(self, before: str, after: str) -> None:
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
        signature = hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": after,
            "X-Hub-Signature-256": f"sha256={signature}",
        }
        connection = self.connect()
        connection.request("POST", f"/hooks/{self.repository}", body, headers)
        answer = connection.getresponse()
        assert answer.status == 202, (answer.status, answer.read())
        connection.close()

    def start(self, connection: http.client.HTTPConnection, workflow: str) -> str:
        """Start a run by hand; its id, once it is stored."""
        body = json.dumps({"workflow": workflow}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        connection.request("POST", "/api/v1/runs", body, headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 201, (answer.status, text)
        return str(json.loads(text)["run"])

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1024


@contextmanager
def serving(
    repository: Path,
    folder: Path,
    *,
    settle_s: float = 4,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Served]:
    """Begins `settle_s` after it listens: the watch of a local repository is confirmed after 2 s.
    Two with the same `folder` have the same data."""
    command = [sys.executable, "-m", "runner.cli", "serve", str(repository)]
    data = folder / "data"
    flags = ["--data", str(data), "--port", "0", "--poll", "3600"]
    own = {"DAGMILL_HOOK_SECRET": _SECRET, "PYTHONUNBUFFERED": "1"}
    env = {**os.environ, **own, **settings}
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "serve.log").open("a") as log:
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
        time.sleep(settle_s)
        token = (data / "token").read_text().strip()
        yield Served(int(match[1]), match[2], token, process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=30)
