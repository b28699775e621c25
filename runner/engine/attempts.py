"""From a run's state and values to the task of an attempt, and from its end to the fact.

Brings together what `scope` needs (values, paths, names that every step sees), lays out the files
of a launch, and reads what an attempt left: log, outputs, exit. All of one run; does file I/O,
decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from runner.engine import findings, plan, scope, summary, workspace
from runner.engine.events import Ended, Event, Launched, OutputNote, Prepared
from runner.engine.findings import Finding
from runner.engine.history import History
from runner.engine.journal import PARAMS, RUN_SCOPE
from runner.engine.parts import Parts
from runner.engine.scope import Evaluated, Evaluation, RunScope, StepTexts, Verdict
from runner.engine.state import RunState, StepState, StepStatus, Unit
from runner.executors.base import Earlier, Outcome, Task
from runner.language.model import Step
from runner.triggers import Trigger
from storage.mask import Mask, is_secret_name
from storage.records import PutValues, Write

PREVIEW_CHARS = 200
Visible = dict[str, tuple[int, int]]
_OUT, _PREPARED = "out:", "prepared:"


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
        self.state = state
        self._run = history.run
        self._workflow = history.workflow
        self._values = dict(history.values)
        self._parts = parts
        self._folder = folder
        self._workspace = workspace
        self._read_apart = _read_apart(history.workflow.steps)
        self._visible: dict[int, Visible] = {}
        self._handed: dict[str, str] = {}  # launch of a handler → its DAG_RUN_SUMMARY_FILE
        self._step_refs: dict[str, dict[str, str]] = {}
        self._fixed = self._fixed_values()
        self._base = {
            **scope.dates(self._trigger.slot or self._trigger.at, self._zone),
            **parts.inherited,
        }
        self.run_scope = RunScope()
        if (kept := self._values.get((RUN_SCOPE, "scope"))) is not None:
            self.run_scope = RunScope.read(kept)
        self.mask = self._first_mask()
        for at in state.steps:
            self._refer(at.step, at.launch, at.attempt, at.exit_code)

    @property
    def _trigger(self) -> Trigger:
        if self.state.queued is None:
            raise ValueError(f"run {self._run} has no Queued event")
        return self.state.queued.trigger

    @property
    def _zone(self) -> str:
        return self._workflow.timezone or self._parts.zone

    # What every step sees

    def _fixed_values(self) -> dict[str, str]:
        """DAG_*, GIT_* and EVENT_* that are the same for all steps of the run."""
        queued, trigger = self.state.queued, self._trigger
        commit, ref, repository = "", "", ""
        if queued is not None:
            commit, ref, repository = queued.commit, queued.ref, queued.repository
        return {
            "DAG_NAME": self._workflow.name,
            "DAG_RUN_ID": self._run,
            "DAG_RUN_ATTEMPT": "1",
            "DAG_RUN_LOG_FILE": str(self._folder / "log"),
            "DAG_RUN_ARTIFACTS_DIR": str(self._folder / "artifacts"),
            "DAG_RUN_URL": f"{self._parts.url}/runs/{self._run}" if self._parts.url else "",
            "DAG_RUN_SCHEDULED_AT": trigger.slot.isoformat() if trigger.slot else "",
            "DAG_RUN_PREVIOUS_AT": trigger.previous_slot.isoformat()
            if trigger.previous_slot
            else "",
            "GIT_COMMIT": commit,
            "GIT_REF": ref,
            "GIT_BRANCH": ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else "",
            "GIT_REPOSITORY": repository,
            "EVENT_NAME": trigger.type.value,
            "EVENT_PAYLOAD_FILE": str(self._folder / "event.json"),
        }

    def lay_out(self) -> None:
        """Make the run's folder with the files that its variables name. Raises OSError."""
        (self._folder / "artifacts").mkdir(parents=True, exist_ok=True)
        trigger = self._trigger
        event = {
            "type": trigger.type.value,
            "before": trigger.before,
            "after": trigger.after,
            "actor": trigger.actor,
            "delivery": trigger.delivery,
            "slot": trigger.slot.isoformat() if trigger.slot else None,
            "ref": self._fixed["GIT_REF"],
            "repository": self._fixed["GIT_REPOSITORY"],
        }
        workspace.write(self._folder / "event.json", json.dumps(event))
        (self._folder / "log").touch()

    def _first_mask(self) -> Mask:
        secret = [v for k, v in self._parts.inherited.items() if is_secret_name(k)]
        secret += [v for (_, k), v in self._values.items() if is_secret_name(k)]
        return self._parts.mask.plus([*secret, *self._secrets_of_run()])

    def _secrets_of_run(self) -> list[str]:
        run = self.run_scope
        pairs = [*((p.name or "", p.value) for p in run.params), *run.env]
        return [v for k, v in pairs if is_secret_name(k)]

    # Preparations

    def preparation_of_run(
        self,
    ) -> Generator[Evaluation, Evaluated, tuple[RunScope, Verdict]]:
        """Params and env of the run, then its preconditions."""
        bound = scope.read_params(self._values[RUN_SCOPE, PARAMS])
        found = yield from scope.resolve_run(self._workflow, bound, self._base)
        if not self._workflow.preconditions:
            return found, Verdict()
        names = scope.layers(self._base, found, (), {}, self._fixed)
        verdict = yield from scope.judge(
            self._workflow.preconditions,
            self._with_positionals(names, found),
            refs={},
            shell=self._workflow.shell or scope.DEFAULT_SHELL,
            positional=found.positional,
        )
        return found, verdict

    async def read_secrets(self) -> None:
        """Read the values of declared secrets again. Raises ScopeError."""

    def preparation(
        self, step: str, item: int | None = None
    ) -> Generator[Evaluation, Evaluated, tuple[StepTexts, Verdict]]:
        """A step's texts, then its preconditions."""
        at = self.state.steps[self.state.index[step]]
        names, refs = self._names(at), self._step_refs
        texts = yield from scope.step_texts(at.step, names, refs)
        if not at.step.preconditions:
            return texts, Verdict()
        verdict = yield from scope.judge(
            at.step.preconditions,
            self._names(at, texts.env),
            refs=refs,
            shell=at.step.shell or self._workflow.shell or scope.DEFAULT_SHELL,
            positional=self.run_scope.positional,
        )
        return texts, verdict

    def prepared(
        self, step: str, item: int | None, found: tuple[StepTexts, Verdict], at: datetime
    ) -> tuple[Prepared, tuple[Write, ...]]:
        """The fact of what `preparation` found, and the values to keep with it."""
        texts, verdict = found
        event = Prepared(at, step, verdict.met, verdict.reason, verdict.error, item=item)
        return event, self.keep_texts(step, texts)

    def keep_scope(self, found: RunScope) -> tuple[Write, ...]:
        return (PutValues(self._run, ((RUN_SCOPE, "scope", found.text()),)),)

    def judgement(self, step: str, item: int | None) -> Generator[Evaluation, Evaluated, Verdict]:
        """Whether the condition of a repeatPolicy holds."""
        raise NotImplementedError

    def conclude_items(self, step: str, at: datetime) -> tuple[Ended, tuple[Write, ...]]:
        """What the items of a parallel step amount to (`plan.conclusion`), with its output."""
        raise NotImplementedError

    def keep_texts(self, step: str, texts: StepTexts) -> tuple[Write, ...]:
        """Remember a step's prepared texts for its attempts."""
        key = (_PREPARED + step, "texts")
        self._values[key] = texts.text()
        return (PutValues(self._run, ((*key, texts.text()),)),)

    def masked_params(self) -> tuple[tuple[str, str], ...]:
        """The run's params as they may be shown; called once they are resolved."""
        self.mask = self.mask.plus(self._secrets_of_run())
        return tuple(
            (name, "***" if is_secret_name(name) else self.mask.text(p.value))
            for p in self.run_scope.params
            for name in (p.name or str(p.position),)
        )

    # Names

    def _names(
        self,
        at: StepState,
        env: tuple[tuple[str, str], ...] = (),
        *,
        more: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        fixed = {**self._fixed, "DAG_RUN_STEP_NAME": at.step.name, **(more or {})}
        if at.index >= self.state.first_handler:
            fixed.update(self._handler_values())
        names = scope.layers(self._base, self.run_scope, env, self._outputs(at), fixed)
        return self._with_positionals(names, self.run_scope)

    @staticmethod
    def _with_positionals(names: dict[str, str], run: RunScope) -> dict[str, str]:
        names.update((str(i), v) for i, v in enumerate(run.positional, 1))
        return names

    def _handler_values(self) -> dict[str, str]:
        outcome = self.state.outcome
        return {
            "DAG_RUN_STATUS": outcome.value if outcome else "",
            "DAG_RUN_FAILED_STEPS": ",".join(self.state.failed_steps()),
            "DAG_RUN_ERROR": self.state.reason,
            "DAG_RUN_SUMMARY_FILE": str(self._folder / "summary.json"),
        }

    def _outputs(self, at: StepState) -> dict[str, str]:
        """Values of the steps that this one depends on, also indirectly; handlers see all."""
        found: dict[str, str] = {}
        if at.index >= self.state.first_handler:
            for other in self.state.steps[: self.state.first_handler]:
                found.update(self._outputs_of(other))
            return found
        for name, (_, producer) in self._seen_by(at.index).items():
            found.update(self._outputs_of(self.state.steps[producer], only=name))
        return found

    def _outputs_of(self, at: StepState, only: str | None = None) -> dict[str, str]:
        found = {}
        for note in at.outputs:
            if only in (None, note.name):
                for key in (note.name, note.name + "_FILE"):
                    found[key] = self._values[_OUT + at.step.name, key]
        return found

    def _seen_by(self, index: int) -> Visible:
        """Output name → (distance, producer) of what a step can see: the nearest producer, of
        equally near ones the later in the file. Kept, as those above are final: linear in all."""
        stack = [index]
        while stack:
            i = stack[-1]
            above = [self.state.index[name] for name in self.state.steps[i].step.depends]
            missing = [j for j in above if j not in self._visible]
            if missing:
                stack += missing
                continue
            stack.pop()
            if i not in self._visible:
                self._visible[i] = self._merged(above)
        return self._visible[index]

    def _merged(self, above: list[int]) -> Visible:
        merged: Visible = {}
        for j in above:
            own = {note.name: (1, j) for note in self.state.steps[j].outputs}
            farther = {n: (d + 1, k) for n, (d, k) in self._visible[j].items() if n not in own}
            for name, (distance, producer) in {**farther, **own}.items():
                known = merged.get(name)
                if known is None or (-distance, producer) > (-known[0], known[1]):
                    merged[name] = (distance, producer)
        return merged

    def _refer(self, step: Step, launch: str, attempt: int, exit_code: int | None) -> None:
        """Make `${id.stdout}`, `.stderr` and `.exitCode` of a step's last attempt known."""
        if step.id is None or not launch:
            return
        at = self.state.steps[self.state.index[step.name]]
        folder = self._launch_folder(at, attempt, launch)
        self._step_refs[step.id] = {
            "stdout": str(folder / "out"),
            "stderr": str(folder / ("err" if self._separate(step) else "out")),
            "exitCode": "" if exit_code is None else str(exit_code),
        }

    # Tasks

    def directory(self, step: str, texts: StepTexts | None = None) -> Path:
        """Where a step runs. Raises ScopeError if it is not a folder."""
        where = self._workspace
        if self._workflow.working_dir:
            names = scope.layers(self._base, self.run_scope, (), {}, self._fixed)
            where = where / scope.plain(self._workflow.working_dir, names)
        if texts is not None and texts.dir is not None:
            where = where / texts.dir
        if not where.is_dir():
            raise scope.ScopeError(f'step "{step}": its directory {where} does not exist')
        return where

    def _launch_folder(self, at: StepState, attempt: int, launch: str) -> Path:
        return workspace.launch_folder(
            self._folder, number=at.index + 1, step=at.step.name, attempt=attempt, launch=launch
        )

    def task(self, step: str, attempt: int, launch: str, item: int | None = None) -> Task:
        """The next attempt of a step. Raises ScopeError; touches no file."""
        at = self.state.steps[self.state.index[step]]
        refs = self._step_refs
        folder = self._launch_folder(at, attempt, launch)
        separate = self._separate(at.step)
        more = {
            "DAG_STEP_ATTEMPT": str(attempt),
            "DAG_RUN_STEP_STDOUT_FILE": str(folder / "out"),
            "DAG_RUN_STEP_STDERR_FILE": str(folder / ("err" if separate else "out")),
            "DAG_RUN_OUTPUT_FILE": str(folder / "outputs"),
        }
        texts = self._texts(at, refs, more)
        cwd = self.directory(step, texts)
        names = self._names(at, texts.env, more={**more, "PWD": str(cwd)})
        line = scope.command_line(
            self._workflow,
            at.step,
            texts,
            scope=names,
            refs=refs,
            positional=self.run_scope.positional,
        )
        self._note_secrets(texts)
        argv = tuple(str(folder / "script") if w is scope.SCRIPT else w for w in line.argv)
        if at.index >= self.state.first_handler:
            document = summary.document(self._run, self.state)
            self._handed[launch] = json.dumps(document, ensure_ascii=False)
        return Task(
            self._run, step, attempt, launch, folder, cwd, line.env, argv, line.script, separate
        )

    def earlier_task(self, unit: Unit) -> Task:
        """The attempt that an earlier process launched last, as far as its end needs it."""
        at = self.state.steps[unit.index]
        with suppress(scope.ScopeError):  # it was known when it was launched
            self._note_secrets(self._texts(at, self._step_refs, {}))
        folder = self._launch_folder(at, at.attempt, at.launch)
        return Task(
            self._run,
            at.step.name,
            at.attempt,
            at.launch,
            folder,
            self._workspace,
            {},
            (),
            separate_streams=self._separate(at.step),
        )

    def recall(self, launches: Iterable[Launched], *, boot_id: str) -> None:
        """Find what ended launches of earlier processes left running."""
        for launched in launches:
            at = self.state.steps[self.state.index[launched.step]]
            if at.status is StepStatus.RUNNING and at.launch == launched.launch:
                continue
            folder = self._launch_folder(at, launched.attempt, launched.launch)
            same_boot = launched.boot_id == boot_id
            self._parts.executor.recall(Earlier(self._run, folder, same_boot))

    def mend_files(self) -> None:
        """Write again what a loss of power may have taken. Raises OSError."""
        self.lay_out()
        for at in self.state.steps:
            for note in at.outputs:
                path = Path(self._values[_OUT + at.step.name, note.name + "_FILE"])
                if not path.is_file() or path.stat().st_size != note.size_bytes:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    workspace.write(path, self._values[_OUT + at.step.name, note.name])

    def _texts(
        self, at: StepState, refs: dict[str, dict[str, str]], more: dict[str, str]
    ) -> StepTexts:
        kept = self._values.get((_PREPARED + at.step.name, "texts"))
        if kept is not None:
            return StepTexts.read(kept)
        if not at.step.env and at.step.dir is None and at.step.argv is None:
            return StepTexts((), None, None)
        return scope.without_process(scope.step_texts(at.step, self._names(at, more=more), refs))

    def _note_secrets(self, texts: StepTexts) -> None:
        secret = [v for k, v in texts.env if is_secret_name(k)]
        if secret:
            self.mask = self.mask.plus(secret)

    def _separate(self, step: Step) -> bool:
        """Whether stdout must be told from stderr."""
        wanted = step.output is not None or bool(step.continue_on.output)
        return wanted or step.id in self._read_apart

    def write_files(self, task: Task) -> None:
        """Make the launch's folder, with the script if there is one. Raises OSError."""
        if task.attempt == 1:
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

    # Ends

    def findings(self, task: Task, outcome: Outcome) -> Finding:
        """Read what an ended attempt left. May run in a thread; raises nothing."""
        step = self.state.steps[self.state.index[task.step]].step
        return findings.read(
            task, step, limit_bytes=self._workflow.max_output_bytes, mask=self.mask
        )

    def conclude(
        self, task: Task, outcome: Outcome, finding: Finding
    ) -> tuple[Event, tuple[Write, ...]]:
        """The fact of an attempt's end, and the values to keep with it."""
        at = self.state.steps[self.state.index[task.step]]
        error = outcome.error or finding.error
        reason = plan.failure(at, exit_code=outcome.exit_code, signal=outcome.signal, error=error)
        lost = plan.is_lost(at, unknown=outcome.lost)
        if lost:
            reason = plan.loss(at, reason)
        values = self._keep_outputs(task, finding.outputs)
        self._refer(at.step, task.launch, task.attempt, outcome.exit_code)
        event = Ended(
            # a file's time, where an earlier process launched it, and the clock may have been set
            at=max(outcome.at, at.attempt_started_at or outcome.at),
            step=task.step,
            attempt=task.attempt,
            launch=task.launch,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            reason=reason,
            # a wrong output would be as wrong the next time
            retryable=not finding.error or reason != finding.error,
            output_matched=finding.matched,
            log=finding.log,
            outputs=tuple(self._note(name, value) for name, value in finding.outputs),
            lost=lost,
        )
        return event, (PutValues(self._run, values),) if values else ()

    def _keep_outputs(
        self, task: Task, outputs: tuple[tuple[str, str], ...]
    ) -> tuple[tuple[str, str, str], ...]:
        kept = []
        for name, value in outputs:
            path = task.folder / f"output-{name}"
            workspace.write(path, value)
            for key, text in ((name, value), (name + "_FILE", str(path))):
                self._values[_OUT + task.step, key] = text
                kept.append((_OUT + task.step, key, text))
        secret = [v for k, v in outputs if is_secret_name(k)]
        if secret:
            self.mask = self.mask.plus(secret)
        return tuple(kept)

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


def _read_apart(steps: tuple[Step, ...]) -> frozenset[str]:
    """Ids of the steps whose `${id.stdout}` or `${id.stderr}` some text may refer to."""
    ids = [s.id for s in steps if s.id]
    if not ids:
        return frozenset()
    text = repr(steps)
    return frozenset(i for i in ids if f"{i}.std" in text)
