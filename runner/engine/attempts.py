"""From a run's state and values to the task of an attempt, and from its end to the fact.

Brings together what a step or an item sees (`names`), lays out the files of a launch, and reads
what an attempt left: log, outputs, exit. All of one run; does file I/O, decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from runner.engine import (
    command_line,
    dotenv,
    evaluation,
    findings,
    items,
    names,
    plan,
    scope,
    secret_values,
    stream_files,
    summary,
    verdicts,
    workspace,
)
from runner.engine.command_line import SCRIPT, CommandLine
from runner.engine.events import Ended, Event, Launched, OutputNote, Prepared
from runner.engine.findings import Finding
from runner.engine.history import History
from runner.engine.items import ItemResult
from runner.engine.journal import PARAMS, RUN_SCOPE
from runner.engine.names import FILE, ITEMS, OUT, RESULT, Names
from runner.engine.parts import Parts
from runner.engine.scope import Evaluated, Evaluation, RunScope, ScopeError, StepTexts, Verdict
from runner.engine.state import Preparation as Progress
from runner.engine.state import RunState, StepState, StepStatus, Unit
from runner.executors.base import Call, Earlier, Outcome, Task
from runner.language.model import Condition, Step
from runner.language.params import Bound
from runner.veil import Veil, starred
from storage.mask import Mask, is_secret_name
from storage.records import PutValues, Write

PREVIEW_CHARS = 200
_PREPARED = "prepared:"
_LOCAL = frozenset({"command", "shell"})
Stored = tuple[tuple[str, str, str], ...]  # (scope, name, value)


class Preparation(NamedTuple):
    """What was found out before a step or an item: what its backticks printed, the items of a
    parallel step (None: they are known, or do not matter), and whether it may begin."""

    results: dict[str, str]
    items: tuple[str, ...] | None
    verdict: Verdict


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
        self._values = dict(history.values)
        self._parts = parts
        self._folder = folder
        self._workspace = workspace
        self._handed: dict[str, str] = {}  # launch of a handler → its DAG_RUN_SUMMARY_FILE
        self._unread = ""  # why the declared secrets are not there
        self._copying = threading.Lock()
        self._names = Names(
            history.run,
            workflow=history.workflow,
            state=state,
            values=self._values,
            parts=parts,
            folder=folder,
        )
        self._carried = self._place_carried(state)
        self._read_scope()
        self.mask = self._first_mask()

    @property
    def state(self) -> RunState:
        return self._names.state

    @state.setter
    def state(self, state: RunState) -> None:
        self._names.state = state

    @property
    def run_scope(self) -> RunScope:
        """Params and env of the run, once they are resolved."""
        return self._names.run_scope

    @run_scope.setter
    def run_scope(self, found: RunScope) -> None:
        self._names.run_scope = found
        self._names.forget_all()

    @property
    def veil(self) -> Veil:
        """What hides declared secrets in what is stored."""
        return self._names.veil

    # The run's own files and secrets

    def lay_out(self) -> None:
        """Make the run's folder with the files that its variables name. Raises OSError."""
        (self._folder / "artifacts").mkdir(parents=True, exist_ok=True)
        if self._names.event_file.parent == self._folder:
            workspace.write(self._names.event_file, self._event())
        (self._folder / "log").touch()
        for path, value in self._carried:
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                workspace.write(path, value)

    def _event(self) -> str:
        """What started the run: what was sent to the workflow's own endpoint, as it came, or what
        is known of it."""
        kept = self._values.get((RUN_SCOPE, "event"))
        if kept is not None:
            return kept
        trigger, fixed = self._names.trigger, self._names.fixed
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
                path = self._names.step_folder(step) / f"output-{note.name}"
                self._values[OUT + step.step.name, note.name + FILE] = str(path)
                found.append((path, self._values[OUT + step.step.name, note.name]))
        return tuple(found)

    def _first_mask(self) -> Mask:
        secret = [v for k, v in self._parts.inherited.items() if is_secret_name(k)]
        secret += [v for (_, k), v in self._values.items() if is_secret_name(k)]
        listed = (self._names.items_of(step) for step in self.state.steps if step.items)
        secret += [text for known in listed for text in items.secrets_in(known or ())]
        return self._parts.mask.plus([*secret, *self._secrets_of_run()])

    def _secrets_of_run(self) -> list[str]:
        run = self.run_scope
        pairs = [*((p.name or "", p.value) for p in run.params), *run.env]
        return [v for k, v in pairs if is_secret_name(k)]

    def _read_scope(self) -> None:
        kept = self._values.get((RUN_SCOPE, "scope"))
        if kept is not None:
            self.run_scope = RunScope.read(kept).mapped(self.veil.show)

    async def read_secrets(self) -> None:
        """Read the values of declared secrets, which are never stored. Raises ScopeError, and until
        the next call no step can begin."""
        if not self._workflow.secrets:
            return
        base = self._names.base
        cwd = self._workspace if self._workspace.is_dir() else self._folder.parents[2]

        async def run(wanted: Evaluation, timeout_s: float) -> Evaluated:
            mark = f"{self._run}/0"
            return await evaluation.evaluate(wanted, cwd=cwd, mark=mark, timeout_s=timeout_s)

        try:
            found = await secret_values.read(
                self._workflow.secrets, self._parts.secrets, base=base, cwd=cwd, evaluate=run
            )
        except ScopeError as error:
            self._unread = str(error)
            raise
        self._unread = ""
        self._names.secrets = found
        self._names.veil = Veil(found).over(self._parts.veil)
        self.mask = self.mask.plus(found.values())
        self._read_scope()
        self._names.forget_all()
        short = secret_values.too_short(found)
        if short and self.state.preparation is not Progress.DONE:  # else it was said
            with (self._folder / "log").open("a") as log:
                log.write(f"too short to be masked: {', '.join(short)}\n")

    # Preparations

    def preparation_of_run(
        self,
    ) -> Generator[Evaluation, Evaluated, tuple[RunScope, Verdict]]:
        """Params and env of the run, then its preconditions. A retry has those of the run before.
        Reads the files of `dotenv`."""
        if (RUN_SCOPE, "scope") in self._values:
            found = self.run_scope
        else:
            given = scope.read_params(self._values[RUN_SCOPE, PARAMS]).params
            bound = Bound(RunScope(given).mapped(self.veil.show).params)
            known = {**self._names.base, **self._names.secrets}
            paths = scope.dotenv_paths(self._workflow, bound, known)
            found = yield from scope.resolve_run(
                self._workflow,
                bound,
                self._names.base,
                dotenv=dotenv.read(paths, folder=self._root(bound)) if paths else (),
                secrets=self._names.secrets,
            )
        verdict = Verdict()
        if self._workflow.preconditions:
            verdict = yield from verdicts.judge(
                self._workflow.preconditions,
                self._names.of_run(found),
                refs={},
                shell=self._workflow.shell or command_line.DEFAULT_SHELL,
                positional=found.positional,
            )
        return found, verdict

    def preparation(
        self, step: str, item: int | None = None
    ) -> Generator[Evaluation, Evaluated, Preparation]:
        """What must be known before a step, or before an item of a parallel one. What all items
        have in common is found out for the step, the rest for each."""
        unit = self.state.unit_of(step, item)
        found = unit.step
        of_item = scope.item_names(found) if found.parallel is not None else frozenset()
        results = self._results(unit)
        leave_out = of_item if item is None else frozenset()
        texts = yield from scope.step_texts(
            found, self._names.of(unit), self._names.refs, results=results, leave_out=leave_out
        )
        verdict = Verdict()
        mine = [
            condition
            for condition in found.preconditions
            if scope.condition_is_of_item(condition, of_item) is (item is not None)
        ]
        if mine:
            verdict = yield from self._judge(mine, unit, texts)
        listed = None
        if found.parallel is not None and item is None and verdict.met:
            known = self._names.items_of(self.state.steps[unit.index])
            if known is None:  # else it is of the run that this one retries
                seen = self._names.of(unit, texts.env)
                listed = yield from items.listed(
                    found.parallel, seen, self._names.refs, results=results
                )
        return Preparation(results, listed, verdict)

    def judgement(self, step: str, item: int | None) -> Generator[Evaluation, Evaluated, Verdict]:
        """Whether the condition of a repeatPolicy holds; it sees the output of the execution that
        has just ended."""
        unit = self.state.unit_of(step, item)
        policy = unit.step.repeat
        if policy is None or policy.condition is None:
            return Verdict()
        texts = self._texts(unit, {})
        outputs = self._names.outputs_of(self.state.steps[unit.index])
        if item is not None and unit.step.output is not None:
            outputs = {unit.step.output: self._values[RESULT + step, str(item)]}
        return (yield from self._judge([policy.condition], unit, texts, outputs=outputs))

    def _judge(
        self,
        conditions: list[Condition],
        unit: Unit,
        texts: StepTexts,
        *,
        outputs: dict[str, str] | None = None,
    ) -> Generator[Evaluation, Evaluated, Verdict]:
        return (
            yield from verdicts.judge(
                conditions,
                self._names.of(unit, texts.env, outputs=outputs),
                refs=self._names.refs,
                shell=unit.step.shell or self._workflow.shell or command_line.DEFAULT_SHELL,
                positional=self.run_scope.positional,
            )
        )

    def prepared(
        self, step: str, item: int | None, found: Preparation, at: datetime
    ) -> tuple[Prepared, tuple[Write, ...]]:
        """The fact of what `preparation` found, and the values to keep with it."""
        values: list[tuple[str, str, str]] = []
        hide = self.veil.hide
        if found.results:
            hidden = {command: hide(text) for command, text in found.results.items()}
            values.append((_key(step, item), "results", json.dumps(hidden)))
        shown = None
        if found.items is not None:
            values.append((ITEMS + step, "list", json.dumps([hide(t) for t in found.items])))
            self.mask = self.mask.plus(items.secrets_in(found.items))
            shown = items.previews(found.items, self.mask)
        verdict = found.verdict
        reason = self.mask.text(verdict.reason)
        event = Prepared(at, step, verdict.met, reason, verdict.error, items=shown, item=item)
        return event, self._keep(tuple(values))

    def keep_scope(self, found: RunScope) -> tuple[Write, ...]:
        """Remember the run's resolved params and env."""
        return self._keep(((RUN_SCOPE, "scope", found.mapped(self.veil.hide).text()),))

    def _keep(self, values: Stored) -> tuple[Write, ...]:
        self._values.update(((place, name), value) for place, name, value in values)
        return (PutValues(self._run, values),) if values else ()

    def masked_params(self) -> tuple[tuple[str, str], ...]:
        """The run's params as they may be shown; called once they are resolved."""
        self.mask = self.mask.plus(self._secrets_of_run())
        return tuple(
            (name, "***" if is_secret_name(name) else self.mask.text(p.value))
            for p in self.run_scope.params
            for name in (p.name or str(p.position),)
        )

    # Texts

    def _results(self, unit: Unit) -> dict[str, str]:
        """What the backticks of a step printed, and those of the item."""
        found: dict[str, str] = {}
        for item in (None,) if unit.item is None else (None, unit.item):
            kept = self._values.get((_key(unit.step.name, item), "results"))
            if kept is not None:
                found |= names.shown(kept, self.veil)
        return found

    def _texts(self, unit: Unit, more: dict[str, str]) -> StepTexts:
        return scope.without_process(
            scope.step_texts(
                unit.step,
                self._names.of(unit, more=more),
                self._names.refs,
                results=self._results(unit),
            )
        )

    def _note_secrets(self, texts: StepTexts) -> None:
        secret = [v for k, v in texts.env if is_secret_name(k)]
        secret += [p.value for p in texts.params if p.name and is_secret_name(p.name)]
        if secret:
            self.mask = self.mask.plus(secret)

    # Tasks

    def _root(self, bound: Bound | None = None) -> Path:
        """Where steps without `dir` run. Raises ScopeError."""
        text = self._workflow.working_dir
        if not text:
            return self._workspace
        found = None if bound is None else RunScope(bound.params)
        known = self._names.of_run(found)
        return self._workspace / scope.required("workingDir", text, scope.plain(text, known), known)

    def directory(self, step: str, texts: StepTexts | None = None) -> Path:
        """Where a step runs. Raises ScopeError if it is not a folder."""
        where = self._root()
        if texts is not None and texts.dir is not None:
            where = where / texts.dir
        if not where.is_dir():
            raise ScopeError(f'step "{step}": its directory {where} does not exist')
        return where

    def task(self, step: str, attempt: int, launch: str, item: int | None = None) -> Task:
        """The next attempt of a step or an item. Raises ScopeError; touches no file."""
        if self._unread:
            raise ScopeError(self._unread)
        unit = self.state.unit_of(step, item)
        folder = self._names.launch_folder(unit, attempt, launch)
        more = self._of_launch(unit, folder, attempt)
        texts = self._texts(unit, more)
        self._require(unit, texts, more)
        cwd = self.directory(step, texts)
        seen = self._names.of(unit, texts.env, more={**more, "PWD": str(cwd)})
        line = self._line(unit.step, texts, seen)
        self._note_secrets(texts)
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
            self._names.separate(unit.step),
            item=item,
            call=self._call(unit, texts),
            stdout=_target("stdout", texts.stdout, cwd),
            stderr=_target("stderr", texts.stderr, cwd),
        )

    def _of_launch(self, unit: Unit, folder: Path, attempt: int) -> dict[str, str]:
        separate = self._names.separate(unit.step)
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
                seen = self._names.of(unit, texts.env, more=more)
                scope.required(what, text, value, seen, self._names.refs)

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
            refs=self._names.refs,
            positional=self.run_scope.positional,
        )

    def _call(self, unit: Unit, texts: StepTexts) -> Call | None:
        if texts.run is None:
            return None
        item = self._names.item_text(unit)
        params, from_data = texts.params, False
        if not unit.step.params and item is not None:
            params = items.child_params(item)
            parallel = unit.step.parallel
            from_data = parallel is not None and parallel.source is not None
        given = tuple((param.name, param.value) for param in params)
        return Call(texts.run, given, from_data, item, self.veil)

    def earlier_task(self, unit: Unit) -> Task:
        """The attempt that an earlier process launched last, as far as its end needs it."""
        folder = self._names.launch_folder(unit, unit.attempt, unit.launch)
        cwd, texts = self._workspace, StepTexts()
        with suppress(ScopeError):  # it was known when it was launched
            texts = self._texts(unit, self._of_launch(unit, folder, unit.attempt))
            self._note_secrets(texts)
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
            separate_streams=self._names.separate(unit.step),
            item=unit.item,
        )
        with suppress(ScopeError):
            stdout = _target("stdout", texts.stdout, cwd)
            task = replace(task, stdout=stdout, stderr=_target("stderr", texts.stderr, cwd))
        return task

    def recall(self, launches: Iterable[Launched], *, boot_id: str) -> None:
        """Find what ended launches of earlier processes left running."""
        for launched in launches:
            unit = self.state.unit_of(launched.step, launched.item)
            if unit.status is StepStatus.RUNNING and unit.launch == launched.launch:
                continue
            folder = self._names.launch_folder(unit, launched.attempt, launched.launch)
            same_boot = launched.boot_id == boot_id
            self._parts.executor_of(unit.step).recall(Earlier(self._run, folder, same_boot))

    def mend_files(self) -> None:
        """Write again what a loss of power may have taken. Raises OSError."""
        self.lay_out()
        for at in self.state.steps:
            for note in at.outputs:
                path = Path(self._values[OUT + at.step.name, note.name + FILE])
                if not path.is_file() or path.stat().st_size != note.size_bytes:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    workspace.write(path, self._values[OUT + at.step.name, note.name])

    def write_files(self, task: Task) -> None:
        """Make the launch's folder, with the script if there is one. Raises OSError."""
        # of an attempt before that was lost there may not even be the step's folder
        task.folder.mkdir(parents=True)
        if task.script is not None:
            (task.folder / "script").write_text(task.script)
        if (document := self._handed.pop(task.launch, None)) is not None:
            workspace.write(self._folder / "summary.json", document)

    def forget(self, task: Task) -> None:
        """Delete what a launch that never began has of files."""
        shutil.rmtree(task.folder, ignore_errors=True)

    # Ends

    def findings(self, task: Task, outcome: Outcome) -> Finding:
        """Read what an ended attempt left. May run in a thread; raises nothing."""
        step = self.state.steps[self.state.index[task.step]].step
        with self._copying:
            return findings.read(
                task,
                step,
                limit_bytes=self._workflow.max_output_bytes,
                mask=self.mask.plus(outcome.secrets) if outcome.secrets else self.mask,
                result=outcome.result,
            )

    def conclude(
        self, task: Task, outcome: Outcome, finding: Finding
    ) -> tuple[Event, tuple[Write, ...]]:
        """The fact of an attempt's end, and the values to keep with it."""
        unit = self.state.unit_of(task.step, task.item)
        if outcome.secrets:
            self.mask = self.mask.plus(outcome.secrets)
        error = outcome.error or finding.error
        reason = plan.failure(unit, exit_code=outcome.exit_code, signal=outcome.signal, error=error)
        lost = plan.is_lost(unit, unknown=outcome.lost)
        if lost:
            reason = plan.loss(unit, reason)
        reason = self.mask.text(reason)
        outputs = finding.outputs
        if task.item is None:
            values = self._keep_outputs(task.step, task.folder, outputs)
            launched = (task.attempt, task.launch, outcome.exit_code)
            self._names.refer(self.state.steps[unit.index], launched=launched)
        else:
            self._hide_outputs(outputs)
            outputs = tuple(pair for pair in outputs if pair[0] == unit.step.output)[:1]
            values = tuple((RESULT + task.step, str(task.item), text) for _, text in outputs)
        event = Ended(
            # a file's time, where an earlier process launched it, and the clock may have been set
            at=max(outcome.at, unit.attempt_started_at or outcome.at),
            step=task.step,
            attempt=task.attempt,
            launch=task.launch,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            reason=reason,
            # a wrong output would be as wrong the next time
            retryable=not finding.error or reason != self.mask.text(finding.error),
            output_matched=finding.matched,
            log=finding.log,
            outputs=tuple(self._note(name, value) for name, value in outputs),
            lost=lost,
            skipped=outcome.skipped and not lost,
            item=task.item,
        )
        return event, self._keep(values)

    def conclude_items(self, step: str, at: datetime) -> tuple[Ended, tuple[Write, ...]]:
        """What the items of a parallel step amount to, with its output. Raises OSError."""
        state = self.state.steps[self.state.index[step]]
        found = plan.conclusion(state)
        outputs: tuple[tuple[str, str], ...] = ()
        folder = self._names.step_folder(state)
        text, error = self._aggregate(state)
        if text is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if state.step.id in self._names.read_apart:
                workspace.write(folder / "out", text)
            if state.step.output is not None:
                outputs = ((state.step.output, text),)
        values = self._keep_outputs(step, folder, outputs)
        self._names.refer_aggregate(state, found.exit_code)
        self._names.forget(state)
        event = Ended(
            at=at,
            step=step,
            attempt=0,
            launch="",
            exit_code=found.exit_code,
            signal=None,
            reason=found.reason or error,
            retryable=False,
            output_matched=found.matched,
            outputs=tuple(self._note(name, value) for name, value in outputs),
            skipped=found.skipped and not error,
        )
        return event, self._keep(values)

    def _aggregate(self, state: StepState) -> tuple[str | None, str]:
        """The output of a parallel step, None where nobody wants it; else why there is none."""
        step, limit = state.step, self._workflow.max_output_bytes
        if step.output is None and step.id not in self._names.read_apart:
            return None, ""
        texts = self._names.items_of(state) or ()
        place = RESULT + step.name
        outputs = [self._values.get((place, str(n)), "") for n in range(len(texts))]
        too_large = f"output {step.output} is larger than maxOutputSize ({limit} bytes)"
        if step.output is not None and sum(map(len, outputs)) > limit:
            return None, too_large

        def hide(text: str) -> str:  # an output is stored, and secrets are not
            return starred(self.veil.hide(text))

        results = [
            ItemResult(hide(text), item.status, item.exit_code, item.reason, output, bool(step.run))
            for text, item, output in zip(texts, state.items or (), outputs, strict=True)
        ]
        text = items.aggregate(results)
        if step.output is not None and len(text.encode()) > limit:
            return None, too_large
        return text, ""

    def _keep_outputs(
        self, step: str, folder: Path, outputs: tuple[tuple[str, str], ...]
    ) -> Stored:
        kept = []
        for name, value in outputs:
            path = folder / f"output-{name}"
            workspace.write(path, value)
            for key, text in ((name, value), (name + FILE, str(path))):
                self._values[OUT + step, key] = text
                kept.append((OUT + step, key, text))
        self._hide_outputs(outputs)
        return tuple(kept)

    def _hide_outputs(self, outputs: tuple[tuple[str, str], ...]) -> None:
        secret = [v for k, v in outputs if is_secret_name(k)]
        if secret:
            self.mask = self.mask.plus(secret)

    def _note(self, name: str, value: str) -> OutputNote:
        data = value.encode()
        preview = "***" if is_secret_name(name) else self.mask.text(value)[:PREVIEW_CHARS]
        return OutputNote(name, len(data), hashlib.sha256(data).hexdigest(), preview)

    def has_left_behind(self) -> bool:
        """Whether ended steps left something running."""
        return self._parts.executor.has_left_behind(self._run)

    async def end_left_behind(self) -> None:
        """End what the run's steps left running, as the run is about to be over."""
        await self._parts.executor.end_left_behind(self._run, grace_s=self._workflow.max_clean_up_s)


def _key(step: str, item: int | None) -> str:
    return f"{_PREPARED}{step}" if item is None else f"{_PREPARED}{step}#{item}"


def _target(what: str, value: str | None, cwd: Path) -> Path | None:
    return None if value is None else stream_files.target(what, value, cwd=cwd)
