"""What `dagmill doctor` looks at: one function for each thing that Dagmill needs of a machine.

Each looks and changes nothing; what it says names what was looked at, and a remedy where one is
needed. Its rule: a problem is what keeps workflows from running, a warning what may surprise.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

OLDEST_KERNEL = (5, 4)
OLDEST_GIT = (2, 32)  # older ones read the user's configuration whatever they are told
NETWORK_FILE_SYSTEMS = ("nfs", "cifs", "smb", "sshfs", "9p", "afs", "ceph", "gluster", "lustre")
CLOCK_WARNING_S = 2.0
CLOCK_PROBLEM_S = 30.0
FEW_INODES = 1000
PATIENCE_S = 5.0
_MIB = 1024 * 1024


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's. `remedy` is "" where all is well."""

    check: str
    level: Level
    said: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Places:
    """Folders that are looked at."""

    here: Path  # of the person, for the repository
    data: Path  # of a service
    state: Path  # of `dagmill run`


def ok(check: str, said: str) -> Finding:
    return Finding(check, Level.OK, said)


def warning(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, Level.WARNING, said, remedy)


def problem(check: str, said: str, remedy: str) -> Finding:
    return Finding(check, Level.PROBLEM, said, remedy)


# The system


def python() -> Finding:
    said = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info < (3, 11):  # noqa: UP036 — an installation can be forced
        return problem("python", said, "install Python 3.11 or newer, and Dagmill with it")
    return ok("python", said)


def kernel(release: str | None = None) -> Finding:
    """pidfd and /proc are how a step is found again after a restart of the service."""
    release = platform.release() if release is None else release
    said = f"{platform.system()} {release}"
    remedy = "`dagmill serve` and `dagmill run` need Linux 5.4 or newer; run them on such a machine"
    found = re.match(r"(\d+)\.(\d+)", release)
    if sys.platform != "linux" or not found:
        return problem("kernel", said, remedy)
    if (int(found[1]), int(found[2])) < OLDEST_KERNEL:
        return problem("kernel", said, remedy)
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        return problem(
            "kernel",
            f"{said}, but pidfd_open is refused: {error.strerror}",
            "a container's seccomp profile may forbid it: use a newer container engine",
        )
    for file in ("/proc/self/stat", "/proc/sys/kernel/random/boot_id"):
        if not os.access(file, os.R_OK):
            return problem("kernel", f"{said}, but {file} cannot be read", "mount /proc")
    return ok("kernel", f"{said}, pidfd and /proc work")


def shell() -> Finding:
    program = shutil.which("sh")
    if program is None:
        return problem(
            "shell", "there is no sh on PATH", "install a shell; commands of steps need one"
        )
    return ok("shell", program)


# git


def git() -> Iterator[Finding]:
    program = shutil.which("git")
    if program is None:
        yield problem("git", "there is no git on PATH", "install git, e.g. apt-get install git")
        return
    said = _output([program, "--version"]).strip()
    found = re.search(r"(\d+)\.(\d+)", said)
    if found and (int(found[1]), int(found[2])) < OLDEST_GIT:
        yield warning(
            "git",
            f"{said} ({program})",
            "install git 2.32 or newer: older ones cannot be kept from the user's configuration",
        )
    elif not found:
        yield problem("git", f"{program} does not say its version: {said[:80]!r}", "install git")
    else:
        yield ok("git", f"{said} ({program})")


def repository(here: Path, *, root: Path | None) -> Iterator[Finding]:
    """The repository that the person is in: whether it may be read, and who commits there."""
    if root is None:
        yield ok("repository", f"{here} is in no git repository; nothing to look at")
        return
    owner = root.stat().st_uid
    if owner not in (os.geteuid(), _asked_by()) and not _owned(root / ".git"):
        yield warning(
            "repository",
            f"{root} belongs to {user_name(owner)}: git refuses to read it as this user",
            f"chown -R {user_name(os.geteuid())} {root}, or clone it as this user; a "
            "`safe.directory` of yours counts for your own git only, Dagmill reads no user's "
            "configuration",
        )
    else:
        yield ok("repository", f"{root} belongs to this user")
    if shutil.which("git") is None:
        return
    missing = [k for k in ("user.name", "user.email") if not _config(root, k)]
    if missing:
        yield warning(
            "identity",
            f"git has no {' and no '.join(missing)} for commits of yours",
            "git config --global user.name 'Your Name' and user.email you@example.com; Dagmill's "
            "own commits do not need them",
        )
    else:
        said = f"{_config(root, 'user.name')} <{_config(root, 'user.email')}>"
        yield ok("identity", f"your commits are by {said}")


def _asked_by() -> int:
    """Git also lets the user in who called sudo. Source: git-config(1), safe.directory."""
    asked = os.environ.get("SUDO_UID", "")
    return int(asked) if os.geteuid() == 0 and asked.isdigit() else -1


def _owned(path: Path) -> bool:
    try:
        return path.stat().st_uid in (os.geteuid(), _asked_by())
    except OSError:
        return False


def user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _config(root: Path, name: str) -> str:
    return _output(["git", "config", "--get", name], cwd=root).strip()


def _output(argv: list[str], *, cwd: Path | None = None) -> str:
    """What a harmless program of the person's own prints; "" where it fails."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""


# Folders


def folder(check: str, path: Path, *, remedy: str) -> Finding:
    """Whether `path` is ours alone and can be written, or can be made."""
    if not path.exists():
        parent = nearest(path)
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK):
            return ok(check, f"{path} is not there yet and can be made")
        return problem(check, f"{path} is not there and cannot be made: {parent} is closed", remedy)
    if not path.is_dir():
        return problem(check, f"{path} is no folder", remedy)
    status = path.stat()
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return problem(
            check, f"{path} (of {user_name(status.st_uid)}) cannot be written by this user", remedy
        )
    if kind := _network(path):
        return problem(
            check, f"{path} is on {kind}, where locks do not hold", "choose one on a local disk"
        )
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid() or mode & 0o077:
        owner = "" if status.st_uid == os.geteuid() else f" of {user_name(status.st_uid)}"
        return warning(
            check,
            f"{path} has mode {mode:04o}{owner}: others can read logs and parameters",
            f"chmod 700 {path}" if not owner else f"chown {user_name(os.geteuid())} {path}",
        )
    return ok(check, f"{path} is this user's alone")


def token(data: Path) -> Iterator[Finding]:
    """The file that opens the API."""
    file = data / "token"
    try:
        status = file.stat()
    except OSError:
        return  # no service was ever started here, or the folder is closed, which is told
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        yield problem(
            "token", f"{file} has mode {mode:04o}: others can read it", f"chmod 600 {file}"
        )
    else:
        yield ok("token", f"{file} is this user's alone")


def room(data: Path, *, least_bytes: int) -> Finding:
    """Below `least_bytes` a service starts nothing."""
    place = nearest(data)
    free = shutil.disk_usage(place).free
    said = f"{free // _MIB:,} MiB free at {place}"
    if free < least_bytes:
        return problem(
            "disk",
            f"{said}; below {least_bytes // _MIB:,} MiB nothing starts",
            "make room, choose another --data, or set DAGMILL_MIN_FREE_DISK",
        )
    if free < 2 * least_bytes:
        return warning(
            "disk", f"{said}; below {least_bytes // _MIB:,} MiB nothing starts", "make room soon"
        )
    numbers = os.statvfs(place)
    if numbers.f_files and numbers.f_favail < FEW_INODES:
        return warning("disk", f"{said}, but only {numbers.f_favail} inodes", "delete small files")
    return ok("disk", said)


def nearest(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there."""
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))


def _network(path: Path) -> str:
    """The type of a network file system that `path` is on, "" for a local one."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts:
        before, _, after = line.partition(" - ")
        words = before.split()
        if len(words) < 5 or not after:
            continue
        point = words[4].replace("\\040", " ")
        if (path.is_relative_to(point)) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind if kind.removeprefix("fuse.").startswith(NETWORK_FILE_SYSTEMS) else ""


# The clock


def clock(places: Places) -> Finding:
    """Schedules fire by this machine's clock. A file system gives new files the time, and one on
    another machine that machine's."""
    writable = [p for p in map(nearest, (places.data, places.state)) if os.access(p, os.W_OK)]
    if not writable:
        return warning("clock", "not compared: no folder can be written", "see to the folders")
    return _clock_of_files(writable[0])


def _clock_of_files(place: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
            file.flush()
            off_s = time.time() - os.fstat(file.fileno()).st_mtime
    except OSError as error:
        return warning(
            "clock",
            f"a file's time in {place} cannot be read: {error.strerror}",
            "see to its room and mode",
        )
    return judged_clock(off_s, f"the time that the file system at {place} gives a new file")


def judged_clock(off_s: float, against: str, *, slack_s: float = 0.0) -> Finding:
    """`off_s`: how much this clock is ahead, known to `slack_s`."""
    off = max(0.0, abs(off_s) - slack_s)
    side = "ahead of" if off_s > 0 else "behind"
    remedy = "let chrony, ntpd or systemd-timesyncd set it; schedules fire by this clock"
    if off < CLOCK_WARNING_S:
        return ok("clock", f"agrees with {against}")
    level = Level.PROBLEM if off >= CLOCK_PROBLEM_S else Level.WARNING
    return Finding("clock", level, f"{abs(off_s):.0f} s {side} {against}", remedy)


def zones(name: str) -> Finding:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo("Europe/Vienna"), ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return problem("zones", f'the time zone "{name}" is not known here', "install tzdata")
    return ok("zones", f"time zones are known; schedules without one are in {name}")
