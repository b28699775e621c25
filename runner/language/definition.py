"""What the entries of a file mean together: a `Workflow`, or every fault in it.

Names and ids are unique, dependencies exist and form no cycle, schedules fire, patterns compile,
parameters parse. Knows no raw key's spelling beyond the place of a fault, and no positions. Its
rule: check everything, collect every fault, and build the workflow all the same. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from runner.language import cron, order
from runner.language.conditions import pattern_problem
from runner.language.document import (
    ConditionEntry,
    ContinueOnEntry,
    HandlersEntry,
    PushEntry,
    RetryEntry,
    StepEntry,
    WorkflowEntry,
    is_command_key,
)
from runner.language.faults import Fault, LanguageError, Place, quoted
from runner.language.model import (
    Condition,
    ContinueOn,
    Param,
    PushFilter,
    RetryPolicy,
    Schedule,
    Step,
    Workflow,
    WorkflowType,
)
from runner.language.params import LONGEST_NAME, NAME, check_name, parse_declared

HANDLER_PREFIX = "handlerOn."
MAX_SCHEDULES = 100  # judging whether one ever fires takes milliseconds
_NEVER = ContinueOn()
_NO_HANDLERS = HandlersEntry()
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def define(
    entry: WorkflowEntry, *, id: str, path: str, broken: Sequence[Fault] = ()
) -> tuple[Workflow, list[Fault]]:
    """The workflow that `entry` describes, without its sub-workflows, and all faults.

    `broken` are the faults of shape that were cut out of `entry`: what is missing because of
    one of them is not reported again. With any fault the workflow is not to be used.
    """
    return _Definition(broken).workflow(entry, id=id, path=path)


class _Definition:
    def __init__(self, broken: Sequence[Fault]) -> None:
        self.faults: list[Fault] = []
        self._broken = [fault.place for fault in broken]
        self._retry_on_loss = False

    def workflow(self, entry: WorkflowEntry, *, id: str, path: str) -> tuple[Workflow, list[Fault]]:
        self._retry_on_loss = entry.on_loss
        kind = entry.type or WorkflowType.GRAPH
        handlers = entry.handler_on or _NO_HANDLERS
        workflow = Workflow(
            id=id,
            name=entry.name or id,
            path=path,
            steps=self._steps(entry, kind),
            type=kind,
            description=entry.description,
            group=entry.group,
            tags=entry.tags,
            schedule=self._schedule(entry),
            timezone=entry.timezone or None,
            push=self._push(entry),
            params=self._params(entry),
            env=self._env(entry.env, ("env",)),
            shell=entry.shell,
            working_dir=entry.working_dir or None,
            preconditions=self._conditions(entry, ()),
            on_success=self._handler(handlers.success, "success"),
            on_failure=self._handler(handlers.failure, "failure"),
            on_exit=self._handler(handlers.exit, "exit"),
            timeout_s=entry.timeout_sec or None,
            max_active_runs=entry.max_active_runs,
            max_active_steps=entry.max_active_steps,
            max_clean_up_s=entry.max_clean_up_time_sec,
            max_output_bytes=entry.max_output_size,
        )
        return workflow, self.faults

    def _fault(self, place: Place, message: str, *, on_key: bool = False) -> None:
        hidden = any(b[: len(place)] == place or place[: len(b)] == b for b in self._broken)
        if not hidden or not place:
            self.faults.append(Fault(place, message, on_key=on_key))

    # Steps

    def _steps(self, entry: WorkflowEntry, kind: WorkflowType) -> tuple[Step, ...]:
        if not entry.steps:
            self._fault(("steps",), "a workflow needs at least one step")
            return ()
        names = [step.name or f"step-{n}" for n, step in enumerate(entry.steps, start=1)]
        self._unique_names(entry.steps, names)
        below, mistakes = order.arrange(
            names,
            ids=[step.id for step in entry.steps],
            given=[step.depends for step in entry.steps],
            kind=kind,
        )
        for mistake in mistakes:
            where: Place = ("steps", mistake.step, "depends")
            self._fault(where if mistake.item is None else (*where, mistake.item), mistake.message)
        return tuple(
            self._step(step, name, ("steps", n), depends=below[n])
            for n, (step, name) in enumerate(zip(entry.steps, names, strict=True))
        )

    def _unique_names(self, steps: Sequence[StepEntry], names: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for n, name in enumerate(names):
            place: Place = ("steps", n, "name")
            if name in first:
                other = "the step above" if first[name] == n - 1 else f"step {first[name] + 1}"
                self._fault(place, f"{other} is named {quoted(name)} too; names are unique")
            first.setdefault(name, n)
            if name.startswith(HANDLER_PREFIX):
                self._fault(place, f"names starting with {HANDLER_PREFIX} are those of handlers")
        ids: set[str] = set()
        for n, step in enumerate(steps):
            if step.id is None:
                continue
            place = ("steps", n, "id")
            if step.id in ids:
                self._fault(place, f"another step has the id {quoted(step.id)}; ids are unique")
            elif first.get(step.id, n) != n:
                self._fault(place, f"another step is named {quoted(step.id)}; choose another id")
            ids.add(step.id)

    def _handler(self, entry: StepEntry | None, name: str) -> Step | None:
        if entry is None:
            return None
        place: Place = ("handlerOn", name)
        if entry.depends is not None:
            self._fault((*place, "depends"), '"depends" has no meaning in a handler', on_key=True)
        return self._step(entry, HANDLER_PREFIX + name, place)

    def _step(
        self, entry: StepEntry, name: str, place: Place, *, depends: tuple[str, ...] = ()
    ) -> Step:
        if entry.id is not None and not _ID.fullmatch(entry.id):
            self._fault(
                (*place, "id"),
                f"{quoted(entry.id)} is not an id: a letter, then letters, digits, _ and -",
            )
        if entry.command is None and entry.script is None:
            self._nothing_to_run(name, place)
        command = entry.command
        if isinstance(command, str) and entry.script is not None:
            self._interpreter(command, (*place, "command"))
        return Step(
            name=name,
            id=entry.id,
            description=entry.description,
            command=command if isinstance(command, str) else None,
            argv=command if isinstance(command, tuple) else None,
            script=entry.script,
            shell=entry.shell,
            depends=depends,
            env=self._env(entry.env, (*place, "env")) if entry.env else (),
            dir=entry.dir or None,
            output=self._output(entry.output, place),
            preconditions=self._conditions(entry, place),
            continue_on=self._continue_on(entry.continue_on, (*place, "continueOn")),
            retry=_retry(entry.retry_policy),
            timeout_s=entry.timeout_sec or None,
            stop_signal=entry.signal_on_stop,
            retry_on_loss=self._retry_on_loss if entry.on_loss is None else entry.on_loss,
        )

    def _interpreter(self, text: str, place: Place) -> None:
        try:
            words = shlex.split(text)
        except ValueError as error:
            self._fault(place, f"{quoted(text)} is no command line to run the script: {error}")
            return
        if not words or not words[0]:
            self._fault(place, f"{quoted(text)} names no program to run the script")

    def _nothing_to_run(self, name: str, place: Place) -> None:
        below = (b[len(place)] for b in self._broken if b[: len(place)] == place != b)
        explained = place in self._broken or any(is_command_key(str(key)) for key in below)
        if not explained:
            self.faults.append(Fault(place, f"step {quoted(name)} needs a command or a script"))

    def _output(self, text: str | None, place: Place) -> str | None:
        if text is None:
            return None
        name = text.removeprefix("$")
        name = name[1:-1] if name.startswith("{") and name.endswith("}") else name
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            self._fault(
                (*place, "output"),
                f"{quoted(text)} is not the name of a variable: letters, digits and _ only, "
                f"at most {LONGEST_NAME}",
            )
        return name

    def _continue_on(self, entry: ContinueOnEntry | None, place: Place) -> ContinueOn:
        if entry is None:
            return _NEVER
        for n, pattern in enumerate(entry.output):
            if pattern == "":
                self._fault((*place, "output", n), '"output" is empty, which every output holds')
            self._pattern(pattern, (*place, "output", n))
        return ContinueOn(
            failure=entry.failure,
            skipped=entry.skipped,
            exit_codes=entry.exit_code,
            output=entry.output,
            mark_success=entry.mark_success,
        )

    # What workflows and steps share

    def _conditions(self, entry: WorkflowEntry | StepEntry, place: Place) -> tuple[Condition, ...]:
        if entry.preconditions is not None and entry.precondition is not None:
            self._fault(
                (*place, "precondition"),
                '"precondition" is another spelling of "preconditions"; keep one of them',
                on_key=True,
            )
        key = "preconditions" if entry.preconditions is not None else "precondition"
        entries: tuple[ConditionEntry, ...] = entry.preconditions or entry.precondition or ()
        for n, condition in enumerate(entries):
            if condition.expected is None and not condition.condition.strip():
                self._fault((*place, key, n), "the condition is empty")
            self._pattern(condition.expected or "", (*place, key, n, "expected"))
        return tuple(Condition(c.condition, c.expected) for c in entries)

    def _pattern(self, text: str, place: Place) -> None:
        problem = pattern_problem(text)
        if problem is not None:
            self._fault(place, f"{quoted(text)} is not a pattern (RE2): {problem}")

    def _env(self, pairs: Iterable[dict[str, str]], place: Place) -> tuple[tuple[str, str], ...]:
        variables: list[tuple[str, str]] = []
        for n, pair in enumerate(pairs):
            for name, value in pair.items():
                try:
                    check_name(name)
                except LanguageError as error:
                    self._fault((*place, n, name), str(error), on_key=True)
                variables.append((name, value))
        return tuple(variables)

    def _params(self, entry: WorkflowEntry) -> tuple[Param, ...]:
        declared: list[Param] = []
        seen: set[str] = set()
        for n, item in enumerate(entry.params):
            place: Place = ("params", n)
            if isinstance(item, dict) and len(item) == 1:
                place = (*place, next(iter(item)))
            try:
                params = parse_declared([item])
            except LanguageError as error:
                self._fault(place, str(error), on_key=isinstance(item, dict))
                continue
            for param in params:
                if param.name is not None and param.name in seen:
                    self._fault(place, f"{param.name} is declared twice", on_key=True)
                seen |= {param.name} if param.name is not None else set()
            declared.extend(params)
        return tuple(declared)

    # What starts runs

    def _schedule(self, entry: WorkflowEntry) -> Schedule | None:
        zone = entry.timezone or None
        zone_problem = cron.check_zone(zone)
        if zone_problem is not None:
            self._fault(("timezone",), zone_problem)
            zone = None
        if entry.schedule is None:
            return None
        crons: list[tuple[str, str | None]] = []
        if len(entry.schedule.start) > MAX_SCHEDULES:
            many = f"{len(entry.schedule.start):,} schedules; a workflow has at most"
            self._fault(("schedule",), f"{many} {MAX_SCHEDULES}")
            return None
        for n, text in enumerate(entry.schedule.start):
            problem = cron.check(text, zone)
            if problem is not None:
                self._fault(("schedule", "start", n), problem)
                continue
            fields, own_zone = cron.split(text)
            crons.append((fields, own_zone or zone))
        return Schedule(tuple(dict.fromkeys(crons))) if crons else None

    def _push(self, entry: WorkflowEntry) -> PushFilter | None:
        push: PushEntry | None = entry.on.push if entry.on is not None else None
        if push is None:
            return None
        for key, patterns in (
            ("branches", push.branches),
            ("tags", push.tags),
            ("paths", push.paths),
        ):
            for n, pattern in enumerate(patterns):
                if pattern.removeprefix("!") == "":
                    self._fault(("on", "push", key, n), "a pattern is empty")
        return PushFilter(push.branches, push.tags, push.paths)


def _retry(entry: RetryEntry | None) -> RetryPolicy | None:
    if entry is None:
        return None
    return RetryPolicy(
        limit=entry.limit,
        interval_s=entry.interval_sec,
        factor=entry.backoff,
        max_interval_s=entry.max_interval_sec,
        exit_codes=entry.exit_code,
    )
