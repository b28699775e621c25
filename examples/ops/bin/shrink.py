"""Gives the space of deleted rows back to the disk; makes the database if there is none."""

import sqlite3
import sys
from pathlib import Path

file = Path(sys.argv[1])
file.parent.mkdir(exist_ok=True)
database = sqlite3.connect(file)
database.execute("VACUUM")
database.close()
print(f"{file.stat().st_size} bytes")
