"""JSON whose numbers stay as their document has them: 0.80 and 12345678901 come out as written.

Reads a document, and writes one as compact text; both refuse what nests too deeply. Knows nothing
of workflows. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_PART = re.compile(r"([A-Za-z0-9_-]+)|\[([0-9]+)\]")


class Number(str):
    """A JSON number as it stands in its document."""

    __slots__ = ()


def read(document: str) -> Any:
    """The document, each number a Number. Raises ValueError for what is not JSON (NaN is not) or
    is nested too deeply."""
    try:
        return _DECODER.decode(document.strip())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def quoted(text: str) -> str:
    """A JSON string of `text`."""
    return json.dumps(text, ensure_ascii=False)


def compact(node: Any, *, string: Callable[[str], str] = quoted) -> str:
    """`node` as JSON without blanks; `string` writes its strings and keys. Raises ValueError where
    it is nested too deeply."""
    try:
        return "".join(_pieces(node, string))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def at(node: Any, path: str) -> Any:
    """What stands at a path such as `release.tags[0].name`. Raises LookupError."""
    for key, index in _PART.findall(path):
        number = index or key
        if isinstance(node, dict) and key:
            node = node[key]
        elif isinstance(node, list) and number.isdecimal() and len(number) < 10:
            node = node[int(number)]
        else:
            raise LookupError(path)
    return node


def text(node: Any) -> str:
    """A string as its own text, anything else as compact JSON. Raises ValueError like `compact`."""
    found = str(node) if isinstance(node, str) else compact(node)
    # An escape such as \ud83d without its other half is JSON, but no text.
    return found.encode(errors="replace").decode()


def _pieces(node: Any, string: Callable[[str], str]) -> Iterator[str]:
    if isinstance(node, Number):
        yield str(node)
    elif isinstance(node, str):
        yield string(node)
    elif isinstance(node, dict):
        for n, (key, value) in enumerate(node.items()):
            yield ("," if n else "{") + string(key) + ":"
            yield from _pieces(value, string)
        yield "}" if node else "{}"
    elif isinstance(node, list | tuple):
        for n, value in enumerate(node):
            yield "," if n else "["
            yield from _pieces(value, string)
        yield "]" if node else "[]"
    else:
        yield json.dumps(node)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=_no_constant)
