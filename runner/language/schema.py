"""A JSON Schema of a workflow file, made from `entries`, for editors. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def form(name: str, inner: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return inner()
