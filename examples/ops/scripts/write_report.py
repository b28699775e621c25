"""Fills the template with what the queries found (TURNOVER, BEST) and the title (TITLE)."""

import argparse
import json
import os
from pathlib import Path


def table(variable: str) -> str:
    """The rows of a query's output as a Markdown table."""
    rows = json.loads(os.environ[variable])["rows"]
    if not rows:
        return "Nothing."
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("template", type=Path)
parser.add_argument("--into", type=Path, required=True)
given = parser.parse_args()

page = given.template.read_text("utf-8")
page = page.replace("{title}", os.environ["TITLE"])
page = page.replace("{turnover}", table("TURNOVER"))
page = page.replace("{best_sellers}", table("BEST"))
given.into.parent.mkdir(parents=True, exist_ok=True)
given.into.write_text(page, "utf-8")
print(f"wrote {given.into}")
