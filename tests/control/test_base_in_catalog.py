"""base.yaml: what it gives to every workflow, and what happens while it is bad."""

from __future__ import annotations

import hashlib

from house import House
from structlog.testing import capture_logs

from runner.engine import journal
from runner.engine.events import Queued
from runner.engine.history import History
from runner.triggers import push_key
from storage.records import RunRow

STEPS = 'steps: [{command: "true"}]\n'
CRON = 'schedule: "*/5 * * * *"\n' + STEPS
BASE = "env: [{REGION: eu}]\ntags: nightly\n"
BAD = "env: [{REGION: eu}]\nstepz: 1\n"


async def start(house: House, workflow: str) -> RunRow:
    return await house.intake.start_by_hand("ops", workflow, params=(), actor="ada", request=None)


async def queued_of(house: House, run: str) -> Queued:
    first = journal.event((await house.store.events(run))[0])
    assert isinstance(first, Queued)
    return first


async def problems(house: House) -> dict[str, str]:
    """Workflow → the first problem of its newer version, "" for a good one."""
    rows = await house.store.definitions("ops", "refs/heads/main")
    return {w: (row.problems.splitlines() or [""])[0] for w, row in rows.items()}


async def test_a_run_keeps_the_base_that_it_was_made_with(house: House) -> None:
    await house.push(base=BASE, a=STEPS)
    row = await start(house, "a")
    queued = await queued_of(house, row.run)
    assert queued.base_sha256 == hashlib.sha256(BASE.encode()).hexdigest()
    assert await house.store.source(queued.base_sha256) == BASE
    await house.push(base=BASE.replace("eu", "us"))
    history = await History.read(house.store, row.run)
    assert history.workflow.base_env == (("REGION", "eu"),)
    assert history.workflow.tags == ("nightly",)
    newer = await History.read(house.store, (await start(house, "a")).run)
    assert newer.workflow.base_env == (("REGION", "us"),)


async def test_without_a_base_a_run_has_none(house: House) -> None:
    await house.push(a=STEPS)
    row = await start(house, "a")
    assert (await queued_of(house, row.run)).base_sha256 == ""


async def test_a_changed_base_changes_every_workflow_and_no_schedule(house: House) -> None:
    await house.push(a=CRON, b=STEPS)
    before = house.reconciler.applied().workflows["a"].live_from
    await house.push(base=BASE)
    assert house.reconciled[-1].diff.changed == ("a", "b")
    assert house.reconciled[-1].diff.schedules_changed == ()
    assert house.reconciler.applied().workflows["a"].live_from == before
    await house.push(base=None)
    row = await start(house, "a")
    assert (await History.read(house.store, row.run)).workflow.base_env == ()


async def test_with_a_bad_base_every_workflow_keeps_its_last_good_definition(
    house: House,
) -> None:
    good = await house.push(base=BASE, a=CRON, b=STEPS)
    await house.push(base=BAD, b=STEPS.replace("true", "false"), new=STEPS)
    told = ".dagu/base.yaml:2:1: "
    found = await problems(house)
    assert list(found) == ["a", "b"]
    assert all(problem.startswith(told) for problem in found.values())
    assert list(house.reconciled[-1].catalog.problems) == [".dagu/base.yaml"]
    row = await start(house, "b")
    assert row.commit == good
    history = await History.read(house.store, row.run)
    assert history.workflow.steps[0].command == "true"
    assert history.workflow.base_env == (("REGION", "eu"),)
    house.clock.forward(minutes=5)
    await house.ticker.fire_due(house.clock())
    assert ("a", good) in await house.runs()


async def test_what_a_bad_base_left_in_force_is_taken_up_by_a_restart(house: House) -> None:
    good = await house.push(base=BASE, a=STEPS)
    await house.push(base=BAD)
    await house.restart(minutes=1)
    assert house.reconciler.applied().workflows["a"].stale
    row = await start(house, "a")
    history = await History.read(house.store, row.run)
    assert (row.commit, history.workflow.base_env) == (good, (("REGION", "eu"),))


async def test_a_base_that_is_good_again_brings_all_up_to_date(house: House) -> None:
    await house.push(base=BASE, a=CRON)
    await house.push(base=BAD, b=STEPS)
    tip = await house.push(base="")
    assert await problems(house) == {"a": "", "b": ""}
    assert (await start(house, "b")).commit == tip


async def test_a_bad_base_of_a_repository_that_never_was_good_is_told(house: House) -> None:
    await house.push(base=BAD, a=STEPS)
    row = await house.store.repository("ops")
    assert row is not None
    assert ".dagu/base.yaml:2:1: " in row.problem
    assert house.reconciler.applied().workflows == {}


async def test_a_push_to_a_commit_with_a_bad_base_starts_nothing_and_says_so(
    house: House,
) -> None:
    await house.push(base=BASE, a="on: push\n" + STEPS)
    await house.push(base=BAD)
    refs = await house.store.refs("ops")
    row = refs["refs/heads/main"]
    key = push_key("ops", row.ref, n=row.n, workflow="a")
    assert (await house.verdicts())[key] == "broken"
    found = await house.store.trigger(key)
    assert found is not None and ".dagu/base.yaml:2:1: " in found.cause


async def test_only_what_a_commit_changes_is_read_again(house: House) -> None:
    await house.push(base=BASE, **{f"w{n}": STEPS + f"# {n}\n" for n in range(5)})
    read: list[str] = []
    real = house.mirror.read_blob

    def counted(oid: str, *, limit_bytes: int) -> bytes:
        read.append(oid)
        return real(oid, limit_bytes=limit_bytes)

    house.mirror.read_blob = counted  # type: ignore[method-assign]
    await house.push(w1=STEPS + "# new\n")
    assert len(read) == 1
    await house.push(base=BASE + "group: x\n")
    assert len(read) == 1 + 6 + 1  # every workflow, and the base as a file and as what it gives


async def test_a_circle_of_sub_workflows_keeps_the_last_good_versions(house: House) -> None:
    good = await house.push(a="steps: [{run: b}]\n", b=STEPS, c=STEPS)
    tip = await house.push(b="steps: [{run: a}]\n")
    found = await problems(house)
    assert found["c"] == ""
    assert found["a"].startswith(".dagu/a.yaml:1:15: a → b → a is a circle")
    assert found["b"].startswith(".dagu/b.yaml:1:15: b → a → b is a circle")
    assert ((await start(house, "b")).commit, (await start(house, "c")).commit) == (good, tip)


async def test_warnings_of_what_a_commit_changes_are_logged(house: House) -> None:
    await house.push(a="steps: [{run: gone}]\n")
    with capture_logs() as logs:
        await house.push(b="on: {release: {}}\n" + STEPS)
    warnings = [log["warning"] for log in logs if log["event"] == "definition_questioned"]
    assert warnings == ['.dagu/b.yaml:1:6: "release" is not started by this release yet']
