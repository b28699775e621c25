"""`dagmill retry RUN`: do again what failed, in a new run that takes over the rest.

Asks the service, which decides what is done again. One rule: the exit code of `--wait` is that of
the new run.
"""

from __future__ import annotations

from pathlib import Path

import click

from runner.cli.api_client import connect, service_options
from runner.cli.run_name import find_run, person
from runner.cli.trigger import tell_started


@click.command()
@click.argument("run")
@click.option(
    "--from", "from_step", metavar="STEP", help="Also this step and all that depends on it."
)
@click.option("--all", "all_steps", is_flag=True, help="All steps, whatever became of them.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless it succeeded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--idempotency-key", help="A second call with the same key starts nothing new.")
@service_options
@click.pass_context
def retry(
    ctx: click.Context,
    run: str,
    from_step: str | None,
    all_steps: bool,
    wait: bool,
    as_json: bool,
    idempotency_key: str | None,
    url: str,
    data: Path | None,
) -> None:
    """Run again what failed in RUN: an id, the beginning of one, `latest` or `latest:WORKFLOW`.

    A new run at the same commit and with the same parameters. Steps that failed or were cancelled
    run again, and all that depend on them; what succeeded is taken over with its outputs.
    """
    if from_step is not None and all_steps:
        raise click.UsageError("--from and --all exclude each other")
    document: dict[str, object] = {"all": all_steps, "by": person()}
    if from_step is not None:
        document["from"] = from_step
    with connect(url, data=data) as service:
        path = ("runs", find_run(service, run), "retry")
        new = service.post(*path, document=document, idempotency_key=idempotency_key)
        code = tell_started(service, new, wait=wait, as_json=as_json)
    ctx.exit(code)
