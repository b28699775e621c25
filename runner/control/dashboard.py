"""What the status branch says to people: the README's table, file paths, commit messages.

Knows Markdown and what may not pass into it: names, refs and reasons come from a repository and
may hold anything. Leaves the summary of one run to `engine.summary`. Its rule: the same facts
give the same bytes. Pure.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

_MARKUP = frozenset("\\`*_{}[]()#+-.!|~<>&$@:")
_ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
_MARKS = {"succeeded": "✅", "partially_succeeded": "⚠️", "failed": "❌"}
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One workflow in the table. Everything but the id may be unknown."""

    workflow: str
    name: str
    status: str = ""
    run: str = ""
    run_queued_at: datetime | None = None
    commit: str = ""
    duration_ms: int | None = None
    next_at: datetime | None = None
    stale: bool = False  # an older version runs, because the newest file is broken


def run_path(workflow: str, run: str, *, queued_at: datetime) -> str:
    """The path of a run's files without their ending."""
    return f"runs/{queued_at.astimezone(UTC):%Y/%m/%d}/{workflow}/{run}"


def latest_path(workflow: str) -> str:
    return f"latest/{workflow}.json"


def readme(repository: str, lines: Iterable[Line]) -> str:
    """The dashboard; `lines` in the order to show."""
    rows = [_row(line) for line in lines]
    text = [
        f"# {escape(repository)}: last results",
        "",
        "Written by Dagmill. `runs/` has a summary of each run, `latest/` each workflow's newest.",
        "",
    ]
    if not rows:
        text += ["No workflow is known yet.", ""]
        return "\n".join(text)
    text += [
        "| Workflow | Last result | Commit | Duration | Next run |",
        "| --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    return "\n".join(text)


def commit_message(runs: Iterable[str], statuses: Iterable[str]) -> str:
    """Counts and run ids only: nothing in it comes from the repository.

    The subject ends with `[skip ci]` so that no forge builds the branch; trailers name the runs.
    """
    ids = sorted(runs)
    counts: dict[str, int] = {}
    for status in statuses:
        counts[status] = counts.get(status, 0) + 1
    what = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
    noun = "run" if len(ids) == 1 else "runs"
    trailers = "".join(f"Dagmill-Run: {run}\n" for run in ids)
    return f"{len(ids)} {noun}: {what} [skip ci]\n\n{trailers}"


def escape(text: str) -> str:
    """`text` as it reads, on one line, with nothing in it meaning anything to Markdown or HTML.

    Control, format (bidi) and line-breaking characters are shown as `\\u202e`; at most 200
    characters.
    """
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    return "".join(_escaped(char) for char in short)


def duration(ms: int | None) -> str:
    if ms is None:
        return "-"
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def _row(line: Line) -> str:
    known = line.run and line.run_queued_at is not None
    link = ""
    if known and line.run_queued_at is not None:
        link = run_path(line.workflow, line.run, queued_at=line.run_queued_at) + ".md"
    status = line.status.replace("_", " ")
    result = f"{_MARKS.get(line.status, '▫️')} [{escape(status)}]({link})" if link else "-"
    title = escape(line.name)
    if line.name != line.workflow:
        title += f" ({escape(line.workflow)})"
    if line.stale:
        title += " **stale**"
    moment = f"{line.next_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if line.next_at else "-"
    commit = f"`{line.commit[:10]}`" if line.commit else "-"
    took = duration(line.duration_ms) if known else "-"
    return f"| {title} | {result} | {commit} | {took} | {moment} |"


def _escaped(char: str) -> str:
    # Zl and Zp are line breaks to some readers, Cf reorders or hides what stands beside it.
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        point = ord(char)
        return f"\\\\u{point:04x}" if point <= 0xFFFF else f"\\\\U{point:08x}"
    if char in _ENTITIES:
        return _ENTITIES[char]
    if char in _MARKUP:
        return "\\" + char
    return char
