"""What became of a process that an earlier process of ours launched.

Reads the wrapper's two files: `begin` (boot id, and the wrapper's own line of /proc/PID/stat) and
`exit` (the code). Its rule: a launch without `begin` is made unable to begin by taking that name
ourselves; only then may it be launched again.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from runner.executors import remains
from runner.executors.base import Earlier, Execution, Outcome, Void
from storage import logs

BEGIN_WRITTEN_S = 2.0  # between making `begin` and filling it the wrapper needs microseconds
_LOOK_S = 0.02
_VOID = "void"
_LARGEST_SIGNAL = 31  # real-time ones kill nobody; 173 is what the system makes of exit 429
_MOST_BYTES = 4096
_BEYOND_PIDS = 2**22  # what Linux allows

REBOOTED = "lost: the machine was restarted under it"
DISAPPEARED = "lost: its process disappeared and left no exit code"
UNKNOWN_BEGIN = "lost: it is not known whether it began, its first file is not whole"
UNFENCED = "lost: its first file was gone while it ran"


class Begin(NamedTuple):
    """Who began: the wrapper's pid and start time; pid 0 for a launch that was made void."""

    pid: int
    started: str


def read_begin(folder: Path) -> Begin | None:
    """None if the file is missing or not whole."""
    file = folder / "begin"
    try:
        if file.is_symlink():
            return Begin(0, "") if str(file.readlink()) == _VOID else None
        text = _read(file)
        line, end, _ = text.partition("\n")
        fields = line.rpartition(")")[2].split()
        pid = int(line.split()[1])
        return Begin(pid, fields[19]) if end and 0 < pid < _BEYOND_PIDS else None
    except (OSError, ValueError, IndexError):
        return None


def _read(file: Path) -> str:
    """A file that a step may have made anything of, a pipe as well; "" if there is none."""
    return logs.read_range(file, offset=0, limit=_MOST_BYTES).decode(errors="replace")


async def resume(
    earlier: Earlier,
    done: Callable[[Outcome], None],
    *,
    clock: Callable[[], datetime],
    ended: Callable[[int], None],
) -> Execution | Outcome | Void:
    """See `Executor.resume`. `ended(group)` is called when the main process of a group is found
    to have ended. Raises OSError if `begin` cannot be made (a full disk)."""
    if not earlier.same_boot:
        found = _read_exit(earlier.folder, now=clock())
        return found or Outcome(clock(), error=REBOOTED, lost=True)
    begin = Begin(0, "") if _make_void(earlier.folder) else await _whole_begin(earlier.folder)
    if begin is None:
        await _nobody_left(earlier.folder)
        return Outcome(clock(), error=UNKNOWN_BEGIN, lost=True)
    if begin.pid == 0:
        if await _nobody_left(earlier.folder):
            return Void()
        return Outcome(clock(), error=UNFENCED, lost=True)
    if (pidfd := _pidfd_of(begin)) is not None:
        return _Adopted(pidfd, begin.pid, earlier, done, clock=clock, ended=ended)
    ended(begin.pid)
    return _gone(earlier, begin.pid, killed=earlier.killed, now=clock())


def _make_void(folder: Path) -> bool:
    """Write `begin` in the wrapper's place; False if it is there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A link to nowhere: there is no half of it, and it needs no room for what it says.
        (folder / "begin").symlink_to(_VOID)
    except FileExistsError:
        return False
    return True


async def _nobody_left(folder: Path) -> bool:
    """Whether nobody runs whom the launch started, as a step may have taken its `begin` away. A
    wrapper on its way has the time to find that it may not begin; who stays longer is ended."""
    mark = remains.mark_of(folder)
    ends = asyncio.get_running_loop().time() + BEGIN_WRITTEN_S
    while await asyncio.to_thread(remains.marked, mark):
        if asyncio.get_running_loop().time() > ends:
            await asyncio.to_thread(remains.kill_marked, mark)
            return False
        await asyncio.sleep(_LOOK_S)
    return True


async def _whole_begin(folder: Path) -> Begin | None:
    ends = asyncio.get_running_loop().time() + BEGIN_WRITTEN_S
    while (begin := read_begin(folder)) is None:
        if asyncio.get_running_loop().time() > ends:
            return None
        await asyncio.sleep(_LOOK_S)
    return begin


def _pidfd_of(begin: Begin) -> int | None:
    """A pidfd of the wrapper if it still runs. Opened first and compared then, so that the number
    cannot become another process's in between."""
    try:
        pidfd = os.pidfd_open(begin.pid)
    except ProcessLookupError:
        return None
    if remains.start_time(begin.pid) == begin.started and not _over(pidfd):
        return pidfd
    os.close(pidfd)
    return None


def _over(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 0)[0])


def _gone(earlier: Earlier, group: int, *, killed: bool, now: datetime) -> Outcome:
    """How a launch ended whose main process is no more. Of a lost one nobody stays: it may be run
    again at once."""
    if (outcome := _read_exit(earlier.folder, now=now)) is not None:
        return outcome
    if killed:
        return Outcome(now, signal=signal.SIGKILL)
    remains.kill(group, of=earlier.folder)
    return Outcome(now, error=DISAPPEARED, lost=True)


def _read_exit(folder: Path, *, now: datetime) -> Outcome | None:
    """What the wrapper wrote at its end; None if that is missing or not whole."""
    file = folder / "exit"
    try:
        text = _read(file)
        if not text.endswith("\n"):
            # the disk was full: then the code is in the name of another file
            file = next(folder.glob("exit.*"))
            text = file.suffix[1:]
        at = datetime.fromtimestamp(file.lstat().st_mtime, UTC)
        return exited(int(text), at=min(at, now))
    except (OSError, ValueError, StopIteration):
        return None


def exited(code: int, *, at: datetime) -> Outcome:
    """The outcome of a wrapper that ended by itself.

    Its shell says a death by signal as 128+n; so would `exit 143`, and a shell's user reads both
    alike.
    """
    number = code - 128
    if 0 < number <= _LARGEST_SIGNAL and number in signal.valid_signals():
        return Outcome(at, exit_code=code, signal=number)
    return Outcome(at, exit_code=code)


class _Adopted:
    """A wrapper that another process started; its process group's id is its pid."""

    def __init__(
        self,
        pidfd: int,
        group: int,
        earlier: Earlier,
        done: Callable[[Outcome], None],
        *,
        clock: Callable[[], datetime],
        ended: Callable[[int], None],
    ) -> None:
        self._pidfd = pidfd
        self._group = group
        self._earlier = earlier
        self._done = done
        self._clock = clock
        self._told_ended = ended
        self._killed = earlier.killed
        self._over = False
        asyncio.get_running_loop().add_reader(pidfd, self._ended)

    def send(self, number: int) -> None:
        # Whoever has the pid is still the wrapper, as long as the pidfd does not say that it is
        # over: only its parent could have reaped it meanwhile.
        if not self._over and not _over(self._pidfd):
            self._killed = self._killed or number == signal.SIGKILL
            with suppress(ProcessLookupError):
                os.killpg(self._group, number)

    def leave(self) -> None:
        if not self._over:
            self._over = True
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)

    def _ended(self) -> None:
        self.leave()
        with suppress(ChildProcessError):  # it is our child if we took it up from ourselves
            os.waitpid(self._group, os.WNOHANG)
        self._told_ended(self._group)
        now = self._clock()
        self._done(_gone(self._earlier, self._group, killed=self._killed, now=now))
