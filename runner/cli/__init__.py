"""The command line: which commands there are, and nothing of what they do.

A command's module is imported when it is called, so that `dagmill --help` and `dagmill
validate` load no web server and no git. Exit codes: 0 succeeded, 1 a run failed, 2 the command
line, a file or a name is wrong, 130 interrupted. One rule: a new command is one line here and
one module with a click command of the same name.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

# Until a command has begun Ctrl-C ends the process as it ends any program, with no traceback out
# of the imports. A test that imports this goes on to hear of it.
if (
    sys.argv[0].rpartition("/")[2] in ("dagmill", "-m")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import click

# name → what `dagmill --help` says of it, in this order. The module is runner.cli.<name>.
COMMANDS = {
    "init": "Write a first workflow.",
    "serve": "Serve a repository: schedules, pushes, hooks and the API.",
    "run": "Run a workflow here and now, without a service.",
    "dry": "Show what a run would do, and do nothing.",
    "validate": "Check workflow files and print every problem.",
    "next": "Show when schedules start workflows.",
    "schema": "Print the JSON Schema of workflow files, for editors.",
    "doctor": "Check this machine for what Dagmill needs.",
    "demo": "Show the whole way of a commit in a temporary folder.",
    "trigger": "Ask a running service to start a workflow.",
    "runs": "List runs.",
    "show": "Show one run with its steps.",
    "logs": "Print the logs of a run.",
    "stop": "Stop a run.",
    "retry": "Do again what failed in a run.",
    "approve": "Let a step go on that waits for a person, or refuse it.",
    "status": "Show repositories, workflows and what comes next.",
}
_LINUX_ONLY = frozenset({"serve", "run", "demo"})
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports the one that is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in _LINUX_ONLY:
            _require_linux(cmd_name)
        command = getattr(import_module(f"runner.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)  # noqa: S101 — the one rule of this package
        _hear_interrupts(True)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            near = get_close_matches(name, COMMANDS, 1)
            hint = f'; did you mean "{near[0]}"?' if near else "; see `dagmill --help`"
            raise click.UsageError(f'there is no command "{name}"{hint}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command to ask it for its help.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _hear_interrupts(heard: bool) -> None:
    """Whether Ctrl-C is told to the command, which may have something to clear up."""
    if heard and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif not heard and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _require_linux(command: str) -> None:
    if sys.platform != "linux":
        raise click.ClickException(
            f"`dagmill {command}` needs Linux 5.4 or newer (pidfd and /proc), this is "
            f"{sys.platform}; `dagmill validate` and the commands that ask a service work here"
        )


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"dagmill {version('dagmill')}")
        ctx.exit()


@click.command(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Set DAGMILL_URL and DAGMILL_TOKEN to ask a service on another machine.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
def cli() -> None:
    """Commit workflows to git; Dagmill schedules them, runs them at the pinned commit and puts
    the results back."""


def main() -> NoReturn:
    """The console script."""
    try:
        code = cli.main(prog_name="dagmill", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        # A wrong file or name is the caller's mistake as much as a wrong option is.
        sys.exit(2 if error.exit_code == 1 else error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough. Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        where = f": {error.filename}" if error.filename else ""
        click.echo(f"Error: {error.strerror}{where}", err=True)
        sys.exit(2)
    finally:
        _hear_interrupts(False)
    sys.exit(code if isinstance(code, int) else 0)
