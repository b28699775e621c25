"""`dagmill run FILE|ID`: one workflow here and now, on the same engine, without a service.

Uses the working tree as it is and a private folder under the user's state folder; imports only
what the run needs. One rule: with `--json` the summary is the only thing on stdout.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import platform
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from runner.cli.terminal import shown
from runner.engine import journal, summary
from runner.engine.engine import Engine
from runner.engine.events import Cancelled, Ended, Event, Finished, Launched, Prepared, Skipped
from runner.engine.history import History
from runner.engine.state import RunState, RunStatus, StepState
from runner.language import params as language_params
from runner.language.load import MAX_BYTES, Loaded, load, workflow_id
from runner.language.model import Workflow
from runner.triggers import Trigger, TriggerType, manual_key
from storage.git_program import GitProgramFailed, run_git
from storage.mask import Mask
from storage.sqlite import open_store

KEPT_DAYS = 30
_GOOD = (RunStatus.SUCCEEDED, RunStatus.SKIPPED)
_WORKFLOWS = ".dagu"


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A workflow's file, the folder that its run uses, and what git knows of it."""

    path: Path
    shown: str
    id: str
    root: Path
    in_git: bool


@click.command()
@click.argument("workflow", metavar="FILE|ID")
@click.argument("params", nargs=-1, metavar="[-- K=V …]")
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary and nothing else.")
@click.pass_context
def run(ctx: click.Context, workflow: str, params: tuple[str, ...], as_json: bool) -> None:
    """Run a workflow file, or the workflow ID of the repository you are in.

    Runs in the working tree as it is. Exits 0 if it succeeded or was skipped, 1 if not, 2 if the
    file or a parameter is wrong, 130 if it was interrupted.
    """
    file = find_file(workflow, cwd=Path.cwd())
    source = _read(file)
    loaded = load(source, path=file.shown, id=file.id)
    for problem in (*loaded.problems, *loaded.warnings):
        mark = "" if problem in loaded.problems else "warning: "
        click.echo(f"{mark}{problem}", err=True)
    if loaded.workflow is None:
        ctx.exit(2)
    bound = _bind(loaded.workflow, params)
    folder = _state_folder(os.environ)
    document, interrupted = asyncio.run(
        _run(file, loaded, source=source.decode(), bound=bound, folder=folder, quiet=as_json)
    )
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    ctx.exit(130 if interrupted else 0 if document["status"] in _GOOD else 1)


def find_file(text: str, *, cwd: Path) -> LocalFile:
    """The file that FILE|ID means. Raises click.UsageError."""
    root = _repository_root(cwd)
    path = Path(text)
    if not (path.suffix in (".yaml", ".yml") or path.is_file()):
        base = (root or cwd) / _WORKFLOWS
        found = [p for s in (".yaml", ".yml") if (p := base / f"{text}{s}").is_file()]
        if not found:
            raise click.UsageError(
                f"there is no file {text} and no workflow {base / text}.yaml; "
                "give a file, or an id while you are in its repository"
            )
        path = found[0]
    path = (cwd / path).resolve()
    if not path.is_file():
        raise click.UsageError(f"there is no file {path}")
    root = _repository_root(path.parent)
    folder = root or path.parent
    relative = path.relative_to(folder)
    below = relative.parts[1:] if relative.parts[0] == _WORKFLOWS else (relative.name,)
    if root is None and _WORKFLOWS in path.parent.parts:
        last = max(n for n, part in enumerate(path.parent.parts) if part == _WORKFLOWS)
        below = path.parts[last + 1 :]
    try:
        id = workflow_id("/".join(below))
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    return LocalFile(path, str(relative), id, folder, root is not None)


def _repository_root(start: Path) -> Path | None:
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".git").exists():
            return folder
    return None


def _read(file: LocalFile) -> bytes:
    try:
        with file.path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)  # one more is enough to notice
    except OSError as error:
        raise click.UsageError(f"{file.path} cannot be read: {error.strerror}") from error


def _bind(workflow: Workflow, given: tuple[str, ...]) -> language_params.Bound:
    try:
        return language_params.bind(
            workflow.params,
            language_params.from_arguments(given),
            mentioned=lambda name: language_params.mentions(workflow, name),
        )
    except language_params.ParamError as error:
        raise click.UsageError(str(error)) from error


def _state_folder(env: Mapping[str, str]) -> Path:
    """Where local runs are kept; those older than 30 days are deleted."""
    folder = Path(env.get("XDG_STATE_HOME") or "~/.local/state") / "dagmill" / "local"
    try:
        folder = folder.expanduser().absolute()  # steps start in other folders
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except (OSError, RuntimeError) as error:  # RuntimeError: this user has no home
        why = getattr(error, "strerror", None) or error
        raise click.UsageError(
            f"local runs cannot be kept in {folder}: {why}; set XDG_STATE_HOME to a folder of yours"
        ) from error
    oldest = f"{datetime.now(UTC) - timedelta(days=KEPT_DAYS):%Y%m%d}"
    for old in folder.iterdir():
        if old.name[:8].isdigit() and old.name[:8] < oldest:
            shutil.rmtree(old, ignore_errors=True)
    return folder


def _origin(file: LocalFile, home: Path) -> journal.Origin:
    """Commit and cleanliness of the working tree, empty where git cannot tell."""
    if not file.in_git:
        return journal.Origin()
    try:
        answer = run_git(
            ["status", "--porcelain=v2", "--branch", "--no-renames"],
            cwd=file.root,
            home=home,
            timeout_s=10,
            output_limit_bytes=16 << 20,
        ).decode(errors="replace")
    except GitProgramFailed:
        return journal.Origin()
    facts = dict(line[2:].split(" ", 1) for line in answer.splitlines() if line.startswith("# "))
    commit, branch = facts.get("branch.oid", ""), facts.get("branch.head", "")
    return journal.Origin(
        ref="" if branch in ("", "(detached)") else f"refs/heads/{branch}",
        commit="" if commit == "(initial)" else commit,
        dirty=any(not line.startswith("# ") for line in answer.splitlines()),
    )


async def _run(
    file: LocalFile,
    loaded: Loaded,
    *,
    source: str,
    bound: language_params.Bound,
    folder: Path,
    quiet: bool,
) -> tuple[summary.Document, bool]:
    """Queue, start and complete the run. Returns its summary and whether it was interrupted."""
    workflow = loaded.workflow
    assert workflow is not None  # noqa: S101 — the caller looked
    run = journal.new_run_id(_now())
    place = folder / run
    store = open_store(place, durability="process")
    try:
        engine = Engine(
            store=store,
            runs=place,
            workspaces=file.root,
            clock=_now,
            inherited={k: v for k, v in os.environ.items() if not k.startswith("DAGMILL_")},
            mask=Mask(()),
            zone="UTC",
            observe=None if quiet else _Screen(place).show,
        )
        trigger = Trigger(TriggerType.MANUAL, manual_key(run), _now(), actor=_user())
        await store.write(
            *journal.queued_writes(
                run,
                at=_now(),
                workflow=workflow,
                source=source,
                origin=_origin(file, place),
                trigger=trigger,
                params=bound,
            )
        )
        row = await store.run(run)
        assert row is not None  # noqa: S101 — it was just written
        await store.write(
            *journal.started_writes(row, at=_now(), runner=_version(), host=platform.node(), room=0)
        )
        interrupts = _stop_on_signals(engine, run)
        await engine.complete(run)
        state = (await History.read(store, run)).state()
        return summary.document(run, state), bool(interrupts)
    finally:
        await store.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return str(os.getuid())


def _version() -> str:
    from importlib.metadata import version

    return version("dagmill")


def _stop_on_signals(engine: Engine, run: str) -> list[int]:
    """Stop gracefully at the first signal and kill at the second; returns those that came."""
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        more = "once more kills" if len(came) == 1 else "killing"
        with suppress(OSError):  # a closed terminal (HUP) reads nothing
            click.echo(f"stopping ({more})", err=True)
        engine.stop(run, signal.Signals(number).name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
            loop.add_signal_handler(number, stop, number)
    return came


class _Screen:
    """Live lines of a run: what began, what ended and how, the output of each step.

    The run goes on when nobody reads them any more: its steps have begun, and its status is told
    by the exit code.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._began: dict[str, datetime] = {}

    def show(self, state: RunState, new: Sequence[Event]) -> None:
        try:
            self._show(state, new)
            sys.stdout.flush()
        except OSError:  # a closed pipe, a full disk; Python would complain again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _show(self, state: RunState, new: Sequence[Event]) -> None:
        for event in new:
            match event:
                case Launched():
                    self._began[event.step] = event.at
                    again = f" (attempt {event.attempt})" if event.attempt > 1 else ""
                    self._line("▶", "blue", f"{event.step}{again}")
                case Ended():
                    self._ended(state.steps[state.index[event.step]], event)
                case Skipped():
                    self._line("∅", "bright_black", f"{event.step}: skipped, {event.reason}")
                case Cancelled():
                    self._line("■", "yellow", f"{event.step}: cancelled, {event.reason}")
                case Prepared(met=False, step=str(step)):
                    self._line("∅", "bright_black", f"{step}: skipped, {event.reason}")
                case Prepared(error=str(error), step=str(step)) if error:
                    self._line("✘", "red", f"{step}: {error}")
                case Finished():
                    self._finished(state, event)
                case _:
                    pass

    def _ended(self, step: StepState, event: Ended) -> None:
        if event.log is not None and event.log.tail:
            lines = event.log.tail.rstrip("\n").split("\n")
            more = event.log.lines - len(lines)
            if more > 0:
                click.echo(f"  │ … {more} lines before")
            for line in lines:
                click.echo(f"  │ {shown(line)}")
        began = self._began.get(event.step, event.at)
        took = summary.duration((event.at - began) // timedelta(milliseconds=1))
        if not event.reason:
            self._line("✔", "green", f"{event.step} ({took})")
        else:
            again = ", will be tried again" if step.due is not None else ""
            self._line("✘", "red", f"{event.step} ({took}): {event.reason}{again}")

    def _finished(self, state: RunState, event: Finished) -> None:
        good = event.status in _GOOD
        started_at = state.started.at if state.started else event.at
        took = summary.duration((event.at - started_at) // timedelta(milliseconds=1))
        why = f": {event.reason}" if event.reason else ""
        self._line(
            "✔" if good else "✘", "green" if good else "red", f"{event.status} ({took}){why}"
        )
        click.echo(f"  logs: {self._folder}")

    @staticmethod
    def _line(mark: str, colour: str, text: str) -> None:
        click.echo(f"{click.style(mark, fg=colour)} {shown(text)}")
