"""The shop's database: the file that SHOP_DB names, else the sample data in memory."""

import os
import sqlite3
import sys
from pathlib import Path

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "shop.sql"
BUSY = 75  # "try again later", as sysexits.h has it


def connect() -> sqlite3.Connection:
    """The database, with rows that know their columns' names. Exits where it cannot be read."""
    file = os.environ.get("SHOP_DB", "")
    if file and not Path(file).is_file():
        sys.exit(f"there is no database {file} (SHOP_DB)")
    database = sqlite3.connect(f"file:{file}?mode=ro" if file else ":memory:", uri=True)
    database.row_factory = sqlite3.Row
    if not file:
        database.executescript(SAMPLE.read_text("utf-8"))
    return database


def exit_if_busy(error: sqlite3.OperationalError) -> None:
    if "locked" in str(error) or "busy" in str(error):
        print(f"the database is busy: {error}", file=sys.stderr)
        sys.exit(BUSY)
