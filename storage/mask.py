"""Hides secrets in what is written: text, bytes in chunks of any size, JSON-able values.

Knows the forms in which a value turns up in output (plain, a line of it, base64, URL- and
JSON-encoded), not which values are secret; only `is_secret_name` knows which names say so. One
rule: where two forms start at one place, the longest is replaced. It guards against accidents,
not against an author. Pure.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, AnyStr, Final, Generic
from urllib.parse import quote_from_bytes

STARS: Final = "***"
SHORTEST: Final = 5
"""Values of fewer characters are not masked: they would hide half of every log."""

_SECRET_PARTS: Final = frozenset(
    ("SECRET", "TOKEN", "PASSWORD", "PASSWD", "CREDENTIAL", "CREDENTIALS")
)
_SECRET_ENDS: Final = ("API_KEY", "ACCESS_KEY", "PRIVATE_KEY")


def is_secret_name(name: str) -> bool:
    """Whether a param, variable or output of this name holds a secret by its name alone."""
    upper = name.upper()
    return upper.endswith(_SECRET_ENDS) or not _SECRET_PARTS.isdisjoint(upper.split("_"))


class Mask:
    """Replaces each of `values`, in every form of it, by `***`. Immutable; false if it has nothing.

    Values may hold the surrogates that Python makes of an environment's foreign bytes.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = frozenset(value for value in values if _worthy(value))

    def __bool__(self) -> bool:
        return bool(self._values)

    def plus(self, values: Iterable[str]) -> Mask:
        """A mask that hides these values too."""
        return Mask(self._values.union(values))

    def text(self, text: str) -> str:
        return self._texts.replace(text)

    def raw(self, data: bytes) -> bytes:
        """All of `data` at once; `stream` is for what comes in chunks."""
        return self._bytes.replace(data)

    def stream(self) -> MaskStream:
        return MaskStream(self._bytes)

    def even_stream(self) -> MaskStream:
        """One that puts a star for each byte of a secret, so that nothing moves."""
        forms = {_encode(form) for value in self._values for form in _forms(value)}
        return MaskStream(_EvenForms(forms, stars=b"*", bar=b"|"))

    def json(self, value: Any) -> Any:
        """The value with its texts, keys and telltale numbers masked; a new one where it has any.

        Takes dict, list, tuple, str, int, float, bool and None.
        """
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.json(key): self.json(item) for key, item in value.items()}
            case list() | tuple():
                return [self.json(item) for item in value]
            case bool() | None:
                return value
            case int() | float():
                written = json.dumps(value)
                masked = self.text(written)
                return value if masked == written else masked
            case _:
                raise TypeError(f"{type(value).__name__} is nothing that JSON can hold")

    @cached_property
    def _texts(self) -> _Forms[str]:
        forms = {form for value in self._values for form in _forms(value)}
        return _Forms(forms, stars=STARS, bar="|")

    @cached_property
    def _bytes(self) -> _Forms[bytes]:
        forms = {_encode(form) for value in self._values for form in _forms(value)}
        return _Forms(forms, stars=STARS.encode(), bar=b"|")


class MaskStream:
    """Masks bytes that come in chunks: what it gives out, joined, is `Mask.raw` of what it was
    fed, joined. It holds back only an end that may yet become a secret."""

    def __init__(self, forms: _Forms[bytes]) -> None:
        self._forms = forms
        self._held = b""
        self.replaced = 0  # how often so far

    def feed(self, chunk: bytes) -> bytes:
        """What is certain by now, maybe b""."""
        data = self._held + chunk
        done, rest, replaced = self._forms.replace_certain(data)
        self._held = data[rest:]
        self.replaced += replaced
        return done

    def flush(self) -> bytes:
        """The rest, at the end of the stream."""
        done, replaced = self._forms.replace_counted(self._held)
        self._held = b""
        self.replaced += replaced
        return done


class _Forms(Generic[AnyStr]):
    """A set of literals, and how to find them fast.

    Almost no output holds a secret, so a search for the shortest literals that must be in it
    comes first: `in` is ten times as fast as a regular expression, and compiles nothing.
    """

    def __init__(self, forms: Iterable[AnyStr], *, stars: AnyStr, bar: AnyStr) -> None:
        self._sorted: Sequence[AnyStr] = sorted(forms, key=lambda form: (-len(form), form))
        self._stars: AnyStr = stars
        self._bar: AnyStr = bar

    @cached_property
    def _needles(self) -> Sequence[AnyStr]:
        """The forms that hold no other form."""
        needles: list[AnyStr] = []
        for form in reversed(self._sorted):
            if not any(needle in form for needle in needles):
                needles.append(form)
        return needles

    @cached_property
    def _pattern(self) -> re.Pattern[AnyStr]:
        # Literals in an alternation: no repetition, so the time is linear. The first one that
        # fits is taken, hence the longest first.
        return re.compile(self._bar.join(map(re.escape, self._sorted)))

    def replace(self, text: AnyStr) -> AnyStr:
        return self.replace_counted(text)[0]

    def replace_counted(self, text: AnyStr) -> tuple[AnyStr, int]:
        if not self._found_in(text):
            return text, 0
        return self._pattern.subn(lambda match: self._in_place_of(match[0]), text)

    def _in_place_of(self, form: AnyStr) -> AnyStr:
        return self._stars

    def replace_certain(self, text: AnyStr) -> tuple[AnyStr, int, int]:
        """(masked beginning, length of `text` that it covers, replacements): the part that
        stands whatever comes after `text`."""
        open_from = self._open_from(text, 0)
        if not self._found_in(text):
            return text[:open_from], open_from, 0
        parts: list[AnyStr] = []
        covered = 0
        for match in self._pattern.finditer(text):
            if match.start() >= open_from:
                break
            parts += (text[covered : match.start()], self._in_place_of(match[0]))
            covered = match.end()
            if covered > open_from:
                open_from = self._open_from(text, covered)
        parts.append(text[covered:open_from])
        return self._bar[:0].join(parts), open_from, len(parts) // 2

    def _found_in(self, text: AnyStr) -> bool:
        return any(needle in text for needle in self._needles)

    def _open_from(self, text: AnyStr, start: int) -> int:
        """The first place at or after `start` from which `text` is the beginning of a longer
        form; its length if there is none."""
        end = len(text)
        first = end
        for form in self._sorted:
            place = max(start, end - len(form) + 1)
            # Far from the end, four characters rule nearly all places out in one search.
            anchor = form[: SHORTEST - 1]
            while 0 <= (place := text.find(anchor, place)) < first:
                if form.startswith(text[place:]):
                    first = place
                    break
                place += 1
            for place in range(max(start, end - len(anchor) + 1, end - len(form) + 1), first):
                if form.startswith(text[place:]):
                    first = place
                    break
        return first


class _EvenForms(_Forms[bytes]):
    """A replacement is as long as what it hides."""

    def _in_place_of(self, form: bytes) -> bytes:
        return self._stars * len(form)


# The forms of a value


def _worthy(value: str) -> bool:
    return len(value) >= SHORTEST and not value.isspace()


def _forms(value: str) -> set[str]:
    """Every text to look for; never one shorter than SHORTEST."""
    pieces = {value, value.strip(), *(line.strip() for line in value.splitlines())}
    forms: set[str] = set()
    for piece in filter(_worthy, pieces):
        forms.add(piece)
        forms |= _base64_forms(_encode(piece))
        forms |= _url_forms(_encode(piece))
        forms |= _json_forms(piece)
    return {form for form in forms if len(form) >= SHORTEST}


def _encode(text: str) -> bytes:
    """Its bytes; surrogates that stand for foreign bytes become those again."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _base64_forms(raw: bytes) -> set[str]:
    """As it stands in base64 whatever bytes come before and after it, and at the end.

    Three bytes make four characters, so the bytes before it shift it by 0, 1 or 2 places; the
    characters that it shares with them (0, 2 or 3) are not looked for.
    """
    forms = set()
    for shift, shared in ((0, 0), (1, 2), (2, 3)):
        padded = base64.b64encode(bytes(shift) + raw).decode()[shared:]
        bare = padded.rstrip("=")
        inner = bare if bare == padded else bare[:-1]
        forms |= {padded, bare, inner}
    # The `base64` program and MIME break lines at 76, PEM at 64.
    whole = base64.b64encode(raw).decode()
    for width in (64, 76):
        if len(whole) > width:
            forms |= {whole[place : place + width] for place in range(0, len(whole), width)}
    return forms | {form.translate(_URL_SAFE) for form in forms}


_URL_SAFE: Final = str.maketrans("+/", "-_")


def _url_forms(raw: bytes) -> set[str]:
    """As Python, a browser's encodeURIComponent and a form would write it, in either case."""
    forms = {quote_from_bytes(raw, safe=safe) for safe in ("", "/", "!'()*")}
    forms |= {form.replace("%20", "+") for form in forms}
    return forms | {_PERCENT.sub(lambda code: code[0].lower(), form) for form in forms}


_PERCENT: Final = re.compile("%[0-9A-F]{2}")


def _json_forms(text: str) -> set[str]:
    """As it stands inside a JSON string: plain and ASCII only, with `/` escaped, with Go's
    escapes, and with white space as our own aggregated outputs write it."""
    forms = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    forms |= {form.replace("/", "\\/") for form in forms}
    forms |= {form.translate(_GO_ESCAPES) for form in forms}
    return forms | {_white_escaped(form) for form in forms}


_GO_ESCAPES: Final = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&"})


def _white_escaped(form: str) -> str:
    for white, code in ((" ", "\\u0020"), ("\\n", "\\u000a"), ("\\t", "\\u0009")):
        form = form.replace(white, code)
    return form
