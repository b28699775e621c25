"""Which names a step can see, with which values, and the command line that follows from it.

Layers of values, weakest first, make one environment; texts of the workflow are expanded in it.
Nothing is run here: what needs a process (backticks, conditions that are commands) is asked for
by yielding an `Evaluation` and receiving its `Evaluated`. No value is ever put into shell text.
Pure.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import PurePosixPath
from zoneinfo import ZoneInfo

from runner.language import conditions, expand
from runner.language.model import Condition, Step, Workflow
from runner.language.params import Bound, BoundParam
from storage.mask import is_secret_name

LARGEST_VALUE = 96 * 1024  # the kernel refuses an environment string of 128 KiB
LARGEST_ENVIRONMENT = 1024 * 1024
LARGEST_SHELL_TEXT = 96 * 1024
SHELLS_WITH_E = frozenset({"sh", "dash", "bash", "ksh", "zsh"})
DEFAULT_SHELL = ("sh",)


class ScopeError(Exception):
    """A step cannot begin; the message names the variable or path and the remedy."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A command to run before a step: shell text under `argv[:-1]`, its trimmed stdout wanted."""

    argv: tuple[str, ...]
    env: dict[str, str]
    what: str  # for messages


@dataclass(frozen=True, slots=True)
class Evaluated:
    exit_code: int
    stdout: str  # trimmed


@dataclass(frozen=True, slots=True)
class RunScope:
    """What belongs to the whole run, resolved once and kept: params and workflow-level env.

    A given param came from outside: it is stronger than a step's env.
    """

    params: tuple[BoundParam, ...] = ()
    env: tuple[tuple[str, str], ...] = ()

    @property
    def positional(self) -> tuple[str, ...]:
        """`$1`, `$2`, ..."""
        return Bound(self.params).positional

    def named(self, *, given: bool) -> dict[str, str]:
        return {p.name: p.value for p in self.params if p.name is not None and p.given is given}

    def text(self) -> str:
        return json.dumps([params_text(Bound(self.params)), self.env])

    @staticmethod
    def read(text: str) -> RunScope:
        params, env = json.loads(text)
        return RunScope(read_params(params).params, _pairs(env))


def params_text(bound: Bound) -> str:
    """Parameters as they are kept with a run; `read_params` reads them."""
    return json.dumps([[p.name, p.value, p.given, p.position] for p in bound.params])


def read_params(text: str) -> Bound:
    return Bound(tuple(BoundParam(*fields) for fields in json.loads(text)))


@dataclass(frozen=True, slots=True)
class StepTexts:
    """The texts of a step after expansion, where expanding them took a process."""

    env: tuple[tuple[str, str], ...]
    dir: str | None
    argv: tuple[str, ...] | None

    def text(self) -> str:
        return json.dumps([self.env, self.dir, self.argv])

    @staticmethod
    def read(text: str) -> StepTexts:
        env, folder, argv = json.loads(text)
        return StepTexts(_pairs(env), folder, None if argv is None else tuple(argv))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether what was prepared may begin; `error` "" unless it could not be judged."""

    met: bool = True
    reason: str = ""
    error: str = ""


def _pairs(value: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in value)


def dates(at: datetime, zone: str) -> dict[str, str]:
    """The weakest layer: DATE and MONTH of `at` in `zone`."""
    local = at.astimezone(ZoneInfo(zone))
    return {"DATE": f"{local:%Y-%m-%d}", "MONTH": f"{local:%Y-%m}"}


# The run's own scope


def needs_process(texts: Sequence[str]) -> bool:
    """Whether expanding any of these takes a command substitution."""
    return any("`" in text and expand.substitutions(text) for text in texts)


def steps_to_prepare(workflow: Workflow) -> frozenset[str]:
    """Names of the steps that need something evaluated before each of them starts."""
    steps = (*workflow.steps, *workflow.handlers)
    return frozenset(s.name for s in steps if s.preconditions or needs_process(_own_texts(s)))


def _own_texts(step: Step) -> list[str]:
    return [*(v for _, v in step.env), step.dir or "", *(step.argv or ())]


def resolve_run(
    workflow: Workflow, bound: Bound, base: Mapping[str, str]
) -> Generator[Evaluation, Evaluated, RunScope]:
    """Expand env and declared params; `base` is the service's environment over the dates.

    Env may use params and params may use env, whichever is written first: env is expanded for
    the params, the params are expanded, and env is expanded again with them.
    """
    results: dict[str, str] = {}
    given = {p.name: p.value for p in bound.params if p.given and p.name is not None}
    env = yield from _expand_all(workflow.env, base, given, results)
    scope = {**base, **dict(env)}
    params: list[BoundParam] = []
    for param in bound.params:
        value = param.value
        if not param.given:
            value = yield from _expand(value, scope, results)
        for name in (param.name, str(param.position) if param.position else None):
            if name is not None:
                _check_value(name, value)
                scope[name] = value
        params.append(replace(param, value=value))
    named = {p.name: p.value for p in params if p.name is not None}
    env = yield from _expand_all(workflow.env, base, named, results)
    return RunScope(tuple(params), env)


def _check_value(name: str, value: str) -> None:
    if "\0" in value:
        raise ScopeError(f"{name} holds a NUL byte, which no process can be given; remove it")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ScopeError(f"{name} holds bytes that are not UTF-8; encode them, or use a file")


def _expand_all(
    pairs: Sequence[tuple[str, str]],
    base: Mapping[str, str],
    more: Mapping[str, str],
    results: dict[str, str],
) -> Generator[Evaluation, Evaluated, tuple[tuple[str, str], ...]]:
    """Expand values in order, each in `base`, `more` and those before it."""
    scope = {**base, **more}
    done = []
    for name, text in pairs:
        value = yield from _expand(text, scope, results)
        _check_value(name, value)
        scope[name] = value
        done.append((name, value))
    return tuple(done)


def _expand(
    text: str,
    scope: Mapping[str, str],
    results: dict[str, str],
    refs: Mapping[str, Mapping[str, str]] | None = None,
) -> Generator[Evaluation, Evaluated, str]:
    """Our own expansion; each command substitution runs once per run or step and is kept."""
    found = []
    for command in expand.substitutions(text):
        if command not in results:
            evaluated = yield Evaluation(
                ("/bin/sh", "-c", command), exported(scope), f"`{command}`"
            )
            if evaluated.exit_code != 0:
                raise ScopeError(f"`{command}` failed with exit code {evaluated.exit_code}")
            results[command] = evaluated.stdout
        found.append(results[command])
    try:
        return expand.expand(text, scope, step_refs=refs or {}, substitutions=found)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error


# One step


def layers(
    base: Mapping[str, str],
    run: RunScope,
    step_env: Sequence[tuple[str, str]],
    outputs: Mapping[str, str],
    fixed: Mapping[str, str],
) -> dict[str, str]:
    """The whole environment of a step, stronger layers over weaker ones."""
    declared, given = run.named(given=False), run.named(given=True)
    return {**base, **dict(run.env), **declared, **dict(step_env), **given, **outputs, **fixed}


def exported(scope: Mapping[str, str]) -> dict[str, str]:
    """What of a scope can stand in a process's environment: see `oversized`."""
    left_out = oversized(scope)
    # a NAME that is a number is a shell positional and not an environment variable
    return {k: v for k, v in scope.items() if k not in left_out and not k.isdigit()}


def oversized(scope: Mapping[str, str]) -> frozenset[str]:
    """Names whose values no environment can hold: each over 96 KiB, and the largest of the rest
    until all fit into 1 MiB."""
    if sum(map(len, scope.values())) < LARGEST_VALUE // 4:  # at most 4 bytes a character
        return frozenset()
    sizes = {k: len(v.encode()) for k, v in scope.items()}
    out = {k for k, size in sizes.items() if size > LARGEST_VALUE}
    total = sum(size + len(k) + 2 for k, size in sizes.items() if k not in out)
    for name in sorted(sizes.keys() - out, key=lambda k: -sizes[k]):
        if total <= LARGEST_ENVIRONMENT:
            break
        out.add(name)
        total -= sizes[name] + len(name) + 2
    return frozenset(out)


def step_texts(
    step: Step, scope: Mapping[str, str], refs: Mapping[str, Mapping[str, str]]
) -> Generator[Evaluation, Evaluated, StepTexts]:
    """Expand env, dir and the words of a list command, in this order."""
    results: dict[str, str] = {}
    inner = dict(scope)
    env = []
    for name, text in step.env:
        value = yield from _expand(text, inner, results, refs)
        _check_value(name, value)
        inner[name] = value
        env.append((name, value))
    folder = None
    if step.dir is not None:
        folder = yield from _expand(step.dir, inner, results, refs)
    argv = None
    if step.argv is not None:
        words = []
        for word in step.argv:
            words.append((yield from _expand(word, inner, results, refs)))
        argv = tuple(words)
    return StepTexts(tuple(env), folder, argv)


def without_process(generator: Generator[Evaluation, Evaluated, StepTexts]) -> StepTexts:
    """The result of an expansion that needs no process."""
    try:
        next(generator)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]  # StopIteration.value is Any
    raise AssertionError("a step with command substitutions was not prepared")


def plain(text: str, scope: Mapping[str, str]) -> str:
    """A text that stands where no process may be started for it. Raises ScopeError."""
    if needs_process((text,)):
        raise ScopeError(f"{_short(text)}: backticks cannot be used here; put them into env")
    try:
        return expand.expand(text, scope)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error


def judge(
    found: Sequence[Condition],
    scope: Mapping[str, str],
    *,
    refs: Mapping[str, Mapping[str, str]],
    shell: tuple[str, ...],
    positional: tuple[str, ...],
) -> Generator[Evaluation, Evaluated, Verdict]:
    """Judge all conditions in order; the first that does not hold decides."""
    for condition in found:
        if condition.expected is None:
            text, more = _rewritten(condition.condition, scope, refs)
            _refuse_oversized(text, scope)
            argv = (*shell_argv(shell), text, shell[0], *positional)
            evaluated = yield Evaluation(argv, exported({**scope, **more}), "precondition")
            if evaluated.exit_code != 0:
                why = f"exit code {evaluated.exit_code}"
                return Verdict(
                    False, f"precondition not met: {_short(condition.condition)} ({why})"
                )
            continue
        value = yield from _expand(condition.condition, scope, {}, refs)
        if not conditions.line_matches(condition.expected, value):
            shown = "***" if _holds_secret(condition.condition) else repr(_short(value))
            return Verdict(
                False,
                f"precondition not met: {_short(condition.condition)} is {shown}, "
                f"expected {_short(condition.expected)}",
            )
    return Verdict()


def _holds_secret(text: str) -> bool:
    return any(is_secret_name(name) for name in expand.names_in(text))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else line[:77] + "..."


# The command line


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What to run: argv with "{script}" standing for the script file's path where `script`."""

    argv: tuple[str, ...]
    env: dict[str, str]
    script: str | None = None


SCRIPT = "{script}"


def command_line(
    workflow: Workflow,
    step: Step,
    texts: StepTexts,
    *,
    scope: Mapping[str, str],
    refs: Mapping[str, Mapping[str, str]],
    positional: tuple[str, ...],
) -> CommandLine:
    """Raises ScopeError where a value is missing or too large for the step's text."""
    shell = step.shell or workflow.shell or DEFAULT_SHELL
    env = exported(scope)
    if step.script is not None:
        return _script_line(
            step, texts, shell=shell, env=env, scope=scope, refs=refs, positional=positional
        )
    if texts.argv is not None:
        return CommandLine(texts.argv, env)
    text = step.command or ""
    if not _is_shell(shell):
        return CommandLine((*shell_argv(shell), text, *positional), env)
    text, more = _rewritten(text, scope, refs)
    _refuse_oversized(text, scope)
    if len(text) > LARGEST_SHELL_TEXT // 4:  # the kernel refuses an argument of 128 KiB
        return CommandLine(
            (*_without_c(shell_argv(shell)), SCRIPT, *positional), {**env, **more}, text
        )
    return CommandLine((*shell_argv(shell), text, shell[0], *positional), {**env, **more})


def _script_line(
    step: Step,
    texts: StepTexts,
    *,
    shell: tuple[str, ...],
    env: dict[str, str],
    scope: Mapping[str, str],
    refs: Mapping[str, Mapping[str, str]],
    positional: tuple[str, ...],
) -> CommandLine:
    script = step.script or ""
    interpreter = texts.argv
    if interpreter is None and step.command is not None:
        interpreter = tuple(shlex.split(step.command))
    if interpreter is None:
        interpreter = _shebang(script)
    if interpreter is None:
        interpreter = _without_c(shell_argv(shell))
        in_shell = _is_shell(shell)
    else:
        in_shell = _is_shell(_program(interpreter))
    more: dict[str, str] = {}
    if in_shell:
        script, more = _rewritten(script, scope, refs)
        _refuse_oversized(script, scope)
    return CommandLine((*interpreter, SCRIPT, *positional), {**env, **more}, script)


def _shebang(script: str) -> tuple[str, ...] | None:
    """The words of a `#!` line as the kernel splits it: the interpreter and one argument."""
    match = re.match(r"#![ \t]*(\S+)(?:[ \t]+([^\n]*?))?[ \t]*(?:\n|$)", script)
    if match is None:
        return None
    return (match[1], match[2]) if match[2] else (match[1],)


def _program(words: tuple[str, ...]) -> tuple[str, ...]:
    if words and PurePosixPath(words[0]).name == "env":
        rest = " ".join(words[1:]).split()
        return tuple(w for w in rest if not w.startswith("-"))[:1]
    return words


def _is_shell(shell: tuple[str, ...]) -> bool:
    return bool(shell) and PurePosixPath(shell[0]).name in SHELLS_WITH_E


def shell_argv(shell: tuple[str, ...]) -> tuple[str, ...]:
    """The words before the shell text: `-e` is added to a known shell without options, and `-c`
    unless it stands there."""
    if len(shell) == 1 and _is_shell(shell):
        return (shell[0], "-e", "-c")
    return shell if shell[-1] == "-c" else (*shell, "-c")


def _without_c(argv: tuple[str, ...]) -> tuple[str, ...]:
    return argv[:-1] if argv[-1] == "-c" else argv


def _rewritten(
    text: str, scope: Mapping[str, str], refs: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, str]]:
    try:
        text, more = expand.rewrite_shell(text, scope, step_refs=refs)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error
    for value in more.values():
        if len(value.encode()) > LARGEST_VALUE:
            raise ScopeError("a value of a JSON path is more than an environment variable can hold")
    return text, more


def _refuse_oversized(text: str, scope: Mapping[str, str]) -> None:
    out = oversized(scope)
    if not out:
        return
    for name in sorted(out & expand.names_in(text)):
        size = len(scope[name].encode()) // 1024
        remedy = f"; read the file ${name}_FILE" if f"{name}_FILE" in scope else ""
        raise ScopeError(
            f"{name} is {size} KiB, more than an environment variable can hold{remedy}"
        )
