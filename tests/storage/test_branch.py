"""Files on a branch of a real remote: built without a working tree, pushed without force."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from git_remotes import GitHttpServer, GitSshServer, Remote, git

from storage.branch import Changes, TreeView, build_tree, publish
from storage.mirror import (
    AccessDenied,
    Credential,
    GitError,
    LostRace,
    Mirror,
    PushRefused,
    configure_git,
)

AT = datetime(2026, 11, 20, 10, tzinfo=UTC)
BRANCH = "dagmill/status"
REF = f"refs/heads/{BRANCH}"

Open = Callable[[object], Mirror]


@pytest.fixture
def open_mirror(tmp_path: Path) -> Iterator[Open]:
    opened: list[Mirror] = []

    def open_it(url: object, credential: Credential | None = None) -> Mirror:
        path = tmp_path / f"mirror-{len(opened)}.git"
        opened.append(Mirror(path, url=str(url), credentials=lambda _: credential, deadline_s=30))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


@pytest.fixture(params=["folder", "http"])
def url(request: pytest.FixtureRequest, remote: Remote, git_http: GitHttpServer) -> str:
    return str(remote.path) if request.param == "folder" else git_http.url(remote)


def put(mirror: Mirror, changes: Changes, *, branch: str = BRANCH, tries: int = 5) -> str | None:
    return edit_with(mirror, lambda _: changes, branch=branch, tries=tries)


def edit_with(
    mirror: Mirror, edit: Callable[[TreeView], Changes], *, branch: str = BRANCH, tries: int = 5
) -> str | None:
    return publish(
        mirror,
        branch=branch,
        edit=edit,
        message=lambda changes: f"{len(changes)} files [skip ci]\n",
        author_name="Dagmill",
        author_email="dagmill@example.com",
        at=AT,
        tries=tries,
    )


def meanwhile(remote: Remote, files: dict[str, str]) -> str:
    """Someone else commits on the status branch, over there."""
    before = remote.tip(REF)
    remote.git("fetch", "-q", str(remote.path), "+refs/heads/*:refs/remotes/there/*")
    if before:
        remote.git("switch", "-q", "--detach", f"refs/remotes/there/{BRANCH}")
    else:
        remote.git("switch", "-q", "--orphan", "theirs")
    commit = remote.commit(files)
    remote.push(f"HEAD:{REF}")
    return commit


def test_an_absent_branch_begins_with_a_commit_without_parents(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    main = remote.change({"a": "1"})

    commit = put(open_mirror(url), {"README.md": b"hello\n", "runs/2026/x.json": b"{}"})

    assert remote.tip(REF) == commit
    assert remote.files(REF) == ["README.md", "runs/2026/x.json"]
    assert remote.show(REF, "README.md") == "hello"
    assert git("log", "--format=%an <%ae> %cI %P|%s", REF, cwd=remote.path) == (
        "Dagmill <dagmill@example.com> 2026-11-20T10:00:00+00:00 |2 files [skip ci]"
    )
    assert remote.tip("refs/heads/main") == main
    git("fsck", "--strict", cwd=remote.path)


def test_an_empty_repository_can_be_published_to(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    assert put(open_mirror(url), {"a": b"1"}) == remote.tip(REF)


def test_the_next_commit_stands_on_the_last_and_changes_only_its_files(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    mirror = open_mirror(url)
    first = put(mirror, {"a": b"1", "deep/b": b"1", "deep/er/c": b"1"})

    second = put(mirror, {"deep/b": b"2", "a": None, "new/d": b"1", "absent": None})

    assert git("rev-parse", f"{REF}~1", cwd=remote.path) == first
    assert remote.tip(REF) == second
    assert remote.files(REF) == ["deep/b", "deep/er/c", "new/d"]
    git("fsck", "--strict", cwd=remote.path)


def test_a_folder_goes_with_its_last_file_and_names_may_change_kind(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    mirror = open_mirror(url)
    put(mirror, {"x/y/z": b"1", "file": b"1", "folder/a": b"1", "stays": b"1"})

    put(
        mirror,
        {"x/y/z": None, "file": None, "file/inner": b"2", "folder/a": None, "folder": b"2"},
    )

    assert remote.files(REF) == ["file/inner", "folder", "stays"]
    git("fsck", "--strict", cwd=remote.path)


@pytest.mark.parametrize("changes", [{}, {"a": b"1"}, {"absent/x": None}])
def test_nothing_is_committed_when_the_files_are_as_they_were(
    changes: Changes, remote: Remote, url: str, open_mirror: Open
) -> None:
    mirror = open_mirror(url)
    first = put(mirror, {"a": b"1"})

    assert put(mirror, changes) is None
    assert remote.tip(REF) == first


@pytest.mark.parametrize("changes", [{}, {"absent": None}])
def test_an_absent_branch_stays_absent_when_there_is_nothing_to_write(
    changes: Changes, remote: Remote, url: str, open_mirror: Open
) -> None:
    assert put(open_mirror(url), changes) is None
    assert remote.tip(REF) is None


def test_an_edit_sees_the_present_tip_of_the_remote(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    meanwhile(remote, {"counter": "41", "runs/one": "1", "runs/deep/two": "2"})
    seen: list[object] = []

    def edit(tree: TreeView) -> Changes:
        seen.extend(
            [tree.list(), tree.list("runs"), tree.list("counter"), tree.read("runs"), tree.read("")]
        )
        return {"counter": str(int(tree.read("counter") or b"0") + 1).encode()}

    edit_with(open_mirror(url), edit)

    everything = ("counter", "runs/deep/two", "runs/one")
    assert seen == [everything, everything[1:], (), None, None]
    assert remote.show(REF, "counter") == "42"


def test_a_link_on_the_branch_is_not_read(remote: Remote, url: str, open_mirror: Open) -> None:
    (remote.work / "link").symlink_to("/etc/passwd")
    meanwhile(remote, {"a": "1"})
    read: list[bytes | None] = []

    edit_with(open_mirror(url), lambda tree: read.append(tree.read("link")) or {})

    assert read == [None]


def test_an_edit_is_made_again_on_what_the_winner_left(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    mirror = open_mirror(url)
    calls = 0

    def edit(tree: TreeView) -> Changes:
        nonlocal calls
        calls += 1
        if calls == 1:
            meanwhile(remote, {"theirs": "1"})
        return {"ours": b"1"}

    commit = edit_with(mirror, edit)

    assert calls == 2
    assert remote.tip(REF) == commit
    assert {"ours", "theirs"} <= set(remote.files(REF))


def test_a_branch_reset_over_there_in_mid_publish_is_not_brought_back(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    mirror = open_mirror(url)
    first = put(mirror, {"a": b"1"})
    put(mirror, {"secret": b"taken back"})
    calls = 0

    def edit(tree: TreeView) -> Changes:
        nonlocal calls
        calls += 1
        if calls == 1:
            git("update-ref", REF, str(first), cwd=remote.path)
        return {"b": b"1"}

    edit_with(mirror, edit)

    assert remote.files(REF) == ["a", "b"]
    assert git("rev-list", "--count", REF, cwd=remote.path) == "2"


def test_a_race_that_is_always_lost_ends_after_its_tries(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    calls = 0

    def edit(tree: TreeView) -> Changes:
        nonlocal calls
        calls += 1
        meanwhile(remote, {"theirs": str(calls)})
        return {"ours": b"1"}

    with pytest.raises(LostRace, match="3 times"):
        edit_with(open_mirror(url), edit, tries=3)

    assert calls == 3
    assert "ours" not in remote.files(REF)


def test_two_publishers_at_once_both_get_their_files_there(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    mirrors = [open_mirror(url), open_mirror(url)]
    # The first edits of both wait for each other, so that they build on the same tip.
    together = threading.Barrier(2)

    def work(number: int) -> list[str | None]:
        commits = []
        for n in range(3):
            first = True

            def edit(tree: TreeView, n: int = n) -> Changes:
                nonlocal first
                if first:
                    first = False
                    together.wait(20)
                return {f"by-{number}/{n}": b"1"}

            commits.append(edit_with(mirrors[number], edit))
        return commits

    with ThreadPoolExecutor(2) as pool:
        commits = [commit for done in pool.map(work, range(2)) for commit in done]

    assert remote.files(REF) == [f"by-{number}/{n}" for number in range(2) for n in range(3)]
    history = git("rev-list", REF, cwd=remote.path).split()
    assert sorted(history) == sorted(str(commit) for commit in commits)


def test_a_hook_that_says_no_is_told_in_its_own_words(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    remote.hook("pre-receive", 'echo "status branches are frozen" >&2; exit 1\n')
    mirror = open_mirror(git_http.url(remote))
    edits: list[TreeView] = []

    with pytest.raises(PushRefused, match="status branches are frozen") as raised:
        edit_with(mirror, lambda tree: edits.append(tree) or {"a": b"1"})

    assert raised.value.reason == "pre-receive hook declined: status branches are frozen"
    assert len(edits) == 1
    assert remote.tip(REF) is None
    assert mirror.seen().refs == {}


def test_a_hook_that_agrees_sees_an_ordinary_push(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open, tmp_path: Path
) -> None:
    remote.hook("pre-receive", f"cat >{tmp_path}/pushed\n")

    commit = put(open_mirror(git_http.url(remote)), {"a": b"1"})

    assert (tmp_path / "pushed").read_text() == f"{'0' * 40} {commit} {REF}\n"


def test_a_remote_that_may_only_be_read_denies(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    git("config", "http.receivepack", "false", cwd=remote.path)

    with pytest.raises(AccessDenied, match="403"):
        put(open_mirror(git_http.url(remote)), {"a": b"1"})


def test_a_branch_of_a_name_that_is_a_folder_of_another_is_refused_with_the_remedy(
    remote: Remote, url: str, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    remote.push("main:refs/heads/dagmill")

    with pytest.raises(PushRefused, match="rename one of them"):
        put(open_mirror(url), {"a": b"1"})


def test_a_working_copy_gets_the_branch_without_its_files_being_touched(
    remote: Remote, open_mirror: Open
) -> None:
    remote.commit({"a": "1"})
    remote.write({"a": "edited", "untracked": "x"})
    before = remote.git("status", "--porcelain")
    mirror = open_mirror(remote.work)

    commit = put(mirror, {"status": b"1"})

    assert remote.git("rev-parse", REF) == commit
    assert remote.git("status", "--porcelain") == before
    with pytest.raises(PushRefused, match="checked out"):
        put(mirror, {"a": b"2"}, branch="main")


def test_publishing_over_ssh_works(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Callable[..., Mirror], isolated_home: Path
) -> None:
    home = isolated_home / "git"
    configure_git(home, connect_timeout_s=10, io_timeout_s=20, known_hosts=git_ssh.known_hosts)
    try:
        mirror = open_mirror(git_ssh.url(remote), Credential(ssh_key_file=git_ssh.client_key))
        commit = put(mirror, {"a": b"1"})
    finally:
        configure_git(home, connect_timeout_s=10, io_timeout_s=20)

    assert remote.tip(REF) == commit


def test_publishing_behind_a_credential_works(
    remote: Remote, git_http: GitHttpServer, open_mirror: Callable[..., Mirror]
) -> None:
    git_http.credential = ("ada", "secret")

    commit = put(open_mirror(git_http.url(remote), Credential("ada", "secret")), {"a": b"1"})

    assert remote.tip(REF) == commit


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "../a", "a/../b", ".git/config", "a/.git", "./a", "a\0b"]
)
def test_a_path_that_git_cannot_hold_is_refused(
    path: str, remote: Remote, open_mirror: Open
) -> None:
    mirror = open_mirror(remote.path)

    with pytest.raises(GitError, match="cannot be a name in git"):
        put(mirror, {path: b"1"})
    assert remote.tip(REF) is None


def test_a_path_cannot_be_file_and_folder_at_once(remote: Remote, open_mirror: Open) -> None:
    with pytest.raises(GitError, match="both a file and a folder"):
        put(open_mirror(remote.path), {"a": b"1", "a/b": b"1"})


def test_only_changed_folders_are_written_again(remote: Remote, open_mirror: Open) -> None:
    mirror = open_mirror(remote.path)
    put(mirror, {f"runs/{month}/{day}/x": b"1" for month in range(12) for day in range(28)})
    repository = mirror.repository()
    commit = repository[str(remote.tip(REF))]
    before = {oid for oid in repository.odb}

    build_tree(repository, commit.tree, changes={"runs/3/4/y": b"2"})

    # The blob, and one tree for each level on its way: 4, 3, runs and the root.
    assert len({oid for oid in repository.odb} - before) == 5
