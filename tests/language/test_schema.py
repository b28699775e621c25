"""The JSON Schema for editors: it knows every key, says something about each, and agrees with the
loader about what is right and what is not.

`faults` is as much of a validator as this schema needs; a number or a truth value in a text is
given to it as an editor would read it, unless it is quoted.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runner.language import entries
from runner.language.descriptions import DESCRIPTIONS
from runner.language.document import keys
from runner.language.load import load
from runner.language.schema import schema

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT.parent / "shared" / "seed" / "use-cases.md"
SCHEMA = schema()
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}


class EditorLoader(yaml.SafeLoader):
    """YAML 1.2's core schema, as editors read it."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  as in the class above


def _scalar(loader: EditorLoader, node: yaml.ScalarNode) -> Any:
    text: str = node.value
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(r"[-+]?[0-9]+", text):
        return int(text)
    return float(text) if re.fullmatch(r"[-+]?[0-9]*\.[0-9]+", text) else text


EditorLoader.add_constructor("tag:yaml.org,2002:str", _scalar)


def faults(value: Any, rule: dict[str, Any], at: str = "") -> Iterator[str]:
    if "$ref" in rule:
        yield from faults(value, SCHEMA["$defs"][rule["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in rule and all(any(faults(value, one, at)) for one in rule["anyOf"]):
        yield f"{at}: nothing fits {value!r}"
    for one in rule.get("allOf", ()):
        yield from faults(value, one, at)
    if "if" in rule and not any(faults(value, rule["if"], at)):
        yield from faults(value, rule["then"], at)
    kinds = rule.get("type", ())
    if kinds and not any(_is(value, kind) for kind in _each(kinds)):
        yield f"{at}: {value!r} is no {kinds}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{at}: {value!r} is none of {rule['enum']}"
    if "const" in rule and value != rule["const"]:
        yield f"{at}: {value!r} is not {rule['const']}"
    yield from _limits(value, rule, at)
    yield from _children(value, rule, at)


def _each(kinds: Any) -> list[str]:
    return kinds if isinstance(kinds, list) else [kinds]


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _limits(value: Any, rule: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, str) and not re.search(rule.get("pattern", ""), value):
        yield f"{at}: {value!r} does not match {rule['pattern']}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = rule.get("minimum", value), rule.get("maximum", value)
        if not low <= value <= high or value <= rule.get("exclusiveMinimum", value - 1):
            yield f"{at}: {value} is out of bounds"
    if isinstance(value, list) and len(value) > rule.get("maxItems", len(value)):
        yield f"{at}: too many"


def _children(value: Any, rule: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, list) and "items" in rule:
        for n, item in enumerate(value):
            yield from faults(item, rule["items"], f"{at}[{n}]")
    if not isinstance(value, dict):
        return
    for key in rule.get("required", ()):
        if key not in value:
            yield f"{at}: {key} is missing"
    known, other = rule.get("properties", {}), rule.get("additionalProperties", True)
    for key, item in value.items():
        if key in known:
            yield from faults(item, known[key], f"{at}.{key}")
        elif other is False:
            yield f"{at}: {key} is unknown"
        elif other is not True:
            yield from faults(item, other, f"{at}.{key}")


def judged(text: str) -> list[str]:
    documents = yaml.load_all(text, EditorLoader)
    return [fault for document in documents for fault in faults(document, SCHEMA)]


def shipped() -> list[Path]:
    found = sorted((ROOT / "examples").rglob("*.yaml"))
    return [path for path in found if path.name != "base.yaml" and ".dagu" in path.parts]


@pytest.mark.parametrize("path", shipped(), ids=lambda path: path.stem)
def test_our_own_workflows_fit(path: Path) -> None:
    assert judged(path.read_text("utf-8")) == []


def test_the_workflows_of_the_seed_fit() -> None:
    if not SEED.exists():
        pytest.skip("needs the seed beside the repository")
    blocks = re.findall(r"```yaml\n(.*?)```", SEED.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 13
    assert [judged(block) for block in blocks] == [[] for _ in blocks]


@pytest.mark.parametrize(
    "text",
    [
        "steps: [{command: a, timeoutSec: 90}, {command: [a, 1, true], timeoutSec: 1.5h}]",
        "steps: {a: {run: b, params: {X: 1}, parallel: [1, {b: [c]}]}, d: {approval: true}}",
        "on: [push, pullRequest: {branches: main}]\nsteps: [{command: a, env: [{A: 1}, {B: }]}]",
        "on: {workflow: {ids: a, status: [failed]}}\nsteps: [{command: a}]",
        "priority: -5\nmaxOutputSize: 5MiB\nskipIfSuccessful: 'true'\nsteps: [{command: a}]",
        "schedule: {start: '@daily'}\nworkspace: own\nconcurrency: x\nsteps: [{command: a}]",
        "steps: [{executor: http, command: GET https://x}, {executor: {type: docker, config: "
        "{image: a, cpus: '${N}', memory: 2g, env: {A: 1}, pull: never}}, command: a}]",
        "steps: [{executor: {type: http, config: {url: a, body: {b: [1]}, timeout: 30s}}}]",
        "steps: [{command: a, preconditions: [b, {condition: c, expected: 0}]}]",
        "steps: [{command: a, retryPolicy: {limit: 3, backoff: true, exitCode: 1}}]",
    ],
)
def test_what_the_loader_takes_fits(text: str) -> None:
    assert load(text.encode(), path="f", id="f").problems == ()
    assert judged(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "name: no steps",
        "steps: [{comand: a}]",
        "steps: [{command: a, timeoutSec: soon}]",
        "steps: [{command: a, retryPolicy: {}}]",
        "steps: [{command: a, parallel: {maxConcurrent: 3}}]",
        "steps: [{command: a, parallel: {items: [b], maxConcurrent: 0}}]",
        "priority: 101\nsteps: [{command: a}]",
        "overlapPolicy: never\nsteps: [{command: a}]",
        "maxOutputSize: big\nsteps: [{command: a}]",
        "steps: [{command: a, executor: dockr}]",
        "steps: [{command: a, executor: {type: docker, config: {imag: b}}}]",
        "steps: [{command: a, executor: {type: docker, config: {image: b, cpus: many}}}]",
        "on: {pullRequest: {types: [open]}}\nsteps: [{command: a}]",
        "secrets: [{env: A}]\nsteps: [{command: a}]",
        "handlerOn: {done: {command: a}}\nsteps: [{command: a}]",
    ],
)
def test_what_the_loader_refuses_does_not_fit(text: str) -> None:
    assert load(text.encode(), path="f", id="f").problems != ()
    assert judged(text) != []


def entry_classes(entry: type[entries.Entry]) -> dict[str, type[entries.Entry]]:
    """`entry` and all below it, by the names that descriptions have."""
    found = {entry.__name__.removesuffix("Entry"): entry}
    for below in entry.nested.values():
        if below.__name__.removesuffix("Entry") not in found:
            found |= entry_classes(below)
    return found


def test_every_key_has_a_description_and_every_description_a_key() -> None:
    classes = entry_classes(entries.WorkflowEntry)
    classes |= {config.__name__: config for config in entries.CONFIGS.values()}
    known = {name: sorted(keys(entry)) for name, entry in classes.items()}
    described = {name: sorted(texts) for name, texts in DESCRIPTIONS.items()}
    assert described == known
    assert sorted({*SCHEMA["$defs"], "Workflow"}) == sorted(known)


def test_unknown_keys_are_refused_everywhere() -> None:
    maps = {"workflow": SCHEMA} | SCHEMA["$defs"]
    assert [name for name, one in maps.items() if one["additionalProperties"] is not False] == []


def test_loading_a_workflow_does_not_make_the_schema() -> None:
    program = (
        "import sys; from runner.language.load import load; "
        "assert load(b'steps: [{command: x}]', path='p', id='p').workflow; "
        "print('runner.language.schema' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
