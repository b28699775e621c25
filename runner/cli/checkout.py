"""`dagmill run --commit REV`: the files of a commit of the repository that one is in.

Writes them into a folder of their own and leaves the working tree alone. One rule: the workflow,
its base.yaml and its sub-workflows are those of the commit too.
"""

from __future__ import annotations

from pathlib import Path

import click
import pygit2

from runner.cli.local_workflow import LocalFile, local_file
from runner.cli.working_tree import DEFAULT_FOLDER, ENDINGS, repository_root
from runner.engine.journal import Origin
from storage import tree
from storage.git_errors import GitError


def checkout(text: str, rev: str, *, cwd: Path, folder: Path) -> tuple[LocalFile, Origin]:
    """The file that FILE|ID means in the commit `rev`, whose files are then in `folder`. Raises
    click.UsageError, and then there is no such folder."""
    root = repository_root(cwd)
    if root is None:
        raise click.UsageError(f"--commit needs a git repository, and {cwd} is in none")
    git, commit = _commit(root, rev)
    path = _path(text, commit, cwd=cwd, root=root)
    try:
        tree.checkout(git, str(commit.id), folder)
    except GitError as error:
        raise click.UsageError(str(error)) from error
    return local_file(folder / path, root=folder), Origin(commit=str(commit.id))


def _commit(root: Path, rev: str) -> tuple[Path, pygit2.Commit]:
    """The repository's own folder, and the commit."""
    try:
        repository = pygit2.Repository(str(root))
        return Path(repository.path), repository.revparse_single(rev).peel(pygit2.Commit)
    except (KeyError, ValueError, pygit2.GitError) as error:
        raise click.UsageError(f'there is no commit "{rev}" in {root}: {error}') from error


def _path(text: str, commit: pygit2.Commit, *, cwd: Path, root: Path) -> str:
    """From the root of the repository. Raises click.UsageError."""
    wanted = [f"{DEFAULT_FOLDER}/{text}{ending}" for ending in ENDINGS]
    if text.endswith(ENDINGS):
        typed = (cwd / text).resolve()
        if not typed.is_relative_to(root):
            raise click.UsageError(f"{typed} is not in the repository {root}")
        wanted = [typed.relative_to(root).as_posix()]
    for path in wanted:
        if path in commit.tree:
            return path
    raise click.UsageError(f"{wanted[0]} is not in commit {str(commit.id)[:10]}")
