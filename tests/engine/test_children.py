"""Runs that `run` steps make: which, with what, how often, and what their ends mean."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from real_run import RUN, Bench, Done

from runner.control.folder_library import FolderLibrary
from runner.engine.events import Ended, Event, Launched, LaunchVoided, StopRequested
from runner.executors.base import Outcome
from runner.triggers import child_run
from storage.records import RunRow, Write
from storage.store import StorageError

ONE = "steps: [{name: a, command: echo $DAG_NAME >>made}]"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    folder = tmp_path / "files"
    folder.mkdir()
    bench = Bench(tmp_path, library=FolderLibrary(folder, root=tmp_path))
    yield bench
    await bench.close()


def write(bench: Bench, id: str, text: str) -> None:
    file = bench.folder / "files" / f"{id}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


async def run(bench: Bench, text: str, *given: str) -> Done:
    await bench.queue(text, *given)
    return await bench.complete()


async def children(bench: Bench, run: str = RUN) -> list[RunRow]:
    return sorted(await bench.store.runs(parent=run), key=lambda row: (row.queued_at, row.run))


def made(bench: Bench) -> list[str]:
    """What runs wrote to the workspace's file `made`."""
    file = bench.workspace / "made"
    return file.read_text().split() if file.exists() else []


async def file(path: Path) -> None:
    """Wait for it: files have no event to wait for."""
    async with asyncio.timeout(20):
        while not path.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def is_launch(step: str) -> Callable[[Event], bool]:
    return lambda e: isinstance(e, Launched) and e.step == step


async def test_a_child_run_passes_what_it_was_given_and_what_it_put_out(bench: Bench) -> None:
    write(
        bench,
        "load",
        """
        name: Load it
        params: [TABLE=none, ROWS=0]
        steps: [{name: a, command: 'echo "$TABLE has $ROWS"', output: SAID}]
        """,
    )
    done = await run(
        bench,
        """
        steps:
          - {name: child, run: load, params: 'TABLE="my ${KIND}"', output: RESULT}
          - {name: after, command: 'echo "$RESULT"; echo "${RESULT.outputs.SAID}"', depends: child}
        params: {KIND: 'cat "x" $(reboot)'}
        """,
    )
    assert done.status == "succeeded", done.document
    (row,) = await children(bench)
    first, last = done.tail("after").split("\n")
    assert json.loads(first) == {
        "name": "Load it",
        "runId": row.run,
        "params": {"TABLE": 'my cat "x" $(reboot)', "ROWS": "0"},
        "status": "succeeded",
        "outputs": {"SAID": 'my cat "x" $(reboot) has 0'},
    }
    assert last == 'my cat "x" $(reboot) has 0'
    assert row.run == child_run(RUN, "child", attempt=1, item=None)
    assert done.tail("child").split("\n") == [
        f"run {row.run} of load started",
        f"run {row.run} of load ended, succeeded",
    ]


# Which workflow is meant


async def test_documents_of_the_same_file_come_before_files(bench: Bench) -> None:
    write(bench, "load", "steps: [{name: a, command: echo file >>made}]")
    done = await run(
        bench,
        "steps: [{name: child, run: load}]\n"
        "---\nname: load\nsteps: [{name: a, run: other}]\n"
        "---\nname: other\nsteps: [{name: b, command: echo local >>made}]",
    )
    assert (done.status, made(bench)) == ("succeeded", ["local"])
    (row,) = await children(bench)
    assert row.workflow == "test#1"


@pytest.mark.parametrize("name", ["etl/load", "Load it", "etl/load.yaml", "$WHICH"])
async def test_a_file_is_found_by_id_and_by_name(bench: Bench, name: str) -> None:
    write(bench, "etl/load", f"name: Load it\n{ONE}")
    done = await run(bench, f"env: {{WHICH: etl/load}}\nsteps: [{{name: child, run: '{name}'}}]")
    assert (done.status, made(bench)) == ("succeeded", ["Load", "it"])


async def test_a_name_counts_from_the_folder_of_the_file_that_has_it(bench: Bench) -> None:
    write(bench, "etl/main", "steps: [{name: b, run: load}]")
    write(bench, "etl/load", ONE)
    done = await run(bench, "steps: [{name: child, run: etl/main}]")
    assert (done.status, made(bench)) == ("succeeded", ["etl/load"])


@pytest.mark.parametrize(
    ("files", "run_key", "reason"),
    [
        ({"load": ONE}, "run: laod", 'there is no workflow "laod"; did you mean "load"?'),
        ({"a": f"name: X\n{ONE}", "b": f"name: X\n{ONE}"}, "run: X", "several workflows are named"),
        ({"load": "steps: 3"}, "run: load", 'workflow "load" is broken: files/load.yaml:1:8'),
        (
            {"load": f"params: [TABLE=x]\n{ONE}"},
            "{run: load, parallel: '${LIST}'}",
            "TABEL is not a parameter of this workflow",
        ),
        (
            {"load": "steps: [{name: b, run: back}]", "back": "steps: [{name: c, run: load}]"},
            "run: load",
            "the sub-workflows run each other without end: load → back → load",
        ),
    ],
)
async def test_what_cannot_be_run_fails_the_step_and_says_why(
    bench: Bench, files: dict[str, str], run_key: str, reason: str
) -> None:
    for id, text in files.items():
        write(bench, id, text)
    keys = run_key.strip("{}")
    done = await run(
        bench,
        f"params: {{LIST: '[{{\"TABEL\": 1}}]'}}\nsteps: [{{name: child, {keys}}}]",
    )
    assert done.status == "failed"
    assert reason in done.step("child")["reason"]
    assert made(bench) == []


def chain(bench: Bench, length: int, *, more: str = "") -> str:
    """A workflow with `length` runs below it, one in the other."""
    for n in range(1, length):
        write(bench, f"w{n}", f"{more}\nsteps: [{{name: s{n}, run: w{n + 1}}}]")
    write(bench, f"w{length}", f"{more}\n{ONE}")
    return f"{more}\nsteps: [{{name: s0, run: w1}}]"


async def test_ten_runs_one_in_the_other_finish_with_every_limit_at_one(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    bench = Bench(tmp_path, max_steps=1, library=FolderLibrary(folder, root=tmp_path))
    done = await run(bench, chain(bench, 10, more="maxActiveSteps: 1"))
    assert (done.status, made(bench)) == ("succeeded", ["w10"])
    await bench.close()


async def test_an_eleventh_is_refused(bench: Bench) -> None:
    done = await run(bench, chain(bench, 11))
    assert (done.status, made(bench)) == ("failed", [])
    assert "would be the 11th run below" in done.step("s0")["reason"]


# What its end means


@pytest.mark.parametrize(
    ("child", "status", "reason"),
    [
        ("steps: [{name: a, command: exit 3}]", "failed", 'failed: step "a" failed: exit code 3'),
        (
            "preconditions: [{condition: a, expected: b}]\nsteps: [{name: a, command: 'true'}]",
            "skipped",
            "precondition",
        ),
        (
            "type: chain\nsteps:\n  - {name: a, command: 'false', continueOn: {failure: true}}\n"
            "  - {name: b, command: 'true'}",
            "succeeded",
            "",
        ),
    ],
)
async def test_the_end_of_the_child_is_the_end_of_the_step(
    bench: Bench, child: str, status: str, reason: str
) -> None:
    write(bench, "load", child)
    done = await run(bench, "steps: [{name: child, run: load}]")
    step = done.step("child")
    assert step["status"] == status
    assert reason in step["reason"]


async def test_each_attempt_of_a_step_is_a_run_of_its_own(bench: Bench) -> None:
    write(bench, "load", "steps: [{name: a, command: 'test -e good || ! touch good'}]")
    done = await run(
        bench, "steps: [{name: child, run: load, retryPolicy: {limit: 2, intervalSec: 0}}]"
    )
    assert done.status == "succeeded"
    assert [row.status for row in await children(bench)] == ["failed", "succeeded"]


async def test_items_are_runs_that_see_their_item_as_their_own_children_do(bench: Bench) -> None:
    write(bench, "load", "steps: [{name: b, run: deep}]")
    write(
        bench, "deep", 'steps: [{name: c, command: "echo $1-$ITEM-${ITEM.k}-$ITEM_INDEX >>made"}]'
    )
    done = await run(
        bench,
        """
        steps:
          - name: child
            run: load
            parallel: {items: [{k: x}, {k: y}], maxConcurrent: 1}
            params: p
            output: ALL
          - {name: after, command: "echo ${ALL.summary.succeeded}", depends: child}
        """,
    )
    assert done.status == "succeeded", done.document
    assert made(bench) == ['-{"k":"x"}-x-0', '-{"k":"y"}-y-1']
    assert done.tail("after") == "2"


async def test_a_child_uses_its_parents_folder_unless_it_wants_none(bench: Bench) -> None:
    write(bench, "load", "workspace: none\nsteps: [{name: a, command: 'ls; touch here; pwd'}]")
    write(bench, "same", "steps: [{name: a, command: touch there}]")
    done = await run(bench, "steps: [{name: child, run: load}, {name: other, run: same}]")
    assert done.status == "succeeded"
    assert [f.name for f in bench.workspace.iterdir()] == ["there"]


# Stops

SLOW = """
steps: [{name: a, command: touch begun; sleep 100}]
handlerOn: {cancel: {command: echo cancel >>made}, exit: {command: echo exit >>made}}
"""


async def begun(bench: Bench, text: str = "steps: [{name: child, run: load}]") -> str:
    """Start a run whose child waits in SLOW; the child."""
    write(bench, "load", SLOW)
    await bench.queue(text)
    bench.begin()
    await file(bench.workspace / "begun")
    (row,) = await children(bench)
    return row.run


async def test_stopping_a_run_stops_its_children_with_their_handlers(bench: Bench) -> None:
    child = await begun(bench)
    bench.engine.stop(RUN, "anna")
    done = await bench.complete_begun()
    assert done.status == "cancelled"
    assert made(bench) == ["cancel", "exit"]
    row = await bench.store.run(child)
    assert row is not None
    assert (row.status, row.reason) == ("cancelled", f"stopped by run {RUN}")
    assert done.step("child")["status"] == "cancelled"


async def test_stopping_only_the_child_fails_the_step(bench: Bench) -> None:
    child = await begun(bench)
    assert await bench.engine.request(child, StopRequested(bench.now(), "anna"))
    done = await bench.complete_begun()
    assert (done.status, done.step("child")["reason"]) == ("failed", "child cancelled")
    assert made(bench) == ["cancel", "exit"]


async def test_a_child_that_was_stopped_already_is_not_killed_with_its_parents_first_stop(
    bench: Bench,
) -> None:
    text = SLOW.replace(
        "touch begun; sleep 100",
        "trap 'touch stopping; sleep 1; exit 0' TERM; touch begun; "
        "while :; do sleep 0.1 || :; done",
    )
    child = await begun(bench, f"steps: [{{name: child, run: own}}]\n---\nname: own\n{text}")
    await bench.engine.request(child, StopRequested(bench.now(), "anna"))
    await file(bench.workspace / "stopping")
    bench.engine.stop(RUN, "anna")
    await bench.complete_begun()
    assert made(bench) == ["cancel", "exit"]


async def test_a_second_stop_kills_what_the_children_run(bench: Bench) -> None:
    text = SLOW.replace(
        "touch begun; sleep 100",
        "trap 'touch stopping' TERM; touch begun; while :; do sleep 0.1 || :; done",
    )
    child = await begun(bench, f"steps: [{{name: child, run: own}}]\n---\nname: own\n{text}")
    bench.engine.stop(RUN, "anna")
    await file(bench.workspace / "stopping")
    bench.engine.stop(RUN, "anna")
    done = await bench.complete_begun()
    assert done.status == "cancelled"
    assert made(bench) == []
    row = await bench.store.run(child)
    assert row is not None
    assert row.status == "cancelled"


async def test_a_service_that_ends_its_steps_does_not_stop_their_runs(bench: Bench) -> None:
    child = await begun(bench)
    assert (bench.engine.running_steps, bench.engine.supervised) == (1, frozenset({RUN}))
    bench.engine.close()
    await bench.engine.end_steps(timeout_s=20)
    await bench.restart()
    done = await bench.complete()
    assert done.status == "failed"
    assert "lost: stopped with the service" in done.step("child")["reason"]
    records = await bench.store.events(child)
    assert StopRequested.__name__ not in [record.type for record in records]


# Crashes


async def test_a_child_that_goes_on_is_taken_up_with_its_parent(bench: Bench) -> None:
    write(
        bench,
        "load",
        """
        steps:
          - name: a
            command: "touch begun; while [ ! -e go ]; do sleep 0.05; done; echo x >>made"
        """,
    )
    await bench.queue("steps: [{name: child, run: load}]")
    bench.begin()
    await file(bench.workspace / "begun")
    await bench.restart()
    bench.begin()
    (bench.workspace / "go").touch()
    done = await bench.complete_begun()
    assert (done.status, made(bench)) == ("succeeded", ["x"])
    assert len(await children(bench)) == 1


async def test_a_child_that_ended_before_its_parent_knew_is_not_made_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bench, "load", "steps: [{name: a, command: echo x >>made; echo y, output: OUT}]")
    monkeypatch.setattr(bench.engine._parts.executors["run"], "outcome", never)
    await bench.queue(
        """
        steps:
          - {name: child, run: load, output: R}
          - {name: b, depends: child, command: "echo ${R.outputs.OUT}"}
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, Ended) and e.step == "a")
    await ended(bench)
    await bench.restart()
    done = await bench.complete()
    assert (done.status, made(bench)) == ("succeeded", ["x"])
    assert done.tail("b") == "y"


async def never(*_: object) -> Outcome:
    await asyncio.Event().wait()
    raise AssertionError


async def there(bench: Bench) -> None:
    """Wait until there is a child."""
    async with asyncio.timeout(20):
        while not await children(bench):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def ended(bench: Bench) -> None:
    """Wait until all children are final."""
    async with asyncio.timeout(20):
        while not all(row.finished_at for row in await children(bench)):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_crash_before_the_childs_first_fact_makes_it_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bench, "load", ONE)
    monkeypatch.setattr(bench.engine._parts.executors["run"], "make", never)
    await bench.queue("steps: [{name: child, run: load}]")
    bench.begin()
    await bench.until(is_launch("child"))
    assert await children(bench) == []
    await bench.restart()
    done = await bench.complete()
    assert (done.status, made(bench)) == ("succeeded", ["load"])
    assert [e.attempt for e in done.events if isinstance(e, Launched)] == [1, 1]
    assert len([e for e in done.events if isinstance(e, LaunchVoided)]) == 1


async def test_a_crash_after_the_childs_first_fact_makes_it_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bench, "load", ONE)
    monkeypatch.setattr(bench.engine, "complete_child", never)
    await bench.queue("steps: [{name: child, run: load}]")
    bench.begin()
    await bench.until(is_launch("child"))
    await there(bench)
    await bench.restart()
    done = await bench.complete()
    assert (done.status, made(bench)) == ("succeeded", ["load"])
    assert len(await children(bench)) == 1


async def test_a_stop_that_a_crash_cut_short_reaches_the_child_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = SLOW.replace(
        "touch begun; sleep 100",
        "trap 'touch stopping; sleep 1; exit 0' TERM; touch begun; "
        "while :; do sleep 0.1 || :; done",
    )
    child = await begun(bench, f"steps: [{{name: child, run: own}}]\n---\nname: own\n{text}")
    bench.engine.stop(RUN, "anna")
    await file(bench.workspace / "stopping")
    await bench.restart()
    done = await bench.complete()
    assert done.status == "cancelled"
    records = await bench.store.events(child)
    assert [record.type for record in records].count(StopRequested.__name__) == 1
    assert made(bench) == ["cancel", "exit"]


async def test_a_store_without_room_makes_the_child_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner.engine.supervisor.LAUNCH_RETRY_S", 0.05)
    write(bench, "load", ONE)
    executor: Any = bench.engine._parts.executors["run"]
    make: Callable[..., Coroutine[Any, Any, RunRow]] = executor.make
    full = [StorageError("the disk is full")] * 2

    async def refused(*given: object) -> RunRow:
        if full:
            raise full.pop()
        return await make(*given)

    monkeypatch.setattr(executor, "make", refused)
    done = await run(bench, "steps: [{name: child, run: load}]")
    assert (done.status, made(bench)) == ("succeeded", ["load"])
    assert len([e for e in done.events if isinstance(e, LaunchVoided)]) == 2
    assert done.step("child")["attempts"] == 1


async def test_the_children_of_a_run_that_is_given_up_end_with_it(
    bench: Bench, tmp_path: Path
) -> None:
    child = await begun(bench)
    await bench.leave()
    with sqlite3.connect(tmp_path / "data/dagmill.sqlite") as database:
        database.execute("UPDATE sources SET text = 'stepz: []'")
    database.close()
    bench.open()
    life = asyncio.create_task(bench.engine.run_forever())
    bench.engine.supervise(RUN)
    async with asyncio.timeout(20):
        while (row := await bench.store.run(RUN)) is None or not row.finished_at:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    ended = await bench.store.run(child)
    assert ended is not None
    assert (row.status, ended.status) == ("failed", "failed")
    assert ended.reason.startswith("its parent: the kept definition")


TREE = """
steps:
  - {name: a, command: echo a >>made}
  - {name: b, run: load, parallel: [x, y], depends: a, output: ALL}
  - {name: c, command: 'echo "c${ALL.summary.succeeded}" >>made', depends: b}
---
name: load
steps:
  - {name: one, command: echo one$ITEM >>made}
  - {name: two, run: leaf, depends: one}
handlerOn: {exit: {command: echo exit$ITEM >>made}}
---
name: leaf
steps: [{name: s, command: echo leaf$ITEM >>made}]
"""


async def test_a_life_that_ends_before_any_write_loses_nothing_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    while True:
        (tmp_path / str(writes)).mkdir()
        bench = Bench(tmp_path / str(writes))
        await bench.queue(TREE)
        cut = _dies_after(writes, bench, monkeypatch)
        bench.begin()
        over = asyncio.ensure_future(asyncio.wait(bench._running))
        await asyncio.wait([over, asyncio.ensure_future(cut.wait())], return_when="FIRST_COMPLETED")
        survived = not cut.is_set()
        await bench.restart()
        done = await bench.complete() if not survived else await bench.done(RUN)
        assert done.status == "succeeded", f"dead before write {writes + 1}: {done.document}"
        assert sorted(made(bench)) == sorted(
            ["a", "onex", "oney", "leafx", "leafy", "exitx", "exity", "c2"]
        ), f"dead before write {writes + 1}"
        assert [len(await children(bench, row.run)) for row in await children(bench)] == [1, 1]
        await bench.close()
        if survived:
            break
        writes += 1
    assert writes > 20


def _dies_after(writes: int, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """From the write after so many on nothing becomes durable, and nothing follows from it."""
    left, cut, write = [None] * writes, asyncio.Event(), bench.store.write

    async def mortal(*given: Write) -> None:
        if not left:
            cut.set()
            await asyncio.Event().wait()
        left.pop()
        await write(*given)

    monkeypatch.setattr(bench.store, "write", mortal)
    return cut
