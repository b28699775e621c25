"""`dagmill trigger WORKFLOW`: ask the service for a run, and wait for its end if wanted.

The service decides whether it starts. One rule: the exit code of `--wait` is the run's.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import Outlasting, Service, connect, service_options
from runner.cli.show import print_run
from runner.cli.terminal import shown

_LOOK_S = 0.3
_GOOD = frozenset({"succeeded", "skipped"})


@click.command()
@click.argument("workflow")
@click.argument("params", nargs=-1, metavar="[-- K=V …]")
@click.option("--repository", help="Needed only where several repositories have the workflow.")
@click.option("--wait", is_flag=True, help="Wait for the end; exit 1 unless it succeeded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--idempotency-key", help="A second call with the same key starts nothing new.")
@service_options
@click.pass_context
def trigger(
    ctx: click.Context,
    workflow: str,
    params: tuple[str, ...],
    repository: str | None,
    wait: bool,
    as_json: bool,
    idempotency_key: str | None,
    url: str,
    data: Path | None,
) -> None:
    """Start WORKFLOW (its id) with the given parameters."""
    document: dict[str, object] = {"workflow": workflow, "params": list(params)}
    if repository is not None:
        document["repository"] = repository
    with connect(url, data=data) as service:
        run = service.post("runs", document=document, idempotency_key=idempotency_key)
        code = tell_started(service, run, wait=wait, as_json=as_json)
    ctx.exit(code)


def tell_started(service: Service, run: dict[str, Any], *, wait: bool, as_json: bool) -> int:
    """Print a new run or, with `wait`, what became of it; the exit code."""
    if not (as_json and wait):
        click.echo(json.dumps(run, indent=2) if as_json else f"{run['run']} {run['status']}")
    if not wait:
        return 0
    return tell_end(finished(Outlasting(service, run["run"]), run["run"]), as_json=as_json)


def tell_end(summary: dict[str, Any], *, as_json: bool) -> int:
    """Print a final run; the exit code that stands for its status."""
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print_run(summary)
        click.echo(shown(f"{summary['run']} {summary['status']}"))
    return 0 if summary["status"] in _GOOD else 1


def finished(service: Outlasting, run: str) -> dict[str, Any]:
    """The summary of `run` once it is final. A person is told if it waits for one."""
    told = False
    while True:
        summary: dict[str, Any] = service.get("runs", run)
        if summary["finished_at"] is not None:
            return summary
        if summary["status"] == "waiting" and not told:
            told = True
            click.echo(f"{run} waits for approval; `dagmill show {run}` says of what", err=True)
        time.sleep(_LOOK_S)
