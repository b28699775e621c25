"""`dagmill next`: the coming slots of the working tree's schedules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import cli
from runner.cli.next import fires_after
from runner.cli.validate import check

STEPS = "steps: [{command: echo}]\n"
AT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


@pytest.fixture
def workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".dagu"
    folder.mkdir()
    (folder / "plain.yaml").write_text(STEPS)
    (folder / "hourly.yaml").write_text(f'schedule: "0 * * * *"\n{STEPS}')
    (folder / "office.yaml").write_text(
        "timezone: Europe/Vienna\n"
        'schedule: {start: "0 9 * * *", stop: "0 17 * * *", restart: "30 12 * * *"}\n'
        f"{STEPS}"
    )
    return folder


def show(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["next", *arguments])


def test_slots_of_all_workflows_come_in_order(workflows: Path) -> None:
    fires = list(islice(fires_after(check(Path()).entries, AT, zone="UTC"), 6))
    assert [(f.workflow, f.what, f.local) for f in fires] == [
        ("hourly", "start", "2026-11-23T09:00+00:00"),
        ("hourly", "start", "2026-11-23T10:00+00:00"),
        ("hourly", "start", "2026-11-23T11:00+00:00"),
        ("office", "restart", "2026-11-23T12:30+01:00"),
        ("hourly", "start", "2026-11-23T12:00+00:00"),
        ("hourly", "start", "2026-11-23T13:00+00:00"),
    ]


def test_json_has_as_many_as_were_asked_for(workflows: Path) -> None:
    document = json.loads(show("-n", "3", "--json").output)
    assert len(document["fires"]) == 3 and document["broken"] == []
    first = datetime.fromisoformat(document["fires"][0]["at"])
    assert datetime.now(UTC) < first <= datetime.now(UTC) + timedelta(hours=1)


def test_one_file_is_asked_alone(workflows: Path) -> None:
    result = show(".dagu/office.yaml", "-n", "5")
    assert result.exit_code == 0
    assert "hourly" not in result.output and result.output.count("office") == 5


def test_a_schedule_without_a_zone_follows_the_setting(workflows: Path) -> None:
    result = show(".dagu/hourly.yaml", "-n", "1", "--timezone", "Asia/Tokyo")
    assert "+09:00" in result.output
    wrong = show("--timezone", "Asia/Tokio")
    assert wrong.exit_code == 2 and "Asia/Tokyo" in wrong.output


def test_a_broken_file_is_left_out_and_said(workflows: Path) -> None:
    (workflows / "bad.yaml").write_text('schedule: "61 * * * *"\n' + STEPS)
    result = show("-n", "1")
    assert result.exit_code == 2
    assert "hourly" in result.output and ".dagu/bad.yaml" in result.output


def test_nothing_scheduled_is_nothing(workflows: Path) -> None:
    result = show(".dagu/plain.yaml")
    assert (result.exit_code, result.output) == (0, "")
