"""Stands for a cloud's tool: its machines are the lines of build/cloud.txt."""

import argparse
import json
from pathlib import Path

CLOUD = Path("build/cloud.txt")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("command", choices=["validate", "plan", "apply", "list"])
parser.add_argument("file", type=Path, nargs="?")
parser.add_argument("--place")
parser.add_argument("--out", type=Path)
given = parser.parse_args()

there = CLOUD.read_text().split() if CLOUD.exists() else []
if given.command == "validate":
    places = json.loads(given.file.read_text())
    print(f"{len(places)} places are fine")
elif given.command == "plan":
    wanted = [f"{given.place}/{name}" for name in json.loads(given.file.read_text())[given.place]]
    here = [name for name in there if name.startswith(f"{given.place}/")]
    plan = {
        "add": [name for name in wanted if name not in here],
        "remove": [name for name in here if name not in wanted],
    }
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps(plan))
    print(json.dumps({key: len(names) for key, names in plan.items()}))
elif given.command == "apply":
    plan = json.loads(given.file.read_text())
    kept = [name for name in there if name not in plan["remove"]]
    CLOUD.write_text("\n".join([*kept, *plan["add"], ""]))
    print(
        f"added {', '.join(plan['add']) or 'none'}; removed {', '.join(plan['remove']) or 'none'}"
    )
else:
    print("\n".join(there))
