"""A bare mirror of one repository: its refs, commits, snapshots and pins.

Knows what is on disk and how to bring it up to date. Leaves how a remote is talked to, and how
that fails, to `remote` (whose names it passes on), and what a commit means to `runner`. One rule:
everything blocks, so callers use threads; a Mirror may be shared, each thread gets its own
`pygit2.Repository`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
import shutil
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import pygit2
from pygit2.enums import ObjectType

from storage.git_errors import (
    AccessDenied,
    BranchMissing,
    GitError,
    LostRace,
    NotARepository,
    PushRefused,
    Unreachable,
    disk_error,
)
from storage.git_program import LOCK_NAME, locked
from storage.mirror_repair import drop_leftovers, mend
from storage.remote import (
    Credential,
    Credentials,
    Origin,
    configure_git,
    copy_objects,
    parse_address,
    shown_url,
)

__all__ = [
    "AccessDenied",
    "BlobTooLarge",
    "BranchMissing",
    "CommitInfo",
    "Credential",
    "Credentials",
    "GitError",
    "LostRace",
    "Mirror",
    "NotARepository",
    "ObjectMissing",
    "PushRefused",
    "Seen",
    "Snapshot",
    "SnapshotFile",
    "Unreachable",
    "configure_git",
    "shown_url",
]

Kind = Literal["file", "link", "submodule"]

_HEADS, _TRACKED, _TAGS, _PINS = "refs/heads/", "refs/remotes/origin/", "refs/tags/", "refs/pins/"
# Never +refs/*: a forge's refs/pull/* would come along at every poll.
_REFSPECS = [f"+{_HEADS}*:{_TRACKED}*", f"+{_TAGS}*:{_TAGS}*"]
_TREE_ENTRY = re.compile(rb"[0-7]+ [^\0]+\0.{20}", re.DOTALL)  # mode, name, raw id
_TREE_MODES = (b"40000", b"040000")  # the second by old programs
_KINDS: Mapping[bytes, Kind] = MappingProxyType({b"120000": "link", b"160000": "submodule"})
_REBUILT_AGAIN_S = 3600.0  # a remote that is itself damaged is not cloned at each look


class ObjectMissing(GitError):
    """The mirror has no such commit or blob: fetch, or the remote has dropped it."""


class BlobTooLarge(GitError):
    """A blob is larger than its reader takes: wait for a new commit."""


@dataclass(frozen=True)
class Seen:
    """The branches and tags of a repository at one moment, by their names over there.

    `head` is the full ref of the default branch (None: empty repository or detached); `refs` maps
    full ref to oid, where an annotated tag is its own object (see `Mirror.peel`).
    """

    head: str | None
    refs: Mapping[str, str]


@dataclass(frozen=True)
class CommitInfo:
    oid: str
    author: str
    committed_at: datetime
    subject: str


@dataclass(frozen=True)
class SnapshotFile:
    """One entry below the folder. `path` starts at the repository's root; bytes of it that are not
    UTF-8 are written as `\\xNN`. A link's blob is its target; a submodule has no size."""

    path: str
    blob: str
    size_bytes: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Folder:
    """One tree: its `files` by the bytes of their entries, (path with a slash, raw id) of the
    folders right below it."""

    tree: bytes
    files: Mapping[bytes, SnapshotFile]
    folders: tuple[tuple[str, bytes], ...]


@dataclass(frozen=True)
class Snapshot:
    """What a folder holds at a commit, sorted by path. `folder_missing`: the commit has no such
    folder (a file or a link of that name is none). `folders` (by path, with a slash) is how it was
    read, for the next snapshot."""

    commit: str
    files: tuple[SnapshotFile, ...]
    folder_missing: bool = False
    folders: Mapping[str, _Folder] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )


class Mirror:
    """The bare mirror of `url` at `path`, created there if absent.

    Raises NotARepository for a URL of no known form, GitError if `path` holds something else.
    Nothing is contacted before `fetch`. `configure_git` must have been called in this process.
    """

    def __init__(
        self,
        path: Path,
        *,
        url: str,
        credentials: Credentials | None = None,
        deadline_s: float = 300,
    ) -> None:
        self.path = path
        self._origin = Origin(parse_address(url), credentials, deadline_s)
        self._mine = threading.local()
        self._opened: weakref.WeakSet[pygit2.Repository] = weakref.WeakSet()
        self._opening = threading.Lock()
        self._pinning = threading.Lock()
        self._closed = False
        self._opened_at = time.time()
        self._left_by_others = False  # leftovers of a killed process could not be deleted yet
        self._checked = False  # that what the refs name is there
        self._doubted = False
        self._rebuilt_at: float | None = None  # monotonic
        self._repairs: list[str] = []
        try:
            self._take_over()
            if not (path / "HEAD").is_file():
                pygit2.init_repository(str(path), bare=True)
            self.repository()
        except (pygit2.GitError, OSError) as error:
            raise GitError(
                f"{path}: the mirror cannot be opened ({error}); delete the folder, it will be "
                "fetched again"
            ) from error

    @property
    def url(self) -> str:
        """The remote's URL as it may be shown."""
        return self._origin.address.shown

    def close(self) -> None:
        """Release files and memory. No other method may run meanwhile or be called afterwards."""
        self._closed = True
        for repository in list(self._opened):
            repository.free()
        self._mine = threading.local()

    def repository(self) -> pygit2.Repository:
        """This thread's handle on the mirror, for reading and writing objects only."""
        if self._closed:
            raise GitError(f"{self.path}: the mirror is closed")
        # A new handle after each fetch and gc: an old one keeps the deleted packs open for ever.
        packs = (self.path / "objects/pack").stat().st_mtime_ns
        mine: tuple[int, pygit2.Repository] | None = getattr(self._mine, "handle", None)
        if mine is None or mine[0] != packs:
            with self._opening:
                mine = (packs, pygit2.Repository(str(self.path)))
                self._opened.add(mine[1])
            self._mine.handle = mine
        return mine[1]

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """What goes wrong here and not over there is a GitError too."""
        try:
            yield
        except KeyError as error:
            raise ObjectMissing(f"{self.path}: object {error} is missing; fetch") from error
        except (pygit2.GitError, OSError) as error:
            told = (
                f"{self.path}: {error}; is the disk full, or is the mirror damaged? It may be "
                "deleted, it will be fetched again"
            )
            raise disk_error(told, cause=error) from error

    # --- after a kill, and after damage ---

    def _take_over(self) -> None:
        """Clear away what a killed process left. One service uses a data folder at a time, so
        that only a `git gc` which outlived its service can hold the lock now: then later."""
        if self._aside.exists() and not self.path.exists():
            self._aside.rename(self.path)  # killed in the middle of a rebuild
        if not (self.path / LOCK_NAME).is_file():
            return  # new, or not ours
        try:
            with locked(self.path, wait_s=0):
                drop_leftovers(self.path)
                self._repairs += mend(self.path)
                for folder in (self._aside, self._fresh):
                    shutil.rmtree(folder, ignore_errors=True)
        except Unreachable:
            self._left_by_others = True

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the mirror."""
        with locked(self.path, wait_s=self._origin.deadline_s):
            if self._left_by_others:
                drop_leftovers(self.path, before=self._opened_at)
                self._left_by_others = False
            yield

    def doubt(self) -> None:
        """Objects that ought to be here cannot be read: let the next fetch get everything anew."""
        self._doubted = True

    def repairs(self) -> tuple[str, ...]:
        """What was mended since the last call, for people."""
        told, self._repairs = tuple(self._repairs), []
        return told

    @property
    def _fresh(self) -> Path:
        return self.path.with_name(f"{self.path.name}.fresh")

    @property
    def _aside(self) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged")

    def _rebuild(self) -> None:
        """Fetch everything into a new folder, with the pinned commits that are still whole, and
        put that in the place of this one. The lock is held."""
        now = time.monotonic()
        if self._rebuilt_at is not None and now - self._rebuilt_at < _REBUILT_AGAIN_S:
            raise ObjectMissing(
                f"{self.path}: objects are missing although everything was fetched anew; is "
                f"{self.url} damaged itself? `git fsck` there tells"
            )
        lost = self._fetch_afresh()
        self.path.rename(self._aside)
        self._fresh.rename(self.path)
        shutil.rmtree(self._aside, ignore_errors=True)
        # libgit2 knows packs by their paths for as long as a handle has them open, and the same
        # objects make a pack of the same name: it would go on reading the damaged one.
        self._mine = threading.local()
        gc.collect()  # a handle and its collections refer to each other
        self._doubted, self._rebuilt_at = False, now
        self._repairs.append(f"{self.path}: objects were missing; everything was fetched anew")
        self._repairs += [f"{self.path}: commit {oid} was pinned and is lost" for oid in lost]

    def _fetch_afresh(self) -> list[str]:
        """Fill the new folder; the pinned commits that could not be carried over to it."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        fresh = pygit2.init_repository(str(self._fresh), bare=True)
        look = self._origin.look(fresh)
        self._origin.fetch(look, _REFSPECS)
        self._remember_head(fresh, look.head)
        old = self.repository()
        return [oid for oid in sorted(self.pins()) if not _carried(old, fresh, oid)]

    # --- the remote ---

    def fetch(self) -> Seen:
        """Bring the mirror up to date and return what it now has.

        One connection; nothing is transferred or written if nothing changed. Raises Unreachable,
        AccessDenied or NotARepository; refs seen before that stay as they were or are newer.
        """
        with self._disk(), self._alone():
            broken = self._doubted and self._has_refs()
            self._doubted = False
            if not broken:
                try:
                    self._bring_up_to_date()
                except (KeyError, ObjectMissing):
                    broken = True
            if broken:
                self._doubted = True
                self._rebuild()
        return self.seen()

    def _has_refs(self) -> bool:
        return next(_refs(self.repository()), None) is not None

    def _bring_up_to_date(self) -> None:
        """Raises KeyError or ObjectMissing where the mirror lacks objects that it had."""
        repository = self.repository()
        look = self._origin.look(repository)
        wanted = {_kept_as(ref): oid for ref, oid in look.heads.items()}
        have = dict(_refs(repository))
        # Before the fetch, not by its prune afterwards: `a` must go for `a/b` to come.
        for ref in have.keys() - wanted.keys():
            repository.references.delete(ref)
        moved = any(have.get(ref) != oid for ref, oid in wanted.items())
        if moved:
            self._origin.fetch(look, _REFSPECS)
        if moved or not self._checked:
            _check_tips(self.repository(), wanted)
            self._checked = True
        self._remember_head(repository, look.head)

    def fetch_branch(self, branch: str) -> str | None:
        """The commit that `branch` (short name) is at over there now, its objects fetched; None
        if there is no such branch. Raises PushRefused if there can be none."""
        ref, tracked = f"{_HEADS}{branch}", f"{_TRACKED}{branch}"
        with self._disk(), self._alone():
            repository = self.repository()
            look = self._origin.look(repository)
            _check_room(look.heads, ref, url=self.url)
            known = repository.references.get(tracked)
            tip = look.heads.get(ref)
            if tip is None:
                if known is not None:
                    repository.references.delete(tracked)
            elif known is None or str(known.target) != tip or tip not in repository:
                self._origin.fetch(look, [f"+{ref}:{tracked}"])
            return tip

    def push(self, commit: str, *, branch: str, expected: str | None) -> None:
        """Move `branch` over there from `expected` (None: absent) to `commit`, never by force.

        Raises LostRace if it is elsewhere, PushRefused with the server's words, or what `fetch`
        raises; a connection that breaks late may have moved it all the same.
        """
        repository = self.repository()
        self._origin.push(repository, commit, ref=f"{_HEADS}{branch}", expected=expected)
        with self._disk():
            repository.references.create(f"{_TRACKED}{branch}", commit, force=True)

    def _remember_head(self, repository: pygit2.Repository, head: str | None) -> None:
        """The mirror's own HEAD says which branch is the default one over there."""
        target = _kept_as(head) if head else f"{_HEADS}unknown"
        if repository.lookup_reference("HEAD").target != target:
            repository.references.create("HEAD", target, force=True)

    # --- refs ---

    def seen(self) -> Seen:
        """What the mirror has, from disk."""
        repository = self.repository()
        refs = {_called(ref): oid for ref, oid in _refs(repository)}
        head = _called(str(repository.lookup_reference("HEAD").target))
        return Seen(head if head in refs else None, refs)

    def tip(self, ref: str) -> str:
        """The commit that a full ref is at. Raises BranchMissing, which names those there are."""
        seen = self.seen()
        commit = self.peel(seen.refs[ref]) if ref in seen.refs else None
        if commit is None:
            branches = sorted(name.removeprefix(_HEADS) for name in seen.refs if _HEADS in name)
            there = ", ".join(branches[:10]) or "none; the repository is empty"
            raise BranchMissing(
                f"{self.url}: there is no {ref.removeprefix(_HEADS)}; its branches are: {there}"
            )
        return commit

    def peel(self, oid: str) -> str | None:
        """The commit that a commit or an annotated tag stands for; None for anything else."""
        try:
            return str(self.repository()[pygit2.Oid(hex=oid)].peel(pygit2.Commit).id)
        except (KeyError, ValueError, pygit2.GitError):
            return None

    def pin(self, oid: str) -> None:
        """Keep a commit and its history, whatever becomes of the refs. Twice is once."""
        repository = self.repository()
        _find(repository, oid)
        with self._pinning, self._disk():
            if f"{_PINS}{oid}" not in repository.references:
                repository.references.create(f"{_PINS}{oid}", oid)

    def unpin(self, oid: str) -> None:
        """No longer keep it. Nothing happens if it is not pinned."""
        repository = self.repository()
        with self._pinning, self._disk():
            if f"{_PINS}{oid}" in repository.references:
                repository.references.delete(f"{_PINS}{oid}")

    def pins(self) -> frozenset[str]:
        names = self.repository().references
        return frozenset(name.removeprefix(_PINS) for name in names if name.startswith(_PINS))

    # --- commits ---

    def commit(self, oid: str) -> CommitInfo:
        """Raises ObjectMissing."""
        commit = _commit(self.repository(), oid)
        message = commit.raw_message.decode(errors="replace").strip()
        seconds = min(max(commit.commit_time, 0), 253_402_300_799)  # the year 9999
        return CommitInfo(
            oid=str(commit.id),
            author=commit.author.raw_name.decode(errors="replace"),
            committed_at=datetime.fromtimestamp(seconds, UTC),
            subject=message.partition("\n")[0].strip(),
        )

    def is_ancestor(self, commit: str, tip: str) -> bool:
        """Whether `commit` is `tip` or in its history; False if either is unknown."""
        repository = self.repository()
        old, new = self.peel(commit), self.peel(tip)
        if old is None or new is None:
            return False
        return old == new or repository.descendant_of(new, old)

    def changed_paths(
        self, before: str | None, after: str, *, default_branch: str | None
    ) -> tuple[str, ...]:
        """Paths that differ between two commits, sorted; a rename counts with both names.

        `before` None or unknown: from the merge base of `after` with `default_branch` (full ref),
        and without one all files. Raises ObjectMissing if `after` is unknown.
        """
        repository = self.repository()
        new = _commit(repository, after)
        base = self.peel(before) if before else None
        if base is None and default_branch:
            base = self._merge_base(default_branch, str(new.id))
        old = _commit(repository, base).tree if base else None
        with self._disk():
            return tuple(sorted(_differing(old, new.tree)))

    def _merge_base(self, ref: str, commit: str) -> str | None:
        repository = self.repository()
        kept = repository.references.get(_kept_as(ref))
        tip = self.peel(str(kept.target)) if kept else None
        base = repository.merge_base(tip, commit) if tip else None
        return str(base) if base else None

    # --- files ---

    def snapshot(
        self, commit: str, *, folder: str = ".dagu", since: Snapshot | None = None
    ) -> Snapshot:
        """What `folder` holds at `commit`, read from its tree: no checkout, no link followed.

        `since`, a snapshot of the same folder, gives its objects of the files that are unchanged;
        of those nothing is read. Raises ObjectMissing.
        """
        repository = self.repository()
        with self._disk():
            tree = _folder(_commit(repository, commit).tree, folder)
            if tree is None:
                return Snapshot(commit, (), folder_missing=True)
            top = f"{folder.strip('/')}/"
            known = {} if since is None else since.folders
            folders = dict(_folders(repository, top, tree.id.raw, known=known))
        if since is not None and folders[top] is known.get(top):
            return dataclasses.replace(since, commit=commit)
        files = [file for found in folders.values() for file in found.files.values()]
        files.sort(key=attrgetter("path"))
        return Snapshot(commit, tuple(files), folders=folders)

    def read_blob(self, oid: str, *, limit_bytes: int) -> bytes:
        """A blob's bytes. Raises BlobTooLarge before reading it, or ObjectMissing."""
        repository = self.repository()
        try:
            kind, size = repository.odb.read_header(pygit2.Oid(hex=oid))
            if size > limit_bytes:
                raise BlobTooLarge(f"blob {oid} has {size} bytes, more than {limit_bytes}")
            if kind == ObjectType.BLOB:
                return repository.odb.read(pygit2.Oid(hex=oid))[1]
        except (KeyError, ValueError) as error:
            raise ObjectMissing(f"blob {oid} is not in {self.path}") from error
        raise ObjectMissing(f"{oid} is no blob")


def _kept_as(ref: str) -> str:
    """Where the mirror keeps a ref of the remote."""
    return _TRACKED + ref.removeprefix(_HEADS) if ref.startswith(_HEADS) else ref


def _called(kept: str) -> str:
    """What a ref of the mirror is called over there."""
    return _HEADS + kept.removeprefix(_TRACKED) if kept.startswith(_TRACKED) else kept


def _refs(repository: pygit2.Repository) -> Iterator[tuple[str, str]]:
    for reference in repository.references.iterator():
        if reference.name.startswith((_TRACKED, _TAGS)):
            yield reference.name, str(reference.target)


def _check_tips(repository: pygit2.Repository, wanted: Mapping[str, str]) -> None:
    """Raises KeyError if what a ref is at cannot be read."""
    for oid in set(wanted.values()):
        repository.odb.read_header(pygit2.Oid(hex=oid))  # `in` asks the index of a pack only


def _carried(old: pygit2.Repository, fresh: pygit2.Repository, oid: str) -> bool:
    """Pin a commit in the rebuilt mirror, with what it needs of the old one; False if that cannot
    be read."""
    try:
        copy_objects(old, fresh, oid)
    except (KeyError, pygit2.GitError):
        return False
    fresh.references.create(f"{_PINS}{oid}", oid)
    return True


def _check_room(heads: Mapping[str, str], ref: str, *, url: str) -> None:
    """git keeps refs like files: `a` and `a/b` cannot both be branches. The server would only say
    "failed to update ref", which looks like a lost race."""
    for other in heads:
        if ref.startswith(f"{other}/") or other.startswith(f"{ref}/"):
            names = ref.removeprefix(_HEADS), other.removeprefix(_HEADS)
            reason = f"{names[0]} cannot exist beside {names[1]}; rename one of them"
            raise PushRefused(f"{url}: {reason}", reason=reason)


def _find(repository: pygit2.Repository, oid: str) -> pygit2.Object:
    try:
        return repository[pygit2.Oid(hex=oid)]
    except (KeyError, ValueError) as error:
        raise ObjectMissing(f"{oid} is not in {repository.path}; fetch, or it is gone") from error


def _commit(repository: pygit2.Repository, oid: str) -> pygit2.Commit:
    try:
        return _find(repository, oid).peel(pygit2.Commit)
    except pygit2.GitError as error:
        raise ObjectMissing(f"{oid} is no commit") from error


def _name(entry: pygit2.Object) -> str:
    return (entry.raw_name or b"").decode(errors="backslashreplace")


def _folder(tree: pygit2.Tree, path: str) -> pygit2.Tree | None:
    """The folder at `path`, reached through folders only."""
    for part in path.strip("/").split("/"):
        entry = tree / part if part in tree else None
        if not isinstance(entry, pygit2.Tree):
            return None
        tree = entry
    return tree


def _folders(
    repository: pygit2.Repository, place: str, tree: bytes, *, known: Mapping[str, _Folder]
) -> Iterator[tuple[str, _Folder]]:
    """The folder at `place` and all below it, by path. What `known` has is not read again."""
    todo = [(place, tree)]
    while todo:
        place, tree = todo.pop()
        found = known.get(place)
        if found is None or found.tree != tree:
            found = _read_folder(repository, place, tree, known=found)
        yield place, found
        todo += found.folders


def _read_folder(
    repository: pygit2.Repository, place: str, tree: bytes, *, known: _Folder | None
) -> _Folder:
    """From the tree's bytes, as pygit2 makes an object of each entry. Source: git-scm.com, "Git
    Internals - Git Objects"."""
    before = known.files if known is not None else {}
    files: dict[bytes, SnapshotFile] = {}
    folders: list[tuple[str, bytes]] = []
    for entry in _TREE_ENTRY.findall(repository.odb.read(pygit2.Oid(raw=tree))[1]):
        if (same := before.get(entry)) is not None:
            files[entry] = same
            continue
        mode, _, rest = entry.partition(b" ")
        path, oid = place + rest[:-21].decode(errors="backslashreplace"), rest[-20:]
        if mode in _TREE_MODES:
            folders.append((f"{path}/", oid))
        else:
            kind = _KINDS.get(mode, "file")
            files[entry] = _snapshot_file(repository, path, pygit2.Oid(raw=oid), kind=kind)
    return _Folder(tree, files, tuple(folders))


def _snapshot_file(
    repository: pygit2.Repository, path: str, blob: pygit2.Oid, *, kind: Kind
) -> SnapshotFile:
    size = 0 if kind == "submodule" else repository.odb.read_header(blob)[1]
    return SnapshotFile(path, str(blob), size, kind)


def _differing(old: pygit2.Tree | None, new: pygit2.Tree) -> Iterator[str]:
    """Paths whose entries differ. By hand, as libgit2's diff of two large trees would hold the
    interpreter's lock from its first file to its last."""
    todo: list[tuple[str, pygit2.Tree | None, pygit2.Tree | None]] = [("", old, new)]
    while todo:
        place, left, right = todo.pop()
        before, after = ({_name(e): e for e in side or ()} for side in (left, right))
        for name in before.keys() | after.keys():
            a, b = before.get(name), after.get(name)
            if a and b and a.id == b.id and a.filemode == b.filemode:
                continue
            folders = [e if isinstance(e, pygit2.Tree) else None for e in (a, b)]
            if any(folders):
                todo.append((f"{place}{name}/", folders[0], folders[1]))
            if any(e is not None and not isinstance(e, pygit2.Tree) for e in (a, b)):
                yield place + name
