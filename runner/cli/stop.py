"""`dagmill stop RUN`: end a run, gracefully or at once.

Asks the service. One rule: it returns when the request is a fact of the run, with `--wait` when
the run is over.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from runner.cli.api_client import Outlasting, connect, service_options
from runner.cli.run_name import find_run, person
from runner.cli.terminal import shown
from runner.cli.trigger import finished


@click.command()
@click.argument("run")
@click.option("--kill", is_flag=True, help="Kill its steps instead of asking them to end.")
@click.option("--wait", is_flag=True, help="Wait until it is over.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON document.")
@service_options
def stop(run: str, kill: bool, wait: bool, as_json: bool, url: str, data: Path | None) -> None:
    """Stop RUN: an id, the beginning of one, `latest` or `latest:WORKFLOW`.

    Its steps get the signal of their `signalOnStop`, and are killed after `maxCleanUpTimeSec`.
    Handlers still run; with --kill, or at a second stop, they do not. A run that is queued never
    starts.
    """
    with connect(url, data=data) as service:
        name = find_run(service, run)
        row = service.post("runs", name, "stop", document={"kill": kill, "by": person()})
        if wait:
            row = finished(Outlasting(service, name), name)
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
        return
    why = f": {shown(row['reason'])}" if row["reason"] else ""
    over = row["finished_at"] is not None
    click.echo(f"{name} {row['status']}{why}" if over else f"{name} is stopping")
