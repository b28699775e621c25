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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from runner.cli import local_workflow
from runner.cli.approvals import Answer, Approvals, how
from runner.cli.local_workflow import LocalFile, Source, find_file
from runner.cli.screen import Screen
from runner.engine import journal, summary
from runner.engine.engine import Engine
from runner.engine.events import Event
from runner.engine.history import History
from runner.engine.secret_values import SecretAccess
from runner.engine.state import RunState, RunStatus
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType, manual_key
from storage.git_program import GitProgramFailed, run_git
from storage.mask import Mask
from storage.records import Write
from storage.sqlite import open_store

KEPT_DAYS = 30
_GOOD = (RunStatus.SUCCEEDED, RunStatus.SKIPPED)
_LOOK_S = 0.02

__all__ = ["find_file", "run"]


@click.command()
@click.argument("workflow", metavar="FILE|ID")
@click.argument("params", nargs=-1, metavar="[-- K=V …]")
@click.option("--approve", is_flag=True, help="Approve every step that asks for it.")
@click.option("--commit", metavar="REV", help="In a checkout of this commit, as it is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the run's summary and nothing else.")
@click.pass_context
def run(
    ctx: click.Context,
    workflow: str,
    params: tuple[str, ...],
    approve: bool,
    commit: str | None,
    as_json: bool,
) -> None:
    """Run a workflow file, or the workflow ID of the repository you are in.

    Runs in the working tree as it is, with the sub-workflows in it. Exits 0 if it succeeded or was
    skipped, 1 if not, 2 if the file or a parameter is wrong, 130 if it was interrupted.
    """
    run, folder = journal.new_run_id(_now()), _state_folder(os.environ)
    with _workflow(workflow, commit=commit, run=run, folder=folder) as (file, origin):
        source = local_workflow.read(file)
        local_workflow.print_found(source.loaded)
        if source.loaded.workflow is None:
            ctx.exit(2)
        bound = local_workflow.bind(source.loaded.workflow, params)
        local = _Local(run, file, source, bound, origin, folder / run)
        document, interrupted = asyncio.run(_run(local, quiet=as_json, answer=how(approve=approve)))
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    ctx.exit(130 if interrupted else 0 if document["status"] in _GOOD else 1)


@contextmanager
def _workflow(
    text: str, *, commit: str | None, run: str, folder: Path
) -> Iterator[tuple[LocalFile, journal.Origin]]:
    """The file that FILE|ID means; that of a commit is in a checkout, which is deleted after it."""
    if commit is None:
        file = find_file(text, cwd=Path.cwd())
        yield file, _origin(file, folder)
        return
    from runner.cli.checkout import checkout  # here: it loads pygit2

    files = folder / f"{run}.files"
    try:
        yield checkout(text, commit, cwd=Path.cwd(), folder=files)
    finally:
        shutil.rmtree(files, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class _Local:
    """A run that is to be made: of what, at which commit, and where its logs go."""

    run: str
    file: LocalFile
    source: Source
    bound: Bound
    origin: journal.Origin
    place: Path


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


async def _run(local: _Local, *, quiet: bool, answer: Answer) -> tuple[summary.Document, bool]:
    """Queue, start and complete the run. Returns its summary and whether it was interrupted."""
    run, place = local.run, local.place
    interrupts = _Interrupts(run)
    interrupts.listen()
    store = open_store(place, durability="process")
    approvals = Approvals(answer, root=run, by=_user())
    screen = None if quiet else Screen(place, root=run, asks=answer is Answer.ASK)
    own = {k: v for k, v in os.environ.items() if not k.startswith("DAGMILL_")}

    def observe(state: RunState, new: Sequence[Event]) -> None:
        if screen is not None:
            screen.show(state, new)
        approvals.watch(state, new)

    try:
        engine = Engine(
            store=store,
            runs=place,
            workspaces=local.file.root,
            clock=_now,
            inherited=own,
            mask=Mask(()),
            zone="UTC",
            observe=observe,
            library=local.file.library,
            secrets=SecretAccess(own),
        )
        approvals.answer_through(engine.request)
        await store.write(*_queued(local))
        row = await store.run(run)
        assert row is not None  # noqa: S101 — it was just written
        await store.write(
            *journal.started_writes(row, at=_now(), runner=_version(), host=platform.node(), room=0)
        )
        if interrupts.came:
            raise KeyboardInterrupt  # nothing has begun
        interrupts.stop_with(engine)
        await engine.complete(run)
        state = (await History.read(store, run)).state()
        return summary.document(run, state), bool(interrupts.came)
    finally:
        approvals.close()
        await store.close()


def _queued(local: _Local) -> tuple[Write, ...]:
    workflow = local.source.loaded.workflow
    assert workflow is not None  # noqa: S101 — the caller looked
    return journal.queued_writes(
        local.run,
        at=_now(),
        workflow=workflow,
        source=local.source.text.decode("utf-8-sig"),
        base=local.source.base,
        origin=local.origin,
        trigger=Trigger(TriggerType.MANUAL, manual_key(local.run), _now(), actor=_user()),
        params=local.bound,
    )


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


class _Interrupts:
    """Signals that end the run: the first gracefully, the second at once. One that comes before
    the run has begun keeps it from beginning."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._engine: Engine | None = None
        self.came: list[int] = []

    def listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup wants it
                loop.add_signal_handler(number, self._on, number)

    def stop_with(self, engine: Engine) -> None:
        self._engine = engine

    def _on(self, number: int) -> None:
        self.came.append(number)
        if self._engine is None:
            return
        more = "once more kills" if len(self.came) == 1 else "killing"
        with suppress(OSError):  # a closed terminal (HUP) reads nothing
            click.echo(f"stopping ({more})", err=True)
        self._stop(self._engine, signal.Signals(number).name)

    def _stop(self, engine: Engine, by: str) -> None:
        if not engine.stop(self._run, by):  # it is just being taken up
            asyncio.get_running_loop().call_later(_LOOK_S, self._stop, engine, by)
