"""The kinds of values that keys hold: text, numbers, durations, sizes, lists, maps.

A value is the source text of a scalar, None, a list or a map (`source`); what it means is for
the kind of its key to say. A kind tells in one sentence what it wanted instead, and names its
form in a JSON Schema (`forms`). Knows no key. Pure.
"""

from __future__ import annotations

import math
import re
import shlex
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

from pydantic import BeforeValidator, PlainValidator

from runner.language.faults import did_you_mean, quoted
from runner.language.model import MapItem, Tree
from runner.language.source import Data

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler
    from pydantic_core import CoreSchema

MAX_ITEMS = 1000  # of a list that a step runs over

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*([smhd]?)")
_SIZE = re.compile(r"([0-9]+)\s*(B|[kKMG](?:i?B)?)?", re.IGNORECASE)
_UNIT_S = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_DURATION_S = 10 * 366 * 86400
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_REFERENCES = ("$", "`", "{{")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form:
    """Beside a kind: which of `forms` describes what the kind takes."""

    name: str

    def __get_pydantic_json_schema__(
        self, core: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        from runner.language.forms import form

        return form(self.name, lambda: handler(core))


def shown(raw: Data) -> str:
    match raw:
        case None:
            return "nothing"
        case str():
            return quoted(raw)
        case list():
            return "a list"
        case _:
            return "a map"


def refuse(wanted: str, raw: Data) -> NoReturn:
    raise ValueError(f"must be {wanted}, not {shown(raw)}")


def as_text(raw: Data) -> str:
    if isinstance(raw, str):
        return raw
    return "" if raw is None else refuse("text", raw)


def as_line(raw: Data) -> str:
    text = as_text(raw)
    return text if text.isprintable() and len(text) <= 200 else refuse("one line of text", raw)


def as_filled(raw: Data) -> str:
    text = as_text(raw)
    return text if text.strip() else refuse("a text that is not empty", raw)


def as_list(raw: Data) -> list[Data]:
    """A single value as a list of one."""
    if raw is None:
        return []
    return raw if isinstance(raw, list) else [raw]


def as_boolean(raw: Data) -> bool:
    if raw in _TRUE:
        return True
    return False if raw in _FALSE else refuse("true or false", raw)


def as_whole(raw: Data) -> int:
    if not isinstance(raw, str) or not _INT.fullmatch(raw) or len(raw) > 18:
        refuse("a whole number", raw)
    return int(raw, 0) if raw[:2] in ("0o", "0x") else int(raw)


def as_number(raw: Data) -> float:
    if not isinstance(raw, str) or not _FLOAT.fullmatch(raw):
        refuse("a number", raw)
    return float(raw)


def between(low: int, high: int) -> Callable[[Data], int]:
    def check(raw: Data) -> int:
        number = as_whole(raw)
        return number if low <= number <= high else refuse(f"from {low} to {high}", raw)

    return check


def as_count(raw: Data) -> int:
    number = as_whole(raw)
    return number if number >= 0 else refuse("0 or more", raw)


def as_positive(raw: Data) -> int:
    number = as_whole(raw)
    return number if number > 0 else refuse("1 or more", raw)


def as_amount(raw: Data) -> float:
    number = as_number(raw)
    return number if 0 < number < math.inf else refuse("a number above 0", raw)


def as_seconds(raw: Data) -> float:
    found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
    if found is None:
        refuse("a number of seconds or a duration such as 90s, 10m, 6h or 2d", raw)
    seconds = float(found[1]) * _UNIT_S[found[2]]
    return seconds if seconds <= _MAX_DURATION_S else refuse("at most ten years", raw)


def as_size(raw: Data) -> int:
    found = _SIZE.fullmatch(raw) if isinstance(raw, str) and len(raw) < 24 else None
    if found is None:
        refuse("a number of bytes or a size such as 512KiB or 5MiB", raw)
    unit = (found[2] or "B").upper()
    base = 1000 if len(unit) == 2 else 1024  # KB is 1000; K and KiB are 1024
    size = int(found[1]) * int(base ** "BKMG".index(unit[0]))
    return size if size > 0 else refuse("more than 0", raw)


def as_factor(raw: Data) -> float:
    """`true` doubles each wait, a number multiplies it."""
    if raw in _TRUE:
        return 2.0
    if raw in _FALSE:
        return 1.0
    number = float(raw) if isinstance(raw, str) and _FLOAT.fullmatch(raw) else math.nan
    return number if 1.0 <= number <= 1000.0 else refuse("true, or a factor from 1 to 1000", raw)


def as_signal(raw: Data) -> int:
    name = as_text(raw).strip().upper()
    known = {s.name: s.value for s in signal.Signals}
    number = known.get(name) or known.get("SIG" + name)
    if number is None:
        plain = [n.removeprefix("SIG") for n in known]
        near = did_you_mean(name.removeprefix("SIG"), plain)
        raise ValueError(f"must be a signal such as TERM or SIGINT, not {shown(raw)}{near}")
    return number


def one_of(meanings: Mapping[str, T]) -> Callable[[Data], T]:
    """One of the words that `meanings` has, as what it means."""
    *most, last = meanings

    def check(raw: Data) -> T:
        if isinstance(raw, str) and raw in meanings:
            return meanings[raw]
        near = did_you_mean(raw, meanings) if isinstance(raw, str) else ""
        wanted = f"{', '.join(most)} or {last}" if most else last
        raise ValueError(f"must be {wanted}, not {shown(raw)}{near}")

    return check


def as_words(raw: Data) -> tuple[str, ...]:
    try:
        words = [as_text(w) for w in raw] if isinstance(raw, list) else shlex.split(as_text(raw))
    except ValueError as error:
        raise ValueError(f"must be a command line: {error}") from error
    return tuple(words) if words and words[0] else refuse("a command line", raw)


def as_tags(raw: Data) -> tuple[str, ...]:
    parts = as_text(raw).split(",") if not isinstance(raw, list) else [as_text(t) for t in raw]
    return tuple(dict.fromkeys(t.strip().lower() for t in parts if t.strip()))


def as_command(raw: Data) -> str | tuple[str, ...]:
    if isinstance(raw, list):
        words = tuple(as_text(word) for word in raw)
        return words if words and words[0] else refuse("text or a list of words", raw)
    text = as_text(raw)
    return text if text.strip() else refuse("text or a list of words", raw)


def as_script(raw: Data) -> str:
    text = as_text(raw)
    return text if text.strip() else refuse("the text of a script", raw)


def as_pairs(raw: Data) -> list[Data]:
    """A map as one-key maps, so that both spellings of `env` read alike."""
    if isinstance(raw, dict):
        return [{key: value} for key, value in raw.items()]
    if isinstance(raw, str):
        raise ValueError("must be a map, or a list of maps such as `- KEY: value`")
    return [item if item is not None else {} for item in raw or []]


def as_pair(raw: Data) -> dict[str, str]:
    if isinstance(raw, dict):
        return {key: _item(key, value) for key, value in raw.items()}
    hint = f'; write "{raw.partition("=")[0]}: …"' if isinstance(raw, str) and "=" in raw else ""
    raise ValueError(f"must be a map such as `KEY: value`, not {shown(raw)}{hint}")


def as_text_map(raw: Data) -> dict[str, str]:
    return {} if raw is None else as_pair(raw)


def _item(key: str, raw: Data) -> str:
    if isinstance(raw, list | dict):
        raise ValueError(f"{quoted(key)} must be text, not {shown(raw)}")
    return raw if isinstance(raw, str) else ""


def as_declarations(raw: Data) -> list[Data]:
    return as_pairs(raw) if isinstance(raw, dict) else as_list(raw)


def as_declaration(raw: Data) -> str | dict[str, str]:
    return as_pair(raw) if isinstance(raw, dict | list) else as_text(raw)


def as_tree(raw: Data) -> Tree:
    """Any value with everything that is in it; the file's limits bound how deep it goes."""
    match raw:
        case dict():
            return MapItem(tuple((key, as_tree(value)) for key, value in raw.items()))
        case list():
            return tuple(as_tree(value) for value in raw)
        case _:
            return as_text(raw)


def as_items(raw: Data) -> tuple[Tree, ...] | str:
    """What a step runs over: the items themselves, or the text that they come from."""
    if isinstance(raw, str) and raw.strip():
        return raw
    if not isinstance(raw, list):
        refuse("a list, or a text such as ${ITEMS}", raw)
    if len(raw) > MAX_ITEMS:
        raise ValueError(f"must have at most {MAX_ITEMS:,} items, not {len(raw):,}")
    return tuple(as_tree(item) for item in raw)


def holds_reference(raw: Data) -> bool:
    """Whether what `raw` means is known only when values are put in."""
    return isinstance(raw, str) and any(mark in raw for mark in _REFERENCES)


# The same for the config of an executor: what is checked stays text, since `${X}` may stand
# wherever a number may.


def setting(check: Callable[[Data], object]) -> Callable[[Data], str]:
    def checked(raw: Data) -> str:
        if not holds_reference(raw):
            check(raw)
        return as_text(raw)

    return checked


def as_text_tuple(raw: Data) -> tuple[str, ...]:
    return tuple(as_text(item) for item in as_list(raw))


def as_text_fields(raw: Data) -> MapItem:
    pairs = [as_pair(item) for item in as_pairs(raw)]
    return MapItem(tuple((name, value) for pair in pairs for name, value in pair.items()))


Text = Annotated[str, BeforeValidator(as_text), Form("text")]
Line = Annotated[str, BeforeValidator(as_line), Form("text")]
Filled = Annotated[str, BeforeValidator(as_filled), Form("filled")]
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_list), Form("texts")]
Words = Annotated[tuple[str, ...], PlainValidator(as_words), Form("words")]
Tags = Annotated[tuple[str, ...], PlainValidator(as_tags), Form("texts")]
Boolean = Annotated[bool, PlainValidator(as_boolean), Form("boolean")]
Count = Annotated[int, PlainValidator(as_count), Form("count")]
Positive = Annotated[int, PlainValidator(as_positive), Form("positive")]
Counts = Annotated[tuple[Count, ...], BeforeValidator(as_list), Form("counts")]
Amount = Annotated[float, PlainValidator(as_amount), Form("amount")]
Seconds = Annotated[float, PlainValidator(as_seconds), Form("seconds")]
Size = Annotated[int, PlainValidator(as_size), Form("size")]
Factor = Annotated[float, PlainValidator(as_factor), Form("factor")]
Signal = Annotated[int, PlainValidator(as_signal), Form("signal")]
Command = Annotated[str | tuple[str, ...], PlainValidator(as_command), Form("words")]
Script = Annotated[str, PlainValidator(as_script), Form("filled")]
TextMap = Annotated[dict[str, str], PlainValidator(as_text_map), Form("text map")]
Pairs = Annotated[
    tuple[Annotated[dict[str, str], PlainValidator(as_pair)], ...],
    BeforeValidator(as_pairs),
    Form("pairs"),
]
Declarations = Annotated[
    tuple[Annotated[str | dict[str, str], PlainValidator(as_declaration)], ...],
    BeforeValidator(as_declarations),
    Form("declarations"),
]
Items = Annotated[Any, PlainValidator(as_items), Form("items")]
