"""Values through a whole run: a process sees each byte for byte, however it came there."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_run import run_text

from runner.language.params import ParamError

RUNS = max(3, settings().max_examples // 50)  # each takes a tenth of a second and 36 values
pytestmark = pytest.mark.timeout(60 + settings().max_examples // 5)
HOSTILE = (
    *("'", '"', "`", "$", "$(", ")", "${", "}", "\\", "\n", "\r", "\t", " ", ";", "&", "|", "<"),
    *(">", "*", "?", "~", "#", "!", "-", "--", "=", "$(reboot)", "`reboot`", "${A0}", "{{.A0}}"),
    *("\x01", "\x7f", "é", "\u2028", "\U0001f600", "$((1", "-n", "-e", "\\n", "%s", "\\"),
)
VALUES = st.lists(
    st.sampled_from(HOSTILE) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    max_size=20,
).map("".join)
NAMES = [f"A{n}" for n in range(12)]
DECLARED = "".join(f"  - {name}: default\n" for name in NAMES)
PASSED = " ".join(f"{name}=${{{name}}}" for name in NAMES)
PRINT = "printf '%s\\0' " + " ".join(f'"${{{name}}}"' for name in NAMES)
WORKFLOW = f"""\
params:
{DECLARED}type: chain
steps:
  - command: {PRINT} > from_params
  - env: [{{OWN: "${{A0}}|{{{{.A1}}}}"}}]
    command: printf '%s' "$OWN" > from_env
  - command: [sh, -c, 'printf "%s\\0" "$@" > from_words', sh, "${{A0}}", "{{{{.A1}}}}", "$A2"]
  - run: child
    params: {PASSED}
---
name: child
steps:
  - command: {PRINT} > from_parent
"""


@settings(max_examples=RUNS)
@given(values=st.lists(VALUES, min_size=len(NAMES), max_size=len(NAMES)))
async def test_what_is_given_to_a_run_arrives_in_every_process(values: list[str]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="values-"))
    try:
        given = [f"{name}={value}" for name, value in zip(NAMES, values, strict=True)]
        done = await run_text(folder, WORKFLOW, *given)
        assert done.status == "succeeded", done.document
        read = {file.name: file.read_bytes() for file in (folder / "workspace").iterdir()}
        printed = b"".join(f"{value}\0".encode() for value in values)
        assert read["from_params"] == read["from_parent"] == printed
        assert read["from_env"].decode() == f"{values[0]}|{values[1]}"
        assert read["from_words"] == b"".join(f"{value}\0".encode() for value in values[:3])
    finally:
        shutil.rmtree(folder)


BIG = """\
type: chain
maxOutputSize: 2MiB
steps:
  - name: make
    command: cat big
    output: BIG
  - name: read
    command: cat "$BIG_FILE" > copy
  - name: words
    command: [cp, "${BIG_FILE}", second]
"""


async def test_an_output_of_one_mebibyte_arrives_through_its_file(tmp_path: Path) -> None:
    value = ("$(reboot) `x` '\" \\ é\n" * 50_000).encode()[: 1024 * 1024 - 1] + b"."
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "big").write_bytes(value)
    done = await run_text(tmp_path, BIG)
    assert done.status == "succeeded", done.document
    for name in ("copy", "second"):
        copy = (tmp_path / "workspace" / name).read_bytes()
        assert hashlib.sha256(copy).digest() == hashlib.sha256(value).digest()


async def test_a_text_that_mentions_it_is_refused_with_the_file_s_name(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "big").write_bytes(b"x" * 1024 * 1024)
    done = await run_text(tmp_path, BIG + '  - {name: fails, command: echo "$BIG"}\n')
    assert done.status == "failed"
    assert "read the file $BIG_FILE" in str(done.step("fails"))


async def test_nul_never_starts_a_run(tmp_path: Path) -> None:
    with pytest.raises(ParamError, match="NUL"):
        await run_text(tmp_path, WORKFLOW, "A0=a\0b")


async def test_a_word_that_no_command_line_can_hold_names_what_made_it(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        "steps:\n"
        "  - {name: a, command: \"head -c 200000 /dev/zero | tr '\\\\0' x\", output: BIG}\n"
        '  - {name: b, command: [echo, "-$BIG"], depends: a}\n',
    )
    assert done.step("b")["reason"] == (
        "BIG makes a word of 195 KiB, more than a command line can hold; read the file $BIG_FILE"
    )


async def test_a_long_positional_fails_only_the_step_that_mentions_it(tmp_path: Path) -> None:
    text = "steps: [{name: a, command: echo fine}, {name: b, command: echo $1, depends: a}]"
    done = await run_text(tmp_path, "params: small\n" + text, "x" * 200_000)
    assert done.tail("a") == "fine"
    assert done.step("b")["reason"].startswith("1 is 195 KiB, more than an environment variable")
