"""Which workflow `run: NAME` means."""

from __future__ import annotations

import pytest

from runner.language.subworkflows import Index, UnknownSubworkflow, circle, resolve

INDEX = Index(
    ids=frozenset({"load", "etl/load", "etl/main", "etl/deep/clean", "x", "y"}),
    names={"Load all": "etl/load", "Twice": "", "load": "etl/deep/clean"},
)


@pytest.mark.parametrize(
    ("name", "caller", "id"),
    [
        ("mine", "etl/main", "etl/main#1"),
        ("load", "etl/main", "load"),
        ("etl/load", "x", "etl/load"),
        ("deep/clean", "etl/main", "etl/deep/clean"),
        ("../x", "etl/main", "x"),
        ("./load", "etl/main#2", "etl/load"),
        ("./load.yaml", "etl/main", "etl/load"),
        ("etl/load.yml", "x", "etl/load"),
        ("Load all", "x", "etl/load"),
    ],
)
def test_locals_come_first_then_the_id_then_the_neighbour_then_the_name(
    name: str, caller: str, id: str
) -> None:
    assert resolve(name, caller=caller, locals={"mine": "etl/main#1"}, index=INDEX) == id


def test_a_local_document_hides_an_id() -> None:
    assert resolve("load", caller="x", locals={"load": "x#1"}, index=INDEX) == "x#1"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("laod", 'there is no workflow "laod"; did you mean "load"?'),
        ("zzzzzz", 'there is no workflow "zzzzzz"'),
        ("../../x", 'there is no workflow "../../x"'),
        ("Twice", 'several workflows are named "Twice"; write the id of one'),
        (" ", 'the name of the sub-workflow ("run") is empty'),
    ],
)
def test_what_means_nothing_or_two_things_is_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownSubworkflow) as caught:
        resolve(name, caller="etl/main", locals={}, index=INDEX)
    assert str(caught.value) == message


def test_a_workflow_that_is_among_its_callers_makes_a_circle() -> None:
    assert circle("b", ["a", "b", "c"]) == "b → c → b"
    assert circle("d", ["a", "b", "c"]) == ""
