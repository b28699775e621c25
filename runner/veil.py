"""Keeps secret values out of what is stored, in a way that can be undone.

A text that is kept has a mark with the secret's name in the value's place; who has the values again
gets the text back. A mark holds NUL, which no value of ours can, so nothing else looks like one.
Values that are too short to be masked are left alone. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from storage.mask import SHORTEST, STARS

_MARK = re.compile("\0secret:([^\0]*)\0")


class Veil:
    """Of the secrets `values`, name → value. Immutable; false if it has nothing to hide."""

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        self._values = {k: v for k, v in (values or {}).items() if len(v) >= SHORTEST}
        # the longest first, where one value holds another
        self._names = {v: k for k, v in sorted(self._values.items(), key=lambda pair: pair[0])}

    def __bool__(self) -> bool:
        return bool(self._values)

    def over(self, above: Veil) -> Veil:
        """One that hides what `above` hides as well; of two secrets of one name this one's keeps
        the name."""
        more = {f"{k}^" if k in self._values else k: v for k, v in above._values.items()}
        return Veil({**more, **self._values})

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self._names, key=lambda value: (-len(value), value))
        return re.compile("|".join(map(re.escape, longest_first)))

    def hide(self, text: str) -> str:
        """`text` as it may be stored."""
        if not self._values or not any(value in text for value in self._names):
            return text
        return self._pattern.sub(lambda found: f"\0secret:{self._names[found[0]]}\0", text)

    def show(self, text: str) -> str:
        """What `hide` was given, with the values of now; the mark of a secret that is not there
        stays."""
        return _MARK.sub(self._shown, text) if "\0" in text else text

    def _shown(self, found: re.Match[str]) -> str:
        return self._values.get(found[1], found[0])


NO_VEIL = Veil()


def starred(text: str) -> str:
    """A stored text for people: stars in place of the marks."""
    return _MARK.sub(STARS, text) if "\0" in text else text
