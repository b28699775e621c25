"""The files of one commit, written into a folder.

Knows how to materialise a pinned commit from a mirror without worktree or index, and how to give
it a `.git` where that is wanted. Leaves which commit, and how long the folder lives, to its
callers. One rule: libgit2 only ever writes into a folder that nobody has used before.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pygit2
from pygit2.enums import CheckoutStrategy

from storage.git_errors import GitError, disk_error


def checkout(mirror_path: Path, commit: str, folder: Path) -> None:
    """Write the files of `commit` (full id) into `folder`, which must be absent or empty.

    Executable bits and symbolic links are kept, submodules become empty folders, LFS pointers stay
    pointers. Blocks. Raises GitError, and then `folder` does not exist.
    """
    if folder.is_symlink() or (folder.exists() and any(folder.iterdir())):
        raise GitError(f"{folder}: not empty; a commit is only written into a fresh folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        repository = pygit2.Repository(str(mirror_path))
        tree = repository[commit].peel(pygit2.Tree)
        repository.checkout_tree(  # type: ignore[no-untyped-call]  # pygit2 has no types for it
            tree,
            directory=str(folder.absolute()),
            strategy=CheckoutStrategy.FORCE | CheckoutStrategy.DONT_UPDATE_INDEX,
        )
    except KeyError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise GitError(f"commit {commit} is not in {mirror_path}; fetch it first") from error
    except (pygit2.GitError, ValueError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        told = f"commit {commit} could not be written to {folder}: {error}"
        raise disk_error(told, cause=error) from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def add_git(mirror_path: Path, commit: str, folder: Path) -> None:
    """Make a fresh checkout of `commit` a repository: its HEAD detached, its objects those of the
    mirror, and no remote, branch or credential in it. Blocks. Raises GitError."""
    try:
        git = Path(pygit2.init_repository(str(folder.absolute())).path)
        objects = mirror_path.absolute() / "objects"
        (git / "objects/info").mkdir(exist_ok=True)
        (git / "objects/info/alternates").write_bytes(os.fsencode(objects) + b"\n")
        repository = pygit2.Repository(str(folder.absolute()))  # that knows of them
        repository.set_head(pygit2.Oid(hex=commit))
        repository.index.read_tree(repository[commit].peel(pygit2.Tree))
        repository.index.write()
    except KeyError as error:
        raise GitError(f"commit {commit} is not in {mirror_path}; fetch it first") from error
    except (pygit2.GitError, ValueError, OSError) as error:
        told = f"{folder} could not be made a repository: {error}"
        raise disk_error(told, cause=error) from error
