"""The workflows of the document that the language was made for, taken out as they stand.

The document is no part of this repository; where it is missing its tests are skipped. Nothing here
changes a character of what it holds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DOCUMENT = Path(__file__).resolve().parents[3] / "shared" / "seed" / "use-cases.md"
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NAME = re.compile(r"^name: (\S+)$", re.MULTILINE)


def workflows() -> dict[str, str]:
    """Name → text of each YAML block of the document, in its order."""
    blocks = _BLOCK.findall(DOCUMENT.read_text("utf-8"))
    return {_NAME.findall(block)[0]: block for block in blocks}


def programs(block: str) -> set[str]:
    """The first word of each command line of the block's local steps, items filled in."""
    found: set[str] = set()
    tree: dict[str, Any] = yaml.safe_load(block)
    for step in [*tree["steps"], *tree.get("handlerOn", {}).values()]:
        if "executor" in step:
            continue
        text = str(step.get("command", "")).replace("\\\n", " ")
        lines = [part.strip() for part in re.split(r"\n|\|", text) if part.strip()]
        items = step.get("parallel", {}).get("items", [""]) if "command" in step else []
        found |= {line.split()[0].replace("${ITEM}", str(i)) for line in lines for i in items}
    return found


def referenced(block: str) -> set[str]:
    """The sub-workflows that the block runs."""
    return {step["run"] for step in yaml.safe_load(block)["steps"] if "run" in step}
