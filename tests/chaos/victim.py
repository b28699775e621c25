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
from typing import Any

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
    killed: bool = False

    def __post_init__(self) -> None:
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        log = self.machine.folder / "logs" / f"{self.number:04}.log"
        with log.open("w") as kept:
            for line in self.process.stderr:
                kept.write(line)
                with self._news:
                    try:
                        self.facts.append(json.loads(line))
                    except ValueError:
                        # A killed service may leave half a line.
                        self.errors.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def sees(self, wanted: Callable[[dict[str, Any]], bool], *, within_s: float, new: bool) -> bool:
        """Whether such a fact comes within the time; `new`: those said before do not count."""
        deadline = time.monotonic() + within_s
        with self._news:
            seen = len(self.facts) if new else 0
            while True:
                if any(map(wanted, self.facts[seen:])):
                    return True
                seen = len(self.facts)
                left = deadline - time.monotonic()
                if left <= 0 or not self._reader.is_alive():
                    return False
                self._news.wait(left)

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

    def stop(self, *, within_s: float = 60) -> int:
        """TERM; the exit code."""
        pid = self.process.pid
        if self.machine.power_cut:
            (init,) = self._init()
            (pid, *_) = _children(init)
        os.kill(pid, signal.SIGTERM)
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        return self._over()

    def _over(self) -> int:
        code = self.process.wait()
        self._reader.join(10)
        assert self.process.stderr is not None
        if not self._reader.is_alive():
            self.process.stderr.close()
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
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Victim(machine, number, process, time.monotonic())
