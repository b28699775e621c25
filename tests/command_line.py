"""`dagmill` as a process, asking the served app of `served_door`."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass

import pytest
from served_door import TOKEN


@dataclass(frozen=True)
class Done:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class CommandLine:
    """`dagmill` with a given environment."""

    url: str
    environment: dict[str, str]

    async def start(self, *arguments: str, stdout: int = asyncio.subprocess.PIPE):  # type: ignore[no-untyped-def]
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "runner.cli", *arguments),
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
        )

    async def __call__(self, *arguments: str) -> Done:
        process = await self.start(*arguments)
        out, err = await process.communicate()
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
def dagmill(address: tuple[str, int]) -> CommandLine:
    url = f"http://{address[0]}:{address[1]}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DAGMILL_")}
    return CommandLine(url, kept | {"DAGMILL_URL": url, "DAGMILL_TOKEN": TOKEN})
