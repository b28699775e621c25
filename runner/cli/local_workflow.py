"""The workflow that FILE|ID means on this machine, and those that it may call.

Reads files of the working tree as they are. One rule: what is wrong with a file or a parameter is
the command line's mistake, said before anything runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli.working_tree import DEFAULT_FOLDER, ENDINGS, repository_root
from runner.control.folder_library import FolderLibrary
from runner.language import params as language_params
from runner.language.base import LoadedBase
from runner.language.faults import LanguageError
from runner.language.load import Loaded, load, load_base, workflow_id
from runner.language.model import Workflow
from runner.language.subworkflows import file_of, local_ids, resolve

if TYPE_CHECKING:
    from runner.cli.outline import Called


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A workflow's file, the folder that its run uses, and what git knows of it.

    `workflows` is the folder that ids count from: `.dagu`, else the file's own.
    """

    path: Path
    shown: str
    id: str
    root: Path
    in_git: bool
    workflows: Path

    @property
    def library(self) -> FolderLibrary:
        deep = self.workflows.name == DEFAULT_FOLDER
        return FolderLibrary(self.workflows, root=self.root, deep=deep)


def find_file(text: str, *, cwd: Path) -> LocalFile:
    """The file that FILE|ID means. Raises click.UsageError."""
    path = (cwd / _path(text, cwd=cwd)).resolve()
    if not path.is_file():
        raise click.UsageError(f"there is no file {path}")
    return local_file(path, root=repository_root(path.parent))


def local_file(path: Path, *, root: Path | None) -> LocalFile:
    """The file at `path`, in the repository with the given root if it is in one. Raises
    click.UsageError."""
    workflows = _workflows(path, root)
    # Outside a repository what holds `.dagu` stands for its root.
    folder = root or (workflows.parent if workflows.name == DEFAULT_FOLDER else workflows)
    try:
        id = workflow_id(path.relative_to(workflows).as_posix())
    except ValueError as error:
        raise click.UsageError(f"{path}: {error}") from error
    shown = path.relative_to(folder).as_posix()
    return LocalFile(path, shown, id, folder, root is not None, workflows)


def _workflows(path: Path, root: Path | None) -> Path:
    """The folder that the ids of a file and its neighbours count from."""
    if root is not None and path.is_relative_to(root / DEFAULT_FOLDER):
        return root / DEFAULT_FOLDER
    above = (folder for folder in path.parents if folder.name == DEFAULT_FOLDER)
    return next((a for a in above if root is None or a.is_relative_to(root)), path.parent)


def _path(text: str, *, cwd: Path) -> Path:
    """Of an id the file in the nearest `.dagu`, up to the root of the repository."""
    path = Path(text)
    if path.suffix in ENDINGS or path.is_file():
        return path
    root = repository_root(cwd)
    places = [cwd, *cwd.parents] if root is not None else [cwd]
    for place in places:
        for ending in ENDINGS:
            if text and (found := place / DEFAULT_FOLDER / f"{text}{ending}").is_file():
                return found
        if place == root:
            break
    nearest = (root or cwd) / DEFAULT_FOLDER / f"{text or 'ID'}{ENDINGS[0]}"
    raise click.UsageError(
        f"there is no file {text or 'of no name'} and no workflow {nearest}; "
        "give a file, or an id while you are in its repository"
    )


@dataclass(frozen=True, slots=True)
class Source:
    """The texts that a run's definition is made of; `base` is "" where there is no base.yaml."""

    text: bytes
    base: str
    loaded: Loaded


def read(file: LocalFile) -> Source:
    """The file and the defaults that it is read with; a bad base.yaml is the file's problem too.
    Raises click.UsageError."""
    from runner.cli.working_tree import read_capped

    try:
        data = read_capped(file.path)
    except OSError as error:
        raise click.UsageError(f"{file.path} cannot be read: {error.strerror}") from error
    base = file.library.base()
    loaded_base = defaults(base)
    if loaded_base.problems:
        return Source(data, base, Loaded(None, loaded_base.problems))
    return Source(data, base, load(data, path=file.shown, id=file.id, base=loaded_base.base))


def defaults(base: str) -> LoadedBase:
    if not base:
        return LoadedBase(None)
    return load_base(base.encode(), path=f"{DEFAULT_FOLDER}/base.yaml")


def print_found(loaded: Loaded) -> None:
    """Problems and warnings, to stderr."""
    from runner.cli.terminal import shown

    for problem in (*loaded.problems, *loaded.warnings):
        mark = "" if problem in loaded.problems else "warning: "
        click.echo(f"{mark}{shown(str(problem))}", err=True)


def bind(workflow: Workflow, given: tuple[str, ...]) -> language_params.Bound:
    """The parameters of a run with those of a command line. Raises click.UsageError."""
    try:
        return language_params.bind(
            workflow.params,
            language_params.from_arguments(given),
            mentioned=lambda name: language_params.mentions(workflow, name),
        )
    except language_params.ParamError as error:
        raise click.UsageError(str(error)) from error


def find_called(file: LocalFile, name: str, caller: Called) -> Called:
    """The sub-workflow that `name` means in the working tree. Raises LanguageError."""
    from runner.cli.outline import Called

    library = file.library
    index = asyncio.run(library.index("", ""))
    main = caller.main
    id = resolve(name, caller=caller.workflow.id, locals=local_ids(main), index=index)
    if file_of(id) != file_of(main.id):
        main = _load(library, file_of(id))
    found = (workflow for workflow in (main, *main.locals) if workflow.id == id)
    for workflow in found:
        return Called(workflow, main)
    raise LanguageError(f"{id} is not in {main.path}")


def _load(library: FolderLibrary, id: str) -> Workflow:
    found = asyncio.run(library.read("", "", id))
    if found is None:
        raise LanguageError(f"the file of workflow {id} cannot be read")
    loaded = load(found.source.encode(), path=found.path, id=id, base=defaults(found.base).base)
    if loaded.workflow is None:
        raise LanguageError(f"workflow {id} has problems: {loaded.problems[0]}")
    return loaded.workflow
