"""A JSON Schema (2020-12) of a workflow file, for editors, made from `entries`.

Lists camelCase keys only, although the loader takes snake_case too. How a kind of value looks is
`forms`'. Never imported by the loader. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from runner.language.descriptions import DESCRIPTIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

Json = dict[str, Any]

_DEFS = "#/$defs/"


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
