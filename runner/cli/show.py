"""`dagmill show RUN`: one run, its steps, and what the failed ones printed last.

Prints the summary document, the same as on the status branch. One rule: everything that a
workflow or a step wrote is made harmless before it reaches a terminal.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import connect, service_options
from runner.cli.run_name import find_run
from runner.cli.terminal import milliseconds, print_table, shown

_HEADER = ("step", "status", "exit", "attempts", "took", "reason")


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary document.")
@service_options
def show(run: str, as_json: bool, url: str, data: Path | None) -> None:
    """Show RUN: an id, the beginning of one, `latest` or `latest:WORKFLOW`."""
    with connect(url, data=data) as service:
        summary = service.get("runs", find_run(service, run))
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        print_run(summary)


def print_run(summary: dict[str, Any]) -> None:
    """The summary document for a person."""
    for name, value in _facts(summary):
        if value:
            click.echo(f"{name + ':':<11} {shown(value)}")
    steps = [*summary.get("steps", ()), *summary.get("handlers", ())]
    if steps:
        click.echo()
        print_table(_HEADER, [_row(step) for step in steps])
    for step in steps:
        if step["status"] == "failed":
            _print_tail(step)


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    trigger, workflow = summary["trigger"], summary["workflow"]
    by = f" by {trigger['actor']}" if trigger.get("actor") else ""
    params = summary.get("params") or []
    pairs = params.items() if isinstance(params, dict) else (_pair(param) for param in params)
    return [
        ("run", summary["run"]),
        ("workflow", workflow["id"]),
        ("repository", summary.get("repository") or ""),
        ("commit", summary.get("commit") or ""),
        ("ref", summary.get("ref") or ""),
        ("trigger", f"{trigger['type']}{by}"),
        ("params", " ".join(f"{name}={value}" for name, value in pairs)),
        ("status", summary["status"]),
        ("reason", summary.get("reason") or ""),
        ("queued", summary["queued_at"]),
        ("started", summary.get("started_at") or ""),
        ("took", milliseconds(summary.get("duration_ms"))),
    ]


def _pair(param: Any) -> tuple[str, str]:
    if isinstance(param, dict):
        return str(param.get("name") or ""), str(param.get("value"))
    name, value = param
    return str(name), str(value)


def _row(step: dict[str, Any]) -> tuple[str, ...]:
    signal, code = step.get("signal"), step.get("exit_code")
    return (
        step["name"],
        "lost" if step.get("lost") and step["status"] == "failed" else step["status"],
        f"signal {signal}" if signal else "" if code is None else str(code),
        str(step.get("attempts") or ""),
        milliseconds(step.get("duration_ms")),
        step.get("reason") or "",
    )


def _print_tail(step: dict[str, Any]) -> None:
    tail = (step.get("log") or {}).get("tail", "")
    if not tail:
        return
    click.echo(f"\nthe last lines of {shown(step['name'])}:")
    for line in tail.splitlines():
        click.echo(f"  {shown(line)}")
