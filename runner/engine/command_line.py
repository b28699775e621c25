"""The command line of an attempt: shell, interpreter or plain words, and its environment.

No value is ever put into shell text: `${NAME.key}` becomes a generated variable, all else the
shell expands itself. What no environment can hold is refused before the step starts. Pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from posixpath import basename

from runner.engine.scope import LARGEST_VALUE, Refs, ScopeError, StepTexts, exported, oversized
from runner.language import expand
from runner.language.model import Step, Workflow

LARGEST_SHELL_TEXT = 96 * 1024
SHELLS_WITH_E = frozenset({"sh", "dash", "bash", "ksh", "zsh"})
DEFAULT_SHELL = ("sh",)
SCRIPT = "{script}"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What to run: argv with "{script}" standing for the script file's path where `script`."""

    argv: tuple[str, ...]
    env: dict[str, str]
    script: str | None = None


def command_line(
    workflow: Workflow,
    step: Step,
    texts: StepTexts,
    *,
    scope: Mapping[str, str],
    refs: Refs,
    positional: tuple[str, ...],
) -> CommandLine:
    """Raises ScopeError where a value is missing or too large for the step's text."""
    shell = step.shell or workflow.shell or DEFAULT_SHELL
    env = exported(scope)
    # texts that mention one of those left out are refused; the others do not miss it
    positional = tuple("" if _is_oversized(value) else value for value in positional)
    if step.script is not None:
        return _script_line(
            step, texts, shell=shell, env=env, scope=scope, refs=refs, positional=positional
        )
    if texts.argv is not None:
        _refuse_long_words(step, texts.argv, scope)
        return CommandLine(texts.argv, env)
    text = step.command or ""
    if not _is_shell(shell):
        return CommandLine((*shell_argv(shell), text, *positional), env)
    text, more = rewritten(text, scope, refs)
    refuse_oversized(text, scope)
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
    refs: Refs,
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
        script, more = rewritten(script, scope, refs)
        refuse_oversized(script, scope)
    return CommandLine((*interpreter, SCRIPT, *positional), {**env, **more}, script)


def _shebang(script: str) -> tuple[str, ...] | None:
    """The words of a `#!` line as the kernel splits it: the interpreter and one argument."""
    match = re.match(r"#![ \t]*(\S+)(?:[ \t]+([^\n]*?))?[ \t]*(?:\n|$)", script)
    if match is None:
        return None
    return (match[1], match[2]) if match[2] else (match[1],)


def _program(words: tuple[str, ...]) -> tuple[str, ...]:
    if words and basename(words[0]) == "env":
        rest = " ".join(words[1:]).split()
        return tuple(w for w in rest if not w.startswith("-"))[:1]
    return words


def _is_shell(shell: tuple[str, ...]) -> bool:
    return bool(shell) and basename(shell[0]) in SHELLS_WITH_E


def shell_argv(shell: tuple[str, ...]) -> tuple[str, ...]:
    """The words before the shell text: `-e` is added to a known shell without options, and `-c`
    unless it stands there."""
    if len(shell) == 1 and _is_shell(shell):
        return (shell[0], "-e", "-c")
    return shell if shell[-1] == "-c" else (*shell, "-c")


def _without_c(argv: tuple[str, ...]) -> tuple[str, ...]:
    return argv[:-1] if argv[-1] == "-c" else argv


def rewritten(text: str, scope: Mapping[str, str], refs: Refs) -> tuple[str, dict[str, str]]:
    try:
        text, more = expand.rewrite_shell(text, scope, step_refs=refs)
    except expand.ExpandError as error:
        raise ScopeError(str(error)) from error
    for value in more.values():
        if len(value.encode()) > LARGEST_VALUE:
            raise ScopeError("a value of a JSON path is more than an environment variable can hold")
    return text, more


def _is_oversized(value: str) -> bool:
    return len(value) > LARGEST_VALUE // 4 and len(value.encode()) > LARGEST_VALUE


def _refuse_long_words(step: Step, words: tuple[str, ...], scope: Mapping[str, str]) -> None:
    """Raises ScopeError for a word that no command line can hold, naming what made it so long."""
    for text, word in zip(step.argv or (), words, strict=True):
        if _is_oversized(word):
            known = [name for name in expand.names_in(text) if name in scope]
            name = max(known, key=lambda name: len(scope[name]), default="")
            size = len(word.encode()) // 1024
            remedy = f"; read the file ${name}_FILE" if f"{name}_FILE" in scope else ""
            raise ScopeError(
                f"{name or 'a text'} makes a word of {size} KiB, more than a command line can hold"
                f"{remedy}"
            )


def refuse_oversized(text: str, scope: Mapping[str, str]) -> None:
    out = oversized(scope)
    if not out:
        return
    for name in sorted(out & expand.names_in(text)):
        size = len(scope[name].encode()) // 1024
        remedy = f"; read the file ${name}_FILE" if f"{name}_FILE" in scope else ""
        raise ScopeError(
            f"{name} is {size} KiB, more than an environment variable can hold{remedy}"
        )
