"""A document of a workflow file as entries, and the faults of its shape.

Says which keys are unknown or hold the wrong kind of value; which there are is `entries`'. Its
rule: whatever is wrong with one key never hides another's fault. Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

from runner.language.entries import CONFIGS, Entry, ExecutorEntry, StepEntry, WorkflowEntry
from runner.language.faults import MEANT, Fault, Place, did_you_mean, quoted
from runner.language.kinds import shown
from runner.language.source import MAPS_IN_ORDER, Data, camel

MAX_FAULTS = 100  # of one document; one more is kept, which shows that there are more
_ROUNDS = 8
# What explains that a step seems to run nothing.
_COMMAND_KEYS = ("command", "script", "executor", "run", "approval")


def read(data: Data) -> tuple[WorkflowEntry | None, list[Fault]]:
    """One document as entries, and every fault of its shape.

    With faults the entries are those of what is left without them, so that the checks that
    follow can speak about the rest; None where nothing sensible is left.
    """
    if not isinstance(data, dict):
        return None, [Fault((), f"a workflow is a map of keys such as steps, not {shown(data)}")]
    try:
        return WorkflowEntry.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    faults = _faults(details[: MAX_FAULTS + 1], data)
    if len(details) > MAX_FAULTS:
        return None, faults
    return _without(faults, data), faults


def _without(faults: list[Fault], data: dict[str, Data]) -> WorkflowEntry | None:
    """The entries of what is left of `data`. What is missing takes along what it is missing from,
    which can take several rounds."""
    rest = copy.deepcopy(data)
    places = [fault.place for fault in faults]
    for _ in range(_ROUNDS):
        for place in places:
            _drop(rest, place)
        try:
            return WorkflowEntry.model_validate(rest)
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
            places = [_fault(detail, rest).place for detail in details]
    return None


def is_command_key(key: str) -> bool:
    """Whether a fault at this key of a step may explain why the step seems to run nothing."""
    spelled = camel(key)
    fields = {to_camel(name) for name in StepEntry.model_fields}
    return spelled in _COMMAND_KEYS or spelled not in fields


def _faults(details: list[ErrorDetails], data: Data) -> list[Fault]:
    """A key that is missing only because it is misspelled is told once."""
    faults = [_fault(detail, data) for detail in details]
    misspelled = {
        (fault.place[:-1], fault.message.rpartition(MEANT)[2].removesuffix('"?'))
        for fault, detail in zip(faults, details, strict=True)
        if detail["type"] == "extra_forbidden"
    }
    return [
        fault
        for fault, detail in zip(faults, details, strict=True)
        if detail["type"] != "missing" or (fault.place, _place(detail["loc"])[-1]) not in misspelled
    ]


def _fault(detail: ErrorDetails, data: Data) -> Fault:
    place = _place(detail["loc"])
    key = _label(place, data)
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(place, data)
        case "value_error":
            message = str(detail["ctx"]["error"])
            return Fault(place, message if message.startswith('"') else f"{key} {message}")
        case "missing":
            return Fault(place[:-1], f"{quoted(str(place[-1]))} is missing")
        case "model_type" | "model_attributes_type" | "dict_type":
            if place and place[0] == "steps" and len(place) == 2:
                return Fault(place, "a step must be a map of keys such as `command: make`")
            return Fault(place, f"{key} must be a map, not {shown(detail.get('input'))}")
        case "tuple_type":
            return Fault(place, f"{key} must be a list, not {shown(detail.get('input'))}")
        case _:
            return Fault(place, f"{key}: {detail['msg']}")


def _label(place: Place, data: Data) -> str:
    """The last key on the way to `place` that the file has: `parallel: [a]` has no "items"."""
    found = zip(_walk(data, place), place, strict=True)
    labels = [part for (_, key), part in found if key is not None and isinstance(part, str)]
    return quoted(labels[-1]) if labels else "the value"


def _place(loc: tuple[str | int, ...]) -> Place:
    return tuple(camel(part) if isinstance(part, str) else part for part in loc)


def _unknown(place: Place, data: Data) -> Fault:
    """A key that the map at this place does not have."""
    key = str(place[-1])
    known = keys(_entry_at(place[:-1], data))
    if key in known:
        return Fault(place, f"{quoted(key)} is given in two spellings; keep one", on_key=True)
    near = did_you_mean(key, known)
    return Fault(place, f"{quoted(key)} is not a key that is known here{near}", on_key=True)


def keys(entry: type[Entry]) -> list[str]:
    """The keys of a map, as they are spelled in a file."""
    return [field.alias or to_camel(name) for name, field in entry.model_fields.items()]


def _entry_at(place: Place, data: Data) -> type[Entry]:
    entry: type[Entry] = WorkflowEntry
    for (node, _), part in zip(_walk(data, place), place, strict=True):
        if part == "config" and entry is ExecutorEntry:
            entry = CONFIGS.get(node.get("type"), Entry)
        elif isinstance(part, str):
            entry = entry.nested.get(part, entry)
    return entry


def _drop(data: Data, place: Place) -> None:
    """Take the value at `place` out of `data`; an item of a list leaves a harmless one behind."""
    trail: list[tuple[Data, Any]] = []
    for (node, key), part in zip(_walk(data, place), place, strict=True):
        if key is not None:
            trail.append((node, key))
        elif isinstance(node, dict) and isinstance(part, str):
            return  # gone already, with what held it
    if not trail:
        return
    container, key = trail[-1]
    if isinstance(container, dict) and not (place[0] == "steps" and len(trail) == 2):
        del container[key]
        return
    above = trail[-2][1] if len(trail) > 1 else ""
    container[key] = _HARMLESS.get(above, "0")


_HARMLESS: dict[Any, Data] = {
    "steps": {},
    "env": {},
    "secrets": {"name": "_", "env": "_"},
    "precondition": "true",
    "preconditions": "true",
    "types": "edited",  # of pull requests and of releases
    "status": "failed",
}


def _walk(data: Data, place: Place) -> Iterator[tuple[Data, str | int | None]]:
    """Each container on the way to `place` and the key in it; None where the place names what
    the file does not have, as the list that a single value stands for."""
    node, above = data, ""
    for part in place:
        key = _key_in(node, part, above=above)
        yield node, key
        node = node[key] if key is not None else node
        above = part if isinstance(part, str) else above


def _key_in(node: Data, part: str | int, *, above: str) -> str | int | None:
    if isinstance(node, dict):
        if isinstance(part, int):
            keys = list(node) if above in MAPS_IN_ORDER else []
            return keys[part] if part < len(keys) else None
        return next((k for k in node if k == part or camel(k) == part), None)
    return part if isinstance(node, list) and isinstance(part, int) and part < len(node) else None
