"""How a fault in a workflow file is told before its place in the text is known.

A fault names the path of keys and indexes that leads to it; `source` turns the path into a line
and column, and only when there is a fault. The nearest valid spelling is found here, so that
every message offers it in the same words. Pure.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

Place = tuple[str | int, ...]

MEANT = '; did you mean "'
# Comparing with thousands of step names would take seconds for a file that has many mistakes.
_MAX_DIFFERENCE = 6
_MAX_CANDIDATES = 600


class LanguageError(ValueError):
    """The author of a workflow, or who starts it, must change a text."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`message` about the value at `place`, or, with `on_key`, about the key that names it."""

    place: Place
    message: str
    on_key: bool = False


class Faults:
    """Collects faults. What is missing or odd because of one of `broken`, faults that were cut
    out of a file, is not told again."""

    def __init__(self, broken: Sequence[Fault] = ()) -> None:
        self.found: list[Fault] = []
        self.broken: tuple[Place, ...] = tuple(fault.place for fault in broken)

    def add(self, place: Place, message: str, *, on_key: bool = False) -> None:
        hidden = any(b[: len(place)] == place or place[: len(b)] == b for b in self.broken)
        if not hidden or not place:
            self.found.append(Fault(place, message, on_key=on_key))


def quoted(word: str) -> str:
    """`word` for a message: on one line, shortened, without control characters."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in word[:61])
    return f'"{shown[:60]}…"' if len(word) > 60 else f'"{shown}"'


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?` for the nearest of `known`, "" when none is near."""
    length = len(word)
    similar = (k for k in known if abs(len(k) - length) <= _MAX_DIFFERENCE)
    squashed = {_squash(k): k for k in islice(similar, _MAX_CANDIDATES)}
    near = difflib.get_close_matches(_squash(word[:100]), squashed, n=1, cutoff=0.6)
    return f'{MEANT}{squashed[near[0]]}"?' if near else ""


def _squash(word: str) -> str:
    return word.replace("_", "").replace("-", "").lower() or word
