from __future__ import annotations

from datetime import UTC, datetime, timedelta

from runner.control import applied as in_force
from runner.control import catalog
from runner.control.applied import Applied
from storage.records import DropDefinition, PutDefinition

T0 = datetime(2026, 11, 20, 10, tzinfo=UTC)
T1 = T0 + timedelta(hours=1)
T2 = T0 + timedelta(hours=2)
NOTHING = Applied("ops", "refs/heads/main")


def files(commit: str, **texts: str) -> catalog.Catalog:
    """Each text is a cron, or `broken`."""
    entries = []
    for name, text in texts.items():
        data = f'schedule: "{text}"\nsteps: [{{command: "true"}}]\n'
        if text == "broken":
            data = "stepz: 1\n"
        entries.append(
            catalog.read(data.encode(), path=f".dagu/{name}.yaml", blob=text, folder=".dagu")
        )
    return catalog.build(commit, entries)


def test_an_unchanged_schedule_keeps_its_beginning_and_a_changed_one_begins_now() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *", b="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="0 1 * * *", b="0 2 * * *"), at=T1)
    assert (two.workflows["a"].live_from, two.workflows["b"].live_from) == (T0, T1)
    assert (two.n, two.commit) == (2, "c2")


def test_a_broken_file_keeps_its_last_good_version_at_its_last_good_commit() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="0 1 * * *", b="0 2 * * *"), at=T1)
    three = in_force.take_effect(two, files("c3", a="broken", b="0 2 * * *"), at=T2)
    live = three.workflows["a"]
    assert (live.stale, live.problem_commit, live.live_from) == (True, "c3", T0)
    assert live.problems.startswith(".dagu/a.yaml:1:")
    stale, good = three.definition("a"), three.definition("b")
    assert stale is not None
    assert good is not None
    assert (stale.commit, stale.blob) == ("c2", "0 1 * * *")
    assert good.commit == "c3"


def test_a_stale_file_stays_at_its_commit_while_it_stays_broken() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="broken"), at=T1)
    three = in_force.take_effect(two, files("c3", a="broken"), at=T2)
    assert three.workflows["a"] == two.workflows["a"]
    assert in_force.writes(two, three) == ()


def test_a_file_that_is_good_again_runs_at_the_newest_commit() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="broken"), at=T1)
    three = in_force.take_effect(two, files("c3", a="0 1 * * *"), at=T2)
    definition = three.definition("a")
    assert definition is not None
    assert (definition.commit, three.workflows["a"].live_from) == ("c3", T0)


def test_a_file_that_was_never_good_is_not_in_force() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="broken"), at=T0)
    assert not one.workflows


def test_only_what_changes_is_written() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *", b="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="0 1 * * *"), at=T1)
    assert in_force.writes(one, two) == (DropDefinition("ops", "refs/heads/main", "b"),)
    written = in_force.writes(NOTHING, one)
    assert [type(write) for write in written] == [PutDefinition, PutDefinition]


def test_what_a_commit_leaves_alone_keeps_its_object() -> None:
    first = files("c1", a="0 1 * * *", b="0 1 * * *", c="0 1 * * *")
    one = in_force.take_effect(NOTHING, first, at=T0)
    changed = files("c2", b="0 2 * * *").entries["b"]
    second = catalog.build("c2", [first.entries["a"], changed, first.entries["c"]])
    two = in_force.take_effect(one, second, at=T1)
    kept = [workflow for workflow, live in two.workflows.items() if live is one.workflows[workflow]]
    assert kept == ["a", "c"]
    (written,) = in_force.writes(one, two)
    assert isinstance(written, PutDefinition)
    assert written.row == in_force.to_row(two, "b", two.workflows["b"])


def test_a_stale_workflow_is_good_again_also_with_the_object_it_had() -> None:
    first = files("c1", a="0 1 * * *")
    one = in_force.take_effect(NOTHING, first, at=T0)
    two = in_force.take_effect(one, files("c2", a="broken"), at=T1)
    three = in_force.take_effect(two, catalog.build("c3", first.entries.values()), at=T2)
    assert not three.workflows["a"].stale
    assert len(in_force.writes(two, three)) == 1


def test_a_row_gives_back_what_was_in_force() -> None:
    one = in_force.take_effect(NOTHING, files("c1", a="0 1 * * *"), at=T0)
    two = in_force.take_effect(one, files("c2", a="broken"), at=T1)
    live = two.workflows["a"]
    assert in_force.from_row(in_force.to_row(two, "a", live), live.entry) == live
