"""What is observed of a repository, over restarts, kills, failing fetches and lost objects."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from git_remotes import GitHttpServer, git
from house import House
from mortal import Died, Fate, doom, restart

from runner.control.applied import Applied
from runner.control.reconciler import Reconciled
from storage.mirror import GitError, Mirror, Unreachable
from storage.records import Owe

PUSH = 'on: push\nsteps: [{command: "true"}]\n'
TAG = 'on: {push: {tags: ["v*"]}}\nsteps: [{command: "true"}]\n'
CRON = 'schedule: "*/5 * * * *"\nsteps: [{command: "true"}]\n'
BROKEN = "on: push\nstepz: []\n"
MAIN = "refs/heads/main"


async def look_again(house: House) -> None:
    """The next look, by another process."""
    await restart(house)
    house.clock.forward(seconds=1)
    await house.reconciler.look()


async def test_a_kill_at_any_step_of_a_look_neither_loses_nor_doubles_a_push(
    house: House,
) -> None:
    await house.push(a=PUSH, b=CRON)
    pushed: list[str] = []
    died = True
    while died:
        steps = len(pushed) + 1
        house.clock.forward(seconds=1)
        pushed.append(house.remote.change({".dagu/b.yaml": f"{CRON}# {steps}\n"}))
        await house.store.write(Owe("fetch", "ops", house.clock()))
        fate = Fate(steps)
        doom(house, fate)
        house.build()
        with contextlib.suppress(Died):
            await house.reconciler.look()
        died = fate.came
        await restart(house)
        in_force = house.reconciler.applied()
        await house.reconciler.look()
        assert await house.runs() == [("a", commit) for commit in pushed]
        assert house.reconciler.applied().commit == pushed[-1]
        assert in_force.commit in pushed[-2:] or steps == 1
        row = await house.store.repository("ops")
        assert row is not None
        assert row.applied == house.reconciler.applied().n == steps + 1
        assert (await house.store.refs("ops"))[MAIN].n == steps + 1
        assert await house.store.owed_next("fetch") is None
    assert len(pushed) > 10  # the last one lived


async def test_a_force_push_back_to_an_older_commit_runs_it_again(house: House) -> None:
    first = await house.push(a=PUSH)
    second = await house.push(x=PUSH)
    house.remote.push(f"+{first}:{MAIN}")
    await look_again(house)
    house.remote.push(f"+{second}:{MAIN}")
    await look_again(house)
    runs = [commit for workflow, commit in await house.runs() if workflow == "a"]
    assert runs == [second, first, second]
    assert list(house.reconciler.applied().workflows) == ["a", "x"]


async def test_a_branch_that_comes_back_at_the_same_commit_is_a_push(house: House) -> None:
    tip = await house.push(a=PUSH)
    git("update-ref", "-d", MAIN, cwd=house.remote.path)
    await look_again(house)
    assert (await house.store.refs("ops"))[MAIN].oid is None
    assert list(house.reconciler.applied().workflows) == ["a"]
    house.remote.push(f"{tip}:{MAIN}")
    await look_again(house)
    assert await house.runs() == [("a", tip)]
    assert list(await house.verdicts()) == [f"push:ops:{MAIN}:3:a"]


async def test_an_annotated_tag_moves_with_its_own_object(house: House) -> None:
    tip = await house.push(a=TAG)
    for message in ("One", "Two"):
        house.remote.git("tag", "-f", "-a", "v1", "-m", message)
        house.remote.push("+v1")
        await look_again(house)
    await look_again(house)
    assert await house.runs() == [("a", tip), ("a", tip)]
    assert (await house.store.refs("ops"))["refs/tags/v1"].n == 2


async def test_pushes_during_an_outage_are_one_move_that_covers_them_all(
    house: House, git_http: GitHttpServer, tmp_path: Path
) -> None:
    docs = 'on: {push: {paths: ["docs/**"]}}\nsteps: [{command: "true"}]\n'
    house.mirror.close()
    house.mirror = Mirror(tmp_path / "http.git", url=git_http.url(house.remote))
    house.build()
    await house.push(a=PUSH, docs=docs)
    house.remote.change({"docs/x": "1"})
    git_http.status = 503
    for _ in range(2):
        with pytest.raises(Unreachable):
            await house.reconciler.look()
        assert await restart(house)
    last = house.remote.change({"src/x": "1"})
    git_http.status = None
    await look_again(house)
    assert await house.runs() == [("a", last), ("docs", last)]


async def test_a_stale_workflow_runs_at_its_commit_though_history_was_rewritten(
    house: House,
) -> None:
    good = await house.push(a=PUSH, b=CRON)
    await house.push(a=BROKEN)
    house.remote.git("checkout", "-q", "--orphan", "rewritten")
    tip = house.remote.commit({"y": "1"})
    house.remote.push(f"+HEAD:{MAIN}")
    for _ in range(2):
        await look_again(house)
        git("reflog", "expire", "--expire=now", "--all", cwd=house.mirror.path)
        git("gc", "-q", "--prune=now", cwd=house.mirror.path)
    live = house.reconciler.applied().workflows["a"]
    assert (live.stale, live.commit) == (True, good)
    row = await house.intake.start_by_hand(None, "a", params=(), actor="ada", request=None)
    assert row.commit == good
    assert house.mirror.snapshot(good).files
    assert house.reconciler.applied().commit == tip


def _empty(house: House) -> None:
    house.remote.git("checkout", "-q", "--orphan", "empty")
    house.remote.git("rm", "-q", "-rf", ".")
    house.remote.commit({"x": "1"})
    house.remote.push(f"+HEAD:{MAIN}")


def _delete(house: House) -> None:
    git("update-ref", "-d", MAIN, cwd=house.remote.path)


@pytest.mark.parametrize("accident", [_empty, _delete])
async def test_what_is_kept_after_an_accident_can_still_run(
    house: House, accident: Callable[[House], None]
) -> None:
    kept = await house.push(b=CRON)
    accident(house)
    for _ in range(2):
        await look_again(house)
        git("gc", "-q", "--prune=now", cwd=house.mirror.path)
    row = await house.intake.start_by_hand(None, "b", params=(), actor="ada", request=None)
    assert row.commit == kept
    assert house.mirror.snapshot(kept).files


async def test_a_repository_that_is_away_keeps_everything_over_a_restart(house: House) -> None:
    await house.push(a=PUSH, b=CRON)
    away = house.remote.path.rename(house.remote.path.with_name("away.git"))
    with pytest.raises(GitError, match="no such folder"):
        await house.reconciler.look()
    assert await restart(house)
    assert [line.workflow for line in house.ticker.lines()] == ["b"]
    away.rename(house.remote.path)
    tip = house.remote.change({"x": "1"})
    await house.reconciler.look()
    assert await house.runs() == [("a", tip)]


async def test_the_status_branch_is_no_ref_of_ours_whatever_is_watched(house: House) -> None:
    house.watch = ("**",)
    house.build()
    await house.push(a=PUSH)
    house.remote.push("HEAD:refs/heads/dagmill/status")
    await look_again(house)
    git("update-ref", "-d", "refs/heads/dagmill/status", cwd=house.remote.path)
    await look_again(house)
    assert list(await house.store.refs("ops")) == [MAIN]
    assert await house.runs() == []


async def test_an_error_before_a_written_look_takes_effect_is_made_good_by_the_next(
    house: House,
) -> None:
    await house.push(a=PUSH)
    real = house.ticker.replace

    async def fail(applied: Applied) -> None:
        house.ticker.replace = real  # type: ignore[method-assign]
        raise ZeroDivisionError

    house.ticker.replace = fail  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        await house.push(b=CRON)
    house.remote.path.rename(house.remote.path.with_name("away.git"))
    with pytest.raises(GitError):
        await house.reconciler.look()
    assert house.reconciler.applied().n == 2
    assert [line.workflow for line in house.ticker.lines()] == ["b"]


async def test_definitions_that_another_look_applied_are_taken_up(house: House) -> None:
    await house.push(a=PUSH)
    mine, ticker = house.reconciler, house.ticker
    house.build()
    await house.push(b=CRON)
    await mine.look()
    assert mine.applied().n == 2
    assert [line.workflow for line in ticker.lines()] == ["b"]


async def test_a_run_does_not_wait_for_what_people_are_told(house: House) -> None:
    await house.push(a=PUSH)

    def broken(done: Reconciled) -> None:
        raise BrokenPipeError

    house.reconciler._announce = broken
    told: list[tuple[str, str]] = []
    house.intake.queued = lambda repository, workflow: told.append((repository, workflow))
    with pytest.raises(BrokenPipeError):
        await house.push(b=CRON)
    assert told == [("ops", "a")]
    assert house.reconciler.reconciled


async def test_a_mirror_that_was_deleted_costs_no_definition(house: House, tmp_path: Path) -> None:
    good = await house.push(a=PUSH, b=CRON)
    await house.push(a=BROKEN)
    begin = house.reconciler.applied().workflows["b"].live_from
    house.mirror.close()
    shutil.rmtree(house.mirror.path)
    house.mirror = Mirror(tmp_path / "data/ops.git", url=str(house.remote.path))
    await look_again(house)
    live = house.reconciler.applied().workflows
    assert (live["a"].commit, live["a"].stale, live["b"].live_from) == (good, True, begin)
    assert house.mirror.pins() == {good}


async def test_lost_objects_are_fetched_again_by_a_look(house: House, tmp_path: Path) -> None:
    await house.push(a=PUSH, b=CRON)
    house.mirror.close()
    path = house.mirror.path.rename(tmp_path / "moved.git")
    for pack in (path / "objects/pack").glob("*.pack"):
        pack.unlink()
    house.mirror = Mirror(path, url=str(house.remote.path))
    tip = house.remote.change({"x": "1"})
    await look_again(house)
    assert await house.runs() == [("a", tip)]
    row = await house.intake.start_by_hand(None, "b", params=(), actor="ada", request=None)
    assert row.commit == tip


async def test_a_blob_that_vanished_below_an_unmoved_tip_is_fetched_again(
    house: House, tmp_path: Path
) -> None:
    await house.push(a=PUSH)
    second = await house.push(b=CRON)  # a pack of its own
    house.mirror.close()
    path = house.mirror.path.rename(tmp_path / "moved.git")
    packs = sorted((path / "objects/pack").glob("*.pack"), key=lambda file: file.stat().st_mtime_ns)
    assert len(packs) == 2
    packs[0].unlink()
    house.mirror = Mirror(path, url=str(house.remote.path))
    await look_again(house)
    assert house.mirror.snapshot(second).files
    assert list(house.reconciler.applied().workflows) == ["a", "b"]
