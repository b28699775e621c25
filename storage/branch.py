"""Files written onto a branch of a remote, as one commit on its present tip.

Knows how to build a commit without a working tree and how to win or lose a race for the branch.
Leaves what the files say to its callers and the wire to `mirror`. One rule: never by force; who
loses builds again on what the winner left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import pygit2
from pygit2.enums import FileMode

from storage.git_errors import disk_error
from storage.mirror import GitError, LostRace, Mirror, ObjectMissing

Changes = Mapping[str, bytes | None]
"""Path from the branch's root → new content, or None to delete it (absent is fine)."""


class TreeView:
    """The files of the branch as they are before an edit; an absent branch has none."""

    def __init__(self, repository: pygit2.Repository, tree: pygit2.Tree | None) -> None:
        self._repository = repository
        self._tree = tree

    def read(self, path: str) -> bytes | None:
        """A file's content; None if there is no such file (a link or a folder is none)."""
        entry = self._entry(path)
        if isinstance(entry, pygit2.Blob) and entry.filemode != FileMode.LINK:
            return entry.data
        return None

    def blob(self, path: str) -> str | None:
        """The id of a file's content, without reading it; None if there is no such file."""
        entry = self._entry(path)
        if isinstance(entry, pygit2.Blob) and entry.filemode != FileMode.LINK:
            return str(entry.id)
        return None

    def list(self, folder: str = "") -> tuple[str, ...]:
        """Paths, from the branch's root and sorted, of all files at any depth below `folder`."""
        place = folder.strip("/")
        start = self._entry(place) if place else self._tree
        if not isinstance(start, pygit2.Tree):
            return ()
        found = []
        todo = [(f"{place}/" if place else "", start)]
        while todo:
            prefix, tree = todo.pop()
            for entry in tree:
                if isinstance(entry, pygit2.Tree):
                    todo.append((f"{prefix}{entry.name}/", entry))
                elif isinstance(entry, pygit2.Blob):
                    found.append(f"{prefix}{entry.name}")
        return tuple(sorted(found))

    def _entry(self, path: str) -> pygit2.Object | None:
        if self._tree is None:
            return None
        try:
            return self._tree[path]
        except KeyError:
            return None


def publish(
    mirror: Mirror,
    *,
    branch: str,
    edit: Callable[[TreeView], Changes],
    message: Callable[[Changes], str],
    author_name: str,
    author_email: str,
    at: datetime,
    tries: int = 5,
) -> str | None:
    """Commit what `edit` returns on the tip of `branch` and push it; the new commit's id.

    None, and nothing pushed, if the files are as they were. `edit` is called again, on the new
    tip, after each lost race. An absent branch begins with a commit without parents. Raises
    PushRefused, LostRace after `tries` races, GitError for a path that git cannot hold, or what
    `Mirror.fetch` raises. Blocks; never touches a working tree.
    """
    signature = pygit2.Signature(author_name, author_email, int(at.timestamp()), 0)
    lost: LostRace | None = None
    for _ in range(tries):
        try:
            tip = mirror.fetch_branch(branch)
            commit = _commit_on(mirror, tip, edit=edit, message=message, signature=signature)
        except (KeyError, ObjectMissing) as error:
            mirror.doubt()
            raise ObjectMissing(
                f"{mirror.path}: branch {branch} cannot be built on: {error} is missing; "
                "the next look fetches everything anew"
            ) from error
        if commit is None:
            return None
        try:
            mirror.push(commit, branch=branch, expected=tip)
        except LostRace as error:
            lost = error
        else:
            return commit
    raise LostRace(f"branch {branch}: lost the race {tries} times in a row; last: {lost}") from lost


def _commit_on(
    mirror: Mirror,
    tip: str | None,
    *,
    edit: Callable[[TreeView], Changes],
    message: Callable[[Changes], str],
    signature: pygit2.Signature,
) -> str | None:
    """The edited tree as a commit in the mirror; None if it is the tree of `tip`."""
    repository = mirror.repository()
    tree = repository[tip].peel(pygit2.Commit).tree if tip else None
    changes = edit(TreeView(repository, tree))
    try:
        new = build_tree(repository, tree, changes=changes)
        if new is None or (tree is not None and new == tree.id):
            return None
        text = message(changes)
        parents = [tip] if tip else []
        return str(repository.create_commit(None, signature, signature, text, new, parents))
    except (pygit2.GitError, OSError) as error:
        told = f"{mirror.path}: no commit could be written: {error}"
        raise disk_error(told, cause=error) from error


def build_tree(
    repository: pygit2.Repository, tree: pygit2.Tree | None, *, changes: Changes
) -> pygit2.Oid | None:
    """The id of `tree` with `changes` made; None if nothing is left. Only folders that change are
    written. Raises GitError for a path that git cannot hold."""
    nested: _Folder = {}
    for path, content in sorted(changes.items()):
        _insert(nested, path, content=content)
    return _written(repository, tree, nested)


_Folder = dict[str, "bytes | _Folder | None"]


def _insert(folder: _Folder, path: str, *, content: bytes | None) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        inner = folder.setdefault(parent, {})
        if not isinstance(inner, dict):
            if content is None:
                return  # below a file, or below what goes anyway, there is nothing to delete
            # A deleted file may make room for a folder of its name.
            if inner is not None:
                raise GitError(f"{path}: {parent} is to be both a file and a folder")
            folder[parent] = inner = {}
        folder = inner
    folder[name] = content


def _written(
    repository: pygit2.Repository, tree: pygit2.Tree | None, folder: _Folder
) -> pygit2.Oid | None:
    builder = repository.TreeBuilder(tree) if tree is not None else repository.TreeBuilder()
    for name, new in folder.items():
        old = tree[name] if tree is not None and name and name in tree else None
        blob = repository.create_blob(new) if isinstance(new, bytes) else None
        try:
            if blob is not None:
                builder.insert(name, blob, FileMode.BLOB)
            elif new is None:
                if old is not None:
                    builder.remove(name)
            elif not isinstance(new, bytes):
                _insert_folder(repository, builder, name, old=old, new=new)
        except (pygit2.GitError, ValueError) as error:
            raise GitError(f"{name!r} cannot be a name in git: {error}") from error
    return builder.write() if len(builder) else None


def _insert_folder(
    repository: pygit2.Repository,
    builder: pygit2.TreeBuilder,
    name: str,
    *,
    old: pygit2.Object | None,
    new: _Folder,
) -> None:
    inner = _written(repository, old if isinstance(old, pygit2.Tree) else None, new)
    if inner is not None:
        builder.insert(name, inner, FileMode.TREE)
    elif isinstance(old, pygit2.Tree):
        # git has no empty folders.
        builder.remove(name)
