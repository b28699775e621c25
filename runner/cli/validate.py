"""`dagmill validate PATH`: every problem of every workflow file, before a commit finds them.

Finds files and prints; what is wrong with one is said by `language`, and by `catalog` where two
files disagree. One rule: it reads files and does nothing else, no command of a workflow runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from runner.control import catalog
from runner.language.model import Problem

MAX_FILE_BYTES = 1024 * 1024  # a workflow file's limit; one more byte is enough to notice
_DEFAULT_FOLDER = ".dagu"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. Paths are as a person would type them here."""

    files: int
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=".")
@click.option(
    "--path",
    "folder",
    default=_DEFAULT_FOLDER,
    show_default=True,
    help="The folder of a repository that holds its workflows.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def validate(ctx: click.Context, path: Path, folder: str, as_json: bool) -> None:
    """Check PATH: a workflow file, a folder of them, or a repository."""
    root = _root(path, folder)
    report = check(root, files=_files(path if path.is_file() else root))
    if as_json:
        click.echo(json.dumps(_document(report), indent=2, ensure_ascii=False))
    else:
        _print(report)
    ctx.exit(2 if report.problems else 0)


def check(root: Path, *, files: Iterator[Path]) -> Report:
    """Read `files`; their ids are their paths below `root`."""
    folder = _typed(root)
    entries = [_entry(file, folder=folder) for file in files]
    built = catalog.build("", entries)
    return Report(
        files=len(entries),
        problems=tuple(sorted(p for problems in built.problems.values() for p in problems)),
        warnings=tuple(sorted(w for entry in entries for w in entry.warnings)),
    )


def _entry(file: Path, *, folder: str) -> catalog.Entry:
    path = _typed(file)
    try:
        data = _read(file)
    except OSError as error:
        problem = Problem(path, 1, 1, f"the file cannot be read: {error.strerror}")
        return catalog.Entry(path, "", "", problems=(problem,))
    return catalog.read(data, path=path, blob=path, folder=folder)


def _typed(path: Path) -> str:
    """Relative to where the person is; "" for that folder itself."""
    relative = Path(os.path.relpath(path)).as_posix()
    return "" if relative == "." else relative


def _root(path: Path, folder: str) -> Path:
    """The folder that ids count from. Raises a usage error if there is nothing to check."""
    if not path.exists():
        raise click.UsageError(f'there is no "{path}"')
    if path.is_file():
        return _enclosing(path, folder) or path.parent
    if (path / folder).is_dir():
        return path / folder
    if _enclosing(path / "x", folder) is None and not any(_files(path)):
        raise click.UsageError(
            f'"{path}" has no folder {folder} and no .yaml files; give the path of a '
            "repository, of its workflow folder or of one file"
        )
    return _enclosing(path / "x", folder) or path


def _enclosing(file: Path, folder: str) -> Path | None:
    """The workflow folder that `file` is in, if it is in one."""
    absolute = file.absolute()
    wanted = Path(folder).parts
    for parent in absolute.parents:
        if parent.parts[-len(wanted) :] == wanted:
            return parent
    return None


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path.absolute()
        return
    for folder, folders, names in os.walk(path.absolute()):
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            # As in git, where a link is not followed.
            if catalog.is_workflow_file(name) and not file.is_symlink():
                yield file


def _read(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(MAX_FILE_BYTES + 1)


def _print(report: Report) -> None:
    lines = [(p, "") for p in report.problems] + [(w, "warning: ") for w in report.warnings]
    for found, mark in sorted(lines):
        place = f"{found.path}:{found.line}:{found.column}"
        click.echo(f"{_shown(place)}: {mark}{_shown(found.message)}")
    sys.stdout.flush()
    click.echo(
        ", ".join(
            _count(number, noun)
            for number, noun, always in (
                (report.files, "workflow", True),
                (len(report.problems), "problem", True),
                (len(report.warnings), "warning", False),
            )
            if number or always
        )
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _shown(text: str) -> str:
    from runner.cli.terminal import shown

    return shown(text)


def _document(report: Report) -> dict[str, object]:
    return {
        "workflows": report.files,
        "problems": [_problem(p) for p in report.problems],
        "warnings": [_problem(w) for w in report.warnings],
    }


def _problem(found: Problem) -> dict[str, object]:
    return {
        "path": found.path,
        "line": found.line,
        "column": found.column,
        "message": found.message,
    }
