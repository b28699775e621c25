"""A step's log as a stream of bytes: what is there, and, if followed, what comes.

Knows files that only grow, and the facts that say when one is complete. The step writes its
file itself, so growth is found by looking; the end is found by a fact of the run. One rule: a
stream ends at once when the service stops or the reader goes away.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runner.engine import journal, log_files
from runner.engine.events import Cancelled, Ended, Event, Finished, Skipped
from storage.mask import Mask, MaskStream
from webhook.doors import Doors

CHUNK_BYTES = 64 * 1024
LOOK_S = 0.2  # how late a follower may see new output


@dataclass(frozen=True, slots=True)
class Attempt:
    """Where an attempt of a step or item stands. `number` None: none was launched yet."""

    number: int | None
    over: bool  # its log does not grow any more


def attempt_of(
    events: Sequence[Event], step: str, *, item: int | None = None, number: int | None
) -> Attempt:
    """The attempt `number` of `step`, or of an item of it, or the newest one."""
    unit = (step, item)
    run_over = any(isinstance(e, Finished) for e in events)
    if number is None:
        launched = log_files.newest_launch(events, step, item=item)
        number = launched.attempt if launched is not None else None
    if number is None and (carried := log_files.carried_result(events, step, item=item)):
        return Attempt(carried.attempt or None, over=True)
    if number is None:
        never = any(_ended(e) == unit or _passed_over(e) == step for e in events)
        return Attempt(None, over=run_over or never)
    ended = any(_ended(e) == unit and _attempt(e) == number for e in events)
    return Attempt(number, over=run_over or ended)


def _ended(event: Event) -> tuple[str, int | None] | None:
    return (event.step, event.item) if isinstance(event, Ended) else None


def _attempt(event: Event) -> int | None:
    return event.attempt if isinstance(event, Ended) else None


def _passed_over(event: Event) -> str | None:
    return event.step if isinstance(event, Skipped | Cancelled) else None


async def events_of(doors: Doors, run: str) -> list[Event]:
    return [journal.event(record) for record in await doors.store.events(run)]


async def read(
    doors: Doors, run: str, *, paths: Sequence[Path], offset: int
) -> AsyncIterator[bytes]:
    """The masked log from `offset` to its present end. Where stdout and stderr are two files, they
    come one behind the other, and `offset` counts through both."""
    for path in paths:
        size = await asyncio.to_thread(_size, path)
        if offset >= size:
            offset -= size
            continue
        log = _Log(offset)
        offset = 0
        try:
            async for piece in log.grown(path, mask=doors.mask(run)):
                yield piece
            yield log.rest()
        finally:
            log.close()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0  # not created yet, or cleaned away


async def follow(
    doors: Doors,
    run: str,
    *,
    step: str,
    item: int | None = None,
    attempt: int | None,
    offset: int,
) -> AsyncIterator[bytes]:
    """Like `read`, and on until the attempt is over; waits for it where it was not launched.

    Two files are followed side by side; `offset` counts in the first.
    """
    changed = asyncio.Event()
    stop_listening = doors.store.listen(f"run:{run}", changed.set)
    files: list[tuple[Path, _Log]] = []
    try:
        while not doors.closing.is_set():
            changed.clear()
            # Asked before the file is read: what was written before the end is then read too.
            events = await events_of(doors, run)
            now = attempt_of(events, step, item=item, number=attempt)
            attempt = now.number
            if not files and attempt is not None:
                paths = await doors.log_paths(run, step, attempt, item)
                files = [(path, _Log(0 if i else offset)) for i, path in enumerate(paths)]
            while True:
                for path, log in files:
                    async for piece in log.grown(path, mask=doors.mask(run)):
                        yield piece
                if now.over:
                    for _, log in files:
                        yield log.rest()
                    return
                if await _woken(changed, doors.closing):
                    break
    finally:
        stop_listening()
        for _, log in files:
            log.close()


class _Log:
    """One log, read once from `offset` on, masked on its way.

    The file stays open: when a step ends, its log is scrubbed into a new file of another length
    that takes the name, and a reader in the middle must go on in the old one.
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._file: BinaryIO | None = None
        self._mask = Mask()
        self._stream: MaskStream | None = None

    async def grown(self, path: Path, *, mask: Mask) -> AsyncIterator[bytes]:
        """What was written since the last call. A file that is not there has no bytes."""
        if mask is not self._mask:
            yield self.rest()
            self._mask, self._stream = mask, mask.stream() if mask else None
        while chunk := await asyncio.to_thread(self._read, path):
            if masked := self._stream.feed(chunk) if self._stream else chunk:
                yield masked

    def rest(self) -> bytes:
        """What was held back because it might have become a secret."""
        return self._stream.flush() if self._stream else b""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _read(self, path: Path) -> bytes:
        if self._file is None:
            try:
                self._file = _opened(path)
            except OSError:
                return b""  # not created yet, cleaned away, or no file
            self._file.seek(self._offset)
        return self._file.read(CHUNK_BYTES)


def _opened(path: Path) -> BinaryIO:
    """Open a log. Raises OSError where a step put a pipe or a link in its place."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(handle, "rb")


async def _woken(changed: asyncio.Event, closing: asyncio.Event) -> bool:
    """Wait until there is reason to look; True if it is a fact and not only time."""
    waiting = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(closing.wait())]
    try:
        await asyncio.wait(waiting, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in waiting:
            future.cancel()
    return changed.is_set() or closing.is_set()
