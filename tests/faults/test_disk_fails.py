"""A disk that fails under the service: the kernel takes no more writes until it is mounted anew."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from git_remotes import Remote
from service_process import SECRET, begun, deliver, published, services
from small_disk import failing

pytestmark = pytest.mark.timeout(180)

WAITS = """
steps:
  - name: waits
    onLoss: retry
    command: "echo once >>{0}/effects; touch begun; until [ -e {0}/go ]; do sleep 0.05; done"
"""


def test_a_file_system_that_becomes_read_only_is_said_and_a_restart_goes_on(
    remote: Remote, tmp_path: Path
) -> None:
    begun(remote, **{".dagu/waits.yaml": WAITS.format(tmp_path)})
    with failing(tmp_path / "disk") as disk, services(disk.folder / "data") as serve:
        service = serve(str(remote.path), "--poll", "0.3", min_free_disk="0", hook_secret=SECRET)
        service.fact("catalog_applied")
        run = service.started("waits")
        service.wait(lambda: list((service.data / "workspaces" / run).glob("begun")))
        disk.fail()
        (tmp_path / "go").touch()
        problem = service.fact("run_not_recorded", run=run)["problem"]
        assert str(service.data / "dagmill.sqlite") in problem
        pushed = remote.change({"greeting.txt": "two\n"})
        assert deliver(service, remote, ref="refs/heads/main", after=pushed).status_code == 503
        assert service.trigger("hello").status_code == 503
        assert "Read-only" in service.fact("fetch_failed")["problem"]
        assert httpx2.get(f"{service.url}/health").status_code == 200
        service.untroubled()
        assert service.stop() == 0
        disk.mend()
        again = serve(str(remote.path), "--poll", "0.3", min_free_disk="0")
        # Nobody could write down how the step ended: it is lost, and this one may run again.
        assert again.fact("run_finished", run=run)["status"] == "succeeded"
        assert (tmp_path / "effects").read_text() == "once\nonce\n"
        assert published(again, remote, run=run)["status"] == "succeeded"
        of_push = again.fact("run_admitted", commit=pushed)["run"]
        assert published(again, remote, run=of_push)["status"] == "succeeded"
        assert again.stop() == 0
        again.untroubled()
