"""Who may ask: the bearer token, the Host header, and what a changing request must look like.

Knows headers only; no route and no user. One rule: nothing depends on the peer's address, since
a proxy in front makes every peer the same.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from webhook.problems import Problem

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def check_host(headers: Headers, *, hosts: tuple[str, ...]) -> None:
    """Problem 421 unless Host names one of `hosts` (any port).

    A page of a stranger whose name was made to resolve to this machine (DNS rebinding) sends
    its own name here.
    """
    given = headers.get("host", "")
    if _hostname(given) not in {host.casefold().strip("[]") for host in hosts}:
        raise Problem(
            421,
            "this service does not answer under that name",
            place="header Host",
            value=given,
            remedy="use one of: " + ", ".join(hosts),
        )


def check_token(headers: Headers, *, token: str) -> None:
    """Problem 401 unless the request carries `token`. Constant time, whatever its length."""
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.casefold() != "bearer" or not given.strip():
        raise _unauthorised("the request has no bearer token", error="")
    # Digests have one length, so that the comparison tells nothing about the token's.
    if not hmac.compare_digest(_digest(given.strip()), _digest(token)) or not token:
        raise _unauthorised("the bearer token is wrong", error=', error="invalid_token"')


def check_change(method: str, headers: Headers) -> None:
    """A request that changes something must be JSON and must not come from a foreign page."""
    if method in _SAFE_METHODS:
        return
    origin = headers.get("origin")
    if origin is not None and _origin_host(origin) != headers.get("host", "").casefold():
        raise Problem(
            403,
            "a page of another site may not change anything here",
            place="header Origin",
            value=origin,
            remedy="call the API from a program, without an Origin header",
        )
    given = headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise Problem(
            415,
            "a request that changes something must be JSON",
            place="header Content-Type",
            value=given,
            remedy="send Content-Type: application/json",
        )


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").casefold()
    except ValueError:
        return ""


def _origin_host(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:
        return ""


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _unauthorised(detail: str, *, error: str) -> Problem:
    return Problem(
        401,
        detail,
        place="header Authorization",
        remedy="send `Authorization: Bearer …` with the token from the file `token` in the "
        "service's data folder",
        headers={"WWW-Authenticate": f'Bearer realm="dagmill"{error}'},
    )
