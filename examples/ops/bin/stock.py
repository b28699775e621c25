"""Stands for the systems that know the stock: one JSON file each below build/stock/.

The till is busy the first time that it is asked, as tills are: exit code 75.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from shop import connect

STOCK = Path("build/stock")
STOCK.mkdir(parents=True, exist_ok=True)
command, *systems = sys.argv[1:]

if command == "changes":
    rows = connect().execute("SELECT isbn, -sum(copies) FROM sales GROUP BY isbn ORDER BY isbn")
    print(json.dumps({isbn: copies for isbn, copies in rows}))
elif command == "tell":
    (system,) = systems
    asked = STOCK / f"{system}.asked"
    if system == "till" and not asked.exists():
        asked.touch()
        print("the till is busy", file=sys.stderr)
        sys.exit(75)
    (STOCK / f"{system}.json").write_text(os.environ["CHANGES"])
    print(f"{system} knows")
else:
    known = {system: (STOCK / f"{system}.json").read_text() for system in systems}
    if len(set(known.values())) > 1:
        sys.exit(f"{' and '.join(systems)} differ")
    print(f"{len(known)} systems agree")
