"""Whether conditions hold: before a run, a step or an item, and between two executions.

Asks for the processes that this takes as `scope` does. Pure.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from runner.engine.command_line import refuse_oversized, rewritten, shell_argv
from runner.engine.scope import Evaluated, Evaluation, Refs, Verdict, expanded, exported, short
from runner.language import conditions, expand
from runner.language.model import Condition
from storage.mask import is_secret_name


def judge(
    found: Sequence[Condition],
    scope: Mapping[str, str],
    *,
    refs: Refs,
    shell: tuple[str, ...],
    positional: tuple[str, ...],
) -> Generator[Evaluation, Evaluated, Verdict]:
    """Judge all conditions in order; the first that does not hold decides."""
    for condition in found:
        if condition.expected is None:
            text, more = rewritten(condition.condition, scope, refs)
            refuse_oversized(text, scope)
            argv = (*shell_argv(shell), text, shell[0], *positional)
            evaluated = yield Evaluation(argv, exported({**scope, **more}), "precondition")
            if evaluated.exit_code != 0:
                why = f"exit code {evaluated.exit_code}"
                return Verdict(False, f"precondition not met: {short(condition.condition)} ({why})")
            continue
        value = yield from expanded(condition.condition, scope, {}, refs)
        if not conditions.line_matches(condition.expected, value):
            shown = "***" if _holds_secret(condition.condition) else repr(short(value))
            return Verdict(
                False,
                f"precondition not met: {short(condition.condition)} is {shown}, "
                f"expected {short(condition.expected)}",
            )
    return Verdict()


def _holds_secret(text: str) -> bool:
    return any(is_secret_name(name) for name in expand.names_in(text))
