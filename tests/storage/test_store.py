"""The behaviour that every store has, run against each of them.

A backend is one entry of BACKENDS: it opens a store, and a second handle on the same data where
its database lets two processes in (SQLite's data folder has one owner: the same handle again).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from storage.records import (
    Append,
    Claim,
    DefinitionRow,
    DeleteRun,
    DeliveryRow,
    DropDefinition,
    EntryRow,
    EventRecord,
    Move,
    NoteTrigger,
    Owe,
    OwedRow,
    Pay,
    Postpone,
    PutClaims,
    PutDefinition,
    PutDelivery,
    PutEntry,
    PutRepository,
    PutSource,
    PutTrigger,
    PutValues,
    RaiseApplied,
    RefRow,
    RepositoryRow,
    RequireApplied,
    RequireClaims,
    RequireRoom,
    RunRow,
    TriggerRow,
)
from storage.sqlite import open_store
from storage.store import Busy, Conflict, Duplicate, StorageError, Store

NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@dataclass
class Handles:
    """Two handles on the same data, maybe the same one."""

    one: Store
    two: Store


async def sqlite_handles(folder: Path) -> Handles:
    store = open_store(folder / "data")
    return Handles(store, store)


BACKENDS = {"sqlite": sqlite_handles}


@pytest.fixture(params=sorted(BACKENDS))
async def handles(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Handles]:
    opened = await BACKENDS[request.param](tmp_path)
    yield opened
    await opened.one.close()
    await opened.two.close()


@pytest.fixture
def store(handles: Handles) -> Store:
    return handles.one


@pytest.fixture
def other(handles: Handles) -> Store:
    return handles.two


def head(run: str = "r1", **changes: object) -> RunRow:
    row = RunRow(
        run=run,
        repository="ops",
        workflow="etl",
        name="ETL",
        status="running",
        reason="",
        trigger_type="push",
        ref="refs/heads/main",
        commit="c" * 40,
        queued_at=NOON,
    )
    return row._replace(**changes)  # type: ignore[arg-type]


def event(seq: int, *, run: str = "r1", data: str = "{}") -> EventRecord:
    return EventRecord(run, seq, NOON + seq * SECOND, "Started", 1, data)


async def add_run(store: Store, row: RunRow) -> None:
    await store.append(row.run, after=0, records=[event(1, run=row.run)], head=row)


def trigger(key: str = "manual:1", **changes: object) -> TriggerRow:
    row = TriggerRow(key, "ops", "etl", NOON, "run", "r1", '{"by":"me"}')
    return row._replace(**changes)  # type: ignore[arg-type]


def delivery(name: str, **changes: object) -> DeliveryRow:
    row = DeliveryRow(name, "ops", "github", "push", NOON, f"digest of {name}", "accepted")
    return row._replace(**changes)  # type: ignore[arg-type]


def definition(workflow: str = "etl", **changes: object) -> DefinitionRow:
    row = DefinitionRow(
        "ops", "refs/heads/main", workflow, f".dagu/{workflow}.yaml", "c1", "b1", "", NOON
    )
    return row._replace(**changes)  # type: ignore[arg-type]


# Runs and their events


async def test_events_come_back_as_they_were_appended(store: Store, other: Store) -> None:
    records = [event(n, data=f'{{"n":{n},"text":"ü\\u0000"}}') for n in range(1, 41)]
    await store.append("r1", after=0, records=records, head=head())
    assert await other.events("r1") == records
    assert await other.events("r1", after=38) == records[38:]
    assert await other.events("r2") == []


async def test_an_append_replaces_the_whole_head_and_keeps_its_seq(
    store: Store, other: Store
) -> None:
    await add_run(store, head())
    changed = head(
        repository="ops2",
        workflow="etl2",
        name="ETL 2",
        status="failed",
        reason="step a failed",
        trigger_type="schedule",
        ref="",
        commit="",
        queued_at=NOON + SECOND,
        started_at=NOON + 2 * SECOND,
        finished_at=NOON + 3 * SECOND,
    )
    await store.append("r1", after=1, records=[event(2), event(3)], head=changed)
    assert await other.run("r1") == changed._replace(seq=3)


async def test_an_append_that_changes_only_seq_leaves_the_rest_of_the_head(store: Store) -> None:
    await add_run(store, head(started_at=NOON))
    await store.append("r1", after=1, records=[event(2)], head=head(started_at=NOON))
    assert await store.run("r1") == head(started_at=NOON, seq=2)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_an_append_after_another_seq_is_a_conflict_and_changes_nothing(
    store: Store, other: Store, after: int
) -> None:
    await store.append("r1", after=0, records=[event(1), event(2)], head=head())
    with pytest.raises(Conflict, match="r1"):
        await other.append("r1", after=after, records=[event(after + 1)], head=head(status="x"))
    assert await store.run("r1") == head(seq=2)
    assert await store.events("r1") == [event(1), event(2)]


async def test_an_append_to_an_unknown_run_is_a_conflict(store: Store) -> None:
    with pytest.raises(Conflict):
        await store.append("r1", after=1, records=[event(2)], head=head())


@pytest.mark.parametrize(
    "records",
    [
        [],
        [event(2)],
        [event(1), event(3)],
        [event(1, run="r2")],
    ],
    ids=["none", "not the first", "a gap", "of another run"],
)
async def test_records_that_do_not_follow_each_other_are_a_mistake(
    store: Store, records: list[EventRecord]
) -> None:
    with pytest.raises(ValueError, match="r1"):
        await store.append("r1", after=0, records=records, head=head())
    assert await store.run("r1") is None


async def test_a_head_of_another_run_is_a_mistake(store: Store) -> None:
    with pytest.raises(ValueError, match="r2"):
        await store.append("r1", after=0, records=[event(1)], head=head("r2"))


async def test_a_naive_datetime_is_a_mistake_and_hurts_no_neighbour(store: Store) -> None:
    naive = event(1, run="bad")._replace(at=datetime(2026, 1, 1))  # noqa: DTZ001
    outcomes = await asyncio.gather(
        add_run(store, head("a")),
        store.append("bad", after=0, records=[naive], head=head("bad")),
        add_run(store, head("b")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), TypeError, type(None)]
    assert [row.run for row in await store.runs()] == ["b", "a"]


async def test_instants_before_1970_and_of_other_zones_are_kept_to_the_microsecond(
    store: Store,
) -> None:
    early = datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
    late = datetime.fromisoformat("2026-03-29T02:30:00.000001+02:00")
    await add_run(store, head(queued_at=early, started_at=late))
    row = await store.run("r1")
    assert row is not None
    assert (row.queued_at, row.started_at) == (early, late)
    assert row.started_at is not None
    assert row.started_at.utcoffset() == timedelta(0)


# Writes that must agree


async def test_a_refused_write_leaves_nothing_of_its_own(store: Store, other: Store) -> None:
    await store.write(PutTrigger(trigger()))
    with pytest.raises(Duplicate) as refused:
        await other.append(
            "r1",
            after=0,
            records=[event(1)],
            head=head(),
            also=[Owe("summary", "r1", NOON), PutTrigger(trigger(run="r2"))],
        )
    assert refused.value.key == "manual:1"
    assert await store.run("r1") is None
    assert await store.events("r1") == []
    assert await store.owed("summary", due=NOON) == []
    assert await store.trigger("manual:1") == trigger()


async def test_refusals_in_one_turn_touch_only_their_own_write(store: Store) -> None:
    await store.write(PutTrigger(trigger("key:3")), PutTrigger(trigger("key:7")))

    async def start(n: int) -> None:
        run = f"r{n}"
        await store.append(
            run,
            after=0,
            records=[event(1, run=run)],
            head=head(run),
            also=[PutTrigger(trigger(f"key:{n}"))],
        )

    outcomes = await asyncio.gather(*(start(n) for n in range(10)), return_exceptions=True)
    refused = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Duplicate)]
    assert refused == [3, 7]
    assert outcomes.count(None) == 8
    assert sorted(row.run for row in await store.runs()) == [
        f"r{n}" for n in range(10) if n not in refused
    ]


async def test_of_many_who_append_after_the_same_seq_the_first_wins(
    store: Store, other: Store
) -> None:
    await add_run(store, head())
    outcomes = await asyncio.gather(
        *(
            handle.append("r1", after=1, records=[event(2, data=f"{n}")], head=head())
            for n in range(10)
            for handle in (store, other)
        ),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert [type(outcome) for outcome in outcomes].count(Conflict) == 19
    assert len(await store.events("r1")) == 2


async def test_writes_of_one_turn_are_done_in_their_order(store: Store) -> None:
    await asyncio.gather(
        *(
            store.append("r1", after=n, records=[event(n + 1)], head=head(reason=f"{n}"))
            for n in range(50)
        )
    )
    assert await store.run("r1") == head(reason="49", seq=50)


async def test_a_trigger_elects_one_of_many_that_want_to_start(store: Store, other: Store) -> None:
    async def start(handle: Store, run: str) -> None:
        await handle.write(
            PutTrigger(trigger("push:ops:refs/heads/main:1:etl", run=run)),
            Append(run, 0, (event(1, run=run),), head(run)),
        )

    outcomes = await asyncio.gather(
        *(start((store, other)[n % 2], f"r{n}") for n in range(20)), return_exceptions=True
    )
    assert outcomes.count(None) == 1
    (started,) = await store.runs()
    stored = await store.trigger("push:ops:refs/heads/main:1:etl")
    assert stored is not None
    assert stored.run == started.run


async def test_a_thousand_writes_of_one_turn_are_all_there(store: Store) -> None:
    await asyncio.gather(*(add_run(store, head(f"r{n:04}")) for n in range(1000)))
    assert len(await store.runs(limit=2000)) == 1000


async def test_a_read_sees_every_write_whose_await_returned(store: Store, other: Store) -> None:
    for n in range(50):
        await store.append("r1", after=n, records=[event(n + 1)], head=head())
        row = await other.run("r1")
        assert row is not None
        assert row.seq == n + 1


async def test_a_writer_that_was_cancelled_leaves_the_store_as_usable_as_before(
    store: Store,
) -> None:
    task = asyncio.create_task(add_run(store, head("cancelled")))
    neighbour = asyncio.create_task(add_run(store, head("neighbour")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await neighbour
    await add_run(store, head("next"))
    assert {"neighbour", "next"} <= {row.run for row in await store.runs()}


# Lists of runs


async def five_runs(store: Store) -> list[RunRow]:
    """Newest first; r4 and r5 of the same instant."""
    rows = [
        head("r5", queued_at=NOON + 3 * SECOND, status="queued", workflow="load", seq=1),
        head("r4", queued_at=NOON + 3 * SECOND, status="queued", seq=1),
        head("r3", queued_at=NOON + 2 * SECOND, finished_at=NOON, status="failed", seq=1),
        head("r2", queued_at=NOON + SECOND, repository="web", commit="d" * 40, seq=1),
        head("r1", queued_at=NOON, finished_at=NOON, status="succeeded", commit="", seq=1),
    ]
    for row in (rows[2], rows[4], rows[0], rows[1], rows[3]):
        await add_run(store, row)
    return rows


async def test_runs_are_newest_first_and_paged_by_the_last_rows_pair(store: Store) -> None:
    rows = await five_runs(store)
    assert await store.runs() == rows
    page = await store.runs(limit=2)
    assert page == rows[:2]
    last = page[-1]
    assert await store.runs(before=(last.queued_at, last.run), limit=2) == rows[2:4]
    first = rows[0]
    assert await store.runs(before=(first.queued_at, first.run)) == rows[1:]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"repository": "ops"}, ["r5", "r4", "r3", "r1"]),
        ({"repository": "ops", "workflow": "etl"}, ["r4", "r3", "r1"]),
        ({"workflow": "load"}, ["r5"]),
        ({"statuses": ["failed"]}, ["r3"]),
        ({"statuses": ["succeeded", "queued", "queued"]}, ["r5", "r4", "r1"]),
        ({"statuses": ["succeeded", "queued"], "limit": 1}, ["r5"]),
        ({"statuses": {"queued", "failed"}, "workflow": "etl"}, ["r4", "r3"]),
        ({"statuses": []}, []),
        ({"commit": "d" * 40}, ["r2"]),
        ({"commit": ""}, ["r1"]),
        ({"commit": "c" * 40, "repository": "ops", "statuses": ["queued"]}, ["r5", "r4"]),
        ({"repository": "nowhere"}, []),
        ({"statuses": ["queued", "running"], "before": (NOON + 3 * SECOND, "r5")}, ["r4", "r2"]),
    ],
)
async def test_runs_are_filtered(
    store: Store, filters: dict[str, object], expected: list[str]
) -> None:
    await five_runs(store)
    found = await store.runs(**filters)  # type: ignore[arg-type]
    assert [row.run for row in found] == expected


async def test_the_latest_final_run_of_a_workflow_is_found(store: Store) -> None:
    rows = await five_runs(store)
    assert await store.latest_run("ops", "etl") == rows[2]
    assert await store.latest_run("web", "etl") is None


async def test_runs_leave_the_queue_by_priority_and_then_by_age(store: Store) -> None:
    for run, priority, age in (("a", 0, 1), ("b", 5, 3), ("c", 5, 2), ("d", -1, 0), ("e", 0, 1)):
        row = head(run, status="queued", priority=priority, queued_at=NOON + age * SECOND)
        await add_run(store, row)
    await add_run(store, head("f", priority=9))
    await add_run(store, head("g", priority=9, status="queued", workflow="load"))
    queued = await store.queued("ops", "etl", limit=9)
    assert [row.run for row in queued] == ["c", "b", "a", "e", "d"]
    assert await store.queued("ops", "etl", limit=2) == queued[:2]
    assert await store.queued("web", "etl", limit=9) == []


async def test_what_only_the_first_append_says_is_kept(store: Store, other: Store) -> None:
    first = head(
        parent="r0",
        retry_of="r-1",
        attempt=3,
        priority=7,
        not_before=NOON + SECOND,
        keep_days=0,
    )
    await add_run(store, first)
    await store.append("r1", after=1, records=[event(2)], head=head(status="failed"))
    assert await other.run("r1") == first._replace(status="failed", seq=2)


async def test_child_runs_stand_in_no_list_but_their_parents(store: Store, other: Store) -> None:
    rows = await five_runs(store)
    await store.write(Owe("cleanup", "r1", NOON))
    in_use = await store.commits_in_use("ops")
    for n, status in enumerate(("queued", "running", "failed")):
        finished_at = NOON + 9 * SECOND if status == "failed" else None
        at = NOON + n * SECOND
        child = head(
            f"c{n}",
            parent="r3",
            status=status,
            queued_at=at,
            finished_at=finished_at,
            commit="e" * 40,
            seq=1,
        )
        await add_run(store, child)
    assert await other.runs() == rows
    assert [row.run for row in await other.runs(statuses=["queued", "running"])] == [
        "r5",
        "r4",
        "r2",
    ]
    assert await other.runs(commit="e" * 40) == []
    assert [row.run for row in await other.queued("ops", "etl", limit=9)] == ["r4"]
    assert await other.count_runs("ops", "etl", statuses=["queued", "running"]) == 1
    assert await other.latest_run("ops", "etl") == rows[2]
    assert await other.commits_in_use("ops") == in_use
    await other.write(RequireRoom("ops", "etl", ("running",), 1))
    children = await other.runs(parent="r3")
    assert [row.run for row in children] == ["c2", "c1", "c0"]
    assert await other.runs(parent="r3", statuses=["queued"], workflow="etl") == children[2:]
    assert await other.runs(parent="r3", commit="e" * 40, limit=1) == children[:1]
    assert await other.runs(parent="c1") == []


async def test_runs_are_counted_by_status(store: Store) -> None:
    await five_runs(store)
    assert await store.count_runs("ops", "etl", statuses=["queued", "failed"]) == 2
    assert await store.count_runs("ops", "etl", statuses=[]) == 0
    assert await store.count_runs("ops", "other", statuses=["queued"]) == 0


async def test_room_is_refused_where_the_limit_is_reached(store: Store, other: Store) -> None:
    await five_runs(store)
    room = RequireRoom("ops", "etl", ("queued", "running"), 2)
    await other.write(room)
    await other.write(room._replace(limit=0))
    await add_run(store, head("r6"))
    with pytest.raises(Busy, match="etl"):
        await other.write(room)
    await other.write(room._replace(limit=0))
    await other.write(room._replace(workflow="load"))


async def test_of_many_who_need_the_last_room_one_gets_it(store: Store, other: Store) -> None:
    async def start(handle: Store, run: str) -> None:
        await handle.write(
            RequireRoom("ops", "etl", ("running",), 1),
            Append(run, 0, (event(1, run=run),), head(run)),
        )

    outcomes = await asyncio.gather(
        *(start((store, other)[n % 2], f"r{n}") for n in range(10)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(Busy) == 9
    assert await store.count_runs("ops", "etl", statuses=["running"]) == 1


# Claims


async def test_claims_are_kept_replaced_and_gone_with_the_runs_end(
    store: Store, other: Store
) -> None:
    claims = (Claim("group:ops:deploy", 1, cancels=True), Claim("queue:slow", 3))
    await add_run(store, head())
    await store.write(PutClaims("r1", (Claim("queue:fast", 1),)))
    await store.write(PutClaims("r1", claims))
    assert await other.claims("r1") == claims
    assert await other.claims("r2") == ()
    final = head(status="succeeded", finished_at=NOON)
    await store.append("r1", after=1, records=[event(2)], head=final)
    assert await other.claims("r1") == ()
    assert await other.claimants("queue:slow", statuses=["succeeded"]) == []


async def test_claimants_are_found_by_name_and_status_oldest_first(store: Store) -> None:
    for run, status, age in (("a", "queued", 2), ("b", "running", 1), ("c", "waiting", 0)):
        row = head(run, status=status, queued_at=NOON + age * SECOND, seq=1)
        await add_run(store, row)
        await store.write(PutClaims(run, (Claim("queue:slow", 1),)))
    found = await store.claimants("queue:slow", statuses=["running", "waiting", "queued"])
    assert [row.run for row in found] == ["c", "b", "a"]
    assert found[2] == await store.run("a")
    assert [r.run for r in await store.claimants("queue:slow", statuses=["running"])] == ["b"]
    assert await store.claimants("queue:fast", statuses=["running"]) == []


async def test_claims_that_cancel_are_found_while_their_runs_are_queued(store: Store) -> None:
    for run, status, age in (("a", "queued", 2), ("b", "queued", 1), ("c", "running", 0)):
        await add_run(store, head(run, status=status, queued_at=NOON + age * SECOND))
        await store.write(PutClaims(run, (Claim("group:x", 1, True), Claim("queue:slow", 1))))
    await add_run(store, head("d", status="queued"))
    await store.write(PutClaims("d", (Claim("group:x", 1),)))
    found = await store.cancelling()
    assert [(name, row.run) for name, row in found] == [("group:x", "b"), ("group:x", "a")]


async def test_a_claim_that_is_held_as_often_as_it_may_be_refuses_a_further_run(
    store: Store, other: Store
) -> None:
    async def add(run: str, status: str, *claims: Claim) -> None:
        await add_run(store, head(run, status=status))
        await store.write(PutClaims(run, claims))

    two, one = Claim("queue:two", 2), Claim("queue:one", 1)
    await add("a", "running", two)
    await add("b", "queued", two, one)
    await add("mine", "queued", two, one, Claim("queue:any", 0))
    await add("c", "running", Claim("queue:any", 0))
    await other.write(RequireClaims("mine"))
    await add("d", "waiting", two)
    with pytest.raises(Busy, match=r"queue:two: 2 of at most 2"):
        await other.write(RequireClaims("mine"))
    await other.write(RequireClaims("a"))  # what it holds itself does not count
    await store.append("d", after=1, records=[event(2, run="d")], head=head("d", finished_at=NOON))
    await other.write(RequireClaims("mine"))
    await other.write(RequireClaims("unknown"))


async def test_of_many_who_need_the_last_place_of_a_claim_the_first_gets_it(
    store: Store, other: Store
) -> None:
    for n in range(10):
        await add_run(store, head(f"r{n}", status="queued", workflow=f"w{n}"))
        await store.write(PutClaims(f"r{n}", (Claim("queue:slow", 1), Claim(f"group:{n}", 1))))

    async def start(handle: Store, n: int) -> None:
        row = head(f"r{n}", workflow=f"w{n}")
        await handle.write(
            RequireClaims(row.run), Append(row.run, 1, (event(2, run=row.run),), row)
        )

    outcomes = await asyncio.gather(
        *(start((store, other)[n % 2], n) for n in range(10)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), *[Busy] * 9]


# Deletion


async def test_a_deleted_run_goes_with_its_children_and_all_that_they_kept(
    store: Store, other: Store
) -> None:
    final = {"status": "failed", "finished_at": NOON, "seq": 1}
    rows = [
        head("r1", **final),
        head("child", parent="r1", **final),
        head("grandchild", parent="child", **final),
        head("r2", **final),
        head("childs-child", parent="r2", **final),
    ]
    for row in rows:
        await add_run(store, row)
        await store.write(PutValues(row.run, (("run", "X", "secret"),)))
    await store.write(PutTrigger(trigger()))
    await other.write(DeleteRun("r1"), DeleteRun("unknown"))
    for row in rows[:3]:
        assert await store.run(row.run) is None
        assert await store.events(row.run) == []
        assert await store.values(row.run) == {}
    for row in rows[3:]:
        assert await store.run(row.run) == row
        assert len(await store.events(row.run)) == 1
        assert await store.values(row.run) == {("run", "X"): "secret"}
    assert await store.trigger("manual:1") == trigger()
    await other.write(DeleteRun("r1"))


async def test_a_run_that_is_not_over_is_not_deleted(store: Store) -> None:
    await add_run(store, head())
    with pytest.raises(Conflict, match="r1 is not over"):
        await store.write(DeleteRun("r1"))
    assert len(await store.events("r1")) == 1


# Values and sources


async def test_values_are_kept_per_run_and_replaced_by_name(store: Store, other: Store) -> None:
    await store.write(
        PutValues("r1", (("step:a", "OUT", "one"), ("param", "OUT", "x" * 300_000))),
        PutValues("r2", (("param", "OUT", "another run's"),)),
    )
    await store.write(PutValues("r1", (("step:a", "OUT", "two"),)), PutValues("r1", ()))
    assert await other.values("r1") == {
        ("step:a", "OUT"): "two",
        ("param", "OUT"): "x" * 300_000,
    }
    assert await other.values("r3") == {}


async def test_a_source_is_kept_as_it_came_first(store: Store) -> None:
    await store.write(PutSource("abc", "steps: []\n"))
    await store.write(PutSource("abc", "something else"))
    assert await store.source("abc") == "steps: []\n"
    assert await store.source("abd") is None


# Triggers and deliveries


async def test_a_note_leaves_a_trigger_that_is_there_as_it_is(store: Store, other: Store) -> None:
    fired = trigger("tick:ops:etl:start:2026-03-01T12:00Z")
    await store.write(PutTrigger(fired))
    missed = trigger("missed:ops:etl:2026-03-01T12:01Z", verdict="missed")
    await other.write(NoteTrigger(fired._replace(verdict="missed")), NoteTrigger(missed))
    assert await store.trigger(fired.key) == fired
    assert await store.trigger(missed.key) == missed


async def test_the_greatest_key_of_each_prefix_is_found(store: Store, other: Store) -> None:
    for key in ("tick:ops:w:start:1", "tick:ops:w:start:2", "tick:ops:wx:start:9"):
        await store.write(PutTrigger(trigger(key)))
    found = await other.newest_keys(["tick:ops:w:", "tick:ops:v:", "tick:ops:wx:"])
    assert found == {"tick:ops:w:": "tick:ops:w:start:2", "tick:ops:wx:": "tick:ops:wx:start:9"}


async def test_commits_are_in_use_until_their_runs_are_cleaned_up(
    store: Store, other: Store
) -> None:
    await add_run(store, head("r1", status="running", commit="a"))
    await add_run(store, head("r2", status="queued", commit="b"))
    await add_run(store, head("r3", status="failed", commit="c"))
    await add_run(store, head("r4", status="failed", commit="d"))
    await store.write(Owe("cleanup", "r3", NOON + SECOND))
    assert await other.commits_in_use("ops") == {"a", "b", "c"}
    assert await other.commits_in_use("ops", but_for=["r3"]) == {"a", "b"}
    await store.write(Pay("cleanup", "r3", 1))
    assert await other.commits_in_use("ops") == {"a", "b"}
    assert await other.commits_in_use("elsewhere") == frozenset()


async def test_triggers_are_newest_first(store: Store) -> None:
    rows = [
        trigger("c", at=NOON + SECOND, verdict="overlap", run=None),
        trigger("b", at=NOON + SECOND),
        trigger("d", at=NOON, workflow="load"),
    ]
    await store.write(*(PutTrigger(row) for row in reversed(rows)))
    await store.write(PutTrigger(trigger("z", repository="web")))
    assert await store.triggers(repository="ops") == rows
    assert await store.triggers(repository="ops", limit=1) == rows[:1]
    assert await store.triggers(repository="ops", workflow="etl") == rows[:2]
    assert await store.trigger("none") is None


async def test_a_delivery_of_the_same_bytes_is_a_duplicate_per_repository(
    store: Store, other: Store
) -> None:
    first = delivery(
        "d1",
        reason="why",
        sender_id="s",
        actor="ann",
        ref="refs/heads/main",
        after="a" * 40,
        headers='{"X":"y"}',
        size_bytes=7,
    )
    await store.write(PutDelivery(first))
    with pytest.raises(Duplicate, match=first.digest):
        await other.write(PutDelivery(delivery("d2", digest=first.digest)))
    await other.write(PutDelivery(delivery("d3", digest=first.digest, repository="web")))
    assert await other.delivery("d1") == first
    assert await other.delivery("d2") is None
    assert await other.delivery_by_digest("ops", first.digest) == first
    assert await other.delivery_by_digest("ops", "unknown") is None


async def test_the_newest_accepted_delivery_that_announced_a_move_is_found(store: Store) -> None:
    about = {"ref": "refs/heads/main", "after": "a" * 40}
    await store.write(
        PutDelivery(delivery("d1", **about)),
        PutDelivery(delivery("d2", received_at=NOON + SECOND, **about)),
        PutDelivery(delivery("d3", received_at=NOON + 2 * SECOND, verdict="ignored", **about)),
        PutDelivery(delivery("d4", received_at=NOON + 3 * SECOND, ref=about["ref"], after="b")),
    )
    found = await store.delivery_for("ops", "refs/heads/main", "a" * 40)
    assert found is not None
    assert found.delivery == "d2"
    assert await store.delivery_for("ops", "refs/heads/other", "a" * 40) is None


# Refs, repositories, definitions


async def test_moves_count_from_one_without_gaps(store: Store, other: Store) -> None:
    main = RefRow("ops", "refs/heads/main", 1, "a" * 40, NOON)
    with pytest.raises(Conflict, match="refs/heads/main"):
        await store.write(Move(main._replace(n=2)))
    await store.write(Move(main))
    with pytest.raises(Conflict):
        await other.write(Move(main._replace(oid="b" * 40)))
    deleted = main._replace(n=2, oid=None, seen_at=NOON + SECOND)
    tag = RefRow("ops", "refs/tags/v1", 1, "t" * 40, NOON)
    await other.write(Move(deleted), Move(tag))
    with pytest.raises(Conflict):
        await store.write(Move(main._replace(n=4)))
    assert await store.refs("ops") == {main.ref: deleted, tag.ref: tag}
    assert await store.refs("web") == {}


async def test_a_move_and_its_triggers_are_one_write(store: Store) -> None:
    main = RefRow("ops", "refs/heads/main", 1, "a" * 40, NOON)
    await store.write(Move(main), PutTrigger(trigger("push:1")))
    with pytest.raises(Conflict):
        await store.write(PutTrigger(trigger("push:2")), Move(main))
    assert await store.trigger("push:2") is None


async def test_a_repository_keeps_what_is_applied_when_it_is_put_again(
    store: Store, other: Store
) -> None:
    row = RepositoryRow("ops", "https://forge/ops", "")
    await store.write(PutRepository(row._replace(applied=7, applied_commit="ignored")))
    assert await other.repository("ops") == row
    await store.write(RaiseApplied("ops", 1, "c" * 40, NOON))
    later = row._replace(url="u", branch="refs/heads/main", fetched_at=NOON, problem="gone")
    await other.write(PutRepository(later))
    expected = later._replace(applied=1, applied_commit="c" * 40, applied_at=NOON)
    assert await store.repository("ops") == expected
    assert await store.repositories() == [expected]
    assert await store.repository("web") is None


async def test_applied_is_raised_one_by_one_and_required_exactly(
    store: Store, other: Store
) -> None:
    await store.write(PutRepository(RepositoryRow("ops", "u", "")))
    await store.write(RequireApplied("ops", 0))
    await store.write(RaiseApplied("ops", 1, "c1", NOON), RequireApplied("ops", 1))
    for write in (
        RaiseApplied("ops", 1, "c2", NOON),
        RaiseApplied("ops", 3, "c2", NOON),
        RaiseApplied("web", 1, "c2", NOON),
        RequireApplied("ops", 0),
        RequireApplied("ops", 2),
        RequireApplied("web", 0),
    ):
        with pytest.raises(Conflict):
            await other.write(write)


async def test_definitions_are_put_replaced_and_dropped(store: Store, other: Store) -> None:
    stale = definition(problem_commit="c2", problems="etl.yaml:1:1: bad")
    await store.write(
        PutDefinition(definition()), PutDefinition(definition("load")), PutDefinition(stale)
    )
    await store.write(PutDefinition(definition(ref="refs/heads/dev")))
    assert await other.definitions("ops", "refs/heads/main") == {
        "etl": stale,
        "load": definition("load"),
    }
    drop = DropDefinition("ops", "refs/heads/main", "etl")
    await other.write(drop, drop)
    assert list(await store.definitions("ops", "refs/heads/main")) == ["load"]
    assert list(await store.definitions("ops", "refs/heads/dev")) == ["etl"]


async def test_entries_are_found_by_blob_base_path_and_loader(store: Store) -> None:
    rows = [EntryRow(f"b{n}", "base", f"p{n}", 1, f'{{"n":{n}}}') for n in range(700)]
    await store.write(*(PutEntry(row) for row in rows))
    keys = [(row.blob, row.base_blob, row.path) for row in rows]
    assert await store.entries(1, [*keys, ("b1", "base", "p2"), ("b1", "", "p1")]) == dict(
        zip(keys, rows, strict=True)
    )
    assert await store.entries(2, keys) == {}
    assert await store.entries(1, iter(())) == {}
    again = rows[0]._replace(entry="{}")
    await store.write(PutEntry(again))
    assert await store.entries(1, keys[:1]) == {keys[0]: again}


# What is owed


async def test_owing_again_raises_the_version_and_brings_it_forward(store: Store) -> None:
    await store.write(Owe("fetch", "ops", NOON))
    await store.write(Postpone("fetch", "ops", 1, NOON + 9 * SECOND, "no route"))
    assert await store.owed("fetch", due=NOON + 9 * SECOND) == [
        OwedRow("fetch", "ops", 1, NOON + 9 * SECOND, 1, "no route")
    ]
    await store.write(Owe("fetch", "ops", NOON + SECOND))
    await store.write(Owe("fetch", "ops", NOON + 5 * SECOND))
    (row,) = await store.owed("fetch", due=NOON + SECOND)
    assert (row.version, row.not_before, row.tries) == (3, NOON + SECOND, 0)


async def test_only_the_version_that_was_read_is_paid_or_postponed(
    store: Store, other: Store
) -> None:
    await store.write(Owe("summary", "r1", NOON), Owe("summary", "r1", NOON))
    await other.write(Pay("summary", "r1", 1), Postpone("summary", "r1", 1, NOON, "old"))
    assert await store.owed("summary", due=NOON) == [OwedRow("summary", "r1", 2, NOON, 0, "")]
    await other.write(Pay("summary", "r1", 2))
    assert await store.owed("summary", due=NOON) == []
    await other.write(Pay("summary", "r1", 2))


async def test_due_rows_come_oldest_first_and_the_next_instant_is_known(store: Store) -> None:
    await store.write(
        Owe("summary", "later", NOON + 2 * SECOND),
        Owe("summary", "b", NOON),
        Owe("summary", "a", NOON + SECOND),
        Owe("fetch", "ops", NOON - SECOND),
    )
    assert [row.key for row in await store.owed("summary", due=NOON + SECOND)] == ["b", "a"]
    assert [row.key for row in await store.owed("summary", due=NOON + SECOND, limit=1)] == ["b"]
    assert await store.owed_next("summary") == NOON
    assert await store.owed_next("mail") is None


# Listening


@pytest.fixture
def heard(store: Store) -> Callable[[str], asyncio.Queue[str]]:
    """Listens to a topic; each call puts it into the queue."""

    def listen(topic: str) -> asyncio.Queue[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        store.listen(topic, lambda: queue.put_nowait(topic))
        return queue

    return listen


@pytest.mark.parametrize(
    ("topic", "write"),
    [
        ("run:r1", Append("r1", 0, (event(1),), head())),
        ("runs", Append("r1", 0, (event(1),), head())),
        ("ended", Append("r1", 0, (event(1),), head(finished_at=NOON))),
        ("runs", DeleteRun("r1")),
        ("owed:fetch", Owe("fetch", "ops", NOON)),
        ("owed:fetch", Postpone("fetch", "ops", 1, NOON, "")),
        ("definitions:ops", PutDefinition(definition())),
        ("definitions:ops", DropDefinition("ops", "refs/heads/main", "etl")),
        ("definitions:ops", RaiseApplied("ops", 1, "c", NOON)),
    ],
)
async def test_a_commit_is_told_to_those_who_listen_to_its_topic(
    store: Store,
    heard: Callable[[str], asyncio.Queue[str]],
    topic: str,
    write: Append | DeleteRun | Owe | Postpone | PutDefinition | DropDefinition | RaiseApplied,
) -> None:
    await store.write(PutRepository(RepositoryRow("ops", "u", "")))
    queue = heard(topic)
    await store.write(write)
    assert await queue.get() == topic


async def test_refused_writes_and_other_topics_are_not_told(
    store: Store, heard: Callable[[str], asyncio.Queue[str]]
) -> None:
    mine, others = heard("run:r1"), heard("run:r2")
    with pytest.raises(Conflict):
        await store.append("r1", after=1, records=[event(2)], head=head())
    await add_run(store, head("r2"))
    await others.get()
    assert mine.empty()


async def test_the_end_of_a_child_run_is_no_end_of_a_run_that_has_a_place(
    store: Store, heard: Callable[[str], asyncio.Queue[str]]
) -> None:
    ended, child = heard("ended"), heard("run:c1")
    await add_run(store, head("r1"))
    await add_run(store, head("c1", parent="r1", finished_at=NOON))
    await child.get()
    assert ended.empty()


async def test_commits_of_one_turn_make_one_call(
    store: Store, heard: Callable[[str], asyncio.Queue[str]]
) -> None:
    runs, last = heard("runs"), heard("owed:last")
    await asyncio.gather(*(add_run(store, head(f"r{n}")) for n in range(20)))
    await store.write(Owe("last", "x", NOON))
    await last.get()
    assert runs.qsize() == 1


async def test_a_callback_sees_what_it_is_called_for(store: Store) -> None:
    seen: asyncio.Queue[int] = asyncio.Queue()
    tasks: list[asyncio.Task[None]] = []

    async def look() -> None:
        seen.put_nowait(len(await store.events("r1")))

    store.listen("run:r1", lambda: tasks.append(asyncio.create_task(look())))
    await add_run(store, head())
    assert await seen.get() == 1
    await asyncio.gather(*tasks)


async def test_a_listener_that_ended_is_not_called(
    store: Store, heard: Callable[[str], asyncio.Queue[str]]
) -> None:
    called: list[str] = []
    end = store.listen("runs", lambda: called.append("ended"))
    still = heard("runs")
    end()
    end()
    await add_run(store, head())
    await still.get()
    assert called == []


async def test_a_listener_that_fails_keeps_neither_writers_nor_other_listeners(
    store: Store, heard: Callable[[str], asyncio.Queue[str]]
) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: problems.append(context["exception"])
    )

    def fail() -> None:
        raise LookupError("a mistake of the listener's")

    store.listen("runs", fail)
    good = heard("runs")
    await add_run(store, head())
    await good.get()
    assert [type(problem) for problem in problems] == [LookupError]


# The end


async def test_close_commits_what_was_submitted(tmp_path: Path) -> None:
    store = open_store(tmp_path / "data")
    writes = [asyncio.create_task(add_run(store, head(f"r{n}"))) for n in range(5)]
    await asyncio.sleep(0)
    await store.close()
    await asyncio.gather(*writes)
    store = open_store(tmp_path / "data")
    assert len(await store.runs()) == 5
    await store.close()


async def test_a_closed_store_says_so_and_closes_again(store: Store) -> None:
    await asyncio.gather(store.close(), store.close())
    with pytest.raises(StorageError, match="closed"):
        await store.run("r1")
    with pytest.raises(StorageError, match="closed"):
        await add_run(store, head())
