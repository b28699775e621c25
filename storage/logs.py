"""Finished log files: what a step printed, read once for its digest, and scrubbed on the way.

Blocking functions for a thread. A log lies where its step may write, so only a regular file that
is no link is read; anything else counts as missing. One rule: where a mask is given, the digest
and the tail are of the scrubbed text, and the file holds nothing else afterwards.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple

from storage.mask import Mask, MaskStream

TAIL_LINES: Final = 20
TAIL_BYTES: Final = 2048

_CHUNK: Final = 1 << 20
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_AT_ONCE: Final = 64 << 10  # up to here one read is cheaper than a buffer


class Digest(NamedTuple):
    """What a log holds. A last line without an end counts as one. `tail` is at most TAIL_LINES
    and TAIL_BYTES of valid text without its last line end; control characters are left to those
    who show it. A missing file is as an empty one."""

    size_bytes: int
    lines: int
    sha256: str
    tail: str


def digest(path: Path, *, mask: Mask | None) -> Digest:
    """Read the log through once, and scrub it where `mask` finds something.

    The scrubbed text is written beside the log and takes its name when it is whole: a crash
    leaves one or the other. Who still writes to the old file (a process that outlived its step)
    is not heard any more. Without room for that the secrets are overwritten where they stand, each
    byte with a star. Raises OSError if the log cannot be read, or its place not written.
    """
    with _opened(path) as (log, size):
        if log is None:
            return _Reading().result()
        if size <= _AT_ONCE:
            return _digest_at_once(path, log, size, mask=mask)
        if not mask:
            return _digest_in_chunks(log)
        try:
            return _scrub(path, log, mask.stream())
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
        return _scrub_in_place(path, mask.even_stream())


def read_output(path: Path, *, limit_bytes: int) -> str | None:
    """The whole text without white space around it, invalid bytes replaced; None if the file is
    larger than `limit_bytes`; "" if it is missing."""
    with _opened(path) as (log, size):
        if log is None:
            return ""
        if size > limit_bytes:
            return None
        content = _read_up_to(log, limit_bytes + 1)
    # Larger than it was: someone still writes to it.
    return None if len(content) > limit_bytes else content.decode(errors="replace").strip()


def read_range(path: Path, *, offset: int, limit: int) -> bytes:
    """At most `limit` bytes from `offset` on; b"" past the end or if the file is missing."""
    with _opened(path) as (log, _):
        return b"" if log is None else os.pread(log, limit, offset)


class _Reading:
    """The digest of a log as its bytes go by."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._lines = 0
        self._sha256 = hashlib.sha256(usedforsecurity=False)
        self._end = b""  # the last bytes, enough for the tail

    def add(self, data: bytes | bytearray | memoryview, newlines: int) -> None:
        self.size_bytes += len(data)
        self._lines += newlines
        self._sha256.update(data)
        self._end = (self._end + bytes(data[-TAIL_BYTES - 4 :]))[-TAIL_BYTES - 4 :]

    def result(self) -> Digest:
        unended = self.size_bytes > 0 and not self._end.endswith(b"\n")
        return Digest(
            size_bytes=self.size_bytes,
            lines=self._lines + unended,
            sha256=self._sha256.hexdigest(),
            tail=_tail(self._end),
        )


def _tail(end: bytes) -> str:
    """The last lines of a log that ends in `end`, which may begin within a character."""
    end = end.removesuffix(b"\n").removesuffix(b"\r")
    text = b"\n".join(end.split(b"\n")[-TAIL_LINES:]).decode(errors="replace")
    encoded = text.encode()
    # A replaced byte takes three, so this is cut as text; what is left of a character goes.
    return text if len(encoded) <= TAIL_BYTES else encoded[-TAIL_BYTES:].decode(errors="ignore")


def _digest_at_once(path: Path, log: int, size: int, *, mask: Mask | None) -> Digest:
    content = _read_up_to(log, size)
    clean = mask.raw(content) if mask else content
    if mask and clean != content:
        try:
            with _replacing(path, log) as scrubbed:
                _write_all(scrubbed, clean)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return _scrub_in_place(path, mask.even_stream())
    reading = _Reading()
    reading.add(clean, clean.count(b"\n"))
    return reading.result()


def _digest_in_chunks(log: int) -> Digest:
    reading = _Reading()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(log, [buffer]):
        reading.add(view[:count], buffer.count(b"\n", 0, count))
    return reading.result()


def _scrub(path: Path, log: int, stream: MaskStream) -> Digest:
    reading = _Reading()
    clean = _cleaned(log, stream)
    for first_changed in clean:
        if stream.replaced:
            break
        reading.add(first_changed, first_changed.count(b"\n"))
    else:
        return reading.result()
    with _replacing(path, log) as scrubbed:
        _copy(log, scrubbed, reading.size_bytes)
        for part in chain((first_changed,), clean):
            _write_all(scrubbed, part)
            reading.add(part, part.count(b"\n"))
    return reading.result()


def _scrub_in_place(path: Path, stream: MaskStream) -> Digest:
    """Nothing moves, and what was overwritten is no secret: after a crash it is done again."""
    reading = _Reading()
    log = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        for part in _cleaned(log, stream):
            place = reading.size_bytes
            if os.pread(log, len(part), place) != part:
                _overwrite(log, part, place)
            reading.add(part, part.count(b"\n"))
    finally:
        os.close(log)
    return reading.result()


def _overwrite(log: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(log, rest, offset)
        rest, offset = rest[done:], offset + done


def _cleaned(log: int, stream: MaskStream) -> Iterator[bytes]:
    while chunk := os.read(log, _CHUNK):
        yield stream.feed(chunk)
    yield stream.flush()


@contextmanager
def _replacing(path: Path, log: int) -> Iterator[int]:
    """A new file with the log's mode that takes its name at the end, or goes on an error."""
    beside = path.with_name(f"{path.name}.scrubbed")
    with suppress(FileNotFoundError):
        beside.unlink()  # of a process that died in the middle
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    scrubbed = os.open(beside, flags, stat.S_IMODE(os.fstat(log).st_mode))
    try:
        yield scrubbed
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    finally:
        os.close(scrubbed)


def _copy(source: int, target: int, count: int) -> None:
    """The first `count` bytes; the source's own position stays."""
    offset = 0
    while offset < count:
        done = os.sendfile(target, source, offset, count - offset)
        if not done:
            raise OSError("a log became shorter while it was scrubbed")
        offset += done


def _write_all(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]


def _read_up_to(log: int, most: int) -> bytes:
    content = os.read(log, most)
    while len(content) < most and (more := os.read(log, most - len(content))):
        content += more
    return content


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int | None, int]]:
    """The file's descriptor and size, or None if there is no regular file of this name."""
    # Not to wait for a writer where a step put a pipe in the log's place.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        log = os.open(path, flags)
    except OSError as error:
        if _is_no_file(path, error):
            yield None, 0
            return
        raise
    try:
        status = os.fstat(log)
        yield (log, status.st_size) if stat.S_ISREG(status.st_mode) else (None, 0)
    finally:
        os.close(log)


def _is_no_file(path: Path, error: OSError) -> bool:
    return isinstance(error, FileNotFoundError | NotADirectoryError) or path.is_symlink()
