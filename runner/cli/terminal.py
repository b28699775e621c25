"""What reaches a terminal: text that cannot move its cursor, times as people say them, tables.

Names and logs come from other people's files. Knows nothing of runs. One rule: on a terminal a
control character is shown and never obeyed, colours of a log excepted; a pipe gets what there is.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Sequence
from datetime import datetime

_SGR = r"\x1b\[[0-9;:]{0,32}m"  # "select graphic rendition": colours, bold, underline
# Every C0 and C1 control but tab, newline and carriage return; marks that turn reading order.
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
_COLOUR_OR_CONTROL = re.compile(f"({_SGR})|{_CONTROL}")
_BEGUN_COLOUR = re.compile(r"\x1b(\[[0-9;:]{0,32})?\Z")
_NAME_CONTROL = re.compile(f"{_CONTROL}|[\t\r\n]|[\ud800-\udfff]")
RESET = "\x1b[0m"


def shown(text: str) -> str:
    """`text` on one line, with control characters written as escapes."""
    return _NAME_CONTROL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


class LogScreen:
    """Bytes of a log, in any pieces, as text that is safe for a terminal."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""  # an escape sequence that the next piece may complete
        self._coloured = False

    def feed(self, piece: bytes) -> str:
        text = self._begun + self._decoder.decode(piece)
        begun = _BEGUN_COLOUR.search(text)
        self._begun = begun[0] if begun else ""
        return self._clean(text[: begun.start()] if begun else text)

    def end(self) -> str:
        """What is left; also puts the terminal's colours back."""
        text = self._clean(self._begun + self._decoder.decode(b"", final=True))
        self._begun = ""
        return text + (RESET if self._coloured else "")

    def _clean(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            if match[1]:
                self._coloured = True
                return match[1]
            return _escape(match)

        return _COLOUR_OR_CONTROL.sub(replace, text)


def is_terminal() -> bool:
    return sys.stdout.isatty()


def ago(at: str | None, *, now: datetime) -> str:
    """An RFC 3339 instant as `5 min ago` or `in 2 h`; "" for None."""
    if at is None:
        return ""
    seconds = (now - datetime.fromisoformat(at)).total_seconds()
    words = duration(abs(seconds))
    return f"{words} ago" if seconds >= 0 else f"in {words}"


def duration(seconds: float) -> str:
    """Two digits or so of a time span."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    raise AssertionError("unreachable")  # 60 s and more are at least one minute


def span(seconds: float) -> str:
    """A time span exactly, in the largest unit that it is a whole number of."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"


def milliseconds(value: object) -> str:
    """A `duration_ms` of the API; "" where there is none."""
    return duration(value / 1000) if isinstance(value, int | float) else ""


_COLOURS = {
    "succeeded": "green",
    "partially_succeeded": "yellow",
    "failed": "red",
    "lost": "bright_red",
    "cancelled": "magenta",
    "skipped": "bright_black",
    "running": "cyan",
    "retrying": "yellow",
    "waiting": "yellow",
}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns for people on a terminal (statuses coloured), aligned plain text in a pipe."""
    if is_terminal():
        _print_rich(header, rows)
    else:
        _print_plain([tuple(title.upper() for title in header), *rows])


def _print_plain(rows: Sequence[Sequence[str]]) -> None:
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print(line.rstrip())


_FLOWING = ("reason", "value")  # what may take several lines
_LEAST = 20  # columns of those that are left to it
_SPARE = ("commit", "trigger", "in", "zone", "repository", "exit", "attempts", "took", "queued")
"""What is left out of a table on a narrow terminal, the first first; `--json` has all."""


def fitting(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int) -> tuple[int, ...]:
    """The numbers of the columns that are shown on a terminal of `width` columns."""
    needed = {}
    for number, title in enumerate(header):
        longest = max(len(title), *(len(shown(row[number])) for row in rows), 1)
        needed[number] = min(longest, _LEAST) if title in _FLOWING else longest
    for title in _SPARE:
        if sum(needed.values()) + 2 * (len(needed) - 1) <= width:
            break
        if title in header:
            del needed[header.index(title)]
    return tuple(needed)


def _print_rich(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    columns = fitting(header, rows, width=console.width)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for number in columns:
        # An id or a status that is broken into two lines cannot be read at a glance.
        whole = header[number] in ("run", "status", "at", "took")
        table.add_column(header[number], overflow="fold", no_wrap=whole)
    for row in rows:
        cells = (row[number] for number in columns)
        table.add_row(*(Text(shown(cell), style=_COLOURS.get(cell, "")) for cell in cells))
    console.print(table)
