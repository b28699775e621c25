"""Which run a person means: an id, the unique beginning of one, or the latest; and who asks.

Asks the service. One rule: a beginning that fits several runs is refused with the list of them,
never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from runner.cli.api_client import Refused, Service
from runner.cli.terminal import shown

_WHOLE_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{12}")
_PAGES = 5  # of 200 runs: how far back a beginning is looked for


def find_run(service: Service, name: str) -> str:
    """The id of the run called `name`; Refused if there is none or more than one.

    `latest` is the newest run, `latest:WORKFLOW` the newest of one workflow.
    """
    word, _, workflow = name.partition(":")
    if word == "latest":
        return _latest(service, workflow or None)
    if _WHOLE_ID.fullmatch(name) or not name:
        return name
    found = [run["run"] for run in _recent(service) if run["run"].startswith(name)]
    if not found:
        raise Refused(f'no run\'s id begins with "{shown(name)}"; `dagmill runs` lists them')
    if len(found) > 1 and name not in found:
        some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
        raise Refused(f'"{shown(name)}" is the beginning of {len(found)} runs: {some}')
    return name if name in found else str(found[0])


def person() -> str:
    """Who asks, as this machine says."""
    import getpass
    import os
    import platform

    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        name = str(os.getuid())
    return f"{name}@{platform.node()}"[:100]


def _latest(service: Service, workflow: str | None) -> str:
    runs = service.get("runs", query={"limit": 1, "workflow": workflow})["runs"]
    if not runs:
        of = f' of workflow "{shown(workflow)}"' if workflow else ""
        raise Refused(f"there is no run{of} yet")
    return str(runs[0]["run"])


def _recent(service: Service) -> Iterator[dict[str, Any]]:
    cursor = None
    for _ in range(_PAGES):
        page = service.get("runs", query={"limit": 200, "cursor": cursor})
        yield from page["runs"]
        cursor = page["next"]
        if cursor is None:
            return
