"""Where the output of an attempt lies, found from the facts of its run.

Knows events and folders; reads no log. Its rule: what was carried over from an earlier run is
where that run left it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.engine import workspace
from runner.engine.events import Carried, Event, Launched
from runner.engine.history import History, HistoryError
from storage.store import Store


@dataclass(frozen=True, slots=True)
class LogFiles:
    """`runs` is the folder of all runs' files. Callable as the door's `log_paths`."""

    store: Store
    runs: Path

    async def __call__(
        self, run: str, step: str, attempt: int | None = None, item: int | None = None
    ) -> tuple[Path, ...]:
        """The files with the output of an attempt (None: the newest) of a step or an item; the
        second, for stderr, is there only where something wanted stdout by itself. None where
        nothing was launched. Raises HistoryError."""
        history = await History.read(self.store, run)
        names = [s.name for s in (*history.workflow.steps, *history.workflow.handlers)]
        launched = newest_launch(history.events, step, item=item, attempt=attempt)
        if launched is not None and step in names:
            folder = workspace.launch_folder(
                workspace.run_folder(self.runs, run, root=history.queued.root),
                number=names.index(step) + 1,
                step=step,
                attempt=launched.attempt,
                launch=launched.launch,
                item=item,
            )
            return folder / "out", folder / "err"
        carried = carried_result(history.events, step, item=item)
        if carried is None or attempt not in (None, carried.attempt):
            return ()
        try:
            return await self(carried.run, step, carried.attempt or None, item)
        except HistoryError:  # that run's history is over
            return ()


def newest_launch(
    events: Sequence[Event], step: str, *, item: int | None, attempt: int | None = None
) -> Launched | None:
    """The last launch of a unit, or of one attempt of it."""
    found = (
        event
        for event in reversed(events)
        if isinstance(event, Launched)
        and (event.step, event.item) == (step, item)
        and attempt in (None, event.attempt)
    )
    return next(found, None)


def carried_result(events: Sequence[Event], step: str, *, item: int | None) -> Carried | None:
    """What a unit took over from an earlier run instead of being launched."""
    found = (
        event
        for event in events
        if isinstance(event, Carried)
        and (event.step, event.item) == (step, item)
        and event.status != "pending"
    )
    return next(found, None)
