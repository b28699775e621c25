"""The git program as it is started: isolated, bounded, and gone when it should be."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest
from git_remotes import Remote, git

from storage.git_program import GitProgramFailed, gc, locked, run_git
from storage.mirror import Mirror, Unreachable


def run(folder: Path, *args: str, timeout_s: float = 30, limit: int = 1 << 20) -> bytes:
    return run_git(args, cwd=folder, home=folder, timeout_s=timeout_s, output_limit_bytes=limit)


def test_output_comes_back_and_input_goes_in(remote: Remote, tmp_path: Path) -> None:
    oid = run_git(
        ["hash-object", "-w", "--stdin"],
        cwd=remote.path,
        home=tmp_path,
        timeout_s=30,
        output_limit_bytes=100,
        stdin=b"x" * 300_000,
    )

    assert run(remote.path, "cat-file", "-s", oid.decode().strip()) == b"300000\n"


def test_a_failure_has_the_words_of_git(remote: Remote) -> None:
    with pytest.raises(GitProgramFailed, match=r"git cat-file in .*128: fatal: .*nosuch"):
        run(remote.path, "cat-file", "-p", "nosuch")


def test_a_missing_git_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(GitProgramFailed, match="install git"):
        run(tmp_path, "version")


def test_settings_and_variables_of_the_user_do_not_reach_git(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\n\tname = Mallory\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / ".gitconfig"))
    monkeypatch.setenv("GIT_DIR", "/nowhere")

    with pytest.raises(GitProgramFailed):
        run_git(
            ["config", "user.name"],
            cwd=remote.path,
            home=tmp_path,
            timeout_s=30,
            output_limit_bytes=100,
        )
    assert run(remote.path, "rev-parse", "--is-bare-repository") == b"true\n"


@pytest.mark.parametrize("url", ["ext::sh -c touch% hit", "file://{path}", "{path}"])
def test_neither_a_command_nor_a_folder_can_be_cloned(
    url: str, remote: Remote, tmp_path: Path
) -> None:
    remote.change({"a": "1"})

    with pytest.raises(GitProgramFailed, match="not allowed"):
        run(tmp_path, "clone", url.format(path=remote.path), "copy")
    assert not (tmp_path / "hit").exists()


def test_hooks_and_fsmonitor_of_a_repository_do_not_run(remote: Remote, tmp_path: Path) -> None:
    hook = remote.work / ".git/hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hit\n")
    hook.chmod(0o755)
    remote.commit({"a": "1"})
    git("config", "core.fsmonitor", str(hook), cwd=remote.work)

    run(remote.work, "status", "--porcelain")
    run(remote.work, "checkout", "-q", "--detach")

    assert not (tmp_path / "hit").exists()


def alias(folder: Path, script: str) -> None:
    """Make `git trouble` run a script: a git that misbehaves."""
    git("config", "alias.trouble", f"!{script}", cwd=folder)


def test_after_the_timeout_the_whole_group_is_gone(remote: Remote, tmp_path: Path) -> None:
    alias(remote.path, f"sleep 600 & echo $! >{tmp_path}/pid; wait")

    with pytest.raises(GitProgramFailed, match="not done in time"):
        run(remote.path, "trouble", timeout_s=1)

    assert_gone(int((tmp_path / "pid").read_text()))


def test_too_much_output_ends_it(remote: Remote) -> None:
    alias(remote.path, "yes")

    with pytest.raises(GitProgramFailed, match="more than 1000 bytes"):
        run(remote.path, "trouble", limit=1000)


def test_a_flood_of_errors_keeps_its_end(remote: Remote) -> None:
    alias(remote.path, "yes | head -c 1000000 >&2; echo the end >&2; exit 3")

    with pytest.raises(GitProgramFailed, match=r"(?s)ended with 3: .*the end") as raised:
        run(remote.path, "trouble")
    assert len(str(raised.value)) < 3000


def test_a_child_left_behind_neither_blocks_nor_survives(remote: Remote, tmp_path: Path) -> None:
    alias(remote.path, f"sleep 600 & echo $! >{tmp_path}/pid; echo done")

    assert run(remote.path, "trouble") == b"done\n"
    assert_gone(int((tmp_path / "pid").read_text()))


def assert_gone(pid: int) -> None:
    """Killed: gone, or a zombie that whoever inherited it has not reaped yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return
    if state != "Z":
        # It was sent its signal before we were called; dying is not waiting for us.
        pidfd = os.pidfd_open(pid)
        try:
            assert select.select([pidfd], [], [], 10)[0], f"{pid} still runs"
        finally:
            os.close(pidfd)


def test_gc_packs_a_mirror_that_stays_in_use(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror.git", url=str(remote.path))
    commits = []
    for n in range(5):
        commits.append(remote.change({"a": str(n)}))
        mirror.fetch()
        mirror.repository().create_blob(f"loose {n}".encode())
    packs = mirror.path / "objects/pack"
    assert len(list(packs.glob("*.pack"))) == 5

    gc(mirror.path)

    assert len(list(packs.glob("*.pack"))) == 1
    assert [mirror.commit(commit).oid for commit in commits] == commits
    assert mirror.fetch().refs == {"refs/heads/main": commits[-1]}
    mirror.close()


def test_gc_and_a_fetch_wait_for_each_other(remote: Remote, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror.git", url=str(remote.path), deadline_s=0)

    with locked(mirror.path, wait_s=0):
        with pytest.raises(Unreachable, match="busy"):
            gc(mirror.path, wait_s=0)
        with pytest.raises(Unreachable, match="busy"):
            mirror.fetch()
    gc(mirror.path, wait_s=0)
    mirror.close()
