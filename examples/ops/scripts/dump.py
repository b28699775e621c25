"""Writes the whole database as compressed SQL and prints what was written, as JSON."""

import argparse
import gzip
import hashlib
import json
import sqlite3
from pathlib import Path

from shop import connect, exit_if_busy

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--into", type=Path, required=True)
parser.add_argument("--date", required=True)
given = parser.parse_args()

try:
    lines = list(connect().iterdump())
except sqlite3.OperationalError as error:
    exit_if_busy(error)
    raise
data = gzip.compress("\n".join(lines).encode(), mtime=0)
given.into.mkdir(parents=True, exist_ok=True)
file = given.into / f"shop-{given.date}.sql.gz"
file.write_bytes(data)
rows = sum(line.startswith("INSERT INTO") for line in lines)
print(json.dumps({"file": str(file), "rows": rows, "sha256": hashlib.sha256(data).hexdigest()}))
