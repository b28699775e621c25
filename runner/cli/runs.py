"""`dagmill runs`: the newest runs of a service as a table.

Only asks and prints. One rule: times are relative for a person, exact for a pipe.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import connect, service_options
from runner.cli.run_name import find_run
from runner.cli.terminal import ago, is_terminal, milliseconds, print_table

_HEADER = ("run", "workflow", "status", "trigger", "commit", "queued", "took")


@click.command()
@click.option("--workflow", help="Only runs of this workflow (its id).")
@click.option("--repository", help="Only runs of this repository.")
@click.option("--status", multiple=True, help="Only runs with this status; may be repeated.")
@click.option("--parent", metavar="RUN", help="The runs that the steps of this run made.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@service_options
def runs(
    workflow: str | None,
    repository: str | None,
    status: tuple[str, ...],
    parent: str | None,
    limit: int,
    as_json: bool,
    url: str,
    data: Path | None,
) -> None:
    """List runs, the newest first."""
    query: dict[str, str | int | None] = {
        "workflow": workflow,
        "repository": repository,
        "status": ",".join(status) or None,
        "limit": limit,
    }
    with connect(url, data=data) as service:
        if parent is not None:
            query["parent"] = find_run(service, parent)
        document = service.get("runs", query=query)
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    if not document["runs"] and is_terminal():
        click.echo("no runs; start one with `dagmill trigger WORKFLOW`")
        return
    print_table(_HEADER, [_row(run) for run in document["runs"]])


def _row(run: dict[str, Any]) -> tuple[str, ...]:
    queued = ago(run["queued_at"], now=datetime.now(UTC)) if is_terminal() else run["queued_at"]
    return (
        run["run"],
        run["workflow"],
        run["status"],
        run["trigger"],
        run["commit"][:10],
        queued,
        milliseconds(run["duration_ms"]),
    )
