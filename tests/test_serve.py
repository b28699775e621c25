"""`dagmill serve` as a person runs it: a real process, a real git server, pushes, hooks, results.

Each test waits for a fact in the service's log or for an answer of its API, never for time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from git_remotes import GitHttpServer, Remote
from service_process import (
    CREDENTIAL,
    HELLO,
    SECRET,
    STATUS,
    Served,
    Service,
    begun,
    deliver,
    published,
)

pytestmark = pytest.mark.timeout(180)  # several processes, on a machine that others use too

NIGHTLY = """
schedule: "0 2 * * *"
steps:
  - command: "true"
"""
NOSY = """
on: push
steps:
  - command: |
      env
      tr '\\0' '\\n' <"/proc/$PPID/environ" || true
      service=$(ps -o ppid= -p $PPID | tr -d ' ')
      tr '\\0' '\\n' <"/proc/$service/environ" || true
"""


NOSY_OF_ARGUMENTS = """
on: push
steps:
  - command: |
      service=$(ps -o ppid= -p $PPID | tr -d ' ')
      tr '\\0' ' ' <"/proc/$service/cmdline"
      echo s3cret-token-1
"""


def logged(service: Service) -> str:
    """What the only step of the only run printed."""
    (out,) = (service.data / "runs").rglob("out")
    return out.read_text()


def test_a_push_found_by_polling_runs_at_exactly_that_commit_and_its_summary_is_in_git(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied", added=["hello"])
    pushed = remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_finished", workflow="hello")["run"]
    summary = published(service, remote, run=run)
    assert summary["commit"] == pushed
    assert summary["status"] == "succeeded"
    assert summary["trigger"]["type"] == "push"
    assert summary["trigger"]["after"] == pushed
    assert logged(service) == f"hello from {pushed}\ntwo\n"
    assert service.stop() == 0


def test_a_signed_hook_starts_the_run_long_before_the_next_poll(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "3600", hook_secret=SECRET, **CREDENTIAL)
    service.fact("catalog_applied")
    pushed = remote.change({"greeting.txt": "two\n"})
    answer = deliver(service, remote, ref="refs/heads/main", after=pushed)
    assert answer.status_code == 202
    run = service.fact("run_finished", workflow="hello")["run"]
    summary = published(service, remote, run=run)
    assert summary["commit"] == pushed
    assert summary["trigger"]["delivery"] == answer.json()["delivery"]
    assert summary["trigger"]["actor"] == "ada"


DEPLOY = """
on: {webhook: {params: {VERSION: release.tag_name}}}
params: [{VERSION: none}]
steps:
  - command: echo "$VERSION in $REGION by $EVENT_NAME"; cat "$EVENT_PAYLOAD_FILE"
"""
AFTER = """
on: {workflow: {ids: [deploy], status: [succeeded]}}
steps:
  - command: echo "$EVENT_NAME in $REGION"; cat "$EVENT_PAYLOAD_FILE"
"""


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_a_request_to_an_endpoint_starts_a_run_and_its_end_another_whoever_dies(
    serve: Served, remote: Remote, guarded: str, number: signal.Signals | None
) -> None:
    base = "env: [{REGION: eu}]\n"
    files = {"base": base, "deploy": DEPLOY, "after": AFTER}
    remote.change({f".dagu/{name}.yaml": text for name, text in files.items()})
    settings = {"hook_secret": SECRET, **CREDENTIAL}
    service = serve(guarded, "--poll", "3600", **settings)
    service.fact("catalog_applied")
    body = '{"release": {"tag_name": "v1.10"}}'
    answer = httpx2.post(
        f"{service.url}/hooks/ops/deploy",
        content=body,
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {SECRET}"},
        timeout=30,
    )
    assert answer.status_code == 202
    run = answer.json()["run"]
    service.fact("run_finished", run=run, status="succeeded")
    if number is not None:
        service.stop(number)
        service = serve(guarded, "--poll", "3600", **settings)
    followed = service.wait(
        lambda: [
            row["run"]
            for row in service.get("/api/v1/runs?workflow=after")["runs"]
            if row["status"] == "succeeded"
        ]
    )
    assert len(followed) == 1
    assert service.get(f"/api/v1/runs/{followed[0]}")["trigger"]["after_run"] == run
    printed = {out.read_text() for out in (service.data / "runs").rglob("out")}
    assert printed == {
        f"v1.10 in eu by webhook\n{body}",
        f'workflow in eu\n{{"run": "{run}", "workflow": "deploy", "status": "succeeded"}}',
    }


def test_what_a_hook_announced_during_an_outage_runs_once_it_is_over(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "3600", hook_secret=SECRET, **CREDENTIAL)
    service.fact("catalog_applied")
    git_http.status = 503
    pushed = remote.change({"greeting.txt": "two\n"})
    assert deliver(service, remote, ref="refs/heads/main", after=pushed).status_code == 202
    assert "503" in service.fact("fetch_failed")["problem"]
    git_http.status = None
    assert deliver(service, remote, ref="refs/heads/main", after=pushed).json()["duplicate"]
    service.fact("run_admitted", commit=pushed)


def test_the_first_sight_of_a_repository_starts_nothing(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    remote.git("tag", "v1")
    remote.push("v1")
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    seen = remote.change({"greeting.txt": "two\n"})
    service.fact("run_finished")
    assert [run["commit"] for run in service.get("/api/v1/runs")["runs"]] == [seen]


def test_a_commit_with_a_broken_and_a_good_file_schedules_the_good_one_and_keeps_the_other(
    serve: Served, remote: Remote, guarded: str
) -> None:
    first = begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied", added=["hello"])
    second = remote.change(
        {".dagu/nightly.yaml": NIGHTLY, ".dagu/hello.yaml": HELLO + "stepz: []\n"}
    )
    applied = service.fact("catalog_applied", commit=second)
    assert applied["added"] == ["nightly"]
    assert applied["schedules_added"] == ["nightly"]
    assert applied["changed"] == applied["removed"] == []
    problem = service.fact("definition_broken")["problem"]
    assert problem.startswith(".dagu/hello.yaml:")
    assert "stepz" in problem
    started = httpx2.post(
        f"{service.url}/api/v1/runs",
        json={"workflow": "hello"},
        headers={"Authorization": f"Bearer {(service.data / 'token').read_text().strip()}"},
    )
    assert started.status_code == 201, started.text
    summary = published(service, remote, run=started.json()["run"])
    assert (summary["commit"], summary["status"]) == (first, "succeeded")


def test_a_new_branch_is_a_push_once_it_is_watched_and_a_deleted_one_starts_nothing(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    service = serve(
        guarded, "--poll", "0.3", "--watch", "main", "--watch", "feature/*", **CREDENTIAL
    )
    service.fact("catalog_applied")
    remote.push("HEAD:refs/heads/feature/a", "HEAD:refs/heads/unwatched")
    first = service.fact("run_finished")
    remote.push(":refs/heads/feature/a", ":refs/heads/unwatched")
    remote.change({"greeting.txt": "two\n"})
    service.wait(lambda: len(service.facts_of("run_finished")) == 2)
    runs = service.get("/api/v1/runs")["runs"]
    assert [run["ref"] for run in runs] == ["refs/heads/main", "refs/heads/feature/a"]
    assert runs[1]["run"] == first["run"]


def test_a_tag_counts_only_where_it_points_into_the_history_of_the_served_branch(
    serve: Served, remote: Remote, guarded: str
) -> None:
    first = begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.git("checkout", "-q", "--orphan", "aside")
    remote.commit({"greeting.txt": "stranger\n"})
    remote.git("tag", "v-stranger")
    remote.push("v-stranger")
    remote.git("tag", "-a", "-m", "One", "v1", first)
    remote.push("v1")
    service.fact("run_finished")
    runs = service.get("/api/v1/runs")["runs"]
    assert [(run["ref"], run["commit"]) for run in runs] == [("refs/tags/v1", first)]


def test_a_force_push_back_to_an_older_commit_is_a_push_of_it(
    serve: Served, remote: Remote, guarded: str
) -> None:
    first = begun(remote)
    remote.change({"greeting.txt": "two\n"})
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.git("reset", "-q", "--hard", first)
    remote.push(force=True)
    run = service.fact("run_finished")["run"]
    assert published(service, remote, run=run)["commit"] == first


def test_the_status_branch_is_a_dashboard_that_never_triggers(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote, **{".dagu/nightly.yaml": NIGHTLY})
    service = serve(guarded, "--poll", "0.3", "--watch", "**", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_finished")["run"]
    published(service, remote, run=run)
    remote.change({"greeting.txt": "three\n"})
    last = service.wait(lambda: service.facts_of("run_finished")[1:])[0]["run"]
    published(service, remote, run=last)
    assert json.loads(remote.show(STATUS, "latest/hello.json"))["run"] == last
    page = remote.show(STATUS, "README.md")
    assert "| hello |" in page
    assert "02:00 UTC" in page
    message = remote.git("ls-remote", str(remote.path), STATUS) and _message(remote)
    assert message.splitlines()[0] == "1 run: 1 succeeded [skip ci]"
    assert f"Dagmill-Run: {last}" in message
    assert len(service.get("/api/v1/runs")["runs"]) == 2


def _message(remote: Remote) -> str:
    remote.git("fetch", "-q", str(remote.path), STATUS)
    return remote.git("log", "-1", "--format=%B", "FETCH_HEAD")


def test_a_refused_push_of_the_status_branch_fails_no_run(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    remote.hook("update", f'[ "$1" != {STATUS} ]\n')
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.change({"greeting.txt": "two\n"})
    assert service.fact("run_finished")["status"] == "succeeded"
    service.fact("status_branch_refused")
    service.fact("report_postponed", kind="summary")
    assert remote.tip(STATUS) is None


def test_a_restart_goes_on_where_it_stopped(serve: Served, remote: Remote, guarded: str) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    assert service.url
    assert service.stop() == 0
    pushed = remote.change({"greeting.txt": "two\n"})
    again = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    run = again.fact("run_finished")["run"]
    assert published(again, remote, run=run)["commit"] == pushed
    assert again.stop() == 0


def asking(service: Service, *arguments: str) -> subprocess.Popen[str]:
    """A command that asks the service."""
    return subprocess.Popen(
        [sys.executable, "-m", "runner.cli", *arguments, "--data", str(service.data)],
        env={"PATH": os.environ["PATH"], "DAGMILL_URL": service.url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_who_waits_and_who_reads_along_does_so_over_a_restart(
    serve: Served, remote: Remote, tmp_path: Path, number: signal.Signals
) -> None:
    go = f"until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    begun(
        remote, **{".dagu/long.yaml": f"steps: [{{name: a, command: 'echo one; {go}; echo two'}}]"}
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    service = serve(str(remote.path), "--port", port)
    service.fact("catalog_applied")
    with asking(service, "trigger", "long", "--wait") as waits:
        run = waits.stdout.readline().split()[0]  # type: ignore[union-attr]
        with (
            asking(service, "logs", run, "a", "-f") as one,
            asking(service, "logs", run, "-f") as every,
        ):
            assert every.stdout.readline() == "==> a <==\n"  # type: ignore[union-attr]
            for reader in (one, every):
                assert reader.stdout.readline() == "one\n"  # type: ignore[union-attr]
            service.stop(number)
            for asks in (waits, one, every):
                told = asks.stderr.readline()  # type: ignore[union-attr]
                assert f"does not end run {run}" in told
            again = serve(str(remote.path), "--port", port)
            assert again.url
            (tmp_path / "go").touch()
            for reader in (one, every):
                assert reader.communicate() == ("two\n", "")
                assert reader.returncode == 0
            assert f"{run} succeeded" in waits.communicate()[0]
            assert waits.returncode == 0


def test_a_newer_run_of_a_group_takes_the_place_of_the_older_ones(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    wait = f"touch {tmp_path}/$1; until [ -e {tmp_path}/go ]; do sleep 0.1; done"
    group = "concurrency: {group: deploy, cancelInProgress: true}\nqueue: slow\n"
    begun(remote, **{".dagu/a.yaml": f"{group}params: [x]\nsteps: [{{command: '{wait}'}}]\n"})
    service = serve(str(remote.path), "--queue", "slow=2")
    service.fact("catalog_applied")
    first = service.started("a")
    service.fact("run_admitted", run=first)
    service.wait((tmp_path / "x").exists)
    second = service.started("a")
    service.fact("run_replaced", run=first, by=second)
    assert service.fact("run_finished", run=first)["status"] == "cancelled"
    service.fact("run_admitted", run=second)
    (tmp_path / "go").touch()
    assert service.fact("run_finished", run=second)["status"] == "succeeded"
    assert len(service.facts_of("run_replaced")) == 1
    assert not service.facts_of("queue_not_listed")
    service.untroubled()


def test_a_run_goes_with_its_logs_when_its_days_are_over(serve: Served, remote: Remote) -> None:
    begun(remote, **{".dagu/a.yaml": "histRetentionDays: 2\nsteps: [{run: b}]\n"})
    remote.change({".dagu/b.yaml": "steps: [{command: echo hello}]\n"})
    service = serve(str(remote.path))
    service.fact("catalog_applied")
    run = service.started("a")
    assert service.fact("run_finished", run=run)["status"] == "succeeded"
    published(service, remote, run=run)
    assert "hello\n" in [log.read_text() for log in service.data.rglob("out")]
    service.stop()
    with sqlite3.connect(service.data / "dagmill.sqlite") as database:
        kept = database.execute(
            "SELECT owed.not_before - finished_at FROM owed JOIN runs ON run = key"
            " WHERE kind = 'expire'"
        ).fetchall()
        database.execute("UPDATE owed SET not_before = 0 WHERE kind = 'expire'")
    database.close()
    assert kept == [(2 * 86400 * 1_000_000,)]
    again = serve(str(remote.path))
    assert again.fact("run_deleted", run=run)["kept_days"] == 2
    assert again.get("/api/v1/runs")["runs"] == []
    assert list((again.data / "runs").iterdir()) == []
    again.stop()
    with sqlite3.connect(service.data / "dagmill.sqlite") as database:
        for table in ("runs", "events", "run_values"):
            assert database.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)  # noqa: S608
    database.close()


def test_a_branch_that_goes_away_keeps_what_is_in_force(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    remote.git("config", "receive.denyDeleteCurrent", "ignore")
    subprocess.run(
        ["git", "config", "receive.denyDeleteCurrent", "ignore"], cwd=remote.path, check=True
    )
    service = serve(guarded, "--poll", "0.3", "--branch", "main", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.push(":refs/heads/main")
    problem = service.fact("definitions_kept")["problem"]
    assert "main" in problem
    assert [w["workflow"] for w in service.get("/api/v1/workflows")["workflows"]] == ["hello"]


def test_a_folder_that_is_suddenly_empty_keeps_what_is_in_force(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    remote.change({".dagu/hello.yaml": None})
    assert "1 definition stays" in service.fact("definitions_kept")["problem"]
    assert [w["workflow"] for w in service.get("/api/v1/workflows")["workflows"]] == ["hello"]


def test_a_repository_without_the_folder_is_served_and_says_so(
    serve: Served, remote: Remote, guarded: str
) -> None:
    remote.change({"README": "nothing here yet\n"})
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    problem = service.fact("definitions_kept")["problem"]
    assert "no workflow file (.yaml or .yml) below .dagu/" in problem
    service.wait(lambda: f"Problem: {problem}" in service.said)
    begun(remote)
    service.fact("catalog_applied", added=["hello"])


def test_a_local_repository_is_watched_and_not_only_polled(serve: Served, remote: Remote) -> None:
    begun(remote)
    service = serve(str(remote.path), "--poll", "3600")
    service.fact("catalog_applied")
    assert service.url
    service.fact("refs_watched")
    pushed = remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_finished")["run"]
    assert published(service, remote, run=run)["commit"] == pushed


def test_a_step_sees_no_credential_of_the_service(
    serve: Served, remote: Remote, guarded: str
) -> None:
    remote.change({".dagu/nosy.yaml": NOSY})
    service = serve(guarded, "--poll", "0.3", hook_secret=SECRET, **CREDENTIAL)
    service.fact("catalog_applied", added=["nosy"])
    remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_finished")["run"]
    published(service, remote, run=run)
    out = logged(service)
    assert "PATH=" in out  # the step did print what it could read
    for secret in (SECRET, CREDENTIAL["git_token"]):
        assert secret not in out
    assert "DAGMILL_GIT" not in out


def test_a_password_in_the_url_is_seen_by_nobody(
    serve: Served, remote: Remote, guarded: str
) -> None:
    remote.change({".dagu/nosy.yaml": NOSY_OF_ARGUMENTS})
    service = serve(guarded.replace("://", "://ada:s3cret-token-1@"), "--poll", "0.3")
    service.fact("catalog_applied", added=["nosy"])
    remote.change({"greeting.txt": "two\n"})
    published(service, remote, run=service.fact("run_finished")["run"])
    seen = logged(service)
    assert "://ada:xxxxxxxxxxxxxx@127.0.0.1" in seen
    assert seen.splitlines()[-1].endswith("***")
    service.stop()
    told = "\n".join([*service.said, *map(str, service.facts), *service.errors])
    assert "s3cret-token-1" not in told + seen


def test_a_git_server_that_says_nothing_does_not_keep_the_service_from_stopping(
    serve: Served, remote: Remote, guarded: str, git_http: GitHttpServer
) -> None:
    begun(remote)
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied")
    assert service.url
    git_http.hang = True
    before = len(git_http.asked)
    service.wait(lambda: len(git_http.asked) > before)
    service.process.send_signal(signal.SIGTERM)
    # The server stays silent until the test is over, and libgit2 waits 60 s for it.
    assert service.process.wait(30) == 0
    service.stop()


def test_a_second_ctrl_c_ends_what_runs(serve: Served, remote: Remote, guarded: str) -> None:
    remote.change({".dagu/long.yaml": 'on: push\nsteps:\n  - command: "touch begun; sleep 600"\n'})
    service = serve(guarded, "--poll", "0.3", **CREDENTIAL)
    service.fact("catalog_applied", added=["long"])
    remote.change({"greeting.txt": "two\n"})
    run = service.fact("run_admitted")["run"]
    service.wait(lambda: list((service.data / "workspaces" / run).glob("begun")))
    service.process.send_signal(signal.SIGINT)
    service.wait(lambda: any("1 step still running" in line for line in service.said))
    service.process.send_signal(signal.SIGINT)
    assert service.fact("run_finished", run=run)["status"] == "cancelled"
    assert service.stop() == 130


def under_way(service: Service, what: str) -> None:
    """Wait for the line that says what is left at a stop."""
    service.wait(lambda: any(what in line for line in service.said))


def test_a_second_ctrl_c_ends_a_run_that_waits_for_its_retry(serve: Served, remote: Remote) -> None:
    waits = "steps: [{command: 'false', retryPolicy: {limit: 1, intervalSec: 3000}}]"
    begun(remote, **{".dagu/waits.yaml": waits})
    service = serve(str(remote.path), "--poll", "0.3")
    service.fact("catalog_applied")
    run = service.started("waits")
    service.wait(lambda: service.get(f"/api/v1/runs/{run}")["steps"][0]["status"] == "retrying")
    service.process.send_signal(signal.SIGINT)
    under_way(service, "1 run under way, 0 steps still running")
    service.process.send_signal(signal.SIGINT)
    assert service.fact("run_finished", run=run)["status"] == "cancelled"
    assert service.stop() == 130


def test_a_second_ctrl_c_right_after_a_start_ends_what_was_left_to_it(
    serve: Served, remote: Remote, tmp_path: Path
) -> None:
    begun(
        remote, **{".dagu/long.yaml": f"steps: [{{command: 'touch {tmp_path}/begun; sleep 600'}}]"}
    )
    service = serve(str(remote.path), "--poll", "0.3")
    service.fact("catalog_applied")
    run = service.started("long")
    service.wait((tmp_path / "begun").exists)
    assert service.stop() == 0
    under_way(service, "1 run under way, 1 step still running, left to the next start")
    again = serve(str(remote.path), "--poll", "0.3")
    assert again.url
    again.process.send_signal(signal.SIGINT)
    under_way(again, "1 run under way")
    again.process.send_signal(signal.SIGINT)
    assert again.fact("run_finished", run=run)["status"] == "cancelled"
    assert again.stop() == 130


def test_a_stop_without_runs_says_so_and_waits_for_nobody(serve: Served, remote: Remote) -> None:
    begun(remote)
    service = serve(str(remote.path))
    service.fact("catalog_applied")
    assert service.stop(signal.SIGINT) == 130
    assert "Stopping; nothing is running." in service.said


def test_term_again_and_again_does_not_break_the_stop(serve: Served, remote: Remote) -> None:
    begun(remote)
    service = serve(str(remote.path))
    service.fact("catalog_applied")
    while service.process.poll() is None:
        service.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(0.001)
    assert service.stop() == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
@pytest.mark.parametrize("loaded", ["pydantic_core", "pygit2"])
def test_a_signal_while_the_program_is_loaded_ends_it_without_a_traceback(
    serve: Served, remote: Remote, number: signal.Signals, code: int, loaded: str
) -> None:
    begun(remote)
    service = serve(str(remote.path))
    maps = Path(f"/proc/{service.process.pid}/maps")
    service.wait(lambda: loaded in maps.read_text(), look_s=0.001)
    assert service.stop(number) == code
    assert service.errors == []


def test_a_wrong_credential_ends_with_the_remedy(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    message = serve.refused(guarded, git_username="ada", git_token="wrong-token-2")
    assert "DAGMILL_GIT_TOKEN" in message
    assert "wrong-token-2" not in message


def test_a_missing_credential_ends_with_the_remedy(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    assert "DAGMILL_GIT_TOKEN" in serve.refused(guarded)


def test_what_is_no_repository_ends_with_its_name(serve: Served, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    assert str(plain) in serve.refused(str(plain))


def test_an_unreachable_repository_ends_the_first_start(serve: Served) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/ops.git"
    message = serve.refused(url)
    assert url in message
    assert "check the URL and the network" in message


def test_a_wrong_branch_ends_with_those_there_are(
    serve: Served, remote: Remote, guarded: str
) -> None:
    begun(remote)
    message = serve.refused(guarded, "--branch", "mian", **CREDENTIAL)
    assert '"mian"' in message
    assert "main" in message


def test_an_empty_repository_ends_with_the_remedy(
    serve: Served, remote: Remote, guarded: str
) -> None:
    message = serve.refused(guarded, **CREDENTIAL)
    assert "is empty; push a first commit" in message


def test_a_port_in_use_ends_with_the_remedy(serve: Served, remote: Remote) -> None:
    begun(remote)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        message = serve.refused(str(remote.path), "--port", port)
    assert f"port {port}" in message
    assert "--port" in message
    assert not serve.data.exists()


def test_a_data_folder_in_use_ends_with_its_name(serve: Served, remote: Remote) -> None:
    begun(remote)
    serve(str(remote.path)).fact("catalog_applied")
    assert str(serve.data) in serve.refused(str(remote.path))


def test_a_wrong_setting_ends_with_its_flag(serve: Served, remote: Remote) -> None:
    assert "--poll" in serve.refused(str(remote.path), "--poll", "0")
