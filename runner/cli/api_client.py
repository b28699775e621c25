"""Asking a running service: where it is, with which token, and what its refusals mean.

Knows HTTP and problem documents, nothing of runs. One rule: the token that lies in the data
folder goes to a service on this machine only; for any other, DAGMILL_TOKEN must be set.
"""

from __future__ import annotations

import os
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
_F = TypeVar("_F", bound=Callable[..., Any])


class Refused(click.ClickException):
    """The service said no. `status` is HTTP's, 0 where there was no answer."""

    exit_code = 2

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


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
        self._url = url

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
            yield from answer.iter_bytes()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Refused(
                f"no service answers at {self._url}; start one with `dagmill serve REPO`, "
                "or set DAGMILL_URL"
            ) from error
        except (httpx2.HTTPError, httpx2.InvalidURL, UnicodeError) as error:
            raise Refused(
                f"asking {self._url} failed: {str(error) or type(error).__name__}"
            ) from error

    def _answer(self, answer: httpx2.Response) -> Any:
        try:
            document = answer.json()
        except ValueError:
            document = None
        if answer.is_success and document is not None:
            return document
        if not isinstance(document, dict) or "detail" not in document:
            raise Refused(
                f"{self._url} answered {answer.status_code} and not as Dagmill does; "
                "is another program at that address?",
                status=answer.status_code,
            )
        message = str(document["detail"])
        if answer.status_code == httpx2.codes.UNAUTHORIZED:
            message = f"{message}; check DAGMILL_TOKEN, or --data if it is not set"
        elif remedy := document.get("remedy"):
            message = f"{message}; {remedy}"
        raise Refused(message, status=answer.status_code)


def _path(parts: tuple[str, ...]) -> str:
    return "/api/v1/" + "/".join(quote(part, safe="") for part in parts)


def _given(query: Mapping[str, str | int | None] | None) -> dict[str, str | int]:
    return {name: value for name, value in (query or {}).items() if value is not None}
