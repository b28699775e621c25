"""What a mirror's folder needs before it is used again after a kill or a failed host.

Knows the files that git and libgit2 leave behind, and how their small files look when a write
was cut off. Leaves objects that are lost to `mirror`, which fetches everything anew. One rule:
only who holds the mirror's lock may call this, and nothing that can be read is deleted.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import pygit2

from storage.git_program import LOCK_NAME

_SUSPECT_S = 3600  # loose objects that are so much older than the newest one reached the disk
_FOLDERS = ("objects/pack", "objects/info", "refs/heads", "refs/tags")
_HEAD = b"ref: refs/heads/unknown\n"
_CONFIG = "[core]\n\tbare = true\n\trepositoryformatversion = 0\n\tfilemode = true\n"
_OID = re.compile(rb"[0-9a-f]{40}\n?")
_LINK = re.compile(rb"ref: refs/[^\n\0]+\n?")
_PACKED_LINE = re.compile(rb"#.*\n|[0-9a-f]{40} refs/[^\n\0]+\n|\^[0-9a-f]{40}\n")


def drop_leftovers(mirror: Path, *, before: float | None = None) -> None:
    """Delete locks and temporary files of a process that was killed.

    `before`: only those last changed before this time (seconds of the system's clock), for a
    mirror that has been in use since.
    """
    for file in _leftovers(mirror):
        try:
            if before is None or file.stat().st_mtime < before:
                file.unlink()
        except FileNotFoundError:
            continue


def _leftovers(mirror: Path) -> Iterator[Path]:
    yield from (lock for lock in mirror.glob("*.lock") if lock.name != LOCK_NAME)
    yield from (mirror / "refs").rglob("*.lock")
    # It would refuse a `git gc` for twelve hours while any process has its number.
    yield from mirror.glob("gc.pid")
    yield from mirror.glob("packed-refs.new")
    objects = mirror / "objects"
    yield from objects.glob("info/**/*.lock")
    for folder in (objects, *objects.glob("??"), objects / "pack"):
        yield from folder.glob("tmp_*")
        yield from folder.glob("*_git2_*")
    yield from (objects / "pack").glob("*.lock")
    yield from (objects / "pack").glob(".tmp-*")
    # libgit2 names the index first, then the pack: one alone was cut off between the two.
    packs = {file.stem for file in (objects / "pack").glob("*.pack")}
    yield from (file for file in (objects / "pack").glob("*.idx") if file.stem not in packs)


def mend(mirror: Path) -> list[str]:
    """Make the small files readable again; what was mended, for people.

    A ref that says nothing is dropped, for the next fetch sets it; a pin is named after what it
    keeps and is written again.
    """
    for name in _FOLDERS:
        (mirror / name).mkdir(parents=True, exist_ok=True)
    mended = [*_mend_head(mirror / "HEAD"), *_mend_config(mirror / "config")]
    mended += _mend_packed(mirror / "packed-refs")
    mended += _drop_cut_objects(mirror / "objects")
    for file in (mirror / "refs").rglob("*"):
        if file.is_file() and not _is_ref(file.read_bytes()):
            mended.append(f"{file}: unreadable")
            if file.parent.name == "pins" and _OID.fullmatch(file.name.encode()):
                _replace(file, f"{file.name}\n".encode())
            else:
                file.unlink()
    return mended


def _is_ref(content: bytes) -> bool:
    return bool(_OID.fullmatch(content) or _LINK.fullmatch(content))


def _mend_head(head: Path) -> Iterator[str]:
    if head.is_file() and not _is_ref(head.read_bytes()):
        _replace(head, _HEAD)
        yield f"{head}: unreadable"


def _mend_config(config: Path) -> Iterator[str]:
    try:
        if config.is_file():
            list(pygit2.Config(str(config)))
    except pygit2.GitError as error:
        _replace(config, _CONFIG.encode())
        yield f"{config}: {error}"


def _mend_packed(packed: Path) -> Iterator[str]:
    if not packed.is_file():
        return
    lines = packed.read_bytes().splitlines(keepends=True)
    good: list[bytes] = []
    dropped = False
    for line in lines:
        # A line with ^ says what the tag of the line before it stands for.
        dropped = dropped if line.startswith(b"^") and dropped else not _PACKED_LINE.fullmatch(line)
        if not dropped:
            good.append(line)
    if len(good) < len(lines):
        _replace(packed, b"".join(good))
        yield f"{packed}: {len(lines) - len(good)} unreadable lines"


def _drop_cut_objects(objects: Path) -> Iterator[str]:
    """Loose objects that a failing host cut off: libgit2 reads such a one for ever (1.9)."""
    written = {file: file.stat().st_mtime for file in objects.glob("[0-9a-f][0-9a-f]/*")}
    newest = max(written.values(), default=0.0)
    for file, at in written.items():
        if newest - at <= _SUSPECT_S and not _is_object(file):
            file.unlink()
            yield f"{file}: cut off"


def _is_object(file: Path) -> bool:
    inflate = zlib.decompressobj()
    try:
        content = inflate.decompress(file.read_bytes())
    except zlib.error:
        return False
    # Git's own name for the content, no protection.
    named = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    return inflate.eof and named == file.parent.name + file.name


def _replace(file: Path, content: bytes) -> None:
    new = file.with_name(f"{file.name}.lock")  # the next start deletes it if we are killed here
    new.write_bytes(content)
    new.replace(file)
