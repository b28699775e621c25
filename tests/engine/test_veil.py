"""Secrets in texts that are stored."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.veil import Veil, starred


def test_a_hidden_text_has_the_name_in_the_place_of_the_value() -> None:
    veil = Veil({"TOKEN": "hunter22", "LONG": "hunter22-and-more", "PIN": "1234"})
    text = "a hunter22-and-more b hunter22 1234"
    assert veil.hide(text) == "a \0secret:LONG\0 b \0secret:TOKEN\0 1234"
    assert starred(veil.hide(text)) == "a *** b *** 1234"


def test_a_text_comes_back_with_the_value_of_now() -> None:
    kept = Veil({"TOKEN": "hunter22"}).hide("x hunter22")
    assert Veil({"TOKEN": "changed!"}).show(kept) == "x changed!"


def test_the_mark_of_a_secret_that_is_not_there_stays() -> None:
    kept = Veil({"TOKEN": "hunter22"}).hide("x hunter22")
    assert Veil({"OTHER": "hunter23"}).show(kept) == kept


def test_two_secrets_of_one_name_are_told_apart() -> None:
    above, own = Veil({"TOKEN": "of-parent"}), Veil({"TOKEN": "of-child"})
    both = own.over(above)
    text = "of-parent of-child"
    assert both.show(both.hide(text)) == text
    assert "of-" not in both.hide(text)
    assert own.hide("of-child") == both.hide("of-child")


@given(
    st.dictionaries(st.sampled_from("ABC"), st.text(st.characters(exclude_characters="\0"))),
    st.data(),
)
def test_what_was_hidden_is_shown_again(values: dict[str, str], data: st.DataObject) -> None:
    piece = st.sampled_from([*values.values(), "x", " ", "secret:", "A"])
    text = "".join(data.draw(st.lists(piece)))
    veil = Veil(values)
    hidden = veil.hide(text)
    assert veil.show(hidden) == text
