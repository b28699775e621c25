"""What a person may set for `serve`, from environment and flags, checked once.

One frozen model. A flag beats a `DAGMILL_*` variable, which beats the default; a settings file
with several repositories comes later, below both. Only `assembly` reads the model: everything
else is given plain values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

CREDENTIALS = {
    "hook_secret": "DAGMILL_HOOK_SECRET",
    "git_token": "DAGMILL_GIT_TOKEN",
    "git_username": "DAGMILL_GIT_USERNAME",
    "ssh_key_file": "DAGMILL_SSH_KEY_FILE",
}
"""Settings without a flag: a command line is visible to every user of the machine."""

_FLAGS = {"queues": "queue"}  # that are not named after their settings

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class SettingsError(ValueError):
    """A setting is wrong. The message has one line for each; tell a person."""


def _words(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


def _queues(value: object) -> object:
    """`gpu=2 slow=1`, or such words one by one, as name → most."""
    words = _words(value)
    if not isinstance(words, tuple):
        return words
    found: dict[str, int] = {}
    for word in words:
        name, _, most = str(word).rpartition("=")
        if not name or not most.isdecimal() or name in found:
            raise ValueError(f'"{word}" is not NAME=MAX, such as gpu=2, each name once')
        found[name] = int(most)
    return found


def _labels(value: object) -> object:
    """`gpu=true zone=eu`, as label → value."""
    words = _words(value)
    if not isinstance(words, tuple):
        return words
    pairs = [str(word).partition("=") for word in words]
    for (label, equals, text), word in zip(pairs, words, strict=True):
        if not label or not equals or not text:
            raise ValueError(f'"{word}" is not LABEL=VALUE, such as gpu=true')
    return {label: text for label, _, text in pairs}


def _folder_in_repository(value: str) -> str:
    parts = value.strip("/").split("/")
    if value.startswith("/") or not all(parts) or ".." in parts or "." in parts:
        raise ValueError(f'"{value}" is not a folder inside the repository, such as .dagu')
    return "/".join(parts)


def _zone(value: str) -> str:
    if value not in available_timezones():
        raise ValueError(f'"{value}" is not an IANA time zone, such as Europe/Vienna')
    return value


# Steps and git start in other folders than the service.
_FromHere = Annotated[Path, AfterValidator(Path.absolute)]


class Settings(BaseModel):
    """Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    repository: str = Field(min_length=1)  # URL or path
    name: str = ""  # "" : the last part of the URL
    branch: str | None = None  # None: the remote's HEAD
    watch: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    path: Annotated[str, AfterValidator(_folder_in_repository)] = ".dagu"
    data: _FromHere
    host: str = "127.0.0.1"
    hosts: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()  # further names it has
    port: int = Field(default=8080, ge=0, le=65535)
    poll_s: float = Field(default=30, ge=0.2, le=86400)
    tick_grace_s: float = Field(default=300, ge=0)
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    pass_env: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    secret_env: Annotated[tuple[str, ...], BeforeValidator(_words)] = ()
    secrets_dir: _FromHere | None = None  # None: workflows may read no files as secrets
    durability: Literal["host", "process"] = "host"
    # name → runs of it that may be active at once; 0: any number
    queues: Annotated[dict[str, int], BeforeValidator(_queues)] = Field(default_factory=dict)
    labels: Annotated[dict[str, str], BeforeValidator(_labels)] = Field(default_factory=dict)
    max_steps: int = Field(default=64, ge=1)
    min_free_disk: int = Field(default=500 * 1024 * 1024, ge=0)
    keep_failed_s: float = Field(default=7 * 86400, ge=0)
    drain_s: float = Field(default=20, ge=0)
    summary_quiet_s: float = Field(default=2, ge=0)
    summary_gap_s: float = Field(default=30, ge=0)
    hook_secret: SecretStr | None = None
    git_token: SecretStr | None = None
    git_username: str | None = None
    ssh_key_file: _FromHere | None = None

    @property
    def repository_name(self) -> str:
        return self.name or name_of(self.repository)

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


def load(flags: Mapping[str, object], *, environ: Mapping[str, str]) -> Settings:
    """The settings; `flags` that are None or empty count as not given. Raises SettingsError."""
    values: dict[str, object] = {"data": default_data(environ)}
    for field in Settings.model_fields:
        if text := environ.get(f"DAGMILL_{field.upper()}"):
            values[field] = text
    values.update((name, value) for name, value in flags.items() if value not in (None, (), ""))
    place = str(values.get("repository") or "")
    if place and Path(place).is_dir():
        values["repository"] = str(Path(place).absolute())
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(dict(e)) for e in error.errors())) from None
    if not _NAME.fullmatch(settings.repository_name):
        raise SettingsError(
            f'name: "{settings.repository_name}" cannot name a repository here; '
            "set DAGMILL_NAME to letters, digits, dots, dashes"
        )
    return settings


def name_of(url: str) -> str:
    """The last part of a repository's URL or path, without `.git`."""
    last = re.split(r"[/:]", url.rstrip("/"))[-1]
    return last.removesuffix(".git")


def default_data(environ: Mapping[str, str]) -> Path:
    """`/var/lib/dagmill` as root, else the user's state folder."""
    if os.geteuid() == 0:
        return Path("/var/lib/dagmill")
    state = environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local/state"
    return base / "dagmill"


def _line(error: Mapping[str, object]) -> str:
    place = error.get("loc")
    field = str(place[0]) if isinstance(place, tuple) and place else "settings"
    message = str(error["msg"]).removeprefix("Value error, ")
    flag = _FLAGS.get(field, field.removesuffix("_s"))
    return f"{field}: {message} (flag --{flag} or DAGMILL_{field.upper()})"
