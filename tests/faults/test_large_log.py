"""A step that prints very much: memory stays flat, others go on, the digest is of every byte.

LARGE_LOG_MIB=2048 makes it as large as docs/reliability.md says; the default is what fits a test.
"""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from git_remotes import Remote
from service_process import SECRET, Served, Service, begun, deliver

pytestmark = pytest.mark.timeout(600)

MIB = int(os.environ.get("LARGE_LOG_MIB", "64"))
GROWTH_KIB = 50 * 1024
LINES = f"yes 'a line of a log that is as long as such lines are' | head -c {MIB}M"
NO_LINES = f"head -c {MIB}M /dev/zero"


def resident_kib(service: Service) -> int:
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


class Watch:
    """The greatest resident memory of a service while this is entered."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.most_kib = 0

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.most_kib = max(self.most_kib, resident_kib(self._service))

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def serving(serve: Served, remote: Remote) -> Service:
    service = serve(str(remote.path), "--poll", "0.3", hook_secret=SECRET)
    assert service.url
    return service


def log_of(service: Service, run: str) -> dict[str, Any]:
    (step,) = service.get(f"/api/v1/runs/{run}")["steps"]
    log: dict[str, Any] = step["log"]
    return log


@pytest.mark.parametrize("command", [LINES, NO_LINES])
def test_a_very_large_log_is_read_beside_everything_else_in_little_memory(
    serve: Served, remote: Remote, command: str
) -> None:
    begun(remote, **{".dagu/much.yaml": f'steps: [{{command: "{command}"}}]'})
    service = serving(serve, remote)
    service.fact("run_finished", run=service.started("hello"))
    before = resident_kib(service)
    with Watch(service) as watch:
        run = service.started("much")
        others = 0
        while not any(f["run"] == run for f in service.facts_of("run_finished")):
            other = service.started("hello")
            service.fact("run_finished", run=other)
            answer = deliver(service, remote, ref="refs/heads/main", after=f"{others:040x}")
            assert answer.status_code == 202
            assert service.get(f"/api/v1/runs/{other}")["status"] == "succeeded"
            others += 1
    assert others, "others ran meanwhile"
    assert watch.most_kib - before < GROWTH_KIB
    (out,) = (f for f in (service.data / "runs").rglob("out") if f.stat().st_size >= MIB << 20)
    log = log_of(service, run)
    assert log["bytes"] == out.stat().st_size == MIB << 20
    assert log["sha256"] == digest(out)
    service.untroubled()


def test_a_kill_while_a_very_large_log_is_scrubbed_loses_nothing_of_it(
    serve: Served, remote: Remote
) -> None:
    said = f"echo says $APP_TOKEN here; yes 'a line of a log' | head -c {MIB}M"
    steps = f'steps: [{{command: "{said}"}}]'
    begun(remote, **{".dagu/much.yaml": f"env: [APP_TOKEN: hunter22-secret]\n{steps}"})
    service = serving(serve, remote)
    run = service.started("much")
    # The copy beside the log is there for as long as the scrubbing takes.
    service.wait(lambda: list((service.data / "runs").rglob("out.scrubbed")), look_s=0.005)
    service.process.kill()
    service.stop()
    again = serving(serve, remote)
    assert again.fact("run_finished", run=run)["status"] == "succeeded"
    (out,) = (service.data / "runs").rglob("out")
    log = log_of(again, run)
    assert log["bytes"] == out.stat().st_size == (MIB << 20) + len("says *** here\n")
    with out.open("rb") as file:
        assert file.readline() == b"says *** here\n"
    assert log["sha256"] == digest(out)
    assert not list((service.data / "runs").rglob("out.scrubbed"))
    again.untroubled()
