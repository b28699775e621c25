"""Sees the moment at which a step runs.

The step writes a line into a FIFO with the shell's own echo, so that no further program stands
between its process and its mark; a process of the witness's own notes the time of each line on
the clock that all processes share. So a mark is at least as late as "the process exists".
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_WATCH = """\
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR)
os.write(1, b"0 ready\\n")
rest = b""
while True:
    rest += os.read(fd, 65536)
    at = time.monotonic_ns()
    *lines, rest = rest.split(b"\\n")
    os.write(1, b"".join(b"%d %s\\n" % (at, line) for line in lines))
"""


class Witness:
    """Made by `witness`. A word is what a step wrote: one line without blanks at its ends."""

    def __init__(self, fifo: Path, marks: int) -> None:
        self._fifo = fifo
        self._marks = marks
        self._rest = b""
        self._seen: dict[str, float] = {}

    def command(self, word: str) -> str:
        """The shell command that marks the moment; `word` may hold the step's variables."""
        return f"echo {word} >{self._fifo}"

    def wait(self, word: str, *, timeout_s: float = 30) -> float:
        """When `word` was written, in seconds of `time.monotonic`. Blocks; AssertionError if it
        is not written in time."""
        ends = time.monotonic() + timeout_s
        while word not in self._seen:
            ready, _, _ = select.select([self._marks], [], [], max(0.0, ends - time.monotonic()))
            assert ready, f"no step wrote {word!r} within {timeout_s:g} s"
            self._read()
        return self._seen.pop(word)

    def _read(self) -> None:
        *lines, self._rest = (self._rest + os.read(self._marks, 65536)).split(b"\n")
        for line in lines:
            at, _, word = line.decode().partition(" ")
            self._seen[word] = int(at) / 1e9


@contextmanager
def witness(folder: Path) -> Iterator[Witness]:
    """`folder` exists; the FIFO in it has a name of its own."""
    fifo = folder / "marks"
    os.mkfifo(fifo)
    watching = subprocess.Popen(
        [sys.executable, "-S", "-c", _WATCH, str(fifo)], stdout=subprocess.PIPE
    )
    assert watching.stdout is not None
    try:
        found = Witness(fifo, watching.stdout.fileno())
        found.wait("ready")
        yield found
    finally:
        watching.kill()
        watching.communicate()
        fifo.unlink()
