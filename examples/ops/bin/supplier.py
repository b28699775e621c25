"""Stands for a supplier's API: a key, a token, pages of prices. Asked for its pages for the first
time it says "too many requests" (exit code 29)."""

import argparse
import json
import os
import sys
from pathlib import Path

PRICES = [["978-0-00-000001-2", 1470], ["978-0-00-000002-9", 1130], ["978-0-00-000003-6", 950]]
PRICES += [["978-0-00-000004-3", 1260], ["978-0-00-000005-0", 1050]]
KEY, TOKEN = "key-of-the-bookshop", "token-for-an-hour"
ASKED = Path("build/supplier.asked")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("command", choices=["key", "sign-in", "pages", "page", "join"])
parser.add_argument("value", nargs="?", default="")
parser.add_argument("--token")
parser.add_argument("--size", type=int, default=2)
parser.add_argument("--out", type=Path)
given = parser.parse_args()

if given.command in ("pages", "page") and given.token != TOKEN:
    sys.exit("the supplier does not know this token")
match given.command:
    case "key":
        print(KEY)
    case "sign-in":
        if given.value != KEY:
            sys.exit("the supplier does not know this key")
        print(TOKEN)
    case "pages":
        ASKED.parent.mkdir(exist_ok=True)
        if not ASKED.exists():
            ASKED.touch()
            print("too many requests", file=sys.stderr)
            sys.exit(29)
        count = -(-len(PRICES) // given.size)
        print(json.dumps([str(number + 1) for number in range(count)]))
    case "page":
        begin = (int(given.value) - 1) * given.size
        print(json.dumps(PRICES[begin : begin + given.size]))
    case "join":
        outputs = json.loads(os.environ["FETCHED"])["outputs"]
        rows = [row for run in outputs for row in json.loads(run["ROWS"])]
        given.out.write_text(json.dumps(dict(rows)))
        print(f"{len(rows)} prices from {len(outputs)} pages")
