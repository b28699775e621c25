"""Reading `dotenv` files: NAME=value lines of a workspace, as data.

Nothing in a value is expanded. A file that is missing is skipped, a line that cannot be read is
an error, as whoever wrote it meant something by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from runner.engine import workspace
from runner.engine.scope import Pairs, ScopeError
from runner.language.params import NAME

LARGEST_FILE = 1024 * 1024


def read(paths: Iterable[str], *, folder: Path) -> Pairs:
    """The pairs of all files in order, of which later ones win; paths are relative to `folder`.
    Raises ScopeError."""
    found: dict[str, str] = {}
    for path in paths:
        text = _text(folder / path, path)
        if text is None:
            continue
        for name, value in _pairs(text, path):
            found.pop(name, None)
            found[name] = value
    return tuple(found.items())


def _text(file: Path, shown: str) -> str | None:
    try:
        data = workspace.read(file, most=LARGEST_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ScopeError(f"dotenv file {shown} cannot be read: {why}") from error
    if len(data) > LARGEST_FILE:
        raise ScopeError(f"dotenv file {shown} is larger than {LARGEST_FILE} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ScopeError(f"dotenv file {shown} is not UTF-8") from error


def _pairs(text: str, shown: str) -> Pairs:
    from dotenv.parser import parse_stream  # here: few runs have such files

    pairs = []
    for binding in parse_stream(StringIO(text)):
        written = binding.original.string  # with the empty lines before it
        line = binding.original.line + written[: -len(written.lstrip()) or None].count("\n")
        if not binding.error and binding.key is None:
            continue  # a comment
        if binding.error or binding.key is None or binding.value is None:
            raise ScopeError(f"{shown}:{line}: this is not NAME=value")
        if not NAME.fullmatch(binding.key):
            raise ScopeError(f"{shown}:{line}: {binding.key[:40]!r} is not a variable's name")
        pairs.append((binding.key, binding.value))
    return tuple(pairs)
