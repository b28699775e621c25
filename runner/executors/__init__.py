"""How a step is carried out: one module per executor, registered here by the name in the YAML."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from runner.executors.base import Executor
from runner.executors.command import CommandExecutor


def registry(*, clock: Callable[[], datetime]) -> dict[str, Executor]:
    """Name → executor."""
    return {"command": CommandExecutor(clock=clock)}
