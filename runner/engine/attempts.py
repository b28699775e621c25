"""From a run's state and values to the task of an attempt, and from its end to the fact.

Brings together what a step or an item sees (`names`), lays out the files of a launch, and reads
what an attempt left: log, outputs, exit. All of one run; does file I/O, decides nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from runner.engine import command_line, items, scope, stream_files, summary, workspace
from runner.engine.command_line import SCRIPT, CommandLine
from runner.engine.endings import Endings
from runner.engine.events import Launched
from runner.engine.history import History
from runner.engine.journal import RUN_SCOPE
from runner.engine.names import FILE, OUT, Names
from runner.engine.parts import Parts
from runner.engine.preparations import Preparations
from runner.engine.scope import ScopeError, StepTexts
from runner.engine.state import RunState, StepStatus, Unit
from runner.executors.base import Call, Earlier, Task
from runner.language.model import Step
from runner.veil import Veil
from storage.mask import Mask

_LOCAL = frozenset({"command", "shell"})


class Attempts:
    """The steps of one run on their way to a process and back."""

    def __init__(
        self,
        history: History,
        *,
        state: RunState,
        parts: Parts,
        folder: Path,
        workspace: Path,
    ) -> None:
        self._run = history.run
        self._workflow = history.workflow
        self._parts = parts
        self._folder = folder
        self._place = workspace
        self._handed: dict[str, str] = {}  # launch of a handler → its DAG_RUN_SUMMARY_FILE
        self._seen = Names(history, state=state, parts=parts, folder=folder)
        self._carried = self._place_carried(state)
        self.preparations = Preparations(
            history.run,
            workflow=history.workflow,
            seen=self._seen,
            parts=parts,
            folder=folder,
            place=workspace,
        )
        self.endings = Endings(workflow=history.workflow, seen=self._seen)

    @property
    def state(self) -> RunState:
        return self._seen.state

    @state.setter
    def state(self, state: RunState) -> None:
        self._seen.state = state

    @property
    def mask(self) -> Mask:
        """What hides the run's secrets, as far as they are known by now."""
        return self._seen.mask

    @property
    def veil(self) -> Veil:
        """What hides declared secrets in what is stored."""
        return self._seen.veil

    # The run's own files

    def lay_out(self) -> None:
        """Make the run's folder with the files that its variables name. Raises OSError."""
        (self._folder / "artifacts").mkdir(parents=True, exist_ok=True)
        if self._seen.event_file.parent == self._folder:
            workspace.write(self._seen.event_file, self._event())
        (self._folder / "log").touch()
        for path, value in self._carried:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                workspace.write(path, value)

    def _event(self) -> str:
        """What started the run: what was sent to the workflow's own endpoint, as it came, or what
        is known of it."""
        kept = self._seen.values.get((RUN_SCOPE, "event"))
        if kept is not None:
            return kept
        trigger, fixed = self._seen.trigger, self._seen.fixed
        event = {
            "type": trigger.type.value,
            "before": trigger.before,
            "after": trigger.after,
            "actor": trigger.actor,
            "delivery": trigger.delivery,
            "slot": trigger.slot.isoformat() if trigger.slot else None,
            "ref": fixed["GIT_REF"],
            "repository": fixed["GIT_REPOSITORY"],
        }
        return json.dumps(event)

    def _place_carried(self, state: RunState) -> tuple[tuple[Path, str], ...]:
        """Outputs that were taken over get files of this run."""
        found = []
        for step in state.steps:
            if not step.carried:
                continue
            for note in step.outputs:
                path = self._seen.step_folder(step) / f"output-{note.name}"
                self._seen.values[OUT + step.step.name, note.name + FILE] = str(path)
                found.append((path, self._seen.values[OUT + step.step.name, note.name]))
        return tuple(found)

    # Tasks

    def directory(self, step: str, texts: StepTexts | None = None) -> Path:
        """Where a step runs. Raises ScopeError if it is not a folder."""
        where = self.preparations.root()
        if texts is not None and texts.dir is not None:
            where = where / texts.dir
        if not where.is_dir():
            raise ScopeError(f'step "{step}": its directory {where} does not exist')
        return where

    def task(self, step: str, attempt: int, launch: str, item: int | None = None) -> Task:
        """The next attempt of a step or an item. Raises ScopeError; touches no file."""
        if self.preparations.unread:
            raise ScopeError(self.preparations.unread)
        unit = self.state.unit_of(step, item)
        folder = self._seen.launch_folder(unit, attempt, launch)
        more = self._of_launch(unit, folder, attempt)
        texts = self.preparations.texts(unit, more)
        self._require(unit, texts, more)
        cwd = self.directory(step, texts)
        seen = self._seen.of(unit, texts.env, more={**more, "PWD": str(cwd)})
        line = self._line(unit.step, texts, seen)
        self._hide(texts)
        if unit.index >= self.state.first_handler:
            document = summary.document(self._run, self.state)
            self._handed[launch] = json.dumps(document, ensure_ascii=False)
        return Task(
            self._run,
            step,
            attempt,
            launch,
            folder,
            cwd,
            line.env,
            tuple(str(folder / "script") if w is SCRIPT else w for w in line.argv),
            line.script,
            self._seen.separate(unit.step),
            item=item,
            call=self._call(unit, texts),
            stdout=_target("stdout", texts.stdout, cwd),
            stderr=_target("stderr", texts.stderr, cwd),
        )

    def _of_launch(self, unit: Unit, folder: Path, attempt: int) -> dict[str, str]:
        separate = self._seen.separate(unit.step)
        return {
            "DAG_STEP_ATTEMPT": str(attempt),
            "DAG_RUN_STEP_STDOUT_FILE": str(folder / "out"),
            "DAG_RUN_STEP_STDERR_FILE": str(folder / ("err" if separate else "out")),
            "DAG_RUN_OUTPUT_FILE": str(folder / "outputs"),
        }

    def _require(self, unit: Unit, texts: StepTexts, more: dict[str, str]) -> None:
        """Raises ScopeError for a path or name that came out empty."""
        step = unit.step
        wanted = (
            ("dir", step.dir, texts.dir),
            ("run", step.run, texts.run),
            ("stdout", step.stdout, texts.stdout),
            ("stderr", step.stderr, texts.stderr),
        )
        for what, text, value in wanted:
            if text and value is not None and ("{{" in value or not value.strip()):
                seen = self._seen.of(unit, texts.env, more=more)
                scope.required(what, text, value, seen, self._seen.refs)

    def _line(self, step: Step, texts: StepTexts, seen: dict[str, str]) -> CommandLine:
        if step.run is not None:
            return CommandLine((), {})
        if step.executor is not None and step.executor.type not in _LOCAL:
            return CommandLine((), scope.exported(seen))
        return command_line.command_line(
            self._workflow,
            step,
            texts,
            scope=seen,
            refs=self._seen.refs,
            positional=self._seen.run_scope.positional,
        )

    def _call(self, unit: Unit, texts: StepTexts) -> Call | None:
        if texts.run is None:
            return None
        item = self._seen.item_text(unit)
        params, from_data = texts.params, False
        if not unit.step.params and item is not None:
            params = items.child_params(item)
            parallel = unit.step.parallel
            from_data = parallel is not None and parallel.source is not None
        given = tuple((param.name, param.value) for param in params)
        return Call(texts.run, given, from_data, item, self.veil)

    def earlier_task(self, unit: Unit) -> Task:
        """The attempt that an earlier process launched last, as far as its end needs it."""
        folder = self._seen.launch_folder(unit, unit.attempt, unit.launch)
        cwd, texts = self._place, StepTexts()
        with suppress(ScopeError):  # it was known when it was launched
            texts = self.preparations.texts(unit, self._of_launch(unit, folder, unit.attempt))
            self._hide(texts)
            cwd = self.directory(unit.step.name, texts)
        task = Task(
            self._run,
            unit.step.name,
            unit.attempt,
            unit.launch,
            folder,
            cwd,
            {},
            (),
            separate_streams=self._seen.separate(unit.step),
            item=unit.item,
        )
        with suppress(ScopeError):
            stdout = _target("stdout", texts.stdout, cwd)
            task = replace(task, stdout=stdout, stderr=_target("stderr", texts.stderr, cwd))
        return task

    def _hide(self, texts: StepTexts) -> None:
        self._seen.hide(texts.env)
        self._seen.hide((param.name or "", param.value) for param in texts.params)

    def recall(self, launches: Iterable[Launched], *, boot_id: str) -> None:
        """Find what ended launches of earlier processes left running."""
        for launched in launches:
            unit = self.state.unit_of(launched.step, launched.item)
            if unit.status is StepStatus.RUNNING and unit.launch == launched.launch:
                continue
            folder = self._seen.launch_folder(unit, launched.attempt, launched.launch)
            same_boot = launched.boot_id == boot_id
            self._parts.executor_of(unit.step).recall(Earlier(self._run, folder, same_boot))

    def mend_files(self) -> None:
        """Write again what a loss of power may have taken. Raises OSError."""
        self.lay_out()
        for at in self.state.steps:
            for note in at.outputs:
                path = Path(self._seen.values[OUT + at.step.name, note.name + FILE])
                if not path.is_file() or path.stat().st_size != note.size_bytes:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    workspace.write(path, self._seen.values[OUT + at.step.name, note.name])

    def write_files(self, task: Task) -> None:
        """Make the launch's folder, with the script if there is one. Raises OSError."""
        if task.attempt == 1 and task.item is None:  # else mkdir would try, fail, and try again
            task.folder.parent.mkdir(exist_ok=True)
        # of an attempt before that was lost there may not even be the step's folder
        task.folder.mkdir(parents=True)
        if task.script is not None:
            (task.folder / "script").write_text(task.script)
        if (document := self._handed.pop(task.launch, None)) is not None:
            workspace.write(self._folder / "summary.json", document)

    def forget(self, task: Task) -> None:
        """Delete what a launch that never began has of files."""
        shutil.rmtree(task.folder, ignore_errors=True)

    def has_left_behind(self) -> bool:
        """Whether ended steps left something running."""
        return self._parts.executor.has_left_behind(self._run)

    async def end_left_behind(self) -> None:
        """End what the run's steps left running, as the run is about to be over."""
        await self._parts.executor.end_left_behind(self._run, grace_s=self._workflow.max_clean_up_s)


def _target(what: str, value: str | None, cwd: Path) -> Path | None:
    return None if value is None else stream_files.target(what, value, cwd=cwd)
