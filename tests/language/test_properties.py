"""Whatever a file says, the loader answers with a workflow or with problems; whatever a value
holds, a shell sees it as it is and never as its own text.

DAGMILL_EXAMPLES=5000 looks at that many of each.
"""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from pydantic import ValidationError

from runner.language import document, params, source
from runner.language.calls import calls
from runner.language.document import keys
from runner.language.entries import CONFIGS, Entry, StepEntry, WorkflowEntry
from runner.language.expand import expand, rewrite_shell
from runner.language.load import Loaded, LoadedBase, load, load_base, located
from runner.language.model import Param
from runner.language.params import ParamError, bind

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(60 + settings().max_examples // 5)

# The loader

SNIPPETS = (
    *("true", "false", "0", "1", "-1", "429", "1e3", "1.5h", "90s", "5MiB", "a", "a b", "x", ""),
    *("${X}", "${ITEM.a}", "$1", "{{.X}}", "`date`", "a=1 b=2", 'A="x', "re:(", "re:a+", "main"),
    *("0 2 * * *", "*/7 * * * *", "@daily", "CRON_TZ=Asia/Tokyo 0 1 * * *", "Europe/Berlin"),
    *("chain", "graph", "latest", "own", "until", "docker", "http", "mail", "ssh", "jq", "shell"),
    *("GET https://x", "TERM", "step-1", "etl/load", "succeeded", "opened", "release.tag_name"),
    *("etl", "local", "SECRET_KEY", "PATH", "!main", "**", "a\nb", "\t", "\u2028", "é", "~", "*"),
)
SCALARS = (
    st.sampled_from(SNIPPETS)
    | st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=12)
)


def snake(key: str) -> str:
    return re.sub(r"([a-z])([A-Z])", lambda found: f"{found[1]}_{found[2].lower()}", key)


SHAPES: tuple[Any, ...] = (
    *SNIPPETS,
    *([snippet] for snippet in SNIPPETS),
    *({"A": snippet, "B": "1"} for snippet in SNIPPETS[::4]),
    *([{"A": snippet}, "b"] for snippet in SNIPPETS[::4]),
)


@cache
def fitting(entry: type[Entry]) -> dict[str, list[Any]]:
    """For each key of `entry` those of SHAPES that are right there, so that rules about several
    keys are reached."""
    found: dict[str, list[Any]] = {}
    for key in keys(entry):
        for shape in SHAPES:
            try:
                entry.model_validate({key: shape})
            except ValidationError as error:
                if any(detail["loc"][:1] == (key,) for detail in error.errors()):
                    continue
            found.setdefault(key, []).append(shape)
    return found


def maps_of(entry: type[Entry], depth: int) -> SearchStrategy[Any]:
    """Maps with keys that `entry` has, and a few that it does not have."""
    known = keys(entry)
    spellings = st.sampled_from([*known * 5, *map(snake, known), "steps", "nmae"])
    return st.lists(spellings, max_size=8, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({key: values_of(key, entry, depth) for key in chosen})
    )


def values_of(key: str, entry: type[Entry], depth: int) -> SearchStrategy[Any]:
    if depth == 0:
        return SCALARS
    nested = entry.nested.get(key)
    if nested is not None:
        one = maps_of(nested, depth - 1)
        return (
            st.lists(one, max_size=4) if key == "steps" else one | one | st.lists(one, max_size=2)
        )
    if key == "config":
        return st.one_of(SCALARS, *(maps_of(config, 1) for config in CONFIGS.values()))
    right = fitting(entry).get(source.camel(key))
    anything = SCALARS | st.sampled_from(SHAPES)
    return st.sampled_from(right) | st.sampled_from(right) | anything if right else anything


WORKFLOWS = maps_of(WorkflowEntry, 4)


def judge(result: Loaded | LoadedBase, text: str) -> None:
    lines = re.split(r"\r\n|[\r\n\x85\u2028\u2029]", text)
    for problem in (*result.problems, *getattr(result, "warnings", ())):
        assert problem.path == "f.yaml"
        assert 1 <= problem.line <= len(lines) + 1
        assert problem.column >= 1
        assert 0 < len(problem.message) < 1_000
    if isinstance(result, LoadedBase):
        assert (result.base is None) == bool(result.problems)
        return
    assert (result.workflow is None) == bool(result.problems)
    if result.workflow is not None:
        found = calls(result.workflow)
        assert len(located(text.encode(), found)) == len(found)
        params.mentions(result.workflow, "A")


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    documents=st.lists(WORKFLOWS, min_size=1, max_size=3),
    steps=st.lists(maps_of(StepEntry, 3), min_size=1, max_size=5),
    base=WORKFLOWS,
)
def test_the_loader_answers_whatever_the_keys_hold(
    documents: list[Any], steps: list[Any], base: Any
) -> None:
    named = [document | {"name": f"d{n}"} for n, document in enumerate(documents)]
    for many in (documents, named, [one | {"steps": steps} for one in named]):
        text = "".join(f"---\n{json.dumps(document, ensure_ascii=False)}\n" for document in many)
        judge(load(text.encode(), path="f.yaml", id="f"), text)
    text = json.dumps(base, ensure_ascii=False)
    loaded = load_base(text.encode(), path="f.yaml")
    judge(loaded, text)
    text = "steps: [{command: x}]"
    judge(load(text.encode(), path="f.yaml", id="f", base=loaded.base), text)


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(WORKFLOWS)
def test_something_is_left_without_what_is_wrong(data: Any) -> None:
    (read,) = source.read(json.dumps(data, ensure_ascii=False)).documents
    entry, faults = document.read(read)
    assert entry is not None or len(faults) > document.MAX_FAULTS


def corpus() -> list[str]:
    """Every workflow that we ship, and every example of the pages about the language."""
    found = [path.read_text("utf-8") for path in sorted((ROOT / "examples").rglob("*.yaml"))]
    for page in sorted((ROOT / "docs").rglob("*.md")):
        found += re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return found


CORPUS = corpus()
INSERTED = (
    *(" ", "\n", "  ", "\t", ":", "- ", "[", "]", "{", "}", '"', "'", "#", "|", ">", "&a ", "*a"),
    *("---\n", "<<: ", "!x ", "?", "%", "@", "`", "~", "\0", "\r", "\ufeff", "\ud800", "\x85"),
)
CHANGES = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True), st.integers(0, 30), st.sampled_from(("", *INSERTED))
    ),
    min_size=1,
    max_size=4,
)


@given(text=st.sampled_from(CORPUS), changes=CHANGES)
def test_the_loader_answers_whatever_is_broken_in_a_good_file(
    text: str, changes: list[tuple[float, int, str]]
) -> None:
    for where, length, inserted in changes:
        at = int(where * (len(text) + 1))
        text = text[:at] + inserted + text[at + length :]
    data = text.encode("utf-8", errors="surrogatepass")
    judge(load(data, path="f.yaml", id="f"), text)
    judge(load_base(data, path="f.yaml"), text)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_the_loader_answers_whatever_the_bytes_are(data: bytes) -> None:
    judge(load(data, path="f.yaml", id="f"), data.decode(errors="replace"))


# Values and shells

HOSTILE = (
    *("'", '"', "`", "$", "$(", ")", "${", "}", "\\", "\n", "\r", "\t", " ", ";", "&", "|", "<"),
    *(">", "*", "?", "~", "#", "!", "-", "--", "=", "%", "$(reboot)", "`reboot`", "${X}", "{{.X}}"),
    *("\x01", "\x7f", "é", "\u2028", "\U0001f600", "EOF\n", "$((1", "-n", "-e", "\\n", "%s"),
)
VALUES = st.lists(
    st.sampled_from(HOSTILE) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    max_size=20,
).map("".join)
NAMES = ("A", "B_2", "c", "_d")


def shell(text: str, *words: str, env: dict[str, str]) -> bytes:
    argv = ["/bin/sh", "-e", "-c", text, "sh", *words]
    done = subprocess.run(argv, env=env, capture_output=True, check=True)
    return done.stdout


def quoted_words(values: dict[str, str]) -> dict[str, str]:
    """What a run exports for params: bound as if they came from a person."""
    given = [Param(name, value) for name, value in values.items()]
    declared = [Param(name, "default") for name in NAMES]
    bound = bind(declared, given, mentioned=lambda name: False)
    return dict(bound.named)


@given(values=st.fixed_dictionaries(dict.fromkeys(NAMES, VALUES)), words=st.lists(VALUES))
def test_a_process_sees_each_value_byte_for_byte(values: dict[str, str], words: list[str]) -> None:
    command = "printf '%s\\0' " + " ".join(f'"${{{name}}}"' for name in NAMES) + ' "$@"'
    data = json.dumps({"steps": [{"command": command}]}).encode()
    workflow = load(data, path="f", id="f").workflow
    assert workflow is not None
    assert workflow.steps[0].command == command
    env = quoted_words(values)
    text, more = rewrite_shell(command, env)
    assert (text, more) == (command, {})
    seen = shell(text, *words, env=env)
    assert seen == b"".join(
        f"{value}\0".encode() for value in (*(values[name] for name in NAMES), *words)
    )


REFERENCE = re.compile(r"\$\{(?:J\.a|J\.b\[0\]|my-step\.exitCode)\}")
PIECES = st.sampled_from(
    ["echo ", "${J.a}", '"${J.a}"', "'${J.a}'", "${J.b[0]}", "${X}", "$X", "'", '"', "\\", "`",
     "$(", ")", "<<EOF\n", "\nEOF\n", "#", "\n", "é", "${my-step.exitCode}", "${s-t.a}", "{{.X}}"]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=30), value=VALUES)
def test_the_shell_gets_the_text_of_the_file_but_for_paths(pieces: list[str], value: str) -> None:
    command = "".join(pieces)
    assume(command.strip())
    data = json.dumps({"steps": [{"command": command}]}).encode()
    workflow = load(data, path="f", id="f").workflow
    assert workflow is not None
    text, more = rewrite_shell(
        workflow.steps[0].command or "",
        {"J": json.dumps({"a": value, "b": [value]}), "X": value},
        step_refs={"my-step": {"exitCode": "3"}},
    )
    generated = re.compile(r"\$\{(DAGMILL_PATH_[0-9]+)\}")
    assert set(generated.findall(text)) == set(more)
    assert set(more.values()) <= {value, "3"}
    # Put back what they stand for: nothing else has changed.
    literal = generated.split(text)[::2]
    left = command
    for part in literal[:-1]:
        assert left.startswith(part)
        left = left[len(part) :]
        reference = REFERENCE.match(left)
        assert reference is not None
        left = left[reference.end() :]
    assert left == literal[-1]


@given(value=VALUES)
def test_a_value_below_a_json_path_arrives_byte_for_byte(value: str) -> None:
    scope = {"J": json.dumps({"a": value, "l": [{"k": value}]})}
    text, more = rewrite_shell("printf '%s\\0' \"${J.a}\" \"${J.l[0].k}\" '${J.a}'", scope)
    assert shell(text, env=scope | more) == f"{value}\0{value}\0${{J.a}}\0".encode()


@given(before=VALUES, value=VALUES)
def test_our_own_expansion_never_looks_at_what_it_put_in(before: str, value: str) -> None:
    literal = re.sub(r"[$`{\\]", "", before)
    scope = {"X": value, "J": json.dumps({"a": value})}
    for reference in ("${X}", "{{.X}}", "${J.a}", "{{ .J.a }}"):
        assert expand(f"{literal}{reference}|", scope) == f"{literal}{value}|"


@given(value=VALUES, rest=VALUES)
def test_nul_is_refused(value: str, rest: str) -> None:
    text = f"{value}\0{rest}"
    with pytest.raises(ParamError, match="NUL"):
        bind([Param("A", "")], [Param("A", text)], mentioned=lambda name: False)
    with pytest.raises(ParamError, match="NUL"):
        bind([], [Param(None, text)], mentioned=lambda name: False)
    result = load(json.dumps({"steps": [{"command": text}]}).encode(), path="f", id="f")
    assert result.workflow is None
