"""The study's programs in one: control measurements, fit a tide round by round, say the error."""

import argparse
import csv
import json
import math
from pathlib import Path

PERIOD_H = 12.42

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("command", choices=["control", "fit", "error"])
parser.add_argument("file", type=Path)
parser.add_argument("--station")
parser.add_argument("--out", type=Path)
given = parser.parse_args()


def error(levels: list[list[float]], height: float) -> float:
    mean = sum(cm for _, cm in levels) / len(levels)
    fitted = [mean + height * math.sin(2 * math.pi * hour / PERIOD_H) for hour, _ in levels]
    return sum(abs(cm - f) for (_, cm), f in zip(levels, fitted, strict=True)) / len(levels)


if given.command == "control":
    rows = [row for row in csv.DictReader(given.file.open()) if row["station"] == given.station]
    levels = [[int(row["hour"]), int(row["cm"])] for row in rows if 0 < int(row["cm"]) < 1000]
    if not levels:
        raise SystemExit(f"nothing was measured at {given.station}")
    given.out.parent.mkdir(exist_ok=True)
    given.out.write_text(json.dumps({"levels": levels, "height": 0.0, "round": 0}))
    print(json.dumps({"kept": len(levels), "dropped": len(rows) - len(levels)}))
else:
    study = json.loads(given.file.read_text())
    if given.command == "error":
        print(math.ceil(error(study["levels"], study["height"])))
    else:
        step = 64 / 2 ** study["round"]
        tries = (study["height"] - step, study["height"], study["height"] + step)
        study["height"] = min(tries, key=lambda height: error(study["levels"], height))
        study["round"] += 1
        given.file.write_text(json.dumps(study))
        found = {"round": study["round"], "height_cm": round(study["height"])}
        print(json.dumps({**found, "error_cm": round(error(study["levels"], study["height"]), 1)}))
