"""Finished logs: digests, tails and scrubbing, of small files and of ones longer than a chunk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage import logs
from storage.logs import Digest, digest, read_output, read_range
from storage.mask import Mask

NOTHING = Digest(0, 0, hashlib.sha256().hexdigest(), "")
MASK = Mask(["hunter22-secret"])
CHUNK = 1 << 20


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "out"


def expected(content: bytes, *, tail: str) -> Digest:
    lines = content.count(b"\n") + (content != b"" and not content.endswith(b"\n"))
    return Digest(len(content), lines, hashlib.sha256(content).hexdigest(), tail)


# Digests and tails


@pytest.mark.parametrize(
    ("content", "lines", "tail"),
    [
        (b"", 0, ""),
        (b"\n", 1, ""),
        (b"one", 1, "one"),
        (b"one\ntwo\n", 2, "one\ntwo"),
        (b"one\ntwo", 2, "one\ntwo"),
        (b"one\r\ntwo\r\n", 2, "one\r\ntwo"),
        (b"\x1b[31mred\x00\x07\n", 1, "\x1b[31mred\x00\x07"),
        (b"caf\xe9 \xff\n", 1, "caf\ufffd \ufffd"),
    ],
)
@pytest.mark.parametrize("mask", [None, Mask(), MASK], ids=["none", "empty", "mask"])
def test_a_digest_counts_hashes_and_keeps_the_end(
    log: Path, content: bytes, lines: int, tail: str, mask: Mask | None
) -> None:
    log.write_bytes(content)
    assert digest(log, mask=mask) == (
        len(content),
        lines,
        hashlib.sha256(content).hexdigest(),
        tail,
    )
    assert log.read_bytes() == content


def test_the_tail_is_the_last_twenty_lines(log: Path) -> None:
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    assert digest(log, mask=None).tail.split("\n") == [f"line {n}" for n in range(80, 100)]


def test_the_tail_of_one_long_line_is_its_end(log: Path) -> None:
    log.write_text("start" + "x" * 5000 + "end\n")
    tail = digest(log, mask=None).tail
    assert len(tail) == logs.TAIL_BYTES
    assert tail.endswith("xend")


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_a_tail_is_valid_text_of_at_most_2_kib(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, padding: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.log"
    path.write_bytes("é€😀".encode() * (padding // 9) + content)
    tail = digest(path, mask=None).tail
    assert len(tail.encode()) <= logs.TAIL_BYTES
    assert tail.count("\n") < logs.TAIL_LINES


@pytest.mark.parametrize("size", [64 << 10, (64 << 10) + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 12345])
@pytest.mark.parametrize("mask", [None, MASK], ids=["none", "mask"])
def test_large_logs_are_digested_as_small_ones(log: Path, size: int, mask: Mask | None) -> None:
    content = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    log.write_bytes(content)
    ends = content.removesuffix(b"\n").split(b"\n")[-20:]
    assert digest(log, mask=mask) == expected(content, tail=b"\n".join(ends).decode())


def test_a_missing_log_is_an_empty_one(log: Path) -> None:
    assert digest(log, mask=MASK) == NOTHING
    assert digest(log / "below", mask=None) == NOTHING
    assert read_output(log, limit_bytes=10) == ""
    assert read_range(log, offset=0, limit=10) == b""


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("not the step's")
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(elsewhere)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path):
        assert digest(path, mask=MASK) == NOTHING
        assert read_output(path, limit_bytes=100) == ""
        assert read_range(path, offset=0, limit=100) == b""


# Scrubbing


@pytest.mark.parametrize("before", [0, 10, 64 << 10, CHUNK - 20, CHUNK - 7, CHUNK, 2 * CHUNK - 3])
@pytest.mark.parametrize("after", [0, 10, CHUNK])
def test_a_secret_is_scrubbed_wherever_it_stands(log: Path, before: int, after: int) -> None:
    log.write_bytes(b"." * before + b"hunter22-secret" + b"." * after)
    log.chmod(0o640)
    clean = b"." * before + b"***" + b"." * after
    found = digest(log, mask=MASK)
    assert log.read_bytes() == clean
    assert found == expected(clean, tail=clean[-logs.TAIL_BYTES :].decode())
    assert log.stat().st_mode & 0o777 == 0o640
    assert os.listdir(log.parent) == [log.name]  # noqa: PTH208 (names only)
    assert digest(log, mask=None) == found


def test_many_secrets_over_many_chunks_are_scrubbed(log: Path) -> None:
    line = b"user=ann password=hunter22-secret ok\n"
    log.write_bytes(line * 60_000)
    assert digest(log, mask=MASK).lines == 60_000
    assert log.read_bytes() == line.replace(b"hunter22-secret", b"***") * 60_000


@pytest.mark.parametrize("size", [100, 2 * CHUNK])
def test_a_log_without_a_secret_is_not_rewritten(log: Path, size: int) -> None:
    log.write_bytes(b"hunter2 " * (size // 8))
    before = log.stat()
    digest(log, mask=MASK)
    after = log.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_a_crash_left_of_an_earlier_scrubbing_is_replaced(log: Path) -> None:
    log.write_bytes(b"hunter22-secret\n")
    log.with_name("out.scrubbed").write_text("half of")
    assert digest(log, mask=MASK).tail == "***"
    assert log.read_bytes() == b"***\n"
    assert not log.with_name("out.scrubbed").exists()


def test_a_scrubbing_that_fails_leaves_the_log_and_nothing_else(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * CHUNK + b"hunter22-secret" + b"x" * CHUNK
    log.write_bytes(content)

    def full(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="Input/output"):
        digest(log, mask=MASK)
    monkeypatch.undo()
    assert log.read_bytes() == content
    assert not log.with_name("out.scrubbed").exists()


# Outputs and ranges


@pytest.mark.parametrize(
    ("content", "limit", "output"),
    [
        (b"", 0, ""),
        (b"  value\n\n", 9, "value"),
        (b"value\n", 5, None),
        (b"a b\n c \n", 100, "a b\n c"),
        (b"\xff!\n", 100, "\ufffd!"),
        (b"x" * 3_000_000, 3_000_000, "x" * 3_000_000),
    ],
)
def test_an_output_is_trimmed_text_or_nothing_where_it_is_too_large(
    log: Path, content: bytes, limit: int, output: str | None
) -> None:
    log.write_bytes(content)
    assert read_output(log, limit_bytes=limit) == output


def test_a_range_ends_where_the_log_does(log: Path) -> None:
    log.write_bytes(b"0123456789")
    assert read_range(log, offset=2, limit=3) == b"234"
    assert read_range(log, offset=8, limit=100) == b"89"
    assert read_range(log, offset=10, limit=100) == b""
    assert read_range(log, offset=99, limit=1) == b""


@pytest.mark.parametrize("before", [0, CHUNK - 7, 3 * CHUNK])
def test_without_room_for_a_copy_secrets_are_overwritten_where_they_stand(
    log: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    log.write_bytes(b"x" * before + b"hunter22-secret" + b"y\n" * 9)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(os, "sendfile", full)
    found = digest(log, mask=MASK)
    there = log.read_bytes()
    assert there == b"x" * before + b"*" * 15 + b"y\n" * 9
    assert found.sha256 == hashlib.sha256(there).hexdigest()
    assert (found.size_bytes, found.lines) == (len(there), 9)
    assert [path.name for path in log.parent.iterdir()] == [log.name]
