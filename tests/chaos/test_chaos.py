"""The short form of the storm: few kills, the same checks. `make chaos` is the long one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import victim
from chaos.storm import Storm, rage

pytestmark = pytest.mark.timeout(300)  # under half a minute, on a machine that is busy otherwise


def test_nothing_is_lost_or_done_twice_when_the_service_is_killed(
    tmp_path: Path, require: Callable[[str], None]
) -> None:
    require("git")
    report = rage(Storm(seed=4, kills=6), folder=tmp_path / "storm")
    assert report.violations == [], str(report)
    assert report.figures["runs"], "nothing ran, so nothing was tried"


def test_nothing_is_done_twice_when_the_machine_is_switched_off(
    tmp_path: Path, require: Callable[[str], None]
) -> None:
    require("git")
    why = victim.why_no_power_cut(tmp_path)
    if why is not None and os.environ.get("DAGMILL_REQUIRE") == "all":
        pytest.fail(f"power cuts are required here: {why}")
    if why is not None:
        pytest.skip(f"needs a namespace of its own: {why}")
    report = rage(Storm(seed=5, kills=3, power_cut=True), folder=tmp_path / "storm")
    assert report.violations == [], str(report)
    assert report.figures["runs"], "nothing ran, so nothing was tried"
