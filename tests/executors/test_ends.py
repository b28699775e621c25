"""How the exit code of a wrapper is read."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runner.executors.adoption import exited

AT = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(("code", "number"), [(143, 15), (137, 9), (130, 2), (129, 1)])
def test_what_a_shell_says_of_a_signal_is_told_as_one(code: int, number: int) -> None:
    assert (exited(code, at=AT).exit_code, exited(code, at=AT).signal) == (code, number)


@pytest.mark.parametrize("code", [0, 1, 128, 160, 173, 255])
def test_any_other_code_is_only_a_code(code: int) -> None:
    assert (exited(code, at=AT).exit_code, exited(code, at=AT).signal) == (code, None)
