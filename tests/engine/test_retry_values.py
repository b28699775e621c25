"""What steps of a retry see of those that were carried over."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from real_run import RUN
from retrying import Desk

from runner.engine.secret_values import SecretAccess

SECRET = "hunter22-hunter22"


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/token").write_text(SECRET)
    desk = Desk(tmp_path, secrets=SecretAccess(folder=tmp_path / "secrets"))
    yield desk
    await desk.close()


async def test_streams_lie_where_the_step_ran_and_output_files_where_the_run_is(
    desk: Desk,
) -> None:
    await desk.run(
        """
        steps:
          - {name: a, id: a, command: 'echo from a; echo err >&2', output: OUT}
          - {name: b, id: b, parallel: [x, y], command: 'echo "from $ITEM"', output: ALL}
          - name: c
            depends: [a, b]
            command: |
              test $DAG_RUN_ATTEMPT -gt 1
              cat ${a.stdout} ${a.stderr}; cat "$OUT_FILE"; echo; echo "$OUT_FILE ${a.stdout}"
              echo "${ALL.outputs}"; cmp "$ALL_FILE" ${b.stdout} && echo same
              test $DAG_RUN_ATTEMPT = 3
        """
    )
    second = (await desk.retry()).document["run"]
    done = await desk.retry(second)
    assert done.status == "succeeded", done.document
    lines = done.tail("c").splitlines()
    assert lines[:3] == ["from a", "err", "from a"]
    assert lines[4:] == ['["from x","from y"]', "same"]
    file, stream = lines[3].split()
    assert (str(done.document["run"]) in file, f"/{RUN}/" in stream) == (True, True)


async def test_the_streams_of_a_carried_step_of_a_child_are_found(desk: Desk) -> None:
    desk.write(
        "load",
        """
        steps:
          - {name: a, id: a, command: 'echo from a'}
          - {name: b, depends: a, command: 'cat ${a.stdout}; test $DAG_RUN_ATTEMPT = 2'}
        """,
    )
    await desk.run("steps: [{name: child, run: load, output: OUT}]")
    done = await desk.retry()
    assert done.status == "succeeded", done.document
    (child,) = await desk.children(done.document["run"])
    assert (await desk.done(child.run)).tail("b") == "from a"


async def test_a_retry_reads_secrets_again_for_what_was_carried_without_them(desk: Desk) -> None:
    desk.write(
        "load",
        """
        params: [P: '']
        steps: [{name: s, command: 'echo "$P $ITEM" >> made; test $DAG_RUN_ATTEMPT = 2'}]
        """,
    )
    await desk.run(
        """
        secrets: [{name: TOKEN, file: token}]
        env: [URL: 'u-$TOKEN']
        steps:
          - {name: a, parallel: ['i-${TOKEN}'], run: load, params: 'P=$URL', output: OUT}
        """
    )
    (desk.folder / "secrets/token").write_text("changed-since-then")
    done = await desk.retry()
    assert done.status == "succeeded", done.document
    assert desk.made(done.document["run"]) == [
        *(f"u-{SECRET}", f"i-{SECRET}", "u-changed-since-then", "i-changed-since-then"),
    ]
    kept = b"".join(f.read_bytes() for f in (desk.folder / "data").glob("*") if f.is_file())
    assert SECRET.encode() not in kept
    assert b"changed-since-then" not in kept
    assert SECRET not in json.dumps(done.document)
