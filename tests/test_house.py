"""The house around the code: make's targets, the set-up's refusals, the lock, our own workflow.

Starts `make` and the set-up script with a PATH of its own; installs nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from runner.language.load import load

ROOT = Path(__file__).resolve().parents[1]
TARGETS = {"help", "setup", "demo", "test", "check", "bench", "chaos"}


def read_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / name).read_text("utf-8"))


def make(folder: Path, *arguments: str) -> str:
    """What make prints; as if called by a person, although `make test` may have started us."""
    if shutil.which("make") is None:
        pytest.skip("needs make: there is no `make` program on PATH")
    ours = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "ARGS", "PYTHON")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        ["make", *arguments], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_make_without_a_target_lists_all_of_them() -> None:
    assert set(re.findall(r"^ +make (\w+) +\w", make(ROOT), re.MULTILINE)) == TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS - {"help", "setup"}))
def test_a_target_sets_up_what_it_needs_first(target: str, tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    first, *others = make(tmp_path, "--dry-run", target).splitlines()
    assert first == ("sh .ci/venv" if target == "demo" else "sh .ci/venv dev")
    assert others
    assert all(line.startswith(".venv/bin/python -m ") for line in others)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the set-up script, and a `bin` that is the whole PATH of `set_up`."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "venv", tmp_path / ".ci")
    (tmp_path / "bin").mkdir()
    for name in ("sh", "dirname", "id"):
        _link(tmp_path, name)
    return tmp_path


def _link(checkout: Path, name: str) -> None:
    found = shutil.which(name)
    assert found is not None, name
    (checkout / "bin" / name).symlink_to(found)


def _python(checkout: Path, name: str, *, version: str, venv: bool) -> None:
    """A program that answers the script's two questions as such a python would."""
    answers = f'*version_info*) echo "{version}" ;; *ensurepip*) exit {0 if venv else 1} ;;'
    program = checkout / "bin" / name
    program.write_text(f'#!/bin/sh\ncase "$2" in {answers} *) echo "installed" ;; esac\n')
    program.chmod(0o755)


def set_up(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", ".ci/venv", "dev"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin")},
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(checkout: Path) -> str:
    """The one line that says what is missing."""
    done = set_up(checkout)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_missing_git_is_named_with_its_package(checkout: Path) -> None:
    assert "git is missing: " in refusal(checkout)
    assert "apt-get install -y git " in refusal(checkout)


def test_a_missing_python_is_named_with_its_packages(checkout: Path) -> None:
    _link(checkout, "git")
    assert "python 3.11 or newer is missing" in refusal(checkout)
    _python(checkout, "python3", version="", venv=True)  # too old: it prints no version
    assert "apt-get install -y python3 python3-venv " in refusal(checkout)


def test_a_python_without_venv_is_named_with_the_package_of_its_version(checkout: Path) -> None:
    _link(checkout, "git")
    _python(checkout, "python3", version="3.12", venv=False)
    assert "apt-get install -y python3.12-venv " in refusal(checkout)


def test_a_python_without_venv_is_passed_over_where_another_has_it(checkout: Path) -> None:
    _link(checkout, "git")
    _python(checkout, "python3.13", version="3.13", venv=False)
    _python(checkout, "python3", version="3.11", venv=True)
    assert "with python3 and pip" in set_up(checkout).stderr


def test_nothing_is_installed_through_a_link(checkout: Path) -> None:
    for program in ("git", "readlink"):
        _link(checkout, program)
    _python(checkout, "python3", version="3.11", venv=True)
    (checkout / "theirs").mkdir()
    (checkout / ".venv").symlink_to("theirs")
    assert ".venv is a link to theirs" in refusal(checkout)
    assert list((checkout / "theirs").iterdir()) == []


def test_the_lock_belongs_to_the_project_and_names_only_the_public_index() -> None:
    lock, project = read_toml("uv.lock"), read_toml("pyproject.toml")["project"]
    (own,) = (package for package in lock["package"] if package["name"] == "dagmill")
    extras = project["optional-dependencies"]
    wanted = {_name(line): _bounds(line) for line in project["dependencies"]}
    wanted |= {_name(line): _bounds(line) for lines in extras.values() for line in lines}
    locked = {item["name"]: item.get("specifier", "") for item in own["metadata"]["requires-dist"]}
    assert {name: _bounds(bounds) for name, bounds in locked.items()} == wanted
    others = [package["source"] for package in lock["package"] if package is not own]
    assert others
    assert all(source == {"registry": "https://pypi.org/simple"} for source in others)


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9_.-]", requirement)[0].lower()


def _bounds(requirement: str) -> set[str]:
    return set(re.findall(r"[<>=!~]+[0-9.]+", requirement))


def test_our_own_workflow_has_no_problem_and_no_warning() -> None:
    path = ROOT / ".dagu" / "check.yaml"
    found = load(path.read_bytes(), path=".dagu/check.yaml", id="check")
    assert [str(problem) for problem in (*found.problems, *found.warnings)] == []
    assert found.workflow is not None
    assert found.workflow.push is not None
    assert found.workflow.push.branches == ("main",)
    commands = "\n".join(step.command or "" for step in found.workflow.steps)
    assert set(re.findall(r"^make (\w+)$", commands, re.MULTILINE)) == {"setup", "test"}


def test_the_image_is_built_from_files_that_exist_and_are_let_in() -> None:
    text = (ROOT / ".dockerignore").read_text("utf-8")
    let_in = {line[1:] for line in text.splitlines() if line.startswith("!")}
    assert {"runner", "webhook", "storage", "examples", "pyproject.toml", "uv.lock"} <= let_in
    assert all((ROOT / name).exists() for name in let_in)
    project = read_toml("pyproject.toml")["project"]
    assert {project["readme"], *project["license-files"]} <= let_in, "the build asks for them"


@pytest.mark.parametrize("script", ["run", "venv"])
def test_the_scripts_are_executable_and_have_no_syntax_error(script: str) -> None:
    file = ROOT / ".ci" / script
    assert os.access(file, os.X_OK)
    shell = "bash" if "bash" in file.read_text("utf-8").splitlines()[0] else "sh"
    subprocess.run([shell, "-n", str(file)], check=True)
