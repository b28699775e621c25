"""`dagmill show RUN`: one run, its steps, and what the failed ones printed last.

Prints the summary document, the same as on the status branch. One rule: everything that a
workflow or a step wrote is made harmless before it reaches a terminal.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import Service, connect, service_options
from runner.cli.run_name import find_run
from runner.cli.terminal import milliseconds, print_table, shown

MOST_ITEMS = 20  # of a parallel step that are shown, those that did not succeed
MOST_TAILS = 3  # of its failed items
_HEADER = ("step", "status", "exit", "attempts", "took", "reason")
_ITEMS = ("item", *_HEADER[1:], "value")


@click.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary document.")
@service_options
def show(run: str, as_json: bool, url: str, data: Path | None) -> None:
    """Show RUN: an id, the beginning of one, `latest` or `latest:WORKFLOW`."""
    with connect(url, data=data) as service:
        summary = service.get("runs", find_run(service, run))
        below = () if as_json else _waiting_below(service, summary)
    if as_json:
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    print_run(summary)
    for child in below:
        click.echo(f"\nrun {child['run']}, below it, waits for a person")
        click.echo(f"  dagmill show {child['run']}            says for what")


def _waiting_below(service: Service, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that its steps made and that wait for a person."""
    if summary["status"] not in ("running", "waiting"):
        return []
    query = {"parent": summary["run"], "status": "waiting", "limit": MOST_ITEMS}
    found: list[dict[str, Any]] = service.get("runs", query=query)["runs"]
    return found


def print_run(summary: dict[str, Any]) -> None:
    """The summary document for a person."""
    for name, value in _facts(summary):
        if value:
            click.echo(f"{name + ':':<11} {shown(value)}")
    steps = [*summary.get("steps", ()), *summary.get("handlers", ())]
    if steps:
        click.echo()
        print_table(_HEADER, [_row(step["name"], step) for step in steps])
    for step in steps:
        _print_items(step)
    for step in steps:
        if "items" not in step and step["status"] == "failed":
            _print_tail(step["name"], step)
    for step in steps:
        if step["status"] == "waiting":
            _print_approval(summary["run"], step)


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    trigger, workflow = summary["trigger"], summary["workflow"]
    by = f" by {trigger['actor']}" if trigger.get("actor") else ""
    if trigger.get("after_run"):
        by = f" after run {trigger['after_run']}"
    params = summary.get("params") or []
    pairs = params.items() if isinstance(params, dict) else (_pair(param) for param in params)
    return [
        ("run", summary["run"]),
        ("workflow", workflow["id"]),
        ("repository", summary.get("repository") or ""),
        ("commit", summary.get("commit") or ""),
        ("ref", summary.get("ref") or ""),
        ("trigger", f"{trigger['type']}{by}"),
        ("called by", _caller(summary.get("parent"))),
        ("retry of", _retried(summary)),
        ("remark", summary.get("remark") or ""),
        ("params", " ".join(f"{name}={value}" for name, value in pairs)),
        ("status", summary["status"]),
        ("reason", summary.get("reason") or ""),
        ("queued", summary["queued_at"]),
        ("started", summary.get("started_at") or ""),
        ("took", milliseconds(summary.get("duration_ms"))),
    ]


def _caller(parent: dict[str, Any] | None) -> str:
    if not parent:
        return ""
    item = "" if parent["item"] is None else f", item {parent['item']}"
    root = "" if parent["root"] == parent["run"] else f" (all began with {parent['root']})"
    return f"{parent['run']}, step {parent['step']}{item}{root}"


def _retried(summary: dict[str, Any]) -> str:
    if not summary.get("retry_of"):
        return ""
    return f"{summary['retry_of']} (attempt {summary['attempt']})"


def _pair(param: Any) -> tuple[str, str]:
    if isinstance(param, dict):
        return str(param.get("name") or ""), str(param.get("value"))
    name, value = param
    return str(name), str(value)


def _row(name: str, unit: dict[str, Any]) -> tuple[str, ...]:
    """A line of the table, for a step or an item."""
    signal, code = unit.get("signal"), unit.get("exit_code")
    times = unit.get("repetitions")
    return (
        name,
        "lost" if unit.get("lost") and unit["status"] == "failed" else unit["status"],
        f"signal {signal}" if signal else "" if code is None else str(code),
        f"{unit['attempts']} in {times} rounds" if times else str(unit.get("attempts") or ""),
        milliseconds(unit.get("duration_ms")),
        _remark(unit),
    )


def _remark(unit: dict[str, Any]) -> str:
    """Why it ended so, and what else there is to look at."""
    parts = [unit.get("reason") or ""]
    if (items := unit.get("items")) and not parts[0]:
        counts = ", ".join(f"{number} {status}" for status, number in items["counts"].items())
        parts.append(f"{items['total']} items: {counts}" if counts else "no items")
    if (approval := unit.get("approval")) and approval["answered_by"]:
        said = f" ({approval['comment']})" if approval["comment"] else ""
        parts.append(f"{approval['answer']} by {approval['answered_by']}{said}")
    if carried := unit.get("carried_from"):
        parts.append(f"taken over from {carried}")
    if child := unit.get("child"):
        parts.append(f"run {child}")
    return "; ".join(part for part in parts if part)


def _print_items(step: dict[str, Any]) -> None:
    """The items that did not succeed, and how many did."""
    items = step.get("items")
    if not items:
        return
    odd = [one for one in items["told"] if one["status"] not in ("succeeded", "pending")]
    if not odd:
        return
    click.echo(f"\nitems of {shown(step['name'])}:")
    print_table(_ITEMS, [(*_row(str(one["item"]), one), one["value"]) for one in odd[:MOST_ITEMS]])
    if len(odd) > MOST_ITEMS:
        click.echo(f"… and {len(odd) - MOST_ITEMS} more; --json has them")
    failed = [one for one in odd if one["status"] == "failed"]
    for one in failed[:MOST_TAILS]:
        _print_tail(f"{step['name']}, item {one['item']}", one)


def _print_approval(run: str, step: dict[str, Any]) -> None:
    asked = step.get("approval") or {}
    name = shown(step["name"])
    said = f": {shown(asked['message'])}" if asked.get("message") else ""
    who = f" ({shown(', '.join(asked['roles']))})" if asked.get("roles") else ""
    click.echo(f"\n{name} waits for a person{who}, until {asked.get('due') or '?'}{said}")
    click.echo(f"  dagmill approve {run} {shlex.quote(name)}            let it go on")
    click.echo(f"  dagmill approve {run} {shlex.quote(name)} --refuse   let it fail")


def _print_tail(title: str, unit: dict[str, Any]) -> None:
    tail = (unit.get("log") or {}).get("tail", "")
    if not tail:
        return
    click.echo(f"\nthe last lines of {shown(title)}:")
    for line in tail.splitlines():
        click.echo(f"  {shown(line)}")
