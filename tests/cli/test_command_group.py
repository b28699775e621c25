"""The group of commands: names, help, the nearest spelling, exit codes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from click.testing import CliRunner

from runner import cli as command_line
from runner.cli import COMMANDS, cli


def test_help_names_every_command() -> None:
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    for name, words in COMMANDS.items():
        assert name in result.output and words.split()[0] in result.output


@pytest.mark.parametrize(("typed", "meant"), [("vallidate", "validate"), ("log", "logs")])
def test_an_unknown_command_is_told_the_nearest(typed: str, meant: str) -> None:
    result = CliRunner().invoke(cli, [typed])
    assert result.exit_code == 2
    assert f'did you mean "{meant}"?' in result.output


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_there_and_has_help(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("command", ["serve", "run", "demo"])
def test_running_needs_linux_and_says_so(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setattr(command_line.sys, "platform", "darwin")
    result = CliRunner().invoke(cli, [command])
    assert result.exit_code != 0
    assert "needs Linux" in result.output and "darwin" in result.output


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runner.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_the_module_is_the_command() -> None:
    done = process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("dagmill ")


@pytest.mark.parametrize("arguments", [("--nonsense",), ("runs", "--limit", "0"), ("nothing",)])
def test_a_wrong_command_line_ends_with_2_and_a_message(arguments: tuple[str, ...]) -> None:
    done = process(*arguments)
    assert done.returncode == 2
    assert "Error: " in done.stderr and "Traceback" not in done.stderr
