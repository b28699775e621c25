"""A git server that hangs, drops the connection or refuses: said in words, and never in the way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from git_remotes import GitHttpServer, Remote
from service_process import CREDENTIAL, SECRET, Served, Service, begun, deliver, published

pytestmark = pytest.mark.timeout(180)

WAITS = """
steps:
  - name: waits
    command: "touch begun; until [ -e %s/go ]; do sleep 0.05; done"
"""


def hanging(service: Service, git_http: GitHttpServer) -> None:
    """Let the server fall silent, and the service ask it."""
    git_http.hang = True
    before = len(git_http.asked)
    service.wait(lambda: len(git_http.asked) > before)


def test_a_first_look_that_hangs_can_be_stopped(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer
) -> None:
    begun(remote)
    git_http.hang = True
    service = serve(guarded, **CREDENTIAL)
    service.wait(lambda: git_http.asked)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0  # the server is silent for as long as the test
    service.untroubled()


def test_runs_hooks_and_the_api_go_on_while_a_fetch_hangs(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer, tmp_path: Path
) -> None:
    begun(remote, **{".dagu/waits.yaml": WAITS % tmp_path})
    service = serve(guarded, "--poll", "0.3", hook_secret=SECRET, **CREDENTIAL)
    service.fact("catalog_applied")
    first = service.started("waits")
    service.wait(lambda: list((service.data / "workspaces" / first).glob("begun")))
    hanging(service, git_http)
    answer = deliver(service, remote, ref="refs/heads/main", after="0" * 40)
    assert answer.status_code == 202
    second = service.started("hello")
    assert service.fact("run_finished", run=second)["status"] == "succeeded"
    (tmp_path / "go").touch()
    assert service.fact("run_finished", run=first)["status"] == "succeeded"
    assert service.get(f"/api/v1/runs/{first}")["status"] == "succeeded"
    # Both owe a summary, which cannot be published: it is given up after some seconds.
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(30) == 0
    service.untroubled()
    git_http.stopping.set()
    git_http.hang = False
    again = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    for run in (first, second):
        assert published(again, remote, run=run)["status"] == "succeeded"


def test_a_server_that_refuses_is_quoted_and_a_hook_goes_on_when_it_does_not(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", hook_secret=SECRET, **CREDENTIAL)
    service.fact("catalog_applied")
    assert service.url
    quoted = {500: "status code: 500", 401: "credential", 404: "repository"}
    for n, (status, word) in enumerate(quoted.items(), start=1):
        git_http.status = status
        # A refusal of ours is not soon tried again by itself.
        deliver(service, remote, ref="refs/heads/main", after=f"{n:040x}")
        service.wait(lambda word=word: _has_failed(service, word))
    run = service.started("hello")
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    service.fact("report_postponed", kind="summary")
    git_http.status = None
    pushed = remote.change({"greeting.txt": "two\n"})
    assert deliver(service, remote, ref="refs/heads/main", after=pushed).status_code == 202
    of_push = service.fact("run_admitted", commit=pushed)["run"]
    assert published(service, remote, run=of_push)["status"] == "succeeded"
    assert published(service, remote, run=run)["status"] == "succeeded"
    service.untroubled()


def _has_failed(service: Service, word: str) -> bool:
    return any(word in fact["problem"] for fact in service.facts_of("fetch_failed"))


def test_a_connection_dropped_within_a_pack_is_tried_again(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    git_http.cut_after = 20_000
    pushed = remote.change({"large": os.urandom(300_000).hex()})
    assert git_http.base in service.fact("fetch_failed")["problem"]
    git_http.cut_after = None
    run = service.fact("run_admitted", commit=pushed)["run"]
    assert published(service, remote, run=run)["status"] == "succeeded"
    leftovers = [p.name for p in (service.data / "repositories").rglob("*_git2_*")]
    assert leftovers == []
    service.untroubled()


@pytest.mark.parametrize(
    ("status", "word"),
    [(401, "DAGMILL_GIT_TOKEN"), (403, "403"), (404, "repository"), (500, "500")],
)
def test_a_first_start_that_the_server_refuses_ends_with_its_words(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer, status: int, word: str
) -> None:
    begun(remote)
    git_http.status = status
    (message,) = serve.refused(guarded, **CREDENTIAL).splitlines()
    assert git_http.base in message
    assert word in message


def test_a_name_that_is_nowhere_ends_the_first_start_with_the_remedy(serve: Served) -> None:
    (message,) = serve.refused("http://no-such-host.invalid/ops.git").splitlines()
    assert "no-such-host.invalid" in message
    assert "check the URL and the network" in message
