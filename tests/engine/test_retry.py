"""Doing a run again: what is carried over, what runs again, in which files."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from real_run import RUN, Done
from retrying import Desk

from runner.control.requests import NotNow, UnknownRun
from runner.engine.events import Carried, Launched, Prepared
from runner.engine.log_files import LogFiles
from storage.records import DeleteRun

MENDED = "test -e mended || { touch mended; false; }"  # fails the first time

FLOW = f"""
params: {{WHO: anna, STAMP: "`date +%N`"}}
env: [{{OTHER: "`date +%N`"}}]
steps:
  - {{name: a, command: "echo a >>made; echo $STAMP$OTHER", output: OUT}}
  - {{name: b, command: "echo b >>made; {MENDED}", depends: a}}
  - {{name: c, command: "echo c >>made; echo $OUT $STAMP$OTHER $WHO $DAG_RUN_ATTEMPT", depends: b}}
  - {{name: d, id: last, command: "echo d >>made"}}
handlerOn: {{exit: {{command: "echo exit >>made"}}}}
"""


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    await desk.close()


def statuses(done: Done) -> dict[str, str]:
    return {s.step.name: s.status.value for s in done.state.steps[: done.state.first_handler]}


def launched(done: Done) -> list[str]:
    """The steps that ran, and items as `step.number`."""
    found = [e for e in done.events if isinstance(e, Launched)]
    return [e.step if e.item is None else f"{e.step}.{e.item}" for e in found]


async def test_what_failed_and_what_depends_on_it_runs_again_in_the_same_files(
    desk: Desk,
) -> None:
    first = await desk.run(FLOW, "WHO=berta")
    assert (first.status, sorted(desk.made())) == ("failed", ["a", "b", "d", "exit"])
    done = await desk.retry()
    run = done.document["run"]
    assert done.status == "succeeded", done.document
    assert launched(done) == ["b", "c", "handlerOn.exit"]
    assert statuses(done) == dict.fromkeys("abcd", "succeeded")
    before, now, who, attempt = done.tail("c").split()
    assert (before, who, attempt) == (now, "berta", "2")
    assert desk.made(run)[-3:] == ["b", "c", "exit"]
    assert not (desk.workspace / RUN).exists()
    row = await desk.store.run(run)
    assert row is not None
    assert (row.retry_of, row.attempt) == (RUN, 2)


async def test_a_retry_of_a_retry_knows_which_run_a_step_ran_in(desk: Desk) -> None:
    text = FLOW.replace("echo c >>made;", "echo c >>made; test -e better;")
    await desk.run(text)
    second = await desk.retry()
    run = second.document["run"]
    assert (second.status, statuses(second)["b"]) == ("failed", "succeeded")
    (desk.workspace / run / "better").touch()
    done = await desk.retry(run)
    assert done.status == "succeeded"
    assert launched(done) == ["c", "handlerOn.exit"]
    by = {e.step: e.run for e in done.events if isinstance(e, Carried)}
    assert by == {"a": RUN, "b": run, "d": RUN}
    paths = await LogFiles(desk.store, desk.folder / "runs")(done.document["run"], "d")
    assert paths[0].exists()


async def test_more_can_be_asked_for(desk: Desk) -> None:
    text = FLOW.replace(MENDED, "true")
    await desk.run(text)
    with pytest.raises(NotNow, match="succeeded, so there is nothing to do again"):
        await desk.ask_again()
    with pytest.raises(NotNow, match='has no step "lats"; did you mean "last"'):
        await desk.ask_again(from_step="lats")
    done = await desk.retry(from_step="last")
    assert launched(done) == ["d", "handlerOn.exit"]
    done = await desk.retry(done.document["run"], from_step="b")
    assert launched(done) == ["b", "c", "handlerOn.exit"]
    done = await desk.retry(done.document["run"], all_steps=True)
    assert sorted(launched(done)) == ["a", "b", "c", "d", "handlerOn.exit"]
    assert done.document["attempt"] == 4


async def test_what_is_under_way_or_unknown_is_not_done_again(desk: Desk) -> None:
    await desk.run(FLOW)
    row = await desk.ask_again(request="one")
    assert await desk.ask_again(request="one") == row
    with pytest.raises(NotNow, match=f"is being retried already, by run {row.run}"):
        await desk.ask_again(request="two")
    with pytest.raises(NotNow, match="is not over"):
        await desk.ask_again(row.run)
    with pytest.raises(UnknownRun, match="there is no run nobody"):
        await desk.ask_again("nobody")


async def test_a_run_can_be_done_again_after_its_first_retry_was_forgotten(desk: Desk) -> None:
    await desk.run(FLOW)
    first = await desk.retry()
    await desk.store.write(DeleteRun(first.document["run"]))
    second = await desk.ask_again()
    assert second.retry_of == RUN


async def test_fresh_files_are_made_and_said_where_the_old_ones_are_gone(desk: Desk) -> None:
    (desk.tree / "kept").touch()
    await desk.run(FLOW)
    shutil.rmtree(desk.workspace / RUN)
    done = await desk.retry()
    folder = desk.workspace / done.document["run"]
    assert done.status == "failed"  # as the first time
    assert (folder / "kept").exists()
    (prepared,) = [e for e in done.events if isinstance(e, Prepared) and e.step is None]
    assert "begins with fresh files" in prepared.reason
    (log,) = done.files(f"{done.document['run']}/log")
    assert log.read_text() == f"{prepared.reason}\n"
    assert done.document["remark"] == prepared.reason


async def test_skipped_steps_are_judged_again_only_below_what_runs_again(desk: Desk) -> None:
    judged = '{condition: "`cat go || true`", expected: x}'
    text = f"""
    steps:
      - {{name: a, command: "{MENDED}", continueOn: {{failure: true}}}}
      - {{name: b, command: "true", depends: a, precondition: {judged}}}
      - {{name: c, command: "true", precondition: {judged}}}
      - {{name: d, command: "false"}}
    """
    first = await desk.run(text)
    assert statuses(first) == {"a": "failed", "b": "skipped", "c": "skipped", "d": "failed"}
    (desk.workspace / RUN / "go").write_text("x")
    done = await desk.retry()
    assert statuses(done) == {"a": "succeeded", "b": "succeeded", "c": "skipped", "d": "failed"}


async def test_a_failed_handler_alone_is_done_again(desk: Desk) -> None:
    text = FLOW.replace(MENDED, "true").replace("echo exit >>made", MENDED)
    first = await desk.run(text)
    assert (first.status, first.document["reason"]) == ("failed", "handler exit failed")
    done = await desk.retry()
    assert (done.status, launched(done)) == ("succeeded", ["handlerOn.exit"])


# Items and child runs

ITEMS = """
steps:
  - name: a
    command: "echo $ITEM >>made; echo out-$ITEM; test $ITEM != y || test -e mended"
    parallel: [x, y, z]
    output: ALL
  - {name: b, command: "echo ${ALL.summary.succeeded} ${ALL.results[2].output}", depends: a}
"""


async def test_only_failed_items_run_again_and_the_output_has_all(desk: Desk) -> None:
    first = await desk.run(ITEMS)
    assert first.status == "failed"
    (desk.workspace / RUN / "mended").touch()
    done = await desk.retry()
    assert (done.status, launched(done)) == ("succeeded", ["a.1", "b"])
    assert done.tail("b") == "3 out-z"
    again = await desk.retry(done.document["run"], from_step="b")
    assert (again.status, launched(again)) == ("succeeded", ["b"])
    assert again.tail("b") == "3 out-z"


CHILD = f"""
params: [P=none]
steps:
  - {{name: one, command: "echo one-$P >>made", output: X}}
  - {{name: two, command: "echo two-$P >>made; {MENDED}", depends: one}}
"""


async def test_a_failed_child_is_itself_done_again_in_part(desk: Desk) -> None:
    desk.write("load", CHILD)
    text = 'steps: [{name: a, run: load, params: "P=1"}, {name: b, run: load, params: "P=2"}]'
    first = await desk.run(f"type: chain\n{text}".replace("}, {", ", output: R}, {"))
    assert first.status == "failed"
    (old,) = await desk.children(RUN)
    done = await desk.retry()
    run = done.document["run"]
    assert done.status == "succeeded", done.document
    assert desk.made(run) == ["one-1", "two-1", "two-1", "one-2", "two-2"]
    new = [row.retry_of for row in await desk.children(run)]
    assert new == [old.run, ""]


async def test_a_child_is_done_again_through_its_root(desk: Desk) -> None:
    desk.write("load", "steps: [{name: deep, run: leaf, parallel: [x, y]}]")
    desk.write("leaf", "steps: [{name: s, command: echo $ITEM >>made}]")
    first = await desk.run("steps: [{name: a, run: load}, {name: b, command: echo b >>made}]")
    assert first.status == "succeeded"
    (load,) = await desk.children(RUN)
    _, y = await desk.children(load.run)
    values = await desk.store.values(y.run)
    with pytest.raises(NotNow, match="nothing to do again"):
        await desk.ask_again(y.run)
    done = await desk.retry(y.run, all_steps=True)
    run = done.document["run"]
    assert done.status == "succeeded"
    assert desk.made(run)[3:] == [values["run", "item"]]
    (again,) = await desk.children(run)
    assert again.retry_of == load.run
    (leaf,) = await desk.children(again.run)
    assert leaf.retry_of == y.run


async def test_a_child_with_files_of_its_own_gets_them_again(desk: Desk) -> None:
    desk.write("load", f"workspace: own\n{CHILD}")
    (desk.tree / "kept").touch()
    await desk.run("steps: [{name: a, run: load}]")
    assert desk.made() == []
    done = await desk.retry()
    run = done.document["run"]
    (child,) = await desk.children(run)
    assert done.status == "succeeded"
    made = desk.workspace / f"{run}.children" / child.run / "made"
    assert made.read_text().split() == ["one-none", "two-none", "two-none"]
    assert not (desk.workspace / f"{RUN}.children").exists()


async def test_a_child_whose_input_changed_is_not_done_again_but_anew(desk: Desk) -> None:
    desk.write("load", CHILD)
    await desk.run(
        f"""
        steps:
          - name: a
            command: "echo $DAG_RUN_ATTEMPT; {MENDED}"
            output: N
            continueOn: {{failure: true}}
          - {{name: b, run: load, params: "P=$N", depends: a}}
          - {{name: c, command: "test -e better"}}
        """
    )
    done = await desk.retry()
    (child,) = await desk.children(done.document["run"])
    assert child.retry_of == ""
    assert desk.made(done.document["run"])[-2:] == ["one-2", "two-2"]


# Crashes


async def test_a_retry_that_a_crash_cut_short_goes_on_in_the_same_files(desk: Desk) -> None:
    waits = "touch begun; while [ ! -e go ]; do sleep 0.05; done"
    desk.write("load", f"{CHILD}\n  - {{name: three, command: '{waits}', depends: two}}")
    await desk.run("steps: [{name: a, run: load}]")
    row = await desk.ask_again()
    await desk.start(row.run)
    desk.begin(row.run)
    await desk.until(lambda e: isinstance(e, Launched) and e.step == "three")
    await desk.restart()
    desk.begin(row.run)
    (desk.workspace / row.run / "go").touch()
    done = await desk.complete_begun(row.run)
    assert done.status == "succeeded"
    assert desk.made(row.run) == ["one-none", "two-none", "two-none"]
    assert len(await desk.children(row.run)) == 1


async def test_a_crash_between_the_move_of_the_files_and_the_first_step_loses_nothing(
    desk: Desk,
) -> None:
    await desk.run(FLOW)
    row = await desk.ask_again()
    await desk.start(row.run)
    (desk.workspace / RUN).rename(desk.workspace / row.run)
    done = await desk.complete(row.run)
    assert done.status == "succeeded"  # b finds what it left
    assert desk.made(row.run)[-3:] == ["b", "c", "exit"]
