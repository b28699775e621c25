"""Asking a running service: where it is, with which token, and what its refusals mean.

Knows HTTP and problem documents, nothing of runs. One rule: the token that lies in the data
folder goes to a service on this machine only; for any other, DAGMILL_TOKEN must be set.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import click
import httpx2

DEFAULT_URL = "http://127.0.0.1:8080"
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
# Reading has no deadline here: a followed log may be silent for hours.
_TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
_FOLLOW_TIMEOUT = httpx2.Timeout(None, connect=5.0)
_PATIENCE_S = 60.0  # for so long a service may be away that answered before
_RETRY_S = 0.5
_AWAY = frozenset({502, 503, 504})  # what a proxy says meanwhile
_F = TypeVar("_F", bound=Callable[..., Any])


class Refused(click.ClickException):
    """The service said no. `status` is HTTP's, 0 where there was no answer."""

    exit_code = 2

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(Refused):
    """The service is not there, or went away in the middle of its answer."""


def service_options(command: _F) -> _F:
    """The options of every command that asks a service."""
    command = click.option(
        "--url",
        envvar="DAGMILL_URL",
        default=DEFAULT_URL,
        show_default=True,
        help="The service. [env: DAGMILL_URL]",
    )(command)
    return click.option(
        "--data",
        envvar="DAGMILL_DATA",
        type=click.Path(path_type=Path),
        help="The service's data folder, for its token, where DAGMILL_TOKEN is not set.",
    )(command)


@contextmanager
def connect(url: str, *, data: Path | None) -> Iterator[Service]:
    """The service at `url`. Raises Refused where no token can be found."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f'DAGMILL_URL is "{url}"; it must look like {DEFAULT_URL}')
    local = parts.hostname in _LOOPBACK
    token = os.environ.get("DAGMILL_TOKEN") or _token(url, data=data, local=local)
    if not (token.isascii() and token.isprintable()):
        raise Refused("DAGMILL_TOKEN is not a token: it holds more than printable ASCII")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(
        base_url=url.rstrip("/"),
        headers=headers,
        timeout=_TIMEOUT,
        # A proxy of the environment must not see what stays on this machine.
        trust_env=not local,
        # Certificates take 50 ms to load. Redirects, which could lead to https, are not followed.
        verify=parts.scheme == "https",
    ) as client:
        yield Service(client, url)


def _token(url: str, *, data: Path | None, local: bool) -> str:
    if not local:
        raise Refused(f"{url} is not this machine; set DAGMILL_TOKEN to the token of that service")
    file = (data or _default_data()) / "token"
    try:
        return file.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a token"
        raise Refused(
            f"no token: {file}: {reason}; is the service running, and with which --data? "
            "Give the same --data here, or set DAGMILL_TOKEN"
        ) from error


def _default_data() -> Path:
    from runner.settings import default_data

    return default_data(os.environ)


class Service:
    """The routes of `/api/v1` as calls. Every call may raise Refused."""

    def __init__(self, client: httpx2.Client, url: str) -> None:
        self._client = client
        self.url = url
        self.has_answered = False

    def get(self, *path: str, query: Mapping[str, str | int | None] | None = None) -> Any:
        with self._errors():
            return self._answer(self._client.get(_path(path), params=_given(query)))

    def post(self, *path: str, document: object, idempotency_key: str | None = None) -> Any:
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        with self._errors():
            return self._answer(self._client.post(_path(path), json=document, headers=headers))

    def stream(self, *path: str, query: Mapping[str, str | int | None]) -> Iterator[bytes]:
        """The bytes of an answer as they come."""
        with (
            self._errors(),
            self._client.stream(
                "GET", _path(path), params=_given(query), timeout=_FOLLOW_TIMEOUT
            ) as answer,
        ):
            if answer.is_error:
                answer.read()
                self._answer(answer)
            self.has_answered = True
            yield from answer.iter_bytes()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NoAnswer(
                f"no service answers at {self.url}; start one with `dagmill serve REPO`, "
                "or set DAGMILL_URL"
            ) from error
        except (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError) as error:
            raise NoAnswer(_failed(self.url, error)) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise Refused(_failed(self.url, error)) from error

    def _answer(self, answer: httpx2.Response) -> Any:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.is_success and document is not None:
            self.has_answered = True
            return document
        refused = NoAnswer if answer.status_code in _AWAY else Refused
        if not isinstance(document, dict) or "detail" not in document:
            raise refused(
                f"{self.url} answered {answer.status_code} and not as Dagmill does; "
                "is another program at that address?",
                status=answer.status_code,
            )
        message = str(document["detail"])
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            message = f"{message}; check DAGMILL_TOKEN, or --data if it is not set"
        elif remedy := document.get("remedy"):
            message = f"{message}; {remedy}"
        raise refused(message, status=answer.status_code)


class Outlasting:
    """A service asked about one run, over its restarts: where it answered once and then does not,
    it is asked again for a minute, and a person is told so on stderr."""

    def __init__(self, service: Service, run: str, *, patience_s: float = _PATIENCE_S) -> None:
        self._service = service
        self._run = run
        self._patience_s = patience_s
        self._away_since: float | None = None
        self.outages = 0  # how often an answer failed

    def get(self, *path: str) -> Any:
        while True:
            try:
                answer = self._service.get(*path)
            except NoAnswer as error:
                self._be_patient(error)
            else:
                self._away_since = None
                return answer

    def stream(self, *path: str, query: Mapping[str, str | int | None]) -> Iterator[bytes]:
        """The bytes of an answer as they come. It ends early where the service went away, and
        `outages` has then grown."""
        try:
            for piece in self._service.stream(*path, query=query):
                self._away_since = None
                yield piece
        except NoAnswer as error:
            self._be_patient(error)

    def _be_patient(self, error: NoAnswer) -> None:
        """Wait a moment; Refused once the service has been away for too long."""
        if not self._service.has_answered:
            raise error
        self.outages += 1
        url, run, now = self._service.url, self._run, time.monotonic()
        if self._away_since is None:
            self._away_since = now
            click.echo(
                f"{url} does not answer any more; asking again for {self._patience_s:g} s. "
                f"A restart of the service does not end run {run}.",
                err=True,
            )
        if now - self._away_since >= self._patience_s:
            raise NoAnswer(
                f"no service has answered at {url} for {self._patience_s:g} s; what became of run "
                f"{run} is told by `dagmill show {run}` once it is back"
            ) from error
        time.sleep(_RETRY_S)


def _failed(url: str, error: Exception) -> str:
    return f"asking {url} failed: {str(error) or type(error).__name__}"


def _path(parts: tuple[str, ...]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)


def _given(query: Mapping[str, str | int | None] | None) -> dict[str, str | int]:
    return {name: value for name, value in (query or {}).items() if value is not None}
