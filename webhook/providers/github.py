"""GitHub's webhook deliveries: signature, event, and the few hints that we take.

Source: docs.github.com, "Validating webhook deliveries" and "Webhook events and payloads".
Leaves the decision what follows to `hooks`. One rule: the algorithm is pinned to SHA-256; the
legacy sha1 header is never looked at. Pure.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from webhook.providers.base import BadPayload, BadSignature, Hook, Kind, clip

SIGNATURE = "x-hub-signature-256"
_SIGNATURE_FORM = re.compile(r"sha256=[0-9a-fA-F]{64}")


def _text_or_none(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _object_or_none(value: Any) -> Any:
    return value if isinstance(value, dict) else None


# A member of another type than documented is the same as a missing one: never an error.
_Text = Annotated[str | None, BeforeValidator(_text_or_none)]


class _Tolerant(BaseModel):
    model_config = ConfigDict(extra="ignore", defer_build=True)


class _Person(_Tolerant):
    login: _Text = None
    name: _Text = None


class _Repository(_Tolerant):
    full_name: _Text = None


class _Payload(_Tolerant):
    repository: Annotated[_Repository | None, BeforeValidator(_object_or_none)] = None
    sender: Annotated[_Person | None, BeforeValidator(_object_or_none)] = None
    pusher: Annotated[_Person | None, BeforeValidator(_object_or_none)] = None
    ref: _Text = None
    after: _Text = None


class GitHub:
    """The provider of github.com and GitHub Enterprise Server."""

    name = "github"

    def check_headers(self, headers: Mapping[str, str]) -> None:
        given = headers.get(SIGNATURE, "")
        if not given:
            raise BadSignature(
                "the delivery has no X-Hub-Signature-256 header; "
                "set the webhook's secret at GitHub to the secret configured here"
            )
        if not _SIGNATURE_FORM.fullmatch(given):
            raise BadSignature("the X-Hub-Signature-256 header is not sha256= and 64 hex digits")

    def authenticate(
        self, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[bytes]
    ) -> None:
        self.check_headers(headers)
        # Bytes, because compare_digest raises on texts that are not ASCII.
        given = headers[SIGNATURE].lower().encode("utf-8", "replace")
        matches = [
            hmac.compare_digest(given, b"sha256=" + _hex_hmac(secret, body))
            for secret in secrets
            if secret  # an empty secret is no secret: anybody could sign with it
        ]
        if not any(matches):
            raise BadSignature(
                "the signature does not fit; the webhook's secret at GitHub differs from the "
                "secret configured here, or the body was changed on its way"
            )

    def read(self, headers: Mapping[str, str], body: bytes) -> Hook:
        try:
            payload = _Payload.model_validate_json(body)
        except ValidationError as error:
            # Not `str(error)`: it quotes the payload.
            raise BadPayload("the body is not a JSON object") from error
        event = clip(headers.get("x-github-event"), 64)
        person = payload.sender or payload.pusher or _Person()
        return Hook(
            kind={"ping": Kind.PING, "push": Kind.PUSH}.get(event, Kind.OTHER),
            event=event,
            sender_id=clip(headers.get("x-github-delivery"), 64),
            repository=clip(payload.repository.full_name if payload.repository else None),
            actor=clip(person.login or person.name, 100),
            ref=clip(payload.ref, 1024),
            after=clip(payload.after, 64),
        )


def _hex_hmac(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, body, hashlib.sha256).hex().encode("ascii")
