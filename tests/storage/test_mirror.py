"""The mirror against real remotes: folders, `git http-backend` and an ssh server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pygit2
import pytest
from git_remotes import (
    GitHttpServer,
    GitSshServer,
    Remote,
    git,
    git_http_server,
    make_remote,
)

from storage import mirror as mirrors
from storage.mirror import (
    AccessDenied,
    BlobTooLarge,
    BranchMissing,
    Credential,
    Credentials,
    GitError,
    Mirror,
    NotARepository,
    ObjectMissing,
    Unreachable,
    configure_git,
    shown_url,
)
from storage.remote import url_secrets
from storage.store import StorageError

Open = Callable[..., Mirror]
ADA = Credential("ada", "secret")


@pytest.fixture
def open_mirror(tmp_path: Path) -> Iterator[Open]:
    opened: list[Mirror] = []

    def open_it(
        url: object, credentials: Credentials | None = None, *, deadline_s: float = 30
    ) -> Mirror:
        path = tmp_path / "mirror.git"
        opened.append(Mirror(path, url=str(url), credentials=credentials, deadline_s=deadline_s))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


@pytest.fixture
def quick_timeouts(isolated_home: Path) -> Iterator[None]:
    configure_git(isolated_home / "git", connect_timeout_s=0.3, io_timeout_s=0.3)
    yield
    configure_git(isolated_home / "git", connect_timeout_s=10, io_timeout_s=20)


@pytest.fixture
def host_key_known(isolated_home: Path, git_ssh: GitSshServer) -> Iterator[None]:
    home = isolated_home / "git"
    configure_git(home, connect_timeout_s=10, io_timeout_s=20, known_hosts=git_ssh.known_hosts)
    yield
    configure_git(home, connect_timeout_s=10, io_timeout_s=20)


def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("fetched although nothing had changed")

    monkeypatch.setattr(pygit2.Remote, "fetch", refuse)


# --- refs ---


def test_a_folder_and_its_file_url_give_the_same_refs(remote: Remote, open_mirror: Open) -> None:
    commit = remote.change({"a": "1"})
    remote.git("tag", "v1")
    remote.push("v1")

    seen = open_mirror(remote.path).fetch()
    again = open_mirror(remote.path.as_uri()).fetch()

    assert seen.refs == {"refs/heads/main": commit, "refs/tags/v1": commit}
    assert seen.head == "refs/heads/main"
    assert again == seen


def test_an_empty_repository_has_no_refs_and_no_head(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    for url in (remote.path, git_http.url(remote)):
        seen = open_mirror(url).fetch()

        assert (seen.head, seen.refs) == (None, {})


def test_what_was_fetched_is_seen_from_disk_by_the_next_process(
    remote: Remote, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    seen = open_mirror(remote.path).fetch()

    assert open_mirror(remote.path).seen() == seen


def test_nothing_is_downloaded_when_nothing_changed(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.change({"a": "1"})
    mirror = open_mirror(git_http.url(remote))
    seen = mirror.fetch()
    asked = len(git_http.asked)
    no_download(monkeypatch)

    assert mirror.fetch() == seen
    assert [one.method for one in git_http.asked[asked:]] == ["GET"]


def test_a_force_push_moves_the_ref_and_keeps_the_old_commit_readable(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    old = remote.change({"a": "2"})
    mirror = open_mirror(git_http.url(remote))
    mirror.fetch()

    remote.git("reset", "-q", "--hard", "HEAD~1")
    new = remote.commit({"a": "3"})
    remote.push(force=True)

    assert mirror.fetch().refs["refs/heads/main"] == new
    assert mirror.commit(old).oid == old
    assert not mirror.is_ancestor(old, new)


def test_a_deleted_branch_goes_and_one_below_its_name_comes(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    remote.push("main:refs/heads/topic")
    mirror = open_mirror(git_http.url(remote))
    mirror.fetch()

    remote.push(":refs/heads/topic")
    remote.push("main:refs/heads/topic/one")

    assert mirror.fetch().refs == {"refs/heads/main": commit, "refs/heads/topic/one": commit}


def test_the_default_branch_is_followed_when_it_is_renamed(
    remote: Remote, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    remote.push("main:refs/heads/trunk")
    mirror = open_mirror(remote.path)
    mirror.fetch()

    git("symbolic-ref", "HEAD", "refs/heads/trunk", cwd=remote.path)

    assert mirror.fetch().head == "refs/heads/trunk"
    assert mirror.seen().head == "refs/heads/trunk"


def test_a_detached_remote_head_names_no_default_branch(remote: Remote, open_mirror: Open) -> None:
    commit = remote.change({"a": "1"})
    mirror = open_mirror(remote.path)
    assert mirror.fetch().head == "refs/heads/main"

    git("update-ref", "--no-deref", "HEAD", commit, cwd=remote.path)

    assert mirror.fetch().head is None
    assert mirror.seen().head is None


def test_tags_move_annotated_as_their_own_object_and_peel_to_the_commit(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    first = remote.change({"a": "1"})
    remote.git("tag", "light")
    remote.git("tag", "-a", "-m", "x", "heavy")
    remote.push("light", "heavy")
    mirror = open_mirror(git_http.url(remote))
    before = mirror.fetch()

    second = remote.change({"a": "2"})
    remote.git("tag", "-f", "light")
    remote.git("tag", "-f", "-a", "-m", "y", "heavy")
    remote.push("light", "heavy", force=True)
    after = mirror.fetch()

    assert before.refs["refs/tags/light"] == first
    assert after.refs["refs/tags/light"] == second
    assert after.refs["refs/tags/heavy"] not in (second, before.refs["refs/tags/heavy"])
    assert mirror.peel(before.refs["refs/tags/heavy"]) == first
    assert mirror.peel(after.refs["refs/tags/heavy"]) == second


def test_a_deleted_tag_goes_and_refs_of_other_kinds_are_never_mirrored(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    remote.push("main:refs/tags/v1", "main:refs/pull/1/head")
    mirror = open_mirror(git_http.url(remote))
    mirror.fetch()

    remote.push(":refs/tags/v1")

    assert mirror.fetch().refs == {"refs/heads/main": commit}
    assert "refs/pull/1/head" not in mirror.repository().references


def test_a_thousand_commits_arrive_at_once(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    first = remote.change({"a": "1"})
    mirror = open_mirror(git_http.url(remote))
    mirror.fetch()

    stream = "".join(
        f"commit refs/heads/main\ncommitter A <a@example.com> {1763632800 + n} +0000\n"
        f"data 1\n{n % 10}\n"
        + (f"from {first}\n" if n == 0 else "")
        + f"M 100644 inline n\ndata {len(str(n))}\n{n}\n\n"
        for n in range(1000)
    )
    git("fast-import", "--quiet", "--force", cwd=remote.path, stdin=stream.encode())

    tip = mirror.fetch().refs["refs/heads/main"]
    assert tip == remote.tip("refs/heads/main")
    assert mirror.is_ancestor(first, tip)
    assert mirror.changed_paths(first, tip, default_branch=None) == ("n",)


def test_two_threads_may_fetch_the_same_mirror_at_once(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    mirror = open_mirror(git_http.url(remote))

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(lambda _: mirror.fetch().refs["refs/heads/main"], range(4)))

    assert seen == [commit] * 4


def test_a_branch_that_is_not_there_is_named_with_those_that_are(
    remote: Remote, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    assert mirror.tip("refs/heads/main") == commit
    with pytest.raises(BranchMissing, match="no release; its branches are: main"):
        mirror.tip("refs/heads/release")


# --- URLs and failures ---


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:secret@example.com/ops.git?token=x", "https://example.com/ops.git"),
        ("https://ghp_token@example.com/ops.git", "https://example.com/ops.git"),
        ("ssh://git:secret@example.com:2222/ops.git", "ssh://git@example.com:2222/ops.git"),
        ("git@example.com:team/ops.git", "git@example.com:team/ops.git"),
        ("/srv/ops.git", "/srv/ops.git"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("https://ada:sec%2Fret@example.com/ops.git", ("sec%2Fret", "sec/ret")),
        ("https://ghp_token@example.com/ops.git", ("ghp_token",)),
        ("https://tok:x-oauth-basic@example.com/ops.git", ("x-oauth-basic", "tok")),
        ("ssh://git:secret@example.com:2222/ops.git", ("secret",)),
        ("ssh://git@example.com:2222/ops.git", ()),
        ("git@example.com:team/ops.git", ()),
        ("https://example.com/@ada:x/ops.git", ()),
        ("/srv/ops.git", ()),
    ],
)
def test_the_secrets_of_a_url_are_known(url: str, secrets: tuple[str, ...]) -> None:
    assert url_secrets(url) == secrets


@pytest.mark.parametrize("url", ["ftp://example.com/x", "https:///x", "http://host:port/x"])
def test_a_url_of_no_known_form_is_refused_before_anything_is_made(
    url: str, tmp_path: Path
) -> None:
    with pytest.raises(NotARepository):
        Mirror(tmp_path / "mirror.git", url=url)

    assert not (tmp_path / "mirror.git").exists()


@pytest.mark.parametrize("kind", ["absent folder", "plain folder", "absent on server", "web page"])
def test_what_is_no_repository_is_called_so(
    kind: str, remote: Remote, git_http: GitHttpServer, open_mirror: Open, tmp_path: Path
) -> None:
    git_http.page = b"<html>" if kind == "web page" else None
    url = {
        "absent folder": tmp_path / "nowhere",
        "plain folder": tmp_path,
        "absent on server": f"{git_http.base}/nowhere.git",
        "web page": git_http.url(remote),
    }[kind]

    with pytest.raises(NotARepository, match=str(url)):
        open_mirror(url).fetch()


def test_a_working_copy_can_be_mirrored_too(remote: Remote, open_mirror: Open) -> None:
    commit = remote.commit({"a": "1"})

    assert open_mirror(remote.work).fetch().refs == {"refs/heads/main": commit}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_server_is_unreachable_and_what_was_seen_stays(
    status: int, remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    mirror = open_mirror(git_http.url(remote))
    seen = mirror.fetch()
    git_http.status = status

    with pytest.raises(Unreachable, match=str(status)):
        mirror.fetch()
    assert mirror.seen() == seen


def test_a_closed_port_is_unreachable(remote: Remote, tmp_path: Path, open_mirror: Open) -> None:
    with git_http_server(tmp_path / "remotes") as server:
        url = server.url(remote)

    with pytest.raises(Unreachable, match="refused"):
        open_mirror(url).fetch()


@pytest.mark.usefixtures("quick_timeouts")
def test_a_server_that_says_nothing_is_unreachable(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    git_http.hang = True

    with pytest.raises(Unreachable, match="timed out"):
        open_mirror(git_http.url(remote)).fetch()


def test_a_fetch_ends_at_its_deadline_and_the_next_one_works(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})

    with pytest.raises(Unreachable, match="deadline"):
        open_mirror(git_http.url(remote), deadline_s=0).fetch()

    assert open_mirror(git_http.url(remote)).fetch().refs == {"refs/heads/main": commit}


def test_a_folder_that_is_no_mirror_is_said_to_be_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "mirror.git"
    path.mkdir()
    (path / "HEAD").write_text("nonsense")

    with pytest.raises(GitError, match="delete the folder"):
        Mirror(path, url=str(tmp_path))


# --- credentials ---


def test_a_repository_behind_a_credential_is_fetched_with_it(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    git_http.credential = ("ada", "secret")
    asked: list[str] = []

    def credentials(url: str) -> Credential:
        asked.append(url)
        return ADA

    assert open_mirror(git_http.url(remote), credentials).fetch().refs == {
        "refs/heads/main": commit
    }
    assert set(asked) == {git_http.url(remote)}


def test_a_credential_in_the_url_works_and_is_neither_kept_nor_shown(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    git_http.credential = ("ada", "s3cr3t")
    url = git_http.url(remote).replace("http://", "http://ada:s3cr3t@")
    mirror = open_mirror(url)

    assert mirror.fetch().head == "refs/heads/main"
    assert "s3cr3t" not in mirror.url
    assert not [
        path for path in mirror.path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()
    ]
    git_http.credential = ("ada", "changed")
    with pytest.raises(AccessDenied) as raised:
        mirror.fetch()
    assert "s3cr3t" not in str(raised.value)


def test_a_wrong_credential_is_denied_after_at_most_three_tries(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    git_http.credential = ("ada", "other")

    with pytest.raises(AccessDenied, match="not accepted"):
        open_mirror(git_http.url(remote), lambda _: ADA).fetch()

    assert 1 <= len([one for one in git_http.asked if one.authorization]) <= 3


def test_a_missing_credential_is_denied_and_says_that_none_is_configured(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    git_http.credential = ("ada", "secret")

    with pytest.raises(AccessDenied, match="none is configured"):
        open_mirror(git_http.url(remote)).fetch()


def test_a_forbidden_repository_is_denied(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open
) -> None:
    git_http.status = 403

    with pytest.raises(AccessDenied, match="403"):
        open_mirror(git_http.url(remote), lambda _: ADA).fetch()


def test_a_redirect_to_another_host_never_gets_the_credential(
    remote: Remote, git_http: GitHttpServer, open_mirror: Open, tmp_path: Path
) -> None:
    remote.change({"a": "1"})
    with git_http_server(tmp_path / "remotes") as thief:
        thief.credential = ("ada", "secret")
        git_http.redirect_to = thief.base

        with pytest.raises(AccessDenied, match="redirects to"):
            open_mirror(git_http.url(remote), lambda _: ADA).fetch()

        assert thief.asked
        assert [one for one in thief.asked if one.authorization] == []


def test_a_credential_does_not_print_its_secrets() -> None:
    shown = repr(Credential("ada", "s3cr3t", Path("key"), "passphrase"))

    assert "s3cr3t" not in shown
    assert "passphrase'" not in shown


# --- ssh ---


@pytest.mark.usefixtures("host_key_known")
def test_ssh_with_a_known_host_key_works_as_url_and_as_scp_like_address(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Open
) -> None:
    commit = remote.change({"a": "1"})
    key = Credential(ssh_key_file=git_ssh.client_key)

    for url in (
        git_ssh.url(remote),
        git_ssh.url(remote).replace("git@", ""),
        f"git@[127.0.0.1:{git_ssh.port}]:{remote.path}",
        f"git@[127.0.0.1:{git_ssh.port}]:{remote.path.name}",
    ):
        assert open_mirror(url, lambda _: key).fetch().refs == {"refs/heads/main": commit}


def test_ssh_with_an_unknown_host_key_is_denied_before_any_credential_is_shown(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Open
) -> None:
    def credentials(url: str) -> Credential:
        raise AssertionError("asked for a credential for a host that nobody knows")

    with pytest.raises(AccessDenied, match="known_hosts"):
        open_mirror(git_ssh.url(remote), credentials).fetch()


def test_ssh_with_another_host_key_than_the_known_one_is_denied(
    isolated_home: Path,
    remote: Remote,
    git_ssh: GitSshServer,
    open_mirror: Open,
    tmp_path: Path,
) -> None:
    forged = tmp_path / "known_hosts"
    stranger = git_ssh.stranger_key.with_name("stranger.pub").read_text()
    forged.write_text(f"[127.0.0.1]:{git_ssh.port} {stranger}")
    home = isolated_home / "git"
    configure_git(home, connect_timeout_s=10, io_timeout_s=20, known_hosts=forged)

    key = Credential(ssh_key_file=git_ssh.client_key)
    try:
        with pytest.raises(AccessDenied, match="known_hosts"):
            open_mirror(git_ssh.url(remote), lambda _: key).fetch()
    finally:
        configure_git(home, connect_timeout_s=10, io_timeout_s=20)


@pytest.mark.parametrize("revoked", [False, True])
def test_a_revoked_line_spoils_neither_the_file_nor_its_own_meaning(
    revoked: bool,
    isolated_home: Path,
    remote: Remote,
    git_ssh: GitSshServer,
    open_mirror: Open,
    tmp_path: Path,
) -> None:
    remote.change({"a": "1"})
    known = git_ssh.known_hosts.read_text()
    bad = (
        known.split()[2]
        if revoked
        else git_ssh.client_key.with_suffix(".pub").read_text().split()[1]
    )
    listed = tmp_path / "known_hosts"
    listed.write_text(f"{known}@revoked * ssh-ed25519 {bad} a comment\n")
    home = isolated_home / "git"
    configure_git(home, connect_timeout_s=10, io_timeout_s=20, known_hosts=listed)
    mirror = open_mirror(git_ssh.url(remote), lambda _: Credential(ssh_key_file=git_ssh.client_key))

    try:
        if revoked:
            with pytest.raises(AccessDenied):
                mirror.fetch()
        else:
            assert mirror.fetch().head == "refs/heads/main"
    finally:
        configure_git(home, connect_timeout_s=10, io_timeout_s=20)


@pytest.mark.usefixtures("host_key_known")
def test_ssh_with_a_key_that_is_not_let_in_is_denied_and_ends(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Open
) -> None:
    key = Credential(ssh_key_file=git_ssh.stranger_key)

    with pytest.raises(AccessDenied, match="not accepted"):
        open_mirror(git_ssh.url(remote), lambda _: key).fetch()


@pytest.mark.usefixtures("host_key_known")
def test_ssh_with_an_absent_key_file_or_only_a_password_says_what_is_wanted(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Open, tmp_path: Path
) -> None:
    absent = Credential(ssh_key_file=tmp_path / "no-key")

    with pytest.raises(AccessDenied, match="no such ssh key file"):
        open_mirror(git_ssh.url(remote), lambda _: absent).fetch()
    with pytest.raises(AccessDenied, match="wants an ssh key"):
        open_mirror(git_ssh.url(remote), lambda _: Credential("git")).fetch()


@pytest.mark.usefixtures("host_key_known")
def test_ssh_to_an_absent_repository_is_no_repository(
    remote: Remote, git_ssh: GitSshServer, open_mirror: Open
) -> None:
    key = Credential(ssh_key_file=git_ssh.client_key)

    with pytest.raises(NotARepository):
        open_mirror(git_ssh.url(remote) + "x", lambda _: key).fetch()


# --- commits, snapshots, paths ---


def test_a_commit_tells_who_when_and_its_first_line(remote: Remote, open_mirror: Open) -> None:
    oid = remote.commit(
        {"a": "1"}, message="Load faster\n\nBecause.", at="2026-11-20T11:00:00+01:00"
    )
    remote.push()
    mirror = open_mirror(remote.path)
    mirror.fetch()

    commit = mirror.commit(oid)

    assert (commit.author, commit.subject) == ("Ada", "Load faster")
    assert commit.committed_at.isoformat() == "2026-11-20T10:00:00+00:00"
    with pytest.raises(ObjectMissing):
        mirror.commit("1" * 40)


@pytest.mark.parametrize("oid", ["", "main", "zz", "1" * 40, "1" * 39])
def test_what_is_no_known_commit_peels_to_nothing(
    oid: str, remote: Remote, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    assert mirror.peel(oid) is None


def test_a_snapshot_lists_the_folder_with_links_unfollowed(
    remote: Remote, open_mirror: Open, tmp_path: Path
) -> None:
    (tmp_path / "outside.yaml").write_text("steps: []")
    remote.write({".dagu/etl.yaml": "steps: []\n", ".dagu/sub/x.yaml": "y", "other": "z"})
    (remote.work / ".dagu/link.yaml").symlink_to(tmp_path / "outside.yaml")
    commit = remote.change({})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    snapshot = mirror.snapshot(commit)

    assert [(f.path, f.kind) for f in snapshot.files] == [
        (".dagu/etl.yaml", "file"),
        (".dagu/link.yaml", "link"),
        (".dagu/sub/x.yaml", "file"),
    ]
    assert snapshot.files[0].size_bytes == 10
    assert mirror.read_blob(snapshot.files[0].blob, limit_bytes=10) == b"steps: []\n"
    link = mirror.read_blob(snapshot.files[1].blob, limit_bytes=1000)
    assert link == str(tmp_path / "outside.yaml").encode()


def test_a_snapshot_takes_from_an_earlier_one_what_is_unchanged(
    remote: Remote, open_mirror: Open
) -> None:
    texts = {".dagu/a.yaml": "1", ".dagu/b.yaml": "1", ".dagu/c": "3", ".dagu/sub/d.yaml": "2"}
    first = remote.change(texts)
    remote.write({".dagu/a.yaml": "4", "other": "5"})
    (remote.work / ".dagu/c").unlink()
    (remote.work / ".dagu/c").symlink_to("3")  # the same blob as something else
    second = remote.change({})
    third = remote.change({"other": "6"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    before = mirror.snapshot(first)
    after = mirror.snapshot(second, since=before)

    assert after == mirror.snapshot(second)
    pairs = zip(before.files, after.files, strict=True)
    assert [old is new for old, new in pairs] == [False, True, False, True]
    same = mirror.snapshot(third, since=after)
    assert (same.commit, same.files is after.files) == (third, True)
    assert mirror.snapshot(first, since=after) == before


def test_a_folder_that_is_absent_or_itself_a_link_is_missing(
    remote: Remote, open_mirror: Open
) -> None:
    absent = remote.change({"real/x.yaml": "1"})
    (remote.work / ".dagu").symlink_to("real")
    linked = remote.change({})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    for commit in (absent, linked):
        snapshot = mirror.snapshot(commit)
        assert (snapshot.folder_missing, snapshot.files) == (True, ())
    assert [file.path for file in mirror.snapshot(linked, folder="real").files] == ["real/x.yaml"]


def test_a_submodule_in_the_folder_is_listed_as_one(remote: Remote, open_mirror: Open) -> None:
    first = remote.change({".dagu/x.yaml": "1"})
    remote.git("update-index", "--add", "--cacheinfo", f"160000,{first},.dagu/sub")
    remote.git("commit", "-q", "-m", "submodule")
    remote.push()
    mirror = open_mirror(remote.path)
    commit = mirror.fetch().refs["refs/heads/main"]

    assert [(f.path, f.kind) for f in mirror.snapshot(commit).files] == [
        (".dagu/sub", "submodule"),
        (".dagu/x.yaml", "file"),
    ]


def test_a_path_that_is_not_utf8_is_still_listed(remote: Remote, open_mirror: Open) -> None:
    folder = bytes(remote.work / ".dagu")
    remote.write({".dagu/a.yaml": "1"})
    Path((folder + b"/\xff.yaml").decode(errors="surrogateescape")).write_text("2")
    commit = remote.change({})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    paths = [file.path for file in mirror.snapshot(commit).files]

    assert paths == [".dagu/\\xff.yaml", ".dagu/a.yaml"]


def test_a_blob_over_the_limit_is_refused_and_so_is_what_is_no_blob(
    remote: Remote, open_mirror: Open
) -> None:
    commit = remote.change({".dagu/x.yaml": "12345"})
    mirror = open_mirror(remote.path)
    mirror.fetch()
    blob = mirror.snapshot(commit).files[0].blob

    with pytest.raises(BlobTooLarge, match="5 bytes"):
        mirror.read_blob(blob, limit_bytes=4)
    for other in (commit, "1" * 40):
        with pytest.raises(ObjectMissing):
            mirror.read_blob(other, limit_bytes=10**6)


def test_changed_paths_name_both_sides_of_a_rename_and_deletions(
    remote: Remote, open_mirror: Open
) -> None:
    before = remote.change({"src/a": "x" * 500, "src/deep/b": "1", "same/c": "2", "mode": "3"})
    remote.git("mv", "src/a", "moved")
    (remote.work / "mode").chmod(0o755)
    after = remote.change({"src/deep/b": None, "same/d": "4"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    changed = mirror.changed_paths(before, after, default_branch="refs/heads/main")

    assert changed == ("mode", "moved", "same/d", "src/a", "src/deep/b")


def test_a_file_that_becomes_a_folder_counts_with_all_names(
    remote: Remote, open_mirror: Open
) -> None:
    before = remote.change({"x": "1"})
    remote.git("rm", "-q", "x")
    after = remote.change({"x/y": "1", "x/z": "2"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    assert mirror.changed_paths(before, after, default_branch=None) == ("x", "x/y", "x/z")


@pytest.mark.parametrize("before", [None, "1" * 40])
def test_a_new_branch_is_compared_with_its_merge_base(
    before: str | None, remote: Remote, open_mirror: Open
) -> None:
    remote.change({"old": "1"})
    remote.git("switch", "-q", "-c", "topic")
    remote.change({"a": "1"})
    tip = remote.change({"b": "1"})
    remote.git("switch", "-q", "main")
    remote.change({"on-main": "1"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    assert mirror.changed_paths(before, tip, default_branch="refs/heads/main") == ("a", "b")
    assert mirror.changed_paths(before, tip, default_branch=None) == ("a", "b", "old")
    assert mirror.changed_paths(before, tip, default_branch="refs/heads/no") == ("a", "b", "old")


def test_pins_keep_a_commit_through_gc_when_its_branch_is_gone(
    remote: Remote, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    remote.git("switch", "-q", "-c", "topic")
    pinned = remote.change({"a": "2"})
    mirror = open_mirror(remote.path)
    mirror.fetch()

    mirror.pin(pinned)
    mirror.pin(pinned)
    remote.push(":refs/heads/topic")
    mirror.fetch()
    git("gc", "-q", "--prune=now", cwd=mirror.path)

    assert mirror.pins() == {pinned}
    assert mirror.commit(pinned).oid == pinned
    mirror.unpin(pinned)
    mirror.unpin(pinned)
    git("gc", "-q", "--prune=now", cwd=mirror.path)
    assert mirror.pins() == frozenset()
    assert mirror.peel(pinned) is None


def test_only_what_is_there_can_be_pinned(remote: Remote, open_mirror: Open) -> None:
    mirror = open_mirror(remote.path)

    with pytest.raises(ObjectMissing):
        mirror.pin("1" * 40)


def test_an_old_lock_left_by_a_kill_does_not_stop_the_next_start(
    remote: Remote, open_mirror: Open
) -> None:
    remote.change({"a": "1"})
    mirror = open_mirror(remote.path)
    mirror.fetch()
    lock = mirror.path / "refs/remotes/origin/main.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    os.utime(lock, (1, 1))
    commit = remote.change({"a": "2"})

    assert open_mirror(remote.path).fetch().refs["refs/heads/main"] == commit


def test_a_closed_mirror_says_so(remote: Remote, open_mirror: Open) -> None:
    mirror = open_mirror(remote.path)
    mirror.close()

    with pytest.raises(GitError, match="closed"):
        mirror.seen()


def test_every_error_is_an_error_of_storage() -> None:
    for name in mirrors.__all__:
        kind = getattr(mirrors, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, GitError)
            assert issubclass(kind, StorageError)


def test_two_repositories_do_not_mix(remote: Remote, tmp_path: Path) -> None:
    other = make_remote(tmp_path / "remotes", name="other")
    first, second = remote.change({"a": "1"}), other.change({"b": "2"})

    for one, commit in ((remote, first), (other, second)):
        mirror = Mirror(tmp_path / f"{one.path.name}-mirror", url=str(one.path))
        assert mirror.fetch().refs == {"refs/heads/main": commit}
        mirror.close()
