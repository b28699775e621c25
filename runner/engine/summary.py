"""What a run amounts to, as the document that everyone reads: the status branch, the API, the
CLI's `--json`, a handler's DAG_RUN_SUMMARY_FILE.

Made from folded state alone, so the same run always gives the same document. All values in it
are masked already. Pure.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from runner.engine.events import ApprovalRefused, Approved, Queued
from runner.engine.state import RunState, StepState, StepStatus, Unit
from runner.triggers import Trigger, child_run

SCHEMA_VERSION = 1
MOST_ITEMS = 50  # of a parallel step that are told one by one; failed ones always are
_PARTS = ("steps", "handlers")

Document = dict[str, Any]


def document(run: str, state: RunState) -> Document:
    """The summary of a run at any time of its life; `finished_at` is null until it is final.

    Times are RFC 3339 in UTC, durations whole milliseconds, commits 40 hex digits.
    """
    queued, started = state.queued, state.started
    if queued is None:
        raise ValueError(f"run {run} has no Queued event")
    result: Document = {
        "schema_version": SCHEMA_VERSION,
        "run": run,
        "workflow": {"id": queued.workflow, "name": queued.name, "path": queued.path},
        "repository": queued.repository,
        "ref": queued.ref,
        "commit": queued.commit,
        "blob": queued.blob,
        "definition_sha256": queued.definition_sha256,
        "trigger": _trigger(queued.trigger),
        "params": dict(state.params),
        "status": state.status.value,
        "reason": state.reason,
        "attempt": queued.attempt,
        "retry_of": queued.retry_of or None,
        "parent": _parent(queued),
        "queued_at": _time(queued.at),
        "started_at": _time(started.at if started else None),
        "finished_at": _time(state.finished_at),
        "duration_ms": _ms(started.at if started else None, state.finished_at),
        "steps": [_step(run, s) for s in state.steps[: state.first_handler]],
        "handlers": [
            _step(run, s) for s in state.steps[state.first_handler :] if s.attempt or s.final
        ],
        "runner": {
            "version": started.runner if started else "",
            "host": started.host if started else "",
        },
    }
    if state.remark:
        result["remark"] = state.remark
    if not queued.repository:
        result["dirty"] = queued.dirty
    return result


def _trigger(trigger: Trigger) -> Document:
    return {
        "type": trigger.type.value,
        "key": trigger.key,
        "before": trigger.before,
        "after": trigger.after,
        "actor": trigger.actor,
        "delivery": trigger.delivery,
        "slot": _time(trigger.slot),
        "after_run": trigger.source or None,
    }


def _parent(queued: Queued) -> Document | None:
    if not queued.parent:
        return None
    return {
        "run": queued.parent,
        "step": queued.parent_step,
        "item": queued.parent_item,
        "root": queued.root,
    }


def _step(run: str, step: StepState) -> Document:
    """A step; of a parallel one also what became of its items."""
    result = {"name": step.step.name, **_unit(run, step)}
    if step.asked is not None:
        result["approval"] = _approval(step)
    if step.items is not None:
        counts = Counter(item.status.value for item in step.items)
        told = [
            {"item": n, "value": step.previews[n], **_unit(run, item)}
            for n, item in enumerate(step.items)
            if n < MOST_ITEMS or item.status is StepStatus.FAILED
        ]
        result["items"] = {"total": len(step.items), "counts": dict(counts), "told": told}
    return result


def _unit(run: str, unit: Unit) -> Document:
    """What is told of a step and of an item alike. `child` is the newest child run of a step that
    runs a sub-workflow, `carried_from` the run whose result was taken over."""
    log = unit.log
    result: Document = {
        "status": unit.status.value,
        "reason": unit.reason,
        "exit_code": unit.exit_code,
        "signal": unit.signal,
        "lost": unit.lost,
        "attempts": unit.attempt,
        "started_at": _time(unit.started_at),
        "duration_ms": _ms(unit.started_at, unit.ended_at if unit.final else None),
        "log": None
        if log is None
        else {"bytes": log.bytes, "lines": log.lines, "sha256": log.sha256, "tail": log.tail},
    }
    if unit.repetition > 1:
        result["repetitions"] = unit.repetition
    if unit.carried:
        result["carried_from"] = unit.carried
    if unit.step.run is not None and unit.attempt and unit.launch:
        origin = unit.carried or run
        result["child"] = child_run(origin, unit.step.name, attempt=unit.attempt, item=unit.item)
    return result


def _approval(step: StepState) -> Document:
    asked, answer = step.asked, step.answered
    return {
        "message": asked.message if asked else "",
        "roles": list(asked.roles) if asked else [],
        "asked_at": _time(asked.at if asked else None),
        "due": _time(asked.due if asked else None),
        "answer": {Approved: "approved", ApprovalRefused: "refused"}.get(type(answer)),
        "answered_by": answer.by or None if answer else None,
        "answered_at": _time(answer.at if answer else None),
        "comment": answer.comment if answer else "",
    }


def for_git(document: Document) -> Document:
    """The document as it may be committed: logs do not belong there, so only of a failed step
    stays what it said last."""
    return {**document, **{part: [_quiet(s) for s in document[part]] for part in _PARTS}}


def _quiet(step: Document) -> Document:
    items = step.get("items")
    if items is not None:
        step = {**step, "items": {**items, "told": [_quiet(item) for item in items["told"]]}}
    if step["log"] is None or step["status"] == StepStatus.FAILED:
        return step
    return {**step, "log": {**step["log"], "tail": ""}}


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _ms(start: datetime | None, end: datetime | None) -> int | None:
    if start is None or end is None:
        return None
    return max(0, (end - start) // timedelta(milliseconds=1))


# The page for people


def markdown(document: Document) -> str:
    """The same as a Markdown page; everything that a workflow or a step wrote is escaped."""
    workflow, trigger = document["workflow"], document["trigger"]
    facts = [
        ("Status", f"**{document['status']}**" + _because(document["reason"])),
        ("Commit", f"`{document['commit']}`" if document["commit"] else "none"),
        ("Ref", escape(document["ref"])),
        (
            "Trigger",
            escape(trigger["type"] + (f" by {trigger['actor']}" if trigger["actor"] else "")),
        ),
        ("Started", document["started_at"] or "never"),
        ("Duration", duration(document["duration_ms"])),
        ("Run", f"`{document['run']}`"),
    ]
    lines = [f"# {escape(workflow['name'])}", ""]
    lines += ["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in facts), ""]
    if document["params"]:
        lines += ["| param | value |", "|---|---|"]
        lines += [f"| {escape(k)} | {escape(v)} |" for k, v in document["params"].items()]
        lines.append("")
    lines += _step_lines(document)
    for child in document.get("children", ()):
        status = f"**{child['status']}**{_because(child['reason'])}"
        took = duration(child["duration_ms"])
        lines += ["", f"# Run {child['run']}: {escape(child['workflow']['name'])}", ""]
        lines += [f"{status}, {took}" if took else status, "", *_step_lines(child)]
    if left_out := document.get("children_left_out"):
        lines += ["", f"{left_out} more child runs are not told here."]
    return "\n".join(lines) + "\n"


def _step_lines(document: Document) -> list[str]:
    """The table of a run's steps, and how the logs of failed ones end."""
    lines = ["| step | status | attempts | duration | |", "|---|---|---|---|---|"]
    steps = [*document["steps"], *document["handlers"]]
    told = [row for step in steps for row in _rows(step)]
    lines += [_table_row(name, row) for name, row in told]
    for name, row in told:
        if row["status"] == "failed" and row["log"] and row["log"]["tail"]:
            lines += ["", f"## The end of {escape(name)}", "", *fenced(row["log"]["tail"])]
    return lines


def _rows(step: Document) -> list[tuple[str, Document]]:
    """A step, and of a parallel one the items that are told, each by what people call it."""
    rows = [(step["name"], step)]
    if (items := step.get("items")) is not None:
        name = step["name"]
        rows += [(f"{name} [{i['item'] + 1}] {i['value']}", i) for i in items["told"]]
        if (more := items["total"] - len(items["told"])) > 0:
            rows[0] = (f"{name} ({more} of {items['total']} items not told)", step)
    return rows


def _table_row(name: str, row: Document) -> str:
    notes = [row["reason"]] if row["reason"] else []
    if child := row.get("child"):
        notes.append(f"run {child}")
    if origin := row.get("carried_from"):
        notes.append(f"taken over from run {origin}")
    return (
        f"| {escape(name)} | {row['status']} | {row['attempts']} "
        f"| {duration(row['duration_ms'])} | {escape('; '.join(notes))} |"
    )


def _because(reason: str) -> str:
    return f" ({escape(reason)})" if reason else ""


def duration(ms: int | None) -> str:
    """A length of time for people: `340 ms`, `12.3 s`, `4 min 5 s`, `2 h 3 min`."""
    if ms is None:
        return ""
    if ms < 1000:
        return f"{ms} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def escape(text: str) -> str:
    """Text as Markdown and HTML show it literally, on one line; control and bidirectional
    characters become visible."""
    return "".join(
        f"\\{c}" if c in "\\`*_{}[]#|~!" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(c, c)
        for c in visible(" ".join(text.splitlines()))
    )


def visible(text: str) -> str:
    """Control, bidirectional and zero-width characters as `\\u{…}`; newline and tab stay."""
    return "".join(c if _harmless(c) else f"\\u{{{ord(c):x}}}" for c in text)


def _harmless(c: str) -> bool:
    if c in "\n\t":
        return True
    code = ord(c)
    control = code < 0x20 or 0x7F <= code <= 0x9F
    hidden = 0x200B <= code <= 0x200F or 0x202A <= code <= 0x202E or 0x2060 <= code <= 0x206F
    return not (control or hidden or code in (0x61C, 0xFEFF) or 0xD800 <= code <= 0xDFFF)


def fenced(text: str) -> list[str]:
    """The lines of a code block whose fence is longer than any in the text."""
    longest = run = 0
    for c in text:
        run = run + 1 if c == "`" else 0
        longest = max(longest, run)
    fence = "`" * max(3, longest + 1)
    return [fence + "text", *visible(text).split("\n"), fence]
