"""Stands for the tills: prints the day's receipts of one shop, in cents, as JSON."""

import json
import sys

RECEIPTS = {
    "harbour": [2450, 1890, 4780],
    "station": [1590, 2100],
    "market": [2890, 1750, 3480, 4100],
}

shop = sys.argv[1]
if shop not in RECEIPTS:
    sys.exit(f'there is no shop "{shop}"')
print(json.dumps({"shop": shop, "cents": RECEIPTS[shop]}, separators=(",", ":")))
