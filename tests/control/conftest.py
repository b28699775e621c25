from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from git_remotes import Remote
from house import House

from storage.mirror import Mirror
from storage.sqlite import open_store


@pytest.fixture
async def house(tmp_path: Path, remote: Remote) -> AsyncIterator[House]:
    """Control of the repository `remote`, which is still empty."""
    store = open_store(tmp_path / "data", durability="process")
    mirror = Mirror(tmp_path / "data/ops.git", url=str(remote.path))
    yield House(remote, store, mirror)
    mirror.close()
    await store.close()
