"""What a terminal gets: no control character acts, colours of a log excepted."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.cli import terminal
from runner.cli.terminal import (
    RESET,
    LogScreen,
    ago,
    duration,
    fitting,
    print_table,
    shown,
    span,
)


def screened(log: bytes, *, size: int = 10**6) -> str:
    """A log as a terminal gets it, fed in pieces of `size` bytes."""
    screen = LogScreen()
    pieces = [log[i : i + size] for i in range(0, len(log), size)]
    return "".join(screen.feed(piece) for piece in pieces) + screen.end()


@pytest.mark.parametrize(
    ("log", "seen"),
    [
        (b"plain\r\n\ttext\n", "plain\r\n\ttext\n"),
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m" + RESET),
        (b"\x1b[1;38;5;9mbold", "\x1b[1;38;5;9mbold" + RESET),
        (b"\x1b[2Jcleared", "\\x1b[2Jcleared"),
        (b"\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        (b"\x1b[6n", "\\x1b[6n"),
        (b"\x1b[", "\\x1b["),
        (b"a\x08b\x7f", "a\\x08b\\x7f"),
        ("\u009b2J".encode(), "\\x9b2J"),
        ("a\u202eb".encode(), "a\\u202eb"),
        ("Größe 🚀".encode(), "Größe 🚀"),
        (b"\xff", "\ufffd"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 10**6])
def test_a_log_on_a_terminal_commands_nothing(log: bytes, seen: str, size: int) -> None:
    assert screened(log, size=size) == seen


@settings(deadline=None)  # a busy machine is no failure
@given(log=st.binary(max_size=60), size=st.integers(1, 8))
def test_the_pieces_of_a_log_do_not_matter(log: bytes, size: int) -> None:
    assert screened(log, size=size) == screened(log)


@settings(deadline=None)  # a busy machine is no failure
@given(log=st.text(alphabet="\x1b[0123m;JA\x07\x9b\n", max_size=40))
def test_every_escape_that_is_left_is_a_colour(log: str) -> None:
    rest = re.sub(r"\x1b\[[0-9;:]*m", "", screened(log.encode()))
    assert "\x1b" not in rest and "\x9b" not in rest and "\x07" not in rest


def test_a_name_stays_on_its_line() -> None:
    assert shown("a\nb\x1b[31m\ud800") == "a\\nb\\x1b[31m\\ud800"


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ("2026-11-20T09:29:58Z", "2.0 s ago"),
        ("2026-11-20T09:00:00Z", "30 min ago"),
        ("2026-11-20T11:30:00Z", "in 2 h"),
        ("2026-11-10T09:30:00Z", "10 d ago"),
        (None, ""),
    ],
)
def test_times_are_told_from_now(at: str | None, words: str) -> None:
    assert ago(at, now=datetime(2026, 11, 20, 9, 30, tzinfo=UTC)) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 ms"), (0.34, "340 ms"), (9.96, "10.0 s"), (59, "59 s")]
)
def test_a_time_span_has_one_unit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_run_id_stays_in_one_piece_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    run = "20261122-193853-3b9dd7e475bb"
    print_table(("run", "workflow", "status"), [(run, "a-rather-long-name" * 3, "succeeded")])
    assert run in capsys.readouterr().out


def test_a_narrow_terminal_gets_the_columns_that_matter() -> None:
    header = ("run", "status", "commit", "took", "reason")
    rows = [("r" * 28, "succeeded", "c" * 10, "12 s", "because " * 20)]
    for width, shown_columns in ((100, header), (74, ("run", "status", "took", "reason"))):
        chosen = fitting(header, rows, width=width)
        assert tuple(header[number] for number in chosen) == shown_columns
    assert [header[n] for n in fitting(header, rows, width=10)] == ["run", "status", "reason"]
    assert fitting(header, [], width=200) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.5, "0.5 s"), (90, "90 s"), (600, "10 min"), (5400, "90 min"), (7 * 86400, "7 d")],
)
def test_a_limit_is_told_exactly(seconds: float, words: str) -> None:
    assert span(seconds) == words
