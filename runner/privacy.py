"""Keeps the service's credentials from the steps that it starts.

A step may run as the same user, so what it could read of this process is removed before the first
one starts. Its rule: once `hide` has returned, no credential stands in our environment or in
what the kernel shows of it or of our command line.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import MutableMapping, Sequence
from pathlib import Path

import structlog

from runner.settings import CREDENTIALS

_PR_SET_DUMPABLE = 4

_log = structlog.get_logger(__name__)


def hide(environ: MutableMapping[str, str], *, words: Sequence[str] = ()) -> None:
    """A step of the same user must find them neither in its environment nor in ours; nor any of
    `words` in our command line, where a URL with a password may stand."""
    names = (*CREDENTIALS.values(), "DAGMILL_TOKEN")
    for name in names:
        environ.pop(name, None)
    _wipe_environment(names)
    _wipe_arguments([word.encode(errors="surrogateescape") for word in words if word])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("still_dumpable", errno=ctypes.get_errno())


def _wipe_environment(names: Sequence[str]) -> None:
    """Overwrite the variables where the kernel put them when the process began: unsetting does
    not, and a step that runs as root could read them in /proc."""
    start, shown = _shown(47)
    for match in re.finditer(rb"[^\0]+", shown):
        if match[0].partition(b"=")[0].decode(errors="replace") in names:
            ctypes.memset(start + match.start(), ord("x"), len(match[0]))


def _wipe_arguments(words: Sequence[bytes]) -> None:
    """Overwrite `words` in what `ps` shows to every user of the machine."""
    start, shown = _shown(45)
    for word in words:
        for match in re.finditer(re.escape(word), shown):
            ctypes.memset(start + match.start(), ord("x"), len(word))


def _shown(index: int) -> tuple[int, bytes]:
    """The bytes between two addresses of our own memory, and the first of the two.

    Source: proc(5), /proc/pid/stat, fields 48 to 51: arg_start, arg_end, env_start, env_end, of
    which the first is number 45 after the command's name.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[index]), int(fields[index + 1])
    return start, ctypes.string_at(start, end - start) if 0 < start < end else b""
