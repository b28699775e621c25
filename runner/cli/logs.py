"""`dagmill logs RUN [STEP]`: what steps printed, and with `-f` what they are printing.

Streams bytes from the service. One rule: a pipe gets the bytes as they are, a terminal gets
them without anything that could command it, colours excepted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import Service, connect, service_options
from runner.cli.run_name import find_run
from runner.cli.terminal import LogScreen, is_terminal, shown

_FINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the step or the run has ended.")
@click.option("--attempt", type=click.IntRange(1), help="Of a step that was retried.")
@service_options
def logs(
    run: str, step: str | None, follow: bool, attempt: int | None, url: str, data: Path | None
) -> None:
    """Print the log of STEP, or of all steps of RUN (an id, the beginning of one, `latest` or
    `latest:WORKFLOW`)."""
    if attempt is not None and step is None:
        raise click.UsageError("--attempt needs the name of a step")
    with connect(url, data=data) as service:
        found = find_run(service, run)
        if step is None:
            _all_steps(service, found, follow=follow)
        elif follow and attempt is None:
            _follow_step(service, found, step)
        else:
            _print(_log(service, found, step, attempt=attempt, follow=follow))


def _all_steps(service: Service, run: str, *, follow: bool) -> None:
    """Every step that printed, in order; with `follow` those that start later, too."""
    done: set[str] = set()
    while True:
        summary = service.get("runs", run)
        for step in _steps(summary):
            name = step["name"]
            if name in done or not step.get("attempts"):
                continue
            done.add(name)
            _print_heading(name, first=len(done) == 1)
            if follow:
                _follow_step(service, run, name)
            else:
                _print(_log(service, run, name))
        if not follow or summary["finished_at"] is not None:
            return
        _wait_for_a_step(service, run, known=done)


def _wait_for_a_step(service: Service, run: str, *, known: set[str]) -> None:
    import time

    while True:
        summary = service.get("runs", run)
        begun = {step["name"] for step in _steps(summary) if step.get("attempts")}
        if begun - known or summary["finished_at"] is not None:
            return
        time.sleep(0.3)


def _follow_step(service: Service, run: str, step: str) -> None:
    """All attempts of a step from the newest on, until the step is final."""
    attempt: int | None = None
    while True:
        _print(_log(service, run, step, attempt=attempt, follow=True))
        now = _find(service.get("runs", run), step)
        if now is None or now["status"] in _FINAL:
            return
        attempt = max(now.get("attempts") or 1, attempt or 1) + 1


def _find(summary: dict[str, Any], step: str) -> dict[str, Any] | None:
    if summary["finished_at"] is not None:
        return None
    return next((one for one in _steps(summary) if one["name"] == step), None)


def _steps(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [*summary.get("steps", ()), *summary.get("handlers", ())]


def _log(
    service: Service, run: str, step: str, *, attempt: int | None = None, follow: bool = False
) -> Iterator[bytes]:
    query: dict[str, str | int | None] = {
        "step": step,
        "attempt": attempt,
        "follow": "true" if follow else None,
    }
    return service.stream("runs", run, "log", query=query)


def _print_heading(step: str, *, first: bool) -> None:
    print(("" if first else "\n") + f"==> {shown(step)} <==", flush=True)


def _print(pieces: Iterable[bytes]) -> None:
    if not is_terminal():
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    screen = LogScreen()
    try:
        for piece in pieces:
            print(screen.feed(piece), end="", flush=True)
    finally:
        # Also after Ctrl-C: the shell's prompt must not inherit a step's colours.
        print(screen.end(), end="", flush=True)
