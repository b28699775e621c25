"""Fixtures of the provoked faults: a disk that can be filled up, with a service's data on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hasty import HASTY
from service_process import Served, services
from small_disk import SmallDisk, mounted


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """12 MiB."""
    with mounted(tmp_path / "disk", size="12m") as disk:
        yield disk


@pytest.fixture
def serve(serve: Served) -> Served:
    """Starts `dagmill serve` that does not wait long before it tries again."""
    serve.within = HASTY
    return serve


@pytest.fixture
def serve_on_disk(disk: SmallDisk) -> Iterator[Served]:
    """Starts `dagmill serve` with its data on `disk`."""
    with services(disk.folder / "data") as served:
        served.within = HASTY
        yield served
