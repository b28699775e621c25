from __future__ import annotations

from runner.control import catalog
from runner.control.catalog import Catalog, Entry

GOOD = b"""
name: Load it
schedule: "0 2 * * *"
on: {push: {branches: [main], paths: ["src/**"]}}
maxActiveRuns: 3
steps: [{command: "true"}]
"""


def read(path: str, data: bytes = GOOD) -> Entry:
    return catalog.read(data, path=path, blob=f"blob of {path}", folder=".dagu")


def build(*entries: Entry) -> Catalog:
    return catalog.build("c1", entries)


def test_an_entry_has_what_control_needs() -> None:
    entry = read(".dagu/etl/load.yaml")
    assert (entry.workflow, entry.name, entry.max_active_runs) == ("etl/load", "Load it", 3)
    assert entry.crons == (("0 2 * * *", None),)
    assert entry.push is not None
    assert (entry.push.branches, entry.push.paths) == (("main",), ("src/**",))
    assert entry.problems == ()


def test_an_entry_survives_being_stored() -> None:
    for entry in (read(".dagu/a.yaml"), read(".dagu/b.yaml", b"stepz: 1\n")):
        text = catalog.to_json(entry)
        assert catalog.from_json(text, path=entry.path, blob=entry.blob) == entry


def test_a_broken_file_hides_no_other() -> None:
    found = build(read(".dagu/a.yaml"), read(".dagu/b.yaml", b"stepz: 1\n"))
    assert list(found.entries) == ["a"]
    assert list(found.broken) == ["b"]
    assert str(found.problems[".dagu/b.yaml"][0]).startswith(".dagu/b.yaml:1:")


def test_a_bad_file_name_is_a_problem_of_the_file() -> None:
    found = build(read(".dagu/a b.yaml"))
    assert not found.entries
    assert not found.broken
    assert "a b" in str(found.problems[".dagu/a b.yaml"][0])


def test_two_files_with_one_id_are_both_broken() -> None:
    found = build(read(".dagu/a.yaml"), read(".dagu/a.yml"), read(".dagu/b.yaml"))
    assert list(found.entries) == ["b"]
    assert sorted(found.problems) == [".dagu/a.yaml", ".dagu/a.yml"]
    assert ".dagu/a.yml are both workflow" in str(found.broken["a"][0])


def test_base_yaml_is_refused_and_not_run_as_a_workflow() -> None:
    found = build(read(".dagu/base.yaml", b"env: [{A: 1}]\n"))
    assert "not yet supported" in str(found.problems[".dagu/base.yaml"][0])


def test_a_diff_names_what_changes_and_whose_schedule() -> None:
    plain = b'steps: [{command: "true"}]\n'
    before = {
        "gone": read(".dagu/gone.yaml"),
        "same": read(".dagu/same.yaml"),
        "moved": read(".dagu/moved.yaml"),
        "stops": read(".dagu/stops.yaml"),
    }
    again = catalog.read(
        GOOD.replace(b"0 2", b"0 3"), path=".dagu/moved.yaml", blob="other", folder=".dagu"
    )
    stops = catalog.read(plain, path=".dagu/stops.yaml", blob="other", folder=".dagu")
    after = {
        "same": before["same"],
        "moved": again,
        "stops": stops,
        "new": read(".dagu/new.yaml"),
    }
    diff = catalog.diff(before, after)
    assert (diff.added, diff.changed, diff.removed) == (("new",), ("moved", "stops"), ("gone",))
    assert diff.schedules_added == ("new",)
    assert diff.schedules_changed == ("moved",)
    assert diff.schedules_removed == ("gone", "stops")
    assert not catalog.diff(after, after)
