"""`dagmill schema`: the JSON Schema for editors, to the screen or into a file."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from runner.cli import cli


def test_the_schema_is_json_that_knows_the_keys() -> None:
    result = CliRunner().invoke(cli, ["schema"])
    assert result.exit_code == 0
    document = json.loads(result.output)
    assert {"steps", "schedule", "handlerOn"} <= document["properties"].keys()


def test_a_file_gets_the_same_and_the_line_for_an_editor_is_shown(tmp_path: Path) -> None:
    file = tmp_path / "dagmill.json"
    result = CliRunner().invoke(cli, ["schema", "-o", str(file)])
    assert result.exit_code == 0
    assert f"$schema={file}" in result.output
    assert json.loads(file.read_text()) == json.loads(CliRunner().invoke(cli, ["schema"]).output)


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["schema", "-o", str(tmp_path / "no/where.json")])
    assert result.exit_code == 2 and "cannot be written" in result.output
