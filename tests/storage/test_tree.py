"""The files of a commit in a folder: exactly those, and nowhere else."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pygit2
import pytest
from git_remotes import Remote
from pygit2.enums import ObjectType

from storage.mirror import GitError, Mirror
from storage.tree import add_git, checkout


@pytest.fixture
def mirrored(remote: Remote, tmp_path: Path) -> Callable[[], Path]:
    def fetch() -> Path:
        mirror = Mirror(tmp_path / "mirror.git", url=str(remote.path))
        mirror.fetch()
        mirror.close()
        return mirror.path

    return fetch


def test_a_commit_is_written_with_modes_and_links_and_without_git(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    remote.write({"run.sh": "#!/bin/sh\n", "deep/er/data.bin": b"\x00\r\n\xff", "plain": "1"})
    (remote.work / "run.sh").chmod(0o755)
    (remote.work / "link").symlink_to("deep/er/data.bin")
    commit = remote.change({})
    remote.change({"plain": "2", "later": "3"})

    folder = tmp_path / "runs/one/work"
    checkout(mirrored(), commit, folder)

    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    assert found == ["deep/er/data.bin", "link", "plain", "run.sh"]
    assert os.access(folder / "run.sh", os.X_OK)
    assert not os.access(folder / "plain", os.X_OK)
    assert (folder / "link").readlink() == Path("deep/er/data.bin")
    assert (folder / "deep/er/data.bin").read_bytes() == b"\x00\r\n\xff"
    assert (folder / "plain").read_text() == "1"


def test_many_folders_from_one_mirror_do_not_know_each_other(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    first = remote.change({"a": "1"})
    second = remote.change({"a": "2"})
    mirror = mirrored()

    for name, commit in (("one", first), ("two", second), ("three", first)):
        checkout(mirror, commit, tmp_path / name)

    texts = [(tmp_path / name / "a").read_text() for name in ("one", "two", "three")]
    assert texts == ["1", "2", "1"]


def test_an_empty_folder_will_do_and_a_used_one_is_left_alone(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    commit = remote.change({"a": "1"})
    mirror = mirrored()
    folder = tmp_path / "work"
    folder.mkdir()
    checkout(mirror, commit, folder)
    (folder / "a").write_text("mine")

    with pytest.raises(GitError, match="fresh folder"):
        checkout(mirror, commit, folder)
    assert (folder / "a").read_text() == "mine"


def test_a_link_is_no_fresh_folder(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    commit = remote.change({"a": "1"})
    (tmp_path / "target").mkdir()
    (tmp_path / "work").symlink_to("target")

    with pytest.raises(GitError, match="fresh folder"):
        checkout(mirrored(), commit, tmp_path / "work")
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize("commit", ["1" * 40, "nonsense"])
def test_an_unknown_commit_leaves_no_folder(
    commit: str, remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    remote.change({"a": "1"})

    with pytest.raises(GitError, match=commit):
        checkout(mirrored(), commit, tmp_path / "work")
    assert not (tmp_path / "work").exists()


def hostile_commit(mirror: Path, entries: list[tuple[bytes, bytes, pygit2.Oid]]) -> str:
    """A commit whose tree git itself would refuse to build: (mode, name, oid) written raw."""
    repository = pygit2.Repository(str(mirror))
    raw = b"".join(mode + b" " + name + b"\0" + oid.raw for mode, name, oid in entries)
    tree = repository.odb.write(ObjectType.TREE, raw)
    who = pygit2.Signature("M", "m@example.com", 0, 0)
    return str(repository.create_commit(None, who, who, "x", tree, []))


@pytest.mark.parametrize("name", [b".git", b"..", b".GIT", b"a/../../evil"])
def test_a_tree_with_a_name_that_escapes_writes_nothing(
    name: bytes, remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    remote.change({"a": "1"})
    mirror = mirrored()
    repository = pygit2.Repository(str(mirror))
    blob = repository.create_blob(b"bad")
    builder = repository.TreeBuilder()
    builder.insert("config", blob, pygit2.enums.FileMode.BLOB)
    folder = builder.write()
    for entry in ((b"100644", name, blob), (b"40000", name, folder)):
        commit = hostile_commit(mirror, [entry])
        work = tmp_path / "deep/work"

        try:
            checkout(mirror, commit, work)
        except GitError:
            assert not work.exists()
        else:
            assert not (work / ".git").exists()
        assert not list(tmp_path.rglob("evil"))
        assert not (tmp_path / "deep/config").exists()


def test_a_tree_that_has_a_link_and_a_folder_of_one_name_writes_nothing_outside(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    remote.change({"a": "1"})
    mirror = mirrored()
    outside = tmp_path / "outside"
    outside.mkdir()
    repository = pygit2.Repository(str(mirror))
    target = repository.create_blob(bytes(outside))
    builder = repository.TreeBuilder()
    builder.insert("file", repository.create_blob(b"bad"), pygit2.enums.FileMode.BLOB)
    folder = builder.write()
    for entries in (
        [(b"120000", b"x", target), (b"40000", b"x", folder)],
        [(b"40000", b"x", folder), (b"120000", b"x", target)],
    ):
        work = tmp_path / f"work-{entries[0][0].decode()}"
        try:
            checkout(mirror, hostile_commit(mirror, entries), work)
        except GitError:
            assert not work.exists()
        assert list(outside.iterdir()) == []


def test_a_checkout_can_be_a_repository_with_its_history_and_without_a_remote(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    first = remote.change({"a": "1"})
    second = remote.change({"a": "2", "run.sh": "x"})
    remote.change({"a": "3"})
    mirror, folder = mirrored(), tmp_path / "work"
    checkout(mirror, second, folder)
    add_git(mirror, second, folder)

    def git(*words: str) -> str:
        told = subprocess.run(
            ["git", *words], cwd=folder, check=True, capture_output=True, text=True
        )
        return told.stdout.strip()

    assert git("rev-parse", "HEAD", "HEAD^") == f"{second}\n{first}"
    assert git("status", "--porcelain=v2", "--branch").split("\n")[1] == "# branch.head (detached)"
    assert git("status", "--porcelain") == ""
    assert git("remote") == git("branch", "--format=%(refname:short)", "--list", "m*") == ""
    (folder / "a").write_text("4")
    assert git("diff", "--name-only") == "a"
    assert str(mirror) not in (folder / ".git/config").read_text()


def test_a_commit_that_is_not_there_makes_no_repository(
    remote: Remote, mirrored: Callable[[], Path], tmp_path: Path
) -> None:
    commit = remote.change({"a": "1"})
    mirror, folder = mirrored(), tmp_path / "work"
    checkout(mirror, commit, folder)
    with pytest.raises(GitError, match="is not in"):
        add_git(mirror, "0" * 39 + "1", folder)
