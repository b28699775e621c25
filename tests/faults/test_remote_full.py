"""A remote whose disk is full: the words say so, whichever way it is reached."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from git_remotes import Remote, git_http_server
from small_disk import SmallDisk, mounted

from storage.mirror import Mirror, Unreachable


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "small", size="1m") as disk:
        yield disk


def pushed(url: str, folder: Path) -> str:
    """A push of the mirror's own tip to a new branch; what was said against it."""
    mirror = Mirror(folder / "mirror.git", url=url)
    try:
        (tip,) = mirror.fetch().refs.values()
        repository = mirror.repository()
        signature = repository[tip].author
        blob = repository.create_blob(bytes(range(256)) * 200)
        builder = repository.TreeBuilder()
        builder.insert("file", blob, 0o100644)
        commit = repository.create_commit(None, signature, signature, "x", builder.write(), [tip])
        with pytest.raises(Unreachable) as refused:
            mirror.push(str(commit), branch="status", expected=None)
    finally:
        mirror.close()
    return str(refused.value)


def test_a_full_disk_of_a_remote_in_a_folder_is_named(
    disk: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    remote.change({"a": "1"})
    place = shutil.copytree(remote.path, disk.folder / "ops.git")
    disk.fill()
    said = pushed(str(place), tmp_path)
    assert "the disk there is full" in said
    assert "is the URL right" not in said


def test_a_full_disk_of_a_server_is_suspected(
    disk: SmallDisk, remote: Remote, tmp_path: Path
) -> None:
    remote.change({"a": "1"})
    place = shutil.copytree(remote.path, disk.folder / "ops.git")
    disk.fill()
    with git_http_server(disk.folder) as server:
        said = pushed(f"{server.base}/{place.name}", tmp_path)
    assert "has its disk room?" in said
    assert "is the URL right" not in said


def test_a_full_disk_of_our_own_is_not_laid_to_the_remote(disk: SmallDisk, remote: Remote) -> None:
    remote.change({"a": "1"})
    mirror = Mirror(disk.folder / "mirror.git", url=str(remote.path))
    mirror.fetch()
    remote.change({"b": "".join(map(str, range(200_000)))})
    disk.fill()
    with pytest.raises(Unreachable, match="has the disk of the data folder room"):
        mirror.fetch()
    mirror.close()
