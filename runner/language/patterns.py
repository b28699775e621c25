"""Patterns of refs and paths: `*` stays inside `/`, `**` crosses, `!` excludes, last match wins.

Knows `on: push` and plain lists of patterns; which commits moved which refs is the reconciler's.
A pattern is matched by a scan that cannot backtrack more than once per star. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from runner.language.model import PushFilter

if TYPE_CHECKING:
    from re2 import _Regexp

_HEADS, _TAGS = "refs/heads/", "refs/tags/"
_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|[^*?]+")


def any_match(patterns: Sequence[str], text: str) -> bool:
    """Whether the last of `patterns` that matches the whole `text` is not a `!` one."""
    matched = False
    for pattern in patterns:
        excludes = pattern.startswith("!")
        if excludes is matched and _compiled(pattern.removeprefix("!")).fullmatch(text):
            matched = not excludes
    return matched


def ref_matches(filter: PushFilter, ref: str) -> bool:
    """Whether `filter` wants moves of the full `ref` (`refs/heads/…` or `refs/tags/…`)."""
    everything = not filter.branches and not filter.tags
    if ref.startswith(_HEADS):
        return everything or any_match(filter.branches, ref.removeprefix(_HEADS))
    if ref.startswith(_TAGS):
        return everything or any_match(filter.tags, ref.removeprefix(_TAGS))
    return False


def paths_match(filter: PushFilter, paths: Iterable[str]) -> bool:
    """Whether one of the changed `paths` is wanted; without patterns every change is, even none.

    Not to be asked about tags: their moves ignore paths.
    """
    return not filter.paths or any(any_match(filter.paths, path) for path in paths)


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> _Regexp:
    """RE2 and not `re`: many stars in one pattern would make `re` backtrack exponentially."""
    import re2

    options = re2.Options()
    options.log_errors = False
    pieces = [_as_expression(piece) for piece in _PIECE.findall(pattern)]
    return re2.compile("(?s)" + "".join(pieces), options)


def _as_expression(piece: str) -> str:
    match piece:
        case "**/":
            return "(?:.*/)?"  # src/**/x is also src/x
        case "**":
            return ".*"
        case "*":
            return "[^/]*"
        case "?":
            return "[^/]"
        case _:
            return re.escape(piece)
