"""The workflows that the language was made for run as they stand, on the real engine.

They delete, upgrade, copy and deploy for real. So PATH is one folder of stubs that only write down
how they were called, and nothing runs before it is proven that each program of theirs is a stub.
What the document refers to and does not show (sub-workflows, scripts, terraform/) is ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import carried_run
import httpx2
import pytest
import seed_document
import stub_programs
from carried_run import Before
from click.testing import CliRunner
from git_remotes import Remote, make_remote
from service_process import Served, Service
from stub_programs import Call, Stubs

from runner.cli import cli
from runner.language.load import load

pytestmark = pytest.mark.skipif(
    not seed_document.DOCUMENT.is_file(), reason="the document with the workflows is not here"
)

NAMES = (
    *("daily-etl", "data-quality-checks", "deploy-application", "provision-infrastructure"),
    *("monthly-reports", "employee-onboarding", "backup-critical-systems", "system-maintenance"),
    *("genomics-analysis", "ml-training-pipeline", "sync-customer-data", "api-integration"),
    "migrate-to-cloud",
)

# What the workflows call, and what our sub-workflows do.
PROGRAMS = (
    *("python", "spark-submit", "dbt", "great_expectations", "docker", "terraform", "ansible"),
    *("ansible-inventory", "rsync", "tar", "aws", "find", "gzip", "apt-get", "samtools"),
    *("bcftools", "vep", "optimize-postgres.sh", "optimize-mysql.sh", "optimize-redis.sh"),
    *("npm", "fastqc", "bwa", "rm", "curl", "child"),
)
SCRIPTS = (
    *("notify-data-team.sh", "backup-legacy-system.sh", "update-load-balancer.sh"),
    "rollback-migration.sh",
)

# Each tells what it was given, and answers one line.
CHILDREN = {
    "extractors/database": "SOURCE",
    "deploy/kubernetes": "ENV IMAGE",
    "queries/extract": "sales inventory customers",
    "reports/generate": "TYPE DATA",
    "onboarding/create-account": "SYSTEM EMPLOYEE",
    "backup/database": "name host path",
    "ml/train": "DATA MODEL PARAMS",
    "sync/update-system": "SYSTEM DATA",
    "process/batch": "BATCH TOKEN",
}
CHILD = """\
params: [{params}]
steps:
  - name: work
    command: child {id} {words}
    output: DONE
"""

PROBE = """\
type: chain
steps:
  - name: path
    command: echo "$PATH"
  - name: programs
    command: for each in {programs}; do command -v "$each"; done >probed
"""


def child(id: str) -> str:
    params = CHILDREN[id].split()
    words = " ".join(f'"{name}=${name}"' for name in params)
    return CHILD.format(params=", ".join(f'{p}: ""' for p in params), id=id, words=words)


# The repository, and who runs it


@dataclass(frozen=True)
class Seed:
    """The committed workflows, and the only programs that they can reach."""

    remote: Remote
    stubs: Stubs
    home: Path

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": str(self.stubs.path), "HOME": str(self.home), "LANG": "C.UTF-8"}

    def run(self, workflow: str, *params: str, **environ: str) -> Done:
        """`dagmill run WORKFLOW -- PARAMS` in the working clone, in this environment only."""
        before = len(self.stubs.calls())
        with (
            mock.patch.dict(os.environ, {**self.environ, **environ}, clear=True),
            contextlib.chdir(self.remote.work),
        ):
            assert os.environ["PATH"] == str(self.stubs.path)
            done = CliRunner().invoke(cli, ["run", workflow, "--json", "--", *params])
        assert done.exit_code in (0, 1) and done.stdout, done.output
        return Done(json.loads(done.stdout), self.stubs.calls()[before:])


@dataclass(frozen=True)
class Done:
    """A run that is over, and all calls that it made, oldest first."""

    summary: dict[str, Any]
    calls: list[Call]

    @property
    def status(self) -> str:
        return str(self.summary["status"])

    @property
    def steps(self) -> dict[str, str]:
        parts = [*self.summary["steps"], *self.summary["handlers"]]
        return {step["name"]: step["status"] for step in parts}

    def attempts(self, step: str) -> int:
        return next(int(s["attempts"]) for s in self.summary["steps"] if s["name"] == step)

    def reason(self, step: str) -> str:
        parts = [*self.summary["steps"], *self.summary["handlers"]]
        return next(str(s["reason"]) for s in parts if s["name"] == step)

    @property
    def lines(self) -> list[str]:
        """The calls as a person would type them, those of children left out."""
        return [" ".join((c.program, *c.argv)) for c in self.calls if c.program != "child"]

    def children(self, id: str) -> list[dict[str, str]]:
        """What each child run of `id` was given, in an order that does not depend on time."""
        given = [c.argv[1:] for c in self.calls if c.program == "child" and c.argv[0] == id]
        return [dict(word.partition("=")[::2] for word in words) for words in sorted(given)]

    def first(self, line: str) -> int:
        """Where the call that begins with `line` stands among all."""
        texts = [" ".join((c.program, *c.argv)) for c in self.calls]
        return next(n for n, text in enumerate(texts) if text.startswith(line))


def files() -> dict[str, str]:
    """Everything that is committed: the document's workflows unchanged, and what they need."""
    blocks = seed_document.workflows()
    ours = {f".dagu/{id}.yaml": child(id) for id in CHILDREN}
    probe = PROBE.format(programs=" ".join((*PROGRAMS, *stub_programs.HARMLESS)))
    return {
        **{f".dagu/{name}.yaml": text for name, text in blocks.items()},
        **ours,
        ".dagu/probe.yaml": probe,
        "terraform/main.tf": 'variable "region" {}\nvariable "env" {}\n',
        "README.md": "Operations\n",
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Seed:
    """One repository and one folder of stubs for all tests, proven to be all that is reachable."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    folder = tmp_path_factory.mktemp("seed")
    stubs = stub_programs.make(folder / "stubs", PROGRAMS)
    remote = make_remote(folder / "remotes")
    remote.write(files())
    for name in SCRIPTS:
        (remote.work / name).write_text(stubs.text())
        (remote.work / name).chmod(0o755)
    remote.change({})
    (folder / "home").mkdir()
    seed = Seed(remote, stubs, folder / "home")
    prove_that_only_stubs_are_reachable(seed)
    return seed


def prove_that_only_stubs_are_reachable(seed: Seed) -> None:
    """Asks the engine's own shell, in the environment that the workflows get."""
    blocks = seed_document.workflows()
    wanted = set().union(*map(seed_document.programs, blocks.values()))
    assert wanted - {"cd"} <= {*PROGRAMS, *(f"./{name}" for name in SCRIPTS)}
    said = {step["name"]: step["log"]["tail"] for step in seed.run("probe").summary["steps"]}
    assert said["path"].strip() == str(seed.stubs.path), "PATH must be the one folder"
    found = (Path(word) for word in (seed.remote.work / "probed").read_text().split())
    resolved = {file.name: file for file in found}
    assert resolved.keys() == {*PROGRAMS, *stub_programs.HARMLESS}
    for name in PROGRAMS:
        assert resolved[name].parent == seed.stubs.path
        assert not resolved[name].is_symlink()
        assert resolved[name].read_text() == seed.stubs.text()
    assert {"find", "tar", "rsync", "apt-get", "terraform", "docker", "aws", "python"} <= {
        *PROGRAMS
    }


@pytest.fixture
def seed(prepared: Seed) -> Iterator[Seed]:
    yield prepared
    prepared.stubs.forget()


async def behind(
    seed: Seed, workflow: str, *params: str, before: Sequence[Before], stop_at_wait: bool = False
) -> Done:
    """A run in which the steps of `before` have succeeded already."""
    summary = await carried_run.complete(
        seed.remote.work,
        workflow,
        *params,
        before=before,
        environ=seed.environ,
        folder=seed.home / f"carried-{len(list(seed.home.iterdir()))}",
        stop_at_wait=stop_at_wait,
    )
    return Done(summary, seed.stubs.calls())


def unavailable(executor: str) -> str:
    return f"executor {executor} is not available yet"


# The document


def test_the_document_has_the_thirteen_workflows() -> None:
    assert tuple(seed_document.workflows()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_loads_as_it_stands(name: str) -> None:
    found = load(seed_document.workflows()[name].encode(), path=f".dagu/{name}.yaml", id=name)
    assert [str(problem) for problem in found.problems] == []
    assert found.workflow is not None


def test_what_the_document_refers_to_is_what_we_supply() -> None:
    blocks = seed_document.workflows().values()
    assert set().union(*map(seed_document.referenced, blocks)) == set(CHILDREN)


# Daily ETL


def test_etl_extracts_each_source_then_goes_step_by_step(seed: Seed) -> None:
    done = seed.run("daily-etl")
    assert done.status == "succeeded"
    assert set(done.steps.values()) == {"succeeded"}
    assert done.children("extractors/database") == [
        {"SOURCE": "mongodb"},
        {"SOURCE": "mysql"},
        {"SOURCE": "postgres"},
    ]
    date = done.summary["queued_at"][:10]
    assert done.lines == [
        f"python transform.py --date={date}",
        "spark-submit load_to_warehouse.py --input=/tmp/transformed --output=s3://warehouse/",
        "dbt run --models analytics",
    ]
    assert [call.program for call in done.calls[:3]] == ["child"] * 3
    assert {call.cwd for call in done.calls} == {seed.remote.work}
    assert {call.stdin for call in done.calls} == {"none"}


def test_the_children_are_runs_of_their_own_in_the_folder_of_their_parent(seed: Seed) -> None:
    done = seed.run("daily-etl")
    children = [call.env for call in done.calls if call.program == "child"]
    runs = {env["DAG_RUN_ID"] for env in children}
    assert len(runs) == 3
    assert done.summary["run"] not in runs
    assert {env["DAG_NAME"] for env in children} == {"extractors/database"}
    assert {env["GIT_COMMIT"] for env in children} == {done.summary["commit"]}


def test_a_failed_source_fails_the_step_and_the_others_run_all_the_same(seed: Seed) -> None:
    seed.stubs.answer("child", '[ "$2" != SOURCE=postgres ]')
    done = seed.run("daily-etl")
    assert done.status == "failed"
    assert len(done.children("extractors/database")) == 3
    assert done.steps == {
        "extract-sources": "failed",
        "transform-data": "cancelled",
        "load-warehouse": "cancelled",
        "update-analytics": "cancelled",
        "handlerOn.failure": "succeeded",
    }
    assert done.lines == ["notify-data-team.sh"]


def test_the_data_team_is_told_which_step_failed(seed: Seed) -> None:
    seed.stubs.answer("spark-submit", "exit 3")
    done = seed.run("daily-etl")
    told = done.calls[-1]
    assert (told.program, told.cwd) == ("notify-data-team.sh", seed.remote.work)
    assert told.env["DAG_RUN_STATUS"] == "failed"
    assert told.env["DAG_RUN_FAILED_STEPS"] == "load-warehouse"
    assert done.steps["update-analytics"] == "cancelled"


# Data quality

CHECKS = ("check-freshness", "validate-schemas", "anomaly-detection")


def test_the_checks_stand_side_by_side_and_the_report_comes_last(seed: Seed) -> None:
    done = seed.run("data-quality-checks")
    assert done.status == "succeeded"
    assert sorted(done.lines[:3]) == [
        "great_expectations run",
        "python check_freshness.py --table=orders --threshold=3600",
        "python detect_anomalies.py",
    ]
    assert done.lines[3:] == ["python quality_report.py"]


@pytest.mark.parametrize(
    ("program", "step"),
    [
        ("python check_freshness.py", "check-freshness"),
        ("great_expectations", "validate-schemas"),
        ("python detect_anomalies.py", "anomaly-detection"),
    ],
)
def test_a_failed_check_is_reported_and_the_run_succeeds_in_part(
    seed: Seed, program: str, step: str
) -> None:
    seed.stubs.answer(program, "exit 1")
    done = seed.run("data-quality-checks")
    others = dict.fromkeys((*CHECKS, "generate-report"), "succeeded")
    assert (done.status, done.steps) == ("partially_succeeded", {**others, step: "failed"})


def test_the_report_is_made_though_every_check_failed(seed: Seed) -> None:
    for program in (
        "python check_freshness.py",
        "great_expectations",
        "python detect_anomalies.py",
    ):
        seed.stubs.answer(program, "exit 1")
    done = seed.run("data-quality-checks")
    assert done.status == "partially_succeeded"
    assert done.steps == {**dict.fromkeys(CHECKS, "failed"), "generate-report": "succeeded"}


def test_without_a_report_the_quality_run_fails(seed: Seed) -> None:
    seed.stubs.answer("python quality_report.py", "exit 1")
    done = seed.run("data-quality-checks")
    assert (done.status, done.steps["generate-report"]) == ("failed", "failed")


# Deploying an application


def test_without_docker_the_tests_fail_and_nothing_is_built(seed: Seed) -> None:
    done = seed.run("deploy-application")
    assert done.status == "failed"
    assert done.steps == {
        "run-tests": "failed",
        "build-image": "cancelled",
        "deploy": "cancelled",
    }
    assert unavailable("docker") in done.reason("run-tests")
    assert done.calls == []


TESTED = (Before("run-tests"),)


async def test_behind_the_tests_the_image_is_built_and_deployed(seed: Seed) -> None:
    done = await behind(
        seed, "deploy-application", "VERSION=1.4", "ENVIRONMENT=production", before=TESTED
    )
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert done.lines == [
        "docker build -t myapp:1.4 .",
        "docker push registry.example.com/myapp:1.4",
    ]
    assert done.children("deploy/kubernetes") == [{"ENV": "production", "IMAGE": "myapp:1.4"}]
    assert done.calls[-1].program == "child"


async def test_another_environment_gets_an_image_and_no_deployment(seed: Seed) -> None:
    done = await behind(seed, "deploy-application", "ENVIRONMENT=dev", before=TESTED)
    assert (done.status, done.steps["build-image"], done.steps["deploy"]) == (
        *("succeeded", "succeeded", "skipped"),
    )
    assert done.children("deploy/kubernetes") == []


async def test_an_image_that_cannot_be_built_is_not_pushed(seed: Seed) -> None:
    seed.stubs.answer("docker build", "exit 1")
    done = await behind(seed, "deploy-application", before=TESTED)
    assert done.lines == ["docker build -t myapp:latest ."]
    assert (done.status, done.steps["deploy"]) == ("failed", "cancelled")


# Infrastructure


def test_the_infrastructure_is_planned_and_applied(seed: Seed) -> None:
    done = seed.run("provision-infrastructure", "ENVIRONMENT=staging", "REGION=eu-central-1")
    assert done.status == "succeeded"
    assert done.lines == [
        "terraform fmt -check",
        "terraform validate",
        "terraform plan -var=region=eu-central-1 -var=env=staging -out=tfplan",
        "terraform apply -auto-approve tfplan",
        "ansible-inventory --refresh-cache",
        "ansible all -m ping",
    ]
    work = seed.remote.work
    assert [call.cwd for call in done.calls] == [work / "terraform"] * 2 + [work] * 4


def test_production_is_planned_and_not_applied(seed: Seed) -> None:
    done = seed.run("provision-infrastructure", "ENVIRONMENT=production")
    assert (done.status, done.steps) == (
        "succeeded",
        {
            "validate-terraform": "succeeded",
            "plan-changes": "succeeded",
            "apply-changes": "skipped",
            "update-inventory": "skipped",
        },
    )
    assert done.lines[-1].startswith("terraform plan ")


def test_badly_formatted_terraform_stops_before_it_is_validated(seed: Seed) -> None:
    seed.stubs.answer("terraform fmt", "exit 3")
    done = seed.run("provision-infrastructure")
    assert done.status == "failed"
    assert done.lines == ["terraform fmt -check"]
    assert done.steps["apply-changes"] == "cancelled"


# Monthly reports

SALES = "SELECT * FROM sales WHERE month = CURRENT_MONTH"


def test_each_query_becomes_the_param_that_its_item_names(seed: Seed) -> None:
    done = seed.run("monthly-reports")
    assert done.children("queries/extract") == [
        {"sales": "", "inventory": "", "customers": "SELECT * FROM customers WHERE active = true"},
        {"sales": "", "inventory": "SELECT * FROM inventory", "customers": ""},
        {"sales": SALES, "inventory": "", "customers": ""},
    ]


def test_the_reports_get_the_data_whole_and_only_the_mail_is_missing(seed: Seed) -> None:
    seed.stubs.answer(
        "child", """[ "$1" != queries/extract ] || echo "it's \\"quoted\\" & \\$HOME" """
    )
    done = seed.run("monthly-reports")
    reports = done.children("reports/generate")
    assert [given["TYPE"] for given in reports] == ["executive", "finance", "operations"]
    data = json.loads(reports[0]["DATA"])
    assert data["summary"] == {
        **{"total": 3, "succeeded": 3, "failed": 0},
        **{"skipped": 0, "cancelled": 0},
    }
    assert [result["status"] for result in data["results"]] == ["succeeded"] * 3
    assert json.loads(data["results"][0]["item"]) == {"sales": SALES}
    assert data["outputs"] == [{"DONE": """it's "quoted" & $HOME"""}] * 3
    assert {given["DATA"] for given in reports} == {reports[0]["DATA"]}
    assert done.steps == {
        "gather-data": "succeeded",
        "generate-reports": "succeeded",
        "distribute-reports": "failed",
    }
    assert unavailable("mail") in done.reason("distribute-reports")


# Onboarding


def test_accounts_come_first_and_only_the_mail_to_the_manager_is_missing(seed: Seed) -> None:
    done = seed.run("employee-onboarding", "EMPLOYEE_ID=E-7", "START_DATE=2026-12-01")
    assert done.children("onboarding/create-account") == [
        {"SYSTEM": system, "EMPLOYEE": "E-7"} for system in ("aws", "email", "github", "slack")
    ]
    assert [call.program for call in done.calls] == ["child"] * 4 + ["python"] * 2
    assert sorted(done.lines) == [
        "python assign_equipment.py --employee=E-7 --type=developer",
        "python schedule_training.py --employee=E-7 --start=2026-12-01",
    ]
    assert done.steps["notify-manager"] == "failed"
    assert unavailable("mail") in done.reason("notify-manager")


def test_an_employee_with_shell_in_the_name_is_only_a_name(seed: Seed) -> None:
    name = "$(child${IFS}owned)`child`;child"
    done = seed.run("employee-onboarding", f"EMPLOYEE_ID={name}")
    given = done.children("onboarding/create-account")
    assert [item["EMPLOYEE"] for item in given] == [name] * 4
    assert ("python", f"--employee={name}") in {(c.program, (*c.argv, "")[1]) for c in done.calls}
    assert len(done.calls) == 6


def test_equipment_that_is_missing_does_not_keep_training_back(seed: Seed) -> None:
    seed.stubs.answer("python assign_equipment.py", "exit 1")
    done = seed.run("employee-onboarding")
    assert (done.steps["assign-equipment"], done.steps["schedule-training"]) == (
        "failed",
        "succeeded",
    )
    assert done.steps["notify-manager"] == "cancelled"


# Backup


def test_the_databases_are_backed_up_before_the_files(seed: Seed) -> None:
    done = seed.run("backup-critical-systems")
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert done.children("backup/database") == [
        {"name": "mysql", "host": "db2.internal", "path": "/backups/mysql"},
        {"name": "postgres", "host": "db1.internal", "path": "/backups/postgres"},
    ]
    called = [c for c in done.calls if c.program != "child"]
    assert [c.program for c in called] == ["rsync", "tar", "python", "aws"]
    assert called[0].argv == ("-avz", "/var/app/", "/backups/files/")
    assert re.fullmatch(r"/backups/app-\d{8}\.tar\.gz", called[1].argv[1])
    assert called[3].argv == (
        *("s3", "sync", "/backups/", "s3://backup-bucket/", "--storage-class", "GLACIER"),
    )


def test_the_check_gets_the_results_of_the_backups_as_one_word(seed: Seed) -> None:
    done = seed.run("backup-critical-systems")
    (check,) = [c for c in done.calls if c.program == "python"]
    script, results = check.argv
    assert script == "verify_backups.py"
    assert json.loads(results)["summary"]["succeeded"] == 2


def test_a_database_that_cannot_be_saved_stops_the_backup(seed: Seed) -> None:
    seed.stubs.answer("child", '[ "$2" != name=mysql ]')
    done = seed.run("backup-critical-systems")
    assert done.status == "failed"
    assert done.steps["backup-databases"] == "failed"
    assert done.lines == []


def test_a_failed_check_of_the_backups_is_tried_again(seed: Seed) -> None:
    seed.stubs.answer("python", "exit 1")
    done = stopped_while_it_waits(seed, "backup-critical-systems", "verify-backups")
    assert done.steps["verify-backups"] == "cancelled"
    assert done.steps["upload-offsite"] == "cancelled"
    assert "aws" not in {call.program for call in done.calls}


# Maintenance

FIND = (
    "find /var/log -name *.log -mtime +7 -exec gzip {} ;",
    "find /var/log -name *.gz -mtime +30 -delete",
    "find /tmp -type f -atime +7 -delete",
    "find /var/tmp -type f -atime +7 -delete",
)
OPTIMIZE = ("optimize-mysql.sh", "optimize-postgres.sh", "optimize-redis.sh")
UPDATES = ["apt-get update", "apt-get upgrade -y", "apt-get autoremove -y"]


def test_the_system_is_cleaned_and_then_updated(seed: Seed) -> None:
    done = seed.run("system-maintenance")
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert sorted(done.lines[:7]) == sorted((*FIND, *OPTIMIZE))
    assert done.lines[7:] == UPDATES
    assert done.first(FIND[0]) < done.first(FIND[1])
    assert done.first(FIND[2]) < done.first(FIND[3])


def test_a_database_that_cannot_be_optimized_keeps_the_updates_back(seed: Seed) -> None:
    seed.stubs.answer("optimize-mysql.sh", "exit 1")
    done = seed.run("system-maintenance")
    assert done.status == "failed"
    assert done.steps == {
        "rotate-logs": "succeeded",
        "clean-temp": "succeeded",
        "optimize-databases": "failed",
        "system-updates": "cancelled",
    }
    assert sorted(done.lines) == sorted((*FIND, *OPTIMIZE))


# Genomics


def test_without_docker_the_genome_is_not_even_looked_at(seed: Seed) -> None:
    done = seed.run("genomics-analysis", "SAMPLE_ID=S1")
    assert done.status == "failed"
    assert done.steps == {
        "quality-control": "failed",
        "alignment": "cancelled",
        "variant-calling": "cancelled",
        "annotation": "cancelled",
    }
    assert unavailable("docker") in done.reason("quality-control")
    assert done.calls == []


ALIGNED = (Before("quality-control"), Before("alignment"))


async def test_behind_the_alignment_variants_are_called_and_annotated(seed: Seed) -> None:
    seed.stubs.answer("samtools", "echo sorted")
    seed.stubs.answer("bcftools call", "cat")
    seed.stubs.answer("bcftools mpileup", "echo piled")
    done = await behind(seed, "genomics-analysis", "SAMPLE_ID=S1", "REFERENCE=hg19", before=ALIGNED)
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert sorted(done.lines) == [
        "bcftools call -mv",
        "bcftools mpileup -f /ref/hg19.fa sorted.bam",
        "samtools sort aligned.sam",
        "vep --input_file variants.vcf --output_file annotated.vcf",
    ]
    assert (done.first("samtools"), done.first("vep")) == (0, 3)
    assert (seed.remote.work / "sorted.bam").read_text() == "sorted\n"


async def test_unsorted_reads_end_the_analysis(seed: Seed) -> None:
    seed.stubs.answer("samtools", "exit 1")
    done = await behind(seed, "genomics-analysis", before=ALIGNED)
    assert done.lines == ["samtools sort aligned.sam"]
    assert (done.status, done.steps["annotation"]) == ("failed", "cancelled")


# Machine learning

MODELS = [
    {"DATA": "/data/q1", "MODEL": "catboost", "PARAMS": "depth=6 learning_rate=0.03"},
    {"DATA": "/data/q1", "MODEL": "lightgbm", "PARAMS": "num_leaves=31 learning_rate=0.05"},
    {"DATA": "/data/q1", "MODEL": "xgboost", "PARAMS": "max_depth=6 learning_rate=0.1"},
]


def trained(seed: Seed, evaluation: str) -> Done:
    seed.stubs.answer("python prepare_dataset.py", "echo /data/q1")
    seed.stubs.answer("python evaluate_models.py", f"echo '{evaluation}'")
    return seed.run("ml-training-pipeline", "EXPERIMENT=try-3")


def test_a_model_above_the_limit_is_deployed(seed: Seed) -> None:
    best = '{"name":"xgboost","accuracy":0.87}'
    done = trained(seed, best)
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert done.children("ml/train") == MODELS
    assert done.lines == [
        "python prepare_dataset.py --input=s3://raw-data/2024_Q1 --output=/data/prepared/",
        "python evaluate_models.py --experiment=try-3 --metrics=accuracy,f1,roc_auc",
        f"python deploy_model.py --model={best} --endpoint=production",
    ]
    assert done.first("child ml/train") == 1


@pytest.mark.parametrize(
    ("accuracy", "deployed"),
    [("0.79", False), ("0.8", False), ("0.80", True), ("0.99", True), ("1.0", False)],
)
def test_the_accuracy_decides_as_it_is_printed(seed: Seed, accuracy: str, deployed: bool) -> None:
    done = trained(seed, f'{{"accuracy":{accuracy}}}')
    assert done.status == "succeeded"
    assert done.steps["deploy-winner"] == ("succeeded" if deployed else "skipped")
    assert len(done.lines) == (3 if deployed else 2)


def test_an_evaluation_that_is_no_json_fails_before_the_deployment(seed: Seed) -> None:
    done = trained(seed, "no winner")
    assert (done.status, done.steps["deploy-winner"]) == ("failed", "failed")
    assert "BEST_MODEL" in done.reason("deploy-winner")
    assert len(done.lines) == 2


def test_a_model_that_cannot_be_trained_ends_it_after_all_were_tried(seed: Seed) -> None:
    seed.stubs.answer("child", '[ "$3" != MODEL=lightgbm ]')
    done = trained(seed, '{"accuracy":0.9}')
    assert done.children("ml/train") == MODELS
    assert done.steps["train-models"] == "failed"
    assert done.steps["evaluate-models"] == done.steps["deploy-winner"] == "cancelled"


# Synchronization


def test_the_changes_reach_every_system(seed: Seed) -> None:
    changes = '[{"id":1,"name":"O\'Neil & \\"Sons\\""}]'
    seed.stubs.answer("python extract_changes.py", f"cat <<'EOF'\n{changes}\nEOF")
    done = seed.run("sync-customer-data")
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert done.children("sync/update-system") == [
        {"SYSTEM": system, "DATA": changes} for system in ("analytics", "billing", "crm", "support")
    ]
    since = done.calls[0].argv[2]
    assert re.fullmatch(r"--since=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", since)
    assert done.lines[1:] == ["python transform_customer_data.py", "python verify_consistency.py"]
    assert done.calls[-1].argv == ("verify_consistency.py",)


def test_a_failed_transformation_is_not_tolerated(seed: Seed) -> None:
    seed.stubs.answer("python transform_customer_data.py", "exit 1")
    done = seed.run("sync-customer-data")
    assert done.status == "failed"
    assert done.steps["update-systems"] == done.steps["verify-sync"] == "cancelled"


def test_an_inconsistent_sync_is_verified_again(seed: Seed) -> None:
    seed.stubs.answer("python verify_consistency.py", "exit 1")
    done = stopped_while_it_waits(seed, "sync-customer-data", "verify-sync")
    assert done.steps["update-systems"] == "succeeded"
    assert done.steps["verify-sync"] == "cancelled"


# API integration


def test_without_http_nothing_is_fetched_and_the_key_is_not_shown(seed: Seed) -> None:
    done = seed.run("api-integration", SECRET_API_KEY="k3y-of-the-api")
    assert done.status == "failed"
    assert done.steps == {
        "authenticate": "failed",
        "fetch-data": "cancelled",
        "process-batches": "cancelled",
        "aggregate-results": "cancelled",
    }
    assert unavailable("http") in done.reason("authenticate")
    assert done.summary["params"] == {"API_KEY": "***", "BATCH_SIZE": "100"}
    assert "k3y-of-the-api" not in json.dumps(done.summary)


AUTHENTICATED = (Before("authenticate", "AUTH_TOKEN", "t0k3n & more"),)


async def test_behind_the_login_each_batch_is_processed(seed: Seed) -> None:
    batches = '["first", "it\'s 2nd", "$(child)"]'
    done = await behind(
        seed, "api-integration", f"BATCHES={batches}", "BATCH_SIZE=7", before=AUTHENTICATED
    )
    assert (done.status, set(done.steps.values())) == ("succeeded", {"succeeded"})
    assert done.children("process/batch") == [
        {"BATCH": batch, "TOKEN": "t0k3n & more"} for batch in ("$(child)", "first", "it's 2nd")
    ]
    fetch, aggregate = (call for call in done.calls if call.program == "python")
    assert fetch.argv == ("fetch_paginated.py", "--token=t0k3n", "&", "more", "--batch=7")
    assert aggregate.argv == ("aggregate.py",)
    assert "t0k3n" not in json.dumps(done.summary)


async def test_without_batches_the_reason_is_told(seed: Seed) -> None:
    done = await behind(seed, "api-integration", before=AUTHENTICATED)
    assert (done.status, done.steps["fetch-data"], done.steps["process-batches"]) == (
        *("failed", "succeeded", "failed"),
    )
    assert "BATCHES" in done.reason("process-batches")
    assert done.steps["aggregate-results"] == "cancelled"


async def test_no_batches_at_all_are_processed_at_once(seed: Seed) -> None:
    done = await behind(seed, "api-integration", "BATCHES=[]", before=AUTHENTICATED)
    assert done.status == "succeeded"
    assert done.children("process/batch") == []
    assert done.lines[-1] == "python aggregate.py"


async def test_a_batch_that_fails_keeps_the_sum_back(seed: Seed) -> None:
    seed.stubs.answer("child", '[ "$2" != BATCH=2 ]')
    done = await behind(seed, "api-integration", "BATCHES=1 2 3", before=AUTHENTICATED)
    assert len(done.children("process/batch")) == 3
    assert (done.status, done.steps["process-batches"]) == ("failed", "failed")
    assert done.steps["aggregate-results"] == "cancelled"


async def test_too_many_requests_are_waited_for(seed: Seed) -> None:
    seed.stubs.answer("python fetch_paginated.py", "exit 429")
    done = await behind(seed, "api-integration", before=AUTHENTICATED, stop_at_wait=True)
    assert (done.status, done.steps["fetch-data"]) == ("cancelled", "cancelled")
    assert done.attempts("fetch-data") == 1


async def test_another_failure_of_the_fetch_is_final(seed: Seed) -> None:
    seed.stubs.answer("python fetch_paginated.py", "exit 1")
    done = await behind(seed, "api-integration", before=AUTHENTICATED)
    assert (done.status, done.steps["fetch-data"]) == ("failed", "failed")
    assert done.attempts("fetch-data") == 1


# Migration


def test_without_rollback_the_traffic_is_switched(seed: Seed) -> None:
    seed.stubs.answer("python migrate_data.py", "echo migrated-42")
    done = seed.run("migrate-to-cloud", "MIGRATION_PHASE=phase2")
    assert done.status == "succeeded"
    assert (done.steps["switch-traffic"], done.steps["rollback"]) == ("succeeded", "skipped")
    assert done.lines == [
        "backup-legacy-system.sh",
        "python migrate_data.py --phase=phase2 --source=legacy --target=cloud",
        "python validate_data.py migrated-42",
        "update-load-balancer.sh --legacy=20 --cloud=80",
    ]


def test_with_rollback_it_is_rolled_back(seed: Seed) -> None:
    done = seed.run("migrate-to-cloud", "ROLLBACK=true")
    assert done.status == "succeeded"
    assert (done.steps["switch-traffic"], done.steps["rollback"]) == ("skipped", "succeeded")
    assert done.lines[-1] == "rollback-migration.sh"


def test_an_invalid_migration_neither_switches_nor_rolls_back(seed: Seed) -> None:
    seed.stubs.answer("python validate_data.py", "exit 1")
    done = seed.run("migrate-to-cloud")
    assert done.status == "failed"
    assert done.steps["switch-traffic"] == done.steps["rollback"] == "cancelled"
    assert done.lines[-1].startswith("python validate_data.py")


# Served: the same, at the commit, started through the API

SERVED: dict[str, dict[str, str]] = {
    "provision-infrastructure": {"ENVIRONMENT": "staging", "REGION": "eu"},
    "employee-onboarding": {"EMPLOYEE_ID": "E-7", "START_DATE": "2026-12-01"},
    "ml-training-pipeline": {"EXPERIMENT": "try-4"},
    "migrate-to-cloud": {"ROLLBACK": "true"},
    "api-integration": {"BATCHES": "[]"},
    "deploy-application": {"VERSION": "2"},
    "genomics-analysis": {"SAMPLE_ID": "S2"},
}
# What the executors that are not built yet let each of these come to.
FAILED_STEP = {
    "employee-onboarding": ("notify-manager", "mail"),
    "api-integration": ("authenticate", "http"),
    "deploy-application": ("run-tests", "docker"),
    "genomics-analysis": ("quality-control", "docker"),
}


@pytest.fixture
def served(seed: Seed, serve: Served) -> Service:
    """The committed workflows behind a service that has the stubs only."""
    serve.environ = {**seed.environ, "SECRET_API_KEY": "k3y-of-the-api"}
    service = serve(str(seed.remote.path), "--poll", "3600", pass_env="SECRET_API_KEY")
    service.fact("catalog_applied")
    return service


def finished(service: Service, run: str) -> dict[str, Any]:
    service.fact("run_finished", run=run)
    summary: dict[str, Any] = service.get(f"/api/v1/runs/{run}")
    return summary


def test_a_service_has_all_workflows_in_force_without_a_problem(served: Service) -> None:
    listed = {flow["workflow"]: flow for flow in served.get("/api/v1/workflows")["workflows"]}
    assert {*NAMES, *CHILDREN} <= listed.keys()
    assert [name for name in NAMES if listed[name]["problems"]] == []
    crons = {name for name in NAMES if "schedule:" in seed_document.workflows()[name]}
    assert {name for name in NAMES if listed[name]["schedules"]} == crons


def test_a_service_runs_what_is_asked_for_with_its_params(seed: Seed, served: Service) -> None:
    seed.stubs.answer("python evaluate_models.py", "echo '{\"accuracy\":0.91}'")
    runs = {name: served.started(name, **params) for name, params in SERVED.items()}
    ends = {name: Done(finished(served, run), []) for name, run in runs.items()}
    for name, done in ends.items():
        failed = [step for step, status in done.steps.items() if status == "failed"]
        step, executor = FAILED_STEP.get(name, ("", ""))
        assert failed == ([step] if step else []), name
        assert done.status == ("failed" if step else "succeeded"), name
        assert not step or unavailable(executor) in done.reason(step)
        assert done.summary["commit"] == seed.remote.git("rev-parse", "HEAD")
    calls = Done({}, seed.stubs.calls())
    assert "terraform plan -var=region=eu -var=env=staging -out=tfplan" in calls.lines
    assert "rollback-migration.sh" in calls.lines
    assert 'python deploy_model.py --model={"accuracy":0.91} --endpoint=production' in calls.lines
    assert len(calls.children("onboarding/create-account")) == 4
    assert len(calls.children("ml/train")) == 3
    assert seed.remote.work not in {call.cwd for call in calls.calls}
    assert {call.env["PATH"] for call in calls.calls} == {str(seed.stubs.path)}
    shown = json.dumps([done.summary for done in ends.values()])
    assert "k3y-of-the-api" not in shown


def test_a_service_gives_a_child_the_folder_of_its_parent(seed: Seed, served: Service) -> None:
    run = served.started("daily-etl")
    done = Done(finished(served, run), seed.stubs.calls())
    assert (done.status, len(done.children("extractors/database"))) == ("succeeded", 3)
    folders = {call.cwd for call in done.calls if call.program in ("child", "spark-submit")}
    assert len(folders) == 1


def test_a_retry_extracts_only_the_source_that_failed(seed: Seed, served: Service) -> None:
    seed.stubs.answer("child", '[ "$2" != SOURCE=postgres ]')
    failed = served.started("daily-etl")
    assert finished(served, failed)["status"] == "failed"
    seed.stubs.forget()
    token = (served.data / "token").read_text().strip()
    answer = httpx2.post(
        f"{served.url}/api/v1/runs/{failed}/retry",
        json={},
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 201, answer.text
    done = Done(finished(served, answer.json()["run"]), seed.stubs.calls())
    assert (done.status, done.summary["retry_of"]) == ("succeeded", failed)
    assert done.children("extractors/database") == [{"SOURCE": "postgres"}]
    assert [line.split()[0] for line in done.lines] == ["python", "spark-submit", "dbt"]


# Waits that are longer than a test


def stopped_while_it_waits(seed: Seed, workflow: str, step: str, *params: str) -> Done:
    """Run until `step` waits for its next attempt, which the summary of the stopped run shows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "runner.cli", "run", workflow, "--", *params],
        cwd=seed.remote.work,
        env=seed.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if step in line and "will be tried again" in line:
                    process.send_signal(signal.SIGINT)
        except BaseException:
            process.kill()
            raise
    text = "".join(said)
    assert process.returncode == 130, text
    assert "will be tried again" in text
    marks = {"✔": "succeeded", "■": "cancelled", "✘": "failed"}
    found = re.findall(r"^([✔■✘]) ([\w-]+)(?: \(|:)", text, re.MULTILINE)
    return Done(
        {
            "status": "cancelled",
            "steps": [{"name": n, "status": marks[m], "reason": ""} for m, n in found],
            "handlers": [],
        },
        seed.stubs.calls(),
    )
