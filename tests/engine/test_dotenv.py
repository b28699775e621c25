"""Files of `dotenv`: their lines are data, missing ones count as empty."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner.engine import dotenv
from runner.engine.scope import ScopeError

pytest.importorskip("dotenv", reason="needs python-dotenv: make setup")


def test_later_files_win_and_missing_ones_are_skipped(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\nB=1\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more/.env").write_text("B=2\nC=2\n")
    found = dotenv.read([".env", "gone", ".env/below", "more/.env"], folder=tmp_path)
    assert dict(found) == {"A": "1", "B": "2", "C": "2"}
    assert dotenv.read(["gone"], folder=tmp_path) == ()


def test_lines_are_read_as_everyone_writes_them_and_nothing_is_expanded(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "\ufeff# a comment\n\nexport A='x y' # why\n"
        'B="l1\\nl2 $A ${A} `date` {{.A}}"\nC=\nD=a=b#c\n'
    )
    assert dict(dotenv.read([".env"], folder=tmp_path)) == {
        "A": "x y",
        "B": "l1\nl2 $A ${A} `date` {{.A}}",
        "C": "",
        "D": "a=b#c",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\n\n\nthis is wrong\n", ".env:4: this is not NAME=value"),
        ("A\n", ".env:1: this is not NAME=value"),
        ("A='x\n", ".env:1: this is not NAME=value"),
        ("1A=x\n", ".env:1: '1A' is not a variable's name"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / ".env").write_text(text)
    with pytest.raises(ScopeError) as caught:
        dotenv.read([".env"], folder=tmp_path)
    assert str(caught.value) == message


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"A=\xff")
    (tmp_path / "large").write_text("A" * (dotenv.LARGEST_FILE + 1))
    for name, why in (("pipe", "not a regular file"), ("bytes", "UTF-8"), ("large", "larger")):
        with pytest.raises(ScopeError, match=f"dotenv file {name} .*{why}"):
            dotenv.read([name], folder=tmp_path)
