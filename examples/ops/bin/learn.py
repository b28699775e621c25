"""Stands for a machine learning tool: models with results that are known beforehand."""

import json
import os
import sys
from pathlib import Path

HITS = {"popular": 0.61, "together": 0.83, "random": 0.12}
MODELS = Path("build/models")

command, *words = sys.argv[1:]
MODELS.mkdir(parents=True, exist_ok=True)
if command == "prepare":
    (MODELS / "sales.txt").write_text("sales of three months\n")
    print(json.dumps({"file": str(MODELS / "sales.txt"), "months": 3}))
elif command == "train":
    data, kind, *options = words
    text = json.dumps({"kind": kind, "options": options, "data": Path(data).read_text()})
    (MODELS / f"{kind}.json").write_text(text)
    print(json.dumps({"kind": kind, "hits": HITS[kind]}))
elif command == "compare":
    outputs = json.loads(os.environ["TRAINED"])["outputs"]
    models = [json.loads(run["MODEL"]) for run in outputs]
    best = max(models, key=lambda model: model["hits"])
    print(json.dumps({**best, "good": best["hits"] >= float(os.environ["AT_LEAST"])}))
else:
    (MODELS / "in-the-shop.json").write_text((MODELS / f"{words[0]}.json").read_text())
    print(f"{words[0]} recommends books now")
