"""What each key of the language becomes: one table per family of keys."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from runner.language.load import load
from runner.language.model import (
    Approval,
    Concurrency,
    Condition,
    Events,
    ExecutorConfig,
    Mail,
    Mailing,
    MapItem,
    OverlapPolicy,
    Parallel,
    Param,
    PullRequestFilter,
    PushFilter,
    RepeatMode,
    RepeatPolicy,
    Resources,
    Schedule,
    Secret,
    SecretSource,
    Smtp,
    Step,
    Workflow,
    WorkflowFilter,
    Workspace,
    WorkspaceKind,
)


def loaded(text: str) -> Workflow:
    result = load(text.encode(), path="f", id="f")
    assert result.problems == ()
    assert result.workflow is not None
    return result.workflow


def changed(text: str) -> dict[str, Any]:
    """What differs from a workflow that says nothing but its step."""
    step = "\nsteps: [{command: x}]"
    plain, workflow = loaded(step), loaded(text + step)
    pairs = ((f.name, getattr(plain, f.name), getattr(workflow, f.name)) for f in fields(plain))
    return {name: new for name, old, new in pairs if new != old}


def changed_step(text: str) -> dict[str, Any]:
    plain, step = Step(name="step-1"), loaded(f"steps:\n  - {text}").steps[0]
    pairs = ((f.name, getattr(plain, f.name), getattr(step, f.name)) for f in fields(plain))
    return {name: new for name, old, new in pairs if new != old}


def config(type: str, **values: Any) -> dict[str, Any]:
    return {"executor": ExecutorConfig(type, MapItem(tuple(values.items())))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("catchupWindow: 6h", {"catchup_s": 21600.0}),
        ("overlapPolicy: latest", {"overlap": OverlapPolicy.LATEST}),
        ("overlap_policy: all", {"overlap": OverlapPolicy.ALL}),
        ("skipIfSuccessful: true", {"skip_if_successful": True}),
        ("dotenv: .env", {"dotenv": (".env",)}),
        ("dotenv: [a.env, b.env]", {"dotenv": ("a.env", "b.env")}),
        ("secrets: [{name: A, env: A_ENV}, {name: B, file: b}, {name: C, command: pass c}]",
         {"secrets": (Secret("A", SecretSource.ENV, "A_ENV"), Secret("B", SecretSource.FILE, "b"),
                      Secret("C", SecretSource.COMMAND, "pass c"))}),
        ("workspace: own", {"workspace": Workspace(WorkspaceKind.OWN)}),
        ("workspace: {git: true}", {"workspace": Workspace(git=True)}),
        ("workspace: {kind: none}", {"workspace": Workspace(WorkspaceKind.NONE)}),
        ("delaySec: 5m", {"delay_s": 300.0}),
        ("restartWaitSec: 10", {"restart_wait_s": 10.0}),
        ("queue: heavy", {"queue": "heavy"}),
        ("priority: -100", {"priority": -100}),
        ("concurrency: 'deploy ${ENV}'", {"concurrency": Concurrency("deploy ${ENV}")}),
        ("concurrency: {group: g, max: 3, cancelInProgress: true}",
         {"concurrency": Concurrency("g", 3, True)}),
        ("workerSelector: {gpu: true, zone: 7}",
         {"worker_selector": (("gpu", "true"), ("zone", "7"))}),
        ("histRetentionDays: 0", {"retention_days": 0}),
        ("smtp: {host: h, port: 25, username: u, password: '${P}', tls: none}",
         {"mailing": Mailing(smtp=Smtp("h", "25", "u", "${P}", "none"))}),
        ("mailOn: {failure: true}", {"mailing": Mailing(on_failure=True)}),
        ("errorMail: {from: a@b, to: c@d, prefix: '[x]', attachLogs: true}",
         {"mailing": Mailing(error=Mail("a@b", ("c@d",), "[x]", True))}),
        ("infoMail: {to: [c@d, e@f]}", {"mailing": Mailing(info=Mail("", ("c@d", "e@f")))}),
        ("logDir: /var/log", {}),
        ("schedule: {start: '@daily', stop: ['0 4 * * *'], restart: 0 5 * * *}",
         {"schedule": Schedule((("0 0 * * *", None),), (("0 4 * * *", None),),
                               (("0 5 * * *", None),))}),
        ("schedule: {stop: CRON_TZ=Asia/Tokyo 0 4 * * *}",
         {"schedule": Schedule((), stops=(("0 4 * * *", "Asia/Tokyo"),))}),
        ("on: pullRequest", {"events": Events(pull_request=PullRequestFilter())}),
        ("on: {pull_request: {types: [opened, closed], branches: main, forks: approve}}",
         {"events": Events(pull_request=PullRequestFilter(("opened", "closed"), ("main",), (),
                                                          approve_forks=True))}),
        ("on: [push, release]", {"push": PushFilter(), "events": Events(release=())}),
        ("on: [push: {tags: v*}, release: {types: published}]",
         {"push": PushFilter(tags=("v*",)), "events": Events(release=("published",))}),
        ("on: webhook", {"events": Events(webhook=())}),
        ("on: {webhook: {params: {VERSION: release.tag_name, FIRST: 'commits[0].id'}}}",
         {"events": Events(webhook=(("VERSION", "release.tag_name"), ("FIRST", "commits[0].id")))}),
        ("on: {workflow: {ids: etl/load, status: [succeeded, failed]}}",
         {"events": Events(workflow=WorkflowFilter(("etl/load",), ("succeeded", "failed")))}),
    ],
)  # fmt: skip
def test_what_a_workflow_says(text: str, expected: dict[str, Any]) -> None:
    assert changed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("run: etl/load", {"run": "etl/load"}),
        ("{run: 'etl/${ITEM}', params: 'A=${X} B=\"y z\" c'}",
         {"run": "etl/${ITEM}",
          "params": (Param("A", "${X}"), Param("B", "y z"), Param(None, "c"))}),
        ("{run: a, params: [A=1, {B: '{\"x\": 2}'}]}",
         {"run": "a", "params": (Param("A", "1"), Param("B", '{"x": 2}'))}),
        ("{run: a, params: {A: 1.10, B: }}",
         {"run": "a", "params": (Param("A", "1.10"), Param("B", ""))}),
        ("{run: a, workerSelector: {gpu: yes}}",
         {"run": "a", "worker_selector": (("gpu", "yes"),)}),
        ("{run: a, parallel: [1, {b: 2, c: [x, {d: null}]}, [e]]}",
         {"run": "a", "parallel": Parallel((
             "1", MapItem((("b", "2"), ("c", ("x", MapItem((("d", ""),)))))), ("e",)))}),
        ("{command: x, parallel: '${LIST}'}",
         {"command": "x", "parallel": Parallel(source="${LIST}")}),
        ("{command: x, parallel: {items: [a], maxConcurrent: 2}}",
         {"command": "x", "parallel": Parallel(("a",), max_concurrent=2)}),
        ("{command: x, parallel: {items: '${LIST}', max_concurrent: 1}}",
         {"command": "x", "parallel": Parallel(source="${LIST}", max_concurrent=1)}),
        ("{command: x, parallel: []}", {"command": "x", "parallel": Parallel(())}),
        ("approval: true", {"approval": Approval()}),
        ("{command: x, approval: false}", {"command": "x"}),
        ("{command: x, approval: {message: 'go?', timeoutSec: 2h, roles: ops}}",
         {"command": "x", "approval": Approval("go?", 7200.0, ("ops",))}),
        ("{command: x, stdout: out.txt, stderr: err.txt}",
         {"command": "x", "stdout": "out.txt", "stderr": "err.txt"}),
        ("{command: x, mailOnError: true}", {"command": "x", "mail_on_error": True}),
        ("{command: x, resources: {cpus: 0.5, memory: 512MiB, nice: -5}}",
         {"command": "x", "resources": Resources(0.5, 512 * 1024 * 1024, -5)}),
        ("{command: x, repeatPolicy: {repeat: true, intervalSec: 60, limit: 3}}",
         {"command": "x", "repeat": RepeatPolicy(RepeatMode.ALWAYS, 60.0, 3)}),
        ("{command: x, repeatPolicy: {repeat: false, intervalSec: 60}}", {"command": "x"}),
        ("{command: x, repeatPolicy: {condition: test -f y}}",
         {"command": "x",
          "repeat": RepeatPolicy(RepeatMode.WHILE, condition=Condition("test -f y"))}),
        ("{command: x, repeatPolicy: {condition: '${S}', expected: done}}",
         {"command": "x",
          "repeat": RepeatPolicy(RepeatMode.UNTIL, condition=Condition("${S}", "done"))}),
        ("{command: x, repeatPolicy: {repeat: until, exitCode: [0, 3], backoff: true}}",
         {"command": "x",
          "repeat": RepeatPolicy(RepeatMode.UNTIL, exit_codes=(0, 3), factor=2.0)}),
        ("{command: x, repeatPolicy: {repeat: while, condition: '${S}', expected: busy}}",
         {"command": "x",
          "repeat": RepeatPolicy(RepeatMode.WHILE, condition=Condition("${S}", "busy"))}),
        ("{command: x, repeatPolicy: {exitCode: 1}}",
         {"command": "x", "repeat": RepeatPolicy(RepeatMode.WHILE, exit_codes=(1,))}),
    ],
)  # fmt: skip
def test_what_a_step_says(text: str, expected: dict[str, Any]) -> None:
    assert changed_step(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{command: x, executor: shell}", {"command": "x"}),
        ("{command: x, executor: {type: command, config: }}", {"command": "x"}),
        ("{executor: {type: docker, config: {image: 'node:18', cpus: 8, memory: 32g}}}",
         config("docker", image="node:18", cpus="8", memory="32g")),
        ("{command: x, executor: {type: docker, config: {container_name: c, volumes: '.:/app'}}}",
         {"command": "x"} | config("docker", containerName="c", volumes=(".:/app",))),
        ("{executor: {type: docker, config: {image: i, env: [{A: 1}, {B: 2}], cpus: '${N}'}}}",
         config("docker", image="i", cpus="${N}", env=MapItem((("A", "1"), ("B", "2"))))),
        ("{executor: {type: http, config: {url: 'https://x', method: post, timeout: 5s, "
         "json: true, headers: {X-Api-Key: '${K}'}, body: {a: [1, {b: null}]}}}}",
         config("http", url="https://x", method="POST", headers=MapItem((("X-Api-Key", "${K}"),)),
                body=MapItem((("a", ("1", MapItem((("b", ""),)))),)), timeout="5s", json="true")),
        ("{executor: http, command: 'GET https://x'}",
         {"command": "GET https://x"} | config("http")),
        ("{executor: {type: mail, config: {to: a@b, from: c@d, attachments: [/tmp/*.pdf]}}}",
         config("mail", to=("a@b",), **{"from": "c@d"}, attachments=("/tmp/*.pdf",))),
        ("{executor: {type: ssh, config: {host: h, port: 22, strictHostKey: false}}, command: ls}",
         {"command": "ls"} | config("ssh", host="h", port="22", strictHostKey="false")),
        ("{executor: jq, command: .a, script: '{\"a\": 1}'}",
         {"command": ".a", "script": '{"a": 1}'} | config("jq")),
        ("{executor: {type: jq, config: {input: {a: 1}, raw: true}}, command: .a}",
         {"command": ".a"} | config("jq", input=MapItem((("a", "1"),)), raw="true")),
    ],
)  # fmt: skip
def test_what_an_executor_is_given(text: str, expected: dict[str, Any]) -> None:
    assert changed_step(text) == expected


def test_all_five_handlers_are_steps() -> None:
    keys = ("init", "success", "failure", "cancel", "exit")
    text = "".join(f"\n  {key}: {{command: {key}}}" for key in keys)
    workflow = loaded(f"steps: [{{command: x}}]\nhandlerOn:{text}")
    assert [(h.name, h.command) for h in workflow.handlers] == [
        (f"handlerOn.{key}", key) for key in keys
    ]


SEED_ITEMS = """\
steps:
  - name: train
    parallel:
      items:
        - model: xgboost
          params: "max_depth=6 learning_rate=0.1"
    run: ml/train
    params: "MODEL=${ITEM.model} PARAMS=${ITEM.params}"
"""


def test_params_of_a_run_are_taken_apart_before_anything_is_put_in() -> None:
    assert loaded(SEED_ITEMS).steps[0].params == (
        Param("MODEL", "${ITEM.model}"),
        Param("PARAMS", "${ITEM.params}"),
    )
