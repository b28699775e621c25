"""`dagmill approve RUN [STEP]`: let a step go on that waits for a person, or refuse it.

Asks the service, which keeps who, when and the comment. One rule: without a step only the one
that waits is meant, never one of several.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from runner.cli.api_client import connect, service_options
from runner.cli.run_name import find_run, person
from runner.cli.terminal import shown


@click.command()
@click.argument("run")
@click.argument("step", required=False)
@click.option("--refuse", is_flag=True, help="Say no: the step fails.")
@click.option("-m", "--comment", default="", help="Kept with the decision.")
@click.option("--json", "as_json", is_flag=True, help="Print the run as one JSON document.")
@service_options
def approve(
    run: str,
    step: str | None,
    refuse: bool,
    comment: str,
    as_json: bool,
    url: str,
    data: Path | None,
) -> None:
    """Approve STEP of RUN: an id, the beginning of one, `latest` or `latest:WORKFLOW`. STEP may be
    left out where only one waits; `dagmill show RUN` lists those that do."""
    document: dict[str, object] = {"agreed": not refuse, "comment": comment, "by": person()}
    if step is not None:
        document["step"] = step
    with connect(url, data=data) as service:
        name = find_run(service, run)
        row = service.post("runs", name, "approve", document=document)
    if as_json:
        click.echo(json.dumps(row, indent=2, ensure_ascii=False))
    else:
        what = f"step {shown(step)} of {name}" if step is not None else name
        click.echo(f"{'refused' if refuse else 'approved'} {what}")
