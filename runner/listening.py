"""The socket, the token and the web server of the service, and the signals that end it.

Knows how the process meets the outside; what is served there is the app's. Its rule: what cannot
begin is refused in words before anything has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette


class StartRefused(Exception):
    """The service cannot begin; nothing was started. The message names the remedy."""


def bind(host: str, port: int) -> socket.socket:
    """The listening socket. Raises StartRefused."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # named, else asyncio does not know it for TCP, and each answer waits 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise StartRefused(
            f"cannot listen on {host} port {port}: {error.strerror or error}; "
            "choose another --port or --host (port 0 takes a free one)"
        ) from error
    listener.setblocking(False)
    return listener


def token(file: Path) -> str:
    """The API's token, made once. Raises StartRefused."""
    try:
        if file.exists():
            text = file.read_text().strip()
            if not text:
                raise StartRefused(f"{file} is empty; delete it, a new token is then made")
            return text
        text = secrets.token_urlsafe(32)
        _write_whole(file, text + "\n")
    except OSError as error:
        why = error.strerror or str(error)
        raise StartRefused(
            f"the API's token {file} cannot be kept: {why}; "
            "see to the room, owner and mode of its folder"
        ) from error
    return text


def _write_whole(file: Path, text: str) -> None:
    """All of it or, on a full disk, no file."""
    part = file.with_name(f"{file.name}.new")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(handle)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def url(host: str, listener: socket.socket) -> str:
    """Where this machine reaches the service."""
    port = listener.getsockname()[1]
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared, not bound)
    shown = anywhere.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


class Server(uvicorn.Server):
    """uvicorn without its signal handlers, as stopping has an order, kept by `assembly`; and
    without its look at the clock ten times a second, which cost an idle service most of its CPU."""

    def __init__(self, config: uvicorn.Config, *, closing: asyncio.Event) -> None:
        super().__init__(config)
        self._closing = closing

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await self._closing.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def web_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        loop="none",  # the running one; uvloop's subprocesses are many times slower
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        date_header=False,  # it would stand still without the ticks; `webhook.edge` says the date
        timeout_graceful_shutdown=5,
    )


class Stop:
    """TERM or Ctrl-C came (`asked`), and a second Ctrl-C (`insisted`)."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        self.code = 0

    @property
    def by_a_person(self) -> bool:
        """Ctrl-C, not TERM: somebody is there to insist."""
        return self.code != 0

    def on(self, number: signal.Signals) -> None:
        if self.asked.is_set() and number == signal.SIGINT:
            self.insisted.set()
        if not self.asked.is_set():
            self.code = 130 if number == signal.SIGINT else 0
        self.asked.set()


def stop_signals() -> Stop:
    """What TERM and Ctrl-C say from now on. They are listened to until the process ends: one that
    came while the store is closed would else kill it."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.on, number)
    return stop


def leave_on_signals() -> None:
    """Before anything has begun TERM and Ctrl-C end the process at once, without a traceback, and
    also where it is process 1, which has no default for them. `stop_signals` takes over."""

    def leave(number: int, _frame: object) -> None:
        os._exit(130 if number == signal.SIGINT else 0)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)
