"""What an attempt left in its launch folder: its log, and the values that it passes on.

Reads files that a step wrote and may have made anything of; what is wrong with them is said and
never raised. Leaves what follows from it to the supervisor and the plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from runner.engine import stream_files, workspace
from runner.engine.events import LogDigest
from runner.executors.base import Task
from runner.language import conditions
from runner.language.model import Step
from runner.language.params import LONGEST_NAME, NAME
from storage import logs
from storage.mask import Mask, is_secret_name

QUICK_BYTES = 256 * 1024
_TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an attempt left behind: its log, the values it passes on, or what is wrong with them."""

    log: LogDigest
    outputs: tuple[tuple[str, str], ...] = ()
    error: str = ""
    matched: bool = False


def reads_quickly(task: Task) -> bool:
    """Whether reading what the attempt left takes no noticeable time, not even for a lock."""
    if task.stdout is not None or task.stderr is not None:
        return False
    return _size(task.folder / "out") + _size(task.folder / "err") < QUICK_BYTES


def _size(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


def read(
    task: Task, step: Step, *, limit_bytes: int, mask: Mask, result: str | None = None
) -> Finding:
    """An ended attempt's log, scrubbed, and its outputs, each at most `limit_bytes`. `result`
    stands for stdout where that is not in the log. Copies for `stdout` and `stderr` are made before
    anything is scrubbed; not to be called twice at once for a run that has such steps."""
    out, err = task.folder / "out", task.folder / "err"
    try:
        problem = stream_files.put(task, result if step.run is None else result or "")
        if result is not None and task.separate_streams:  # something may want to read it
            workspace.write(task.folder / "result", f"{result}\n")
        taken = _kept(task) if _takes(step) else None
        if taken is None:
            taken = _taken(task, step, limit_bytes=limit_bytes, result=result)
        mask = mask.plus([v for k, v in taken.outputs if is_secret_name(k)])
        if mask and _takes(step):
            # whoever has to read it again finds the log scrubbed
            workspace.write(task.folder / _TAKEN, json.dumps(taken))
        digest = _digest(out, err if task.separate_streams else None, mask)
    except OSError as failure:
        empty = LogDigest(0, 0, hashlib.sha256().hexdigest(), "")
        return Finding(empty, error=f"the log could not be read: {failure}")
    return Finding(digest, taken.outputs, problem or taken.error, taken.matched)


class _Taken(NamedTuple):
    """What is taken from a log before it is scrubbed."""

    outputs: tuple[tuple[str, str], ...]
    error: str
    matched: bool


def _takes(step: Step) -> bool:
    """Whether something is taken from the log itself."""
    return step.output is not None or bool(step.continue_on.output)


def _taken(task: Task, step: Step, *, limit_bytes: int, result: str | None) -> _Taken:
    outputs: list[tuple[str, str]] = []
    error = ""
    if step.output is not None:
        if step.run is None:
            value = logs.read_output(task.folder / "out", limit_bytes=limit_bytes)
        else:
            value = None if len((result or "").encode()) > limit_bytes else result or ""
        outputs, error = _output(step.output, value, limit_bytes=limit_bytes)
    listed, problem = _listed_outputs(task.folder / "outputs", limit=limit_bytes)
    matched = any(
        conditions.contains(p, text)
        for p in step.continue_on.output
        for text in (_text(task.folder / "out"), _text(task.folder / "err"), result or "")
    )
    return _Taken((*outputs, *listed), error or problem, matched)


def _kept(task: Task) -> _Taken | None:
    """What was taken by an earlier reading, which may have scrubbed the log."""
    file = task.folder / _TAKEN
    try:
        text = logs.read_range(file, offset=0, limit=file.lstat().st_size)
    except FileNotFoundError:
        return None
    try:
        outputs, error, matched = json.loads(text)
        pairs = tuple((str(name), str(value)) for name, value in outputs)
    except (ValueError, TypeError):
        return None  # no file of ours
    return None if _unfit(pairs) else _Taken(pairs, str(error), bool(matched))


def _output(name: str, value: str | None, *, limit_bytes: int) -> tuple[list[tuple[str, str]], str]:
    """`value` None: it is too large."""
    if value is None:
        return [], f"output {name} is larger than maxOutputSize ({limit_bytes} bytes)"
    if "\0" in value:
        return [], f"output {name} holds a NUL byte, which no variable can hold"
    return [(name, value)], ""


def _digest(out: Path, err: Path | None, mask: Mask) -> LogDigest:
    size, lines, sha256, tail = logs.digest(out, mask=mask)
    if err is None or not (err_size := err.stat().st_size if err.exists() else 0):
        return LogDigest(size, lines, sha256, tail)
    _, err_lines, err_sha256, err_tail = logs.digest(err, mask=mask)
    both = hashlib.sha256(f"{sha256}{err_sha256}".encode()).hexdigest()
    joined = "\n".join(t for t in (tail, err_tail) if t)
    return LogDigest(size + err_size, lines + err_lines, both, joined[-2048:])


def _text(path: Path) -> str:
    """At most the first MiB of a stream."""
    return logs.read_range(path, offset=0, limit=1024 * 1024).decode(errors="replace")


def _members(text: str) -> list[tuple[str, str]]:
    """The members of a JSON object as texts: a number as it stands there, the rest compact."""
    found, as_written = json.loads(text), json.loads(text, parse_float=str, parse_int=str)
    pairs = []
    for name, value in found.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = as_written[name]
        if not isinstance(value, str):
            value = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
        pairs.append((name, value))
    return pairs


def _listed_outputs(path: Path, *, limit: int) -> tuple[list[tuple[str, str]], str]:
    """What a step wrote to DAG_RUN_OUTPUT_FILE: `NAME=value` lines or one JSON object."""
    text = logs.read_output(path, limit_bytes=limit)
    if text is None:
        return [], f"DAG_RUN_OUTPUT_FILE is larger than maxOutputSize ({limit} bytes)"
    pairs: list[tuple[str, str]] = []
    if text.startswith("{"):
        try:
            pairs = _members(text)
        except (ValueError, RecursionError) as error:
            return [], f"DAG_RUN_OUTPUT_FILE is not valid JSON: {error}"
        # an escape such as \ud83d without its other half is JSON, but no text
        pairs = [(k, v.encode(errors="replace").decode()) for k, v in pairs]
    else:
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            name, equals, value = line.partition("=")
            if not equals:
                return [], f"DAG_RUN_OUTPUT_FILE, line {number}: expected NAME=value"
            pairs.append((name.strip(), value.removesuffix("\r")))
    problem = _unfit(pairs)
    return ([], f"DAG_RUN_OUTPUT_FILE: {problem}") if problem else (pairs, "")


def _unfit(pairs: Iterable[tuple[str, str]]) -> str:
    """Why a pair cannot be a variable; "" if all can."""
    for name, value in pairs:
        if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
            return f"{name[:40]!r} is not a variable's name"
        if "\0" in value:
            return f"{name} holds a NUL byte"
    return ""
