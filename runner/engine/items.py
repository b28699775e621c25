"""The items of a parallel step: the list that they come from, and what their ends add up to.

An item is a text; that of a map is its compact JSON. Leaves to `attempts` where lists and results
are kept, and to `plan` what follows from them. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runner.engine.scope import (
    ITEM,
    Evaluated,
    Evaluation,
    Refs,
    ScopeError,
    check_value,
    expanded,
    expanded_tree,
    short,
)
from runner.language import exact_json, expand
from runner.language.model import MapItem, Parallel, Param, Tree
from storage.mask import Mask, is_secret_name

MOST_ITEMS = 1000
PREVIEW_CHARS = 120
_ESCAPED = re.compile(r"[\s\\\x00-\x1f]")


def listed(
    parallel: Parallel, scope: Mapping[str, str], refs: Refs, *, results: dict[str, str]
) -> Generator[Evaluation, Evaluated, tuple[str, ...]]:
    """The texts of the items. Raises ScopeError, which names the variable that is not set."""
    texts: tuple[str, ...]
    if parallel.source is not None:
        value = yield from expanded(parallel.source, scope, results, refs)
        texts = _from_text(parallel.source, value, scope, refs)
    else:
        found = []
        for tree in parallel.items:
            found.append(_text((yield from expanded_tree(tree, scope, results, refs))))
        texts = tuple(found)
    if len(texts) > MOST_ITEMS:
        raise ScopeError(
            f"parallel has {len(texts)} items, more than {MOST_ITEMS}; put several into one item"
        )
    for text in texts:
        check_value(ITEM, text)
    return texts


def _from_text(source: str, value: str, scope: Mapping[str, str], refs: Refs) -> tuple[str, ...]:
    written = f"parallel: {short(source)}"
    if unset := expand.unset(source, scope, step_refs=refs):
        raise ScopeError(
            f"{written}: {unset[0]} is not set; give it as a parameter or in env, or let a step "
            "above this one have it as its output"
        )
    if not value.strip():
        names = ", ".join(sorted(expand.names_in(source))) or "the text"
        raise ScopeError(f"{written}: {names} is empty; for no items write the JSON list []")
    if value.lstrip().startswith("["):
        try:
            found = exact_json.read(value)
            return tuple(exact_json.text(node) for node in found)
        except ValueError:
            pass  # words, the first of which begins with a bracket
    return tuple(value.split())


def _text(tree: Tree) -> str:
    return tree if isinstance(tree, str) else exact_json.compact(_plain(tree))


def _plain(tree: Tree) -> Any:
    if isinstance(tree, str):
        return tree
    if isinstance(tree, MapItem):
        return {key: _plain(value) for key, value in tree.fields}
    return [_plain(value) for value in tree]


def fields(item: str) -> tuple[tuple[str, str], ...] | None:
    """The (key, text) pairs of a map item, None of any other; a nested value is compact JSON."""
    if not item.lstrip().startswith("{"):
        return None
    try:
        found = exact_json.read(item)
        return tuple((key, exact_json.text(value)) for key, value in found.items())
    except ValueError:
        return None


def child_params(item: str) -> tuple[Param, ...]:
    """What a child run is given where its step has no `params`: `$1`, or each key of a map."""
    pairs = fields(item)
    if pairs is None:
        return (Param(None, item),)
    return tuple(Param(name, value) for name, value in pairs)


def secrets_in(items: Iterable[str]) -> list[str]:
    """The values of map items whose keys say that they are secret."""
    pairs = (pair for item in items for pair in fields(item) or ())
    return [value for name, value in pairs if is_secret_name(name)]


def previews(items: Iterable[str], mask: Mask) -> tuple[str, ...]:
    """The masked beginning of each, for people."""
    return tuple(mask.text(item)[:PREVIEW_CHARS] for item in items)


# What they add up to


@dataclass(frozen=True, slots=True)
class ItemResult:
    """How one item ended. `output` is its trimmed stdout, or what a child run's JSON says."""

    item: str
    status: str
    exit_code: int | None
    error: str
    output: str = ""
    of_child: bool = False


def aggregate(results: Sequence[ItemResult]) -> str:
    """The output of a parallel step: compact JSON in item order, in whose strings no white space
    stands as it is, so that an unquoted `$X` stays one word of a shell."""
    counts = Counter(result.status for result in results)
    words = ("succeeded", "failed", "skipped", "cancelled")
    entries = [_entry(result) for result in results]
    return exact_json.compact(
        {
            "summary": {"total": len(results), **{word: counts[word] for word in words}},
            "results": entries,
            "outputs": [e["output"] for e in entries if e["status"] == "succeeded"],
        },
        string=_one_word,
    )


def _entry(result: ItemResult) -> dict[str, Any]:
    child = _child(result.output) if result.of_child else {}
    return {
        "item": result.item,
        "runId": child.get("runId", ""),
        "params": child.get("params", ""),
        "status": result.status,
        "exitCode": _exit_code(result),
        "error": result.error,
        "output": child.get("outputs", {}) if result.of_child else result.output,
    }


def _exit_code(result: ItemResult) -> int | None:
    """A child run has the one that `dagmill run` would have."""
    if not result.of_child or result.status == "cancelled":
        return result.exit_code
    return int(result.status == "failed")


def _child(text: str) -> dict[str, Any]:
    try:
        found = exact_json.read(text)
    except ValueError:  # it was never made, so there is nothing
        return {}
    return found if isinstance(found, dict) else {}


def _one_word(text: str) -> str:
    """A JSON string; a backslash is written so too, as `echo` of some shells acts on it."""
    escaped = _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text).replace('"', '\\"')
    return f'"{escaped}"'
