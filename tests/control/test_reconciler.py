from __future__ import annotations

import asyncio

import pytest
from git_remotes import git
from house import House

from storage.mirror import BranchMissing, GitError, Snapshot
from storage.records import Move, Owe, RefRow
from storage.store import Refused

PUSH = 'on: push\nsteps: [{command: "true"}]\n'
CRON = 'schedule: "*/5 * * * *"\nsteps: [{command: "true"}]\n'
BROKEN = "on: push\nstepz: []\n"


async def test_the_first_sight_applies_the_catalog_and_starts_nothing(house: House) -> None:
    tip = await house.push(a=PUSH, b=CRON)
    assert await house.runs() == []
    row = await house.store.repository("ops")
    assert row is not None
    assert (row.applied, row.applied_commit, row.branch) == (1, tip, "refs/heads/main")
    assert house.reconciled[0].diff.added == ("a", "b")
    assert house.reconciled[0].diff.schedules_added == ("b",)


async def test_a_push_runs_the_matching_workflows_at_the_pushed_commit(house: House) -> None:
    first = await house.push(a=PUSH, b=CRON)
    second = await house.push(b=CRON + "# changed\n")
    assert await house.runs() == [("a", second)]
    (run,) = await house.store.runs()
    row = await house.store.trigger("push:ops:refs/heads/main:2:a")
    assert row is not None
    assert (row.verdict, row.run) == ("run", run.run)
    assert first in row.cause


async def test_pushes_between_two_looks_are_one_move_whose_newest_commit_runs(house: House) -> None:
    await house.push(a=PUSH)
    house.remote.change({"one": "1"})
    last = await house.push(c=PUSH)
    assert await house.runs() == [("a", last), ("c", last)]


async def test_paths_choose_what_a_push_runs(house: House) -> None:
    docs = 'on: {push: {paths: ["docs/**"]}}\nsteps: [{command: "true"}]\n'
    await house.push(a=PUSH, docs=docs)
    first = house.remote.change({"src/x": "1"})
    await house.reconciler.look()
    house.clock.forward(seconds=1)
    second = house.remote.change({"docs/x": "1"})
    await house.reconciler.look()
    assert await house.runs() == [("a", first), ("a", second), ("docs", second)]


async def test_branches_and_tags_choose_what_a_push_runs(house: House) -> None:
    steps = '\nsteps: [{command: "true"}]\n'
    await house.push(
        main="on: {push: {branches: [main]}}" + steps,
        tagged="on: {push: {tags: [main]}}" + steps,
        also="on: {push: {branches: [main], paths: [x]}}" + steps,
        never="on: {push: {branches: [other]}}" + steps,
    )
    tip = house.remote.change({"x": "1"})
    await house.reconciler.look()
    assert await house.runs() == [("also", tip), ("main", tip)]


async def test_the_definition_at_the_pushed_commit_is_used_on_a_watched_branch(
    house: House,
) -> None:
    house.watch = ("**",)
    house.build()
    await house.push(a="steps: [{command: 'true'}]\n")
    house.remote.git("checkout", "-q", "-b", "feature")
    tip = await house.push(a=PUSH)
    assert await house.runs() == [("a", tip)]
    assert house.reconciler.applied().workflows["a"].entry.push is None


async def test_a_broken_file_has_a_verdict_and_no_run(house: House) -> None:
    good = await house.push(a=PUSH, b=PUSH)
    tip = await house.push(a=BROKEN)
    assert await house.runs() == [("b", tip)]
    assert await house.verdicts() == {
        "push:ops:refs/heads/main:2:a": "broken",
        "push:ops:refs/heads/main:2:b": "run",
    }
    definition = house.reconciler.applied().definition("a")
    assert definition is not None
    assert definition.commit == good
    rows = await house.store.definitions("ops", "refs/heads/main")
    assert rows["a"].problem_commit == tip
    assert '.dagu/a.yaml:2:1: "stepz"' in rows["a"].problems


async def test_a_broken_file_that_never_cared_for_pushes_has_no_verdict(house: House) -> None:
    await house.push(b=CRON)
    await house.push(b="stepz: []\n")
    assert await house.verdicts() == {}


async def test_the_last_good_version_survives_a_restart(house: House) -> None:
    good = await house.push(a=PUSH)
    await house.push(a=BROKEN)
    house.build()
    assert await house.reconciler.restore()
    await house.reconciler.look()
    definition = house.reconciler.applied().definition("a")
    assert definition is not None
    assert definition.commit == good


async def test_a_look_without_news_applies_nothing(house: House) -> None:
    await house.push(a=PUSH)
    await house.reconciler.look()
    house.build()
    await house.reconciler.restore()
    await house.reconciler.look()
    assert house.reconciler.applied().n == 1
    assert len(house.reconciled) == 1


async def test_a_deleted_file_is_no_longer_in_force(house: House) -> None:
    await house.push(a=PUSH, b=CRON)
    await house.push(b=None)
    assert list(house.reconciler.applied().workflows) == ["a"]
    assert house.reconciled[-1].diff.schedules_removed == ("b",)
    assert house.ticker.lines() == []


async def test_an_empty_folder_keeps_everything_and_says_so(house: House) -> None:
    await house.push(b=CRON)
    await house.push(b=None)
    row = await house.store.repository("ops")
    assert row is not None
    assert "1 definition stays" in row.problem
    assert list(house.reconciler.applied().workflows) == ["b"]


async def test_a_branch_that_is_gone_keeps_everything_and_says_so(house: House) -> None:
    house.branch = "live"
    house.build()
    house.remote.commit({".dagu/b.yaml": CRON})
    house.remote.push("HEAD:refs/heads/live", "HEAD:refs/heads/main")
    await house.reconciler.look()
    house.remote.push(":refs/heads/live")
    await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert 'branch "live" is gone' in row.problem
    assert list(house.reconciler.applied().workflows) == ["b"]
    house.remote.push("HEAD:refs/heads/live")
    await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert row.problem == ""


async def test_a_lost_default_branch_keeps_everything_over_a_restart_too(house: House) -> None:
    await house.push(a=PUSH, b=CRON)
    git("symbolic-ref", "HEAD", "refs/heads/nowhere", cwd=house.remote.path)
    await house.reconciler.look()
    house.build()
    assert await house.reconciler.restore()
    await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert (row.branch, row.problem) == (
        "refs/heads/main",
        "the remote's HEAD names no branch; 2 definitions stay as they were",
    )
    assert list(house.reconciler.applied().workflows) == ["a", "b"]


async def test_a_new_default_branch_without_workflows_takes_nothing_away(house: House) -> None:
    await house.push(b=CRON)
    house.remote.git("checkout", "-q", "--orphan", "other")
    house.remote.git("rm", "-q", "-rf", ".")
    house.remote.change({"x": "1"})
    git("symbolic-ref", "HEAD", "refs/heads/other", cwd=house.remote.path)
    await house.reconciler.look()
    house.build()
    await house.reconciler.restore()
    await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert "1 definition stays" in row.problem
    assert row.branch == "refs/heads/main"
    assert list(house.reconciler.applied().workflows) == ["b"]


async def test_a_branch_served_again_brings_no_deleted_workflow_back(house: House) -> None:
    await house.push(a=PUSH, b=CRON)
    house.remote.push("HEAD:refs/heads/other")
    git("symbolic-ref", "HEAD", "refs/heads/other", cwd=house.remote.path)
    await house.reconciler.look()
    await house.push(b=None)
    git("symbolic-ref", "HEAD", "refs/heads/main", cwd=house.remote.path)
    await house.reconciler.look()
    house.build()
    await house.reconciler.restore()
    assert list(house.reconciler.applied().workflows) == ["a"]


async def test_another_branch_that_is_missing_is_refused_at_a_restart(house: House) -> None:
    await house.push(b=CRON)
    house.branch = "mian"
    house.build()
    assert not await house.reconciler.restore()
    house.remote.push("HEAD:refs/heads/dagmill/status")
    with pytest.raises(BranchMissing, match='has no branch "mian"; it has main; choose'):
        await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert row.branch == "refs/heads/main"


async def test_a_repository_that_moved_to_a_new_url_goes_on(house: House) -> None:
    await house.push(a=PUSH)
    house.url = "the new url"
    house.build()
    assert not await house.reconciler.restore()
    tip = await house.push(x=PUSH)
    assert await house.runs() == [("a", tip), ("x", tip)]
    row = await house.store.repository("ops")
    assert row is not None
    assert row.url == "the new url"


async def test_another_repository_under_the_same_name_is_refused(house: House) -> None:
    await house.push(a=PUSH)
    house.url = "another url"
    house.build()
    await house.reconciler.restore()
    house.remote.git("checkout", "-q", "--orphan", "stranger")
    house.remote.commit({"x": "1"}, message="Another beginning")
    house.remote.push("+HEAD:refs/heads/main")
    with pytest.raises(GitError, match="set DAGMILL_NAME to another name"):
        await house.reconciler.look()
    assert await house.runs() == []
    row = await house.store.repository("ops")
    assert row is not None
    assert row.url == "the url"


async def test_an_empty_repository_is_refused_and_nothing_is_stored(house: House) -> None:
    with pytest.raises(BranchMissing, match="is empty"):
        await house.reconciler.look()
    assert await house.store.repositories() == []
    assert await house.store.refs("ops") == {}


async def test_a_look_that_lost_to_another_one_looks_again(house: House) -> None:
    await house.push(a=PUSH)
    tip = house.remote.change({"x": "1"})
    real, rival = house.mirror.fetch, RefRow("ops", "refs/heads/main", 2, tip, house.clock())
    lost: list[Refused] = []

    def fetch() -> object:
        if not lost:
            lost.append(Refused())
            asyncio.run_coroutine_threadsafe(house.store.write(Move(rival)), loop).result()
        return real()

    loop = asyncio.get_running_loop()
    house.mirror.fetch = fetch  # type: ignore[method-assign, assignment]
    await house.reconciler.look()
    assert lost
    # The rival's move is the one that starts runs: here it started none, and neither did we.
    assert await house.runs() == []
    assert (await house.store.refs("ops"))["refs/heads/main"].n == 2


async def test_a_completed_fetch_pays_what_was_owed_before_it_began(house: House) -> None:
    await house.push(a=PUSH)
    await house.store.write(Owe("fetch", "ops", house.clock()))
    await house.reconciler.look()
    assert await house.store.owed_next("fetch") is None


async def test_a_symbolic_link_is_a_problem_and_not_followed(house: House) -> None:
    (house.remote.work / ".dagu").mkdir()
    (house.remote.work / ".dagu/link.yaml").symlink_to("/etc/passwd")
    await house.push(a=PUSH)
    problems = house.reconciled[0].catalog.problems
    assert "link is not followed" in str(problems[".dagu/link.yaml"][0])


async def test_owing_a_fetch_wakes_the_reconciler(house: House) -> None:
    await house.push(a=PUSH)
    loop = asyncio.create_task(house.reconciler.run_forever())
    tip = house.remote.change({"x": "1"})
    await house.store.write(Owe("fetch", "ops", house.clock()))
    await house.until(lambda: house.reconciler.applied().commit == tip, "definitions:ops")
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


async def test_a_commit_costs_what_it_changes(house: House) -> None:
    await house.push(a=PUSH, b=PUSH, c=PUSH)
    before = house.reconciler.applied().workflows
    blobs: list[str] = []
    real = house.mirror.read_blob

    def read_blob(oid: str, *, limit_bytes: int) -> bytes:
        blobs.append(oid)
        return real(oid, limit_bytes=limit_bytes)

    house.mirror.read_blob = read_blob  # type: ignore[method-assign]
    house.remote.change({".dagu/b.yaml": "steps: [{command: date}]\n"})
    await house.reconciler.look()
    after = house.reconciler.applied().workflows
    assert after["a"] is before["a"]
    assert after["c"] is before["c"]
    assert set(blobs) == {before["a"].entry.blob, after["b"].entry.blob}  # a and c run their file


async def test_a_commit_beside_the_workflows_keeps_the_whole_catalog(house: House) -> None:
    await house.push(a="steps: [{command: date}]\n", b="stepz: 1\n")
    tip = house.remote.change({"x": "1"})
    await house.reconciler.look()
    first, second = house.reconciled[-2:]
    assert (second.applied.commit, second.catalog.commit) == (tip, tip)
    assert second.catalog.entries is first.catalog.entries
    assert not second.diff


async def test_a_pushed_commit_is_read_once(house: House) -> None:
    await house.push(a=PUSH)
    read: list[str] = []
    real = house.mirror.snapshot

    def snapshot(commit: str, *, folder: str, since: Snapshot | None) -> Snapshot:
        read.append(commit)
        return real(commit, folder=folder, since=since)

    house.mirror.snapshot = snapshot  # type: ignore[method-assign]
    tip = await house.push(a=PUSH + "# changed\n")
    assert await house.runs() == [("a", tip)]
    assert read == [tip]


async def test_a_file_that_never_was_good_is_a_problem_of_the_repository(house: House) -> None:
    await house.push(a=PUSH)
    await house.push(a=BROKEN, b=BROKEN)
    await house.reconciler.look()
    row = await house.store.repository("ops")
    assert row is not None
    assert row.problem.startswith("1 file was never good; .dagu/b.yaml:1:1: ")
    await house.push(b=PUSH)
    row = await house.store.repository("ops")
    assert row is not None
    assert row.problem == ""


async def test_failed_looks_are_repeated_soon_and_then_less_and_less(house: House) -> None:
    await house.push(a=PUSH)
    house.remote.path.rename(house.remote.path.with_name("away.git"))
    waits = [await house.reconciler._attempt() for _ in range(8)]
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300]
    row = await house.store.repository("ops")
    assert row is not None
    assert "no such folder" in row.problem


def rename_default_branch(house: House, name: str) -> None:
    """As at a forge: the branch is called otherwise, and so is the remote's HEAD."""
    git("branch", "-m", "main", name, cwd=house.remote.path)


async def test_a_renamed_default_branch_keeps_what_was_good_and_since_when(house: House) -> None:
    good = await house.push(a=CRON, b=CRON)
    since = house.reconciler.applied().workflows["b"].live_from
    await house.push(a=CRON + "stepz: []\n", b=CRON)
    rename_default_branch(house, "trunk")
    house.clock.forward(minutes=5)
    await house.reconciler.look()
    for _ in range(2):
        applied = house.reconciler.applied()
        assert applied.ref == "refs/heads/trunk"
        assert applied.workflows["b"].live_from == since
        assert (applied.workflows["a"].stale, applied.workflows["a"].commit) == (True, good)
        await house.restart()
    assert house.reconciled[-1].diff.removed == ()


async def test_another_branch_by_our_own_settings_begins_anew(house: House) -> None:
    await house.push(a=CRON)
    house.remote.git("checkout", "-q", "-b", "staging")
    house.remote.commit({".dagu/a.yaml": "stepz: []\n"})
    house.remote.push("HEAD:refs/heads/staging")
    house.branch = "staging"
    house.build()
    await house.reconciler.restore()
    await house.reconciler.look()
    assert dict(house.reconciler.applied().workflows) == {}


async def test_pushes_to_other_branches_count_while_the_served_one_is_gone(house: House) -> None:
    house.branch, house.watch = "main", ("**",)
    house.build()
    await house.push(a=PUSH)
    house.remote.push("HEAD:refs/heads/other")
    await house.reconciler.look()
    before = len(await house.runs())
    git("update-ref", "-d", "refs/heads/main", cwd=house.remote.path)
    pushed = house.remote.commit({"file": "new"})
    house.remote.push("HEAD:refs/heads/other")
    house.clock.forward(seconds=1)  # runs of one instant have no order
    await house.reconciler.look()
    assert (await house.runs())[before:] == [("a", pushed)]
