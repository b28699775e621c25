"""Warnings: what is allowed, and probably not what its author meant. They never stop a run.

Looks at a workflow that is valid. Its rule: rather miss something than warn about what is right,
so shell text is only looked at where the shell would look, and variables it sets itself count
as defined. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from runner.language.definition import HANDLER_PREFIX
from runner.language.entries import WorkflowEntry
from runner.language.faults import Fault, Place, did_you_mean
from runner.language.model import Step, Workflow
from runner.language.shelltext import active_braces

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


def warnings(entry: WorkflowEntry, workflow: Workflow, *, is_local: bool = False) -> list[Fault]:
    """Everything about `workflow` that its author should look at, at its place in the file."""
    found = [*_schedule(workflow, entry), *_all_at_once(workflow, entry)]
    found += _exit_codes(workflow)
    found += islice(_undefined(workflow), MAX_UNDEFINED)
    found += _without_effect(entry, is_local=is_local)
    return found


def _schedule(workflow: Workflow, entry: WorkflowEntry) -> Iterator[Fault]:
    for n, text in enumerate(entry.schedule.start if entry.schedule is not None else ()):
        fields = text.split()[-5:]
        for field, (unit, size) in zip(fields, _CRON_SIZES, strict=False):
            stepped = _STEPPED.fullmatch(field)
            step = int(stepped[1]) if stepped else 1
            if step > 1 and (size is None or size % step):
                message = f'"{field}" starts again with each {_larger(unit)}: the last interval '
                yield Fault(("schedule", "start", n), f"{message}is shorter than {step} {unit}")


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


def _exit_codes(workflow: Workflow) -> Iterator[Fault]:
    for step, place in _placed(workflow):
        codes = {
            "continueOn": step.continue_on.exit_codes,
            "retryPolicy": step.retry.exit_codes if step.retry is not None else (),
        }
        for key, numbers in codes.items():
            for n, code in enumerate(numbers):
                if code > 255:
                    message = (
                        f"a process cannot exit with {code}; the system makes {code % 256} of it"
                    )
                    yield Fault((*place, key, "exitCode", n), message)


def _without_effect(entry: WorkflowEntry, *, is_local: bool) -> Iterator[Fault]:
    for key in ("success", "failure", "exit"):
        handler = getattr(entry.handler_on, key, None)
        if handler is not None and handler.name is not None:
            message = f"a handler is always named {HANDLER_PREFIX}{key}; this name has no effect"
            yield Fault(("handlerOn", key, "name"), message)
    if is_local:
        for key in ("schedule", "on"):
            if getattr(entry, key) is not None:
                message = f'"{key}" has no effect in a sub-workflow'
                yield Fault((key,), message, on_key=True)
    push = entry.on.push if entry.on is not None else None
    for key in ("branches", "tags", "paths") if push is not None else ():
        patterns = getattr(push, key)
        if patterns and all(pattern.startswith("!") for pattern in patterns):
            message = 'nothing matches patterns that only exclude; start the list with "**"'
            yield Fault(("on", "push", key), message)


def _undefined(workflow: Workflow) -> Iterator[Fault]:
    """`${X}` that nothing in the file defines. Outputs count wherever they are made: whether a
    step comes before is for `depends` to say, and optional values are common in handlers."""
    defined = {p.name for p in workflow.params if p.name is not None}
    defined |= {name for name, _ in workflow.env}
    defined |= {step.output for step, _ in _placed(workflow) if step.output is not None}
    defined |= {f"{name}_FILE" for name in defined}
    looked_at = 0
    for step, place in _placed(workflow):
        known = defined | {name for name, _ in step.env} if step.env else defined
        for text, where, is_shell in _step_texts(step, place):
            looked_at += len(text) if is_shell and "${" in text else 0
            if looked_at > MAX_SHELL_TEXT:
                continue
            for name in _unknown_in(text, known, is_shell=is_shell):
                near = did_you_mean(name, known)
                yield Fault(where, f"nothing in this file defines ${{{name}}}{near}")


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
    if step.command is not None and step.script is None:
        yield step.command, (*place, "command"), True
    for n, word in enumerate(step.argv or ()):
        yield word, (*place, "command", n), False
    shell_script = step.command is None and step.argv is None
    if step.script is not None and shell_script and not step.script.startswith("#!"):
        yield step.script, (*place, "script"), True
    yield step.dir or "", (*place, "dir"), False
    for n, condition in enumerate(step.preconditions):
        is_shell = condition.expected is None
        yield condition.condition, (*place, "preconditions", n, "condition"), is_shell


def _placed(workflow: Workflow) -> Iterator[tuple[Step, Place]]:
    for n, step in enumerate(workflow.steps):
        yield step, ("steps", n)
    for handler in workflow.handlers:
        yield handler, ("handlerOn", handler.name.removeprefix(HANDLER_PREFIX))
