"""What counts as matching."""

from __future__ import annotations

import pytest

from runner.language.conditions import (
    MAX_CHARACTERS,
    contains,
    line_matches,
    matches,
    pattern_problem,
)


@pytest.mark.parametrize(
    ("expected", "text", "holds"),
    [
        ("yes", "yes", True),
        ("yes", "yes\n", True),
        ("yes", "no\r\nyes\r\n", True),
        ("yes", "yes ", False),
        ("yes", "eyes", False),
        ("", "", True),
        ("", "a\n", False),
        ("", "a\n\nb", True),
        ("re:staging|production", "on staging", True),
        ("re:^staging$", "x\nstaging\n", True),
        ("re:^$", "x", False),
        (r"re:0\.[89]\d+", "0.85", True),
        (r"re:0\.[89]\d+", "0.75", False),
        ("re:a.b", "a\nb", False),
        ("re:é", "café", True),
        ("re:x", "\ud800x", True),
    ],
)
def test_some_line_must_be_what_is_expected(expected: str, text: str, holds: bool) -> None:
    assert line_matches(expected, text) is holds


@pytest.mark.parametrize(
    ("pattern", "text", "holds"),
    [
        ("no rows", "found no rows\n", True),
        ("no rows", "found rows", False),
        ("re:no .* rows", "found no new rows", True),
        ("re:^b", "a\nb", False),
        ("re:(?m)^b", "a\nb", True),
    ],
)
def test_an_output_contains_a_text_or_a_match(pattern: str, text: str, holds: bool) -> None:
    assert contains(pattern, text) is holds


def test_a_plain_text_matches_only_itself() -> None:
    assert matches("a", "a")
    assert not matches("a", "aa")


def test_no_more_than_a_mebibyte_is_searched() -> None:
    text = "a" * MAX_CHARACTERS + "b"
    assert not contains("re:b", text)
    assert contains("re:a", text)


def test_a_pattern_that_would_freeze_a_backtracking_engine_does_not() -> None:
    assert not matches("re:(a+)+$", "a" * 100_000 + "!")


@pytest.mark.parametrize("pattern", ["re:(a", "re:[", "re:*a", r"re:(a)\1", "re:a(?=b)"])
def test_patterns_that_re2_refuses_have_a_problem(
    pattern: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert pattern_problem(pattern)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("text", ["(a", "re:(a)", "", "re:"])
def test_other_texts_have_none(text: str) -> None:
    assert pattern_problem(text) is None
