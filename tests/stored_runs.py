"""Runs as the store has them, made of facts that a test names, without a process."""

from __future__ import annotations

from collections.abc import Sequence

from served_door import AT, COMMIT, World

from runner.engine import journal
from runner.engine.events import (
    ApprovalAsked,
    Ended,
    Event,
    Finished,
    Launched,
    OutputNote,
    PreparationStarted,
    Prepared,
    Settled,
    Started,
)
from runner.engine.history import History
from runner.engine.journal import Lineage, Origin
from runner.language.load import load
from runner.language.params import Bound
from runner.triggers import Trigger, TriggerType

RELEASE = """\
steps:
  - name: build
    command: make
  - name: gate
    depends: build
    approval: {message: "Ship it?"}
    command: ./ship
"""
FAN = """\
steps:
  - name: fetch
    parallel: [one, two]
    command: echo $ITEM
"""


async def run_of(
    world: World, text: str, *events: Event, run: str = "r1", lineage: Lineage | None = None
) -> str:
    """A run of the workflow `text`, to which these facts happened."""
    workflow = load(text.encode(), path=".dagu/release.yaml", id="release").workflow
    assert workflow is not None
    await world.store.write(
        *journal.queued_writes(
            run,
            at=AT,
            workflow=workflow,
            source=text,
            origin=Origin("ops", "refs/heads/main", COMMIT, "b10b"),
            trigger=Trigger(TriggerType.MANUAL, f"manual:{run}", AT),
            params=Bound(()),
            **({} if lineage is None else {"lineage": lineage}),
        )
    )
    if events:
        await add(world, run, events)
    return run


async def add(world: World, run: str, events: Sequence[Event]) -> None:
    past = await History.read(world.store, run)
    now = History(run, (*past.events, *events), past.workflow, past.values)
    await world.store.append(
        run,
        after=len(past.events),
        records=journal.records(run, len(past.events), events),
        head=journal.head(run, now.state()),
    )


async def facts(world: World, run: str) -> list[Event]:
    return [journal.event(record) for record in await world.store.events(run)]


RUNNING = (
    Started(AT, "host", "1"),
    PreparationStarted(AT, None),
    Prepared(AT, None, True),
    Launched(AT, "build", 1, "b1", "boot"),
)
WAITING = (
    *RUNNING,
    Ended(AT, "build", 1, "b1", 0, None, ""),
    ApprovalAsked(AT, "gate", "Ship it?", (), AT),
)
FAILED = (
    *RUNNING,
    Ended(AT, "build", 1, "b1", 3, None, "exit code 3", retryable=False),
    Settled(AT, "failed", "step build failed"),
    Finished(AT, "failed", "step build failed"),
)


async def fanned(world: World) -> str:
    """A run whose list has two items; the second one failed."""
    return await run_of(
        world,
        FAN,
        Started(AT, "host", "1"),
        PreparationStarted(AT, None),
        Prepared(AT, None, True),
        PreparationStarted(AT, "fetch"),
        Prepared(AT, "fetch", True, items=("one", "two")),
        Launched(AT, "fetch", 1, "l0", "boot", item=0),
        Launched(AT, "fetch", 1, "l1", "boot", item=1),
        Ended(AT, "fetch", 1, "l1", 3, None, "exit code 3", item=1, retryable=False),
        Ended(AT, "fetch", 1, "l0", 0, None, "", item=0, outputs=(OutputNote("A", 1, "", "x"),)),
    )
