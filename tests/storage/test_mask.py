"""Secrets do not get through, in whatever form and however the output is cut into chunks."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable, Iterable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.mask import Mask, is_secret_name

SECRET = "pa/ss+wörd&<1>"
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\r\n  abcd\nend\n-----END KEY-----\n"


def streamed(mask: Mask, chunks: Iterable[bytes]) -> bytes:
    stream = mask.stream()
    return b"".join([*map(stream.feed, chunks), stream.flush()])


# Text


def test_every_occurrence_of_every_value_is_replaced() -> None:
    mask = Mask(["alpha-1", "beta-22"])
    assert mask.text("alpha-1 and beta-22, alpha-1alpha-1") == "*** and ***, ******"


def test_text_without_a_secret_comes_back_as_it_was() -> None:
    assert Mask([SECRET]).text("nothing here\n") == "nothing here\n"


def test_the_longest_match_goes_first() -> None:
    assert Mask(["token", "token-and-more"]).text("token-and-more, token-and") == "***, ***-and"


def test_values_of_under_five_characters_and_blank_ones_are_ignored() -> None:
    mask = Mask(["", "a", "true", "        ", "\n\n\n\n\n\n"])
    assert not mask
    assert mask.text("a true        ") == "a true        "
    assert mask.raw(b"a true") == b"a true"
    assert streamed(mask, [b"a tr", b"ue"]) == b"a true"


def test_a_mask_is_true_once_it_has_a_value() -> None:
    empty = Mask()
    more = empty.plus(["secret-1"]).plus(["secret-2"])
    assert not empty
    assert more
    assert more.text("secret-1 secret-2") == "*** ***"
    assert empty.text("secret-1") == "secret-1"


def test_a_value_is_no_pattern_and_the_stars_are_no_template() -> None:
    assert Mask([r"a.*(b)+\1"]).text(r"aXXb a.*(b)+\1") == "aXXb ***"


def test_a_value_with_a_line_end_is_found_without_it() -> None:
    assert Mask(["from-a-file\n"]).text("Bearer from-a-file;") == "Bearer ***;"


def test_the_lines_of_a_value_are_secret_by_themselves() -> None:
    mask = Mask([PEM])
    assert mask.text(f"key:\n{PEM}") == "key:\n***"
    assert mask.text("> MIIEvQIBADANBgkq <") == "> *** <"
    assert mask.text("> hkiG9w0BAQEFAASC <") == "> *** <"
    assert mask.text("abcd end") == "abcd end"


# Encoded


@pytest.mark.parametrize("before", ["", "u", "u:", "us:", "user:", "x" * 57])
@pytest.mark.parametrize("after", ["", "\n", "::", "!!!"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_hides_the_value_wherever_it_stands_in_the_text(
    before: str, after: str, encode: Callable[[bytes], bytes]
) -> None:
    value = "correct?horse>battery/staple"
    encoded = encode(f"{before}{value}{after}".encode()).decode()
    masked = Mask([value]).text(encoded)
    assert "***" in masked
    # What is left says nothing but what stood before and after it.
    assert len(masked.replace("***", "")) <= len(encoded) - len(value) * 4 // 3 + 4


def test_base64_without_its_padding_is_masked() -> None:
    encoded = base64.b64encode(b"12345678").decode().rstrip("=")
    assert Mask(["12345678"]).text(f"<{encoded}>") == "<***>"


@pytest.mark.parametrize("width", [64, 76])
def test_base64_over_several_lines_is_masked(width: int) -> None:
    value = "".join(chr(33 + n % 90) for n in range(200))
    wrapped = subprocess.run(
        ["base64", "-w", str(width)], input=value, capture_output=True, text=True, check=True
    ).stdout
    assert set(Mask([value]).text(wrapped)) == {"*", "\n"}


@pytest.mark.parametrize(
    "encoded",
    [
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        "pa%2fss%2bw%c3%b6rd%26%3c1%3e",
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", "\\/"),
        "pa/ss+wörd\\u0026\\u003c1\\u003e",
    ],
)
def test_what_encoding_leaves_is_no_longer_the_secret(encoded: str) -> None:
    masked = Mask([SECRET]).text(f"x={encoded};")
    assert "ss" not in masked
    assert "rd" not in masked


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("two words & <more>", "two words \\u0026 \\u003cmore\\u003e"),
        ("two words", "two\\u0020words"),
        ("two words", "two%20words"),
        ("two words", "two+words"),
        ("line 1\nline 2", "line 1\\nline 2"),
        ('say "hello"', 'say \\"hello\\"'),
        ("ünï/côdé", "%c3%bcn%c3%af%2fc%c3%b4d%c3%a9"),
        ("it's (1)!", "it's%20(1)!"),
    ],
)
def test_url_and_json_encodings_are_masked_whole(value: str, written: str) -> None:
    assert Mask([value]).text(f"[{written}]") == "[***]"
    assert Mask([value]).raw(f"[{written}]".encode()) == b"[***]"


def test_a_value_of_foreign_bytes_is_found_in_bytes_and_in_text() -> None:
    foreign = b"caf\xe9-secret"
    value = foreign.decode(errors="surrogateescape")
    mask = Mask([value, "lone-\ud800-surrogate"])
    assert mask.raw(b"<" + foreign + b">") == b"<***>"
    assert mask.text(f"<{value}>") == "<***>"
    assert mask.text("lone-\ud800-surrogate") == "***"


# JSON-able values


def test_json_values_are_masked_at_every_depth_keys_and_numbers_too() -> None:
    mask = Mask(["hunter22", "1234567"])
    value = {
        "a hunter22": ["x", ("hunter22", {"k": "say hunter22"})],
        "number": 1234567,
        "other": [1, 2.5, True, None],
    }
    assert mask.json(value) == {
        "a ***": ["x", ["***", {"k": "say ***"}]],
        "number": "***",
        "other": [1, 2.5, True, None],
    }


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="bytes"):
        Mask(["hunter22"]).json([b"hunter22"])


# Streams


def test_a_stream_holds_back_only_what_may_become_a_secret() -> None:
    stream = Mask(["secret-value"]).stream()
    assert stream.feed(b"progress 10%\r") == b"progress 10%\r"
    assert stream.feed(b"now: sec") == b"now: "
    assert stream.feed(b"ond; secret-val") == b"second; "
    assert stream.feed(b"ue.") == b"***."
    assert stream.feed(b"se") == b""
    assert stream.flush() == b"se"
    assert stream.flush() == b""
    assert stream.replaced == 1


def test_a_stream_waits_for_the_longer_of_two_values() -> None:
    stream = Mask(["token", "token-and-more"]).stream()
    assert stream.feed(b"token") == b""
    assert stream.feed(b"-and-less") == b"***-and-less"
    assert stream.feed(b"token") + stream.feed(b"-and-more") == b"***"
    assert stream.replaced == 2


# Few letters, so that values overlap each other and themselves.
values = st.lists(st.text("ab-", min_size=5, max_size=9), min_size=1, max_size=4)


@st.composite
def chunked(draw: st.DrawFn) -> tuple[list[str], list[bytes]]:
    """Values, and a text that holds some of them, cut anywhere."""
    secrets = draw(values)
    pieces = st.sampled_from(secrets) | st.text("ab-%\n", max_size=6)
    text = "".join(draw(st.lists(pieces, max_size=8))).encode()
    cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    ends = [*cuts, len(text)]
    starts = [0, *cuts]
    return secrets, [text[a:b] for a, b in zip(starts, ends, strict=True)]


@given(chunked())
def test_no_chunking_leaks_a_secret_or_changes_the_result(
    case: tuple[list[str], list[bytes]],
) -> None:
    secrets, chunks = case
    mask = Mask(secrets)
    result = streamed(mask, chunks)
    assert result == mask.raw(b"".join(chunks))
    assert not [secret for secret in secrets if secret.encode() in result]


@given(values, st.text("ab-%\n", max_size=40), st.integers(1, 5))
def test_chunks_of_one_size_give_the_same_text(secrets: list[str], text: str, size: int) -> None:
    mask = Mask(secrets)
    data = text.encode()
    chunks = [data[place : place + size] for place in range(0, len(data), size)]
    assert streamed(mask, chunks).decode() == mask.text(text)


@given(
    st.text(st.characters(exclude_characters="*", exclude_categories=["Cs"]), min_size=5),
    st.text(max_size=10),
    st.text(max_size=10),
)
def test_any_value_is_gone_from_any_text(value: str, before: str, after: str) -> None:
    mask = Mask([value])
    if mask:
        masked = mask.text(f"{before}{value}{after}")
        assert value not in masked
        assert streamed(mask, [f"{before}{value}{after}".encode()]).decode() == masked


@given(st.binary(min_size=5, max_size=60), st.binary(max_size=9), st.binary(max_size=9))
def test_base64_of_any_bytes_around_any_value_is_masked(
    raw: bytes, before: bytes, after: bytes
) -> None:
    value = raw.decode(errors="surrogateescape")
    mask = Mask([value])
    if mask:
        # Where the end of the value shares a character with what follows, that one may stay.
        inside = base64.b64encode(before + raw + after)
        assert b"***" in mask.raw(inside)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "SECRET",
        "my_secret",
        "GITHUB_TOKEN",
        "TOKEN_2",
        "Db_Password",
        "PASSWD",
        "AWS_CREDENTIALS",
        "CREDENTIAL_FILE",
        "OPENAI_API_KEY",
        "APIKEY_API_KEY",
        "AWS_ACCESS_KEY",
        "deploy_private_key",
    ],
)
def test_names_that_say_secret(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "SECRETARY", "TOKENS", "TOKENIZER", "KEY", "API_KEY_ID", "PUBLIC_KEY", "PASS", "DATE"],
)
def test_names_that_do_not(name: str) -> None:
    assert not is_secret_name(name)
