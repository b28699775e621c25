from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from git_remotes import Remote
from house import House
from trees import Trees, growing

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


@pytest.fixture
async def trees(house: House, tmp_path: Path) -> AsyncIterator[Trees]:
    """The house with runs that are carried out."""
    async with growing(Trees(house, tmp_path)) as trees:
        yield trees
