"""The sample operations repository does what its README says: each workflow, run for real.

A copy in a repository of its own, as its README tells a person to make one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from runner.cli import cli
from runner.language.load import Loaded, load, load_base, workflow_id

OPS = Path(__file__).resolve().parents[1] / "examples" / "ops"
FOLDER = OPS / ".dagu"
BASE = FOLDER / "base.yaml"
FILES = sorted(file for file in FOLDER.rglob("*.yaml") if file != BASE)
USES = (
    *("backup", "catalogue-checks", "cloud-rooms", "deploy", "health", "new-colleague"),
    *("new-tills", "recommender", "report", "stock-sync", "supplier-prices", "tide-study"),
    *("tidy-up", "till-import"),
)


def loaded(file: Path) -> Loaded:
    base = load_base(BASE.read_bytes(), path=".dagu/base.yaml")
    assert base.problems == ()
    path = str(file.relative_to(FOLDER))
    return load(file.read_bytes(), path=f".dagu/{path}", id=workflow_id(path), base=base.base)


def test_the_readme_has_each_workflow_and_the_command_that_runs_it() -> None:
    readme = (OPS / "README.md").read_text("utf-8")
    assert tuple(file.stem for file in FILES if file.parent == FOLDER) == USES
    for use in USES:
        assert f"[{use}](.dagu/{use}.yaml) | `dagmill run {use}" in readme


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(FOLDER)))
def test_a_workflow_of_the_sample_has_no_problem_and_no_warning(file: Path) -> None:
    found = loaded(file)
    assert found.workflow is not None
    assert [str(problem) for problem in (*found.problems, *found.warnings)] == []


def test_the_starts_are_those_of_the_readme() -> None:
    flows = {file.stem: loaded(file).workflow for file in FILES}
    crons = {id: flow.schedule.crons for id, flow in flows.items() if flow and flow.schedule}
    paths = {id: flow.push.paths for id, flow in flows.items() if flow and flow.push}
    zone = "Europe/Berlin"
    assert crons == {
        "backup": (("0 3 * * *", zone),),
        "catalogue-checks": (("0 6,12,18 * * MON-SAT", zone),),
        "health": (("*/15 * * * *", zone),),
        "stock-sync": (("*/15 * * * *", zone),),
        "supplier-prices": (("15 5 * * MON-FRI", zone),),
        "tidy-up": (("0 4 * * SUN", zone),),
        "till-import": (("30 1 * * *", zone),),
    }
    assert paths == {
        "cloud-rooms": ("cloud/**",),
        "deploy": ("site/**",),
        "report": ("reports/**",),
    }


Result = tuple[int, dict[str, Any]]
# The python that runs this test first: one behind a shim takes ten times as long to begin.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@dataclass(frozen=True)
class Ops:
    """A copy of the sample in a repository of its own."""

    folder: Path
    commit: str
    state: Path

    def run(self, workflow: str, *params: str, options: Sequence[str] = ()) -> Result:
        """(exit code, summary) of `dagmill run <workflow> --json -- <params>`."""
        with (
            mock.patch.dict(os.environ, {"XDG_STATE_HOME": str(self.state), "PATH": PATH}),
            contextlib.chdir(self.folder),
        ):
            line = ["run", workflow, "--json", *options, "--", *params]
            done = CliRunner().invoke(cli, line)
        assert done.exit_code in (0, 1), done.output
        return done.exit_code, json.loads(done.stdout)

    def read(self, path: str) -> str:
        return (self.folder / "build" / path).read_text("utf-8")


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


# One for each use


def test_the_tills_of_all_shops_are_added_up_and_booked_once(ops: Ops) -> None:
    for _ in range(2):
        code, summary = ops.run("till-import", "DAY=2026-11-23")
        assert (code, summary["status"]) == (0, "succeeded")
        assert "2026-11-23: 9 receipts, 250.30 EUR" in tail(summary, "book")
    with sqlite3.connect(ops.folder / "build/books.sqlite") as books:
        assert books.execute("SELECT * FROM days").fetchall() == [("2026-11-23", 9, 25030)]
    books.close()


def test_the_catalogue_is_fine_until_a_check_finds_something(ops: Ops) -> None:
    code, summary = ops.run("catalogue-checks")
    assert (code, summary["status"]) == (0, "succeeded")
    assert "prices 0, numbers 0, sales 0" in tail(summary, "page")
    code, summary = ops.run("catalogue-checks", "MAX_EUR=24", "MAX_AGE_DAYS=0")
    assert (code, summary["status"]) == (1, "partially_succeeded")
    assert "prices 1, numbers 0, sales 1" in tail(summary, "page")
    assert "Maps for Walking costs 28.90 EUR" in ops.read("catalogue.txt")


def test_machines_are_added_where_nobody_has_to_agree(ops: Ops) -> None:
    code, summary = ops.run("cloud-rooms")
    assert (code, summary["status"], statuses(summary)["ask"]) == (0, "succeeded", "skipped")
    assert ops.read("cloud.txt").split() == ["test/web-1", "test/db-1"]
    code, summary = ops.run("cloud-rooms")
    assert (statuses(summary)["apply"], statuses(summary)["inventory"]) == ("skipped", "skipped")


def test_production_waits_for_somebody_who_agrees(ops: Ops) -> None:
    code, summary = ops.run("cloud-rooms", "PLACE=production")
    assert (code, statuses(summary)["ask"], statuses(summary)["apply"]) == (
        *(1, "failed", "cancelled"),
    )
    assert "--approve" in summary["reason"]
    code, summary = ops.run("cloud-rooms", "PLACE=production", options=["--approve"])
    assert (code, summary["status"]) == (0, "succeeded")
    assert ops.read("cloud.txt").split()[0] == "production/web-1"


def test_a_colleague_gets_every_account_and_a_letter(ops: Ops) -> None:
    code, summary = ops.run("new-colleague", "NAME=Mira; O'Duya $HOME", "STARTS=Monday")
    assert (code, summary["status"]) == (0, "succeeded")
    accounts = ops.read("office/accounts.txt").splitlines()
    name = "Mira; O'Duya $HOME"
    assert sorted(accounts) == [f"{name}, {system}" for system in ("chat", "keys", "mail", "till")]
    assert ops.read("office/letters.txt") == f"Dear {name}, 4 accounts wait for you.\n"
    assert ops.read("office/calendar.txt") == f"{name} begins Monday\n"


def test_nobody_is_welcomed_without_a_name(ops: Ops) -> None:
    code, summary = ops.run("new-colleague")
    assert (code, summary["status"]) == (0, "skipped")
    assert not (ops.folder / "build/office").exists()


def test_only_large_logs_are_packed(ops: Ops) -> None:
    logs = ops.folder / "build/logs"
    logs.mkdir(parents=True)
    (logs / "till.log").write_text("a line\n" * 1000)
    (ops.folder / "build/scratch").mkdir()
    (ops.folder / "build/scratch/a b.tmp").touch()
    code, summary = ops.run("tidy-up", "MAX_KIB=1")
    assert (code, summary["status"]) == (0, "succeeded")
    assert sorted(file.name for file in logs.iterdir()) == [
        *("stock.log", "till.log", "till.log.1.gz", "website.log"),
    ]
    assert not (ops.folder / "build/scratch/a b.tmp").exists()
    assert ops.read("tidy-up.txt") == "2 of 2 databases are smaller now\n"


def test_the_study_is_fitted_until_it_is_good_enough(ops: Ops) -> None:
    code, summary = ops.run("tide-study", "GOOD_ENOUGH_CM=3")
    assert (code, summary["status"]) == (0, "succeeded")
    assert summary["steps"][1]["attempts"] == 4
    study = ops.read("tides.md")
    assert "The tide is 120 cm high, found in 4 rounds from 48 measurements." in study
    assert ops.commit in study


def test_a_study_that_never_gets_good_enough_fails(ops: Ops) -> None:
    code, summary = ops.run("tide-study", "GOOD_ENOUGH_CM=-1")
    assert (code, summary["status"]) == (1, "failed")
    assert statuses(summary)["publish"] == "cancelled"


def test_the_best_model_is_installed_only_if_it_is_good(ops: Ops) -> None:
    code, summary = ops.run("recommender", "AT_LEAST=0.9")
    assert (code, statuses(summary)["put into the shop"]) == (0, "skipped")
    code, summary = ops.run("recommender")
    assert (code, statuses(summary)["put into the shop"]) == (0, "succeeded")
    model = json.loads(ops.read("models/in-the-shop.json"))
    assert (model["kind"], model["options"]) == ("together", ["weeks=12", "pairs=2"])


def test_only_the_system_that_was_busy_is_told_again(ops: Ops) -> None:
    code, summary = ops.run("stock-sync")
    assert (code, summary["status"]) == (0, "succeeded")
    assert "3 systems agree" in tail(summary, "compare")
    assert ops.read("stock/till.json") == ops.read("stock/website.json")


def test_all_pages_of_the_supplier_arrive_and_the_key_shows_nowhere(ops: Ops) -> None:
    code, summary = ops.run("supplier-prices", "PAGE_SIZE=2")
    assert (code, summary["status"]) == (0, "succeeded")
    assert "5 prices from 3 pages" in tail(summary, "put together")
    assert len(json.loads(ops.read("prices.json"))) == 5
    kept = [file.read_bytes() for file in ops.state.rglob("*") if file.is_file()]
    assert not any(b"key-of-the-bookshop" in text for text in kept)
    assert "token-for-an-hour" not in json.dumps(summary)


@pytest.mark.parametrize(("back", "used"), [("false", "new"), ("true", "old")])
def test_the_tills_are_changed_one_way_or_the_other(ops: Ops, back: str, used: str) -> None:
    code, summary = ops.run("new-tills", f"BACK={back}")
    assert (code, summary["status"]) == (0, "succeeded")
    assert ops.read("tills.txt").splitlines() == [
        *("close", "save", "copy pilot", "compare build/new-till-pilot.txt", f"use {used}", "open"),
    ]


def test_the_old_tills_are_used_again_where_the_copy_fails(ops: Ops) -> None:
    code, summary = ops.run("new-tills", "PHASE=no/such/folder")
    assert (code, summary["status"]) == (1, "failed")
    assert ops.read("tills.txt").splitlines() == ["close", "save", "use old", "open"]
