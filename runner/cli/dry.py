"""`dagmill dry FILE|ID`: what a run would do, for a person to read before it does.

Prints the outline; what stands in it is `outline`'s. One rule: no command runs, also none in
backticks, and no file is read but workflow files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import click

from runner.cli.local_workflow import bind, find_called, find_file, print_found, read
from runner.cli.outline import Called, outline
from runner.cli.terminal import shown, span

MOST_ITEMS = 5  # of a parallel step that are shown
MOST_LINES = 20  # of a script
_INDENT = "    "


@click.command()
@click.argument("workflow", metavar="FILE|ID")
@click.argument("params", nargs=-1, metavar="[-- K=V …]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def dry(ctx: click.Context, workflow: str, params: tuple[str, ...], as_json: bool) -> None:
    """Show the plan of a workflow file, or of the workflow ID of the repository you are in:
    its steps in the order in which they can start, with the values that are known.

    Nothing runs, and no backticks are evaluated. Exits 2 if the run would be bound to fail.
    """
    file = find_file(workflow, cwd=Path.cwd())
    loaded = read(file).loaded
    print_found(loaded)
    main = loaded.workflow
    if main is None:
        ctx.exit(2)
    bound = bind(main, params)
    document = outline(
        Called(main, main),
        bound,
        find=partial(find_called, file),
        outside=_outside(main.timezone),
    )
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for line in _workflow(document):
            click.echo(line)
    for problem in document["problems"]:
        click.echo(f"Error: {shown(problem)}", err=True)
    ctx.exit(2 if document["problems"] else 0)


def _outside(timezone: str | None) -> dict[str, str]:
    """What `dagmill run` would find now: the person's environment, DATE and MONTH."""
    from zoneinfo import ZoneInfo

    local = datetime.now(UTC).astimezone(ZoneInfo(timezone or "UTC"))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DAGMILL_")}
    return {"DATE": f"{local:%Y-%m-%d}", "MONTH": f"{local:%Y-%m}", **inherited}


def _workflow(document: dict[str, Any], depth: int = 0) -> Iterator[str]:
    """Lines for a person; a sub-workflow is indented below the step that calls it."""
    indent = _INDENT * depth
    title = click.style(shown(document["name"]), bold=True)
    yield f"{indent}{title}  {shown(document['path'])}"
    for name, value in _facts(document):
        yield f"{indent}  {name:<14} {shown(value)}"
    if document.get("described"):
        yield f"{indent}  its steps are shown above"
        return
    steps = {step["name"]: step for step in document["steps"]}
    for number, names in enumerate(document["waves"], 1):
        together = f"  ({len(names)} at once)" if len(names) > 1 else ""
        yield f"{indent}  {click.style(f'── {number}{together}', fg='bright_black')}"
        for name in names:
            yield from _step(steps[name], depth)
    if document["handlers"]:
        yield f"{indent}  {click.style('── when the steps are over', fg='bright_black')}"
    for handler in document["handlers"]:
        yield from _step(handler, depth)


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _texts(document, ("description", "working_dir", "queue", "concurrency"))
    yield from (("param", f"{k}={v}") for k, v in document["params"].items())
    yield from (("env", f"{k}={v}") for k, v in document.get("env", {}).items())
    yield from (("dotenv", name) for name in document.get("dotenv", ()))
    for secret in document.get("secrets", ()):
        yield "secret", f"{secret['name']}, read from {secret['from']} when it starts"
    yield from _conditions(document)
    if seconds := document.get("delay_s"):
        yield "starts", f"{span(seconds)} after it was asked for"
    if seconds := document.get("timeout_s"):
        yield "time limit", span(seconds)
    if number := document.get("max_active_steps"):
        yield "at once", f"at most {number} steps"


def _texts(document: dict[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        if text := document.get(name):
            yield name.replace("_", " "), text


def _conditions(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for condition in document.get("preconditions", ()):
        yield "only if", _condition(condition)


def _condition(condition: dict[str, str]) -> str:
    if "command" in condition:
        return f"`{condition['command']}` succeeds"
    return f"{condition['condition']} is {condition['expected']}"


def _step(step: dict[str, Any], depth: int) -> Iterator[str]:
    indent = _INDENT * depth + "  "
    after = f"  after {', '.join(step['depends'])}" if step.get("depends") else ""
    name = click.style(shown(step["name"]), fg="cyan")
    yield f"{indent}{name}{click.style(shown(after), fg='bright_black')}"
    for word, value in (*_work(step), *_around(step)):
        for number, line in enumerate(value.rstrip("\n").split("\n")):
            yield f"{indent}  {word if not number else '':<14} {shown(line)}"
    call = step.get("run")
    if call and "workflow" in call:
        yield from _workflow(call["workflow"], depth + 1)


def _work(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if "approval" in step:
        asked = step["approval"]
        who = f" ({', '.join(asked['roles'])})" if asked.get("roles") else ""
        until = span(asked["timeout_s"])
        yield "waits for", f"a person{who}, at most {until}: {asked.get('message') or 'approval'}"
    if "command" in step:
        yield "command", step["command"]
    if "argv" in step:
        yield "command", json.dumps(step["argv"], ensure_ascii=False)
    if "script" in step:
        lines = step["script"].rstrip("\n").split("\n")
        more = [f"… {len(lines) - MOST_LINES} more lines"] if len(lines) > MOST_LINES else []
        yield "script", "\n".join([*lines[:MOST_LINES], *more])
    if "executor" in step:
        yield "executor", step["executor"]["type"]
        yield from ((f"  {k}", _value(v)) for k, v in step["executor"]["config"].items())
    if "run" in step:
        call = step["run"]
        why = call.get("unknown") or call.get("problem")
        yield "runs", call["name"] + (f" ({why})" if why else "")
        yield from (("  with", f"{k}={v}") for k, v in call["params"].items())


def _around(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from (("env", f"{k}={v}") for k, v in step.get("env", {}).items())
    yield from _texts(step, ("dir", "stdout", "stderr", "output"))
    yield from _conditions(step)
    if parallel := step.get("parallel"):
        yield "for each of", _items(parallel)
    if retry := step.get("retry"):
        yield "if it fails", _retry(retry)
    if repeat := step.get("repeat"):
        yield "repeats", _repeat(repeat)
    if seconds := step.get("timeout_s"):
        yield "time limit", span(seconds)
    if policy := step.get("continue_on"):
        yield "goes on at", ", ".join(_policy(k, v) for k, v in policy.items())


def _items(parallel: dict[str, Any]) -> str:
    at_once = f", {parallel['max_concurrent']} at once"
    if "items" not in parallel:
        return f"{parallel['source']}, known only in a run{at_once}"
    items = parallel["items"]
    some = ", ".join(items[:MOST_ITEMS]) + (", …" if len(items) > MOST_ITEMS else "")
    return f"{len(items)} item{'' if len(items) == 1 else 's'}{at_once}: {some}"


def _retry(retry: dict[str, Any]) -> str:
    codes = retry.get("exit_codes")
    only = f" with exit code {_value(codes)}" if codes else ""
    times = f"{retry.get('limit', 0)} more time{'' if retry.get('limit') == 1 else 's'}"
    return f"{times}{only}, {_waits(retry)}"


def _repeat(repeat: dict[str, Any]) -> str:
    words = [{"always": "as long as it succeeds"}.get(repeat["mode"], repeat["mode"])]
    if condition := repeat.get("condition"):
        words.append(_condition(condition))
    if codes := repeat.get("exit_codes"):
        words.append(f"the exit code is {_value(codes)}")
    most = f", at most {repeat['limit']} times" if repeat.get("limit") else ""
    return f"{' '.join(words)}, {_waits(repeat)}{most}"


def _waits(policy: dict[str, Any]) -> str:
    words = f"after {span(policy['interval_s'])}" if policy.get("interval_s") else "at once"
    if policy.get("interval_s") and policy.get("factor", 1) != 1:
        words += f", each wait {policy['factor']:g} times the last"
        if most := policy.get("max_interval_s"):
            words += f", up to {span(most)}"
    return words


def _policy(name: str, value: Any) -> str:
    word = {"exit_codes": "exit code", "mark_success": "(counts as success)"}.get(name, name)
    return word if value is True else f"{word} {_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
        return ", ".join(str(one) for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
