"""A command loads what it needs and no more: start-up time is what a person waits for.

Each command runs in a fresh interpreter that reports what it had imported when it was done.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("pygit2", "starlette", "uvicorn", "croniter", "jinja2", "httpx2", "rich")

ONE_STEP = """\
steps:
  - name: hello
    command: echo hello
"""

_REPORT = """
import json, sys
from runner.cli import main
sys.argv = ["dagmill", *json.loads(sys.argv[1])]
try:
    main()
except SystemExit as end:
    code = end.code
print("\\n" + json.dumps({"code": code or 0, "modules": sorted(sys.modules)}))
"""


def run_command(folder: Path, *arguments: str) -> tuple[int, set[str]]:
    """(exit code, names of the modules that were loaded) of one command in `folder`."""
    done = subprocess.run(
        [sys.executable, "-c", _REPORT, json.dumps(arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    report = json.loads(done.stdout.splitlines()[-1])
    assert "runner.cli" in report["modules"], "the report does not see what was imported"
    return report["code"], set(report["modules"])


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    workflows = tmp_path / ".dagu"
    workflows.mkdir()
    (workflows / "hello.yaml").write_text(ONE_STEP)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("validate", "."),
        ("run", ".dagu/hello.yaml"),
        ("dry", ".dagu/hello.yaml"),
        ("next", "."),
        ("schema",),
        ("init", "elsewhere"),
    ],
    ids=["help", "validate", "run", "dry", "next", "schema", "init"],
)
def test_a_local_command_loads_no_server_and_no_git(
    repository: Path, arguments: tuple[str, ...]
) -> None:
    code, modules = run_command(repository, *arguments)
    assert code == 0
    assert modules.isdisjoint(HEAVY)


def test_help_loads_no_command(tmp_path: Path) -> None:
    _, modules = run_command(tmp_path, "--help")
    ours = {name for name in modules if name.split(".")[0] in ("runner", "webhook", "storage")}
    assert ours == {"runner", "runner.cli"}


def test_a_client_command_in_a_pipe_loads_no_server_and_no_table(tmp_path: Path) -> None:
    code, modules = run_command(tmp_path, "runs", "--url", "http://127.0.0.1:1", "--data", ".")
    assert code == 2, "there is no token in this folder"
    assert modules.isdisjoint({"pygit2", "starlette", "uvicorn", "croniter", "rich", "structlog"})
