"""Programs that only write down how they were called, in a folder that is a whole PATH.

Beside them the folder has links to a few real programs that change nothing by themselves. A stub
answers what a test gave it to answer (shell text), else nothing and exit 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# What a stub needs itself, what a workflow may call without harm, and git for the program under
# test. None of them deletes, copies or reaches out, as the workflows here call them.
HARMLESS = ("sh", "cat", "date", "env", "git")

# The answer may count its calls or fail; `$0` is not known to it, its arguments are.
_STUB = """\
#!/bin/sh
name=${0##*/}
call=%(calls)s/$(date +%%s%%N).$$
if read -r line; then stdin=text; else stdin=none; fi 2>/dev/null
{ printf '%%s\\0' "$name" "$(pwd)" "$stdin" "$#" "$@"; env -0; } >"$call"
for answer in "%(answers)s/$name ${1##*/}" "%(answers)s/$name"; do
  if [ -f "$answer" ]; then . "$answer"; exit; fi
done
"""


@dataclass(frozen=True)
class Call:
    """One call of a stub, in the order of `Stubs.calls`."""

    program: str
    argv: tuple[str, ...]
    cwd: Path
    stdin: str  # "none" where there was nothing to be read
    env: dict[str, str]


@dataclass(frozen=True)
class Stubs:
    """`path` is the folder for PATH."""

    path: Path
    written: Path
    answers: Path

    def text(self) -> str:
        """The program itself, for stubs that lie elsewhere."""
        return _STUB % {"calls": self.written, "answers": self.answers}

    def answer(self, program: str, shell: str) -> None:
        """What `program` (`"python"`, or `"python load.py"` by its first argument) does next."""
        (self.answers / program).write_text(shell)

    def calls(self, *programs: str) -> list[Call]:
        """The calls so far, of `programs` or of all, oldest first."""
        files = sorted(self.written.iterdir(), key=lambda file: file.name)
        found = [_read(file) for file in files]
        return [call for call in found if not programs or call.program in programs]

    def forget(self) -> None:
        for file in [*self.written.iterdir(), *self.answers.iterdir()]:
            file.unlink()


def _read(file: Path) -> Call:
    name, cwd, stdin, count, *rest = file.read_bytes().decode().split("\0")
    argv, env = rest[: int(count)], rest[int(count) : -1]
    pairs = dict(entry.partition("=")[::2] for entry in env)
    return Call(name, tuple(argv), Path(cwd), stdin, pairs)


def make(folder: Path, programs: Iterable[str]) -> Stubs:
    """A folder of stubs for `programs` and of links to HARMLESS ones."""
    stubs = Stubs(folder / "path", folder / "calls", folder / "answers")
    for each in (stubs.path, stubs.written, stubs.answers):
        each.mkdir(parents=True)
    for program in programs:
        file = stubs.path / program
        file.write_text(stubs.text())
        file.chmod(0o755)
    for name in HARMLESS:
        real = shutil.which(name)
        assert real is not None, f"there is no {name} here"
        (stubs.path / name).symlink_to(real)
    return stubs
