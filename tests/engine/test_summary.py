"""The page of a run: what a workflow or a step wrote is shown and means nothing."""

from __future__ import annotations

import unicodedata

import pytest

from runner.engine.summary import escape, fenced, visible

BIDI = [chr(c) for c in range(0x3000) if unicodedata.bidirectional(chr(c)) in {
    "LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI",
}] + ["\u061c", "\u200e", "\u200f"]  # fmt: skip


@pytest.mark.parametrize("character", [*BIDI, "\x1b", "\x7f", "\x85", "\u200b", "\ufeff", "\ud800"])
def test_a_character_that_hides_or_turns_text_is_made_visible(character: str) -> None:
    assert visible(f"a{character}b") == f"a\\u{{{ord(character):x}}}b"


def test_ordinary_text_of_any_script_stays_as_it_is() -> None:
    text = "Grüße, שלום, سلام, 你好\tok\n"
    assert visible(text) == text


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    first, *_, last = fenced("a\n`````\nb")
    assert first == "``````text"
    assert last == "``````"


def test_a_name_is_one_line_without_markup() -> None:
    assert escape("<b>\n|x|") == "&lt;b&gt; \\|x\\|"
