"""Reading the values of declared secrets: at each start of a run, and never from what is stored.

Knows the three places that they come from and who may read what: variables that a setting allows,
files below a folder, a command with 30 s. Its rule: a message names the secret and the remedy, and
holds no value.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from runner.engine import workspace
from runner.engine.scope import Evaluated, Evaluation, ScopeError, check_value, exported
from runner.language import patterns
from runner.language.model import Secret, SecretSource
from storage.mask import SHORTEST

COMMAND_TIMEOUT_S = 30.0
LARGEST_SECRET = 64 * 1024

# called with the command and its time limit in seconds
Evaluate = Callable[[Evaluation, float], Awaitable[Evaluated]]


@dataclass(frozen=True, slots=True)
class SecretAccess:
    """Where secrets may come from: names (or patterns with `*`) of `environment`, None: all; files
    below `folder`, None: any file."""

    environment: Mapping[str, str] = field(default_factory=dict)
    allowed: tuple[str, ...] | None = None
    folder: Path | None = None


NO_ACCESS = SecretAccess(allowed=(), folder=Path("/nonexistent"))


async def read(
    secrets: Iterable[Secret],
    access: SecretAccess,
    *,
    base: Mapping[str, str],
    cwd: Path,
    evaluate: Evaluate,
) -> dict[str, str]:
    """Name → value. `base` is the environment of commands, `cwd` what paths are relative to where
    any file may be read. Raises ScopeError."""
    found: dict[str, str] = {}
    for secret in secrets:
        match secret.source:
            case SecretSource.ENV:
                value = _from_environment(secret, access)
            case SecretSource.FILE:
                value = await asyncio.to_thread(_from_file, secret, access, cwd)
            case SecretSource.COMMAND:
                value = await _from_command(secret, base=base, evaluate=evaluate)
            case _:
                assert_never(secret.source)
        check_value(f"secret {secret.name}", value)
        found[secret.name] = value
    return found


def too_short(values: Mapping[str, str]) -> list[str]:
    """Names of the secrets that cannot be masked, since their values are too short."""
    return sorted(name for name, value in values.items() if len(value) < SHORTEST)


def _from_environment(secret: Secret, access: SecretAccess) -> str:
    name = secret.text
    if access.allowed is not None and not patterns.any_match(access.allowed, name):
        raise ScopeError(
            f"secret {secret.name}: the variable {name} may not be read; add it to the setting "
            "secret_env"
        )
    value = access.environment.get(name)
    if value is None:
        raise ScopeError(f"secret {secret.name}: the variable {name} is not set where dagmill runs")
    return value


def _from_file(secret: Secret, access: SecretAccess, cwd: Path) -> str:
    where = access.folder if access.folder is not None else cwd
    path = Path(os.path.realpath(where / secret.text))
    if access.folder is not None and not path.is_relative_to(os.path.realpath(access.folder)):
        raise ScopeError(
            f"secret {secret.name}: the file {secret.text} is not below secrets_dir "
            f"({access.folder}); move it there, or set secrets_dir"
        )
    try:
        data = workspace.read(path, most=LARGEST_SECRET)
    except OSError as error:
        problem = error.strerror or "cannot be read"
        raise ScopeError(
            f"secret {secret.name}: the file {path}: {problem}; put it there"
        ) from error
    if len(data) > LARGEST_SECRET:
        raise ScopeError(f"secret {secret.name}: the file {path} has over {LARGEST_SECRET} bytes")
    return data.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")


async def _from_command(secret: Secret, *, base: Mapping[str, str], evaluate: Evaluate) -> str:
    what = f"the command of secret {secret.name}"
    wanted = Evaluation(("/bin/sh", "-c", secret.text), exported(base), what)
    evaluated = await evaluate(wanted, COMMAND_TIMEOUT_S)
    if evaluated.exit_code != 0:
        raise ScopeError(f"{what} failed with exit code {evaluated.exit_code}; try it by hand")
    if not evaluated.stdout:
        raise ScopeError(f"{what} printed nothing; it must print the value")
    return evaluated.stdout
