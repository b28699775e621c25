"""Reads a backup back into an empty database: a copy that was never restored is no backup."""

import argparse
import gzip
import hashlib
import sqlite3
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file", type=Path)
parser.add_argument("--sha256", required=True)
parser.add_argument("--rows", type=int, required=True)
given = parser.parse_args()

data = given.file.read_bytes()
if hashlib.sha256(data).hexdigest() != given.sha256:
    sys.exit(f"{given.file} is not what was written")
database = sqlite3.connect(":memory:")
database.executescript(gzip.decompress(data).decode())
tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]
rows = sum(database.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0] for t in tables)
if rows != given.rows:
    sys.exit(f"{given.file} has {rows} rows, expected {given.rows}")
print(f"{given.file}: {rows} rows in {len(tables)} tables")
