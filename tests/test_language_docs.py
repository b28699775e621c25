"""Every example on the pages of the language is loaded, and does what its comment promises."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from language_pages import BASE, FOLDER, Example, examples

from runner.cli import cli
from runner.language.load import Loaded, load, load_base, workflow_id

EXAMPLES = examples()
RUN = [example for example in EXAMPLES if example.run is not None]


def loaded(example: Example) -> Loaded:
    path = example.path.removeprefix(".dagu/")
    return load(example.text.encode(), path=example.path, id=workflow_id(path))


def test_the_pages_have_examples_of_every_kind() -> None:
    assert len(EXAMPLES) > 40
    assert len(RUN) > 20
    assert any(example.problems for example in EXAMPLES)
    assert any(example.warnings for example in EXAMPLES)


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_an_example_loads_or_is_wrong_as_its_page_says(example: Example) -> None:
    if example.path == BASE:
        assert load_base(example.text.encode(), path=BASE).problems == ()
        return
    if not example.is_workflow:
        return
    found = loaded(example)
    problems, warnings = (
        [str(told) for told in told_of] for told_of in (found.problems, found.warnings)
    )
    for text in example.problems:
        assert any(text in problem for problem in problems), problems
    for text in example.warnings:
        assert any(text in warning for warning in warnings), warnings
    assert len(problems) == len(example.problems), problems
    assert len(warnings) == len(example.warnings), warnings


@pytest.mark.parametrize("example", RUN, ids=str)
def test_an_example_does_what_its_page_says(
    example: Example, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = a_repository_of(example, tmp_path / "repository")
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    summary = summary_of(example)
    parts = {step["name"]: step for step in [*summary["steps"], *summary["handlers"]]}
    assert example.promises, "a run that promises nothing"
    for promise in example.promises:
        check(promise, summary, parts)


def a_repository_of(example: Example, folder: Path) -> Path:
    """The example, and the files that its page has."""
    named = [other for other in EXAMPLES if other.page == example.page and other != example]
    for other in [*(other for other in named if other.text.startswith("# ")), example]:
        if other.path == BASE and not example.text.startswith("# "):
            continue  # defaults are for the examples that have a file, too
        file = folder / other.path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(other.text)
    for promise in example.promises:
        if promise.startswith("needs "):
            (folder / promise.removeprefix("needs ")).mkdir()
    subprocess.run(["git", "init", "--quiet", "-b", "main"], cwd=folder, check=True)
    return folder


def summary_of(example: Example) -> dict[str, Any]:
    assert example.run is not None
    options = [word for word in example.run if word.startswith("--") and word != "--"]
    params = [word for word in example.run if not word.startswith("--")]
    line = ["run", example.path, "--json", *options, "--", *params]
    done = CliRunner().invoke(cli, line)
    assert done.exit_code in (0, 1), done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def check(promise: str, summary: dict[str, Any], parts: dict[str, Any]) -> None:
    if promise.startswith("needs "):
        return
    if promise.startswith("ends "):
        assert summary["status"] == promise.removeprefix("ends "), summary
        return
    names = sorted(parts, key=len, reverse=True)
    said = re.fullmatch(rf"({'|'.join(map(re.escape, names))}) (is|prints) (.*)", promise)
    assert said is not None, f"{promise!r} is no promise about {names}"
    step, verb, text = parts[said[1]], said[2], said[3]
    if verb == "is":
        assert step["status"] == text, step
    else:
        assert text in (step["log"] or {}).get("tail", ""), step


def test_the_index_has_every_page() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "README.md").read_text("utf-8")))
    assert listed == {file.name for file in FOLDER.glob("*.md")} - {"README.md"}
