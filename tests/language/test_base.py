"""`base.yaml`: what it gives to every workflow, what it may not hold, and where it is wrong."""

from __future__ import annotations

import pytest

from runner.language.load import Base, load, load_base
from runner.language.model import Mail, Mailing, Param, Secret, SecretSource, Smtp, Workflow
from runner.language.params import bind

PLAIN = "steps: [{command: x}]\n"


def base_of(text: str) -> Base:
    result = load_base(text.encode(), path=".dagu/base.yaml")
    assert result.problems == ()
    assert result.base is not None
    return result.base


def based(base: str, text: str) -> Workflow:
    result = load(text.encode(), path="f", id="f", base=base_of(base))
    assert result.problems == ()
    assert result.workflow is not None
    return result.workflow


def base_problems(text: str) -> list[str]:
    result = load_base(text.encode(), path=".dagu/base.yaml")
    assert result.base is None
    return [str(p) for p in result.problems]


def test_a_scalar_of_the_workflow_is_stronger() -> None:
    base = "timezone: Asia/Tokyo\nmaxActiveRuns: 5\nhistRetentionDays: 7\nshell: bash -u\n"
    workflow = based(base, PLAIN + "maxActiveRuns: 1\n")
    assert workflow.timezone == "Asia/Tokyo"
    assert workflow.max_active_runs == 1  # said, although it is the default
    assert (workflow.retention_days, workflow.shell) == (7, ("bash", "-u"))


def test_env_params_tags_and_secrets_are_appended_to_those_of_the_base() -> None:
    workflow = based(
        "env: {A: base, B: b}\nparams: [P: base, Q: base]\ntags: [ops, x]\n"
        "secrets: [{name: S, env: S1}, {name: T, env: T1}]\n",
        PLAIN + "env: {A: own}\nparams: first Q=own R=own\ntags: x,y\n"
        "secrets: [{name: S, file: s}]\n",
    )
    assert workflow.base_env == (("A", "base"), ("B", "b"))
    assert workflow.env == (("A", "own"),)
    assert workflow.params == (
        Param("P", "base", of_base=True),
        Param(None, "first"),
        Param("Q", "own"),
        Param("R", "own"),
    )
    assert workflow.tags == ("ops", "x", "y")
    assert workflow.secrets == (
        Secret("T", SecretSource.ENV, "T1"),
        Secret("S", SecretSource.FILE, "s"),
    )


def test_a_param_of_the_base_takes_no_place_from_those_of_the_workflow() -> None:
    workflow = based("params: {P: base}", PLAIN + "params: [{REGION: eu}, pos]")
    bound = bind(workflow.params, [Param(None, v) for v in ("us", "x", "y")], mentioned=bool)
    assert bound.positional == ("us", "x", "y")
    assert {p.name: p.value for p in bound.params if p.name} == {"P": "base", "REGION": "us"}
    named = bind(workflow.params, [Param("P", "given")], mentioned=bool)
    assert (named.params[0].value, named.positional) == ("given", ("pos",))


def test_maps_are_merged_key_by_key() -> None:
    workflow = based(
        "smtp: {host: mail, port: 25}\nmailOn: {failure: true}\nerrorMail: {from: a@b, to: c@d}\n"
        "handlerOn: {failure: {command: tell}, exit: {command: sweep}}\n"
        "workerSelector: {zone: a, gpu: no}\n",
        PLAIN + "smtp: {port: 587}\nmailOn: {success: true}\nerrorMail: {to: e@f}\n"
        "handlerOn: {exit: {command: own}, init: {command: start}}\nworkerSelector: {gpu: yes}\n",
    )
    assert workflow.mailing == Mailing(
        smtp=Smtp("mail", "587"), on_failure=True, on_success=True, error=Mail("a@b", ("e@f",))
    )
    assert [(h.name, h.command) for h in workflow.handlers] == [
        ("handlerOn.init", "start"),
        ("handlerOn.failure", "tell"),
        ("handlerOn.exit", "own"),
    ]
    assert workflow.worker_selector == (("zone", "a"), ("gpu", "yes"))


def test_preconditions_of_the_workflow_take_the_place_of_the_base_s() -> None:
    assert [c.condition for c in based("precondition: a\n", PLAIN).preconditions] == ["a"]
    workflow = based("precondition: a\n", PLAIN + "preconditions: [b]\n")
    assert [c.condition for c in workflow.preconditions] == ["b"]


def test_the_base_holds_for_local_documents_too() -> None:
    text = f"{PLAIN}---\nname: child\ntimeoutSec: 5\n{PLAIN}---\nname: other\n{PLAIN}"
    workflow = based("timeoutSec: 60\nenv: {A: b}\n", text)
    assert [w.timeout_s for w in (workflow, *workflow.locals)] == [60.0, 5.0, 60.0]
    assert workflow.locals[0].base_env == (("A", "b"),)


def test_variables_of_the_base_count_as_defined_and_its_handlers_are_not_looked_at() -> None:
    base = base_of(
        "env: {A: b}\nparams: [P: q]\nsecrets: [{name: S, env: T}]\n"
        "handlerOn: {exit: {name: n, command: 'echo ${NOT_HERE}'}}\n"
    )
    text = "steps: [{command: 'echo ${A} ${P} ${S} ${B}'}]\n"
    result = load(text.encode(), path="f", id="f", base=base)
    assert [str(w) for w in result.warnings] == ["f:1:19: nothing in this file defines ${B}"]


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n---\n"])
def test_an_empty_base_changes_nothing(text: str) -> None:
    assert based(text, PLAIN) == load(PLAIN.encode(), path="f", id="f").workflow


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: x", '1:1: "name" belongs to a workflow, not to its base'),
        ("steps: [{command: x}]", '1:1: "steps" belongs to a workflow, not to its base'),
        ("schedule: '@daily'", '1:1: "schedule" belongs to'),
        ("on: push", '1:1: "on" belongs to'),
        ("type: chain", '1:1: "type" belongs to'),
        ("params: [A=1, first]", '1:15: "first" is positional'),
        ("params: A=1 first", '1:9: "A=1 first" is positional'),
        ("timeoutSecs: 5", '1:1: "timeoutSecs" is not a key that is known here; did you mean'),
        ("timezone: Mars", '1:11: "Mars" is not a time zone'),
        ("handlerOn: {exit: {name: x}}", 'step "handlerOn.exit" needs a command'),
        ("env: {A: b}\n---\nenv: {C: d}", "3:1: a base is one document; remove this one"),
        ("[a", "not valid YAML"),
        ("- a", "1:1: a workflow is a map of keys"),
    ],
)
def test_what_a_base_cannot_say_names_its_place(text: str, expected: str) -> None:
    (found,) = base_problems(text)
    assert found.startswith(".dagu/base.yaml:")
    assert expected in found


def test_every_problem_of_a_base_is_told() -> None:
    assert len(base_problems("name: x\ntype: chain\nquue: a\npriority: 101\nenv: [A=1]\n")) == 5
