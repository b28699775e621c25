"""What the steps of one run see: DAG_*, GIT_* and EVENT_*, outputs of other steps, ITEM.

Knows which output is nearer and what `${id.stdout}` stands for; what the layers of values are is
`scope`'s. Does no I/O but looking for the folder of a run that this one retries.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from runner.engine import scope, workspace
from runner.engine.history import History
from runner.engine.items import secrets_in
from runner.engine.parts import Parts
from runner.engine.scope import ITEM, ITEM_INDEX, Layers, Pairs, RunScope
from runner.engine.state import RunState, StepState, StepStatus, Unit
from runner.language.model import Step, Workflow
from runner.triggers import Trigger
from runner.veil import Veil
from storage.mask import is_secret_name
from storage.records import PutValues, Write

OUT, ITEMS, RESULT = "out:", "items:", "result:"  # scopes of run_values, each with a step's name
FILE = "_FILE"
RUN_ITEM, RUN_ITEM_INDEX = ("run", "item"), ("run", "item_index")
_NO_FILE = "/dev/null"
_RUN_IN_HANDLERS_OF_INIT = "running"

Visible = dict[str, tuple[int, int]]
Values = dict[tuple[str, str], str]
Stored = tuple[tuple[str, str, str], ...]  # (scope, name, value)


class Names:
    """Of one run. `values` are its run_values, `mask` hides what of them is secret, `read_apart`
    has the ids that some text has as `${id.stdout}` or `${id.stderr}`."""

    def __init__(self, history: History, *, state: RunState, parts: Parts, folder: Path) -> None:
        self.state = state
        self.values: Values = dict(history.values)
        self.secrets: Mapping[str, str] = {}
        self.veil = parts.veil
        self.refs: dict[str, dict[str, str]] = {}
        self.read_apart = _read_apart(history.workflow)
        self._run = history.run
        self._workflow = history.workflow
        self._run_scope = RunScope()
        self._folder = folder
        self._visible: dict[int, Visible] = {}
        self._of_run: Layers | None = None
        self._layers: dict[int, Layers] = {}  # of parallel steps that are not over
        self._lists: dict[int, tuple[str, ...]] = {}
        trigger = self.trigger
        zone = self._workflow.timezone or parts.zone
        self.base = {**scope.dates(trigger.slot or trigger.at, zone), **parts.inherited}
        self.fixed = self._fixed_values(trigger, parts.url)
        for step in state.steps:
            self.refer(step)
        self.mask = parts.mask.plus(self._known_secrets(parts.inherited))

    def _known_secrets(self, inherited: Mapping[str, str]) -> list[str]:
        found = [value for name, value in inherited.items() if is_secret_name(name)]
        found += [value for (_, name), value in self.values.items() if is_secret_name(name)]
        listed = (self.items_of(step) for step in self.state.steps if step.items)
        return [*found, *(text for known in listed for text in secrets_in(known or ()))]

    @property
    def run_scope(self) -> RunScope:
        """Params and env of the run, once they are resolved."""
        return self._run_scope

    @run_scope.setter
    def run_scope(self, found: RunScope) -> None:
        self._run_scope = found
        self.forget_all()
        pairs = [*((p.name or "", p.value) for p in found.params), *found.env]
        self.hide(pairs)

    def hide(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Mask, from here on, the values of names that say that they are secret."""
        secret = [value for name, value in pairs if is_secret_name(name)]
        if secret:
            self.mask = self.mask.plus(secret)

    def keep(self, values: Stored) -> tuple[Write, ...]:
        """Add to the run's values, here and, with what is returned, in the store."""
        self.values.update(((place, name), value) for place, name, value in values)
        return (PutValues(self._run, values),) if values else ()

    @property
    def trigger(self) -> Trigger:
        if self.state.queued is None:
            raise ValueError(f"run {self._run} has no Queued event")
        return self.state.queued.trigger

    @property
    def event_file(self) -> Path:
        """What started the run; a child run has its root's."""
        queued = self.state.queued
        root = queued.root if queued is not None else ""
        return (self._folder.parent / root if root else self._folder) / "event.json"

    def _fixed_values(self, trigger: Trigger, url: str) -> dict[str, str]:
        """DAG_*, GIT_* and EVENT_* that are the same for all steps of the run."""
        queued = self.state.queued
        commit, ref, repository, attempt = "", "", "", 1
        if queued is not None:
            commit, ref, repository = queued.commit, queued.ref, queued.repository
            attempt = queued.attempt
        return {
            "DAG_NAME": self._workflow.name,
            "DAG_RUN_ID": self._run,
            "DAG_RUN_ATTEMPT": str(attempt),
            "DAG_RUN_LOG_FILE": str(self._folder / "log"),
            "DAG_RUN_ARTIFACTS_DIR": str(self._folder / "artifacts"),
            "DAG_RUN_URL": f"{url}/runs/{self._run}" if url else "",
            "DAG_RUN_SCHEDULED_AT": _stamp(trigger.slot),
            "DAG_RUN_PREVIOUS_AT": _stamp(trigger.previous_slot),
            "GIT_COMMIT": commit,
            "GIT_REF": ref,
            "GIT_BRANCH": ref.removeprefix("refs/heads/") if ref.startswith("refs/heads/") else "",
            "GIT_REPOSITORY": repository,
            "EVENT_NAME": trigger.type.value,
            "EVENT_PAYLOAD_FILE": str(self.event_file),
        }

    # Of the run and of a unit

    def of_run(self, found: RunScope | None = None) -> dict[str, str]:
        """What is there before any step."""
        layers = scope.layers(
            self.base, self.run_scope if found is None else found, {}, secrets=self.secrets
        )
        return layers.names(fixed=self.fixed, item=self._item_of_run())

    def of(
        self,
        unit: Unit,
        env: Pairs = (),
        *,
        more: Mapping[str, str] | None = None,
        outputs: Mapping[str, str] | None = None,
    ) -> dict[str, str]:
        """What a step or an item sees. `env`: its own, expanded; `more`: what is its attempt's;
        `outputs`: its own of the execution before."""
        layers = self._layers_of(unit)
        if outputs:
            layers = Layers(layers.below, {**layers.above, **outputs})
        fixed = self._fixed_of(unit, more or {})
        return layers.names(env, fixed=fixed, item=self._item_of(unit))

    def _fixed_of(self, unit: Unit, more: Mapping[str, str]) -> dict[str, str]:
        fixed = {**self.fixed, "DAG_RUN_STEP_NAME": unit.step.name, **more}
        if unit.index >= self.state.first_handler:
            fixed.update(self._handler_values())
        return fixed

    def above(self, unit: Unit, more: Mapping[str, str]) -> frozenset[str]:
        """The names that a step or an item sees with values stronger than its own env."""
        fixed, item = self._fixed_of(unit, more), self._item_of(unit)
        return frozenset((*self._layers_of(unit).above, *item, *fixed))

    def _layers_of(self, unit: Unit) -> Layers:
        known = self._layers.get(unit.index)
        if known is not None:
            return known
        run = self._layers_of_run()
        layers = Layers(run.below, {**run.above, **self._outputs(unit.index)})
        if unit.step.parallel is not None:  # its items are many
            self._layers[unit.index] = layers
        return layers

    def _layers_of_run(self) -> Layers:
        if self._of_run is None:
            self._of_run = scope.layers(self.base, self.run_scope, {}, secrets=self.secrets)
        return self._of_run

    def forget(self, step: StepState) -> None:
        """A parallel step is over."""
        self._layers.pop(step.index, None)
        self._lists.pop(step.index, None)

    def forget_all(self) -> None:
        """Values changed that all steps see."""
        self._of_run = None
        self._layers.clear()
        self._lists.clear()

    def items_of(self, step: StepState) -> tuple[str, ...] | None:
        """The texts of a parallel step's items; None where they are not known yet."""
        if step.index not in self._lists:
            kept = self.values.get((ITEMS + step.step.name, "list"))
            if kept is None:
                return None
            self._lists[step.index] = tuple(self.veil.show(text) for text in json.loads(kept))
        return self._lists[step.index]

    def item_text(self, unit: Unit) -> str | None:
        if unit.item is None:
            return None
        listed = self.items_of(self.state.steps[unit.index])
        return None if listed is None else listed[unit.item]

    def _item_of(self, unit: Unit) -> Mapping[str, str]:
        text = self.item_text(unit)
        if text is None:
            return {} if unit.step.parallel is not None else self._item_of_run()
        return {ITEM: text, ITEM_INDEX: str(unit.item)}

    def _item_of_run(self) -> Mapping[str, str]:
        """Of a child run: the item of its parent's step that it was made for."""
        text = self.values.get(RUN_ITEM)
        if text is None:
            return {}
        index = self.values.get(RUN_ITEM_INDEX, "")
        return {ITEM: self.veil.show(text), ITEM_INDEX: index}

    def _handler_values(self) -> dict[str, str]:
        outcome = self.state.outcome
        return {
            "DAG_RUN_STATUS": outcome.value if outcome else _RUN_IN_HANDLERS_OF_INIT,
            "DAG_RUN_FAILED_STEPS": ",".join(self.state.failed_steps()),
            "DAG_RUN_ERROR": self.state.reason,
            "DAG_RUN_SUMMARY_FILE": str(self._folder / "summary.json"),
        }

    # Outputs of other steps

    def _outputs(self, index: int) -> dict[str, str]:
        """Values of the steps that this one depends on, also indirectly, and of the init handler,
        which is farther than any; handlers see all."""
        state, found = self.state, {}
        if state.init is not None and state.init != index:
            found.update(self.outputs_of(state.steps[state.init]))
        if index >= state.first_handler:
            for other in state.steps:
                if other.index not in (index, state.init):
                    found.update(self.outputs_of(other))
            return found
        for name, (_, producer) in self._seen_by(index).items():
            found.update(self.outputs_of(state.steps[producer], only=name))
        return found

    def outputs_of(self, step: StepState, only: str | None = None) -> dict[str, str]:
        found = {}
        for note in step.outputs:
            if only in (None, note.name):
                for key in (note.name, note.name + FILE):
                    found[key] = self.values[OUT + step.step.name, key]
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

    # Files

    def step_folder(self, unit: Unit) -> Path:
        """What all launches of a step have in common."""
        return workspace.step_folder(self._folder, number=unit.index + 1, step=unit.step.name)

    def launch_folder(self, unit: Unit, attempt: int, launch: str) -> Path:
        return workspace.launch_folder(
            self._folder,
            number=unit.index + 1,
            step=unit.step.name,
            attempt=attempt,
            launch=launch,
            item=unit.item,
        )

    def separate(self, step: Step) -> bool:
        """Whether stdout must be told from stderr."""
        wanted = (step.output, step.stdout, step.stderr)
        told = any(text is not None for text in wanted) or bool(step.continue_on.output)
        return told or step.id in self.read_apart

    def refer(
        self, step: StepState, *, launched: tuple[int, str, int | None] | None = None
    ) -> None:
        """Make `${id.stdout}`, `.stderr` and `.exitCode` of a step's last attempt known; of a
        parallel step, of its aggregated output. `launched`: an attempt's number, launch and exit
        code, where the state does not have them yet."""
        id = step.step.id
        if id is None:
            return
        if step.step.parallel is not None:
            if step.status in (StepStatus.SUCCEEDED, StepStatus.FAILED):
                self.refer_aggregate(step, step.exit_code)
            return
        known = (step.attempt, step.launch, exit_code_of(step, step.exit_code, step.reason))
        attempt, launch, exit_code = launched or known
        if not launch:
            return
        folder = self.launch_folder(step, attempt, launch)
        if step.carried:
            folder = self._folder_of(step.carried, id) / folder.relative_to(self._folder)
        files = (folder / "out", folder / ("err" if self.separate(step.step) else "out"))
        if step.step.run is not None:
            files = (folder / "result", Path(_NO_FILE))
        self.refs[id] = {
            "stdout": str(files[0]),
            "stderr": str(files[1]),
            "exitCode": "" if exit_code is None else str(exit_code),
        }

    def refer_aggregate(self, step: StepState, exit_code: int | None) -> None:
        id = step.step.id
        if id is not None:
            folder = self.step_folder(step)
            if step.carried:
                folder = self._folder_of(step.carried, id) / folder.relative_to(self._folder)
            self.refs[id] = {
                "stdout": str(folder / "out"),
                "stderr": _NO_FILE,
                "exitCode": str(exit_code or 0),
            }

    def _folder_of(self, run: str, id: str) -> Path:
        """The folder of a run that this one retries; that of a child is below its root's, whose
        name only the disk knows."""
        runs = self._folder.parents[2]
        folder = workspace.run_folder(runs, run)
        if id in self.read_apart and not folder.exists():
            return next(folder.parents[1].glob(f"*/{run}"), folder)
        return folder


def exit_code_of(unit: Unit, exit_code: int | None, reason: str) -> int | None:
    """A child run has the one that `dagmill run` would have; `reason` is "" for a success."""
    if exit_code is not None or unit.step.run is None or not unit.launch:
        return exit_code
    return int(bool(reason) and unit.status is not StepStatus.SKIPPED)


def _stamp(at: datetime | None) -> str:
    return at.isoformat() if at is not None else ""


def _read_apart(workflow: Workflow) -> frozenset[str]:
    """Ids of the steps whose `${id.stdout}` or `${id.stderr}` some text may refer to."""
    steps = (*workflow.steps, *workflow.handlers)
    ids = [s.id for s in steps if s.id]
    if not ids:
        return frozenset()
    text = repr(steps)
    return frozenset(i for i in ids if f"{i}.std" in text)


def shown(kept: str, veil: Veil) -> dict[str, str]:
    """A stored map of texts with its secrets in place."""
    return {key: veil.show(value) for key, value in json.loads(kept).items()}
