"""`dagmill next [PATH]`: when the schedules of a working tree start, stop or restart workflows.

Reads files and counts; asks no service and runs nothing. One rule: a time is shown in the zone of
its schedule, as a person who wrote it thinks of it.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from runner.cli.terminal import ago, is_terminal, print_table, shown
from runner.cli.working_tree import DEFAULT_FOLDER

if TYPE_CHECKING:
    from runner.control.entries import Entry

_HEADER = ("at", "in", "what", "workflow", "schedule", "zone")


@dataclass(frozen=True, slots=True, order=True)
class Fire:
    """One slot of one schedule; `at` is aware UTC."""

    at: datetime
    workflow: str
    what: str
    schedule: str
    zone: str

    @property
    def local(self) -> str:
        return self.at.astimezone(ZoneInfo(self.zone)).isoformat(timespec="minutes")


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=".")
@click.option(
    "-n", "--number", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many."
)
@click.option(
    "--path",
    "folder",
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The folder of a repository that holds its workflows.",
)
@click.option(
    "--timezone",
    envvar="DAGMILL_TIMEZONE",
    default="UTC",
    show_default=True,
    help="The zone of schedules that name none. [env: DAGMILL_TIMEZONE]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def next(
    ctx: click.Context, path: Path, number: int, folder: str, timezone: str, as_json: bool
) -> None:
    """Show the next times at which the schedules of PATH fire: of a workflow file, a folder of
    them, or a repository.

    A service counts them the same way, once the files are on its branch. Exits 2 if a file has
    problems; its schedules are left out.
    """
    from runner.cli.validate import check
    from runner.language.cron import check_zone

    if wrong := check_zone(timezone):
        raise click.UsageError(wrong)
    report = check(path, folder=folder)
    now = datetime.now(UTC)
    fires = list(islice(fires_after(report.entries, now, zone=timezone), number))
    if as_json:
        broken = sorted({problem.path for problem in report.problems})
        document = {"fires": [_document(fire) for fire in fires], "broken": broken}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(fires, report.entries, now=now)
    if report.problems:
        files = ", ".join(sorted({shown(problem.path) for problem in report.problems}))
        click.echo(f"left out: {files}; `dagmill validate` says why", err=True)
        ctx.exit(2)


def fires_after(entries: Iterable[Entry], after: datetime, *, zone: str) -> Iterator[Fire]:
    """All slots later than `after`, in order, without end unless nothing is scheduled."""
    return heapq.merge(*(slots for entry in entries for slots in _slots(entry, after, zone=zone)))


def _slots(entry: Entry, after: datetime, *, zone: str) -> Iterator[Iterator[Fire]]:
    for what, crons in zip(("start", "stop", "restart"), entry.schedule, strict=True):
        for cron, own in crons:
            yield _of_schedule(entry.workflow, what, cron, zone=own or zone, after=after)


def _of_schedule(
    workflow: str, what: str, cron: str, *, zone: str, after: datetime
) -> Iterator[Fire]:
    from runner.control.schedule import slots_after

    for at in slots_after(cron, zone=zone, after=after, workflow_id=workflow):
        yield Fire(at, workflow, what, cron, zone)


def _print(fires: Sequence[Fire], entries: Sequence[Entry], *, now: datetime) -> None:
    if fires:
        print_table(_HEADER, [_row(fire, now=now) for fire in fires])
    elif is_terminal():
        number = f"{len(entries)} workflow{'' if len(entries) == 1 else 's'}"
        click.echo(f"nothing is scheduled in {number}; a workflow is by `schedule:`")


def _row(fire: Fire, *, now: datetime) -> tuple[str, ...]:
    left = ago(fire.at.isoformat(), now=now).removeprefix("in ")
    return fire.local, left, fire.what, fire.workflow, fire.schedule, fire.zone


def _document(fire: Fire) -> dict[str, str]:
    return {
        "at": fire.at.isoformat().replace("+00:00", "Z"),
        "local": fire.local,
        "what": fire.what,
        "workflow": fire.workflow,
        "schedule": fire.schedule,
        "zone": fire.zone,
    }
