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

from runner.cli.api_client import Outlasting, Service, connect, service_options
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
        lasting = Outlasting(service, found) if follow else None
        if step is None:
            _all_steps(lasting or service, found)
        elif lasting is None:
            _print(_log(service, found, step, attempt=attempt))
        elif attempt is None:
            _follow_step(lasting, found, step)
        else:
            _print(_followed(lasting, found, step, attempt=attempt))


def _all_steps(service: Service | Outlasting, run: str) -> None:
    """Every step that printed, in order; of one that is outlasted those that start later, too."""
    done: set[str] = set()
    while True:
        summary = service.get("runs", run)
        for step in _steps(summary):
            name = step["name"]
            if name in done or not step.get("attempts"):
                continue
            done.add(name)
            _print_heading(name, first=len(done) == 1)
            if isinstance(service, Outlasting):
                _follow_step(service, run, name)
            else:
                _print(_log(service, run, name))
        if isinstance(service, Service) or summary["finished_at"] is not None:
            return
        _wait_for_a_step(service, run, known=done)


def _wait_for_a_step(service: Outlasting, run: str, *, known: set[str]) -> None:
    import time

    while True:
        summary = service.get("runs", run)
        begun = {step["name"] for step in _steps(summary) if step.get("attempts")}
        if begun - known or summary["finished_at"] is not None:
            return
        time.sleep(0.3)


def _follow_step(service: Outlasting, run: str, step: str) -> None:
    """All attempts of a step from the newest on, until the step is final."""
    # Named by its number: the newest one may be another after a restart of the service.
    attempt = _attempts(_find(service.get("runs", run), step))
    while True:
        _print(_followed(service, run, step, attempt=attempt))
        summary = service.get("runs", run)
        now = _find(summary, step)
        if now is None or summary["finished_at"] is not None or now["status"] in _FINAL:
            return
        attempt = max(_attempts(now) or 1, attempt or 1) + 1


def _followed(service: Outlasting, run: str, step: str, *, attempt: int | None) -> Iterator[bytes]:
    """What an attempt prints, until it is over; None: the first one, whenever it starts. Where the
    service went away the log is read once more, and what was given before is left out."""
    given = 0
    while True:
        outages, skip = service.outages, given
        for piece in _log(service, run, step, attempt=attempt, follow=True):
            new = piece[skip:]
            skip -= len(piece) - len(new)
            given += len(new)
            yield new
        now = _find(service.get("runs", run), step)
        # A service that stops also ends a stream as if all had been said.
        goes_on = now is not None and now["status"] == "running"
        if service.outages == outages and not (goes_on and _attempts(now) == (attempt or 1)):
            return
        attempt = attempt or (1 if given else None)


def _find(summary: dict[str, Any], step: str) -> dict[str, Any] | None:
    return next((one for one in _steps(summary) if one["name"] == step), None)


def _attempts(step: dict[str, Any] | None) -> int | None:
    return (step.get("attempts") if step else None) or None


def _steps(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [*summary.get("steps", ()), *summary.get("handlers", ())]


def _log(
    service: Service | Outlasting,
    run: str,
    step: str,
    *,
    attempt: int | None = None,
    follow: bool = False,
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
