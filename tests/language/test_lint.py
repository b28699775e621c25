"""Warnings: what probably was not meant, and what must not be warned about."""

from __future__ import annotations

import pytest

from runner.language.load import load


def warned(text: str) -> list[str]:
    result = load(text.encode(), path="f", id="f")
    assert result.problems == ()
    return [str(w) for w in result.warnings]


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        ("steps: [{command: a}, {command: b}]",
         ["f:1:1: all 2 steps start at once; write `type: chain` for one after another, "
          "`type: graph` to confirm"]),
        ("type: graph\nsteps: [{command: a}, {command: b}]", []),
        ("steps: [{command: a}]", []),
        ("steps: {a: {command: a}, b: {command: b, depends: a}}", []),
        ("steps: [{command: a, retryPolicy: {limit: 1, exitCode: [1, 429]}}]",
         ["f:1:60: a process cannot exit with 429; the system makes 173 of it"]),
        ("steps: [{command: a, continueOn: {exitCode: 256}}]",
         ["f:1:45: a process cannot exit with 256; the system makes 0 of it"]),
        ("schedule: '*/7 * * * *'\nsteps: [{command: a}]",
         ['f:1:11: "*/7" starts again with each hour: '
          "the last interval is shorter than 7 minutes"]),
        ("schedule: '0 */5 * * *'\nsteps: [{command: a}]",
         ['f:1:11: "*/5" starts again with each day: the last interval is shorter than 5 hours']),
        ("schedule: '*/15 */6 * */3 *'\nsteps: [{command: a}]", []),
        ("steps: [{command: a}]\nhandlerOn: {exit: {name: bye, command: a}}",
         ["f:2:26: a handler is always named handlerOn.exit; this name has no effect"]),
        ("on: {push: {branches: ['!main']}}\nsteps: [{command: a}]",
         ['f:1:23: nothing matches patterns that only exclude; start the list with "**"']),
        ("steps: [{command: a}]\n---\nname: c\nschedule: '@daily'\nsteps: [{command: a}]",
         ['f:4:1: "schedule" has no effect in a sub-workflow']),
        ("steps: [{command: a}]\n---\nname: c\nsteps: [{command: a}]\nqueue: q\nmaxActiveRuns: 1\n"
         "overlapPolicy: all\ndelaySec: 5\non: push",
         ['f:5:1: "queue" has no effect in a sub-workflow',
          'f:6:1: "maxActiveRuns" has no effect in a sub-workflow',
          'f:7:1: "overlapPolicy" has no effect in a sub-workflow',
          'f:8:1: "delaySec" has no effect in a sub-workflow',
          'f:9:1: "on" has no effect in a sub-workflow']),
        ("steps: [{command: a}]\nlogDir: /var/log",
         ['f:2:1: "logDir" has no effect: logs are kept with the run']),
        ("steps: [{command: a, repeatPolicy: {exitCode: [300]}}]",
         ["f:1:48: a process cannot exit with 300; the system makes 44 of it"]),
        ("steps: [{executor: {type: http, config: {url: a}}, retryPolicy: {limit: 1, "
         "exitCode: 429}}]", []),
        ("schedule: {stop: '*/7 * * * *'}\nsteps: [{command: a}]",
         ['f:1:18: "*/7" starts again with each hour: '
          "the last interval is shorter than 7 minutes"]),
        ("env: {DB_PASSWORD: abc}\nparams: [MY_API_KEY: a1, TOKENS: a1]\nsteps: [{command: a}]",
         ["f:1:20: DB_PASSWORD is too short to be hidden in logs; "
          "a secret needs 5 characters or more",
          "f:2:22: MY_API_KEY is too short to be hidden in logs; "
          "a secret needs 5 characters or more"]),
        ("env: {DB_PASSWORD: $X, A_TOKEN: , B_TOKEN: enough}\nsteps: [{command: a}]", []),
        ("steps: [{run: a, params: 'B=${NO}'}, {command: 'echo ${NO2}', parallel: '${NO3}'}]\n"
         "type: chain",
         ["f:1:26: nothing in this file defines ${NO}",
          "f:1:48: nothing in this file defines ${NO2}",
          "f:1:73: nothing in this file defines ${NO3}"]),
        ("steps: [{executor: {type: mail, config: {to: a, subject: '${NO}'}}, stdout: '${NO2}'}]",
         ["f:1:58: nothing in this file defines ${NO}",
          "f:1:77: nothing in this file defines ${NO2}"]),
        ("steps: [{executor: jq, command: '.a[\"${NO}\"]', script: '{}'}]", []),
    ],
)  # fmt: skip
def test_what_is_warned_about(text: str, warnings: list[str]) -> None:
    assert warned(text) == warnings


def test_what_callers_in_the_same_file_give_counts_as_defined() -> None:
    child = "steps: [{command: 'echo ${A} ${B} ${C} ${ITEM}'}]\n"
    text = (
        "type: chain\nsteps:\n  - {run: one, params: A=1}\n  - {run: one, parallel: [{B: 2}]}\n"
        f"---\nname: one\n{child}---\nname: two\n{child}"
    )
    assert warned(text) == [
        "f:7:19: nothing in this file defines ${C}",
        "f:10:19: nothing in this file defines ${A}",
        "f:10:19: nothing in this file defines ${B}",
        "f:10:19: nothing in this file defines ${C}",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "dotenv: .env\nsteps: [{command: 'echo ${ANY}'}]",
        "secrets: [{name: S, env: T}]\nsteps: [{command: 'echo ${S}'}]",
        "steps: {a: {command: 'echo A=1 > $DAG_RUN_OUTPUT_FILE'},"
        " b: {command: 'echo ${A}', depends: a}}",
    ],
)
def test_what_something_else_defines_is_not_warned_about(text: str) -> None:
    assert warned(text) == []


@pytest.mark.parametrize(
    "command",
    [
        "echo ${REGION} ${HOME} ${DATE} ${DAG_RUN_ID} ${OUT} ${OUT_FILE} ${STEP_ENV} ${RUN_ENV}",
        "X=1; echo ${X}",
        "for f in *; do echo ${f}; done",
        "while read -r line rest; do echo ${rest}; done",
        "export Y=1 && echo ${Y}",
        ". ./settings; echo ${ANY}",
        "awk '{ print ${NOT_SHELL} }'",
        "# ${COMMENT}",
        "echo $BARE ${WITH:-default}",
    ],
)
def test_variables_that_something_defines_are_not_warned_about(command: str) -> None:
    assert (
        warned(
            f"""\
params: {{REGION: eu}}
env: {{RUN_ENV: 1}}
steps:
  - command: {command!r}
    env: {{STEP_ENV: 1}}
    output: OUT
""".replace('\\"', '"')
        )
        == []
    )


def test_a_variable_that_nothing_defines_is_named_with_the_nearest() -> None:
    text = 'params: {REGION: eu}\nsteps: [{command: "echo ${REGIO}", dir: "${NOWHERE}"}]'
    assert warned(text) == [
        'f:2:19: nothing in this file defines ${REGIO}; did you mean "REGION"?',
        "f:2:41: nothing in this file defines ${NOWHERE}",
    ]


def test_scripts_of_other_languages_are_left_alone() -> None:
    assert warned("steps: [{command: perl, script: 'print ${x}'}]") == []
    assert warned('steps: [{script: "#!/usr/bin/perl\\nprint ${x}"}]') == []
