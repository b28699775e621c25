"""The program with short waits: `python hasty.py python -m runner.cli serve …`.

Knows which waits there are before something is tried again or given up, and shortens them; leaves
all else to the program. Its rule: the order of what happens stays as it is, so that a test proves
as much as with the real waits, which it would only spend.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from runner import assembly, orphans
from runner.cli import main
from runner.control import admission, reporter
from runner.engine import supervisor
from storage import sqlite

HASTY = (sys.executable, __file__)


def shorten() -> None:
    supervisor.STORE_RETRY_S = 0.2
    supervisor.LAUNCH_RETRY_S = 0.2
    admission._RETRY_S = 0.2
    assembly.FLUSH_S = 2
    _default(orphans.reap_forever, look_again_s=1.0)
    _default(reporter.Reporter.__init__, retry_s=1)
    connect = sqlite._connect

    def connect_hastily(database: Path) -> sqlite3.Connection:
        connection = connect(database)
        connection.execute("PRAGMA busy_timeout = 1000")
        return connection

    sqlite._connect = connect_hastily


def _default(function: Any, **value: float) -> None:
    """What a keyword-only argument is where nobody gives it."""
    (name,) = value
    assert name in function.__kwdefaults__
    function.__kwdefaults__.update(value)


if __name__ == "__main__":
    del sys.argv[:3]  # "hasty.py", the python and "-m"; what is left begins with the program
    shorten()
    main()
