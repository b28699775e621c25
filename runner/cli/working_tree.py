"""Workflow files of a working tree: which folder their ids count from, which files there are.

Knows folders and nothing of what a file says. One rule: a path is shown as the person who asked
would type it, and links are not followed, as in git.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

DEFAULT_FOLDER = ".dagu"
ENDINGS = (".yaml", ".yml")
MAX_FILE_BYTES = 1024 * 1024  # a workflow file's limit; one more byte is enough to notice


def repository_root(start: Path) -> Path | None:
    """The root of the repository that `start` is in."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".git").exists():
            return folder
    return None


def workflow_root(path: Path, folder: str = DEFAULT_FOLDER) -> Path:
    """The folder that ids count from. Raises a usage error if there is nothing to read."""
    if not path.exists():
        raise click.UsageError(f'there is no "{path}"')
    if path.is_file():
        return enclosing(path, folder) or path.parent
    if (path / folder).is_dir():
        return path / folder
    if enclosing(path / "x", folder) is None and not any(workflow_files(path)):
        raise click.UsageError(
            f'"{path}" has no folder {folder} and no .yaml files; give the path of a '
            "repository, of its workflow folder or of one file"
        )
    return enclosing(path / "x", folder) or path


def enclosing(file: Path, folder: str = DEFAULT_FOLDER) -> Path | None:
    """The workflow folder that `file` is in, if it is in one."""
    absolute = file.absolute()
    wanted = Path(folder).parts
    for parent in absolute.parents:
        if parent.parts[-len(wanted) :] == wanted:
            return parent
    return None


def workflow_files(path: Path) -> Iterator[Path]:
    """The file itself, or those below a folder, by name."""
    if path.is_file():
        yield path.absolute()
        return
    for folder, folders, names in os.walk(path.absolute()):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            if name.endswith(ENDINGS) and not file.is_symlink():
                yield file


def base_file(root: Path) -> Path | None:
    """The defaults of all workflows below `root`, if there are any."""
    for ending in ENDINGS:
        file = root.absolute() / f"base{ending}"
        if file.is_file() and not file.is_symlink():
            return file
    return None


def typed(path: Path) -> str:
    """Relative to where the person is; "" for that folder itself."""
    relative = Path(os.path.relpath(path)).as_posix()
    return "" if relative == "." else relative


def read_capped(file: Path) -> bytes:
    """A workflow file's bytes, of one that is too large one byte too many. Raises OSError."""
    with file.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)
