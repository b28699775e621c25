"""Runs one query and prints {"rows": […], "last": {…}} as JSON."""

import argparse
import json
import sqlite3
from pathlib import Path

from shop import connect, exit_if_busy

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("query", type=Path)
parser.add_argument("--limit", type=int)
given = parser.parse_args()

try:
    rows = [dict(row) for row in connect().execute(given.query.read_text("utf-8"))]
except sqlite3.OperationalError as error:
    exit_if_busy(error)
    raise
rows = rows[: given.limit]
print(json.dumps({"rows": rows, "last": rows[-1] if rows else None}))
