"""What assembly hands to the HTTP door: plain values and the few functions it may call.

Knows no route. Everything that an endpoint needs to read or to start comes through `Doors`, so
that an endpoint reads no setting and no environment. One rule: nothing here is optional to
security; the token, the secrets and the host names have no defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from runner.language.model import Param
from storage.mask import Mask
from storage.records import DeliveryRow, RunRow
from storage.store import Store


class ScheduleLine(Protocol):
    """One live schedule of one workflow; a workflow with three schedules has three lines."""

    @property
    def repository(self) -> str: ...

    @property
    def workflow(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def schedule(self) -> str:
        """The five fields as written."""

    @property
    def zone(self) -> str:
        """IANA name."""

    @property
    def kind(self) -> str:
        """What its slots do: start, stop or restart."""

    @property
    def next_at(self) -> datetime | None:
        """The next slot, aware UTC."""


class StartByHand(Protocol):
    """Starts a run because a person or a program asked.

    A second call with the same `request` answers the run of the first. Raises an error whose
    message is meant for the caller where the workflow cannot be started.
    """

    async def __call__(
        self,
        repository: str | None,
        workflow: str,
        *,
        params: Sequence[Param],
        actor: str,
        request: str | None,
    ) -> RunRow: ...


class Endpoint(Protocol):
    """Starts a run because something was sent to its workflow's own endpoint.

    `delivery` is stored with the run. The run, and whether it was made now: a second call with the
    same `request` answers the run of the first. Raises an error whose message is meant for the
    sender where nothing can be started.
    """

    async def __call__(
        self, delivery: DeliveryRow, workflow: str, *, body: bytes, request: str | None
    ) -> tuple[RunRow, bool]: ...


LogPaths = Callable[[str, str, int | None, int | None], Awaitable[Sequence[Path]]]


class Requests(Protocol):
    """What a person or a program asks of a run that exists. Each returns when the request is a
    fact of the run, and raises a `RequestRefused` whose message is meant for the caller."""

    async def stop(self, run: str, *, by: str) -> RunRow:
        """Stop it; a second call kills."""

    async def retry(
        self,
        run: str,
        *,
        from_step: str | None,
        all_steps: bool,
        actor: str,
        request: str | None,
    ) -> RunRow:
        """The new run. A second call with the same `request` answers the run of the first."""

    async def approve(
        self, run: str, *, step: str | None, agreed: bool, by: str, comment: str
    ) -> RunRow:
        """Let the step go on, or refuse it; `step` None: the only one that waits."""


@dataclass(frozen=True)
class Doors:
    """What the app may use.

    `hook_secrets`: repository → its secrets, more than one while they are rotated; none: hooks
    are refused. `repositories`: name → URL, path or `owner/name`. `nudge(repository)` means
    "look now" and may be called at any time, any number of times. `log_paths(run, step,
    attempt, item)`: the files with the output of an attempt (None: the newest) of a step or an item
    of it, one or, where stdout is by itself, stdout and stderr; they need not exist.
    `hosts`: names that a Host header may hold, without port. `closing` is set when the service
    stops: open streams end at once. `why_queued(run)`: what a queued run waits for, as far as that
    is known. `own_refs`: full refs that only this service pushes.
    `mask(run)`: what hides the secrets of a run that goes on, whose logs are not scrubbed yet; the
    logs of a final run are, so an empty mask will do for it.
    """

    store: Store
    clock: Callable[[], datetime]
    token: str
    hook_secrets: Mapping[str, tuple[bytes, ...]]
    repositories: Mapping[str, str]
    nudge: Callable[[str], None]
    start: StartByHand
    endpoint: Endpoint
    requests: Requests
    log_paths: LogPaths
    schedules: Callable[[], Sequence[ScheduleLine]]
    hosts: tuple[str, ...]
    version: str
    ready: Callable[[], bool]
    why_queued: Callable[[str], str] = lambda run: ""
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    mask: Callable[[str], Mask] = field(default=lambda run: Mask())
    own_refs: frozenset[str] = frozenset({"refs/heads/dagmill/status"})
    max_hook_bytes: int = 5 * 1024 * 1024
