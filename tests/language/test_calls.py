"""Which workflows a file calls, where it says so, and calls that never end."""

from __future__ import annotations

from runner.language.calls import calls
from runner.language.load import load, located

FILE = """\
name: parent
steps:
  - name: one
    run: etl/load
  - run: "etl/${WHICH}"
  - command: x
handlerOn:
  failure: {run: tell}
---
---
name: child
steps:
  again:
    run: other
"""


def test_every_name_that_stands_in_the_file_is_listed_with_its_caller() -> None:
    workflow = load(FILE.encode(), path="f", id="jobs/f").workflow
    assert workflow is not None
    found = calls(workflow)
    assert [(c.caller, c.step, c.name) for c in found] == [
        ("jobs/f", "one", "etl/load"),
        ("jobs/f", "handlerOn.failure", "tell"),
        ("jobs/f#2", "again", "other"),
    ]
    assert located(FILE.encode(), found) == [(4, 10), (8, 18), (14, 10)]


def test_a_call_in_a_file_that_starts_with_an_empty_document_is_found() -> None:
    text = b"---\n---\nsteps: [{run: a}]\n"
    workflow = load(text, path="f", id="f").workflow
    assert workflow is not None
    assert located(text, calls(workflow)) == [(3, 15)]


def test_local_documents_that_call_each_other_are_refused() -> None:
    text = "steps: [{run: a}]\n---\nname: a\nsteps: [{run: b}]\n---\nname: b\nsteps: [{run: a}]\n"
    result = load(text.encode(), path="f", id="f")
    assert [str(p) for p in result.problems] == [
        "f:4:15: the workflows call each other for ever: a → b → a"
    ]


def test_a_file_that_calls_itself_is_refused() -> None:
    result = load(b"steps: [{run: etl}]\n", path="f", id="etl")
    assert [str(p) for p in result.problems] == [
        "f:1:15: the workflows call each other for ever: etl → etl"
    ]


def test_a_local_document_of_the_same_name_is_meant_before_the_file() -> None:
    text = "steps: [{run: etl}]\n---\nname: etl\nsteps: [{command: x}]\n"
    assert load(text.encode(), path="f", id="etl").problems == ()
