"""The summary of a run with those of the runs below it, as it may be committed.

Reads the store; leaves what a summary says to `engine.summary`. Its rule: of a wide tree the first
child runs are told and all that failed, so that a summary stays of a size that can be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from runner.engine import summary
from runner.engine.history import History, HistoryError
from runner.engine.journal import UnreadableRecord
from runner.engine.state import RunStatus
from runner.engine.summary import Document
from storage.store import Store

MOST_CHILDREN = 50
MOST_WITH_FAILED = 250
"""However many failed, there is an end: each tells the last lines of its log."""


async def with_children(store: Store, run: str) -> Document:
    """The run's summary; `children` has those of the runs below it, parents before their children,
    where there are any, `children_left_out` the number of those that are not told. Raises
    HistoryError, UnreadableRecord."""
    document = await _one(store, run)
    told: list[Document] = []
    left_out = 0
    waiting = list(_called(document))[::-1]
    while waiting:
        child = waiting.pop()
        row = await store.run(child)
        most = MOST_WITH_FAILED if row and row.status == RunStatus.FAILED else MOST_CHILDREN
        if row is None or len(told) >= most:
            left_out += 1
            continue
        try:
            told.append(await _one(store, child))
        except (HistoryError, UnreadableRecord):
            left_out += 1
        else:
            waiting += list(_called(told[-1]))[::-1]
    if told:
        document["children"] = told
    if left_out:
        document["children_left_out"] = left_out
    return document


async def _one(store: Store, run: str) -> Document:
    history = await History.read(store, run)
    return summary.for_git(summary.document(run, history.state()))


def _called(document: Document) -> Iterator[str]:
    """The child runs that a summary names, in its order."""
    for step in (*document["steps"], *document["handlers"]):
        for unit in (step, *step.get("items", {}).get("told", ())):
            if "child" in unit:
                yield unit["child"]
