"""Declared parameters, and what a start may put over them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.language.load import load
from runner.language.model import Param
from runner.language.params import Bound, ParamError, bind, mentions, parse_words


def nothing(name: str) -> bool:
    return False


def everything(name: str) -> bool:
    return True


def bound(declared: str, overrides: str) -> Bound:
    return bind(parse_words(declared), parse_words(overrides), mentioned=nothing)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  a\tb\nc ", [(None, "a"), (None, "b"), (None, "c")]),
        ("K=v", [("K", "v")]),
        ("K=", [("K", "")]),
        ('K="x y"', [("K", "x y")]),
        ("K='x \"y\"'", [("K", 'x "y"')]),
        (r'K="say \"hi\" \$X"', [("K", r'say "hi" \$X')]),
        ('"a b" c', [(None, "a b"), (None, "c")]),
        ('"a b"/c', [(None, "a b/c")]),
        ('K={"a":1}', [("K", '{"a":1}')]),
        ("K=`date +%F` L=1", [("K", "`date +%F`"), ("L", "1")]),
        ("K={{ .X }}/y L=1", [("K", "{{ .X }}/y"), ("L", "1")]),
        ("K=a=b", [("K", "a=b")]),
        ("--flag=x 1a=b http://h/?q=1", [(None, "--flag=x"), (None, "1a=b"), (None, "http://h/?q=1")]),
        ("don't it's", [(None, "don't"), (None, "it's")]),
    ],
)  # fmt: skip
def test_the_grammar_of_words(text: str, words: list[tuple[str | None, str]]) -> None:
    assert [(p.name, p.value) for p in parse_words(text)] == words


def test_a_quote_that_is_not_closed_is_refused() -> None:
    with pytest.raises(ParamError, match="is not closed"):
        parse_words('K="x y')


@given(st.text(alphabet="aK='\"`\\ {}.$", max_size=30))
def test_no_text_of_words_fails_in_another_way(text: str) -> None:
    try:
        parse_words(text)
    except ParamError:
        assert '"' in text


@pytest.mark.parametrize(
    ("declared", "overrides", "named", "positional", "given_names"),
    [
        ("a b K=v", "", {"K": "v"}, ("a", "b"), set()),
        ("K=v a", "", {"K": "v"}, ("a",), set()),
        ("a b K=v", "x", {"K": "v"}, ("x", "b"), {"1"}),
        ("K=v L=w", "x", {"K": "x", "L": "w"}, ("x",), {"K", "1"}),
        ("K=v L=w", "L=y", {"K": "v", "L": "y"}, (), {"L"}),
        ("K=v a b", "x", {"K": "x"}, ("x", "a", "b"), {"K", "1"}),
        ("K=v", "x y", {"K": "x"}, ("x", "y"), {"K", "1", "2"}),
        ("a K=v", "x y z", {"K": "y"}, ("x", "y", "z"), {"1", "2", "3", "K"}),
    ],
)
def test_overrides_fill_declared_parameters(
    declared: str,
    overrides: str,
    named: dict[str, str],
    positional: tuple[str, ...],
    given_names: set[str],
) -> None:
    result = bound(declared, overrides)
    assert (dict(result.named), result.positional, result.given) == (named, positional, given_names)


def test_declaration_order_is_kept_and_extra_names_come_last() -> None:
    declared = parse_words("A=1 B=2 C=3")
    result = bind(declared, parse_words("X=9 C=4"), mentioned=everything)
    assert result.named == (("A", "1"), ("B", "2"), ("C", "4"), ("X", "9"))
    assert [p.given for p in result.params] == [False, False, True, True]


@pytest.mark.parametrize(
    ("declared", "overrides", "message"),
    [
        ("REGION=x", "REGIO=y",
         'REGIO is not a parameter of this workflow; did you mean "REGION"?'),
        ("", "X=1", "X is not a parameter"),
        ("K=v", "x K=y", "K is given twice: by name and as $1"),
        ("K=v", "K=x K=y", "K is given twice"),
        ("", "PATH=/tmp", "PATH is protected; the workflow must declare it under params"),
        ("", "LD_PRELOAD=x", "LD_PRELOAD is protected"),
        ("", "GIT_DIR=x", "GIT_DIR is protected"),
        ("", "BASH_FUNC_x=y", "is protected"),
        ("", "PYTHONPATH=y", "is protected"),
        ("", "DAGMILL_X=y", "is protected"),
    ],
)  # fmt: skip
def test_overrides_that_are_refused(declared: str, overrides: str, message: str) -> None:
    with pytest.raises(ParamError) as caught:
        bound(declared, overrides)
    assert message in str(caught.value)


def test_a_protected_name_needs_a_declaration_and_a_mention_is_not_enough() -> None:
    with pytest.raises(ParamError, match="protected"):
        bind((), parse_words("PATH=x"), mentioned=everything)
    assert bound("PATH=/bin", "PATH=/tmp").named == (("PATH", "/tmp"),)


@pytest.mark.parametrize("param", [Param("K", "a\0b"), Param(None, "\0")])
def test_nul_is_refused(param: Param) -> None:
    with pytest.raises(ParamError, match="NUL"):
        bind((Param("K", "v"),), [param], mentioned=everything)


@pytest.mark.parametrize("name", ["a-b", "1a", "", "a b", "é", "A\n", "BASH_FUNC_x%%"])
def test_a_name_from_outside_must_be_the_name_of_a_variable(name: str) -> None:
    with pytest.raises(ParamError, match="is not a name"):
        bind((), [Param(name, "v")], mentioned=everything)


def test_a_workflow_mentions_what_its_texts_refer_to() -> None:
    workflow = load(b"""\
params: {A: "$IN_PARAM"}
env: {B: "${IN_ENV}"}
preconditions: {condition: "$IN_CONDITION", expected: x}
steps:
  - command: echo "${IN_COMMAND:-x}" IN_WORD
  - command: [echo, "$IN_ARGV"]
  - command: python3
    script: print(os.environ["IN_SCRIPT"])
  - {run: "$IN_RUN", params: "A=$IN_ARGUMENT", parallel: [a, {b: ["$IN_ITEM"]}]}
  - {command: x, parallel: "$IN_LIST", stdout: "$IN_STDOUT", approval: {message: "$IN_QUESTION"}}
  - {executor: {type: http, config: {url: x, headers: {A: "$IN_HEADER"}}}}
  - {command: x, repeatPolicy: {condition: "$IN_REPEAT", expected: y}}
concurrency: "$IN_GROUP"
secrets: [{name: S, command: "$IN_SECRET"}]
dotenv: "$IN_DOTENV"
smtp: {host: "$IN_SMTP"}
errorMail: {to: "$IN_MAIL"}
handlerOn: {exit: {command: "echo $IN_HANDLER"}}
---
name: child
steps: [{command: "echo $IN_CHILD"}]
""", path="f", id="f").workflow  # fmt: skip
    assert workflow is not None
    names = ["PARAM", "ENV", "CONDITION", "COMMAND", "ARGV", "SCRIPT", "HANDLER", "CHILD"]
    names += ["RUN", "ARGUMENT", "ITEM", "LIST", "STDOUT", "QUESTION", "HEADER", "REPEAT", "GROUP"]
    names += ["SECRET", "DOTENV", "SMTP", "MAIL"]
    assert all(mentions(workflow, f"IN_{name}") for name in names)
    assert not mentions(workflow, "IN_WORD")
    assert not mentions(workflow, "IN_SCRIP")


@pytest.mark.parametrize("name", ["A", None])
def test_bytes_that_are_no_text_are_refused(name: str | None) -> None:
    given = Param(name=name, value=b"a\xff".decode(errors="surrogateescape"))
    with pytest.raises(ParamError, match="is not valid UTF-8; give binary data as a file"):
        bind([Param("A", "")], [given], mentioned=lambda _: True)
