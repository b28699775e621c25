"""Deliveries as GitHub sends them: recorded bodies, made headers, real signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "tests/payloads/github"
# A larger collection that may lie beside a checkout; the tests do not need it.
BESIDE = ROOT.parent / "shared/payloads"


@dataclass(frozen=True)
class Sample:
    """One recorded body with the event that it was sent for ("" : not recorded)."""

    name: str
    file: Path
    event: str

    @property
    def body(self) -> bytes:
        return self.file.read_bytes()

    @property
    def full_name(self) -> str:
        repository = json.loads(self.body).get("repository") or {}
        return str(repository.get("full_name") or "")

    def __str__(self) -> str:
        return self.name


def own(name: str) -> Sample:
    event = name.split("_of_")[0] if name.startswith("ping") else name
    return Sample(name, OWN / f"{name}.json", "push" if name.startswith("push") else event)


def samples() -> list[Sample]:
    return [own(file.stem) for file in sorted(OWN.glob("*.json"))] + list(_beside())


def _beside() -> Iterator[Sample]:
    manifest = BESIDE / "MANIFEST.json"
    if not manifest.exists():
        return
    for item in json.loads(manifest.read_text("utf-8")):
        if item["forge"] == "github":
            event = item["headers"].get("X-GitHub-Event", "")
            yield Sample(item["path"], BESIDE / item["path"], event)


def signature(body: bytes, secret: bytes) -> str:
    return "sha256=" + hmac.new(secret, body, hashlib.sha256).hexdigest()


def headers(body: bytes, *, secret: bytes, event: str = "push") -> dict[str, str]:
    return {
        "Content-Type": "application/json",
        "User-Agent": "GitHub-Hookshot/0123456",
        "X-GitHub-Event": event,
        "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
        "X-GitHub-Hook-ID": "292430182",
        "X-Hub-Signature-256": signature(body, secret),
    }
