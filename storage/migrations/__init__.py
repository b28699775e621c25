"""The schema's history: numbered SQL files per dialect, each known by its checksum.

Knows how to read the files and to compare them with what a database says it was built from.
Running them is each store's own work. A published file is never edited; a change is a new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from storage.store import StoreUnusable


class Migration(NamedTuple):
    """One file: `number` counts from 1 without gaps, `checksum` is its sha256 in hex."""

    number: int
    name: str
    checksum: str
    sql: str


def load(dialect: str, *, folder: Path | None = None) -> list[Migration]:
    """All migrations of a dialect in order. `folder` stands in for this package's own in tests.

    Raises ValueError if the numbers are not 1, 2, 3, ...
    """
    migrations = []
    files = sorted(((folder or Path(__file__).parent) / dialect).glob("*.sql"))
    for expected, file in enumerate(files, start=1):
        number, _, name = file.stem.partition("_")
        if number != f"{expected:04}":
            raise ValueError(f"{file.name}: the next migration is numbered {expected:04}")
        content = file.read_bytes()
        digest = sha256(content).hexdigest()
        migrations.append(Migration(expected, name, digest, content.decode()))
    return migrations


def missing(
    known: Sequence[Migration], applied: Mapping[int, str], *, database: str
) -> Sequence[Migration]:
    """What is still to be run on a database that says `applied` (number → checksum).

    Raises StoreUnusable if the database is newer than this program, or was built from other
    files than this program's. `database` names it in the message.
    """
    newest = max(applied, default=0)
    if newest > len(known):
        raise StoreUnusable(
            f"{database} has schema {newest}, but this program knows only up to {len(known)}: "
            "it was written by a newer Dagmill; upgrade this one, or use another data folder"
        )
    for migration in known[:newest]:
        if applied.get(migration.number) != migration.checksum:
            raise StoreUnusable(
                f"{database} was built by another text of migration "
                f"{migration.number:04}_{migration.name} than this program's; use the build of "
                "Dagmill that made it, or another data folder"
            )
    return known[newest:]
