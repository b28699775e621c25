from __future__ import annotations

from runner.control import catalog
from runner.control.catalog import Catalog, Entry
from runner.control.entries import Call

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


FULL = b"""
name: All of it
schedule:
  start: ["0 2 * * *", "CRON_TZ=Asia/Tokyo 0 3 * * *"]
  stop: "0 4 * * *"
  restart: "0 5 * * 1"
overlapPolicy: latest
catchupWindow: 6h
skipIfSuccessful: true
restartWaitSec: 30
histRetentionDays: 7
on:
  push: {tags: ["v*"]}
  pullRequest: {types: [opened]}
  release: {types: [published]}
  webhook: {params: {VERSION: release.tag_name}}
  workflow: {ids: [etl/load], status: [succeeded]}
steps: [{run: part}, {run: other}]
type: chain
---
name: part
steps: [{command: "true"}]
"""


def test_an_entry_survives_being_stored() -> None:
    files = {"a": GOOD, "b": b"stepz: 1\n", "c": FULL}
    for name, data in files.items():
        entry = read(f".dagu/{name}.yaml", data)
        text = catalog.to_json(entry)
        assert catalog.from_json(text, path=entry.path, blob=entry.blob) == entry


def test_an_entry_has_all_forms_of_schedules_and_events() -> None:
    entry = read(".dagu/c.yaml", FULL)
    assert entry.problems == ()
    assert entry.schedule == (
        (("0 2 * * *", None), ("0 3 * * *", "Asia/Tokyo")),
        (("0 4 * * *", None),),
        (("0 5 * * 1", None),),
    )
    assert (entry.overlap, entry.catchup_s) == ("latest", 21600)
    assert (entry.skip_if_successful, entry.restart_wait_s) == (True, 30)
    assert entry.events.webhook == (("VERSION", "release.tag_name"),)
    assert entry.locals == (("part", "c#1"),)
    assert [(call.caller, call.name) for call in entry.calls] == [("c", "part"), ("c", "other")]


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


def test_base_yaml_is_no_workflow() -> None:
    found = build(read(".dagu/base.yaml", b"env: [{A: 1}]\n"), read(".dagu/a.yaml"))
    assert list(found.entries) == ["a"]
    assert not found.problems


def test_a_bad_base_yaml_breaks_every_workflow_with_its_own_problems() -> None:
    base = read(".dagu/base.yaml", b"env: [{A: 1}]\nstepz: 1\n")
    found = build(base, read(".dagu/a.yaml"), read(".dagu/b.yaml", b"stepz: 1\n"))
    assert not found.entries
    assert list(found.problems) == [".dagu/b.yaml", ".dagu/base.yaml"]
    (problem,) = found.broken["a"]
    assert str(problem).startswith(".dagu/base.yaml:2:1: ")
    assert found.broken["b"] == (*found.problems[".dagu/b.yaml"], problem)


def test_two_base_files_break_every_workflow() -> None:
    found = build(*(read(f".dagu/base.{end}", b"") for end in ("yaml", "yml")), read(".dagu/a.yml"))
    assert not found.entries
    assert "remove or rename one" in str(found.broken["a"][0])


def test_a_base_further_down_is_a_workflow() -> None:
    found = build(read(".dagu/etl/base.yaml"))
    assert list(found.entries) == ["etl/base"]


def calling(*names: str, **documents: str) -> bytes:
    """A workflow that runs the named ones, with local documents that run one each."""
    steps = "".join(f"  - run: {name}\n" for name in names)
    text = f"type: chain\nsteps:\n{steps}"
    for document, name in documents.items():
        text += f"---\nname: {document}\nsteps:\n  - run: {name}\n"
    return text.encode()


def test_a_name_that_no_workflow_has_is_a_warning_at_its_place() -> None:
    found = build(
        read(".dagu/etl/a.yaml", calling("extracts", "b", "extract", "part", part="Load it")),
        read(".dagu/etl/extract.yaml"),
        read(".dagu/b.yaml", b"stepz: 1\n"),
    )
    assert list(found.warnings) == [".dagu/etl/a.yaml"]
    (warning,) = found.warnings[".dagu/etl/a.yaml"]
    assert (warning.line, warning.column) == (3, 10)
    assert warning.message.startswith('sub-workflow "extracts" does not exist yet')


def test_a_name_that_only_a_run_knows_is_no_warning() -> None:
    found = build(read(".dagu/a.yaml", b"params: [{TO: b}]\nsteps: [{run: '${TO}'}]\n"))
    assert not found.warnings


def test_a_circle_is_a_problem_of_each_file_in_it() -> None:
    found = build(
        read(".dagu/a.yaml", calling("part", part="sub/b")),
        read(".dagu/sub/b.yaml", calling("c")),
        read(".dagu/sub/c.yaml", calling("e", "a")),
        read(".dagu/d.yaml", calling("a")),
        read(".dagu/e.yaml"),
    )
    assert list(found.entries) == ["d", "e"]
    assert sorted(found.broken) == ["a", "sub/b", "sub/c"]
    (problem,) = found.problems[".dagu/sub/c.yaml"]
    assert str(problem) == (
        ".dagu/sub/c.yaml:4:10: sub/c → a → a#1 → sub/b → sub/c is a circle: they run each other "
        "without end"
    )


def test_a_local_document_that_nobody_runs_closes_no_circle() -> None:
    found = build(
        read(".dagu/a.yaml", calling("c", part="b")),
        read(".dagu/b.yaml", calling("a")),
        read(".dagu/c.yaml"),
    )
    assert sorted(found.entries) == ["a", "b", "c"]


def following(*ids: str) -> bytes:
    return f"on: {{workflow: {{ids: [{', '.join(ids)}]}}}}\nsteps: [{{command: ls}}]\n".encode()


def test_workflows_that_start_each_other_by_their_ends_are_a_problem() -> None:
    found = build(
        read(".dagu/a.yaml", following("c")),
        read(".dagu/b.yaml", following("a", "x")),
        read(".dagu/c.yaml", following("b")),
        read(".dagu/d.yaml", following("c", "y")),
    )
    assert list(found.entries) == ["d"]
    (problem,) = found.problems[".dagu/b.yaml"]
    assert str(problem) == (
        ".dagu/b.yaml:1:23: a → b → c → a is a circle: the end of each starts the next without end"
    )
    assert [w.message for w in found.warnings[".dagu/d.yaml"]] == ['no workflow has the id "y" yet']


def test_events_that_start_nothing_yet_are_a_warning() -> None:
    text = b"on: {pullRequest: {}, release: {}, push: {}}\nsteps: [{command: ls}]\n"
    warnings = [str(w) for w in build(read(".dagu/a.yaml", text)).warnings[".dagu/a.yaml"]]
    assert warnings == [
        '.dagu/a.yaml:1:6: "pullRequest" is not started by this release yet',
        '.dagu/a.yaml:1:23: "release" is not started by this release yet',
    ]


def test_five_thousand_files_that_call_each_other_are_checked_in_linear_time() -> None:
    """Each calls the next and the first: the worst case of a walk, and no circle to tell twice."""
    entries = [
        Entry(
            f".dagu/w{n}.yaml",
            str(n),
            f"w{n}",
            name=f"w{n}",
            calls=(Call(f"w{n}", f"w{(n + 1) % 5000}", 1, 1), Call(f"w{n}", "w0", 2, 1)),
        )
        for n in range(5000)
    ]
    found = build(*entries)
    assert len(found.broken) == 5000
    assert max(len(problems) for problems in found.problems.values()) <= 3


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
