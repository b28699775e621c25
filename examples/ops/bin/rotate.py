"""Packs a log that has become too large and begins a new one."""

import argparse
import gzip
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("log", type=Path)
parser.add_argument("--max-kib", type=int, required=True)
given = parser.parse_args()

given.log.parent.mkdir(parents=True, exist_ok=True)
given.log.touch()
size = given.log.stat().st_size
if size > given.max_kib * 1024:
    given.log.with_suffix(".log.1.gz").write_bytes(gzip.compress(given.log.read_bytes()))
    given.log.write_bytes(b"")
    print(f"{given.log.name}: packed {size} bytes")
else:
    print(f"{given.log.name}: {size} bytes may stay")
