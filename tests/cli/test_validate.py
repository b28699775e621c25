"""`dagmill validate`: which files it finds, what it prints, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import cli

GOOD = "steps:\n  - name: hello\n    command: echo hello\n"
BAD = "steps:\n  - name: hello\n    comand: echo hello\n    depends: nobody\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dagu/extract").mkdir(parents=True)
    (tmp_path / ".dagu/hello.yaml").write_text(GOOD)
    (tmp_path / ".dagu/extract/rows.yml").write_text(GOOD)
    (tmp_path / ".dagu/notes.txt").write_text("no workflow")
    (tmp_path / "elsewhere.yaml").write_text("not: a workflow")
    return tmp_path


def validate(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["validate", *arguments])


def test_a_good_repository_has_no_problem(repository: Path) -> None:
    result = validate()
    assert (result.exit_code, result.output) == (0, "2 workflows, 0 problems\n")


def test_every_problem_is_printed_with_its_place(repository: Path) -> None:
    (repository / ".dagu/bad.yaml").write_text(BAD)
    result = validate(".")
    assert result.exit_code == 2
    lines = result.output.splitlines()
    assert lines[-1] == f"3 workflows, {len(lines) - 1} problems"
    assert any(line.startswith(".dagu/bad.yaml:3:5: ") and "command" in line for line in lines)
    assert any('"nobody"' in line for line in lines)


@pytest.mark.parametrize("path", [".dagu", ".dagu/bad.yaml", "."])
def test_a_problem_has_the_same_place_however_it_is_asked_for(repository: Path, path: str) -> None:
    (repository / ".dagu/bad.yaml").write_text(BAD)
    assert ".dagu/bad.yaml:3:5: " in validate(path).output


def test_one_file_is_checked_alone(repository: Path) -> None:
    (repository / ".dagu/bad.yaml").write_text(BAD)
    result = validate(".dagu/hello.yaml")
    assert (result.exit_code, result.output) == (0, "1 workflow, 0 problems\n")


def test_two_files_of_one_id_are_a_problem(repository: Path) -> None:
    (repository / ".dagu/hello.yml").write_text(GOOD)
    result = validate()
    assert result.exit_code == 2
    assert "hello.yaml" in result.output and "hello.yml" in result.output


def test_json_has_what_the_lines_have(repository: Path) -> None:
    (repository / ".dagu/bad.yaml").write_text(BAD)
    result = validate("--json")
    document = json.loads(result.output)
    assert result.exit_code == 2
    assert document["workflows"] == 3
    first = document["problems"][0]
    assert set(first) == {"path", "line", "column", "message"}
    assert len(document["problems"]) == len(validate().output.splitlines()) - 1


def test_another_folder_can_be_named(repository: Path) -> None:
    (repository / "ops/flows").mkdir(parents=True)
    (repository / "ops/flows/a.yaml").write_text(GOOD)
    assert validate("--path", "ops/flows").output == "1 workflow, 0 problems\n"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "\x00",
        "a: &a [*a]",
        "steps: " + "{" * 5000,
        "\ufeff",
        "- " * 1000,
        "!!python/x y",
    ],
    ids=["brackets", "nul", "recursion", "braces", "empty", "dashes", "tag"],
)
def test_a_hostile_file_is_a_problem_and_no_crash(repository: Path, text: str) -> None:
    (repository / ".dagu/hostile.yaml").write_text(text)
    result = validate()
    assert result.exit_code == 2, result.output
    assert ".dagu/hostile.yaml:" in result.output


def test_a_link_is_not_followed(repository: Path) -> None:
    (repository / ".dagu/link.yaml").symlink_to("/etc/passwd")
    assert validate().output == "2 workflows, 0 problems\n"


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_nothing_to_check_is_a_usage_error(repository: Path, path: str) -> None:
    (repository / "empty").mkdir()
    result = validate(path)
    assert result.exit_code == 2
    assert path in result.output


def test_a_sub_workflow_that_is_not_there_is_a_warning(repository: Path) -> None:
    (repository / ".dagu/all.yaml").write_text("steps: [{name: x, run: extract/row}]")
    result = validate()
    assert result.exit_code == 0
    assert '.dagu/all.yaml:1:24: warning: sub-workflow "extract/row"' in result.output
    assert '"extract/rows"' in result.output
    assert validate("--strict").exit_code == 1


def test_one_file_knows_the_others_of_its_folder(repository: Path) -> None:
    (repository / ".dagu/all.yaml").write_text("steps: [{name: x, run: extract/rows}]")
    result = validate(".dagu/all.yaml", "--strict")
    assert (result.exit_code, result.output) == (0, "1 workflow, 0 problems\n")


def test_workflows_that_call_each_other_are_a_problem(repository: Path) -> None:
    (repository / ".dagu/a.yaml").write_text("steps: [{name: x, run: b}]")
    (repository / ".dagu/b.yaml").write_text("steps: [{name: x, run: a}]")
    result = validate()
    assert result.exit_code == 2
    for one, other in (("a", "b"), ("b", "a")):
        assert f".dagu/{one}.yaml:1:24: " in result.output
        assert f"{one} → {other} → {one}" in result.output


def test_the_defaults_are_no_workflow_and_may_be_wrong(repository: Path) -> None:
    (repository / ".dagu/base.yaml").write_text("env: [{TEAM: data}]\n")
    assert validate().output == "2 workflows, 0 problems\n"
    (repository / ".dagu/base.yaml").write_text("steps: []\n")
    result = validate()
    assert result.exit_code == 2 and ".dagu/base.yaml:1:1: " in result.output
