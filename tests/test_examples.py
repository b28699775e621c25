"""The sample operations repository does what its README says: each workflow, run for real.

A copy in a repository of its own, as its README tells a person to make one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runner.language.load import Loaded, load

OPS = Path(__file__).resolve().parents[1] / "examples" / "ops"
FILES = sorted((OPS / ".dagu").glob("*.yaml"))


def loaded(file: Path) -> Loaded:
    return load(file.read_bytes(), path=f".dagu/{file.name}", id=file.stem)


def test_there_are_the_four_workflows_of_the_readme() -> None:
    readme = (OPS / "README.md").read_text("utf-8")
    assert [file.stem for file in FILES] == ["backup", "deploy", "health", "report"]
    assert all(f"(.dagu/{file.name})" in readme for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_of_the_sample_has_no_problem_and_no_warning(file: Path) -> None:
    found = loaded(file)
    assert found.workflow is not None
    assert [str(problem) for problem in (*found.problems, *found.warnings)] == []


def test_the_starts_are_those_of_the_readme() -> None:
    flows = {file.stem: loaded(file).workflow for file in FILES}
    crons = {id: flow.schedule.crons for id, flow in flows.items() if flow and flow.schedule}
    paths = {id: flow.push.paths for id, flow in flows.items() if flow and flow.push}
    assert crons == {
        "backup": (("0 3 * * *", "Europe/Berlin"),),
        "health": (("*/15 * * * *", "Europe/Berlin"),),
    }
    assert paths == {"deploy": ("site/**",), "report": ("reports/**",)}


@dataclass(frozen=True)
class Ops:
    """A copy of the sample in a repository of its own."""

    folder: Path
    commit: str
    state: Path

    def run(self, workflow: str, *params: str) -> tuple[int, dict[str, Any]]:
        """(exit code, summary) of `dagmill run .dagu/<workflow>.yaml --json -- <params>`."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "runner.cli", "run", f".dagu/{workflow}.yaml", "--json"),
                *("--", *params),
            ],
            cwd=self.folder,
            env={**os.environ, "XDG_STATE_HOME": str(self.state)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, json.loads(done.stdout)


@pytest.fixture
def ops(tmp_path: Path, require: Callable[[str], None]) -> Ops:
    require("git")
    folder = tmp_path / "ops"
    shutil.copytree(OPS, folder, ignore=shutil.ignore_patterns("build", "__pycache__"))
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message=The sample")
    return Ops(folder, _git(folder, "rev-parse", "HEAD"), tmp_path / "state")


def _git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    done = subprocess.run(
        ["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def statuses(summary: dict[str, Any]) -> dict[str, str]:
    return {s["name"]: s["status"] for s in [*summary["steps"], *summary["handlers"]]}


def tail(summary: dict[str, Any], step: str) -> str:
    found = next(s for s in [*summary["steps"], *summary["handlers"]] if s["name"] == step)
    return str(found["log"]["tail"])


def test_the_backup_is_written_read_back_and_kept(ops: Ops) -> None:
    code, summary = ops.run("backup")
    assert (code, summary["status"], summary["commit"]) == (0, "succeeded", ops.commit)
    assert statuses(summary) == dict.fromkeys(("dump", "verify", "prune"), "succeeded")
    assert "20 rows in 2 tables" in tail(summary, "verify")
    assert len(list((ops.folder / "build/backups").glob("shop-*.sql.gz"))) == 1


def test_old_backups_are_deleted_beyond_those_to_keep(ops: Ops) -> None:
    old = ops.folder / "build/backups/shop-2001-01-01.sql.gz"
    old.parent.mkdir(parents=True)
    old.touch()
    code, summary = ops.run("backup", "KEEP=1")
    assert (code, summary["params"]["KEEP"]) == (0, "1")
    assert not old.exists()


def test_a_backup_without_a_database_fails_once_and_tells(ops: Ops) -> None:
    code, summary = ops.run("backup", "SHOP_DB=/nowhere/shop.db")
    assert (code, summary["status"]) == (1, "failed")
    assert statuses(summary) == {
        "dump": "failed",
        "verify": "cancelled",
        "prune": "cancelled",
        "handlerOn.failure": "succeeded",
    }
    assert summary["steps"][0]["attempts"] == 1, "only a busy database is worth another attempt"
    assert "failed at dump" in tail(summary, "handlerOn.failure")


def test_the_report_names_as_many_books_as_were_asked_for(ops: Ops) -> None:
    code, summary = ops.run("report", "TOP=2", "TITLE=October")
    assert (code, summary["status"]) == (0, "succeeded")
    assert "brought 512.30 EUR; first is “Bread at Night”." in tail(summary, "show")
    report = (ops.folder / "build/report.md").read_text("utf-8")
    assert report.startswith("# October\n")
    assert "Lighthouses of the North" in report
    assert "A Short History of Rope" not in report


def test_the_site_is_published_with_its_commit(ops: Ops) -> None:
    code, summary = ops.run("deploy")
    assert (code, summary["status"]) == (0, "succeeded")
    assert f"published 2 pages of {ops.commit[:10]}" in tail(summary, "publish")
    assert ops.commit[:10] in (ops.folder / "build/www/index.html").read_text("utf-8")


def test_a_dead_link_is_reported_and_the_site_published_all_the_same(ops: Ops) -> None:
    (ops.folder / "site/books.html").write_text('<body><a href="gone.html">Gone</a></body>')
    code, summary = ops.run("deploy")
    assert (code, summary["status"], summary["dirty"]) == (1, "partially_succeeded", True)
    assert statuses(summary) == {
        "build": "succeeded",
        "check links": "failed",
        "publish": "succeeded",
    }
    assert "gone.html leads nowhere" in tail(summary, "check links")


def test_another_branch_is_built_and_not_published(ops: Ops) -> None:
    _git(ops.folder, "checkout", "--quiet", "-b", "try")
    code, summary = ops.run("deploy")
    assert (code, summary["status"], statuses(summary)["publish"]) == (0, "succeeded", "skipped")
    assert not (ops.folder / "build/www").exists()


def test_the_health_checks_run_side_by_side_and_one_may_fail(ops: Ops) -> None:
    code, summary = ops.run("health", "MIN_FREE_MIB=0")
    assert (code, summary["status"]) == (0, "succeeded")
    (ops.folder / "site/books.html").unlink()
    code, summary = ops.run("health", "MIN_FREE_MIB=0")
    assert (code, summary["status"]) == (1, "failed")
    assert statuses(summary) == {
        "disk": "succeeded",
        "database": "succeeded",
        "pages": "failed",
        "handlerOn.failure": "succeeded",
    }
    assert "health, pages" in tail(summary, "handlerOn.failure")
