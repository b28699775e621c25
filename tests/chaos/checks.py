"""What must hold after the storm, each promise a function that yields what breaks it.

Looks at a `World` and at nothing else. A violation names the run and quotes the facts that show
it. One rule: what is checked here is seen to fail in `test_checks.py`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from chaos import workflows
from chaos.evidence import Effect, Event, Run, Trigger, World

FINAL = frozenset({"succeeded", "partially_succeeded", "failed", "cancelled", "skipped"})
MOST_LOSSES = 10  # a step that is lost more often is not run again even with `onLoss: retry`
_NULL = "0" * 40
_MINUTE = timedelta(minutes=1)

Check = Callable[[World], Iterator[str]]
PushRow = tuple[Trigger, str]


def violations(world: World) -> list[str]:
    """Everything that is broken, each with the name of its check."""
    return [f"{check.__name__}: {broken}" for check in CHECKS for broken in check(world)]


# Moves


def moves(world: World) -> Iterator[str]:
    """Every observed move has its rows, and the moves of a ref follow from each other."""
    rows = _push_rows(world)
    for ref, (last, oid) in sorted(world.refs.items()):
        first = 2 if ref in world.first_refs else 1
        of_ref = rows.pop(ref, {})
        for n in of_ref.keys() - set(range(first, last + 1)):
            yield f"{ref} has {last} moves, and {of_ref[n][0].key} is none of them"
        before: str | None = None
        for n in range(first, last + 1):
            if n in of_ref:
                yield from _one_move(world, ref, n, of_ref[n], before=before)
                before = of_ref[n][0].cause["after"]
                continue
            following = of_ref.get(n + 1)
            gone = oid is None if n == last else following and following[0].cause["before"] is None
            if not gone:
                yield f"move {n} of {ref} ({last} moves) started nothing and was no deletion"
            before = None
        yield from _end_of(world, ref, last, oid, before=before, first=first)
    for ref, of_ref in rows.items():
        yield f"{ref} has no row of its own, and triggers {sorted(of_ref)}"
    for ref in world.tips.keys() - world.refs.keys():
        yield f"{ref} was pushed and never seen"


def _push_rows(world: World) -> dict[str, dict[int, list[Trigger]]]:
    rows: dict[str, dict[int, list[Trigger]]] = defaultdict(lambda: defaultdict(list))
    for row in world.triggers:
        if row.key.startswith("push:"):
            _, _, ref, n, _ = row.key.split(":")
            rows[ref][int(n)].append(row)
    return rows


def _one_move(
    world: World, ref: str, n: int, rows: list[Trigger], *, before: str | None
) -> Iterator[str]:
    after = rows[0].cause["after"]
    if any((r.cause["before"], r.cause["after"]) != (rows[0].cause["before"], after) for r in rows):
        yield f"the rows of move {n} of {ref} name different commits: {rows}"
        return
    if before is not None and rows[0].cause["before"] != before:
        yield f"move {n} of {ref} begins at {rows[0].cause['before']}, the last ended at {before}"
    files = world.deeds.commits.get(after)
    if files is None:
        yield f"move {n} of {ref} ends at {after}, which nobody pushed"
        return
    verdicts = {row.workflow: row.verdict for row in rows}
    wanted = {
        path.removeprefix(".dagu/").removesuffix(".yaml"): verdict
        for path, file in files.items()
        if path.startswith(".dagu/") and (verdict := workflows.started_by_push(file.text, ref))
    }
    if verdicts != wanted:
        yield f"move {n} of {ref} to {after} should start {wanted} and has {verdicts}"
    for row in rows:
        run = world.runs.get(row.run or "")
        if run is not None and (run.ref, run.commit, run.workflow) != (ref, after, row.workflow):
            yield f"{row.key} is about {after} and its run is {run}"


def _end_of(
    world: World, ref: str, last: int, oid: str | None, *, before: str | None, first: int
) -> Iterator[str]:
    """Where the ref is now is where its last move ended."""
    if oid != world.tips.get(ref):
        yield f"{ref} is at {world.tips.get(ref)} and was last seen at {oid}"
    commit = world.deeds.peeled.get(oid or "", oid)
    if last >= first and commit != before:
        yield f"{ref} is at {commit} and its last run was at {before}"


def bursts(world: World) -> Iterator[str]:
    """What was seen while nobody pushed to the ref is the newest commit, and it ran."""
    rows = {row.key: row for row in world.triggers}
    for seen in world.deeds.observed:
        key = f"push:ops:{seen.ref}:{seen.n}:hello"
        if seen.n == 1 and seen.ref in world.first_refs:
            continue
        row = rows.get(key)
        if row is None or row.run is None or row.cause["after"] != seen.commit:
            yield f"{seen} has no run: {row}"


# Triggers


def elections(world: World) -> Iterator[str]:
    """Each run belongs to one trigger, and each trigger that ran to one run; one that a run made
    belongs to none."""
    elected = Counter(row.run for row in world.triggers if row.run is not None)
    for run in world.runs:
        if elected[run] != (not world.runs[run].parent):
            yield f"run {world.runs[run]} belongs to {elected[run]} triggers"
    for row in world.triggers:
        if row.verdict == "run" and row.run not in world.runs:
            yield f"{row} says run, and there is none"
        if row.verdict != "run" and row.run is not None:
            yield f"{row} says {row.verdict}, and has a run"


def hand_starts(world: World) -> Iterator[str]:
    """Each Idempotency-Key has one run, the one that was answered; no manual run is without."""
    rows = {row.key: row for row in world.triggers if row.key.startswith("manual:")}
    for asked in world.deeds.asked:
        row = rows.pop(f"manual:{asked.key}", None)
        if row is None or row.run is None:
            yield f"{asked} has no run: {row}"
        elif set(asked.answers) != {row.run} or row.workflow != asked.workflow:
            yield f"{asked} was answered otherwise than stored: {row}"
    for row in rows.values():
        yield f"nobody asked for {row}"


def deliveries(world: World) -> Iterator[str]:
    """Each delivery was accepted and is stored."""
    for digest, status in world.deeds.delivered.items():
        if not 200 <= status < 300:
            yield f"delivery {digest} was answered with {status}"
        elif world.deliveries.get(digest) != "accepted":
            yield f"delivery {digest} was accepted and is {world.deliveries.get(digest)}"
    for digest in world.deliveries.keys() - world.deeds.delivered.keys():
        yield f"delivery {digest} was never sent"


def slots(world: World) -> Iterator[str]:
    """Each minute has one row of each schedule, and at most one run."""
    found: dict[str, Counter[datetime]] = defaultdict(Counter)
    for row in world.triggers:
        if row.key.startswith(("tick:", "missed:")):
            found[row.workflow][datetime.strptime(row.key[-17:], "%Y-%m-%dT%H:%M%z")] += 1
    window = world.window
    for workflow in workflows.MINUTELY:
        wanted = set(_minutes(window.since, window.until))
        possible = set(_minutes(window.earliest, window.latest))
        for slot in sorted(wanted - found[workflow].keys()):
            yield f"nothing says what became of {workflow} at {slot}"
        for slot in sorted(found[workflow].keys() - possible):
            yield f"{workflow} was not scheduled at {slot}"
    for workflow, of_slot in found.items():
        for slot, number in of_slot.items():
            if number > 1:
                yield f"{number} rows say what became of {workflow} at {slot}"
    yield from _scheduled_runs(world)


def _minutes(after: datetime, until: datetime) -> Iterator[datetime]:
    slot = after.replace(second=0, microsecond=0) + _MINUTE
    while slot <= until:
        yield slot
        slot += _MINUTE


def _scheduled_runs(world: World) -> Iterator[str]:
    of_slot: Counter[tuple[str, str]] = Counter()
    for run in world.runs.values():
        if run.trigger != "schedule":
            continue
        slot = world.events[run.run][0].data["trigger"]["slot"]
        of_slot[run.workflow, slot] += 1
        file = world.deeds.commits[run.commit].get(workflows.path_of(run.workflow))
        if file is None or not workflows.is_scheduled(file.text):
            yield f"{run} fired at {slot}, and its commit has no such schedule"
    for (workflow, slot), number in of_slot.items():
        if number > 1:
            yield f"{workflow} ran {number} times for {slot}"


# Runs


def ends(world: World) -> Iterator[str]:
    """Each run is final, its log of facts is whole, and nothing follows its end."""
    for run in world.runs.values():
        events = world.events.get(run.run, [])
        if run.status not in FINAL or run.finished_at is None:
            yield f"{run} has not ended"
        elif [e.seq for e in events] != list(range(1, len(events) + 1)):
            yield f"the facts of {run} have gaps: {[e.seq for e in events]}"
        elif [e.type for e in events if e.type in ("Settled", "Finished")] != [
            "Settled",
            "Finished",
        ] or events[-1].type != "Finished":
            yield f"{run} does not end as a run does: {[e.type for e in events[-4:]]}"
        elif events[-1].data["status"] != run.status:
            yield f"{run} says otherwise than its last fact: {events[-1].data}"


def pinned(world: World) -> Iterator[str]:
    """Each run has the definition of its commit."""
    for run in world.runs.values():
        queued = world.events[run.run][0]
        file = world.deeds.commits.get(run.commit, {}).get(workflows.path_of(run.workflow))
        if file is None or file.blob != queued.data["blob"]:
            yield f"{run} ran {queued.data['blob']}, its commit has {file and file.blob}"


def launches(world: World) -> Iterator[str]:
    """Each launch that was not voided had its effect once, each voided one none."""
    begun = Counter((e.run, e.step, e.attempt, e.launch) for e in world.effects if e.kind == "B")
    for run, events in world.events.items():
        for step, of_step in _by_step(events).items():
            calls = step in workflows.KINDS[world.runs[run].workflow].expected.calls
            yield from _launches_of(run, step, of_step, begun, calls=calls)
    for key, number in begun.items():
        yield f"{number} effects without a launch: {key}"


def _by_step(events: list[Event]) -> dict[str, list[Event]]:
    """By step, or `step[item]`. The end of a whole list is no end of an attempt."""
    steps: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.type in ("Launched", "LaunchVoided", "Ended") and event.data["launch"]:
            steps[_unit(event)].append(event)
    return steps


def _unit(event: Event) -> str:
    item = event.data.get("item")
    return str(event.data["step"]) if item is None else f"{event.data['step']}[{item}]"


def _launches_of(
    run: str,
    step: str,
    events: list[Event],
    begun: Counter[tuple[str, str, int, str]],
    *,
    calls: bool,
) -> Iterator[str]:
    """`begun` loses what is accounted for. `calls`: the attempt is another run."""
    effective: Counter[int] = Counter()
    attempts: list[int] = []
    of_launch: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        of_launch[event.data["launch"]].append(event)
    for launch, facts in of_launch.items():
        attempt = facts[0].data["attempt"]
        effects = begun.pop((run, facts[0].data["step"], attempt, launch), 0)
        effective[attempt] += bool(effects)
        told = f"run {run}, step {step}, attempt {attempt}, launch {launch or '(none)'}"
        types = [fact.type for fact in facts]
        if types == ["Launched", "LaunchVoided"]:
            if effects:
                yield f"{told} was voided and had {effects} effects"
            continue
        attempts.append(attempt)
        if types != ["Launched", "Ended"]:
            yield f"{told} has the facts {types}"
        elif effects > 1:
            yield f"{told} had {effects} effects"
        elif calls:
            if effects or facts[1].data.get("lost"):
                yield f"{told} runs a workflow, had {effects} effects and ended: {facts[1].data}"
        elif not effects and not (facts[1].data.get("lost") or facts[1].data["signal"]):
            yield f"{told} had no effect and ended: {facts[1].data}"
    if attempts != list(range(1, len(attempts) + 1)):
        yield f"run {run}, step {step}: its attempts are {attempts}"
    for attempt, number in effective.items():
        if number > 1:
            yield f"run {run}, step {step}: {number} launches of attempt {attempt} had an effect"


def children(world: World) -> Iterator[str]:
    """Each attempt that runs a workflow made one run, which ended before it; nothing else did."""
    made: dict[tuple[str, str, int | None], list[Run]] = defaultdict(list)
    for run in world.runs.values():
        if run.parent:
            queued = world.events[run.run][0].data
            made[run.parent, queued["parent_step"], queued["parent_item"]].append(run)
    for run, event in _ended(world):
        data = event.data
        if _unit(event) in workflows.KINDS[world.runs[run].workflow].expected.calls:
            below = made.pop((run, data["step"], data.get("item")), [])
            if len(below) != data["attempt"]:
                yield f"run {run}, {_unit(event)}: {data['attempt']} attempts made {below}"
            yield from (
                f"{one} ended after what made it: {event}"
                for one in below
                if (one.finished_at or 0) > event.at
            )
    for key, below in made.items():
        yield f"nothing made {below} of {key}"


def codes(world: World) -> Iterator[str]:
    """What is recorded as a step's end is what the step did."""
    own = {(e.run, e.launch): e for e in world.effects if e.kind == "E"}
    stopped = {
        (run, e.data["step"])
        for run, events in world.events.items()
        for e in events
        if e.type == "StopSent"
    }
    for run, event in _ended(world):
        data = event.data
        end = own.get((run, data["launch"]))
        told = f"run {run}, step {data['step']}, launch {data['launch']}"
        if _unit(event) in workflows.KINDS[world.runs[run].workflow].expected.calls:
            continue
        if data.get("lost"):
            yield from _loss(world, run, event, told=told)
        elif end is not None and data["exit_code"] != end.code:
            yield f"{told} exited with {end.code} and is recorded as {data}"
        elif end is None and (run, data["step"]) not in stopped:
            yield f"{told} did not end by itself, was not stopped, and is recorded as {data}"


def _loss(world: World, run: str, event: Event, *, told: str) -> Iterator[str]:
    """A lost step: only where the machine died, with a reason, and without an exit file."""
    launch = world.launches.get((run, event.data["launch"]))
    if not world.power_cut:
        yield f"{told} is lost, and the machine was always on: {event.data}"
    if "lost" not in event.data["reason"] and "unknown" not in event.data["reason"]:
        yield f"{told} is lost and does not say so: {event.data['reason']!r}"
    if launch is not None and (launch.exit or "").endswith("\n"):
        yield f"{told} is lost, and its exit file says {launch.exit!r}"


def _ended(world: World) -> Iterator[tuple[str, Event]]:
    for run, events in world.events.items():
        for event in events:
            if event.type == "Ended" and event.data["launch"]:
                yield run, event


def logs(world: World) -> Iterator[str]:
    """Each log is whole: its first and last line, and the size and digest that were recorded."""
    own = {(e.run, e.launch): e for e in world.effects if e.kind == "E"}
    begun = {(e.run, e.launch): e for e in world.effects if e.kind == "B"}
    for run, event in _ended(world):
        key = (run, event.data["launch"])
        told = f"run {run}, step {event.data['step']}, launch {event.data['launch']}"
        launch, log = world.launches.get(key), event.data["log"]
        if launch is None:
            if not event.data.get("lost"):
                yield f"{told} has no files"
            continue
        if log is None:
            if not event.data.get("lost"):
                yield f"{told} ended and its log was not read"
        elif (log["bytes"], log["sha256"]) != (launch.size_bytes, launch.sha256):
            yield f"{told}: {log} was recorded, {launch} is there"
        if (first := begun.get(key)) and launch.said[:1] != (_first_line(first),):
            yield f"{told}: its log begins with {launch.said[:1]}"
        if (last := own.get(key)) and launch.said[-1:] != (f"end {last.code}",):
            yield f"{told}: its log ends with {launch.said[-1:]}"


def _first_line(effect: Effect) -> str:
    return f"begin {effect.run} {effect.step} {effect.attempt}"


def outcomes(world: World) -> Iterator[str]:
    """Each run ended as if nobody had been killed; one with a loss, as `onLoss` says; one with a
    loss in a run below it, somehow."""
    shaken = set(_above_losses(world))
    for run in world.runs.values():
        expected = workflows.KINDS[run.workflow].expected
        steps = {
            step: [e.data for e in events if e.type == "Ended"]
            for step, events in _by_step(world.events[run.run]).items()
        }
        lost = {s for s, found in steps.items() if any(data.get("lost") for data in found)}
        if lost:
            yield from _after_loss(run, steps, expected)
            continue
        if run.run in shaken:
            continue
        found = {step: tuple(map(_code, data)) for step, data in steps.items()}
        if found != expected.ends or run.status != expected.status:
            yield f"{run} should have {expected} and has {found}"


def _above_losses(world: World) -> Iterator[str]:
    for name, event in _ended(world):
        run = world.runs[name]
        while event.data.get("lost") and run.parent:
            yield run.parent
            run = world.runs[run.parent]


def _code(data: dict[str, object]) -> int | None:
    """The code of an attempt; None for one that was ended."""
    return None if data["signal"] is not None else data["exit_code"]  # type: ignore[return-value]


def _after_loss(
    run: Run, steps: dict[str, list[dict[str, object]]], expected: workflows.Expected
) -> Iterator[str]:
    for step, found in steps.items():
        losses = 0
        for number, data in enumerate(found, 1):
            if not data.get("lost"):
                continue
            losses += 1
            again = number < len(found)
            if again != (step in expected.again and losses <= MOST_LOSSES):
                did = "ran again" if again else "did not run again"
                yield f"{run}: step {step} was lost {losses} times and {did}: {found}"


# What is told, and what is left


def summaries(world: World) -> Iterator[str]:
    """Each run's summary is on the branch once, and `latest/` is the youngest. One that a run made
    stands in the summary of that."""
    found: dict[str, list[str]] = defaultdict(list)
    for path, document in world.summaries:
        found[document["run"]].append(path)
        told = world.runs.get(document["run"])
        if told is None or told.status != document["status"]:
            yield f"{path} says {document['status']}, the store {told}"
    for name, run in world.runs.items():
        if len(found[name]) != (not run.parent):
            yield f"the summary of {run} is there {len(found[name])} times"
    youngest: dict[str, Run] = {}
    roots = (run for run in world.runs.values() if not run.parent)
    for one in sorted(roots, key=lambda r: (r.queued_at, r.run)):
        youngest[one.workflow] = one
    for workflow, one in youngest.items():
        latest = world.latest.get(workflow, {}).get("run")
        if latest != one.run:
            yield f"latest/{workflow}.json is {latest}, the youngest is {one}"


def branch(world: World) -> Iterator[str]:
    """The status branch only ever grew."""
    for line in world.reverted:
        yield f"a summary was changed or deleted: {line}"
    tip = _NULL
    for old, new in world.status_moves:
        if old != tip:
            yield f"the status branch moved from {old}, where it was not (it was at {tip})"
        tip = new
    if [new for _, new in world.status_moves if new not in set(world.status_line)]:
        yield f"the status branch was moved by force: {world.status_moves}"


def remains(world: World) -> Iterator[str]:
    """Nothing is owed, no process, folder, pin, lock or temporary file is left."""
    yield from (f"owed: {row}" for row in world.owed)
    yield from (f"pin of {commit}" for commit in world.pins if commit != world.applied)
    yield from world.left


def behaviour(world: World) -> Iterator[str]:
    """Nothing went wrong on the way."""
    yield from world.deeds.problems


CHECKS: tuple[Check, ...] = (
    behaviour,
    moves,
    bursts,
    elections,
    hand_starts,
    deliveries,
    slots,
    ends,
    pinned,
    launches,
    children,
    codes,
    logs,
    outcomes,
    summaries,
    branch,
    remains,
)
