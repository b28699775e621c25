"""`dagmill stop`, `retry` and `approve`, and what `show` and `logs` say of items and children, as
processes against the served app."""

from __future__ import annotations

import json

import pytest
from command_line import CommandLine
from served_door import AT, World
from stored_runs import FAILED, RELEASE, RUNNING, WAITING, facts, fanned, run_of

from runner.engine.events import (
    ApprovalRefused,
    Approved,
    Carried,
    Ended,
    Finished,
    Launched,
    LogDigest,
    PreparationStarted,
    Prepared,
    Settled,
    Started,
    StopRequested,
)
from runner.engine.journal import Lineage
from runner.triggers import child_run

PARENT = "20261123-080000-0123456789ab"
CALLER = "steps: [{name: load, run: parts/load}, {name: last, command: echo}]\n"


async def test_a_run_is_stopped_once_and_killed_at_once(dagmill: CommandLine, world: World) -> None:
    run = await run_of(world, RELEASE, *RUNNING)
    stopped = await dagmill("stop", run)
    assert (stopped.code, stopped.out) == (0, f"{run} is stopping\n"), stopped.err
    (asked,) = [e for e in await facts(world, run) if isinstance(e, StopRequested)]
    assert asked.by.endswith(" (api)") and "@" in asked.by
    document = json.loads((await dagmill("stop", run, "--kill", "--json")).out)
    assert document["run"] == run
    assert sum(isinstance(e, StopRequested) for e in await facts(world, run)) == 3


async def test_a_queued_run_is_over_when_it_is_stopped(dagmill: CommandLine, world: World) -> None:
    run = await run_of(world, RELEASE)
    assert (await dagmill("stop", run)).out.startswith(f"{run} cancelled: stopped by ")
    again = await dagmill("stop", run)
    assert (again.code, again.out) == (2, "") and "is over" in again.err


async def test_a_waiting_step_says_what_to_type(dagmill: CommandLine, world: World) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    shown = (await dagmill("show", run)).out
    assert "gate waits for a person" in shown and "Ship it?" in shown
    assert f"dagmill approve {run} gate " in shown
    approved = await dagmill("approve", run, "gate", "-m", "fine")
    assert (approved.code, approved.out) == (0, f"approved step gate of {run}\n"), approved.err
    last = (await facts(world, run))[-1]
    assert isinstance(last, Approved) and last.comment == "fine"


async def test_a_run_names_the_one_below_it_that_waits_for_a_person(
    dagmill: CommandLine, world: World
) -> None:
    begun = (Started(AT, "host", "1"), PreparationStarted(AT, None), Prepared(AT, None, True))
    await run_of(world, CALLER, *begun, Launched(AT, "load", 1, "l1", "boot"), run=PARENT)
    lineage = Lineage(parent=PARENT, parent_step="load", root=PARENT)
    await run_of(world, RELEASE, *WAITING, run="child-1", lineage=lineage)
    shown = (await dagmill("show", PARENT)).out
    assert "run child-1, below it, waits for a person\n  dagmill show child-1 " in shown


async def test_a_step_is_refused(dagmill: CommandLine, world: World) -> None:
    run = await run_of(world, RELEASE, *WAITING)
    refused = await dagmill("approve", run, "--refuse")
    assert (refused.code, refused.out) == (0, f"refused {run}\n")
    assert isinstance((await facts(world, run))[-1], ApprovalRefused)


async def test_a_retry_names_the_new_run(dagmill: CommandLine, world: World) -> None:
    run = await run_of(world, RELEASE, *FAILED)
    done = await dagmill("retry", run)
    assert done.code == 0, done.err
    new, status = done.out.split()
    assert status == "queued" and new != run
    assert f"{run} (attempt 2)" in (await dagmill("show", new)).out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("retry", "r1", "--from", "a", "--all"), "exclude each other"),
        (("retry", "20260101-000000-000000000000"), "there is no run"),
        (("approve", "r1"), "no step of run r1 waits"),
        (("logs", "r1", "--item", "0"), "--item needs the name of a step"),
    ],
)
async def test_what_cannot_be_is_one_line_and_exit_code_2(
    dagmill: CommandLine, world: World, arguments: tuple[str, ...], words: str
) -> None:
    await run_of(world, RELEASE, *RUNNING)
    done = await dagmill(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err and "Traceback" not in done.err


async def test_of_a_list_the_failed_items_are_named(dagmill: CommandLine, world: World) -> None:
    run = await fanned(world)
    shown = (await dagmill("show", run)).out
    assert "2 items: 1 succeeded, 1 failed" in shown
    table = shown.partition("items of fetch:")[2]
    assert [line.split()[:2] for line in table.splitlines()[2:3]] == [["1", "failed"]]
    assert "two" in table and "one" not in table


async def test_logs_of_items_stand_below_their_numbers(dagmill: CommandLine, world: World) -> None:
    run = await fanned(world)
    for item, text in ((0, "zero\n"), (1, "one\n")):
        world.log_file(run, "fetch", 1, item).write_text(text)
    both = "==> fetch [0] <==\nzero\n\n==> fetch [1] <==\none\n"
    assert (await dagmill("logs", run)).out == both
    assert (await dagmill("logs", run, "fetch")).out == both
    assert (await dagmill("logs", run, "fetch", "--item", "1")).out == "one\n"


async def called(world: World) -> str:
    """A run whose step `load` made a run, which is over."""
    child = child_run(PARENT, "load", attempt=1, item=None)
    begun = (Started(AT, "host", "1"), PreparationStarted(AT, None), Prepared(AT, None, True))
    await run_of(
        world,
        CALLER,
        *begun,
        Launched(AT, "last", 1, "l1", "boot"),
        Launched(AT, "load", 1, "l2", "boot"),
        Ended(AT, "last", 1, "l1", 0, None, ""),
        run=PARENT,
    )
    await run_of(
        world,
        RELEASE,
        *begun,
        Launched(AT, "build", 1, "b1", "boot"),
        Ended(AT, "build", 1, "b1", 3, None, "exit code 3", log=LogDigest(4, 1, "", "oh\n")),
        Settled(AT, "failed", "step build failed"),
        Finished(AT, "failed", "step build failed"),
        run=child,
        lineage=Lineage(parent=PARENT, parent_step="load", root=PARENT),
    )
    world.log_file(child, "build", 1).write_text("built\n")
    world.log_file(PARENT, "last", 1).write_text("at last\n")
    return child


async def test_a_step_that_runs_another_workflow_names_its_run(
    dagmill: CommandLine, world: World
) -> None:
    child = await called(world)
    assert f"run {child}" in (await dagmill("show", PARENT)).out
    assert f"{PARENT}, step load" in (await dagmill("show", child)).out
    assert [line.split()[0] for line in (await dagmill("runs")).out.splitlines()[1:]] == [PARENT]
    listed = await dagmill("runs", "--parent", PARENT)
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [child]


async def test_the_logs_of_a_run_have_those_of_the_runs_below_it(
    dagmill: CommandLine, world: World
) -> None:
    await called(world)
    below = "==> load / build <==\nbuilt\n"
    assert (await dagmill("logs", PARENT)).out == f"{below}\n==> last <==\nat last\n"
    assert (await dagmill("logs", PARENT, "load")).out == below


async def test_what_was_taken_over_says_from_where(dagmill: CommandLine, world: World) -> None:
    run = await run_of(
        world,
        RELEASE,
        Carried(AT, "build", "succeeded", "r0", attempt=1, launch="b0", exit_code=0),
        run="r1",
        lineage=Lineage(retry_of="r0", attempt=2),
    )
    shown = (await dagmill("show", run)).out
    assert "retry of:" in shown and "r0 (attempt 2)" in shown
    assert "taken over from r0" in shown
