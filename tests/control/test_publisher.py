from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from house import House
from trees import Trees

from runner.control import summaries
from runner.control.dashboard import Line, commit_message, readme
from runner.control.publisher import Publisher, Site
from runner.control.reporter import Reporter
from storage.records import Owe

STATUS = "refs/heads/dagmill/status"
CRON = 'name: "Load <b>"\nschedule: "0 2 * * *"\nsteps: [{command: "true"}]\n'


def reporter(house: House) -> Reporter:
    site = Site(house.mirror, house.reconciler.applied, house.ticker.next_times)
    publisher = Publisher(house.store, {"ops": site}, clock=house.clock)
    return Reporter(house.store, "summary", pay=publisher, clock=house.clock)


async def run(house: House, workflow: str = "a") -> str:
    house.clock.forward(seconds=1)
    row = await house.intake.start_by_hand(None, workflow, params=(), actor="ada", request=None)
    return row.run


async def test_a_final_run_is_on_the_branch_with_its_page_and_as_the_latest(house: House) -> None:
    tip = await house.push(a=CRON)
    number = await run(house)
    await house.finish(number)
    assert await reporter(house).pay_due()
    stem = f"runs/2026/11/20/a/{number}"
    assert house.remote.files(STATUS) == sorted(
        ["README.md", "latest/a.json", f"{stem}.json", f"{stem}.md"]
    )
    document = json.loads(house.remote.show(STATUS, f"{stem}.json"))
    assert (document["run"], document["commit"]) == (number, tip)
    assert json.loads(house.remote.show(STATUS, "latest/a.json")) == document
    page = house.remote.show(STATUS, "README.md")
    assert "Load &lt;b&gt; (a)" in page
    assert "2026-11-21 02:00 UTC" in page


async def test_writing_the_same_again_makes_no_commit(house: House) -> None:
    await house.push(a=CRON)
    number = await run(house)
    await house.finish(number)
    await reporter(house).pay_due()
    before = house.remote.tip(STATUS)
    (row,) = await house.store.runs()
    site = Site(house.mirror, house.reconciler.applied, house.ticker.next_times)
    publisher = Publisher(house.store, {"ops": site}, clock=house.clock)
    from storage.records import OwedRow

    await publisher([OwedRow("summary", row.run, 1, house.clock(), 0, "")])
    assert house.remote.tip(STATUS) == before


async def test_the_latest_never_goes_back_to_an_older_run(house: House) -> None:
    await house.push(a=CRON)
    older, newer = await run(house), await run(house)
    await house.finish(newer)
    await reporter(house).pay_due()
    await house.finish(older)
    await reporter(house).pay_due()
    assert json.loads(house.remote.show(STATUS, "latest/a.json"))["run"] == newer
    assert f"runs/2026/11/20/a/{older}.json" in house.remote.files(STATUS)


async def test_a_refused_push_is_tried_again_later_and_changes_no_run(house: House) -> None:
    await house.push(a=CRON)
    number = await run(house)
    await house.finish(number)
    house.remote.push("HEAD:refs/heads/dagmill")  # git keeps refs like files: no room beside it
    assert not await reporter(house).pay_due()
    row = await house.store.run(number)
    assert row is not None
    assert row.status == "succeeded"
    assert await house.store.owed_next("summary") is not None


async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_told(
    house: House, tmp_path: Path
) -> None:
    await house.push(a=CRON)
    lost, good = await run(house), await run(house)
    for number in (lost, good):
        await house.finish(number)
    with sqlite3.connect(tmp_path / "data/dagmill.sqlite") as database:
        database.execute("DELETE FROM events WHERE run = ?", (lost,))
    database.close()
    assert await reporter(house).pay_due()
    assert [f for f in house.remote.files(STATUS) if f.startswith("runs/")] == [
        f"runs/2026/11/20/a/{good}.json",
        f"runs/2026/11/20/a/{good}.md",
    ]


async def test_a_run_of_a_repository_that_is_no_longer_served_is_let_go(house: House) -> None:
    await house.push(a=CRON)
    await house.finish(await run(house))
    publisher = Publisher(house.store, {}, clock=house.clock)
    assert await Reporter(house.store, "summary", pay=publisher, clock=house.clock).pay_due()
    assert house.remote.tip(STATUS) is None


def test_names_from_a_repository_mean_nothing_to_markdown() -> None:
    page = readme("ops|x", [Line("a", "<script>|`x`\u202e\n| y |")])
    assert "<script>" not in page
    assert "\u202e" not in page
    (row,) = [line for line in page.splitlines() if "script" in line]
    assert row.replace("\\|", "").count("|") == 6


def test_the_message_has_counts_and_run_ids_only() -> None:
    assert commit_message(["r2", "r1"], ["failed", "succeeded"]) == (
        "2 runs: 1 failed, 1 succeeded [skip ci]\n\nDagmill-Run: r1\nDagmill-Run: r2\n"
    )


async def test_child_runs_stand_in_the_summary_of_their_root_the_first_and_all_failed(
    trees: Trees, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summaries, "MOST_CHILDREN", 3)
    await trees.house.push(
        a="steps: [{name: all, run: b, parallel: {items: [ok, ok, bad, ok, bad], "
        "maxConcurrent: 1}}]\n",
        b="name: B!\nsteps: [{run: c, params: $1}]\n",
        c="steps: [{name: work, command: 'echo said $1; test $1 = ok'}]\n",
    )
    (root,) = await trees.queue("a")
    await trees.until_ended(1)
    assert await reporter(trees.house).pay_due()
    stem = f"runs/2026/11/20/a/{root}"
    assert trees.house.remote.files(STATUS) == [
        "README.md",
        "latest/a.json",
        f"{stem}.json",
        f"{stem}.md",
    ]
    document = json.loads(trees.house.remote.show(STATUS, f"{stem}.json"))
    told = [(c["workflow"]["id"], c["status"]) for c in document["children"]]
    ok, bad = "succeeded", "failed"
    assert told == [("b", ok), ("c", ok), ("b", ok), ("b", bad), ("c", bad), ("b", bad), ("c", bad)]
    assert document["children_left_out"] == 2
    (step,) = document["steps"]
    runs = {c["run"]: c for c in document["children"]}
    item = step["items"]["told"][2]["child"]
    assert runs[item]["parent"] == {"run": root, "step": "all", "item": 2, "root": root}
    page = trees.house.remote.show(STATUS, f"{stem}.md")
    assert f"# Run {item}: B\\!" in page
    assert page.count("said bad") == 2
    assert "said ok" not in page
    assert "2 more child runs are not told here." in page


async def test_a_child_run_is_not_published_by_itself(trees: Trees) -> None:
    await trees.house.push(a="steps: [{run: b}]\n", b='steps: [{command: "true"}]\n')
    await trees.queue("a")
    await trees.until_ended(1)
    (child,) = trees.children
    await trees.house.store.write(Owe("summary", child.run, trees.house.clock()))
    assert await reporter(trees.house).pay_due()
    assert not [f for f in trees.house.remote.files(STATUS) if child.run in f or "/b/" in f]
