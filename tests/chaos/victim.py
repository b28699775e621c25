"""The service that is killed: a real `dagmill serve` in a process of its own, and its log.

With `Machine.power_cut` each start is a new "machine": a namespace of processes with a boot id of
its own, whose end kills service and steps at once. Leaves when to kill to the storm. One rule:
what it waits for is a line of the log.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
BOOT_ID = "/proc/sys/kernel/random/boot_id"

# `exit` last, so that no shell replaces itself by the service, which would be pid 1 then and drain.
_INIT = f'mount --bind "$0" {BOOT_ID} && "$@"; exit $?'
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


def why_no_power_cut(folder: Path) -> str | None:
    """Why this machine cannot pretend to be another one; None if it can."""
    fake = folder / "boot-id"
    fake.write_text(f"{uuid.uuid4()}\n")
    try:
        done = subprocess.run(
            [*_UNSHARE, "sh", "-c", _INIT, str(fake), "cat", BOOT_ID],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "there is no `unshare` program on PATH"
    if done.returncode or done.stdout != fake.read_text():
        return f"a namespace with a boot id of its own is refused: {done.stderr.strip()}"
    return None


@dataclass(frozen=True)
class Machine:
    """How each life of the service is started. `arguments` follow `dagmill serve`."""

    arguments: Sequence[str]
    environ: Mapping[str, str]
    folder: Path  # for logs and boot ids
    power_cut: bool


@dataclass
class Victim:
    """One life of the service. `facts` are the lines of its log."""

    machine: Machine
    number: int
    process: subprocess.Popen[str]
    started_at: float  # monotonic
    facts: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)  # lines that are no facts
    said: list[str] = field(default_factory=list)  # to people
    killed: bool = False
    stopped: bool = False  # asked to stop

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        log = self.machine.folder / "logs" / f"{self.number:04}.log"
        self._kept = log.open("w")
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self._fact)),
            threading.Thread(target=self._read, args=(self.process.stdout, self.said.append)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: TextIO, keep: Callable[[str], None]) -> None:
        for line in stream:
            with self._news:
                keep(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _fact(self, line: str) -> None:
        self._kept.write(line + "\n")
        try:
            self.facts.append(json.loads(line))
        except ValueError:
            # A killed service may leave half a line.
            self.errors.append(line)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def sees(self, wanted: Callable[[dict[str, Any]], bool], *, within_s: float, new: bool) -> bool:
        """Whether such a fact comes within the time; `new`: those said before do not count."""
        with self._news:
            first = len(self.facts) if new else 0
        return self._wait(lambda: any(map(wanted, self.facts[first:])), within_s=within_s)

    def serves(self, *, within_s: float) -> bool:
        """Whether it says within the time that it listens."""
        return self._wait(
            lambda: any("listening on" in line for line in self.said), within_s=within_s
        )

    def _wait(self, holds: Callable[[], bool], *, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        with self._news:
            while not holds():
                left = deadline - time.monotonic()
                if left <= 0 or not any(reader.is_alive() for reader in self._readers):
                    return False
                self._news.wait(min(left, 0.5))
        return True

    def kill(self) -> None:
        """SIGKILL, to the service alone or to its whole machine; returns when it is gone."""
        self.killed = True
        for pid in self._init() if self.machine.power_cut else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                break
        else:
            self.process.kill()
        self._over()

    def terminate(self) -> None:
        """TERM, to the service alone. One that is only just starting dies of it."""
        self.stopped = True
        pids = [self.process.pid]
        if self.machine.power_cut:
            pids = [pid for init in self._init() for pid in _children(init)]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def stop(self, *, within_s: float = 60) -> int:
        """TERM once it serves; the exit code."""
        self.serves(within_s=within_s)
        self.terminate()
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        return self._over()

    def _over(self) -> int:
        code = self.process.wait()
        for reader, stream in zip(
            self._readers, (self.process.stderr, self.process.stdout), strict=True
        ):
            reader.join(10)
            if stream is not None and not reader.is_alive():
                stream.close()
        self._kept.close()
        return code

    def _init(self) -> list[int]:
        """The first process of the namespace, as it is seen from here."""
        return _children(self.process.pid)


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def start(machine: Machine, number: int) -> Victim:
    """Start the service for the `number`-th time."""
    (machine.folder / "logs").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "runner.cli", "serve", *machine.arguments]
    if machine.power_cut:
        boot = machine.folder / "boot-ids" / str(number)
        boot.parent.mkdir(exist_ok=True)
        boot.write_text(f"{uuid.uuid4()}\n")
        command = [*_UNSHARE, "sh", "-c", _INIT, str(boot), *command]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(machine.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Victim(machine, number, process, time.monotonic())
