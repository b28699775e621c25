"""Whether a text is what was expected: equal lines, substrings, and `re:` patterns.

Patterns are RE2, which is linear in the text whatever the pattern, and look at no more than
1 MiB. What the text is (a condition's value, a step's output) and what follows is the engine's.
re2 is imported when the first pattern is looked at. Pure.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from re2 import _Regexp

PREFIX = "re:"
MAX_CHARACTERS = 1024 * 1024


def is_pattern(text: str) -> bool:
    return text.startswith(PREFIX)


def matches(pattern: str, text: str) -> bool:
    """Whether `text` holds a match of the `re:` pattern, or, of another text, equals it."""
    if not is_pattern(pattern):
        return text == pattern
    return bool(_compiled(pattern.removeprefix(PREFIX)).search(_searchable(text)))


def line_matches(expected: str, text: str) -> bool:
    """Whether some line of `text` equals `expected`, or holds a match of its `re:` pattern.

    A text without any line is one empty line; the newline at the end of a text starts none.
    """
    lines = text[:MAX_CHARACTERS].removesuffix("\n").split("\n")
    return any(matches(expected, line.removesuffix("\r")) for line in lines)


def contains(pattern: str, text: str) -> bool:
    """Whether `text` holds a match of the `re:` pattern, or, of another text, that text itself."""
    if not is_pattern(pattern):
        return pattern in text
    return matches(pattern, text)


def pattern_problem(text: str) -> str | None:
    """What is wrong with the `re:` pattern `text`, or None; other texts have no problem."""
    if not is_pattern(text):
        return None
    import re2

    try:
        _compiled(text.removeprefix(PREFIX))
    except re2.error as error:
        reason = error.args[0] if error.args else "not accepted"
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        return text[:100]  # it repeats the part of the pattern that it is about
    return None


def _searchable(text: str) -> str:
    """At most 1 MiB of `text`, without lone surrogates, which RE2 cannot be given."""
    return text[:MAX_CHARACTERS].encode(errors="replace").decode()


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> _Regexp:
    import re2

    options = re2.Options()
    options.log_errors = False
    return re2.compile(_searchable(pattern), options)
