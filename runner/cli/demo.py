"""`dagmill demo`: the whole way of a commit, shown with the real parts in a temporary folder.

Makes a repository from the sample operations repository, serves it, pushes a change as a user
would, and shows what came of it. Its rule: everything shown is real output, and nothing is left
running.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

PATIENCE_S = 90.0
_GIT = (
    *("-c", "user.name=Ada", "-c", "user.email=ada@example.com"),
    *(
        "-c",
        "commit.gpgsign=false",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "core.hooksPath=/dev/null",
    ),
)
_LISTENING = re.compile(r"listening on\s+(http://\S+)")
_HELLO = """\
name: hello
description: Added by the demo's commit.
schedule: "0 6 * * MON-FRI"
timezone: Europe/Vienna
on:
  push: {branches: [main]}
params:
  - GREETING: hello
steps:
  - name: look
    command: git_short=$(echo "$GIT_COMMIT" | cut -c1-10); echo "{\\"commit\\":\\"$git_short\\"}"
    output: SEEN
  - name: greet
    command: echo "$GREETING from ${SEEN.commit}"
    depends: look
  - name: count
    command: find . -name '*.yaml' | wc -l
    depends: look
handlerOn:
  exit:
    command: echo "the run $DAG_RUN_STATUS"
"""


class DemoFailed(click.ClickException):
    """Something did not come about; the message says what and where to look."""


@click.command()
@click.option("--stay", is_flag=True, help="Keep serving until Ctrl-C.")
def demo(stay: bool) -> None:
    """Show the way from a commit to a run and back, in a temporary folder."""
    if shutil.which("git") is None:
        raise DemoFailed("the git program is not on PATH; install git")
    folder = Path(tempfile.mkdtemp(prefix="dagmill-demo-"))
    bare, work = folder / "ops.git", folder / "ops"
    _title("A bare repository from the sample operations repository")
    _make_repository(bare, work)
    click.echo(f"{bare}: {_git(work, 'log', '-1', '--format=%h %s')}")
    _title("Served")
    with _service(folder, bare) as service:
        service.command("status")
        _title("A change, pushed as a user would")
        commit = _push_a_change(work)
        _title("Reconciled: what was added, changed and scheduled")
        service.wait_for_line(rf"Reconciled .* at {commit[:10]}")
        service.command("status")
        _title("The runs that the push started")
        runs = service.runs_of(commit)
        for run in runs:
            service.command("show", run["run"])
        _title("The summary, committed to the branch dagmill/status")
        _show_status_branch(bare, [r["run"] for r in runs])
        _where_to_look(bare, service, stay=stay)
        if stay:
            service.stay()
    click.echo(click.style("\nThe demo is over; nothing is left running.", fg="green"))


def sample() -> Path:
    """The sample operations repository: beside the code, or inside an installed package."""
    for folder in (Path(__file__).parent / "demo_ops", Path(__file__).parents[2] / "examples/ops"):
        if (folder / ".dagu").is_dir():
            return folder
    raise DemoFailed("the sample repository is missing from this installation")


def _title(text: str) -> None:
    click.echo(click.style(f"\n── {text}", bold=True))


def _git(cwd: Path, *args: str) -> str:
    """Run git untouched by the person's own configuration; its output."""
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    done = subprocess.run(
        ["git", *_GIT, *args],  # noqa: S607 — the person's own git, found on PATH
        cwd=cwd,
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise DemoFailed(f"git {args[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _make_repository(bare: Path, work: Path) -> None:
    shutil.copytree(sample(), work)
    _git(work, "init", "--quiet")
    _git(work, "add", "--all")
    _git(work, "commit", "--quiet", "-m", "The sample operations repository")
    _git(work.parent, "clone", "--quiet", "--bare", str(work), str(bare))
    _git(work, "remote", "add", "origin", str(bare))


def _push_a_change(work: Path) -> str:
    """Add a workflow and move a schedule; returns the commit."""
    (work / ".dagu/hello.yaml").write_text(_HELLO)
    health = work / ".dagu/health.yaml"
    health.write_text(health.read_text().replace("*/15", "*/10"))
    _git(work, "add", "--all")
    _git(work, "commit", "--quiet", "-m", "Say hello on weekdays, look after health oftener")
    click.echo(_git(work, "show", "--stat", "--format=%h %s"))
    _git(work, "push", "--quiet", "origin", "HEAD:main")
    return _git(work, "rev-parse", "HEAD")


def _show_status_branch(bare: Path, runs: list[str]) -> None:
    def published() -> str:
        files = subprocess.run(
            ["git", *_GIT, "ls-tree", "-r", "--name-only", "dagmill/status"],  # noqa: S607
            cwd=bare,
            check=False,
            capture_output=True,
            text=True,
        ).stdout
        return files if all(f"{run}.json" in files for run in runs) else ""

    _until(published, "the summaries did not reach the branch dagmill/status")
    click.echo(_git(bare, "log", "--stat", "--format=%h %s", "dagmill/status"))
    click.echo()
    click.echo(_git(bare, "show", "dagmill/status:README.md"))


def _where_to_look(bare: Path, service: _Service, *, stay: bool) -> None:
    _title("Where to look")
    click.echo(f"  git -C {bare} show dagmill/status:README.md")
    click.echo(f"  git -C {bare} log dagmill/status")
    click.echo(f"  {bare.parent}/data   the service's data: journal, logs, mirror")
    if stay:
        click.echo(f"  export DAGMILL_URL={service.url} DAGMILL_DATA={service.data}")
        click.echo("  dagmill status; dagmill trigger hello --wait; dagmill logs latest")
        click.echo(f"  push from {bare.parent}/ops")
    else:
        click.echo("  dagmill demo --stay   keeps serving, to try things out")
    click.echo(f"  rm -r {bare.parent}   when you have seen enough")


def _until(look: Callable[[], Any], failure: str, *, patience_s: float = PATIENCE_S) -> Any:
    """What `look` returns once that is true. Raises DemoFailed with `failure`."""
    ends = time.monotonic() + patience_s
    while not (found := look()):
        if time.monotonic() > ends:
            raise DemoFailed(f"{failure} within {patience_s:g} s")
        time.sleep(0.1)
    return found


@contextmanager
def _service(folder: Path, bare: Path) -> Iterator[_Service]:
    """A `dagmill serve` of its own; ended, and its steps with it, whatever happens."""
    service = _Service(folder, bare)
    try:
        service.url = _until(lambda: service.found(_LISTENING), "the service did not start")
        service.wait_for_line("Reconciled ")
        yield service
    finally:
        service.end()


class _Service:
    """The process of `dagmill serve`, whose output goes on to the terminal."""

    def __init__(self, folder: Path, bare: Path) -> None:
        self.url = ""
        self.data = folder / "data"
        self._lines: list[str] = []
        log = (folder / "serve.log").open("w")
        self._env = {
            **{k: v for k, v in os.environ.items() if not k.startswith("DAGMILL_")},
            "DAGMILL_HOOK_SECRET": secrets.token_hex(16),
            "DAGMILL_SUMMARY_QUIET_S": "0.5",
            "PYTHONUNBUFFERED": "1",
        }
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "runner.cli", "serve", str(bare)),
                *("--data", str(self.data), "--port", "0"),
            ],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        log.close()
        self._log = folder / "serve.log"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.append(line)
            click.echo(click.style("serve │ ", fg="cyan") + line, nl=False)

    def found(self, pattern: re.Pattern[str]) -> str:
        """The first group of the first line that matches, "" if there is none yet."""
        if self._process.poll() is not None:
            raise DemoFailed(f"the service ended: {self._log.read_text()[-2000:]}")
        matches = (pattern.search(line) for line in list(self._lines))
        return next((m[m.lastindex or 0] for m in matches if m), "")

    def wait_for_line(self, pattern: str) -> None:
        compiled = re.compile(pattern)
        _until(lambda: self.found(compiled), f"the service did not say {pattern!r}")

    def command(self, *args: str) -> None:
        """Show a command as it is typed, and what it prints."""
        click.echo(click.style(f"$ dagmill {' '.join(args)}", fg="blue"))
        env = {**self._env, "DAGMILL_URL": self.url, "DAGMILL_DATA": str(self.data)}
        subprocess.run([sys.executable, "-m", "runner.cli", *args], env=env, check=False)

    def runs_of(self, commit: str) -> list[dict[str, Any]]:
        """The runs that the commit started, once all are final. Raises DemoFailed if one failed."""
        from runner.cli.api_client import connect

        def final() -> list[dict[str, Any]]:
            with connect(self.url, data=self.data) as service:
                runs: list[dict[str, Any]] = service.get("runs", query={"commit": commit})["runs"]
            over = runs and all(r["finished_at"] for r in runs)
            return runs if over and any(r["workflow"] == "hello" for r in runs) else []

        runs: list[dict[str, Any]] = _until(final, "the push started no run that ended")
        bad = [r for r in runs if r["status"] not in ("succeeded", "skipped")]
        if bad:
            raise DemoFailed(f"a run did not succeed: {json.dumps(bad[0])}")
        return sorted(runs, key=lambda r: str(r["queued_at"]))

    def stay(self) -> None:
        click.echo(click.style("\nServing; Ctrl-C ends it.", bold=True))
        try:
            self._process.wait()
        except KeyboardInterrupt:
            click.echo()

    def end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                continue
        self._reader.join(timeout=5)
        if self._process.stdout is not None:
            self._process.stdout.close()
