"""Warnings: what is allowed, and probably not what its author meant. They never stop a run.

Looks at a workflow that is valid. Its rule: rather miss something than warn about what is right,
so shell text is only looked at where the shell would look, and variables it sets itself count
as defined. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from runner.language.calls import HANDLER_PREFIX, placed
from runner.language.document import keys
from runner.language.entries import HANDLERS, WorkflowEntry
from runner.language.faults import Fault, Place, did_you_mean
from runner.language.kinds import holds_reference
from runner.language.model import MapItem, Step, Workflow
from runner.language.params import tree_texts
from runner.language.shelltext import active_braces
from storage.mask import SHORTEST, is_secret_name

# Set for every step, or passed on from the service's own environment.
_KNOWN = frozenset(
    (
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TZ", "TMPDIR", "PWD", "OLDPWD"),
        *("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "DATE", "MONTH", "ITEM", "ITEM_INDEX", "IFS", "PPID", "RANDOM"),
        *("SECONDS", "LINENO", "HOSTNAME", "UID", "EUID", "OPTARG", "OPTIND", "REPLY"),
    )
)
_KNOWN_HEADS = ("DAG_", "GIT_", "EVENT_", "LC_", "BASH", "DAGMILL_")
_ASSIGNED = re.compile(r"(?<![\w$])([A-Za-z_]\w*)\+?=")
_SETTING = re.compile(r"(?:for|read|export|local|declare|mapfile)\b")
_SOURCING = re.compile(r"(?:^|[\s;])(?:\.|source)\s")
_COMMAND_END = re.compile(r"[\n;|&]")
_WORD = re.compile(r"\w+")
# All of a workflow; a warning is not worth that a hostile file keeps a service busy.
MAX_SHELL_TEXT = 128 * 1024
MAX_UNDEFINED = 30
_BRACED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CRON_SIZES = (("minutes", 60), ("hours", 24), ("days", None), ("months", 12), ("weekdays", 7))
_STEPPED = re.compile(r"\*/([0-9]+)")


# What a child run takes from its root, so that a sub-workflow's own has no effect.
_OF_ROOTS = (
    *("schedule", "on", "catchup_window", "overlap_policy", "skip_if_successful", "delay_sec"),
    *("max_active_runs", "queue", "priority", "restart_wait_sec"),
)


def warnings(
    entry: WorkflowEntry,
    workflow: Workflow,
    *,
    is_local: bool = False,
    given: frozenset[str] = frozenset(),
) -> list[Fault]:
    """Everything about `workflow` that its author should look at, at its place in the file.

    `given` are the names that the callers of a sub-workflow in the same file give it.
    """
    own = [
        (step, place)
        for step, place in placed(workflow)
        if place[0] == "steps" or getattr(entry.handler_on, str(place[1]), None) is not None
    ]
    found = [*_schedule(entry), *_all_at_once(workflow, entry), *_exit_codes(own)]
    undefined = list(islice(_undefined(workflow, own, given=given), MAX_UNDEFINED))
    if undefined and not workflow.dotenv and not _writes_outputs(workflow):
        found += undefined  # else something that is not in the file may define them
    found += _without_effect(entry, is_local=is_local)
    found += _short_secrets(entry)
    return found


def given_to(name: str, workflows: Iterable[Workflow]) -> frozenset[str]:
    """The names of all parameters that steps of `workflows` give to the sub-workflow `name`."""
    names: set[str] = set()
    for workflow in workflows:
        for step, _ in placed(workflow):
            if step.run == name:
                names.update(param.name for param in step.params if param.name is not None)
                items = step.parallel.items if step.parallel is not None else ()
                maps = (item for item in items if isinstance(item, MapItem))
                names.update(key for item in maps for key, _ in item.fields)
    return frozenset(names)


def _schedule(entry: WorkflowEntry) -> Iterator[Fault]:
    for key in ("start", "stop", "restart"):
        for n, text in enumerate(getattr(entry.schedule, key, ())):
            yield from _restarting(text, ("schedule", key, n))


def _restarting(text: str, place: Place) -> Iterator[Fault]:
    """Steps of a cron text that start again before they are through."""
    for field, (unit, size) in zip(text.split()[-5:], _CRON_SIZES, strict=False):
        stepped = _STEPPED.fullmatch(field)
        step = int(stepped[1]) if stepped else 1
        if step > 1 and (size is None or size % step):
            message = f'"{field}" starts again with each {_larger(unit)}: the last interval '
            yield Fault(place, f"{message}is shorter than {step} {unit}")


def _larger(unit: str) -> str:
    return {"minutes": "hour", "hours": "day", "days": "month", "months": "year"}.get(unit, "week")


def _all_at_once(workflow: Workflow, entry: WorkflowEntry) -> Iterator[Fault]:
    count = len(workflow.steps)
    said = entry.type is not None or any(s.depends is not None for s in entry.steps or ())
    if count > 1 and not said:
        yield Fault(
            ("steps",),
            f"all {count} steps start at once; write `type: chain` for one after another, "
            "`type: graph` to confirm",
            on_key=True,
        )


def _exit_codes(steps: Iterable[tuple[Step, Place]]) -> Iterator[Fault]:
    for step, place in steps:
        if step.executor is not None and step.executor.type == "http":
            continue  # there the status of the response stands for the code
        codes = {
            "continueOn": step.continue_on.exit_codes,
            "retryPolicy": step.retry.exit_codes if step.retry is not None else (),
            "repeatPolicy": step.repeat.exit_codes if step.repeat is not None else (),
        }
        for key, numbers in codes.items():
            for n, code in enumerate(numbers):
                if code > 255:
                    message = (
                        f"a process cannot exit with {code}; the system makes {code % 256} of it"
                    )
                    yield Fault((*place, key, "exitCode", n), message)


def _without_effect(entry: WorkflowEntry, *, is_local: bool) -> Iterator[Fault]:
    for key in HANDLERS:
        handler = getattr(entry.handler_on, key, None)
        if handler is not None and handler.name is not None:
            message = f"a handler is always named {HANDLER_PREFIX}{key}; this name has no effect"
            yield Fault(("handlerOn", key, "name"), message)
    if entry.log_dir is not None:
        message = '"logDir" has no effect: logs are kept with the run'
        yield Fault(("logDir",), message, on_key=True)
    if is_local:
        yield from _only_of_roots(entry)
    push = entry.on.push if entry.on is not None else None
    for key in ("branches", "tags", "paths") if push is not None else ():
        patterns = getattr(push, key)
        if patterns and all(pattern.startswith("!") for pattern in patterns):
            message = 'nothing matches patterns that only exclude; start the list with "**"'
            yield Fault(("on", "push", key), message)


def _only_of_roots(entry: WorkflowEntry) -> Iterator[Fault]:
    spelled = dict(zip(type(entry).model_fields, keys(type(entry)), strict=True))
    for name in _OF_ROOTS:
        if name in entry.model_fields_set:
            message = f'"{spelled[name]}" has no effect in a sub-workflow'
            yield Fault((spelled[name],), message, on_key=True)


def _short_secrets(entry: WorkflowEntry) -> Iterator[Fault]:
    """Values that stand in the file; others are known when the run starts only."""
    variables = [(("env", n), pair) for n, pair in enumerate(entry.env)]
    variables += [(("params", n), p) for n, p in enumerate(entry.params) if isinstance(p, dict)]
    for place, pair in variables:
        for name, value in pair.items():
            if 0 < len(value) < SHORTEST and is_secret_name(name) and not holds_reference(value):
                message = f"{name} is too short to be hidden in logs; a secret needs {SHORTEST}"
                yield Fault((*place, name), f"{message} characters or more")


def _undefined(
    workflow: Workflow, steps: Iterable[tuple[Step, Place]], *, given: frozenset[str]
) -> Iterator[Fault]:
    """`${X}` that nothing in the file defines. Outputs count wherever they are made: whether a
    step comes before is for `depends` to say, and optional values are common in handlers."""
    defined = {p.name for p in workflow.params if p.name is not None} | given
    defined |= {name for name, _ in (*workflow.env, *workflow.base_env)}
    defined |= {secret.name for secret in workflow.secrets}
    defined |= {step.output for step, _ in placed(workflow) if step.output is not None}
    defined |= {f"{name}_FILE" for name in defined}
    looked_at = 0
    for step, place in steps:
        known = defined | {name for name, _ in step.env} if step.env else defined
        for text, where, is_shell in _step_texts(step, place):
            looked_at += len(text) if is_shell and "${" in text else 0
            if looked_at > MAX_SHELL_TEXT:
                continue
            for name in _unknown_in(text, known, is_shell=is_shell):
                near = did_you_mean(name, known)
                yield Fault(where, f"nothing in this file defines ${{{name}}}{near}")


def _writes_outputs(workflow: Workflow) -> bool:
    """Whether a step seems to make outputs whose names only it knows."""
    texts = (f"{s.command}{s.argv}{s.script}" for s, _ in placed(workflow))
    return any("DAG_RUN_OUTPUT_FILE" in text for text in texts)


def _unknown_in(text: str, known: set[str], *, is_shell: bool) -> Iterable[str]:
    if "${" not in text:
        return ()
    names: dict[str, None] = {}
    if not is_shell:
        return {
            found[1]: None for found in _BRACED.finditer(text) if not _is_known(found[1], known)
        }
    if all(_is_known(found[1], known) for found in _BRACED.finditer(text)):
        return ()
    own = _set_by(text)
    for start in active_braces(text):
        found = _BRACED.match(text, start)
        if found is None or own is None or found[1] in own or _is_known(found[1], known):
            continue
        names[found[1]] = None
    return names


def _is_known(name: str, known: set[str]) -> bool:
    return name in known or name in _KNOWN or name.startswith(_KNOWN_HEADS)


def _set_by(text: str) -> set[str] | None:
    """The names that shell text seems to set itself: assigned, read, looped over, declared.
    None: it reads another file, which may set any."""
    if _SOURCING.search(text) is not None:
        return None
    names = set(_ASSIGNED.findall(text))
    for command in _COMMAND_END.split(text):
        setting = _SETTING.search(command)
        if setting is not None:
            names.update(_WORD.findall(command, setting.end()))
    return names


def _step_texts(step: Step, place: Place) -> Iterator[tuple[str, Place, bool]]:
    kind = step.executor.type if step.executor is not None else "command"
    if step.command is not None and step.script is None and kind != "jq":
        yield step.command, (*place, "command"), kind != "http"
    for n, word in enumerate(step.argv or ()):
        yield word, (*place, "command", n), False
    shell_script = step.command is None and step.argv is None
    if step.script is not None and shell_script and not step.script.startswith("#!"):
        yield step.script, (*place, "script"), True
    for key, text in (("dir", step.dir), ("stdout", step.stdout), ("stderr", step.stderr)):
        yield text or "", (*place, key), False
    yield from _run_texts(step, place)
    for n, condition in enumerate(step.preconditions):
        is_shell = condition.expected is None
        yield condition.condition, (*place, "preconditions", n, "condition"), is_shell
    repeat = step.repeat.condition if step.repeat is not None else None
    if repeat is not None:
        where: Place = (*place, "repeatPolicy", "condition")
        yield repeat.condition, where, repeat.expected is None


def _run_texts(step: Step, place: Place) -> Iterator[tuple[str, Place, bool]]:
    """What is expanded before anything runs: a call, the items, the config of an executor."""
    yield step.run or "", (*place, "run"), False
    for param in step.params:
        yield param.value, (*place, "params"), False
    if step.parallel is not None:
        yield step.parallel.source or "", (*place, "parallel"), False
        for text in tree_texts(step.parallel.items):
            yield text, (*place, "parallel", "items"), False
    if step.executor is not None:
        for key, value in step.executor.config.fields:
            for text in tree_texts(value):
                yield text, (*place, "executor", "config", key), False
