"""Local processes: each attempt is a process group of its own under a small wrapper.

The wrapper of shell builtins writes `begin` (boot id and its own start time; exclusive, so that
a launch can begin only once) and `exit` (the code) into the launch folder: the facts that a
restarted service needs. While this process lives, the wrapper's wait status is the outcome.
Output goes straight from the process to its log file; nothing is piped through here.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from signal import SIGKILL

from runner.executors import adoption, remains
from runner.executors.base import Earlier, Execution, Outcome, Task, Void, is_passing
from runner.executors.remains import LeftBehind

# A trap and not "" (ignored): an ignored signal would be inherited by the step, a trapped one is
# reset. A signal that comes before the step has begun is kept in DAGMILL__s and ends the attempt.
# Names that no workflow has: setting an exported variable would change it for the step as well.
# exec in a subshell: "$@" alone would run the shell's own echo, test, eval, exit …
# A full disk still takes a name where it takes no byte: then the code is in the name.
# The line of stat is kept whole: field 22 is the start time, `remains` picks it out.
WRAPPER = """\
DAGMILL__s=; trap DAGMILL__s=1 HUP; trap DAGMILL__s=2 INT; trap DAGMILL__s=3 QUIT
trap DAGMILL__s=15 TERM; trap DAGMILL__s=10 USR1; trap DAGMILL__s=12 USR2
set -C; read -r DAGMILL__b </proc/sys/kernel/random/boot_id; read -r DAGMILL__p </proc/$$/stat
{ echo "$DAGMILL__b $DAGMILL__p" >"$0/begin"; } 2>/dev/null || exit 125
set +C; if [ "$DAGMILL__s" ]; then DAGMILL__r=$((128+DAGMILL__s)); else
(exec "$@"); DAGMILL__r=$?; fi
{ echo $DAGMILL__r >"$0/exit" || : >"$0/exit.$DAGMILL__r"; } 2>/dev/null; exit $DAGMILL__r"""

# While it forks the step, the wrapper can still take a signal that was meant for the step.
_BEGINNING_S = 0.1
CANNOT_BEGIN = 125  # what the wrapper ends with where it cannot write its first file


def wrapped(folder: Path, argv: tuple[str, ...]) -> list[str]:
    """The command line that runs `argv` under the wrapper."""
    return ["/bin/sh", "-c", WRAPPER, str(folder), *argv]


class CommandExecutor:
    """Starts processes with Popen and waits for them by pidfd on the running loop."""

    def __init__(self, *, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._left: dict[str, list[LeftBehind]] = {}

    def start(self, task: Task, done: Callable[[Outcome], None]) -> Execution:
        loop = asyncio.get_running_loop()
        try:
            process = _spawn(task)
        except (OSError, ValueError) as error:
            outcome = Outcome(
                self._clock(), error=f"could not be started: {error}", refused=is_passing(error)
            )
            return _Nothing(loop.call_soon(done, outcome))
        return _Process(process, task=task, done=done, executor=self, loop=loop)

    def now(self) -> datetime:
        return self._clock()

    async def resume(
        self, earlier: Earlier, done: Callable[[Outcome], None]
    ) -> Execution | Outcome | Void:
        def note(group: int) -> None:
            self.note_left_behind(earlier.run, group, of=earlier.folder)

        return await adoption.resume(earlier, done, clock=self._clock, ended=note)

    def recall(self, earlier: Earlier) -> None:
        begin = adoption.read_begin(earlier.folder) if earlier.same_boot else None
        if begin is not None and begin.pid:
            self.note_left_behind(earlier.run, begin.pid, of=earlier.folder)

    def note_left_behind(self, run: str, group: int, *, of: Path | None = None) -> None:
        """Remember who is left of a group whose main process has ended, if anyone is. `of`: the
        launch's folder, where the group's number may be somebody else's by now."""
        if remains.group_exists(group):
            members = remains.group_members(group)
            if of is None or remains.belong_to(members, of):
                self._left.setdefault(run, []).append(LeftBehind(group, members))

    def has_left_behind(self, run: str) -> bool:
        return run in self._left

    async def end_left_behind(self, run: str, *, grace_s: float) -> None:
        await asyncio.gather(*(left.end(grace_s=grace_s) for left in self._left.pop(run, [])))


def _spawn(task: Task) -> subprocess.Popen[bytes]:
    out = os.open(task.folder / "out", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    err = out
    try:
        if task.separate_streams:
            err = os.open(
                task.folder / "err", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        return subprocess.Popen(
            wrapped(task.folder, task.argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=task.cwd,
            env=task.env,
            start_new_session=True,
        )
    finally:
        os.close(out)
        if err != out:
            os.close(err)


class _Nothing:
    """It never began."""

    def __init__(self, told: asyncio.Handle) -> None:
        self._told = told

    def send(self, signal: int) -> None:
        """There is nobody."""

    def leave(self) -> None:
        self._told.cancel()


class _Process:
    """One running wrapper; its process group's id is its pid."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        *,
        task: Task,
        done: Callable[[Outcome], None],
        executor: CommandExecutor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._process = process
        self._task = task
        self._done = done
        self._executor = executor
        self._loop = loop
        self._begun_at = loop.time()
        self._pidfd = os.pidfd_open(process.pid)
        loop.add_reader(self._pidfd, self._ended)

    def send(self, signal: int) -> None:
        early_s = self._begun_at + _BEGINNING_S - self._loop.time()
        if early_s > 0 and signal != SIGKILL:
            self._loop.call_later(early_s, self._send, signal)
        else:
            self._send(signal)

    def _send(self, signal: int) -> None:
        # To the group, not the child: sh -c "a | b" leaves b alive otherwise. The pid cannot be
        # another's: it is reaped only in _ended, which sets the return code.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal)

    def leave(self) -> None:
        if self._process.returncode is None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._process.returncode = 0  # else Popen warns of a child that is still there

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        code = self._process.wait()
        self._executor.note_left_behind(self._task.run, self._process.pid)
        self._done(_outcome(code, at=self._executor.now(), folder=self._task.folder))


def _outcome(code: int, *, at: datetime, folder: Path) -> Outcome:
    if code < 0:
        return Outcome(at, signal=-code)
    if code == CANNOT_BEGIN and adoption.read_begin(folder) is None:
        why = "the folder or its disk takes no files"
        error = f"could not begin: {folder}/begin cannot be written; {why}"
        return Outcome(at, error=error, refused=folder.is_dir())
    return adoption.exited(code, at=at)
