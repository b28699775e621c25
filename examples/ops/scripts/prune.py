"""Deletes the oldest backups; the newest ones stay."""

import argparse
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
parser.add_argument("--keep", type=int, required=True)
given = parser.parse_args()

files = sorted(given.folder.glob("shop-*.sql.gz"))  # the date is in the name
old = files[: -given.keep] if given.keep > 0 else []
for file in old:
    file.unlink()
    print(f"deleted {file}")
print(f"{len(files) - len(old)} backups are kept")
