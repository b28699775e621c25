"""A JSON Schema (2020-12) of a workflow file, for editors, made from `entries`.

Knows how each kind of value looks as YAML reads it: a number or a truth value is one here,
where the loader takes its source text. Lists camelCase keys only, although the loader takes
snake_case too. Never imported by the loader, but for `form` when pydantic asks. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from runner.language.descriptions import DESCRIPTIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

Json = dict[str, Any]

_DEFS = "#/$defs/"
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


def schema() -> Json:
    """The schema; `$defs` has one entry for each map of the language."""
    from pydantic.json_schema import models_json_schema

    from runner.language.entries import CONFIGS, WorkflowEntry

    models: list[type[BaseModel]] = [WorkflowEntry, *CONFIGS.values()]
    _, made = models_json_schema([(model, "validation") for model in models])
    defs = {_named(name): _tidied(definition) for name, definition in made["$defs"].items()}
    for name, keys in DESCRIPTIONS.items():
        for key, text in keys.items():
            defs[name]["properties"][key]["description"] = text
    executor = defs["Executor"]
    executor["allOf"] = [_config_of(kind, model.__name__) for kind, model in CONFIGS.items()]
    workflow = defs.pop("Workflow")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Dagmill workflow",
        "description": "A workflow below .dagu/, or a sub-workflow further down in its file.",
        **workflow,
        "required": ["steps"],
        "$defs": dict(sorted(defs.items())),
    }


def form(name: str, inner: Callable[[], Json]) -> Json:
    """The schema of a kind of value, by the name that `kinds` and `entries` gave it; `inner` has
    that of the type as pydantic knows it."""
    if name in _FORMS:
        return _FORMS[name]
    if name in _SHORT:
        return _any(*_SHORT[name], inner())
    if "|" in name:
        return {"enum": name.split("|")}
    match name:
        case "executor":
            from runner.language.entries import EXECUTORS

            return _any({"enum": list(EXECUTORS)}, inner())
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


def _config_of(kind: str, model: str) -> Json:
    config = {"anyOf": [{"$ref": f"{_DEFS}{model}"}, {"type": "null"}]}
    return {
        "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
        "then": {"properties": {"config": config}},
    }


def _named(name: str) -> str:
    return name.removesuffix("Entry")


def _tidied(node: Any) -> Any:
    """Without what pydantic adds and no editor needs, and with the names of the language."""
    if isinstance(node, list):
        return [_tidied(item) for item in node]
    if not isinstance(node, dict):
        return node
    if isinstance(reference := node.get("$ref"), str):
        return {"$ref": _DEFS + _named(reference.removeprefix(_DEFS))}
    kept = ((key, value) for key, value in node.items() if key not in ("title", "default"))
    return {
        key: _properties(value.items()) if key == "properties" else _tidied(value)
        for key, value in kept
    }


def _properties(items: Iterable[tuple[str, Json]]) -> Json:
    """Here a name is a key of the language, whatever it is."""
    return {name: _tidied(value) for name, value in items}
