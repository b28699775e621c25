"""What the end of an attempt, or of all items of a step, comes to: the fact, and values to keep.

Reads what the attempt left (`findings`) and writes the files of outputs; decides nothing.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from runner.engine import findings, items, plan, workspace
from runner.engine.events import Ended, OutputNote
from runner.engine.findings import Finding
from runner.engine.items import ItemResult
from runner.engine.names import FILE, OUT, RESULT, Names, Stored, exit_code_of
from runner.engine.state import StepState
from runner.executors.base import Outcome, Task
from runner.language.model import Workflow
from runner.veil import starred
from storage.mask import is_secret_name
from storage.records import Write

PREVIEW_CHARS = 200
Pairs = tuple[tuple[str, str], ...]


class Endings:
    """Of one run."""

    def __init__(self, *, workflow: Workflow, seen: Names) -> None:
        self._workflow = workflow
        self._seen = seen
        self._copying = threading.Lock()

    def findings(self, task: Task, outcome: Outcome) -> Finding:
        """Read what an ended attempt left. May run in a thread; raises nothing."""
        step = self._seen.state.steps[self._seen.state.index[task.step]].step
        copies = task.stdout is not None or task.stderr is not None
        with self._copying if copies else nullcontext():
            return findings.read(
                task,
                step,
                limit_bytes=self._workflow.max_output_bytes,
                mask=self._seen.mask.plus(outcome.secrets) if outcome.secrets else self._seen.mask,
                result=outcome.result,
            )

    def conclude(
        self, task: Task, outcome: Outcome, finding: Finding
    ) -> tuple[Ended, tuple[Write, ...]]:
        """The fact of an attempt's end, and the values to keep with it."""
        unit = self._seen.state.unit_of(task.step, task.item)
        if outcome.secrets:
            self._seen.mask = self._seen.mask.plus(outcome.secrets)
        error = outcome.error or finding.error
        reason = plan.failure(unit, exit_code=outcome.exit_code, signal=outcome.signal, error=error)
        lost = plan.is_lost(unit, unknown=outcome.lost)
        if lost:
            reason = plan.loss(unit, reason)
        reason = self._seen.mask.text(reason)
        outputs = finding.outputs
        if task.item is None:
            values = self._keep_outputs(task.step, task.folder, outputs)
            code = 0 if outcome.skipped else exit_code_of(unit, outcome.exit_code, reason)
            launched = (task.attempt, task.launch, code)
            self._seen.refer(self._seen.state.steps[unit.index], launched=launched)
        else:
            self._seen.hide(outputs)
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
            retryable=not finding.error or reason != self._seen.mask.text(finding.error),
            output_matched=finding.matched,
            log=finding.log,
            outputs=tuple(self._note(name, value) for name, value in outputs),
            lost=lost,
            skipped=outcome.skipped and not lost,
            item=task.item,
        )
        return event, self._seen.keep(values)

    def conclude_items(self, step: str, at: datetime) -> tuple[Ended, tuple[Write, ...]]:
        """What the items of a parallel step amount to, with its output. Raises OSError."""
        state = self._seen.state.steps[self._seen.state.index[step]]
        found = plan.conclusion(state)
        outputs: Pairs = ()
        folder = self._seen.step_folder(state)
        text, error = self._aggregate(state)
        if text is not None:
            folder.mkdir(parents=True, exist_ok=True)
            if state.step.id in self._seen.read_apart:
                workspace.write(folder / "out", text)
            if state.step.output is not None:
                outputs = ((state.step.output, text),)
        values = self._keep_outputs(step, folder, outputs)
        self._seen.refer_aggregate(state, found.exit_code)
        self._seen.forget(state)
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
        return event, self._seen.keep(values)

    def _aggregate(self, state: StepState) -> tuple[str | None, str]:
        """The output of a parallel step, None where nobody wants it; else why there is none."""
        step, limit = state.step, self._workflow.max_output_bytes
        if step.output is None and step.id not in self._seen.read_apart:
            return None, ""
        texts = self._seen.items_of(state) or ()
        place = RESULT + step.name
        outputs = [self._seen.values.get((place, str(n)), "") for n in range(len(texts))]
        too_large = f"output {step.output} is larger than maxOutputSize ({limit} bytes)"
        if step.output is not None and sum(map(len, outputs)) > limit:
            return None, too_large

        def hide(text: str) -> str:  # an output is stored, and secrets are not
            return starred(self._seen.veil.hide(text))

        results = [
            ItemResult(hide(text), item.status, item.exit_code, item.reason, output, bool(step.run))
            for text, item, output in zip(texts, state.items or (), outputs, strict=True)
        ]
        text = items.aggregate(results)
        if step.output is not None and len(text.encode()) > limit:
            return None, too_large
        return text, ""

    def _keep_outputs(self, step: str, folder: Path, outputs: Pairs) -> Stored:
        kept = []
        for name, value in outputs:
            path = folder / f"output-{name}"
            workspace.write(path, value)
            for key, text in ((name, value), (name + FILE, str(path))):
                self._seen.values[OUT + step, key] = text
                kept.append((OUT + step, key, text))
        self._seen.hide(outputs)
        return tuple(kept)

    def _note(self, name: str, value: str) -> OutputNote:
        data = value.encode()
        preview = "***" if is_secret_name(name) else self._seen.mask.text(value)[:PREVIEW_CHARS]
        return OutputNote(name, len(data), hashlib.sha256(data).hexdigest(), preview)
