"""Keeps the service's credentials from the steps that it starts.

A step may run as the same user, so what it could read of this process is removed before the first
one starts. Its rule: once `hide` has returned, no credential stands in our environment or in
what the kernel shows of it.
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


def hide(environ: MutableMapping[str, str]) -> None:
    """A step of the same user must find them neither in its environment nor in ours."""
    names = (*CREDENTIALS.values(), "DAGMILL_TOKEN")
    for name in names:
        environ.pop(name, None)
    _wipe(names)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        _log.warning("still_dumpable", errno=ctypes.get_errno())


def _wipe(names: Sequence[str]) -> None:
    """Overwrite the variables where the kernel put them when the process began: unsetting does
    not, and a step that runs as root could read them in /proc.

    Source: proc(5), /proc/pid/stat, fields 50 and 51 (env_start, env_end).
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    if not 0 < start < end:
        return
    for match in re.finditer(rb"[^\0]+", ctypes.string_at(start, end - start)):
        if match[0].partition(b"=")[0].decode(errors="replace") in names:
            ctypes.memset(start + match.start(), ord("x"), len(match[0]))
