"""Stands for the warehouse: writes a day's takings into an SQLite file, once for each day."""

import argparse
import sqlite3
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("file", type=Path)
parser.add_argument("day")
parser.add_argument("--receipts", type=int, required=True)
parser.add_argument("--cents", type=int, required=True)
given = parser.parse_args()

given.file.parent.mkdir(parents=True, exist_ok=True)
with sqlite3.connect(given.file) as books:
    books.execute("CREATE TABLE IF NOT EXISTS days (day TEXT PRIMARY KEY, receipts INT, cents INT)")
    row = (given.day, given.receipts, given.cents)
    books.execute("INSERT OR REPLACE INTO days VALUES (?, ?, ?)", row)
books.close()
print(f"{given.day}: {given.receipts} receipts, {given.cents / 100:.2f} EUR")
