"""What the status branch says to people: the README's table, file paths, commit messages.

Knows what the branch looks like; leaves the summary of one run, and escaping, to
`engine.summary`. Its rule: the same facts give the same bytes, and no name from a repository
reaches the page or the history as it is. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from runner.engine.summary import duration, escape

_MARKS = {"succeeded": "✅", "partially_succeeded": "⚠️", "failed": "❌"}


@dataclass(frozen=True, slots=True)
class Line:
    """One workflow in the table. Everything but the id may be unknown. `linked`: the page of its
    run is on the branch."""

    workflow: str
    name: str
    status: str = ""
    run: str = ""
    run_queued_at: datetime | None = None
    commit: str = ""
    duration_ms: int | None = None
    linked: bool = True
    next_at: datetime | None = None
    stale: bool = False  # an older version runs, because the newest file is broken


def run_path(workflow: str, run: str, *, queued_at: datetime) -> str:
    """The path of a run's files without their ending."""
    return f"runs/{queued_at.astimezone(UTC):%Y/%m/%d}/{workflow}/{run}"


def latest_path(workflow: str) -> str:
    return f"latest/{workflow}.json"


def page_path(line: Line) -> str | None:
    """Where the page of a line's run is; None without a run."""
    if not line.run or line.run_queued_at is None:
        return None
    return run_path(line.workflow, line.run, queued_at=line.run_queued_at) + ".md"


def readme(repository: str, lines: Iterable[Line]) -> str:
    """The dashboard; `lines` in the order to show."""
    rows = [_row(line) for line in lines]
    text = [
        f"# {escape(repository)}: last results",
        "",
        "Written by Dagmill. `runs/` has a summary of each run that ended since this branch began, "
        "`latest/` each workflow's newest of them.",
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


def _row(line: Line) -> str:
    page = page_path(line)
    result = "-"
    if page is not None:
        status = escape(line.status.replace("_", " "))
        shown = f"[{status}]({page})" if line.linked else status
        result = f"{_MARKS.get(line.status, '▫️')} {shown}"
    title = escape(line.name)
    if line.name != line.workflow:
        title += f" ({escape(line.workflow)})"
    if line.stale:
        title += " **stale**"
    moment = f"{line.next_at.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if line.next_at else "-"
    commit = f"`{line.commit[:10]}`" if line.commit else "-"
    took = duration(line.duration_ms) if page is not None else "-"
    return f"| {title} | {result} | {commit} | {took} | {moment} |"
