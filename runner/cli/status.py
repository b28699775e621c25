"""`dagmill status`: what a service serves, what it will start next, and what is wrong.

Only asks and prints. One rule: a problem is never below the fold; repositories and workflows
with problems say so in their own lines.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from runner.cli.api_client import connect, service_options
from runner.cli.terminal import ago, is_terminal, print_table, shown

_HEADER = ("workflow", "repository", "schedule", "zone", "next", "state")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@service_options
def status(as_json: bool, url: str, data: Path | None) -> None:
    """Show repositories, workflows, their schedules and problems."""
    with connect(url, data=data) as service:
        document = {
            **service.get("version"),
            **service.get("repositories"),
            **service.get("workflows"),
        }
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    click.echo(f"Dagmill {shown(document['version'])} at {url}")
    for repository in document["repositories"]:
        _print_repository(repository)
    rows = [row for workflow in document["workflows"] for row in _rows(workflow)]
    if rows:
        click.echo()
        print_table(_HEADER, rows)
    # Each once: those of base.yaml are problems of all workflows.
    problems = [problem for workflow in document["workflows"] for problem in workflow["problems"]]
    for problem in dict.fromkeys(problems):
        click.echo(shown(problem))


def _print_repository(repository: dict[str, Any]) -> None:
    commit = repository["applied_commit"][:10] or "nothing yet"
    branch = repository["branch"].removeprefix("refs/heads/") or "?"
    seen = _when(repository["fetched_at"]) or "never"
    click.echo(
        shown(
            f"{repository['repository']}: {branch} at {commit}, fetched {seen} "
            f"from {repository['url']}"
        )
    )
    if repository["problem"]:
        click.echo(shown(f"  problem: {repository['problem']}"))


def _rows(workflow: dict[str, Any]) -> list[tuple[str, ...]]:
    state = f"stale, runs at {workflow['commit'][:10]}" if workflow["stale"] else "good"
    name, repository = workflow["workflow"], workflow["repository"]
    return [
        (name, repository, _schedule(line), line["zone"], _when(line["next_at"]) or "never", state)
        for line in workflow["schedules"]
    ] or [(name, repository, "", "", "", state)]


def _schedule(line: dict[str, Any]) -> str:
    kind = line.get("kind", "start")
    return str(line["schedule"]) if kind == "start" else f"{kind} {line['schedule']}"


def _when(at: str | None) -> str:
    return ago(at, now=datetime.now(UTC)) if is_terminal() else at or ""
