"""A run of an unchanged workflow whose first steps are carried over, as a retry carries them.

That is how what stands behind an executor that is not built yet is run: its result is a fact of the
run before it begins. Everything else is the real engine, in the environment that it is given.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner.control.folder_library import FolderLibrary
from runner.engine import journal, summary
from runner.engine.engine import Engine
from runner.engine.events import Carried, Event, OutputNote
from runner.engine.history import History
from runner.engine.state import RunState, StepStatus
from runner.language.load import load
from runner.language.params import bind, from_arguments, mentions
from runner.triggers import Trigger, TriggerType, manual_key
from storage.mask import Mask
from storage.records import PutValues, Write
from storage.sqlite import open_store


@dataclass(frozen=True)
class Before:
    """What a step of the run that never was came to: succeeded, with this output."""

    step: str
    name: str = ""
    value: str = ""


def now() -> datetime:
    return datetime.now(UTC)


async def complete(
    work: Path,
    workflow: str,
    *params: str,
    before: Sequence[Before],
    environ: Mapping[str, str],
    folder: Path,
    stop_at_wait: bool = False,
) -> dict[str, Any]:
    """The summary of `.dagu/<workflow>.yaml` of the folder `work`. `stop_at_wait`: the run is
    stopped as soon as a step waits for its next attempt."""
    store = open_store(folder, durability="process")
    run = journal.new_run_id(now())

    def observe(state: RunState, new: Sequence[Event]) -> None:
        if stop_at_wait and any(step.status is StepStatus.RETRYING for step in state.steps):
            asyncio.get_running_loop().call_soon(engine.stop, run, "the test")

    engine = Engine(
        store=store,
        runs=folder / "runs",
        workspaces=work,
        clock=now,
        inherited=environ,
        mask=Mask(()),
        zone="UTC",
        observe=observe,
        library=FolderLibrary(work / ".dagu", root=work),
    )
    try:
        await store.write(*queued(work, workflow, params, run=run, before=before))
        row = await store.run(run)
        assert row is not None
        await store.write(*journal.started_writes(row, at=now(), runner="0", host="host", room=0))
        await engine.complete(run)
        return summary.document(run, (await History.read(store, run)).state())
    finally:
        await store.close()


def queued(
    work: Path, workflow: str, params: Sequence[str], *, run: str, before: Sequence[Before]
) -> tuple[Write, ...]:
    path = f".dagu/{workflow}.yaml"
    text = (work / path).read_text("utf-8")
    flow = load(text.encode(), path=path, id=workflow).workflow
    assert flow is not None
    writes = journal.queued_writes(
        run,
        at=now(),
        workflow=flow,
        source=text,
        origin=journal.Origin(),
        trigger=Trigger(TriggerType.MANUAL, manual_key(run), now()),
        params=bind(
            flow.params, from_arguments(params), mentioned=lambda name: mentions(flow, name)
        ),
        carried=[carried(one) for one in before],
    )
    values = tuple((f"out:{one.step}", one.name, one.value) for one in before if one.name)
    return (*writes, PutValues(run, values))


def carried(one: Before) -> Carried:
    data = one.value.encode()
    note = OutputNote(one.name, len(data), hashlib.sha256(data).hexdigest(), "***")
    outputs = (note,) if one.name else ()
    run = "20261122-000000-000000000000"
    return Carried(now(), one.step, StepStatus.SUCCEEDED, run, attempt=1, outputs=outputs)
