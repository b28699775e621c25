"""Adds up what the shops' tills said (TILLS, the outputs of a run for each of them)."""

import json
import os

runs = json.loads(os.environ["TILLS"])["outputs"]
tills = [json.loads(run["RECEIPTS"]) for run in runs]
cents = [amount for till in tills for amount in till["cents"]]
print(json.dumps({"receipts": len(cents), "cents": sum(cents)}))
