"""`dagmill validate PATH`: every problem of every workflow file, before a commit finds them.

Finds files and prints; what is wrong with one is said by `language`, and by `catalog` where two
files disagree. One rule: it reads files and does nothing else, no command of a workflow runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from runner.cli.terminal import shown
from runner.cli.working_tree import (
    DEFAULT_FOLDER,
    base_file,
    enclosing,
    read_capped,
    typed,
    workflow_files,
    workflow_root,
)
from runner.control import catalog
from runner.language.load import Base, load_base
from runner.language.model import Problem


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. Paths are as a person would type them here; `entries` are the good files."""

    files: int
    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    entries: tuple[catalog.Entry, ...] = ()


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=".")
@click.option(
    "--path",
    "folder",
    default=DEFAULT_FOLDER,
    show_default=True,
    help="The folder of a repository that holds its workflows.",
)
@click.option("--strict", is_flag=True, help="Exit 1 if there are warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def validate(ctx: click.Context, path: Path, folder: str, strict: bool, as_json: bool) -> None:
    """Check PATH: a workflow file, a folder of them, or a repository.

    Exits 2 if there is a problem. Warnings stop no run.
    """
    report = check(path, folder=folder)
    if as_json:
        click.echo(json.dumps(_document(report), indent=2, ensure_ascii=False))
    else:
        _print(report)
    ctx.exit(2 if report.problems else 1 if strict and report.warnings else 0)


def check(path: Path, *, folder: str = DEFAULT_FOLDER) -> Report:
    """Read what is at `path`, each file together with all others of its workflow folder, as they
    may name each other. Raises a usage error if there is nothing to check."""
    root = workflow_root(path, folder)
    alone = path.is_file() and enclosing(path, folder) is None
    files = [*workflow_files(path if alone else root)]
    entries = _entries(files, root=root)
    built = catalog.build("", entries)
    asked = {typed(path)} if path.is_file() else {entry.path for entry in entries}
    return Report(
        files=sum(entry.path in asked and entry.workflow != catalog.BASE for entry in entries),
        problems=_of(asked, built.problems.items()),
        warnings=_of(asked, built.warnings.items()),
        entries=tuple(entry for entry in built.entries.values() if entry.path in asked),
    )


def _of(asked: set[str], found: Iterable[tuple[str, tuple[Problem, ...]]]) -> tuple[Problem, ...]:
    return tuple(sorted(p for path, told in found if path in asked for p in told))


def _entries(files: Iterable[Path], *, root: Path) -> list[catalog.Entry]:
    defaults = base_file(root)
    base, entries = None, []
    for file in [defaults] if defaults is not None else []:
        entry, base = _defaults(file)
        entries.append(entry)
    folder = typed(root)
    others = (file for file in files if file != defaults)
    return [*entries, *(_entry(file, folder=folder, base=base) for file in others)]


def _defaults(file: Path) -> tuple[catalog.Entry, Base | None]:
    """base.yaml, which every other file is read with."""
    path = typed(file)
    data = _bytes(file)
    if isinstance(data, Problem):
        return catalog.Entry(path, "", catalog.BASE, problems=(data,)), None
    loaded = load_base(data, path=path)
    return catalog.Entry(path, "", catalog.BASE, problems=loaded.problems), loaded.base


def _entry(file: Path, *, folder: str, base: Base | None) -> catalog.Entry:
    path = typed(file)
    data = _bytes(file)
    if isinstance(data, Problem):
        return catalog.Entry(path, "", "", problems=(data,))
    return catalog.read(data, path=path, blob=path, folder=folder, base=base)


def _bytes(file: Path) -> bytes | Problem:
    try:
        return read_capped(file)
    except OSError as error:
        return Problem(typed(file), 1, 1, f"the file cannot be read: {error.strerror}")


def _print(report: Report) -> None:
    lines = [(p, "") for p in report.problems] + [(w, "warning: ") for w in report.warnings]
    for found, mark in sorted(lines):
        place = f"{found.path}:{found.line}:{found.column}"
        click.echo(f"{shown(place)}: {mark}{shown(found.message)}")
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
