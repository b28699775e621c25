"""Fails when the disk is nearly full."""

import argparse
import shutil
import sys

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--min-free-mib", type=int, required=True)
given = parser.parse_args()

free_mib = shutil.disk_usage(".").free // 2**20
if free_mib < given.min_free_mib:
    sys.exit(f"only {free_mib} MiB are free, {given.min_free_mib} are needed")
print(f"{free_mib} MiB are free")
