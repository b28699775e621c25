"""Our own expansion: one pass over the text, values as they are."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.language.expand import ExpandError, expand, names_in, substitutions

DOCUMENT = (
    '{"a": {"b": [{"x": 0.80}, 12345678901, 1e400, -0.0]}, "s": "caf\\u00e9", "n": null,'
    ' "t": true, "e": {}, "l": [], "k-1": {"0": "zero"}, "half": "\\ud83d"}'
)
SCOPE = {"X": "x y", "EMPTY": "", "1": "first", "J": DOCUMENT, "T": "plain"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$X/${X}/{{.X}}/{{ .X }}", "x y/x y/x y/x y"),
        ("$Xs ${X}s", "$Xs x ys"),
        ("[${EMPTY}]", "[]"),
        ("[${NO}] $NO {{.NO}} {{ .NO.a }}", "[] $NO {{.NO}} {{ .NO.a }}"),
        ("$1 ${1} $10", "first first first0"),
        (r"\$X \${X} \{{.X}} \`x\` \n \\", r"$X ${X} {{.X}} `x` \n \\"),
        ("5$ ${} $( a ) ${X:-d} ${#X} ${a[0]} {{X}}", "5$ ${} $( a ) ${X:-d} ${#X} ${a[0]} {{X}}"),
        ("${J.a.b[0].x}", "0.80"),
        ("${J.a.b[1]} ${J.a.b[2]} ${J.a.b[3]} ${J.a.b.1}", "12345678901 1e400 -0.0 12345678901"),
        ("{{ .J.a.b[0] }}", '{"x":0.80}'),
        ("${J.s} ${J.n} ${J.t} ${J.e} ${J.l}", "café null true {} []"),
        ("${J.k-1} ${J.k-1.0}", '{"0":"zero"} zero'),
        ("${J.half}", "?"),
        ("${a-b.c}", "${a-b.c}"),
    ],
)  # fmt: skip
def test_what_a_text_becomes(text: str, expanded: str) -> None:
    assert expand(text, SCOPE) == expanded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NO.a}", "${NO.a}: NO is not set"),
        ("${T.a}", "${T.a}: T does not hold JSON"),
        ("{{.T.a}}", "{{.T.a}}: T does not hold JSON"),
        ("${J.a.q}", "${J.a.q}: J.a has no .q"),
        ("${J.a.b[9].x}", "${J.a.b[9].x}: J.a.b has no [9]"),
        ("${J.s.x}", "${J.s.x}: J.s has no .x"),
        ("${J.l[99999999999999999]}", "${J.l[99999999999999999]}: J.l has no [99999999999999999]"),
        ("${st.exit}", '${st.exit}: a step has stdout, stderr, exitCode, not "exit"'),
        ("${st.stdout}", "${st.stdout}: the step st has not run"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_named(text: str, message: str) -> None:
    with pytest.raises(ExpandError) as caught:
        expand(text, SCOPE, step_refs={"st": {"exitCode": "0"}})
    assert str(caught.value) == message


@pytest.mark.parametrize("document", ["[" * 100_000, "NaN", '{"a": NaN}', "{'a': 1}", "", "1 2"])
def test_what_is_no_json_is_said_to_be_none(document: str) -> None:
    with pytest.raises(ExpandError, match="does not hold JSON"):
        expand("${X.a}", {"X": document})


def test_a_step_is_known_by_its_id_unless_a_variable_has_that_name() -> None:
    refs = {"my-step": {"stdout": "/log/out", "exitCode": "3"}, "J": {"stdout": "no"}}
    assert expand("${my-step.stdout} ${my-step.exitCode}", SCOPE, step_refs=refs) == "/log/out 3"
    assert expand("${J.t}", SCOPE, step_refs=refs) == "true"


def test_backticks_are_found_before_anything_is_put_in() -> None:
    text = r"a `date +%F` $X `echo \`whoami\` $Y`"
    assert substitutions(text) == ("date +%F", "echo `whoami` $Y")
    assert expand(text, {"X": "`reboot` $Y"}, substitutions=["one", "$X"]) == "a one `reboot` $Y $X"
    assert substitutions("${X} \\`no\\` `open") == ()


def test_backticks_without_results_stay_as_written() -> None:
    assert expand("`date` $X", SCOPE) == "`date` x y"


def test_too_few_results_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="2 results needed, 1 given"):
        expand("`a` `b`", {}, substitutions=["x"])


HOSTILE_VALUES = st.text(alphabet="${}.`\\XYa{[0]", max_size=20)


@given(value=HOSTILE_VALUES)
@pytest.mark.parametrize("reference", ["$X", "${X}", "{{.X}}", "{{ .X }}", "${J.k}", "{{.J.k}}"])
def test_what_is_put_in_is_never_looked_at_again(reference: str, value: str) -> None:
    scope = {"X": value, "Y": "never", "a": "never", "J": json.dumps({"k": value})}
    assert expand(f"<{reference}>", scope) == f"<{value}>"


@given(st.text(alphabet="${}.`\\XYa{[0]-| ", max_size=40))
def test_no_text_makes_expansion_fail_in_another_way(text: str) -> None:
    commands = substitutions(text)
    try:
        expand(text, SCOPE | {"a": "1"}, substitutions=["r"] * len(commands))
    except ExpandError:
        assert "." in text


@given(st.text(alphabet=st.characters(exclude_characters="$`{\\", exclude_categories=["Cs"])))
def test_text_without_references_stays_as_it_is(text: str) -> None:
    assert expand(text, SCOPE) == text


def test_the_names_that_a_text_mentions() -> None:
    text = "$A ${B} ${C.x[0]} ${D:-$E} ${#F} {{.G}} {{ .H.i }} $1 $$ 'K' \"$L\""
    assert names_in(text) == frozenset("ABCDEFGHL1")
