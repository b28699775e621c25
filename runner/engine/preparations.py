"""What must be found out before a run, a step or an item begins, and how it is kept.

Secrets are read, files of `dotenv` too; what needs a process is asked for as `scope` does. Of a
parallel step what all items have in common is found out once, the rest for each of them.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from runner.engine import command_line, dotenv, evaluation, items, scope, secret_values, verdicts
from runner.engine.events import Prepared
from runner.engine.journal import PARAMS, RUN_SCOPE
from runner.engine.names import ITEMS, RESULT, Names, shown
from runner.engine.parts import Parts
from runner.engine.scope import Evaluated, Evaluation, RunScope, ScopeError, StepTexts, Verdict
from runner.engine.state import Preparation as Progress
from runner.engine.state import Unit
from runner.language.model import Condition, Workflow
from runner.language.params import Bound
from runner.veil import Veil
from storage.mask import STARS, is_secret_name
from storage.records import Write

_PREPARED = "prepared:"


class Preparation(NamedTuple):
    """What was found out before a step or an item: what its backticks printed, the items of a
    parallel step (None: they are known, or do not matter), and whether it may begin."""

    results: dict[str, str]
    items: tuple[str, ...] | None
    verdict: Verdict


class Preparations:
    """Of one run."""

    def __init__(
        self, run: str, *, workflow: Workflow, seen: Names, parts: Parts, folder: Path, place: Path
    ) -> None:
        self.unread = ""  # why the declared secrets are not there
        self._run = run
        self._workflow = workflow
        self._seen = seen
        self._parts = parts
        self._folder = folder
        self._place = place
        self._read_scope()

    def _read_scope(self) -> None:
        kept = self._seen.values.get((RUN_SCOPE, "scope"))
        if kept is not None:
            self._seen.run_scope = RunScope.read(kept).mapped(self._seen.veil.show)

    async def read_secrets(self) -> None:
        """Read the values of declared secrets, which are never stored. Raises ScopeError, and until
        the next call no step can begin."""
        if not self._workflow.secrets:
            return
        base = self._seen.base
        cwd = self._place if self._place.is_dir() else self._folder.parents[2]

        async def run(wanted: Evaluation, timeout_s: float) -> Evaluated:
            mark = f"{self._run}/0"
            return await evaluation.evaluate(wanted, cwd=cwd, mark=mark, timeout_s=timeout_s)

        try:
            found = await secret_values.read(
                self._workflow.secrets, self._parts.secrets, base=base, cwd=cwd, evaluate=run
            )
        except ScopeError as error:
            self.unread = str(error)
            raise
        self.unread = ""
        self._seen.secrets = found
        self._seen.veil = Veil(found).over(self._parts.veil)
        self._seen.mask = self._seen.mask.plus(found.values())
        self._read_scope()
        self._seen.forget_all()
        short = secret_values.too_short(found)
        if short and self._seen.state.preparation is not Progress.DONE:  # else it was said
            with (self._folder / "log").open("a") as log:
                log.write(f"too short to be masked: {', '.join(short)}\n")

    def of_run(
        self,
    ) -> Generator[Evaluation, Evaluated, tuple[RunScope, Verdict]]:
        """Params and env of the run, then its preconditions. A retry has those of the run before.
        Reads the files of `dotenv`."""
        if (RUN_SCOPE, "scope") in self._seen.values:
            found = self._seen.run_scope
        else:
            given = scope.read_params(self._seen.values[RUN_SCOPE, PARAMS]).params
            bound = Bound(RunScope(given).mapped(self._seen.veil.show).params)
            base, secrets = self._seen.base, self._seen.secrets
            paths = scope.dotenv_paths(self._workflow, bound, base, secrets=secrets)
            found = yield from scope.resolve_run(
                self._workflow,
                bound,
                base,
                dotenv=dotenv.read(paths, folder=self.root(bound)) if paths else (),
                secrets=secrets,
            )
        verdict = Verdict()
        if self._workflow.preconditions:
            verdict = yield from verdicts.judge(
                self._workflow.preconditions,
                self._seen.of_run(found),
                refs={},
                shell=self._workflow.shell or command_line.DEFAULT_SHELL,
                positional=found.positional,
            )
        return found, verdict

    def of(
        self, step: str, item: int | None = None
    ) -> Generator[Evaluation, Evaluated, Preparation]:
        """What must be known before a step, or before an item of a parallel one. What all items
        have in common is found out for the step, the rest for each."""
        unit = self._seen.state.unit_of(step, item)
        found = unit.step
        of_item = scope.item_names(found) if found.parallel is not None else frozenset()
        results = self._results(unit)
        common = frozenset(results)
        leave_out = of_item if item is None else frozenset()
        texts = yield from scope.step_texts(
            found,
            self._seen.of(unit),
            self._seen.refs,
            results=results,
            leave_out=leave_out,
            strong=self._seen.above(unit, {}) if found.env else (),
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
            known = self._seen.items_of(self._seen.state.steps[unit.index])
            if known is None:  # else it is of the run that this one retries
                seen = self._seen.of(unit, texts.env)
                listed = yield from items.listed(
                    found.parallel, seen, self._seen.refs, results=results
                )
        own = {command: text for command, text in results.items() if command not in common}
        return Preparation(own, listed, verdict)

    def judgement(self, step: str, item: int | None) -> Generator[Evaluation, Evaluated, Verdict]:
        """Whether the condition of a repeatPolicy holds; it sees the output of the execution that
        has just ended."""
        unit = self._seen.state.unit_of(step, item)
        policy = unit.step.repeat
        if policy is None or policy.condition is None:
            return Verdict()
        texts = self.texts(unit, {})
        outputs = self._seen.outputs_of(self._seen.state.steps[unit.index])
        if item is not None and unit.step.output is not None:
            outputs = {unit.step.output: self._seen.values[RESULT + step, str(item)]}
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
                self._seen.of(unit, texts.env, outputs=outputs),
                refs=self._seen.refs,
                shell=unit.step.shell or self._workflow.shell or command_line.DEFAULT_SHELL,
                positional=self._seen.run_scope.positional,
            )
        )

    def prepared(
        self, step: str, item: int | None, found: Preparation, at: datetime
    ) -> tuple[Prepared, tuple[Write, ...]]:
        """The fact of what `of` found, and the values to keep with it."""
        values: list[tuple[str, str, str]] = []
        hide = self._seen.veil.hide
        if found.results:
            hidden = {command: hide(text) for command, text in found.results.items()}
            values.append((_key(step, item), "results", json.dumps(hidden)))
        previews = None
        if found.items is not None:
            values.append((ITEMS + step, "list", json.dumps([hide(t) for t in found.items])))
            self._seen.mask = self._seen.mask.plus(items.secrets_in(found.items))
            previews = items.previews(found.items, self._seen.mask)
        verdict = found.verdict
        reason = self._seen.mask.text(verdict.reason)
        event = Prepared(at, step, verdict.met, reason, verdict.error, items=previews, item=item)
        return event, self._seen.keep(tuple(values))

    def prepared_run(
        self, found: RunScope, verdict: Verdict, at: datetime, *, note: str
    ) -> tuple[Prepared, tuple[Write, ...]]:
        """The fact of what `of_run` found, and the resolved params and env to keep.
        `note` is for people."""
        self._seen.run_scope = found
        reason = self._seen.mask.text(verdict.reason) or note
        event = Prepared(at, None, verdict.met, reason, verdict.error, params=self._shown_params())
        text = found.mapped(self._seen.veil.hide).text()
        return event, self._seen.keep(((RUN_SCOPE, "scope", text),))

    def _shown_params(self) -> tuple[tuple[str, str], ...]:
        mask = self._seen.mask
        return tuple(
            (name, STARS if is_secret_name(name) else mask.text(p.value))
            for p in self._seen.run_scope.params
            for name in (p.name or str(p.position),)
        )

    def _results(self, unit: Unit) -> dict[str, str]:
        """What the backticks of a step printed, and those of the item."""
        found: dict[str, str] = {}
        for item in (None,) if unit.item is None else (None, unit.item):
            kept = self._seen.values.get((_key(unit.step.name, item), "results"))
            if kept is not None:
                found |= shown(kept, self._seen.veil)
        return found

    def texts(self, unit: Unit, more: dict[str, str]) -> StepTexts:
        """A step's texts with the values of an attempt, whose own names are `more`."""
        if not scope.has_texts(unit.step):
            return StepTexts()
        return scope.without_process(
            scope.step_texts(
                unit.step,
                self._seen.of(unit, more=more),
                self._seen.refs,
                results=self._results(unit),
                strong=self._seen.above(unit, more) if unit.step.env else (),
            )
        )

    def question(self, step: str, message: str) -> str:
        """What a person is asked, with the values that the step sees, and secrets hidden."""
        unit = self._seen.state.unit_of(step, None)
        with suppress(ScopeError):  # the step itself will say what is wrong with its values
            seen = self._seen.of(unit, self.texts(unit, {}).env)
            message = scope.plain(message, seen)
        return self._seen.mask.text(message)

    def root(self, bound: Bound | None = None) -> Path:
        """Where steps without `dir` run. Raises ScopeError."""
        text = self._workflow.working_dir
        if not text:
            return self._place
        found = None if bound is None else RunScope(bound.params)
        known = self._seen.of_run(found)
        return self._place / scope.required("workingDir", text, scope.plain(text, known), known)


def _key(step: str, item: int | None) -> str:
    return f"{_PREPARED}{step}" if item is None else f"{_PREPARED}{step}#{item}"
