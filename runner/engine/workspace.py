"""Where the files of a run lie: its log folders and its checkout.

Only paths and folders; what is written into them is decided elsewhere. A folder of a launch is
always new: a file's name is never used twice.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def run_folder(runs: Path, run: str) -> Path:
    """`<runs>/YYYY-MM/<root run>/<run>`; a run's id begins with its date."""
    return runs / f"{run[:4]}-{run[4:6]}" / run / run


def launch_folder(folder: Path, *, number: int, step: str, attempt: int, launch: str) -> Path:
    """`<number>-<slug>/<attempt>.<launch>` below a run's folder; steps count from 1."""
    slug = _UNSAFE.sub("-", step).strip("-")[:40] or "step"
    return folder / f"{number}-{slug}" / f"{attempt}.{launch}"


def workspace_folder(workspaces: Path, run: str) -> Path:
    return workspaces / run


def remove(folder: Path) -> None:
    """Delete a workspace; what a step made unreadable is left for the janitor."""
    shutil.rmtree(folder, ignore_errors=True)
