from __future__ import annotations

from datetime import UTC, datetime

import pytest

from runner.control.moves import Moved, Watch, plan_moves
from storage.records import RefRow

AT = datetime(2026, 11, 20, 10, tzinfo=UTC)
MAIN = "refs/heads/main"


def known(**refs: tuple[int, str | None]) -> dict[str, RefRow]:
    return {
        name: RefRow("ops", name, n, oid, AT)
        for short, (n, oid) in refs.items()
        for name in [f"refs/heads/{short}"]
    }


def plan(
    before: dict[str, RefRow], seen: dict[str, str], *, first: bool = False, patterns: str = ""
) -> list[Moved]:
    watch = Watch(MAIN, tuple(patterns.split()))
    return list(plan_moves(before, seen, repository="ops", watch=watch, first=first, at=AT))


def test_the_first_sight_counts_every_ref_and_starts_nothing() -> None:
    moves = plan({}, {MAIN: "a", "refs/tags/v1": "b"}, first=True)
    assert [(m.row.ref, m.row.n, m.watched) for m in moves] == [
        ("refs/tags/v1", 1, False),
        (MAIN, 1, False),
    ]


def test_a_ref_that_stands_still_is_no_move() -> None:
    assert plan(known(main=(3, "a")), {MAIN: "a"}) == []


def test_a_force_push_back_is_a_move_of_its_own() -> None:
    (move,) = plan(known(main=(3, "b")), {MAIN: "a"})
    assert (move.row.n, move.row.oid, move.before, move.watched) == (4, "a", "b", True)


def test_a_deletion_is_a_move_to_nothing_and_starts_nothing() -> None:
    (move,) = plan(known(main=(3, "b")), {})
    assert (move.row.n, move.row.oid, move.watched) == (4, None, False)


def test_a_branch_that_comes_back_is_new() -> None:
    (move,) = plan(known(main=(4, None)), {MAIN: "a"})
    assert (move.row.n, move.before, move.watched) == (5, None, True)


def test_the_status_branch_is_not_even_observed() -> None:
    assert plan({}, {"refs/heads/dagmill/status": "a"}, patterns="**") == []


def test_the_served_branch_comes_last() -> None:
    moves = plan({}, {MAIN: "a", "refs/heads/z": "b"})
    assert [m.row.ref for m in moves] == ["refs/heads/z", MAIN]


@pytest.mark.parametrize(
    ("patterns", "ref", "watched"),
    [
        ("", MAIN, True),
        ("", "refs/heads/other", False),
        ("", "refs/tags/v1", True),
        ("main release/*", "refs/heads/release/1", True),
        ("main release/*", "refs/heads/release/1/fix", False),
        ("main", "refs/tags/v1", False),
        ("main refs/tags/v*", "refs/tags/v1", True),
        ("** !wip/**", "refs/heads/wip/a", False),
        ("** !wip/**", "refs/heads/a", True),
        ("refs/**", "refs/heads/dagmill/status", False),
    ],
)
def test_what_is_watched(patterns: str, ref: str, watched: bool) -> None:
    assert Watch(MAIN, tuple(patterns.split())).selects(ref) is watched
