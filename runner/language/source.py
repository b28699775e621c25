"""YAML text as plain data, read strictly, and the places of values in it.

A scalar is its source text or, where it is a plain null, None: what a text means as a number or
a truth value is decided by the key that holds it (`document`). That keeps `1.10`, `010` and `on`
as they were written. One pass over the parser's events enforces every limit before anything
grows; nothing here recurses, so no nesting can exhaust the stack. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from runner.language.faults import LanguageError, Place, quoted

MAX_DEPTH = 64
# The keys whose maps stand for lists, so that a number in a place counts in them.
MAPS_IN_ORDER = ("steps", "env", "params")
MAX_VALUES = 50_000

Data = Any  # None | str | list[Data] | dict[str, Data]: mypy has no use for the recursion

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_CORE_TAGS = frozenset(f"tag:yaml.org,2002:{t}" for t in ("bool", "int", "float", "map", "seq"))
_STR_TAG = "tag:yaml.org,2002:str"
_NULL_TAG = "tag:yaml.org,2002:null"
_CRON_LIKE = re.compile(r"\*\S*(?:\s+[\d*A-Za-z?][^\s:]*){3,}")


class SourceError(LanguageError):
    """The text cannot be read at all; `line` and `column` count from 1."""

    def __init__(self, message: str, *, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(frozen=True, slots=True)
class Mistake:
    """Something wrong that does not keep the rest of the text from being read."""

    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True)
class Source:
    """The documents of a text, empty ones as None, and the mistakes met on the way."""

    documents: tuple[Data, ...]
    mistakes: tuple[Mistake, ...]


def read(text: str) -> Source:
    """Read all documents of `text`.

    Raises SourceError for a text that is no YAML, nests deeper than 64, or holds more than
    50,000 values with aliases counted at their expanded size.
    """
    builder = _Builder(text)
    try:
        builder.run()
    except yaml.YAMLError as error:
        raise _explained(error, text) from error
    return Source(documents=tuple(builder.documents), mistakes=tuple(builder.mistakes))


@dataclass(slots=True)
class _Frame:
    """A container that is being filled. `key` None: the next scalar of a map is a key."""

    value: Data
    anchor: str | None
    counted_before: int
    is_map: bool
    flow: bool
    key: str | None = None
    merged: list[dict[str, Data]] = field(default_factory=list)


class _Builder:
    """Turns events into data, one document after the other."""

    def __init__(self, text: str) -> None:
        self.documents: list[Data] = []
        self.mistakes: list[Mistake] = []
        self._parser = yaml.CSafeLoader(text)
        self._stack: list[_Frame] = []
        self._anchors: dict[str, tuple[Data, int]] = {}
        self._open_anchors: set[str] = set()
        self._counted = 0
        self._root: Data = None

    def run(self) -> None:
        next_event: Callable[[], Any] = self._parser.get_event
        while True:
            event = next_event()
            kind = type(event)
            if kind is ScalarEvent:
                self._scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self._open(event, is_map=kind is MappingStartEvent)
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is AliasEvent:
                self._alias(event)
            elif kind is DocumentStartEvent:
                self._root, self._anchors = None, {}
            elif kind is DocumentEndEvent:
                self.documents.append(self._root)
            elif kind is StreamEndEvent:
                return

    def _scalar(self, event: ScalarEvent) -> None:
        value: str | None = event.value
        self._count(1, event)
        plain = event.implicit[0]
        if "\0" in event.value:
            self._mistake("the text holds NUL, which no process can be given; remove it", event)
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.is_map and frame.key is None:
            self._key(frame, event.value, event)
            return
        if event.tag is not None and event.tag != "!":
            self._check_tag(event)
            if event.tag == _NULL_TAG:
                value = None
        elif plain and value in _NULLS:
            value = None
        if event.anchor:
            self._new_anchor(event.anchor, event)
            self._anchors[event.anchor] = (value, 1)
        self._put(value, event)

    def _key(self, frame: _Frame, key: str, event: ScalarEvent) -> None:
        frame.key = key
        if key in frame.value:
            self._mistake(f"{quoted(key)} is given twice in the same map; keep one of them", event)

    def _open(self, event: Any, *, is_map: bool) -> None:
        self._count(1, event)
        if len(self._stack) >= MAX_DEPTH:
            _fail(f"nested deeper than {MAX_DEPTH}; flatten it", event)
        parent = self._stack[-1] if self._stack else None
        if parent is not None and parent.is_map and parent.key is None:
            self._refuse_key(event, in_template=is_map and event.flow_style and parent.flow)
        if event.tag is not None and event.tag != "!":
            self._check_tag(event)
        if event.anchor:
            self._new_anchor(event.anchor, event)
            self._open_anchors.add(event.anchor)
        self._stack.append(
            _Frame(
                value={} if is_map else [],
                anchor=event.anchor,
                counted_before=self._counted - 1,
                is_map=is_map,
                flow=bool(event.flow_style),
            )
        )

    def _close(self) -> None:
        frame = self._stack.pop()
        value = frame.value
        if frame.merged:
            merged: dict[str, Data] = {}
            for other in reversed(frame.merged):  # the first of several wins
                merged |= other
            value = merged | value
        if frame.anchor:
            self._open_anchors.discard(frame.anchor)
            self._anchors[frame.anchor] = (value, self._counted - frame.counted_before)
        self._put(value, None)

    def _alias(self, event: AliasEvent) -> None:
        name = event.anchor
        frame = self._stack[-1] if self._stack else None
        if frame is not None and frame.is_map and frame.key is None:
            self._refuse_key(event, in_template=False)
        if name in self._open_anchors:
            _fail(f"the alias *{name} refers to itself", event)
        if name not in self._anchors:
            _fail(f"nothing is named &{name}; quote the text if the * belongs to it", event)
        value, size = self._anchors[name]
        self._count(size, event)
        self._put(value, event)

    def _put(self, value: Data, event: Any) -> None:
        if not self._stack:
            self._root = value
            return
        frame = self._stack[-1]
        if not frame.is_map:
            frame.value.append(value)
            return
        key, frame.key = frame.key, None
        if key == "<<":
            self._merge(frame, value, event)
        else:
            frame.value[key] = value

    def _merge(self, frame: _Frame, value: Data, event: Any) -> None:
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, dict) for part in parts):
            self._mistake('"<<" takes a map, or a list of maps', event)
            return
        frame.merged.extend(parts)

    def _count(self, size: int, event: Any) -> None:
        self._counted += size
        if self._counted > MAX_VALUES:
            _fail(f"more than {MAX_VALUES:,} values, aliases counted as what they stand for", event)

    def _new_anchor(self, name: str, event: Any) -> None:
        if name in self._anchors or name in self._open_anchors:
            _fail(f"&{name} is defined twice in this document; rename one", event)

    def _check_tag(self, event: Any) -> None:
        if event.tag in _CORE_TAGS or event.tag in (_STR_TAG, _NULL_TAG):
            return
        shown = event.tag if event.tag.startswith("!") else "!!" + event.tag.rpartition(":")[2]
        self._mistake(
            f"the tag {quoted(shown)} has no meaning here; quote the text if it starts with !",
            event,
        )

    def _refuse_key(self, event: Any, *, in_template: bool) -> NoReturn:
        if in_template:
            _fail("quote the template: a text that starts with {{ needs quotes in YAML", event)
        _fail("a key must be plain text", event)

    def _mistake(self, message: str, event: Any) -> None:
        mark = event.start_mark if event is not None else None
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        self.mistakes.append(Mistake(line=line, column=column, message=message))


def _fail(message: str, event: Any) -> NoReturn:
    mark = event.start_mark
    raise SourceError(message, line=mark.line + 1, column=mark.column + 1)


def _explained(error: yaml.YAMLError, text: str) -> SourceError:
    """The parser's complaint in the words of someone who writes workflows."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return _unreadable(error, text)
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    message = _advice(
        line,
        column=mark.column,
        problem=str(getattr(error, "problem", "") or ""),
        context=str(getattr(error, "context", "") or ""),
    )
    return SourceError(message, line=mark.line + 1, column=mark.column + 1)


def _unreadable(error: yaml.YAMLError, text: str) -> SourceError:
    offset = getattr(error, "position", 0) or 0
    before = text.encode()[:offset].decode(errors="replace")
    return SourceError(
        f"not valid YAML: {getattr(error, 'reason', None) or error}",
        line=before.count("\n") + 1,
        column=len(before) - before.rfind("\n"),
    )


def _advice(line: str, *, column: int, problem: str, context: str) -> str:
    at = line[column : column + 1]
    if "alias" in context or "anchor" in context:
        if _CRON_LIKE.search(line):
            return 'quote the schedule: write "* * * * *", because a bare * starts a YAML alias'
        return "quote the text: a value that starts with * or & is a YAML alias or anchor"
    if "tag" in context:
        return "quote the text: a value that starts with ! is a YAML tag"
    if "{{" in line:
        return "quote the template: a text that starts with {{ needs quotes in YAML"
    if "cannot start any token" in problem:
        if at == "\t":
            return "indent with blanks: YAML refuses tabs"
        return f"quote the text: a YAML value cannot start with {quoted(at)}"
    if "mapping values are not allowed" in problem:
        return 'not valid YAML: ": " inside a value; quote the value, or check the indentation'
    return f"not valid YAML: {problem or context}" + (
        f" ({context})" if problem and context else ""
    )


class Places:
    """Finds where values stand. Build it only for a text that `read` has accepted."""

    def __init__(self, text: str) -> None:
        self._roots: list[Any] = list(_compose(text))

    @property
    def first(self) -> int:
        """The number of the first document that is not empty."""
        filled = (n for n, root in enumerate(self._roots) if getattr(root, "value", None))
        return next(filled, 0)

    def find(self, place: Place, *, document: int, on_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value at `place`, or of its key.

        What the place names and the text does not have (a missing key, the list that a single
        text stands for) is left out: the nearest thing around it is found.
        """
        node = self._roots[document] if document < len(self._roots) else None
        if node is None:
            return (1, 1)
        found = key_found = node
        above = ""
        for name in place:
            entry = _child(node, name, above=above)
            above = name if isinstance(name, str) else above
            if entry is None:
                if isinstance(node, yaml.MappingNode) and isinstance(name, str):
                    break
                continue
            key_found, node = entry
            found = node
        mark = (key_found if on_key else found).start_mark
        return (mark.line + 1, mark.column + 1)


def _compose(text: str) -> Iterator[Any]:
    loader = yaml.CSafeLoader(text)
    while loader.check_node():
        yield loader.get_node()


def _child(node: Any, name: str | int, *, above: str) -> tuple[Any, Any] | None:
    """The key (or the item itself) and the value that `name` stands for below `node`."""
    if isinstance(node, yaml.SequenceNode):
        if isinstance(name, int):
            return (node.value[name], node.value[name]) if name < len(node.value) else None
        # `on: [push]` means `on: {push: }`: a text in a list can stand for a key
        items = [n for n in node.value if isinstance(n, yaml.ScalarNode) and n.value == name]
        return (items[0], items[0]) if items else None
    if not isinstance(node, yaml.MappingNode):
        return None
    if isinstance(name, int):
        if above not in MAPS_IN_ORDER:
            return None  # a single map stands for a list of one
        pairs = [pair for pair in node.value if pair[0].value != "<<"]
        return pairs[name] if name < len(pairs) else None
    return _entry(node, name)


def _entry(node: yaml.MappingNode, name: str) -> tuple[Any, Any] | None:
    other: tuple[Any, Any] | None = None
    for key, value in node.value:
        if key.value == name:
            return (key, value)
        if isinstance(key.value, str) and camel(key.value) == name:
            other = (key, value)
        elif key.value == "<<" and other is None:
            maps = value.value if isinstance(value, yaml.SequenceNode) else [value]
            found = (_entry(m, name) for m in maps if isinstance(m, yaml.MappingNode))
            other = next((entry for entry in found if entry is not None), None)
    return other


def camel(key: str) -> str:
    """`timeout_sec` as `timeoutSec`."""
    if "_" not in key:
        return key
    head, *rest = key.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)
