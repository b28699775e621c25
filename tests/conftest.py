"""Fixtures of every test: an isolated home, real git remotes, and `require` for services.

Leaves the remotes themselves to `git_remotes.py`. One rule: no test sees the settings, keys or
environment of the person who runs it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from git_remotes import (
    GitHttpServer,
    GitSshServer,
    Remote,
    git_http_server,
    git_ssh_server,
    make_remote,
)
from hypothesis import settings
from service_process import CREDENTIAL, Served, services

from storage.remote import configure_git

_KEPT = ("DAGMILL_REQUIRE",)

# Of each property test: DAGMILL_EXAMPLES=5000 looks longer than a person waits for `make test`.
settings.register_profile(
    "dagmill", max_examples=int(os.environ.get("DAGMILL_EXAMPLES", "50")), deadline=None
)
settings.load_profile("dagmill")


def _missing_program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"there is no `{name}` program on PATH"


# Service → why it is absent, or None when it is there.
SERVICES: dict[str, Callable[[], str | None]] = {
    "git": _missing_program("git"),
    "docker": _missing_program("docker"),
    "postgres": _missing_program("postgres"),
    "jq": _missing_program("jq"),
    "ssh": _missing_program("ssh"),
}


def require(name: str) -> None:
    """Skip the test, with the reason, when service `name` is absent; with DAGMILL_REQUIRE=all
    (as in CI) fail it instead."""
    reason = SERVICES[name]()
    if reason is None:
        return
    if os.environ.get("DAGMILL_REQUIRE") == "all":
        pytest.fail(f"{name} is required here: {reason}")
    pytest.skip(f"needs {name}: {reason}")


@pytest.fixture(name="require")
def _require() -> Callable[[str], None]:
    return require


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """HOME and all of git's settings point into a temporary folder; no DAGMILL_* is inherited."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith(("DAGMILL_", "GIT_", "XDG_", "SSH_")) and name not in _KEPT:
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
        configure_git(home / "git", connect_timeout_s=10, io_timeout_s=20)
        yield home


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    """An empty bare repository and its working clone."""
    require("git")
    return make_remote(tmp_path / "remotes")


@pytest.fixture
def git_http(tmp_path: Path) -> Iterator[GitHttpServer]:
    """`git http-backend` for the repositories of this test."""
    require("git")
    with git_http_server(tmp_path / "remotes") as server:
        yield server


@pytest.fixture
def git_ssh(tmp_path: Path) -> Iterator[GitSshServer]:
    """An ssh server for the repositories of this test; its host key is not yet known to us."""
    require("git")
    with git_ssh_server(tmp_path / "remotes", folder=tmp_path / "ssh") as server:
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Served]:
    """Starts `dagmill serve` on `tmp_path / "data"`; kills what is left of it."""
    with services(tmp_path / "data") as served:
        yield served


@pytest.fixture
def guarded(remote: Remote, git_http: GitHttpServer) -> str:
    """The URL of `remote` behind a credential; who has CREDENTIAL may read and push."""
    git_http.credential = (CREDENTIAL["git_username"], CREDENTIAL["git_token"])
    return git_http.url(remote)
