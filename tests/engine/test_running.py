"""Runs with real processes: values, output, signals, time limits, what is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from real_run import PATH, RUN, Bench, Done, run_text

from runner.engine import summary
from runner.engine.events import Event, Launched, StopRequested
from runner.engine.fold import apply
from runner.engine.history import History
from runner.engine.journal import Origin, head, records
from runner.engine.state import RunState
from runner.executors.command import wrapped


async def test_a_value_flows_from_output_to_a_json_path(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [{WHO: world}]
        steps:
          - {name: a, command: 'echo "{\\"n\\": 0.80, \\"who\\": \\"$WHO\\"}"', output: OUT}
          - {name: b, command: 'echo "${OUT.n} ${OUT.who}"', depends: a}
        """,
    )
    assert done.status == "succeeded"
    assert done.tail("b") == "0.80 world"


@pytest.mark.parametrize("value", ["$(touch pwned)", "`touch pwned`", "'; touch pwned; '", "$X"])
async def test_a_hostile_param_stays_inert(tmp_path: Path, value: str) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [{BRANCH: main}]
        steps:
          - {name: a, command: 'printf "%s" "$BRANCH" > out.txt'}
          - {name: b, command: [printf, "%s", "${BRANCH}"], depends: a}
        """,
        f"BRANCH={value}",
    )
    assert (tmp_path / "workspace/out.txt").read_text() == value
    assert done.tail("b") == value
    assert not (tmp_path / "workspace/pwned").exists()


async def test_a_hostile_branch_name_stays_inert(tmp_path: Path) -> None:
    ref = "refs/heads/$(touch${IFS}pwned)"
    done = await run_text(
        tmp_path,
        "steps: [{name: a, command: 'echo \"$GIT_BRANCH\" $GIT_REF'}]",
        origin=Origin(ref=ref, commit="c" * 40),
    )
    assert done.tail("a") == f"{ref.removeprefix('refs/heads/')} {ref}"
    assert not list(tmp_path.rglob("pwned"))


async def test_positional_params_are_real_shell_positionals(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path, "{params: a b, steps: [{name: s, command: 'echo \"$1|$2|$#\"'}]}", "x y"
    )
    assert done.tail("s") == "x y|b|2"


async def test_the_first_failing_command_of_a_text_ends_the_step(tmp_path: Path) -> None:
    done = await run_text(tmp_path, 'steps: [{name: a, command: "false\\necho on"}]')
    assert done.step("a")["exit_code"] == 1
    assert done.tail("a") == ""


async def test_a_script_honours_its_shebang_and_an_interpreter(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - name: shebang
            script: |
              #!/usr/bin/env python3
              print(2 + 3)
          - name: interpreter
            command: python3
            script: print("${HOME}")
          - name: shell
            script: |
              echo one; false
              echo two
        """,
    )
    assert done.tail("shebang") == "5"
    assert done.tail("interpreter") == "${HOME}"
    assert done.tail("shell") == "one"
    assert done.step("shell")["exit_code"] == 1


async def test_layers_of_values_override_as_documented(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [{P: param}, {G: param}]
        env: [{E: env}, {P: env}, {S: env}]
        type: chain
        steps:
          - {name: a, command: echo out, output: O}
          - name: b
            env: [{S: step}, {P: step}, {G: step}, {O: step}]
            command: echo $E $S $P $G $O
        """,
        "G=given",
    )
    assert done.tail("b") == "env step step given out"


async def test_backticks_run_once_when_the_run_starts(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        env: [{NOW: "`date +%s%N`"}]
        type: chain
        steps:
          - {name: a, command: echo $NOW}
          - {name: b, env: [{HERE: "`pwd`"}], command: echo $NOW $HERE}
        """,
    )
    now, _, here = done.tail("b").partition(" ")
    assert done.tail("a") == now
    assert here == str(tmp_path / "workspace")


async def test_an_undefined_path_fails_the_step_before_it_starts(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - {name: a, command: echo no json, output: OUT}
          - {name: b, command: 'echo ${OUT.x}'}
        """,
    )
    assert done.status == "failed"
    assert done.step("b")["exit_code"] is None
    assert "OUT" in done.step("b")["reason"]
    assert not any(isinstance(e, Launched) and e.step == "b" for e in done.events)


async def test_a_value_too_large_for_the_environment_is_a_file(tmp_path: Path) -> None:
    text = """
    type: chain
    steps:
      - {name: a, command: head -c 200000 /dev/zero | tr '\\0' x, output: BIG}
      - {name: b, command: 'wc -c < "$BIG_FILE"'}
      - {name: c, command: 'echo "$BIG"'}
    """
    done = await run_text(tmp_path, text)
    assert done.tail("b") == "200000"
    assert done.step("c")["reason"] == (
        "BIG is 195 KiB, more than an environment variable can hold; read the file $BIG_FILE"
    )


async def test_an_output_over_the_limit_fails_the_step_without_retry(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        maxOutputSize: 1000
        steps:
          - name: a
            command: head -c 2000 /dev/zero | tr '\\0' x
            output: OUT
            retryPolicy: {limit: 3, intervalSec: 0}
        """,
    )
    assert "maxOutputSize" in done.step("a")["reason"]
    assert done.step("a")["attempts"] == 1
    assert done.step("a")["log"]["bytes"] == 2000


async def test_a_file_of_outputs_passes_values_on(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - {name: a, command: 'printf "A=1\\nB=2\\n" >"$DAG_RUN_OUTPUT_FILE"'}
          - {name: b, command: 'echo {\\"C\\": [3], \\"D\\": 0.80} >"$DAG_RUN_OUTPUT_FILE"'}
          - {name: c, command: 'echo $A $B $C $D'}
        """,
    )
    assert done.tail("c") == "1 2 [3] 0.80"


async def test_secrets_never_reach_log_summary_or_events(tmp_path: Path) -> None:
    secret = "s3cr3t-value-of-mine"
    done = await run_text(
        tmp_path,
        """
        params: [{API_TOKEN: ""}]
        type: chain
        steps:
          - {name: a, command: 'echo "got $API_TOKEN"; echo "$API_TOKEN" | base64'}
          - {name: b, command: 'echo $API_TOKEN', output: COPY}
          - {name: c, command: 'test "$COPY" = "$API_TOKEN"; exit 7'}
        """,
        f"API_TOKEN={secret}",
    )
    assert done.tail("a").splitlines()[0] == "got ***"
    assert done.step("c")["exit_code"] == 7  # the step itself had the real value
    assert secret not in repr(done.events) + repr(done.document)
    with sqlite3.connect(tmp_path / "data/dagmill.sqlite") as database:
        rows = database.execute("SELECT data FROM events").fetchall()
    database.close()
    assert rows and secret not in repr(rows)
    logs = [p for name in ("out", "err") for p in done.files(name)]
    assert logs and not any(secret in p.read_text() for p in logs)


async def test_only_a_failed_step_shows_its_log_in_git(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        "steps: [{name: good, command: echo private}, {name: bad, command: 'echo why; exit 1'}]",
    )
    good, bad = summary.for_git(done.document)["steps"]
    assert (good["log"]["tail"], good["log"]["bytes"]) == ("", len("private\n"))
    assert bad["log"]["tail"] == "why"
    assert done.step("good")["log"]["tail"] == "private"


async def test_both_streams_are_one_log_in_the_order_written(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, command: 'echo 1; echo 2 >&2; echo 3'}]")
    assert done.tail("a") == "1\n2\n3"


async def test_output_takes_stdout_alone(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - {name: a, command: 'echo noise >&2; echo value', output: OUT}
          - {name: b, command: 'echo $OUT'}
        """,
    )
    assert done.tail("b") == "value"


async def test_death_by_a_signal_is_told_from_an_exit(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, command: 'kill -9 $$'}]")
    assert done.step("a")["signal"] == 9
    assert done.step("a")["reason"] == "killed by signal 9"


async def test_a_program_that_is_not_there_is_127(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, command: [no-such-program]}]")
    assert done.step("a")["exit_code"] == 127


async def test_a_directory_that_is_not_there_fails_the_step(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, dir: nowhere, command: 'true'}]")
    assert "nowhere does not exist" in done.step("a")["reason"]


async def test_a_timeout_ends_the_whole_group(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        "steps: [{name: a, timeoutSec: 0.3, command: 'echo $$ >pid; sleep 600 | sleep 600'}]",
    )
    assert done.step("a")["reason"] == "timed out after 0.3 s"
    assert group_is_empty(tmp_path)


async def test_a_step_that_ignores_term_is_killed(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        maxCleanUpTimeSec: 0.3
        steps:
          - {name: a, timeoutSec: 0.3, command: 'trap "" TERM; echo $$ >pid; sleep 600; sleep 600'}
        """,
    )
    assert done.step("a")["signal"] == 9
    assert group_is_empty(tmp_path)


async def test_a_step_can_clean_up_on_term(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        "steps: [{name: a, timeoutSec: 0.4, "
        "command: 'trap \"echo bye; exit 5\" TERM; sleep 600 & wait'}]",
    )
    assert done.tail("a") == "bye"
    assert done.step("a")["exit_code"] == 5


async def test_what_a_step_leaves_in_the_background_ends_with_the_run(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - {name: a, command: 'sleep 600 & echo $! >child'}
          - {name: b, command: 'kill -0 $(cat child) && echo alive'}
        """,
    )
    assert done.tail("b") == "alive"
    assert not is_alive(int((tmp_path / "workspace/child").read_text()))


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that init has yet to reap does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def group_is_empty(tmp_path: Path) -> bool:
    shell = int((tmp_path / "workspace/pid").read_text())
    return not is_alive(shell) and not _cmdlines()


def _cmdlines() -> Sequence[Path]:
    """The command lines of the live processes that steps of the run started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            environment = (path.parent / "environ").read_bytes()
        except OSError:
            continue
        alive = is_alive(int(path.parent.name))
        if f"DAG_RUN_ID={RUN}".encode() in environment and alive:
            found.append(path)
    return found


async def test_a_stop_from_another_process_is_noticed_and_nothing_is_lost(tmp_path: Path) -> None:
    """The store refuses the supervisor's next append; it reads again and goes on from there."""
    launched = asyncio.Event()

    def seen(_: RunState, new: Sequence[Event]) -> None:
        if any(isinstance(e, Launched) for e in new):
            launched.set()

    bench = Bench(tmp_path, seen=seen)
    try:
        await bench.queue(
            "{type: chain, steps: [{name: a, command: 'cat gate'}, {name: b, command: 'true'}]}"
        )
        os.mkfifo(bench.workspace / "gate")
        running = asyncio.create_task(bench.complete())
        await launched.wait()
        history = await History.read(bench.store, RUN)
        state = history.state()
        stop = StopRequested(state.queued.at, "another process") if state.queued else None
        assert stop is not None
        after = state.seq
        apply(state, stop)
        await bench.store.append(
            RUN, after=after, records=records(RUN, after, [stop]), head=head(RUN, state)
        )
        with (bench.workspace / "gate").open("w") as gate:
            gate.write("go")
        done = await running
    finally:
        await bench.close()
    assert done.status == "cancelled"
    assert done.step("a")["status"] == "succeeded"
    assert done.step("b")["status"] == "cancelled"


async def test_a_stop_ends_a_long_precondition(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    try:
        await bench.queue(
            "steps: [{name: a, command: 'true', preconditions: 'echo >begun; sleep 600'}]"
        )
        os.mkfifo(bench.workspace / "begun")
        running = asyncio.create_task(bench.complete())
        await asyncio.to_thread((bench.workspace / "begun").read_bytes)
        bench.engine.stop(RUN, "ada")
        done = await running
    finally:
        await bench.close()
    assert done.status == "cancelled"
    assert not _cmdlines()


async def test_no_more_processes_run_at_once_than_allowed(tmp_path: Path) -> None:
    steps = ", ".join(f"{{name: s{i}, command: 'sleep 0.02'}}" for i in range(12))
    most = 0

    def seen(state: RunState, _: Sequence[Event]) -> None:
        nonlocal most
        most = max(most, len(state.running))

    done = await run_text(tmp_path, f"{{type: graph, steps: [{steps}]}}", max_steps=3, seen=seen)
    assert done.status == "succeeded"
    assert most == 3


async def test_handlers_see_what_happened(tmp_path: Path) -> None:
    done: Done = await run_text(
        tmp_path,
        """
        steps: [{name: a, command: 'exit 4'}]
        handlerOn:
          failure:
            command: >
              echo "$DAG_RUN_STATUS/$DAG_RUN_FAILED_STEPS/$DAG_RUN_ERROR";
              python3 -c 'import json, sys;
              print(json.load(open(sys.argv[1]))["steps"][0]["exit_code"])'
              "$DAG_RUN_SUMMARY_FILE"
        """,
    )
    first, second = done.tail("handlerOn.failure").splitlines()
    assert first == 'failed/a/step "a" failed: exit code 4'
    assert second == "4"


async def test_steps_get_only_the_environment_that_they_are_given(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path, "steps: [{name: a, command: env}]", inherited={**PATH, "LANG": "C"}
    )
    names = {line.partition("=")[0] for line in done.files("out")[0].read_text().splitlines()}
    allowed = (
        "DAG_",
        "GIT_",
        "EVENT_",
        "PATH",
        "LANG",
        "DATE",
        "MONTH",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
    )
    assert not [n for n in names if not n.startswith(allowed)]


async def test_a_launch_folder_holds_the_facts_for_a_recovery(tmp_path: Path) -> None:
    done = await run_text(tmp_path, "steps: [{name: a, command: 'exit 3'}]")
    (folder,) = [p.parent for p in done.files("begin")]
    boot, pid, *_ = (folder / "begin").read_text().split()
    assert boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert pid.isdigit()
    assert (folder / "exit").read_text() == "3\n"
    launched = next(e for e in done.events if isinstance(e, Launched))
    assert launched.boot_id == boot
    assert folder.name == f"1.{launched.launch}"
    assert folder.parent.name == "1-a"


async def test_a_list_runs_programs_and_no_builtins_of_a_shell(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        type: chain
        steps:
          - {name: echo, command: [echo, 'a\\nb']}
          - {name: eval, command: [eval, 'echo evaluated'], continueOn: {failure: true}}
          - {name: exit, command: [exit, '0'], continueOn: {failure: true}}
        """,
    )
    assert done.tail("echo") == "a\\nb"
    assert [done.step(n)["exit_code"] for n in ("eval", "exit")] == [127, 127]


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        ("printf '{\"A\":'; head -c 200000 /dev/zero | tr '\\0' '['", "is not valid JSON"),
        ("printf '%0300d=1' 0 | tr 0 x", "is not a variable's name"),
        ("head -c 2000000 /dev/zero", "larger than maxOutputSize"),
    ],
)
async def test_a_file_of_outputs_that_cannot_be_read_fails_its_step(
    tmp_path: Path, write: str, reason: str
) -> None:
    done = await run_text(
        tmp_path,
        f"""
        steps:
          - name: a
            command: |
              {{ {write}; }} >$DAG_RUN_OUTPUT_FILE
        """,
    )
    assert done.status == "failed"
    assert reason in done.step("a")["reason"]


async def test_odd_things_in_a_file_of_outputs_do_not_hold_the_run(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        r"""
        type: chain
        steps:
          - name: half a character
            command: |
              echo '{"A": "\ud800x"}' | sed 's/^/ /' >$DAG_RUN_OUTPUT_FILE
            shell: bash
          - {name: pipe, command: mkfifo $DAG_RUN_OUTPUT_FILE}
          - name: lines
            command: |
              printf 'B=1\v2\r\nC=3' >$DAG_RUN_OUTPUT_FILE
          - {name: show, command: [printf, '%s', '$A|$B|$C']}
        """,
    )
    assert done.status == "succeeded", done.document
    assert done.tail("show") == "?x|1\v2|3"


async def test_one_letter_variables_reach_a_step_as_they_are(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [{b: one}, {s: two}, {r: three}]
        steps: [{name: a, command: 'echo $b $s $r'}]
        """,
    )
    assert done.tail("a") == "one two three"


def test_a_signal_before_the_step_has_begun_keeps_it_from_running(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    shell, option, text, *rest = wrapped(tmp_path, ("touch", str(marker)))
    text = text.replace("set -C;", "kill -TERM $$; set -C;", 1)
    done = subprocess.run([shell, option, text, *rest], check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert (tmp_path / "exit").read_text() == f"{done.returncode}\n"
    assert not marker.exists()


@pytest.mark.parametrize("forged", ['[[["../../../evil","x"]],"",false]', "[[]]", "{}", "garbage"])
async def test_a_forged_note_of_what_was_taken_from_a_log_means_nothing(
    tmp_path: Path, forged: str
) -> None:
    done = await run_text(
        tmp_path,
        f"""
        params: [{{A_PASSWORD: hunter2hunter2}}]
        steps:
          - name: a
            command: echo '{forged}' >$(dirname $DAG_RUN_OUTPUT_FILE)/taken; echo value
            output: OUT
          - {{name: b, command: 'echo "got $OUT"', depends: a}}
        """,
    )
    assert done.tail("b") == "got value"
    assert list(tmp_path.rglob("*evil*")) == []
