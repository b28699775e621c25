"""Secrets, dotenv, stream files and handlers of a run, with real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from real_run import PATH, RUN, Bench, Done, run_text

from runner.engine.events import Launched
from runner.engine.secret_values import SecretAccess
from storage.records import PutValues

SECRET = "hunter22-hunter22"


def access(tmp_path: Path) -> SecretAccess:
    folder = tmp_path / "secrets"
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(f"{SECRET}-file\n")
    return SecretAccess({"CI_TOKEN": SECRET}, ("CI_*",), folder)


def stored(tmp_path: Path) -> bytes:
    """All that the database has, as bytes."""
    return b"".join(f.read_bytes() for f in sorted((tmp_path / "data").glob("*")) if f.is_file())


SECRETS = """
        secrets:
          - {name: A, env: CI_TOKEN}
          - {name: B, file: token}
          - {name: C, command: 'cat $HOME/c'}
          - {name: PIN, command: echo 123}
"""


async def run_with_secrets(tmp_path: Path, text: str) -> Done:
    (tmp_path / "c").write_text(f"{SECRET} with blanks\n")
    inherited = {**PATH, "HOME": str(tmp_path)}
    return await run_text(tmp_path, text, inherited=inherited, secrets=access(tmp_path))


async def test_steps_get_secrets_which_are_shown_and_stored_nowhere(tmp_path: Path) -> None:
    done = await run_with_secrets(
        tmp_path,
        SECRETS
        + """
        env: [URL: 'https://u:${A}@host']
        params: ['declared-$B']
        steps:
          - {name: a, command: 'echo "$A|$B|$C|$PIN|$URL|$1" | tee seen'}
          - name: b
            env: [X: '`echo $C`']
            command: echo "$X"
          - {name: c, parallel: ['${A}', x], command: 'echo "$ITEM"'}
          - {name: d, run: child, params: 'P="${C}" Q=1'}
          - {name: e, parallel: ['${B}'], run: child}
        ---
        name: child
        params: [P: '']
        steps:
          - {name: s, command: 'echo "$P|$ITEM"; echo "$P|$ITEM" >> child-seen'}
          - {name: t, run: grandchild, params: 'R=${P}'}
        ---
        name: grandchild
        params: [R: '']
        steps:
          - {name: s, command: 'echo "$R" >> child-seen'}
        """.replace("\n        ---\n", "\n---\n"),
    )
    assert done.status == "succeeded", done.document
    blanks, file = f"{SECRET} with blanks", f"{SECRET}-file"
    seen = (tmp_path / "workspace/seen").read_text()
    assert seen == f"{SECRET}|{file}|{blanks}|123|https://u:{SECRET}@host|declared-{file}\n"
    assert sorted((tmp_path / "workspace/child-seen").read_text().splitlines()) == sorted(
        [f"{blanks}|", blanks, f"{file}|{file}", file]
    )
    assert done.tail("a") == "***|***|***|123|https://u:***@host|declared-***"
    assert done.document["params"] == {"1": "declared-***"}
    assert SECRET not in json.dumps(done.document)
    assert SECRET.encode() not in stored(tmp_path)
    logs = [path.read_text() for path in (tmp_path / "runs").rglob("out")]
    assert not [text for text in logs if SECRET in text]


async def test_a_secret_that_is_missing_fails_the_run_and_names_it(tmp_path: Path) -> None:
    text = "{secrets: [{name: TOKEN, env: OTHER}], steps: [{name: a, command: 'touch ran'}]}"
    done = await run_text(tmp_path, text, secrets=access(tmp_path))
    assert done.status == "failed"
    assert done.document["reason"] == (
        "secret TOKEN: the variable OTHER may not be read; add it to the setting secret_env"
    )
    assert not (tmp_path / "workspace/ran").exists()


async def test_secrets_are_read_again_when_a_run_is_taken_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path, secrets=access(tmp_path))
    await bench.queue(
        """
        secrets: [{name: TOKEN, file: token}]
        env: [URL: 'x-$TOKEN']
        steps:
          - {name: a, command: 'until test -e go; do sleep 0.02; done; echo "$URL"'}
          - {name: b, depends: a, command: 'echo "$URL" | tee b'}
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, Launched))
    await bench.leave()
    (tmp_path / "secrets/token").write_text("changed-since-then")
    bench.open()
    (tmp_path / "workspace/go").touch()
    done = await bench.complete()
    await bench.close()
    assert done.status == "succeeded"
    assert (tmp_path / "workspace/b").read_text() == "x-changed-since-then\n"
    assert done.tail("b") == "x-***"


async def test_a_secret_that_is_gone_when_a_run_is_taken_up_fails_what_comes(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, secrets=access(tmp_path))
    await bench.queue(
        """
        secrets: [{name: TOKEN, file: token}]
        steps:
          - {name: a, command: 'until test -e go; do sleep 0.02; done'}
          - {name: b, depends: a, command: 'true'}
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, Launched))
    await bench.leave()
    (tmp_path / "secrets/token").unlink()
    bench.open()
    (tmp_path / "workspace/go").touch()
    done = await bench.complete()
    await bench.close()
    assert done.step("a")["status"] == "succeeded"
    assert "secret TOKEN: the file" in done.step("b")["reason"]


async def test_stdout_is_replaced_by_the_first_attempt_and_whole_before_scrubbing(
    tmp_path: Path,
) -> None:
    (tmp_path / "workspace/d").mkdir(parents=True)
    (tmp_path / "workspace/d/out.txt").write_text("of the run before\n")
    done = await run_text(
        tmp_path,
        """
        params: [MY_TOKEN: hunter22]
        steps:
          - name: a
            dir: d
            stdout: out.txt
            stderr: '${MY_TOKEN}.err'
            retryPolicy: {limit: 1, intervalSec: 0}
            command: echo "$DAG_STEP_ATTEMPT $MY_TOKEN"; echo E >&2; test $DAG_STEP_ATTEMPT = 2
        """,
    )
    assert done.status == "succeeded"
    assert (tmp_path / "workspace/d/out.txt").read_text() == "1 hunter22\n2 hunter22\n"
    assert (tmp_path / "workspace/d/hunter22.err").read_text() == "E\nE\n"
    assert done.tail("a") == "2 ***\nE"


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("stdout: ../x", "stdout: ../x is not below the step's directory"),
        ("stdout: /tmp/x", "stdout: /tmp/x is not below the step's directory"),
        ("stderr: '${NOPE}'", 'stderr "${NOPE}" comes out empty: NOPE is not set'),
        ("stdout: '{{.NOPE}}.txt'", "still holds {{ ({{.NOPE}}.txt): NOPE is not set"),
        ("dir: '${NOPE}'", 'dir "${NOPE}" comes out empty: NOPE is not set'),
        ("dir: '{{ .NOPE }}'", "still holds {{"),
        ("dir: gone", "gone does not exist"),
    ],
)
async def test_a_path_that_cannot_be_fails_the_step_before_it_starts(
    tmp_path: Path, step: str, reason: str
) -> None:
    done = await run_text(tmp_path, f"steps: [{{name: a, command: touch ran, {step}}}]")
    assert reason in done.step("a")["reason"]
    assert not (tmp_path / "workspace/ran").exists()


async def test_a_run_whose_name_came_out_empty_is_no_run(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, run: '${NOPE}'}]")
    assert done.step("a")["reason"] == 'run "${NOPE}" comes out empty: NOPE is not set'


async def test_files_of_dotenv_are_values_of_steps(tmp_path: Path) -> None:
    pytest.importorskip("dotenv", reason="needs python-dotenv: make setup")
    (tmp_path / "workspace/conf").mkdir(parents=True)
    (tmp_path / "workspace/conf/.env").write_text("A=file\nB=file\nMY_PASSWORD='hunter22 $A'\n")
    (tmp_path / "workspace/conf/.env.prod").write_text("B=prod\n")
    done = await run_text(
        tmp_path,
        """
        params: [STAGE: prod]
        workingDir: conf
        env: [A: env]
        dotenv: [.env, '.env.${STAGE}', .env.gone]
        steps:
          - name: a
            command: |
              echo "$A $B"; test "$MY_PASSWORD" = 'hunter22 $A'; echo "$MY_PASSWORD"
        """,
    )
    assert done.tail("a") == "env prod\n***"


async def test_outputs_of_init_are_the_weakest_and_handlers_see_all(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        handlerOn:
          init: {command: 'echo "$DAG_RUN_STATUS"', output: FIRST}
          failure: {command: 'echo "$FIRST $MADE"', output: HANDLED}
          exit: {command: 'echo "$FIRST|$MADE|$HANDLED|$DAG_RUN_STATUS" > exit'}
        steps:
          - {name: a, command: 'echo "a $FIRST"', output: MADE}
          - {name: b, depends: a, command: 'echo mine', output: FIRST}
          - {name: c, depends: b, command: 'echo "$FIRST ${FIRST_FILE##*/}"; exit 1'}
        """,
    )
    assert done.tail("c") == "mine output-FIRST"
    text = (tmp_path / "workspace/exit").read_text()
    assert text == "mine|a running|mine a running|failed\n"


async def test_a_child_run_has_the_event_of_its_root(tmp_path: Path) -> None:
    await run_text(
        tmp_path,
        """
        steps: [{name: a, run: child}]
        ---
        name: child
        steps: [{name: s, command: 'cat "$EVENT_PAYLOAD_FILE" > event; echo $DAG_RUN_ATTEMPT'}]
        """.replace("\n        ---\n", "\n---\n"),
    )
    assert json.loads((tmp_path / "workspace/event").read_text())["type"] == "manual"


async def test_what_was_sent_to_a_workflow_is_its_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.queue("steps: [{name: a, command: 'cat $EVENT_PAYLOAD_FILE'}]")
    await bench.store.write(PutValues(RUN, (("run", "event", '{"release": {"tag": "v1"}}'),)))
    done = await bench.complete()
    await bench.close()
    assert done.tail("a") == '{"release": {"tag": "v1"}}'


async def test_the_stdout_of_a_run_step_is_the_json_of_its_run(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - {name: a, id: a, run: child, params: A=1, stdout: kid.json, stderr: kid.err}
          - {name: b, depends: a, command: 'cmp ${a.stdout} kid.json; cat ${a.stderr}'}
          - {name: c, id: c, run: nothing, continueOn: {failure: true}}
          - {name: d, depends: [a, c], command: 'echo ${a.exitCode} ${c.exitCode}'}
        ---
        name: child
        params: [A: '']
        steps: [{name: s, command: 'echo x; echo y >&2', output: OUT}]
        """.replace("\n        ---\n", "\n---\n"),
    )
    assert done.status == "partially_succeeded", done.document
    assert done.tail("d") == "0 1"
    found = json.loads((tmp_path / "workspace/kid.json").read_text())
    assert (found["outputs"], found["status"]) == ({"OUT": "x"}, "succeeded")
    assert (tmp_path / "workspace/kid.err").read_text() == ""


async def test_a_secret_in_a_reason_is_masked_and_a_short_one_is_said(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        secrets: [{name: TOKEN, file: token}, {name: PIN, command: echo 123}]
        steps:
          - {name: a, dir: 'x-$TOKEN', command: 'true'}
          - {name: b, command: ['no-${TOKEN}'], continueOn: {failure: true}}
          - {name: c, stdout: '../$TOKEN', command: 'true'}
          - {name: d, preconditions: [{condition: '$TOKEN', expected: x}], command: 'true'}
        """,
        secrets=access(tmp_path),
    )
    assert SECRET not in json.dumps(done.document)
    assert done.step("a")["reason"].endswith("workspace/x-*** does not exist")
    assert "../*** is not below" in done.step("c")["reason"]
    (log,) = done.files("log")
    assert log.read_text() == "too short to be masked: PIN\n"
