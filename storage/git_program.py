"""The one place that starts the git program, and the lock that keeps it off a busy mirror.

Knows how to start git so that nothing of the user, the system or a repository decides what it
runs. Leaves what to ask to its callers. One rule: never start it in a folder that a step touched.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from storage.git_errors import GitError, Unreachable

LOCK_NAME = "dagmill.lock"
_STDERR_LIMIT = 64 << 10

_SAFE = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "credential.helper=",
    "protocol.ext.allow=never",
    "protocol.file.allow=never",
    "gc.auto=0",
    "maintenance.auto=false",
)


class GitProgramFailed(GitError):
    """git ended with an error, took too long, wrote too much, or is not installed."""


def run_git(
    args: Sequence[str],
    *,
    cwd: Path,
    home: Path,
    timeout_s: float,
    output_limit_bytes: int,
    stdin: bytes | None = None,
    keep_open: int | None = None,
) -> bytes:
    """Run git and return its standard output.

    Empty environment but for PATH and HOME (`home`), no system or user configuration, no hooks,
    no fsmonitor, no prompts, and neither the `ext` nor the `file` protocol. It has its own process
    group, which is killed after `timeout_s` seconds or beyond `output_limit_bytes`. Ids that come
    from outside belong after `--end-of-options`. It inherits the file descriptor `keep_open`.
    Raises GitProgramFailed.
    """
    program = shutil.which("git")
    if program is None:
        raise GitProgramFailed("the git program is not on PATH; install git")
    settings = [word for setting in _SAFE for word in ("-c", setting)]
    what = f"git {args[0] if args else ''}"
    with tempfile.TemporaryFile() as given:
        given.write(stdin or b"")
        given.seek(0)
        process = subprocess.Popen(
            [program, "--no-pager", *settings, *args],
            cwd=cwd,
            env=_environment(home),
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=() if keep_open is None else (keep_open,),
        )
        with process:
            output, errors = _until_its_end(
                process, what, ends=time.monotonic() + timeout_s, limit=output_limit_bytes
            )
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip()[-2000:]
        raise GitProgramFailed(f"{what} in {cwd} ended with {process.returncode}: {said}")
    return output


def _environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": "https:http:ssh",
    }


def _until_its_end(
    process: subprocess.Popen[bytes], what: str, *, ends: float, limit: int
) -> tuple[bytes, bytes]:
    """Standard output and the end of standard error. When this returns or raises, nothing of the
    process's group runs any more; only the process itself is left to be reaped."""
    if process.stdout is None or process.stderr is None:
        raise ValueError("both streams must be pipes")
    output, errors = bytearray(), bytearray()
    pidfd = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector, _group_killed(process.pid, pidfd):
        selector.register(process.stdout, selectors.EVENT_READ, output)
        selector.register(process.stderr, selectors.EVENT_READ, errors)
        selector.register(pidfd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, ends - time.monotonic()))
            if not ready:
                raise GitProgramFailed(f"{what} was not done in time and was killed")
            for key, _ in ready:
                if key.data is None:
                    # What git left behind would hold the pipes open.
                    _kill_group(process.pid)
                    selector.unregister(pidfd)
                elif chunk := os.read(key.fd, 1 << 16):
                    key.data.extend(chunk)
                else:
                    selector.unregister(key.fileobj)
            del errors[:-_STDERR_LIMIT]
            if len(output) > limit:
                raise GitProgramFailed(f"{what} wrote more than {limit} bytes and was killed")
    return bytes(output), bytes(errors)


@contextlib.contextmanager
def _group_killed(pid: int, pidfd: int) -> Iterator[None]:
    try:
        yield
    finally:
        _kill_group(pid)
        os.close(pidfd)


def _kill_group(pid: int) -> None:
    # The leader is not reaped yet, so the number is still its group's.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def locked(mirror_path: Path, *, wait_s: float) -> Iterator[int]:
    """Hold the mirror's lock, against other threads and processes: one fetch or `gc` at a time.

    Gives the lock's file descriptor: a child that inherits it holds the lock too. Readers do not
    need it. Raises Unreachable if it is not free within `wait_s` seconds.
    """
    ends = time.monotonic() + wait_s
    while True:
        with (mirror_path / LOCK_NAME).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() >= ends:
                    raise Unreachable(
                        f"{mirror_path}: still busy with another fetch or gc after {wait_s:g} s"
                    ) from error
            else:
                if _is_still_there(file.fileno(), mirror_path / LOCK_NAME):
                    yield file.fileno()
                    return
                continue
        time.sleep(0.01)


def _is_still_there(lock: int, path: Path) -> bool:
    """False if the mirror was rebuilt while we waited: then the lock is another file."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def gc(mirror_path: Path, *, wait_s: float = 60, timeout_s: float = 3600) -> None:
    """Pack a mirror's objects and refs; drop what nothing refers to and is older than two weeks.

    libgit2 cannot: every fetch adds a pack and every commit of ours three loose objects. Objects
    of unfinished and kept runs stay through `refs/pins/`. If this process is killed, git goes on
    and holds the lock until it is done. Raises GitProgramFailed or, while a fetch runs for longer
    than `wait_s`, Unreachable.
    """
    with locked(mirror_path, wait_s=wait_s) as lock:
        run_git(
            ["gc", "--quiet", "--prune=2.weeks.ago"],
            cwd=mirror_path,
            home=mirror_path,
            timeout_s=timeout_s,
            output_limit_bytes=1 << 20,
            keep_open=lock,
        )
