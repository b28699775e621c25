"""`dagmill serve` as a process for tests: what it logs and says, its API, hooks, signals.

Waits for facts in the log and for answers, never for time. Leaves the repository that is served
to `git_remotes`.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from git_remotes import Remote

WAIT_S = 60
SECRET = "a secret of the hook"
STATUS = "refs/heads/dagmill/status"
CREDENTIAL = {"git_username": "ada", "git_token": "s3cret-token-1"}

HELLO = """
on: push
steps:
  - name: say
    command: |
      git_commit=$GIT_COMMIT
      echo "hello from $git_commit"
      cat greeting.txt
"""


class Service:
    """A `dagmill serve` process. `facts` are its log lines in order."""

    def __init__(self, process: subprocess.Popen[str], data: Path) -> None:
        self.process = process
        self.data = data
        self.facts: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stderr, self._log_line)),
            threading.Thread(target=self._read, args=(process.stdout, self.said.append)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, keep: Callable[[str], None]) -> None:
        for line in stream:
            with self._news:
                keep(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _log_line(self, line: str) -> None:
        if line.startswith("{"):
            self.facts.append(json.loads(line))
        else:
            self.errors.append(line)

    def wait(self, found: Callable[[], Any], *, look_s: float = 0.5) -> Any:
        """What `found` returns once it is true; a failure with everything that was said. It is
        asked at each line of the log, and every `look_s`."""
        deadline = time.monotonic() + WAIT_S
        with self._news:
            while not (result := found()):
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None:
                    told = "\n".join([*self.said, *map(str, self.facts), *self.errors])
                    pytest.fail(f"it did not come (exit {self.process.poll()}):\n{told}")
                self._news.wait(min(left, look_s))
        return result

    def fact(self, event: str, **values: object) -> dict[str, Any]:
        """The first log line of `event` with `values`, waited for."""
        found: dict[str, Any] = self.wait(
            lambda: next(
                (f for f in self.facts if f["event"] == event and values.items() <= f.items()), None
            )
        )
        return found

    def facts_of(self, event: str) -> list[dict[str, Any]]:
        return [fact for fact in self.facts if fact["event"] == event]

    @property
    def url(self) -> str:
        line: str = self.wait(lambda: next((s for s in self.said if "listening on" in s), None))
        return line.split()[-1]

    def get(self, path: str) -> Any:
        token = (self.data / "token").read_text().strip()
        answer = httpx2.get(self.url + path, headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return answer.json()

    def trigger(self, workflow: str, **params: str) -> httpx2.Response:
        """Ask for a run by hand."""
        token = (self.data / "token").read_text().strip()
        return httpx2.post(
            f"{self.url}/api/v1/runs",
            json={"workflow": workflow, "params": params},
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def started(self, workflow: str, **params: str) -> str:
        """The id of a run by hand."""
        answer = self.trigger(workflow, **params)
        assert answer.status_code == 201, answer.text
        run: str = answer.json()["run"]
        return run

    def untroubled(self) -> None:
        """Nothing was told with a traceback."""
        text = json.dumps(self.facts) + "".join(self.errors)
        assert "Traceback" not in text, text

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(WAIT_S)
        for reader in self._readers:
            reader.join()
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()  # type: ignore[union-attr]
        return code


class Served:
    """Starts services for one test and ends them."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.services: list[Service] = []
        self.within: tuple[str, ...] = ()  # the beginning of the command line, say `unshare`
        self.environ: dict[str, str] = {}  # variables besides the settings, say another PATH

    def __call__(self, *arguments: str, **settings: str) -> Service:
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ["HOME"],
            "DAGMILL_SUMMARY_QUIET_S": "0.1",
            "DAGMILL_SUMMARY_GAP_S": "0.1",
            **self.environ,
            **{f"DAGMILL_{name.upper()}": value for name, value in settings.items()},
        }
        process = subprocess.Popen(
            [*self.within, sys.executable, "-m", "runner.cli", "serve", "--port", "0", *arguments]
            + ([] if "--data" in arguments else ["--data", str(self.data)]),
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        service = Service(process, self.data)
        self.services.append(service)
        return service

    def refused(self, *arguments: str, **settings: str) -> str:
        """The message of a service that ends with exit 2 at once."""
        service = self(*arguments, **settings)
        assert service.process.wait(WAIT_S) == 2
        service.stop()
        return "\n".join(service.errors)


@contextlib.contextmanager
def services(data: Path) -> Iterator[Served]:
    """Starts services on `data`, and kills those that are left."""
    served = Served(data)
    try:
        yield served
    finally:
        for service in served.services:
            if service.process.poll() is None:
                service.process.kill()
            service.stop()


def deliver(service: Service, remote: Remote, *, ref: str, after: str) -> httpx2.Response:
    body = json.dumps(
        {
            "ref": ref,
            "after": after,
            "before": "0" * 40,
            "repository": {"full_name": remote.path.name.removesuffix(".git")},
            "pusher": {"name": "ada"},
            "sender": {"login": "ada"},
        }
    ).encode()
    signature = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return httpx2.post(
        f"{service.url}/hooks/ops",
        content=body,
        headers={
            "Content-Type": "application/json",
            "X-GitHub-Event": "push",
            "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
            "X-Hub-Signature-256": f"sha256={signature}",
        },
        timeout=30,
    )


def summaries(remote: Remote) -> list[dict[str, Any]]:
    if remote.tip(STATUS) is None:
        return []
    paths = [p for p in remote.files(STATUS) if p.startswith("runs/") and p.endswith(".json")]
    return [json.loads(remote.show(STATUS, path)) for path in paths]


def published(service: Service, remote: Remote, *, run: str) -> dict[str, Any]:
    """The summary of `run`, once it is on the status branch."""
    found: dict[str, Any] = service.wait(
        lambda: next((s for s in summaries(remote) if s["run"] == run), None)
    )
    return found


def begun(remote: Remote, **more: str) -> str:
    """A first commit with the workflow `hello`."""
    return remote.change({".dagu/hello.yaml": HELLO, "greeting.txt": "one\n", **more})
