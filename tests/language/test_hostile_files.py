"""Files made to hurt: they end in a problem, in little time and memory."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.language.load import MAX_BYTES, MAX_PROBLEMS, load


def bomb(first: str, item: str) -> str:
    lines = [first]
    for n in range(1, 12):
        parts = ", ".join([f"*a{n - 1}"] * 9)
        lines.append(f"a{n}: &a{n} " + item.replace("PARTS", parts))
    return "\n".join(lines)


HOSTILE = {
    "nested lists": "[" * 200_000,
    "nested maps": "{" * 200_000,
    "nested maps with keys": "{a: " * 100_000,
    "nested block lists": "- " * 200_000,
    "nested keys": "? " * 200_000,
    "alias bomb": bomb("a0: &a0 [x]", "[PARTS]"),
    "merge bomb": bomb("a0: &a0 {x: 1}", "{<<: [PARTS]}"),
    "nested merge bomb": bomb("a0: &a0 {x: 1}", "{<<: [PARTS], y: *a0}"),
    "alias to itself": "a: &a [*a]",
    "many values": "a: [" + "x," * 60_000 + "]",
    "many documents": "---\na\n" * 60_000,
    "unclosed quote": 'a: "' + "\n" * 500_000,
    "long line": "a: " + "x" * 1_000_000,
    "too large": "#" * (MAX_BYTES + 1),
    "many unknown keys": "".join(f"key{n}: 1\n" for n in range(20_000)),
    "many bad steps": "steps:\n" + "".join(f"  - foo{n}: 1\n" for n in range(6_000)),
    "many unknown dependencies": "steps:\n"
    + "".join(f"  - {{command: x, depends: [y{n}]}}\n" for n in range(6_000)),
    "long cycle": "steps:\n"
    + "".join(
        f"  - {{name: s{n}, command: x, depends: s{(n + 1) % 2000}}}\n" for n in range(2_000)
    ),
    "patterns": "steps: [{command: x, continueOn: {output: 're:" + "(" * 100_000 + "'}}]",
    "schedule": "schedule: '" + "*/5," * 100_000 + "'",
    "number": "steps: [{command: x, timeoutSec: " + "9" * 100_000 + "}]",
    "integer": "steps: [{command: x, continueOn: {exitCode: " + "9" * 100_000 + "}}]",
    "many schedules": "steps: [{command: x}]\nschedule: ["
    + "'TZ=Foo/Bar 0 0 30 2 *', " * 15_000
    + "]",
    "surrogate": 'name: "\\ud800"',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)  # the slowest takes 2 s; the naive ways take minutes or the process
def test_a_hostile_file_ends_in_problems(name: str) -> None:
    result = load(HOSTILE[name].encode(), path="f", id="f")
    assert result.workflow is None
    assert 1 <= len(result.problems) <= MAX_PROBLEMS + 1
    assert all(len(p.message) < 1_000 and p.line >= 1 and p.column >= 1 for p in result.problems)


SHELL_TEXTS = {
    "cases": "case x in " * 100_000 + "${X}",
    "words that set": "for " * 250_000 + "${X}",
    "many names": "".join(f"echo ${{V{n}}}\n" for n in range(40_000)),
    "here-documents": "cat " + "<<A " * 200_000 + "${X}",
}


@pytest.mark.parametrize("name", SHELL_TEXTS)
@pytest.mark.timeout(10)  # each took from 5 s to minutes when warnings looked at all of it
def test_a_hostile_shell_text_is_loaded_without_a_close_look(name: str) -> None:
    lines = "".join(f"      {line}\n" for line in SHELL_TEXTS[name].splitlines())
    result = load(f"steps:\n  - command: |\n{lines}".encode(), path="f", id="f")
    assert result.workflow is not None


def test_a_merge_that_stays_small_is_allowed() -> None:
    text = "steps:\n  - &a {command: x}\n" + "  - {<<: *a}\n" * 500
    workflow = load(text.encode(), path="f", id="f").workflow
    assert workflow is not None
    assert len(workflow.steps) == 501


def test_a_long_chain_is_no_deep_recursion() -> None:
    text = "type: chain\nsteps:\n" + "  - {command: x}\n" * 15_000
    workflow = load(text.encode(), path="f", id="f").workflow
    assert workflow is not None
    assert workflow.steps[-1].depends == ("step-14999",)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_loader_fail(data: bytes) -> None:
    result = load(data, path="f", id="f")
    assert (result.workflow is None) == bool(result.problems)


SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("x"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "name",
                    "id",
                    "steps",
                    "command",
                    "script",
                    "depends",
                    "env",
                    "params",
                    "on",
                    "push",
                    "branches",
                    "schedule",
                    "start",
                    "handlerOn",
                    "exit",
                    "retryPolicy",
                    "limit",
                    "continueOn",
                    "exitCode",
                    "preconditions",
                    "condition",
                    "expected",
                    "executor",
                    "type",
                    "config",
                    "tags",
                    "shell",
                    "timeoutSec",
                    "zzz",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(SHAPES)
def test_no_shape_of_known_keys_makes_the_loader_fail(shape: object) -> None:
    import json

    result = load(json.dumps({"steps": [shape], "x": 1, "on": shape}).encode(), path="f", id="f")
    assert result.problems
    whole = load(json.dumps(shape).encode(), path="f", id="f")
    assert (whole.workflow is None) == bool(whole.problems)


def test_a_file_that_was_read_in_part_is_not_given_a_size() -> None:
    result = load(b"#" * (MAX_BYTES + 1), path="f", id="f")
    assert [p.message for p in result.problems] == [
        "the file has more than 1,048,576 bytes; make several of it"
    ]
