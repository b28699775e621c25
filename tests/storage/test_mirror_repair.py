from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from git_remotes import GitHttpServer, Remote, git

from storage.git_program import LOCK_NAME, gc, locked
from storage.mirror import Mirror, ObjectMissing, Unreachable


def opened(remote: Remote, path: Path, *, url: str | None = None) -> Mirror:
    return Mirror(path, url=url or str(remote.path), deadline_s=20)


@pytest.fixture
def left(remote: Remote, tmp_path: Path) -> tuple[Path, str]:
    """The folder of a mirror whose process is gone, and the commit that it has pinned."""
    pinned = remote.change({".dagu/a.yaml": "1"})
    remote.git("tag", "-a", "v1", "-m", "One")
    remote.push("v1")
    mirror = opened(remote, tmp_path / "ops.git")
    mirror.fetch()
    mirror.pin(pinned)
    mirror.close()
    return tmp_path / "ops.git", pinned


@pytest.mark.parametrize(
    "lock",
    [
        "HEAD.lock",
        "config.lock",
        "packed-refs.lock",
        "FETCH_HEAD.lock",
        "refs/remotes/origin/main.lock",
        "refs/remotes/origin/dagmill/status.lock",
        "refs/tags/v1.lock",
        "gc.pid",
    ],
)
def test_a_lock_that_a_kill_left_refuses_nothing_from_the_next_start_on(
    remote: Remote, left: tuple[Path, str], lock: str
) -> None:
    path, _ = left
    (path / lock).parent.mkdir(parents=True, exist_ok=True)
    (path / lock).touch()
    remote.git("tag", "-f", "-a", "v1", "-m", "Two")
    remote.push("+v1")
    tip = remote.change({"b": "2"})
    remote.push("HEAD:refs/heads/dagmill/status")
    mirror = opened(remote, path)
    assert mirror.fetch().refs["refs/heads/main"] == tip
    assert not (path / lock).exists()
    mirror.close()


def test_a_lock_on_a_pin_does_not_keep_the_commit_from_being_pinned(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, pinned = left
    (path / "refs/pins" / pinned).unlink()
    (path / "refs/pins" / f"{pinned}.lock").touch()
    mirror = opened(remote, path)
    mirror.pin(pinned)
    assert mirror.pins() == {pinned}
    mirror.close()


def test_temporary_files_of_killed_processes_do_not_pile_up(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, _ = left
    (path / "objects/ab").mkdir()
    for name in (
        "objects/tmp_object_git2_aB3xyz",
        "objects/ab/tmp_obj_Xy1234",
        "objects/pack/pack_git2_0a1b2c",
        "objects/pack/tmp_pack_Xy1234",
        "objects/pack/.tmp-77-pack-1234.idx",
        f"objects/pack/pack-{'a' * 40}.idx",
        f"objects/pack/pack-{'a' * 40}.idx.lock",
    ):
        (path / name).write_bytes(b"half")
    before = {file for file in path.rglob("*") if file.is_file()}
    opened(remote, path).close()
    gone = before - {file for file in path.rglob("*") if file.is_file()}
    assert len(gone) == 7


def test_a_lock_is_left_alone_while_a_gc_of_before_still_works(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, _ = left
    lock = path / "refs/tags/v1.lock"
    with locked(path, wait_s=0):  # as the gc does that outlived its service
        lock.touch()
        os.utime(lock, (1, 1))
        mirror = opened(remote, path)
        assert lock.exists()
    remote.git("tag", "-f", "-a", "v1", "-m", "Two")
    remote.push("+v1")
    assert mirror.fetch().refs["refs/tags/v1"] == remote.tip("refs/tags/v1")
    mirror.close()


def test_a_gc_keeps_the_lock_when_the_service_is_killed(
    left: tuple[Path, str], tmp_path: Path
) -> None:
    path, _ = left
    pipe, folder = tmp_path / "ends", tmp_path / "bin"
    os.mkfifo(pipe)
    folder.mkdir()
    (folder / "git").write_text(f"#!/bin/sh\necho begun\nread -r _ <{pipe}\n")
    (folder / "git").chmod(0o755)
    script = textwrap.dedent(
        f"""
        import os, signal, threading
        from pathlib import Path
        from storage import git_program
        # What git says is read by its parent: the first chunk is the moment to die.
        real = os.read
        def read(fd, size):
            chunk = real(fd, size)
            if b"begun" in chunk:
                os.kill(os.getpid(), signal.SIGKILL)
            return chunk
        git_program.os.read = read
        git_program.gc(Path({str(path)!r}))
        """
    )
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    killed = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=Path(__file__).parents[2],
        check=False,
        stdout=subprocess.DEVNULL,
    )
    assert killed.returncode == -9
    with pytest.raises(Unreachable, match="busy"), locked(path, wait_s=0):
        pass
    pipe.write_text("now\n")
    with locked(path, wait_s=20):
        pass


def _emptied(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(b"")


def _zeroed(name: str) -> Callable[[Path], object]:
    return lambda path: (path / name).write_bytes(b"\0" * 41)


def _cut_packed_refs(path: Path) -> None:
    git("pack-refs", "--all", cwd=path)
    packed = path / "packed-refs"
    packed.write_bytes(packed.read_bytes()[:-20])


def _cut_config(path: Path) -> None:
    (path / "config").write_text("[core")


def _no_folders(path: Path) -> None:
    shutil.rmtree(path / "refs")
    shutil.rmtree(path / "objects")


@pytest.mark.parametrize(
    "damage",
    [
        _emptied("refs/remotes/origin/main"),
        _zeroed("refs/tags/v1"),
        _emptied("HEAD"),
        _zeroed("HEAD"),
        _cut_config,
        _cut_packed_refs,
        _no_folders,
    ],
)
def test_small_files_that_a_failing_host_cut_off_are_mended(
    remote: Remote, left: tuple[Path, str], damage: Callable[[Path], object]
) -> None:
    path, pinned = left
    damage(path)
    tip = remote.change({"b": "2"})
    mirror = opened(remote, path)
    assert mirror.fetch().head == "refs/heads/main"
    assert mirror.fetch().refs["refs/heads/main"] == tip
    assert mirror.snapshot(pinned).files
    assert mirror.repairs() or damage is _no_folders
    assert mirror.repairs() == ()
    mirror.close()


def test_an_empty_pin_is_written_again_from_its_name(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, pinned = left
    (path / "refs/pins" / pinned).write_text("")
    mirror = opened(remote, path)
    assert mirror.pins() == {pinned}
    mirror.close()


def test_a_cut_loose_object_is_deleted_before_anything_reads_it(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, _ = left
    oid = git("hash-object", "-w", "--stdin", cwd=path, stdin=b"hello " * 100)
    whole = git("hash-object", "-w", "--stdin", cwd=path, stdin=b"other " * 100)
    file = path / "objects" / oid[:2] / oid[2:]
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[:20])
    mirror = opened(remote, path)
    with pytest.raises(ObjectMissing):
        mirror.read_blob(oid, limit_bytes=1000)
    assert mirror.read_blob(whole, limit_bytes=1000).startswith(b"other")
    mirror.close()


def _damaged(path: Path) -> Path:
    """Where the mirror is once its packs were cut off: libgit2 keeps those of a path open."""
    path = path.rename(path.with_name("moved.git"))
    for pack in (path / "objects/pack").glob("*.pack"):
        whole = pack.read_bytes()
        pack.unlink()
        pack.write_bytes(whole[: len(whole) // 2])
    return path


@pytest.mark.parametrize("news", [False, True])
@pytest.mark.parametrize("over_http", [False, True])
def test_lost_objects_are_fetched_anew_with_what_is_pinned(
    remote: Remote,
    git_http: GitHttpServer,
    left: tuple[Path, str],
    news: bool,
    over_http: bool,
) -> None:
    path, pinned = _damaged(left[0]), left[1]
    tip = remote.change({"b": "2"}) if news else pinned
    mirror = opened(remote, path, url=git_http.url(remote) if over_http else None)
    assert mirror.fetch().refs["refs/heads/main"] == tip
    assert mirror.snapshot(tip).files
    assert mirror.pins() == {pinned}
    # With news from a folder, libgit2 copies whatever is missing by itself.
    assert [said for said in mirror.repairs() if "fetched anew" in said] or (news and not over_http)
    assert [entry.name for entry in path.parent.glob("moved.git*")] == ["moved.git"]
    mirror.close()


def test_a_pin_of_a_rewritten_branch_survives_the_loss_of_other_objects(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, pinned = left
    remote.git("switch", "-q", "--orphan", "new")
    remote.commit({"x": "1"})
    remote.push("+HEAD:refs/heads/main", ":refs/tags/v1")
    mirror = opened(remote, path)
    kept = set((path / "objects/pack").iterdir())
    tip = mirror.fetch().refs["refs/heads/main"]
    mirror.close()
    for pack in set((path / "objects/pack").iterdir()) - kept:
        pack.chmod(0o644)
        os.truncate(pack, 40)
    mirror = opened(remote, path.rename(path.with_name("moved.git")))
    assert mirror.fetch().refs == {"refs/heads/main": tip}
    assert mirror.commit(tip).oid == tip
    assert mirror.snapshot(pinned).files
    assert mirror.pins() == {pinned}
    mirror.close()


def test_a_rebuild_that_cannot_reach_the_remote_leaves_what_is_there(
    remote: Remote, git_http: GitHttpServer, left: tuple[Path, str]
) -> None:
    path, pinned = left
    mirror = opened(remote, path, url=git_http.url(remote))
    mirror.doubt()
    git_http.status = 503
    with pytest.raises(Unreachable):
        mirror.fetch()
    assert mirror.snapshot(pinned).files
    git_http.status = None
    mirror.fetch()
    assert mirror.repairs()
    mirror.close()


def test_a_kill_in_the_middle_of_a_rebuild_loses_nothing(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, pinned = left
    shutil.copytree(path, path.with_name("ops.git.fresh"))
    path.rename(path.with_name("ops.git.damaged"))
    mirror = opened(remote, path)
    assert mirror.pins() == {pinned}
    assert [entry.name for entry in path.parent.glob("ops.git*")] == ["ops.git"]
    mirror.close()


def test_a_damaged_remote_is_not_cloned_at_each_look(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, _ = left
    mirror = opened(remote, path)
    mirror.doubt()
    mirror.fetch()
    mirror.doubt()
    with pytest.raises(ObjectMissing, match="git fsck"):
        mirror.fetch()
    mirror.close()


def test_who_waited_for_a_mirror_that_was_rebuilt_locks_the_new_one(
    remote: Remote, left: tuple[Path, str]
) -> None:
    path, _ = left
    with locked(path, wait_s=0):
        mirror = opened(remote, path)
        aside = path.rename(path.with_name("aside.git"))
        shutil.copytree(aside, path)
        (path / LOCK_NAME).unlink()
    with locked(path, wait_s=5):
        assert (path / LOCK_NAME).exists()
    gc(path)
    mirror.close()
