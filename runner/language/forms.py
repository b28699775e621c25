"""How each kind of value looks in a JSON Schema, by the name that `kinds` and `entries` gave it.

Looks at values as YAML reads them in an editor: a number or a truth value is one here, where the
loader takes its source text. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Json = dict[str, Any]

OR_A_MAP = "or a map: "  # before the words that may stand instead of one
_REFERENCE = r"\$|`|\{\{"
_TEXT: Json = {"type": ["string", "number", "boolean", "null"]}
_WORD: Json = {"type": ["string", "number", "boolean"]}
_FILLED: Json = {"type": ["string", "number", "boolean"], "pattern": r"\S"}
_TEXT_MAP: Json = {"type": "object", "additionalProperties": _TEXT}
_DURATION: Json = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]*)?\s*[smhd]?$"}
_SIZE: Json = {"type": "string", "pattern": "^[0-9]+\\s*([bB]|[kKmMgG]([iI]?[bB])?)?$"}
_NUMBER: Json = {"type": "string", "pattern": r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)$"}


def _any(*forms: Json) -> Json:
    return {"anyOf": list(forms)}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


def _whole(low: int | None = None, high: int | None = None) -> Json:
    limits = {"minimum": low, "maximum": high}
    number: Json = {"type": "integer"} | {k: v for k, v in limits.items() if v is not None}
    return _any(number, {"type": "string", "pattern": "^[-+]?[0-9]+$"})


def _setting(form: Json) -> Json:
    """Of an executor's config, where `${X}` may stand for anything."""
    return _any(form, {"type": "string", "pattern": _REFERENCE}, {"type": "null"})


_BOOLEAN = _any({"type": "boolean"}, {"enum": ["true", "false"]})
_SECONDS = _any({"type": "number", "minimum": 0}, _DURATION)
_SIZES = _any({"type": "integer", "minimum": 1}, _SIZE)
_AMOUNT = _any({"type": "number", "exclusiveMinimum": 0}, _NUMBER)
_PAIRS = _any(_TEXT_MAP, _list(_any(_TEXT_MAP, {"type": "null"})), {"type": "null"})
_DECLARATIONS = _any(_TEXT, _TEXT_MAP, _list(_any(_TEXT, _TEXT_MAP)))
_FORMS: dict[str, Json] = {
    "text": _TEXT,
    "filled": _FILLED,
    "texts": _any(_TEXT, _list(_TEXT)),
    "words": _any(_WORD, _list(_TEXT)),
    "boolean": _BOOLEAN,
    "count": _whole(0),
    "counts": _any(_whole(0), _list(_whole(0)), {"type": "null"}),
    "positive": _whole(1),
    "priority": _whole(-100, 100),
    "nice": _whole(-20, 19),
    "amount": _AMOUNT,
    "seconds": _SECONDS,
    "size": _SIZES,
    "factor": _any({"type": "boolean"}, {"type": "number", "minimum": 1, "maximum": 1000}, _NUMBER),
    "signal": {"type": "string", "pattern": "^(SIG)?[A-Z0-9+-]+$"},
    "text map": _any(_TEXT_MAP, {"type": "null"}),
    "pairs": _PAIRS,
    "declarations": _DECLARATIONS,
    "items": _any({"type": "array", "maxItems": 1000}, _FILLED),
    "repeat": _any({"type": "boolean"}, {"enum": ["while", "until", "true", "false"]}),
    "anything": {},
    "config": _any({"type": "object"}, {"type": "null"}),
    "setting boolean": _setting(_BOOLEAN),
    "setting amount": _setting(_AMOUNT),
    "setting size": _setting(_SIZES),
    "setting seconds": _setting(_SECONDS),
    "setting port": _setting(_whole(1, 65535)),
}
# What may stand instead of the map or list that the model describes.
_SHORT: dict[str, tuple[Json, ...]] = {
    "approval": ({"type": "boolean"},),
    "concurrency": (_FILLED,),
    "events": (
        {"enum": ["push", "pullRequest", "release", "webhook"]},
        _list(_any({"enum": ["push", "pullRequest", "release", "webhook"]}, {"$ref": "Events"})),
    ),
    "parallel": ({"type": "array", "maxItems": 1000}, _FILLED),
    "schedule": (_FILLED, _list(_FILLED)),
    "workspace": ({"enum": ["shared", "own", "none"]},),
}


def form(name: str, inner: Callable[[], Json]) -> Json:
    """The schema of a kind of value, by the name that `kinds` and `entries` gave it; `inner` has
    that of the type as pydantic knows it."""
    if name in _FORMS:
        return _FORMS[name]
    if name in _SHORT:
        return _any(*_SHORT[name], inner())
    if name.startswith(OR_A_MAP):
        return _any({"enum": name.removeprefix(OR_A_MAP).split("|")}, inner())
    if "|" in name:
        return {"enum": name.split("|")}
    match name:
        case "list or one":
            many = inner()
            return _any(many, many["items"], {"type": "null"})
        case "conditions":
            many = inner()
            one = _any({"type": "string"}, many["items"])
            return _any(one, _list(one), {"type": "null"})
        case "steps":
            many = inner()
            return _any(many, {"type": "object", "additionalProperties": many["items"]})
        case _:
            raise LookupError(f"there is no form {name}")
