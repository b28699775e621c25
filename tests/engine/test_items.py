"""The items of a parallel step: the lists that they come from, and what they add up to."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.engine import items
from runner.engine.items import ItemResult, aggregate, child_params, listed
from runner.engine.scope import Evaluated, ScopeError
from runner.language.model import MapItem, Parallel, Param


def texts_of(
    parallel: Parallel, scope: Mapping[str, str] | None = None, *answers: str
) -> tuple[str, ...]:
    """The items, where each command in backticks prints the next of `answers`."""
    generator = listed(parallel, scope or {}, {}, results={})
    left = list(answers)
    try:
        next(generator)
        while True:
            generator.send(Evaluated(0, left.pop(0)))
    except StopIteration as stop:
        assert not left
        found: tuple[str, ...] = stop.value
        return found


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a b\n c\t", ("a", "b", "c")),
        ('["a", "b c"]', ("a", "b c")),
        (
            "[1.50, 12345678901234567890, true, null]",
            ("1.50", "12345678901234567890", "true", "null"),
        ),
        ('[{"k": "v w", "n": 0.80}, [1, 2]]', ('{"k":"v w","n":0.80}', "[1,2]")),
        (" [ ] ", ()),
        ("[not json", ("[not", "json")),
        ('{"a":1} x', ('{"a":1}', "x")),
    ],
)
def test_a_variable_is_a_json_list_or_words(value: str, expected: tuple[str, ...]) -> None:
    assert texts_of(Parallel(source="${LIST}"), {"LIST": value}) == expected


def test_items_of_the_file_are_expanded_one_by_one() -> None:
    item = MapItem((("name", "${WHO}"), ("inner", ("$WHO", MapItem((("k", "1.10"),))))))
    found = texts_of(Parallel(items=("$WHO", "`date`", item)), {"WHO": 'x "y"'}, "now")
    assert found[:2] == ('x "y"', "now")
    assert json.loads(found[2]) == {"name": 'x "y"', "inner": ['x "y"', {"k": "1.10"}]}


def test_an_item_is_no_list_of_items() -> None:
    assert texts_of(Parallel(items=("${LIST}",)), {"LIST": "[1, 2]"}) == ("[1, 2]",)


@pytest.mark.parametrize("source", ["${BATCHES}", "$BATCHES", "{{.BATCHES}}", "${BATCHES.list}"])
def test_a_list_that_nothing_sets_is_a_failure_that_names_it(source: str) -> None:
    with pytest.raises(ScopeError, match="BATCHES is not set"):
        texts_of(Parallel(source=source))


def test_a_blank_list_is_a_failure_that_names_it_and_the_remedy() -> None:
    with pytest.raises(
        ScopeError, match=r"BATCHES is empty; for no items write the JSON list \[\]"
    ):
        texts_of(Parallel(source="${BATCHES}"), {"BATCHES": " \n"})


def test_more_than_a_thousand_items_are_refused() -> None:
    assert len(texts_of(Parallel(source="$L"), {"L": "x " * 1000})) == 1000
    with pytest.raises(ScopeError, match="1001 items, more than 1000"):
        texts_of(Parallel(source="$L"), {"L": "x " * 1001})


def test_an_item_with_nul_is_refused() -> None:
    with pytest.raises(ScopeError, match="ITEM holds a NUL byte"):
        texts_of(Parallel(source="$L"), {"L": '["a\\u0000b"]'})


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("a b", (Param(None, "a b"),)),
        ("[1]", (Param(None, "[1]"),)),
        ("{not json", (Param(None, "{not json"),)),
        (
            '{"host": "db 1", "n": 1.50, "list": [1, {"a": 2}], "none": null}',
            (
                Param("host", "db 1"),
                Param("n", "1.50"),
                Param("list", '[1,{"a":2}]'),
                Param("none", "null"),
            ),
        ),
    ],
)
def test_an_item_is_the_first_param_of_a_child_or_its_keys_are(
    item: str, expected: tuple[Param, ...]
) -> None:
    assert child_params(item) == expected


def test_the_secret_fields_of_map_items_are_known() -> None:
    assert items.secrets_in(['{"user": "me", "db_password": "hunter22"}', "word"]) == ["hunter22"]


def test_results_stand_in_item_order_with_successes_only_as_outputs() -> None:
    text = aggregate(
        [
            ItemResult("a", "succeeded", 0, "", "x\ny"),
            ItemResult("b", "failed", 3, "exit code 3", "part"),
            ItemResult("c", "skipped", None, "precondition not met", ""),
            ItemResult("d", "cancelled", None, "run stopped", ""),
        ]
    )
    found = json.loads(text)
    assert found["summary"] == {
        **{"total": 4, "succeeded": 1, "failed": 1},
        **{"skipped": 1, "cancelled": 1},
    }
    assert [r["item"] for r in found["results"]] == ["a", "b", "c", "d"]
    assert found["results"][1] == {
        **{"item": "b", "runId": "", "params": "", "status": "failed"},
        **{"exitCode": 3, "error": "exit code 3", "output": "part"},
    }
    assert found["outputs"] == ["x\ny"]


def test_the_output_of_a_child_run_is_its_outputs_with_their_numbers_as_written() -> None:
    child = '{"name":"c","runId":"r1","params":"A=1","status":"succeeded","outputs":{"N":"0.80"}}'
    numbers = '{"runId":"r2","outputs":{"N":0.80,"M":12345678901234567890}}'
    text = aggregate(
        [
            ItemResult("a", "succeeded", None, "", child, of_child=True),
            ItemResult("b", "succeeded", None, "", numbers, of_child=True),
            ItemResult("c", "failed", None, "no such workflow", "", of_child=True),
        ]
    )
    first, second, third = json.loads(text)["results"]
    assert (first["runId"], first["params"], first["exitCode"]) == ("r1", "A=1", 0)
    assert first["output"] == {"N": "0.80"}
    assert '{"N":0.80,"M":12345678901234567890}' in text
    assert (second["runId"], third["runId"], third["output"], third["exitCode"]) == (
        "r2",
        "",
        {},
        1,
    )


@given(st.lists(st.tuples(st.text(), st.text()), max_size=5))
def test_an_aggregate_is_one_word_that_is_the_same_json(pairs: list[tuple[str, str]]) -> None:
    text = aggregate([ItemResult(item, "succeeded", 0, "", out) for item, out in pairs])
    assert len(text.split()) == 1
    assert not set(text) & set(" \t\n\r\x0b\x0c\x85\xa0\u2028")
    assert [(r["item"], r["output"]) for r in json.loads(text)["results"]] == pairs
