"""Running what must be known before a step starts: conditions and command substitutions.

One function; its process is a group of its own, is stopped when its task is cancelled or its
time is over, and its stdout is read up to a limit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

from runner.engine.scope import Evaluated, Evaluation, ScopeError
from runner.executors import remains

EVALUATION_TIMEOUT_S = 300.0
LARGEST_RESULT = 1024 * 1024
_MARK = "DAGMILL__EVALUATION"


async def evaluate(
    wanted: Evaluation, *, cwd: Path, mark: str, timeout_s: float = EVALUATION_TIMEOUT_S
) -> Evaluated:
    """Run one evaluation. Raises ScopeError if it cannot start, takes over `timeout_s` or prints
    over 1 MiB. `mark` stands in the environment of all that it starts, so that they are found
    again if this process does not live to end them."""
    # a file and no pipe: a background child that keeps the pipe open would hold us up
    with tempfile.TemporaryFile() as out:
        try:
            process = await asyncio.create_subprocess_exec(
                *wanted.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=cwd,
                env={**wanted.env, _MARK: mark},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise ScopeError(f"{wanted.what} could not be started: {error}") from error
        try:
            async with asyncio.timeout(timeout_s):
                code = await process.wait()
        except TimeoutError as error:
            raise ScopeError(f"{wanted.what} took over {timeout_s:g} s") from error
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()  # which is at once; else it stays behind as a zombie
        size = out.seek(0, os.SEEK_END)
        if size > LARGEST_RESULT:
            raise ScopeError(f"{wanted.what} printed {size} bytes, more than {LARGEST_RESULT}")
        out.seek(0)
        text = out.read().decode(errors="replace").strip()
    return Evaluated(code, text)


def end_evaluations(mark: str) -> None:
    """Kill what is left of the evaluations of an earlier process that had this mark. Reads all of
    /proc: only for what was under way when that process died."""
    remains.kill_marked(f"{_MARK}={mark}\0".encode())
