"""The examples on the pages of docs/language, and what the comments behind them promise.

A ```yaml block is a whole workflow; one without `steps` is what it says, with a step that does
nothing added (`base.yaml` aside). A first line `# path` makes the block a file of that name in the
folder of its page; others are `.dagu/example.yaml`. Behind the block may stand, as HTML comments:

    problem TEXT        the block is wrong, and one of its problems holds TEXT
    warning TEXT        it is right, and one of its warnings holds TEXT
    run [--approve] [K=V …]
    needs FOLDER/       (before the run)
    ends STATUS
    STEP prints TEXT
    STEP is STATUS
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "language"
_BLOCK = re.compile(
    r"^```yaml\n(?P<text>.*?)^```\n(?P<comments>(?:<!--.*?-->\n)*)", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"<!-- (.*?)\s*-->", re.DOTALL)
_FILE = re.compile(r"# ([.\w/-]+)\n")
BASE = ".dagu/base.yaml"


@dataclass(frozen=True)
class Example:
    """One block of a page; `line` is where it begins. `run` is None where it is only loaded."""

    page: str
    line: int
    text: str
    path: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    run: tuple[str, ...] | None
    promises: tuple[str, ...]

    @property
    def is_workflow(self) -> bool:
        return self.path.endswith(".yaml") and self.path != BASE

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def examples() -> list[Example]:
    found = []
    for file in sorted(FOLDER.glob("*.md")):
        page = file.read_text("utf-8")
        for block in _BLOCK.finditer(page):
            line = page.count("\n", 0, block.start()) + 1
            found.append(_example(file.name, line, block["text"], block["comments"]))
    return found


def _example(page: str, line: int, text: str, comments: str) -> Example:
    named = _FILE.match(text)
    said = _COMMENT.findall(comments)
    runs = [comment.splitlines() for comment in said if comment.split()[0] == "run"]
    words = shlex.split(runs[0][0])[1:] if runs else None
    return Example(
        page,
        line,
        text,
        named[1] if named else ".dagu/example.yaml",
        tuple(comment.removeprefix("problem ") for comment in said if comment[:8] == "problem "),
        tuple(comment.removeprefix("warning ") for comment in said if comment[:8] == "warning "),
        tuple(words) if words is not None else None,
        tuple(runs[0][1:]) if runs else (),
    )
