"""Copies the pages, each with the commit it was built from, and prints what was built as JSON."""

import argparse
import json
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("source", type=Path)
parser.add_argument("--into", type=Path, required=True)
parser.add_argument("--commit", required=True)
given = parser.parse_args()

pages = sorted(given.source.glob("*.html"))
given.into.mkdir(parents=True, exist_ok=True)
commit = given.commit[:10] or "no commit"
for page in pages:
    text = page.read_text("utf-8").replace("</body>", f"<footer>{commit}</footer>\n</body>")
    (given.into / page.name).write_text(text, "utf-8")
print(json.dumps({"pages": len(pages), "commit": commit}))
