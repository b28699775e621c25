"""`dagmill logs RUN [STEP]`: what steps printed, and with `-f` what they are printing.

Streams bytes from the service. One rule: a pipe gets the bytes as they are, a terminal gets
them without anything that could command it, colours excepted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import click

from runner.cli.api_client import Outlasting, Refused, Service, connect, service_options
from runner.cli.run_name import find_run
from runner.cli.terminal import LogScreen, is_terminal, shown

_FINAL = frozenset({"succeeded", "failed", "cancelled", "skipped"})
_LOOK_S = 0.3
_NOT_FOUND = 404
_Service = Service | Outlasting  # one that is outlasted is followed


@dataclass(slots=True)
class _Place:
    """Where the logs that are printed stand: below the steps that led to a child run."""

    above: str = ""
    headings: list[str] = field(default_factory=list)

    def heading(self, unit: _Unit) -> None:
        title = shown(self.above + unit.title)
        print(("\n" if self.headings else "") + f"==> {title} <==", flush=True)
        self.headings.append(title)

    def below(self, unit: _Unit) -> _Place:
        return _Place(f"{self.above}{unit.title} / ", self.headings)


class _Unit(NamedTuple):
    """What has a log: a step, or an item of a parallel one."""

    step: str
    item: int | None = None

    @property
    def title(self) -> str:
        return self.step if self.item is None else f"{self.step} [{self.item}]"


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on until the step or the run has ended.")
@click.option("--item", type=click.IntRange(0), help="Of a parallel step; 0 is the first.")
@click.option("--attempt", type=click.IntRange(1), help="Of a step that was retried.")
@service_options
def logs(
    run: str,
    step: str | None,
    follow: bool,
    item: int | None,
    attempt: int | None,
    url: str,
    data: Path | None,
) -> None:
    """Print the log of STEP, or of all steps of RUN (an id, the beginning of one, `latest` or
    `latest:WORKFLOW`). A step that runs another workflow has the logs of that run."""
    for option, value in (("attempt", attempt), ("item", item)):
        if value is not None and step is None:
            raise click.UsageError(f"--{option} needs the name of a step")
    with connect(url, data=data) as service:
        found = find_run(service, run)
        asked: _Service = Outlasting(service, found) if follow else service
        if step is None:
            _print_all(asked, found, _Place())
            return
        unit = _Unit(step, item)
        known = _find(asked.get("runs", found), unit)
        if known is not None and attempt is None and ("child" in known or "items" in known):
            _print_all(asked, found, _Place(), only=unit)
        elif isinstance(asked, Service):
            _print(_log(asked, found, unit, attempt=attempt))
        elif attempt is None:
            _follow(asked, found, unit)
        else:
            _print(_followed(asked, found, unit, attempt=attempt))


def _print_all(service: _Service, run: str, place: _Place, *, only: _Unit | None = None) -> None:
    """Every unit of a run that printed, in order, or those of one step; of a followed run those
    that start later, too."""
    done: set[_Unit] = set()
    while True:
        summary = service.get("runs", run)
        for unit, known in _begun(summary, only):
            if unit in done:
                continue
            done.add(unit)
            if "child" in known:
                _print_child(service, run, unit, place.below(unit))
                continue
            place.heading(unit)
            if isinstance(service, Outlasting):
                _follow(service, run, unit)
            else:
                _print(_log(service, run, unit))
        _say_left_out(summary, only)
        if isinstance(service, Service) or _over(summary, only):
            return
        _wait_for_more(service, run, only, known=done)


def _print_child(service: _Service, run: str, unit: _Unit, place: _Place) -> None:
    """The logs of the run that a unit makes, once it is there; nothing if it never is."""
    while True:
        known = _find(service.get("runs", run), unit)
        child = known.get("child") if known is not None else None
        if known is None or child is None:
            return
        try:
            _print_all(service, child, place)
            return
        except Refused as error:
            if error.status != _NOT_FOUND:
                raise
        if isinstance(service, Service) or known["status"] in _FINAL:
            return
        time.sleep(_LOOK_S)


def _say_left_out(summary: dict[str, Any], only: _Unit | None) -> None:
    """The summary tells of a long list only the first items and the failed ones."""
    for step in _steps(summary):
        items = step.get("items")
        if items is None or (only is not None and only != _Unit(step["name"])):
            continue
        if summary["finished_at"] is not None and items["total"] > len(items["told"]):
            number = items["total"] - len(items["told"])
            click.echo(
                f"{number} more items of {shown(step['name'])} have logs; --item N prints one",
                err=True,
            )


def _over(summary: dict[str, Any], only: _Unit | None) -> bool:
    if summary["finished_at"] is not None or only is None:
        return summary["finished_at"] is not None
    known = _find(summary, only)
    return known is not None and known["status"] in _FINAL


def _wait_for_more(service: Outlasting, run: str, only: _Unit | None, *, known: set[_Unit]) -> None:
    while True:
        summary = service.get("runs", run)
        begun = {unit for unit, _ in _begun(summary, only)}
        if begun - known or _over(summary, only):
            return
        time.sleep(_LOOK_S)


def _follow(service: Outlasting, run: str, unit: _Unit) -> None:
    """All attempts of a unit from the newest on, until it is final."""
    # Named by its number: the newest one may be another after a restart of the service.
    attempt = _attempts(_find(service.get("runs", run), unit))
    while True:
        _print(_followed(service, run, unit, attempt=attempt))
        summary = service.get("runs", run)
        now = _find(summary, unit)
        if now is None or summary["finished_at"] is not None or now["status"] in _FINAL:
            return
        attempt = max(_attempts(now) or 1, attempt or 1) + 1


def _followed(
    service: Outlasting, run: str, unit: _Unit, *, attempt: int | None
) -> Iterator[bytes]:
    """What an attempt prints, until it is over; None: the first one, whenever it starts. Where the
    service went away the log is read once more, and what was given before is left out."""
    given = 0
    while True:
        outages, skip = service.outages, given
        for piece in _log(service, run, unit, attempt=attempt, follow=True):
            new = piece[skip:]
            skip -= len(piece) - len(new)
            given += len(new)
            yield new
        now = _find(service.get("runs", run), unit)
        # A service that stops also ends a stream as if all had been said.
        goes_on = now is not None and now["status"] == "running"
        if service.outages == outages and not (goes_on and _attempts(now) == (attempt or 1)):
            return
        attempt = attempt or (1 if given else None)


def _begun(summary: dict[str, Any], only: _Unit | None) -> Iterator[tuple[_Unit, dict[str, Any]]]:
    """The units that were launched, with what the summary says of them."""
    for step in _steps(summary):
        if only is not None and only.step != step["name"]:
            continue
        items = step.get("items")
        units = [(_Unit(step["name"]), step)] if items is None else _items(step["name"], items)
        for unit, known in units:
            wanted = only is None or only.item in (None, unit.item)
            if wanted and known.get("attempts"):
                yield unit, known


def _items(step: str, items: dict[str, Any]) -> list[tuple[_Unit, dict[str, Any]]]:
    return [(_Unit(step, known["item"]), known) for known in items["told"]]


def _find(summary: dict[str, Any], unit: _Unit) -> dict[str, Any] | None:
    step = next((one for one in _steps(summary) if one["name"] == unit.step), None)
    if step is None or unit.item is None:
        return step
    told = step["items"]["told"] if "items" in step else ()
    return next((one for one in told if one["item"] == unit.item), None)


def _attempts(known: dict[str, Any] | None) -> int | None:
    return (known.get("attempts") if known else None) or None


def _steps(summary: dict[str, Any]) -> list[dict[str, Any]]:
    return [*summary.get("steps", ()), *summary.get("handlers", ())]


def _log(
    service: _Service,
    run: str,
    unit: _Unit,
    *,
    attempt: int | None = None,
    follow: bool = False,
) -> Iterator[bytes]:
    query: dict[str, str | int | None] = {
        "step": unit.step,
        "item": unit.item,
        "attempt": attempt,
        "follow": "true" if follow else None,
    }
    return service.stream("runs", run, "log", query=query)


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
