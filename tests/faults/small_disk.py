"""A file system of a few MiB that a test can fill up and free again.

Mounts a tmpfs; leaves what is put there to the test. Needs the right to mount: without it the
test is skipped, or fails where DAGMILL_REQUIRE=all asks for everything.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_CHUNK = 1 << 16


class SmallDisk:
    """`folder` is where it is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, leave: int = 0) -> None:
        """Take all room but `leave` bytes (whole pages)."""
        with self._ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(_CHUNK)):
                pass
        if leave:
            os.truncate(self._ballast, max(0, self._ballast.stat().st_size - leave))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        state = os.statvfs(self.folder)
        return state.f_bavail == 0


def unavailable(reason: str) -> None:
    """Skip, or fail where everything is required."""
    if os.environ.get("DAGMILL_REQUIRE") == "all":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[SmallDisk]:
    """A tmpfs of `size` (as mount says it) at `folder`, for as long as the test."""
    folder.mkdir()
    mount(folder, "-t", "tmpfs", "-o", f"size={size},mode=0700", "none")
    try:
        yield SmallDisk(folder)
    finally:
        # Lazily: a step that a failing test left must not keep the next tests from theirs.
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(folder: Path, *arguments: str) -> None:
    try:
        done = subprocess.run(
            ["mount", *arguments, str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        unavailable("needs the mount program")
    else:
        if done.returncode != 0:
            unavailable(f"needs the right to mount: {done.stderr.strip()}")


class FailingDisk:
    """An ext4 file system in a file, which the kernel makes read-only as after an I/O error."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder = folder
        self._image = image

    def attach(self) -> None:
        mount(self.folder, "-o", "loop,errors=remount-ro", str(self._image))

    def fail(self) -> None:
        mount(self.folder, "-o", "remount,abort")

    def mend(self) -> None:
        """As a person would: unmount, check, mount."""
        subprocess.run(["umount", str(self.folder)], check=True)
        checked = subprocess.run(
            ["e2fsck", "-f", "-y", str(self._image)], capture_output=True, text=True, check=False
        )
        assert checked.returncode in (0, 1), checked.stdout  # 1: it had something to correct
        self.attach()


@contextlib.contextmanager
def failing(folder: Path) -> Iterator[FailingDisk]:
    """24 MiB, attached at `folder` for as long as the test."""
    image = folder.with_name(f"{folder.name}.image")
    with image.open("wb") as file:
        file.truncate(24 << 20)
    try:
        made = subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True, check=False)
    except FileNotFoundError:
        unavailable("needs the mkfs.ext4 program")
    else:
        assert made.returncode == 0, made.stderr.decode()
    folder.mkdir()
    disk = FailingDisk(folder, image)
    disk.attach()
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
