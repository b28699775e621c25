"""Names with their values: which layer wins, what is prepared when, what a path may come out as."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from typing import TypeVar

import pytest

from runner.engine import scope
from runner.engine.scope import Evaluated, Evaluation, RunScope, ScopeError
from runner.language.load import load
from runner.language.model import Workflow
from runner.language.params import Bound, BoundParam

Result = TypeVar("Result")


def read(text: str) -> Workflow:
    loaded = load(text.encode(), path=".dagu/test.yaml", id="test")
    assert loaded.workflow is not None, loaded.problems
    return loaded.workflow


def finish(generator: Generator[Evaluation, Evaluated, Result], *answers: str) -> Result:
    """What a generator comes to, where each command prints the next of `answers`."""
    left = list(answers)
    try:
        next(generator)
        while True:
            generator.send(Evaluated(0, left.pop(0)))
    except StopIteration as stop:
        assert not left
        result: Result = stop.value
        return result


LAYERS = (
    *("base", "run env", "secrets", "declared param", "step env", "given param", "output"),
    *("item", "fixed"),
)


@pytest.mark.parametrize("stronger", range(1, len(LAYERS)))
def test_each_layer_is_stronger_than_those_before_it(stronger: int) -> None:
    def only(layer: str) -> dict[str, str]:
        number = LAYERS.index(layer)
        return {"X": layer} if number in (stronger, stronger - 1) else {}

    params = [
        BoundParam("X", layer, given)
        for layer, given in (("declared param", False), ("given param", True))
        if only(layer)
    ]
    run = RunScope(tuple(params), tuple(only("run env").items()))
    layers = scope.layers(only("base"), run, only("output"), secrets=only("secrets"))
    names = layers.names(
        tuple(only("step env").items()), fixed=only("fixed"), item=only("item") or None
    )
    assert names["X"] == LAYERS[stronger]


def test_dotenv_is_stronger_than_base_and_weaker_than_env_and_is_data() -> None:
    flow = read("{env: [A: of env, D: '$B'], steps: [{name: s, command: 'true'}]}")
    flow = with_base_env(flow, (("A", "of base"), ("B", "of base"), ("C", "of base")))
    found = finish(
        scope.resolve_run(flow, Bound(()), {}, dotenv=(("A", "of file"), ("B", "`date` $C ${C}")))
    )
    names = dict(found.env)
    assert names == {"A": "of env", "B": "`date` $C ${C}", "C": "of base", "D": "`date` $C ${C}"}


def with_base_env(flow: Workflow, pairs: tuple[tuple[str, str], ...]) -> Workflow:
    return replace(flow, base_env=pairs)


def test_params_and_env_see_secrets_and_a_secret_is_stronger_than_env() -> None:
    flow = read("{env: [URL: 'x:$TOKEN'], params: [P: '$TOKEN'], steps: [{name: s, command: ls}]}")
    bound = Bound((BoundParam("P", "$TOKEN", False),))
    found = finish(scope.resolve_run(flow, bound, {"TOKEN": "weak"}, secrets={"TOKEN": "hunter22"}))
    assert dict(found.env) == {"URL": "x:hunter22"}
    assert found.params[0].value == "hunter22"


def test_env_hides_no_param_and_no_secret_of_its_name_from_other_texts() -> None:
    flow = read("{env: [P: env, S: env, X: '$P $S'], steps: [{command: ls}]}")
    for given in (True, False):
        bound = Bound((BoundParam("P", "param", given),))
        found = finish(scope.resolve_run(flow, bound, {}, secrets={"S": "secret"}))
        assert dict(found.env)["X"] == "param secret"


def test_the_env_of_a_step_hides_no_stronger_name_from_its_texts() -> None:
    flow = read("steps: [{command: [echo, '$P'], dir: '$P', env: [P: env, Q: '$P', P: again]}]")
    seen = {"P": "given"}
    texts = finish(scope.step_texts(flow.steps[0], seen, {}, results={}, strong={"P"}))
    assert (texts.argv, texts.dir, dict(texts.env)["Q"]) == (("echo", "given"), "given", "given")


def test_env_that_uses_a_declared_param_waits_for_its_value() -> None:
    flow = read("""
        env: [A: '${CFG.a}', B: '`echo $CFG`', C: 'c$A', D: '`printenv CFG`']
        steps: [{command: ls}]
    """)
    cfg = BoundParam("CFG", '{"a":1}', False)
    bound = Bound((cfg, BoundParam("LAST", "${C}!", False)))
    found = finish(scope.resolve_run(flow, bound, {}), "first", "second")
    assert dict(found.env) == {"A": "1", "B": "first", "C": "c1", "D": "second"}
    assert found.params[1].value == "c1!"


def test_the_paths_of_dotenv_follow_the_strength_of_values() -> None:
    flow = read("{env: [STAGE: env], dotenv: ['.env.$STAGE'], steps: [{command: ls}]}")
    flow = with_base_env(flow, (("STAGE", "base"),))
    assert scope.dotenv_paths(flow, Bound(()), {"STAGE": "person"}) == (".env.env",)
    declared = Bound((BoundParam("STAGE", "param", False),))
    assert scope.dotenv_paths(flow, declared, {}) == (".env.param",)


def test_the_paths_of_dotenv_use_params_and_env_and_are_not_empty() -> None:
    flow = read("{env: [STAGE: '$WHERE'], dotenv: ['.env.${STAGE}'], steps: [{command: ls}]}")
    given = Bound((BoundParam("WHERE", "prod", True),))
    assert scope.dotenv_paths(flow, given, {}) == (".env.prod",)
    flow = read("{dotenv: ['${NOWHERE}'], steps: [{command: ls}]}")
    with pytest.raises(ScopeError, match="comes out empty: NOWHERE is not set"):
        scope.dotenv_paths(flow, Bound(()), {})


@pytest.mark.parametrize(
    ("step", "prepared", "items_prepared"),
    [
        ("command: 'echo `date`'", False, False),  # the shell's own
        ("{command: ls, env: [A: '`date`']}", True, False),
        ("{command: ls, preconditions: 'true'}", True, False),
        ("{run: child, params: 'A=`date`'}", True, False),
        ("{run: '`cat name`'}", True, False),
        ("{command: ls, stdout: '`date`.txt'}", True, False),
        ("{command: ls, stderr: '`date`.txt'}", True, False),
        ("{command: ['echo', '`date`']}", True, False),
        ("{executor: {type: http, config: {url: 'http://x/`date`'}}}", True, False),
        ("{command: ls, parallel: [a]}", True, False),
        ("{command: ls, parallel: [a], env: [A: '$ITEM']}", True, False),
        ("{command: ls, parallel: [a], env: [A: '`date`']}", True, False),
        ("{command: ls, parallel: [a], env: [A: '`echo $ITEM`']}", True, True),
        ("{command: ls, parallel: [a], env: [A: '`printenv ITEM_INDEX`']}", True, True),
        ("{command: ls, parallel: [a], env: [A: '${ITEM}', B: '`echo $A`']}", True, True),
        ("{command: ls, parallel: [a], preconditions: 'test $ITEM = a'}", True, True),
        (
            "{command: ls, parallel: [a], preconditions: [{condition: x, expected: '${ITEM}'}]}",
            *(True, True),
        ),
        ("{command: ls, parallel: [a], preconditions: 'test $ITEMS = a'}", True, False),
    ],
)
def test_what_needs_a_process_is_known_from_the_texts(
    step: str, prepared: bool, items_prepared: bool
) -> None:
    flow = read(f"steps: [{step}]")
    assert bool(scope.steps_to_prepare(flow)) is prepared
    assert bool(scope.items_to_prepare(flow)) is items_prepared


def test_what_items_do_not_share_is_left_out_until_they_are_known() -> None:
    flow = read(
        """
        steps:
          - command: ls
            parallel: [a]
            env: [A: '`one`', B: '$ITEM-`two`', C: '$B']
            dir: '$A'
            stdout: '$C'
        """
    )
    step, results = flow.steps[0], dict[str, str]()
    names = scope.item_names(step)
    common = finish(scope.step_texts(step, {}, {}, results=results, leave_out=names), "1")
    assert (common.env, common.dir, common.stdout) == ((("A", "1"),), "1", None)
    seen = {"ITEM": "a"}
    own = finish(scope.step_texts(step, seen, {}, results=results), "2")
    assert own.env == (("A", "1"), ("B", "a-2"), ("C", "a-2"))
    assert (own.dir, own.stdout, results) == ("1", "a-2", {"one": "1", "two": "2"})


@pytest.mark.parametrize(
    ("text", "value", "message"),
    [
        ("${X}", "", 'dir "${X}" comes out empty: X is not set'),
        ("${E}", " ", 'dir "${E}" comes out empty: E is empty'),
        ("a/{{.X}}", "a/{{.X}}", 'dir "a/{{.X}}" still holds {{ (a/{{.X}}): X is not set'),
        ("{{ X | upper }}", "{{ X | upper }}", "still holds {{"),
    ],
)
def test_a_path_that_came_out_as_none_is_refused_with_its_variable(
    text: str, value: str, message: str
) -> None:
    with pytest.raises(ScopeError) as caught:
        scope.required("dir", text, value, {"E": " "})
    assert message in str(caught.value)


def test_a_path_may_have_braces_that_were_asked_for() -> None:
    assert scope.required("dir", r"\{{x", "{{x", {}) == "{{x"
    assert scope.required("dir", "${X}", "a", {"X": "a"}) == "a"
