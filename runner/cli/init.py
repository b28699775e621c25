"""`dagmill init [DIR]`: a first workflow, with comments that say what its keys mean.

Writes one file. Its rule: what is there already is never changed, and what is written runs as it
is, here and in a service, without starting anything by itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from runner.cli.terminal import shown
from runner.cli.working_tree import DEFAULT_FOLDER, ENDINGS, repository_root

NAME = "hello"
HELLO = """\
# A first workflow. Its id is its path below .dagu without the ending: "hello".
# Every key is explained in docs/language of Dagmill. Try this one here and now:
#
#   dagmill run hello                  its steps, in this folder, without a service
#   dagmill run hello -- WHO=Ada       with another parameter
#   dagmill dry hello                  what would run, without running it

name: hello
description: Says hello and counts the workflows of this repository.

# When a service runs it by itself: minute, hour, day, month, weekday. Take the # away to switch
# it on; `dagmill next` shows the times.
# schedule: "30 6 * * MON-FRI"
# timezone: Europe/Vienna

# Runs on each push to main that a service sees. Also commented out:
# on:
#   push: {branches: [main]}

# Values for a start; steps see each as a variable, $WHO. A start may give others.
params:
  - WHO: world

# Steps start as soon as what they depend on has succeeded; these two at once.
steps:
  - name: greet
    command: echo "Hello, $WHO. This is $DAG_NAME, run $DAG_RUN_ID."

  - name: count
    command: find .dagu -name '*.yaml' | wc -l
    output: WORKFLOWS # what it prints becomes a variable of the steps after it

  - name: report
    depends: [greet, count]
    command: |
      echo "There are $WORKFLOWS workflows here."
      echo "The commit is ${GIT_COMMIT:-not known}."
    retryPolicy: {limit: 2, intervalSec: 5} # if it fails: twice more, 5 seconds apart

# One of these follows the steps; `exit` always runs, as the last.
handlerOn:
  failure:
    command: echo "It failed; see $DAG_RUN_LOG_FILE"
  exit:
    command: echo "The run $DAG_RUN_STATUS."
"""


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path), required=False)
def init(folder: Path | None) -> None:
    """Write a first workflow, .dagu/hello.yaml, into DIR.

    DIR is the root of a repository; by default that of the one that you are in. A file that is
    there already is never changed.
    """
    place = folder or repository_root(Path.cwd()) or Path()
    file = _write(place / DEFAULT_FOLDER)
    click.echo(f"wrote {_said(file)}")
    click.echo("\nNext:")
    for command, why in _steps(place):
        click.echo(f"  {command:<34} {why}")


def _write(workflows: Path) -> Path:
    """Raises a usage error where it is there already or cannot be written."""
    file = workflows / f"{NAME}{ENDINGS[0]}"
    for ending in ENDINGS:
        there = workflows / f"{NAME}{ending}"
        if os.path.lexists(there):
            raise click.UsageError(
                f"{_said(there)} is there already and stays as it is; `dagmill run {NAME}` runs it"
            )
    try:
        workflows.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(HELLO)
    except OSError as error:
        raise click.UsageError(
            f"{_said(file)} cannot be written: {error.strerror or error}; "
            "give a folder in which you may write"
        ) from error
    return file


def _steps(place: Path) -> list[tuple[str, str]]:
    """What to do now, as (command, why)."""
    steps = [] if place.resolve() == Path.cwd() else [(f"cd {_said(place)}", "")]
    steps += [
        (f"dagmill run {NAME}", "run it here and now"),
        ("dagmill validate", "check all workflow files"),
    ]
    root = repository_root(place)
    if root is None:
        steps.append(("git init", "a service runs what is committed"))
    steps += [
        ("git add .dagu && git commit", "commit it"),
        ("dagmill serve .", "serve this repository, or give a URL"),
        ("dagmill doctor", "look whether this machine has what that needs"),
    ]
    return steps


def _said(path: Path) -> str:
    text = os.path.relpath(path)
    return shown(text if len(text) < len(str(path.absolute())) else str(path.absolute()))
