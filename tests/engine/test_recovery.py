"""Runs that an earlier process left: what still runs, what ended, never began or is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import Mock

import pytest
from real_run import RUN, Bench, Done

from runner.engine import engine
from runner.engine.attempts import Attempts
from runner.engine.events import (
    Ended,
    Launched,
    LaunchVoided,
    PreparationStarted,
    Settled,
    StopSent,
)
from runner.executors import adoption, remains
from runner.executors.command import wrapped
from storage.records import EventRecord
from storage.store import StorageError

Kind = TypeVar("Kind")

SLOW = """
steps:
  - name: a
    command: "echo one; touch begun; while [ ! -e go ]; do sleep 0.05; done; echo two; exit $CODE"
    output: OUT
    env: {CODE: "0"}
  - {name: b, command: 'echo "$OUT"', depends: a}
"""


class Unspawned:
    """An execution of a process that was never started."""

    def send(self, signal: int) -> None: ...

    def leave(self) -> None: ...


def events_of(done: Done, kind: type[Kind]) -> list[Kind]:
    return [e for e in done.events if isinstance(e, kind)]


def ends_of(done: Done, step: str) -> list[Ended]:
    return [e for e in done.events if isinstance(e, Ended) and e.step == step]


async def so(holds: Callable[[], object]) -> None:
    """Wait until it is so: files and foreign processes have no event to wait for."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def file(path: Path) -> None:
    await so(path.exists)


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def folder_of(bench: Bench, attempt: int = 1) -> Path:
    """The launch folder of the first step's attempt."""
    (found,) = (bench.folder / "runs").rglob(f"1-a/{attempt}.*")
    return found


def wrapper_of(bench: Bench) -> int:
    begin = adoption.read_begin(folder_of(bench))
    assert begin is not None
    return begin.pid


async def launched_only(bench: Bench, text: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Store the first launch and die before its process is spawned; its folder."""
    executor = bench.engine._parts.executors["command"]
    monkeypatch.setattr(executor, "start", lambda task, done: Unspawned())
    await bench.queue(text)
    bench.begin()
    await bench.until(lambda e: isinstance(e, Launched))
    await bench.restart()
    return folder_of(bench)


def another_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the next start on the machine has been restarted, as far as we can tell."""
    fake = tmp_path / "boot_id"
    fake.write_text("00000000-0000-0000-0000-000000000000\n")
    monkeypatch.setattr(engine, "BOOT_ID", fake)


async def gone(pid: int) -> None:
    """Wait until the process is over (a zombie is)."""
    await so(lambda: _status(pid) in (None, "Z"))


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process group that has nothing to do with any launch."""
    with subprocess.Popen(["sleep", "100"], start_new_session=True) as other:
        yield other
        assert other.poll() is None
        other.kill()


def _status(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


async def begun(bench: Bench, text: str, *, mark: str = "begun") -> None:
    """Start the run and wait until its step has made the file `mark`."""
    await bench.queue(text)
    bench.begin()
    await file(bench.workspace / mark)


async def test_a_step_that_still_runs_is_taken_up_and_its_end_is_its_own(bench: Bench) -> None:
    await begun(bench, SLOW.replace('CODE: "0"', 'CODE: "3"'))
    await bench.restart()
    bench.begin()
    (bench.workspace / "go").touch()
    await bench.until(lambda e: isinstance(e, Settled))
    await bench.restart()
    done = await bench.complete()
    assert [e.exit_code for e in ends_of(done, "a")] == [3]
    assert done.tail("a") == "one\ntwo"
    assert len(events_of(done, Launched)) == 1
    await bench.close()


async def test_a_step_that_ended_meanwhile_passes_its_output_on(bench: Bench) -> None:
    await begun(bench, SLOW)
    await bench.leave()
    (bench.workspace / "go").touch()
    (folder,) = (bench.folder / "runs").rglob("1.*")
    await file(folder / "exit")
    bench.open()
    done = await bench.complete()
    assert done.status == "succeeded"
    assert done.tail("b") == "one\ntwo"
    assert ends_of(done, "a")[0].at.timestamp() == pytest.approx(
        (folder / "exit").stat().st_mtime, abs=0.001
    )
    await bench.close()


# What never began


@pytest.mark.parametrize("with_folder", [True, False])
async def test_a_launch_that_never_began_is_void_and_made_again_as_the_same_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, with_folder: bool
) -> None:
    text = "steps: [{name: a, command: 'echo x >>effects'}]"
    folder = await launched_only(bench, text, monkeypatch)
    if not with_folder:
        shutil.rmtree(folder)
    done = await bench.complete()
    assert done.status == "succeeded"
    assert [e.launch for e in events_of(done, LaunchVoided)] == [folder.name.partition(".")[2]]
    assert done.step("a")["attempts"] == 1
    assert (bench.workspace / "effects").read_text() == "x\n"
    await bench.close()


async def test_a_void_launch_cannot_begin_any_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await launched_only(bench, "steps: [{name: a, command: 'true'}]", monkeypatch)
    await bench.complete()
    command = wrapped(folder, ("touch", str(bench.workspace / "late")))
    late = await asyncio.to_thread(subprocess.run, command, check=False)
    assert late.returncode == 125
    assert not (bench.workspace / "late").exists()
    await bench.close()


async def test_a_crash_after_a_launch_was_made_void_makes_it_void_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await launched_only(bench, "steps: [{name: a, command: 'true'}]", monkeypatch)
    (folder / "begin").symlink_to("void")
    done = await bench.complete()
    assert done.status == "succeeded"
    assert len(events_of(done, LaunchVoided)) == 1
    await bench.close()


async def test_a_void_launch_of_a_retry_uses_up_no_attempt(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.queue(
        """
        steps:
          - name: a
            command: echo $DAG_STEP_ATTEMPT >>attempts; test -e good
            retryPolicy: {limit: 1, intervalSec: 0.3}
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, Ended))
    executor = bench.engine._parts.executors["command"]
    monkeypatch.setattr(executor, "start", lambda task, done: Unspawned())
    await bench.until(lambda e: isinstance(e, Launched) and e.attempt == 2)
    await bench.restart()
    (bench.workspace / "good").touch()
    done = await bench.complete()
    assert done.status == "succeeded"
    assert [e.attempt for e in events_of(done, Launched)] == [1, 2, 2]
    assert (bench.workspace / "attempts").read_text() == "1\n2\n"
    await bench.close()


# What is lost


async def test_a_begin_that_is_not_whole_means_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adoption, "BEGIN_WRITTEN_S", 0.1)
    folder = await launched_only(bench, "steps: [{name: a, command: 'true'}]", monkeypatch)
    (folder / "begin").write_text("1234-5678 99 (sh) S 1")
    done = await bench.complete()
    assert done.status == "failed"
    assert done.step("a")["reason"] == adoption.UNKNOWN_BEGIN
    assert done.step("a")["lost"] is True
    await bench.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_after_a_restart_of_the_machine_only_the_exit_file_tells(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ended: bool
) -> None:
    await begun(bench, SLOW.replace('CODE: "0"', 'CODE: "7"'))
    await bench.leave()
    wrapper = wrapper_of(bench)
    if ended:
        (bench.workspace / "go").touch()
        await file(folder_of(bench) / "exit")
    else:
        os.killpg(wrapper, signal.SIGKILL)
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    step = done.step("a")
    assert (step["exit_code"], step["lost"]) == ((7, False) if ended else (None, True))
    assert step["reason"] == ("exit code 7" if ended else adoption.REBOOTED)
    assert done.step("b")["status"] == "cancelled"
    await bench.close()


async def test_a_wrapper_that_was_killed_meanwhile_is_lost_and_its_remains_are_ended(
    bench: Bench,
) -> None:
    await begun(bench, "steps: [{name: a, command: 'echo $$ >begun; sleep 100'}]")
    await bench.leave()
    os.kill(wrapper_of(bench), signal.SIGKILL)
    await gone(wrapper_of(bench))
    child = int((bench.workspace / "begun").read_text())
    assert _status(child) not in (None, "Z")
    bench.open()
    done = await bench.complete()
    assert done.step("a")["reason"] == adoption.DISAPPEARED
    await gone(child)
    await bench.close()


async def test_a_wrapper_that_is_killed_after_it_was_taken_up_is_lost_too(bench: Bench) -> None:
    await begun(bench, SLOW)
    await bench.restart()
    bench.begin()
    await so(lambda: bench.engine.running_steps)
    os.killpg(wrapper_of(bench), signal.SIGKILL)
    ended = await bench.until(lambda e: isinstance(e, Ended))
    assert isinstance(ended, Ended)
    assert (ended.lost, ended.reason) == (True, adoption.DISAPPEARED)
    await bench.leave()


async def test_on_loss_retry_runs_it_again_and_uses_up_no_retry(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await begun(
        bench,
        """
        onLoss: retry
        steps:
          - name: a
            command: |
              echo $DAG_STEP_ATTEMPT >>begun
              test $DAG_STEP_ATTEMPT = 1 && sleep 100
              test $DAG_STEP_ATTEMPT = 3
            retryPolicy: {limit: 1, intervalSec: 0}
        """,
    )
    await bench.leave()
    os.killpg(wrapper_of(bench), signal.SIGKILL)
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    assert done.status == "succeeded"
    assert [(e.attempt, e.lost, e.exit_code) for e in ends_of(done, "a")] == [
        (1, True, None),
        (2, False, 1),
        (3, False, 0),
    ]
    await bench.close()


async def test_a_launch_that_was_lost_before_it_had_a_folder_is_followed_by_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = "steps: [{name: a, command: 'echo x >>effects', onLoss: retry}]"
    folder = await launched_only(bench, text, monkeypatch)
    shutil.rmtree(folder.parent)
    await bench.leave()
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    assert (done.status, done.step("a")["attempts"]) == ("succeeded", 2)
    await bench.close()


async def test_a_retry_policy_does_not_run_a_lost_step_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await begun(
        bench,
        """
        steps:
          - name: a
            command: touch begun; sleep 100
            retryPolicy: {limit: 5, intervalSec: 0}
        handlerOn: {failure: {command: 'echo "$DAG_RUN_FAILED_STEPS" >told'}}
        """,
    )
    await bench.leave()
    os.killpg(wrapper_of(bench), signal.SIGKILL)
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    assert done.status == "failed"
    assert len(ends_of(done, "a")) == 1
    assert (bench.workspace / "told").read_text() == "a\n"
    await bench.close()


async def test_a_pid_that_is_somebody_elses_by_now_is_left_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await launched_only(bench, "steps: [{name: a, command: 'true'}]", monkeypatch)
    with stranger() as other:
        stat = Path(f"/proc/{other.pid}/stat").read_text().split()
        stat[21] = str(int(stat[21]) - 1)
        (folder / "begin").write_text(f"boot {' '.join(stat)}\n")
        done = await bench.complete()
        assert done.step("a")["reason"] == adoption.DISAPPEARED
    await bench.close()


@pytest.mark.parametrize(
    "spoil",
    [
        "mkfifo $F/exit",
        "ln -s /dev/zero $F/exit",
        "mkdir $F/exit",
        "head -c 10000 /dev/zero >$F/exit",
        "echo 0 >$F/x; ln -s x $F/exit",
    ],
)
async def test_what_a_step_makes_of_its_own_files_holds_nobody_up(
    bench: Bench, spoil: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await begun(
        bench,
        f"""
        steps:
          - name: a
            command: |
              F=$(dirname $DAG_RUN_STEP_STDOUT_FILE); {spoil}
              touch begun; sleep 100
        """,
    )
    await bench.leave()
    os.killpg(wrapper_of(bench), signal.SIGKILL)
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    assert done.step("a")["reason"] == adoption.REBOOTED
    await bench.close()


# Stops, time limits, waits


async def test_a_stop_that_was_recorded_and_not_sent_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(
        bench,
        'steps: [{name: a, command: \'trap "echo told; exit 5" TERM; '
        "touch begun; while :; do sleep 0.05; done'}]",
    )
    for process in bench.engine._lives[RUN].supervisor._executions.values():
        monkeypatch.setattr(type(process), "send", lambda self, number: None)
    bench.engine.stop(RUN, "ada")
    await bench.until(lambda e: isinstance(e, StopSent))
    await bench.leave()
    monkeypatch.undo()
    bench.open()
    done = await bench.complete()
    assert done.status == "cancelled"
    assert done.tail("a").endswith("told")
    await bench.close()


async def test_a_kill_that_was_recorded_explains_a_process_that_is_gone(bench: Bench) -> None:
    await begun(
        bench, "maxCleanUpTimeSec: 100\nsteps: [{name: a, command: 'touch begun; sleep 100'}]"
    )
    bench.engine.stop(RUN, "ada")
    bench.engine.stop(RUN, "ada")
    await bench.until(lambda e: isinstance(e, StopSent) and e.signal == signal.SIGKILL)
    await bench.leave()
    await gone(wrapper_of(bench))
    bench.open()
    done = await bench.complete()
    assert (done.status, done.step("a")["status"]) == ("cancelled", "cancelled")
    assert (done.step("a")["lost"], done.step("a")["signal"]) == (False, signal.SIGKILL)
    await bench.close()


async def test_a_time_limit_that_passes_meanwhile_stops_the_step_at_the_start(
    bench: Bench,
) -> None:
    await begun(
        bench,
        "steps: [{name: a, command: 'touch begun; sleep 100', timeoutSec: 0.5}]",
    )
    await bench.leave()
    await asyncio.sleep(0.6)  # the limit is what is tested
    bench.open()
    done = await bench.complete()
    assert done.step("a")["reason"] == "timed out after 0.5 s"
    await bench.close()


async def test_what_ended_in_time_is_not_timed_out_by_a_later_start(bench: Bench) -> None:
    await begun(
        bench,
        """
        timeoutSec: 2
        steps: [{name: a, command: 'touch begun; sleep 0.3', timeoutSec: 1}]
        """,
    )
    await bench.leave()
    await file(folder_of(bench) / "exit")
    await asyncio.sleep(2)  # both limits are what is tested
    bench.open()
    done = await bench.complete()
    assert (done.status, done.step("a")["status"]) == ("succeeded", "succeeded")
    await bench.close()


async def test_a_wait_for_a_retry_goes_on_where_it_was(bench: Bench) -> None:
    await bench.queue(
        """
        steps:
          - name: a
            command: test $DAG_STEP_ATTEMPT = 2
            retryPolicy: {limit: 1, intervalSec: 1}
        """
    )
    bench.begin()
    first = await bench.until(lambda e: isinstance(e, Ended))
    await bench.restart()
    done = await bench.complete()
    assert done.status == "succeeded"
    second = events_of(done, Launched)[1]
    assert (second.at - first.at).total_seconds() >= 1
    await bench.close()


# Handlers, preparations, what is left behind


async def test_a_handler_that_runs_is_taken_up_and_the_outcome_stays(bench: Bench) -> None:
    await begun(
        bench,
        """
        steps: [{name: a, command: exit 4}]
        handlerOn:
          failure: {command: 'touch begun; while [ ! -e go ]; do sleep 0.05; done'}
          exit: {command: 'echo bye >>exits'}
        """,
    )
    await bench.restart()
    bench.begin()
    (bench.workspace / "go").touch()
    done = await bench.complete_begun()
    assert (done.status, done.document["reason"]) == ("failed", 'step "a" failed: exit code 4')
    assert (bench.workspace / "exits").read_text() == "bye\n"
    assert len(events_of(done, Settled)) == 1
    await bench.close()


async def test_a_precondition_under_way_is_ended_and_judged_again(bench: Bench) -> None:
    await bench.queue(
        """
        steps:
          - name: a
            command: echo ran
            preconditions:
              - condition: "echo $$ >>begun; while [ ! -e go ]; do sleep 0.05; done; true"
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, PreparationStarted) and e.step == "a")
    await file(bench.workspace / "begun")
    supervisor = bench.engine._lives[RUN].supervisor
    supervisor._preparations.clear()  # as a crash: nobody ends what is under way
    await bench.restart()
    first = int((bench.workspace / "begun").read_text().split()[0])
    assert _status(first) not in (None, "Z")
    bench.begin()
    await gone(first)
    (bench.workspace / "go").touch()
    done = await bench.complete_begun()
    assert done.status == "succeeded"
    assert done.tail("a") == "ran"
    await bench.close()


async def test_what_an_ended_step_left_running_is_ended_with_the_run_after_a_restart(
    bench: Bench,
) -> None:
    await begun(
        bench,
        """
        type: chain
        maxCleanUpTimeSec: 1
        steps:
          - {name: a, command: 'sleep 100 & echo $! >child'}
          - {name: b, command: 'touch begun; while [ ! -e go ]; do sleep 0.05; done'}
        """,
    )
    child = int((bench.workspace / "child").read_text())
    await bench.restart()
    assert _status(child) not in (None, "Z")
    bench.begin()
    (bench.workspace / "go").touch()
    done = await bench.complete_begun()
    assert done.status == "succeeded"
    await gone(child)
    await bench.close()


async def test_steps_ended_with_the_service_are_lost_and_their_run_goes_on_later(
    bench: Bench,
) -> None:
    await begun(
        bench,
        """
        steps:
          - name: a
            command: touch begun; test $DAG_STEP_ATTEMPT = 2 || sleep 100
            onLoss: retry
          - {name: b, command: 'echo b', depends: a}
        """,
    )
    bench.engine.close()
    await bench.engine.end_steps(timeout_s=10)
    ended = await bench.until(lambda e: isinstance(e, Ended))
    assert isinstance(ended, Ended)
    assert (ended.lost, ended.reason) == (True, "lost: stopped with the service")
    await bench.restart()
    done = await bench.complete()
    assert done.status == "succeeded"
    assert done.step("a")["attempts"] == 2
    await bench.close()


def test_a_group_without_a_trace_of_the_launch_is_not_signalled(tmp_path: Path) -> None:
    with stranger() as other:
        remains.kill(other.pid, of=tmp_path)


# What a scrubbed log, a lost file or a step's mischief must not spoil


@pytest.mark.parametrize("step", ["a", "t"])
async def test_an_output_is_what_was_printed_though_its_log_was_scrubbed_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await bench.queue(
        """
        params: [{DB_PASSWORD: hunter2hunter2}]
        steps:
          - {name: a, command: 'echo "db://u:$DB_PASSWORD@h"', output: URL}
          - {name: t, command: 'echo s3cr3t-t0ken', output: API_TOKEN, depends: a}
          - {name: b, command: 'printf "%s %s" "$URL" "$API_TOKEN" >got', depends: t}
        """
    )
    append = bench.store.append
    refused = asyncio.Event()

    async def refusing(run: str, *, records: Sequence[EventRecord], **more: Any) -> None:
        if any(r.type == "Ended" and f'"step":"{step}"' in r.data for r in records):
            refused.set()
            raise StorageError("the disk is full")
        await append(run, records=records, **more)

    monkeypatch.setattr(bench.store, "append", refusing)
    bench.begin()
    async with asyncio.timeout(20):
        await refused.wait()
    await bench.restart()
    done = await bench.complete()
    assert done.status == "succeeded"
    assert (bench.workspace / "got").read_text() == "db://u:hunter2hunter2@h s3cr3t-t0ken"
    assert done.tail("a") == "db://u:***@h"
    assert done.tail("t") == "***"
    await bench.close()


@pytest.mark.parametrize("damage", ["folder", "artifacts"])
async def test_files_that_are_gone_after_a_power_cut_are_made_again_or_done_without(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str
) -> None:
    await bench.queue(
        """
        steps:
          - {name: a, command: 'echo value', output: OUT}
          - name: b
            command: test -e good && cat "$OUT_FILE"
            depends: a
            retryPolicy: {limit: 1, intervalSec: 1}
        """
    )
    bench.begin()
    await bench.until(lambda e: isinstance(e, Ended) and e.step == "b")
    await bench.leave()
    if damage == "folder":
        shutil.rmtree(folder_of(bench))
    else:
        (artifacts,) = (bench.folder / "runs").rglob("artifacts")
        artifacts.rmdir()
        artifacts.touch()
    (bench.workspace / "good").touch()
    another_boot(monkeypatch, tmp_path)
    bench.open()
    done = await bench.complete()
    assert (done.status, done.tail("b")) == ("succeeded", "value")
    await bench.close()


async def test_a_launch_folder_that_became_a_file_means_lost(bench: Bench) -> None:
    await begun(bench, "steps: [{name: a, command: 'touch begun; sleep 100'}]")
    await bench.leave()
    os.killpg(wrapper_of(bench), signal.SIGKILL)
    folder = folder_of(bench)
    shutil.rmtree(folder)
    folder.touch()
    bench.open()
    done = await bench.complete()
    assert done.status == "failed"
    assert done.step("a")["lost"] is True
    await bench.close()


@pytest.mark.parametrize("pid", ["-1", "0", "1", str(10**20)])
async def test_a_pid_that_cannot_be_is_no_whole_begin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, pid: str
) -> None:
    monkeypatch.setattr(adoption, "BEGIN_WRITTEN_S", 0.1)
    folder = await launched_only(bench, "steps: [{name: a, command: 'true'}]", monkeypatch)
    (folder / "begin").write_text(f"boot {pid} (sh) {'S ' * 30}\n")
    done = await bench.complete()
    assert done.step("a")["lost"] is True
    await bench.close()


@pytest.mark.parametrize("trick", ["rm $F/begin", "rm -r $F", "rm $F/begin; ln -s x $F/begin"])
async def test_a_step_that_takes_its_begin_away_is_ended_and_not_run_beside_itself(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, trick: str
) -> None:
    monkeypatch.setattr(adoption, "BEGIN_WRITTEN_S", 0.2)
    await begun(
        bench,
        f"""
        steps:
          - name: a
            command: |
              F=$(dirname $DAG_RUN_STEP_STDOUT_FILE)
              echo $$ >>effects; {trick}
              touch begun; sleep 100
        """,
    )
    await bench.restart()
    done = await bench.complete()
    assert done.step("a")["lost"] is True
    (pid,) = (bench.workspace / "effects").read_text().split()
    await gone(int(pid))
    await bench.close()


async def test_pipes_in_the_place_of_our_files_hold_nobody_up(bench: Bench) -> None:
    await bench.queue(
        """
        type: chain
        steps:
          - name: a
            command: |
              F=$(dirname $DAG_RUN_OUTPUT_FILE); mkfifo $F/output-OUT
              mkfifo $(dirname $DAG_RUN_LOG_FILE)/summary.json
              echo value
            output: OUT
          - name: b
            command: rm $DAG_RUN_STEP_STDOUT_FILE; mkfifo $DAG_RUN_STEP_STDOUT_FILE; exit 3
            continueOn: {output: nothing, exitCode: 3}
        handlerOn: {exit: {command: 'cat "$OUT_FILE" "$DAG_RUN_SUMMARY_FILE"'}}
        """
    )
    done = await bench.complete()
    assert done.status == "partially_succeeded"
    assert "value" in done.tail("handlerOn.exit")
    await bench.close()


async def test_secrets_stay_hidden_while_a_run_waits_to_be_taken_up_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begun(
        bench,
        """
        params: [{DB_PASSWORD: hunter2hunter2}]
        steps: [{name: a, command: 'touch begun; while [ ! -e go ]; do sleep 0.05; done'}]
        """,
    )
    await bench.restart()
    monkeypatch.setattr(Attempts, "recall", Mock(side_effect=[RuntimeError("a bug"), None]))
    life = asyncio.create_task(bench.engine.run_forever())
    bench.engine.supervise(RUN)
    await so(lambda: bench.engine.mask_of(RUN).text("hunter2hunter2") == "***")
    assert bench.engine.supervised == frozenset()
    (bench.workspace / "go").touch()
    await bench.until(lambda e: isinstance(e, Settled))
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    assert (await bench.done(RUN)).state.steps[0].exit_code == 0
    await bench.close()


async def test_a_run_that_is_given_up_leaves_no_process(bench: Bench, tmp_path: Path) -> None:
    await begun(bench, "steps: [{name: a, command: 'echo $$ >begun; sleep 100'}]")
    await bench.leave()
    with sqlite3.connect(tmp_path / "data/dagmill.sqlite") as database:
        database.execute("UPDATE sources SET text = 'stepz: []'")
    database.close()
    bench.open()
    life = asyncio.create_task(bench.engine.run_forever())
    bench.engine.supervise(RUN)
    await gone(int((bench.workspace / "begun").read_text()))
    news = asyncio.Event()
    bench.store.listen(f"run:{RUN}", news.set)
    row = await bench.store.run(RUN)
    if row is None or row.status != "failed":
        await news.wait()
    life.cancel()
    await asyncio.gather(life, return_exceptions=True)
    row = await bench.store.run(RUN)
    assert row is not None
    assert row.status == "failed"
    assert "can no longer be read" in row.reason
    await bench.close()
