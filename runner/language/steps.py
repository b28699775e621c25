"""What the entry of one step means: a `Step`, or every fault in it.

One thing runs in a step, policies make sense, names are names, patterns compile. How steps
follow each other is `definition`'s. Its rule: check everything, and build the step all the same.
Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from runner.language.conditions import pattern_problem
from runner.language.document import is_command_key, keys
from runner.language.entries import (
    PROCESS_EXECUTORS,
    ConditionEntry,
    ContinueOnEntry,
    Entry,
    ExecutorEntry,
    ParallelEntry,
    RepeatEntry,
    RetryEntry,
    StepEntry,
    WorkflowEntry,
    is_http_command,
)
from runner.language.faults import Fault, Faults, LanguageError, Place, quoted
from runner.language.model import (
    Approval,
    Condition,
    ContinueOn,
    ExecutorConfig,
    MapItem,
    Parallel,
    Param,
    RepeatMode,
    RepeatPolicy,
    Resources,
    RetryPolicy,
    Step,
    Tree,
)
from runner.language.params import LONGEST_NAME, NAME, check_name, parse_declared

_NEVER = ContinueOn()
_ID = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_COMMANDS = ("command", "script", "run")


def define_step(
    entry: StepEntry,
    name: str,
    place: Place,
    *,
    faults: Faults,
    depends: tuple[str, ...] = (),
    retry_on_loss: bool = False,
) -> Step:
    """The step that `entry`, which stands at `place`, describes."""
    if entry.id is not None and not _ID.fullmatch(entry.id):
        faults.add(
            (*place, "id"),
            f"{quoted(entry.id)} is not an id: a letter, then letters, digits, _ and -",
        )
    _one_thing_runs(entry, name, place, faults)
    command = entry.command
    return Step(
        name=name,
        id=entry.id,
        description=entry.description,
        command=command if isinstance(command, str) else None,
        argv=command if isinstance(command, tuple) else None,
        script=entry.script,
        shell=entry.shell,
        depends=depends,
        env=variables(entry.env, (*place, "env"), faults) if entry.env else (),
        dir=entry.dir or None,
        output=_output(entry.output, place, faults),
        preconditions=conditions(entry, place, faults),
        continue_on=_continue_on(entry.continue_on, (*place, "continueOn"), faults),
        retry=_retry(entry.retry_policy),
        timeout_s=entry.timeout_sec or None,
        stop_signal=entry.signal_on_stop,
        retry_on_loss=retry_on_loss if entry.on_loss is None else entry.on_loss,
        run=entry.run,
        params=_params_of_run(entry, place, faults),
        parallel=_parallel(entry.parallel),
        repeat=_repeat(entry.repeat_policy, (*place, "repeatPolicy"), faults),
        approval=_approval(entry),
        executor=_executor(entry.executor),
        stdout=entry.stdout or None,
        stderr=entry.stderr or None,
        mail_on_error=entry.mail_on_error,
        worker_selector=tuple((entry.worker_selector or {}).items()),
        resources=_resources(entry),
    )


# What runs


def _one_thing_runs(entry: StepEntry, name: str, place: Place, faults: Faults) -> None:
    given = [key for key in _COMMANDS if getattr(entry, key) is not None]
    executor = entry.executor
    is_process = executor is None or executor.type in PROCESS_EXECUTORS
    if entry.run is not None:
        for key in given[:-1]:
            faults.add((*place, key), f'"{key}" and "run" exclude each other; keep one of them')
        if not is_process:
            message = '"executor" has no meaning where "run" starts a workflow; remove one of them'
            faults.add((*place, "executor"), message, on_key=True)
        _check_items_as_params(entry, place, faults)
        return
    _only_of_run(entry, place, faults)
    if executor is not None and not is_process:
        _check_executor(entry, executor, name, place=place, faults=faults)
    elif not given and entry.approval is None:
        _nothing_runs(name, place, faults)
    if isinstance(entry.command, str) and entry.script is not None and is_process:
        _check_interpreter(entry.command, (*place, "command"), faults)


def _only_of_run(entry: StepEntry, place: Place, faults: Faults) -> None:
    hint = 'belongs to steps with "run"'
    if entry.params is not None and not _is_explained(place, faults):
        message = f'"params" {hint}; a command gets its values from "env"'
        faults.add((*place, "params"), message, on_key=True)
    if entry.worker_selector is not None:
        message = f'"workerSelector" {hint}; all other steps run where their run does'
        faults.add((*place, "workerSelector"), message, on_key=True)


def _check_items_as_params(entry: StepEntry, place: Place, faults: Faults) -> None:
    """Without `params`, each key of a map item becomes a parameter of the child."""
    items = entry.parallel.items if entry.parallel is not None else ()
    if entry.params is not None or isinstance(items, str):
        return
    for n, item in enumerate(items):
        for key, _ in item.fields if isinstance(item, MapItem) else ():
            try:
                check_name(key)
            except LanguageError as error:
                faults.add((*place, "parallel", "items", n, key), str(error), on_key=True)


def _nothing_runs(name: str, place: Place, faults: Faults) -> None:
    if _is_explained(place, faults):
        return
    message = f"step {quoted(name)} needs a command, a script, a run, an executor or an approval"
    faults.found.append(Fault(place, message))


def _is_explained(place: Place, faults: Faults) -> bool:
    below = (b[len(place)] for b in faults.broken if b[: len(place)] == place != b)
    return place in faults.broken or any(is_command_key(str(key)) for key in below)


def _check_interpreter(text: str, place: Place, faults: Faults) -> None:
    try:
        words = shlex.split(text)
    except ValueError as error:
        faults.add(place, f"{quoted(text)} is no command line to run the script: {error}")
        return
    if not words or not words[0]:
        faults.add(place, f"{quoted(text)} names no program to run the script")


# Executors


def _check_executor(
    entry: StepEntry, executor: ExecutorEntry, name: str, *, place: Place, faults: Faults
) -> None:
    """That what the executor needs is there, and nothing that it would not look at."""
    config = executor.config
    has = {key: bool(getattr(config, key, None)) for key in ("image", "container_name", "url")}
    has |= {key: bool(getattr(config, key, None)) for key in ("to", "host", "input")}
    has |= {"command": entry.command is not None, "script": entry.script is not None}
    label = f'step {quoted(name)} with executor "{executor.type}"'
    at: Place = (*place, "executor")

    def need(fulfilled: bool, wanted: str) -> None:
        if not fulfilled and not _is_explained(place, faults):
            faults.add(at, f"{label} needs {wanted}")

    def refuse(key: str, reason: str) -> None:
        if has[key]:
            faults.add((*place, key), f'"{key}" has no effect here: {reason}', on_key=True)

    match executor.type:
        case "docker":
            need(has["image"] or has["container_name"], 'an "image" or a "containerName"')
            if has["image"] and has["container_name"]:
                message = '"image" and "containerName" exclude each other; keep one of them'
                faults.add((*at, "config", "containerName"), message, on_key=True)
        case "http":
            need(
                has["url"] or has["command"], 'a "url" in its config, or a command `POST https://…`'
            )
            _check_http(entry, place, faults, has_url=has["url"])
            refuse("script", "a request takes its text from body")
        case "mail":
            need(has["to"], 'a "to" in its config')
            refuse("command", "a mail runs nothing")
            refuse("script", "a mail takes its text from message")
        case "ssh":
            need(has["host"], 'a "host" in its config')
            need(has["command"] or has["script"], "a command or a script")
        case "jq":
            need(isinstance(entry.command, str), 'a filter as its "command", as text')
            given = has["script"] or has["input"]
            need(given, 'a document: "script", or "input" in its config')


def _check_http(entry: StepEntry, place: Place, faults: Faults, *, has_url: bool) -> None:
    command = entry.command
    if command is None:
        return
    if has_url:
        message = '"command" and "url" both say where the request goes; keep one of them'
        faults.add((*place, "command"), message, on_key=True)
    elif not isinstance(command, str) or not is_http_command(command):
        written = quoted(command) if isinstance(command, str) else "a list"
        message = (
            f'"command" of a request must be a method and a URL, as POST https://…, not {written}'
        )
        faults.add((*place, "command"), message)


def _executor(entry: ExecutorEntry | None) -> ExecutorConfig | None:
    if entry is None or entry.type in PROCESS_EXECUTORS:
        return None
    config: Entry = entry.config
    fields: list[tuple[str, Tree]] = [
        (key, getattr(config, name))
        for name, key in zip(type(config).model_fields, keys(type(config)), strict=True)
        if name in config.model_fields_set
    ]
    return ExecutorConfig(entry.type, MapItem(tuple(fields)))


# Sub-workflows and items


def _params_of_run(entry: StepEntry, place: Place, faults: Faults) -> tuple[Param, ...]:
    if entry.params is None or entry.run is None:
        return ()
    return declared(entry.params, (*place, "params"), faults)


def declared(
    items: Sequence[str | dict[str, str]], place: Place, faults: Faults
) -> tuple[Param, ...]:
    """The parameters that `items` declare, each name once."""
    found: list[Param] = []
    seen: set[str] = set()
    for n, item in enumerate(items):
        at: Place = (*place, n)
        if isinstance(item, dict) and len(item) == 1:
            at = (*at, next(iter(item)))
        try:
            params = parse_declared([item])
        except LanguageError as error:
            faults.add(at, str(error), on_key=isinstance(item, dict))
            continue
        for param in params:
            if param.name is not None and param.name in seen:
                faults.add(at, f"{param.name} is declared twice", on_key=True)
            seen |= {param.name} if param.name is not None else set()
        found.extend(params)
    return tuple(found)


def _parallel(entry: ParallelEntry | None) -> Parallel | None:
    if entry is None:
        return None
    if isinstance(entry.items, str):
        return Parallel(source=entry.items, max_concurrent=entry.max_concurrent)
    return Parallel(items=entry.items, max_concurrent=entry.max_concurrent)


# Policies


def _continue_on(entry: ContinueOnEntry | None, place: Place, faults: Faults) -> ContinueOn:
    if entry is None:
        return _NEVER
    for n, pattern in enumerate(entry.output):
        if pattern == "":
            faults.add((*place, "output", n), '"output" is empty, which every output holds')
        check_pattern(pattern, (*place, "output", n), faults)
    return ContinueOn(
        failure=entry.failure,
        skipped=entry.skipped,
        exit_codes=entry.exit_code,
        output=entry.output,
        mark_success=entry.mark_success,
    )


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


def _repeat(entry: RepeatEntry | None, place: Place, faults: Faults) -> RepeatPolicy | None:
    if entry is None:
        return None
    _check_repeat(entry, place, faults)
    if entry.repeat is False:
        return None
    if isinstance(entry.repeat, RepeatMode):
        mode = entry.repeat
    elif entry.condition is not None:
        mode = RepeatMode.WHILE if entry.expected is None else RepeatMode.UNTIL
    else:
        mode = RepeatMode.WHILE if entry.exit_code else RepeatMode.ALWAYS
    condition = entry.condition
    return RepeatPolicy(
        mode=mode,
        interval_s=entry.interval_sec,
        limit=entry.limit,
        condition=Condition(condition, entry.expected) if condition is not None else None,
        exit_codes=entry.exit_code,
        factor=entry.backoff,
        max_interval_s=entry.max_interval_sec,
    )


def _check_repeat(entry: RepeatEntry, place: Place, faults: Faults) -> None:
    decides = entry.condition is not None or bool(entry.exit_code)
    if entry.condition is not None and entry.exit_code:
        message = '"condition" and "exitCode" exclude each other; keep one of them'
        faults.add((*place, "exitCode"), message, on_key=True)
    if entry.expected is not None and entry.condition is None:
        message = '"expected" has no effect without a condition'
        faults.add((*place, "expected"), message, on_key=True)
    if isinstance(entry.repeat, RepeatMode) and not decides:
        message = f'"repeat: {entry.repeat}" needs a condition or an exitCode'
        faults.add((*place, "repeat"), message)
    if "repeat" not in entry.model_fields_set and not decides:
        message = 'nothing says when to repeat: write "repeat: true", a condition or an exitCode'
        faults.add(place, message, on_key=True)
    check_pattern(entry.expected or "", (*place, "expected"), faults)


def _approval(entry: StepEntry) -> Approval | None:
    approval = entry.approval
    if approval is None:
        return None
    return Approval(approval.message, approval.timeout_sec, approval.roles)


def _resources(entry: StepEntry) -> Resources | None:
    limits = entry.resources
    return Resources(limits.cpus, limits.memory, limits.nice) if limits is not None else None


# What workflows and steps share


def conditions(
    entry: WorkflowEntry | StepEntry, place: Place, faults: Faults
) -> tuple[Condition, ...]:
    if entry.preconditions is not None and entry.precondition is not None:
        faults.add(
            (*place, "precondition"),
            '"precondition" is another spelling of "preconditions"; keep one of them',
            on_key=True,
        )
    key = "preconditions" if entry.preconditions is not None else "precondition"
    entries: tuple[ConditionEntry, ...] = entry.preconditions or entry.precondition or ()
    for n, condition in enumerate(entries):
        if condition.expected is None and not condition.condition.strip():
            faults.add((*place, key, n), "the condition is empty")
        check_pattern(condition.expected or "", (*place, key, n, "expected"), faults)
    return tuple(Condition(c.condition, c.expected) for c in entries)


def check_pattern(text: str, place: Place, faults: Faults) -> None:
    problem = pattern_problem(text)
    if problem is not None:
        faults.add(place, f"{quoted(text)} is not a pattern (RE2): {problem}")


def variables(
    pairs: Iterable[dict[str, str]], place: Place, faults: Faults
) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    for n, pair in enumerate(pairs):
        for name, value in pair.items():
            try:
                check_name(name)
            except LanguageError as error:
                faults.add((*place, n, name), str(error), on_key=True)
            found.append((name, value))
    return tuple(found)


def _output(text: str | None, place: Place, faults: Faults) -> str | None:
    if text is None:
        return None
    name = text.removeprefix("$")
    name = name[1:-1] if name.startswith("{") and name.endswith("}") else name
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        faults.add(
            (*place, "output"),
            f"{quoted(text)} is not the name of a variable: letters, digits and _ only, "
            f"at most {LONGEST_NAME}",
        )
    return name
