"""What any forge's hook means to us, and what a provider must be able to do.

A provider authenticates raw bytes and reads hints out of them; `hooks` decides what follows.
One rule: nothing read from a payload is ever the truth, a URL to fetch or a reason to fail.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit


class Kind(StrEnum):
    PING = "ping"
    PUSH = "push"
    OTHER = "other"


class BadSignature(Exception):
    """The delivery is not authentic. The message says what to set, never a secret."""


class BadPayload(Exception):
    """Authentic bytes that are not the JSON object that the forge's documentation promises."""


@dataclass(frozen=True, slots=True)
class Hook:
    """What an authentic delivery says; every text is clipped and may be "".

    `repository` is the sender's name of the repository (`owner/name`), `ref` a full ref,
    `after` a commit or tag object's id. All of them are hints.
    """

    kind: Kind
    event: str
    sender_id: str = ""
    repository: str = ""
    actor: str = ""
    ref: str = ""
    after: str = ""


class Provider(Protocol):
    """One forge. Both methods are pure and may be called concurrently."""

    @property
    def name(self) -> str: ...

    def check_headers(self, headers: Mapping[str, str]) -> None:
        """Raises BadSignature if no body could make these headers authentic."""

    def authenticate(
        self, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[bytes]
    ) -> None:
        """Raises BadSignature unless one of `secrets` signed `body`. Constant time."""

    def read(self, headers: Mapping[str, str], body: bytes) -> Hook:
        """Of authenticated bytes. Raises BadPayload; null or missing members are no error."""


def clip(text: str | None, limit: int = 255) -> str:
    return (text or "")[:limit]


def same_repository(configured: str, named: str) -> bool:
    """Whether `named` (`owner/name`) can be the repository that `configured` points at.

    `configured` is a URL, an scp-like address, `owner/name` or a local path. The path parts are
    compared from the end, without case and `.git`, as far as both go; of a local path only the
    last part counts, because folders know no owners. Enough to notice a hook that was set up
    for another repository: the signature is what authenticates.
    """
    ours, theirs = _parts(configured), _parts(named)
    if not ours or not theirs:
        return True
    if _is_local(configured):
        return ours[-1] == theirs[-1]
    return all(a == b for a, b in zip(reversed(ours), reversed(theirs), strict=False))


def _is_local(address: str) -> bool:
    return address.startswith(("/", "./", "../", "~", "file:"))


def _parts(address: str) -> list[str]:
    if "://" in address:
        path = _path_of(address)
    elif not _is_local(address) and ":" in address:
        path = address.partition(":")[2]  # git@host:owner/name
    else:
        path = address
    parts = [part for part in path.casefold().split("/") if part]
    if parts:
        parts[-1] = parts[-1].removesuffix(".git")
    # A local repository may be given as its inner folder: ops/.git
    return [part for part in parts if part]


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""
