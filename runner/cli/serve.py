"""`dagmill serve`: settings and logging for the service, and what it tells a person.

Knows the command line; leaves the service to `assembly`. Its rule: facts go to stderr as log
lines, sentences for people to stdout.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from runner.assembly import Leaving, Started
    from runner.control.reconciler import Reconciled

_LISTED = 10  # names shown of a longer list


@click.command()
@click.argument("repository", metavar="REPO")
@click.option("--branch", help="The served branch; default: the remote's HEAD.")
@click.option(
    "--watch",
    multiple=True,
    metavar="PATTERN",
    help="Branches that may start runs (refs/tags/… for tags); may be given again. "
    "Default: the served branch, and tags in its history.",
)
@click.option("--path", help="The folder of the workflows; default: .dagu")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder; default: /var/lib/dagmill as root, else the user's state folder.",
)
@click.option("--host", help="Where to listen; default: 127.0.0.1")
@click.option("--port", type=int, help="Default: 8080; 0 takes a free one.")
@click.option(
    "--queue",
    multiple=True,
    metavar="NAME=MAX",
    help="How many runs of a named queue may be active at once; may be given again. Default: 1",
)
@click.option("--poll", type=float, metavar="SECONDS", help="Between two looks; default: 30")
def serve(
    repository: str,
    branch: str | None,
    watch: tuple[str, ...],
    path: str | None,
    data: Path | None,
    host: str | None,
    port: int | None,
    queue: tuple[str, ...],
    poll: float | None,
) -> None:
    """Watch REPO (a URL or a path) and run its workflows: at their schedules, on pushes, hooks
    and requests.

    Every setting can be given as a variable DAGMILL_…; credentials only there:
    DAGMILL_HOOK_SECRET, DAGMILL_GIT_TOKEN, DAGMILL_GIT_USERNAME, DAGMILL_SSH_KEY_FILE.
    """
    from runner import listening

    listening.leave_on_signals()
    from runner import assembly, log, settings

    flags = {
        "repository": repository,
        "branch": branch,
        "watch": watch,
        "path": path,
        "data": data,
        "host": host,
        "port": port,
        "queues": queue,
        "poll_s": poll,
    }
    log.configure(sys.stderr)
    try:
        known = settings.load(flags, environ=os.environ)
        with asyncio.Runner() as runner:
            code = runner.run(assembly.serve(known, environ=os.environ, announcer=Terminal()))
            _leave(code)
    except (settings.SettingsError, listening.StartRefused) as error:
        raise click.ClickException(str(error)) from error


def _leave(code: int) -> NoReturn:
    """End the process now. All that must be kept is written; what may still run is a thread that
    waits for a silent git server, and Python would wait for it for a minute or more."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def _say(sentence: str) -> None:
    """Nobody need be there to hear it: the terminal may be closed, the file's disk full."""
    with contextlib.suppress(OSError):
        click.echo(sentence)


class Terminal:
    """The sentences of `serve`. An Announcer."""

    def listening(self, started: Started) -> None:
        say = _say
        say(f"Serving {started.shown_url} as {started.repository}")
        say(f"  listening on  {started.url}")
        hooks = "" if started.hooks_on else "  (refused until DAGMILL_HOOK_SECRET is set)"
        say(f"  hook URL      {started.hook_url}{hooks}")
        say(f"  token         {started.token_file}")
        say(f"  data          {started.data}")

    def applied(self, reconciled: Reconciled) -> None:
        from runner.cli.terminal import shown

        applied, diff = reconciled.applied, reconciled.diff
        scheduled = sum(bool(live.entry.crons) for live in applied.workflows.values())
        _say(
            f"Reconciled {applied.repository} at {applied.commit[:10]}: "
            f"{_count(len(applied.workflows), 'workflow')}, {scheduled} scheduled"
        )
        for word in ("added", "changed", "removed"):
            _say_list(word, getattr(diff, word))
        for word in ("added", "changed", "removed"):
            _say_list(f"schedule {word}", getattr(diff, f"schedules_{word}"))
        for problems in reconciled.catalog.problems.values():
            for problem in problems:
                _say(f"  {shown(str(problem))}")
        _say_list("kept at an older commit", [w for w, v in applied.workflows.items() if v.stale])

    def hindered(self, problem: str) -> None:
        from runner.cli.terminal import shown

        _say(f"{click.style('Problem:', fg='yellow')} {shown(problem)}")

    def stopping(self, leaving: Leaving) -> None:
        if not leaving.runs:
            _say("Stopping; nothing is running.")
            return
        what = (
            f"Stopping; {_count(leaving.runs, 'run')} under way, "
            f"{_count(leaving.steps, 'step')} still running"
        )
        wait = f"{leaving.wait_s:g} s"
        if leaving.ends:
            _say(
                f"{what}; steps that take longer than {wait} are ended, and the next start goes on "
                "with the runs. Ctrl-C again ends the runs."
            )
        elif leaving.wait_s:
            _say(
                f"{what}, left to the next start, which goes on with them. "
                f"Ctrl-C again within {wait} ends them."
            )
        else:
            _say(
                f"{what}, left to the next start, which goes on with them. "
                "To end them, start again and press Ctrl-C twice."
            )


def _say_list(title: str, names: tuple[str, ...] | list[str]) -> None:
    if not names:
        return
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    _say(f"  {title}: {', '.join(names[:_LISTED])}{more}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
