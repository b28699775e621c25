"""Each check of the harness sees what it is there for: a small world in which all is well, and
what was done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from chaos import checks, workflows
from chaos.evidence import Effect, Event, Launch, Run, Trigger, Window, World
from chaos.outside import Asked, Deeds, File, Observed

MAIN, FEATURE, TAG = "refs/heads/main", "refs/heads/feature/a", "refs/tags/v1"
FIRST, SECOND, THIRD, TAGGED = (letter * 40 for letter in "1234")
SLOT = datetime(2026, 11, 20, 10, 1, tzinfo=UTC)
QUEUED_AT = 1_000_000
CALLED = {"fan": "leaf", "below": "twig"}  # step → the workflow that it runs


def _files() -> dict[str, File]:
    return {path: File(f"blob of {path}", text) for path, text in workflows.first_files().items()}


class Builder:
    """Makes a world out of runs that ended as they should."""

    def __init__(self) -> None:
        window = Window(*(SLOT + timedelta(seconds=s) for s in (-30, -20, 20, 30)))
        deeds = Deeds(commits={c: _files() for c in (FIRST, SECOND, THIRD)})
        deeds.peeled[TAGGED] = SECOND
        self.world = World(window, power_cut=False, deeds=deeds, first_refs=frozenset({MAIN}))
        self._number = 0

    def run(self, key: str, workflow: str, **more: str) -> str:
        """A run of `workflow` that the trigger `key` started; `more` goes into the cause."""
        name = self._run(key, workflow, **more)
        expected = workflows.KINDS[workflow].expected
        cause = {"before": more.get("before"), "after": more.get("after")}
        self.world.triggers.append(Trigger(key, workflow, "run", name, cause))
        document = {"run": name, "status": expected.status}
        self.world.summaries.append((f"runs/2026/11/20/{workflow}/{name}.json", document))
        self.world.latest[workflow] = document
        return name

    def _run(self, key: str, workflow: str, *, parent: str = "", **more: object) -> str:
        """`more` goes into its first fact."""
        self._number += 1
        name = f"run-{self._number}"
        commit, ref = str(more.get("after", THIRD)), str(more.get("ref", MAIN))
        world, expected = self.world, workflows.KINDS[workflow].expected
        kind = {"tick": "schedule"}.get(key.split(":")[0], key.split(":")[0])
        at = QUEUED_AT + self._number
        world.runs[name] = Run(name, workflow, expected.status, ref, commit, kind, at, 0, parent)
        blob = world.deeds.commits[commit][workflows.path_of(workflow)].blob
        self._fact(name, "Queued", **more, blob=blob, trigger={"slot": more.get("slot")})
        self._fact(name, "Started")
        for unit, codes in expected.ends.items():
            step, _, item = unit.rstrip("]").partition("[")
            if unit in expected.calls:
                self._call(name, key, step, int(item) if item else None)
                continue
            for attempt, code in enumerate(codes, 1):
                self._attempt(name, step, attempt, code, item=int(item) if item else None)
        self._fact(name, "Settled", outcome=expected.status)
        self._fact(name, "Finished", status=expected.status)
        return name

    def _call(self, run: str, key: str, step: str, item: int | None) -> None:
        """A step, or an item, that runs another workflow."""
        launch = f"launch-{step}-{item}-1"
        told = {"step": step, "attempt": 1, "launch": launch, "item": item}
        self._fact(run, "Launched", **told)
        self._run(key, CALLED[step], parent=run, parent_step=step, parent_item=item)
        log = {"bytes": 7, "sha256": "abc"}
        self._fact(run, "Ended", **told, exit_code=None, signal=None, lost=False, log=log)
        self.world.launches[run, launch] = Launch((), 7, "abc", None)

    def push(self, ref: str, n: int, *, before: str | None, after: str) -> None:
        for workflow, file in self.world.deeds.commits[after].items():
            if workflow.startswith(".dagu/") and workflows.started_by_push(file.text, ref):
                name = workflow.removeprefix(".dagu/").removesuffix(".yaml")
                more = {"before": before} if before else {}
                self.run(f"push:ops:{ref}:{n}:{name}", name, ref=ref, after=after, **more)

    def _fact(self, run: str, kind: str, **data: object) -> None:
        events = self.world.events.setdefault(run, [])
        events.append(Event(len(events) + 1, len(events), kind, data))

    def _attempt(
        self, run: str, step: str, attempt: int, code: int | None, *, item: int | None = None
    ) -> None:
        launch = f"launch-{step}-{item}-{attempt}"
        told = {"step": step, "attempt": attempt, "launch": launch, "item": item}
        self._fact(run, "Launched", **told)
        said = [f"begin {run} {step} {attempt}"]
        self.world.effects.append(Effect("B", run, step, attempt, launch, None))
        if code is None:
            self._fact(run, "StopSent", step=step, signal=15)
        else:
            said.append(f"end {code}")
            self.world.effects.append(Effect("E", run, step, attempt, launch, code))
        ended = {
            "exit_code": 143 if code is None else code,
            "signal": 15 if code is None else None,
            "lost": False,
            "reason": "",
            "log": {"bytes": 7, "sha256": "abc"},
        }
        self._fact(run, "Ended", **told, **ended)
        exit_ = None if code is None else f"{code}\n"
        self.world.launches[run, launch] = Launch(tuple(said), 7, "abc", exit_)


@pytest.fixture
def world() -> World:
    """Two pushes to main, a branch that came and went, a tag, two ticks, three starts by hand."""
    made = Builder()
    world = made.world
    made.push(MAIN, 2, before=FIRST, after=SECOND)
    made.push(MAIN, 3, before=SECOND, after=THIRD)
    made.push(FEATURE, 1, before=None, after=SECOND)
    made.push(TAG, 1, before=None, after=SECOND)
    world.refs = {MAIN: (3, THIRD), FEATURE: (2, None), TAG: (1, TAGGED)}
    world.tips = {MAIN: THIRD, TAG: TAGGED}
    world.deeds.observed = [Observed(MAIN, 3, THIRD), Observed(TAG, 1, SECOND)]
    for workflow in workflows.MINUTELY:
        slot = f"{SLOT:%Y-%m-%dT%H:%MZ}"
        made.run(f"tick:ops:{workflow}:start:{slot}", workflow, slot=SLOT.isoformat())
    for workflow in ("slow", "retry", "tree"):
        run = made.run(f"manual:key-{workflow}", workflow)
        world.deeds.asked.append(Asked(f"key-{workflow}", workflow, (run, run)))
    world.deeds.delivered["d1"] = 202
    world.deliveries["d1"] = "accepted"
    world.applied, world.pins = THIRD, [THIRD]
    world.status_line = ["s1", "s2"]
    world.status_moves = [("0" * 40, "s1"), ("s1", "s2")]
    return world


def test_a_world_in_which_all_is_well_has_no_violation(world: World) -> None:
    assert checks.violations(world) == []


Doctor = Callable[[World], object]


def _of(world: World, workflow: str) -> str:
    """The id of the first run of the workflow."""
    return next(run.run for run in world.runs.values() if run.workflow == workflow)


def _drop_triggers(world: World, part: str) -> None:
    world.triggers = [row for row in world.triggers if part not in row.key]


def _change_trigger(world: World, part: str, **changes: object) -> None:
    world.triggers = [
        replace(row, **changes) if part in row.key else row  # type: ignore[arg-type]
        for row in world.triggers
    ]


def _change_run(world: World, workflow: str, **changes: object) -> None:
    run = _of(world, workflow)
    world.runs[run] = replace(world.runs[run], **changes)  # type: ignore[arg-type]


def _fact(world: World, workflow: str, kind: str, *, step: str | None = None) -> Event:
    """The first fact of the kind in the workflow's first run; its `data` may be changed."""
    return next(
        event
        for event in world.events[_of(world, workflow)]
        if event.type == kind and step in (None, event.data.get("step"))
    )


def _item_fact(world: World, kind: str, step: str, item: int) -> Event:
    """Of the tree's first run."""
    return next(
        event
        for event in world.events[_of(world, "tree")]
        if event.type == kind and (event.data.get("step"), event.data.get("item")) == (step, item)
    )


def _change_fact(world: World, workflow: str, kind: str, step: str, **changes: object) -> None:
    _fact(world, workflow, kind, step=step).data.update(changes)


def _insert_launch(world: World, workflow: str, *, effect: bool, voided: bool) -> None:
    """Another launch of the first step's first attempt, before the real one."""
    run = _of(world, workflow)
    events = world.events[run]
    at = next(i for i, event in enumerate(events) if event.type == "Launched")
    told = {**events[at].data, "launch": "another"}
    events.insert(at, Event(0, 0, "Launched", told))
    if voided:
        events.insert(at + 1, Event(0, 0, "LaunchVoided", told))
    events[:] = [replace(event, seq=seq) for seq, event in enumerate(events, 1)]
    if effect:
        world.effects.append(Effect("B", run, told["step"], 1, "another", None))


def _change_launch(world: World, workflow: str, **changes: object) -> None:
    key = next(k for k in world.launches if k[0] == _of(world, workflow))
    world.launches[key] = replace(world.launches[key], **changes)  # type: ignore[arg-type]


def _drop_effects(world: World, workflow: str, kind: str, *, step: str | None = None) -> None:
    run = _of(world, workflow)
    world.effects = [
        e for e in world.effects if (e.run, e.kind) != (run, kind) or step not in (None, e.step)
    ]


def _lose(world: World, workflow: str, step: str, *, exit_file: str | None = None) -> None:
    """The step's only attempt is lost, as after a power cut."""
    _drop_effects(world, workflow, "E", step=step)
    _change_fact(
        world, workflow, "Ended", step, lost=True, reason="lost: the machine", exit_code=None
    )
    launch = (_of(world, workflow), _fact(world, workflow, "Ended", step=step).data["launch"])
    world.launches[launch] = replace(world.launches[launch], exit=exit_file)


def _lose_for_good(world: World, *, exit_file: str | None = None, **changes: object) -> None:
    """A lost step in a world with power cuts, told as it should be but for `changes`."""
    world.power_cut = True
    _lose(world, "hello", "second", exit_file=exit_file)
    _change_fact(world, "hello", "Ended", "second", **changes)


DOCTORED: dict[str, tuple[str, Doctor]] = {
    "something went wrong on the way": (
        "behaviour",
        lambda w: w.deeds.problems.append("life 3 said reconcile_crashed"),
    ),
    "a move started nothing": ("moves", lambda w: _drop_triggers(w, f"{MAIN}:2:")),
    "a move started one workflow of three": ("moves", lambda w: _drop_triggers(w, f"{MAIN}:2:fan")),
    "a broken workflow ran": (
        "moves",
        lambda w: w.deeds.commits[THIRD].update(
            {workflows.path_of("brittle"): File("b", workflows.BROKEN)}
        ),
    ),
    "a move was left out between two": (
        "moves",
        lambda w: _change_trigger(w, f"{MAIN}:3:", cause={"before": FIRST, "after": THIRD}),
    ),
    "a move ends where nobody pushed": (
        "moves",
        lambda w: _change_trigger(w, f"{MAIN}:3:", cause={"before": SECOND, "after": "f" * 40}),
    ),
    "the newest commit was never seen": ("moves", lambda w: w.tips.update({MAIN: SECOND})),
    "the newest commit was seen and did not run": (
        "moves",
        lambda w: (w.refs.update({MAIN: (3, FIRST)}), w.tips.update({MAIN: FIRST}))[0],
    ),
    "a branch was never seen": ("moves", lambda w: w.tips.update({"refs/heads/feature/b": FIRST})),
    "the first sight started something": (
        "moves",
        lambda w: _change_trigger(w, f"{MAIN}:2:hello", key=f"push:ops:{MAIN}:1:hello"),
    ),
    "a run of a push has another commit": ("moves", lambda w: _change_run(w, "fan", commit=FIRST)),
    "the newest commit of a burst has no run": (
        "bursts",
        lambda w: w.deeds.observed.append(Observed(FEATURE, 2, THIRD)),
    ),
    "a trigger has lost its run": (
        "elections",
        lambda w: _change_trigger(w, f"{MAIN}:3:hello", run="run-99"),
    ),
    "two triggers have one run": (
        "elections",
        lambda w: w.triggers.append(replace(w.triggers[0], key="event:ops:x")),
    ),
    "a verdict says no and there is a run": (
        "elections",
        lambda w: _change_trigger(w, f"{MAIN}:3:hello", verdict="overlap"),
    ),
    "a start by hand is forgotten": ("hand_starts", lambda w: _drop_triggers(w, "manual:key-slow")),
    "a start by hand was made twice": (
        "hand_starts",
        lambda w: w.deeds.asked.append(Asked("key-slow", "slow", ("run-1", "run-2"))),
    ),
    "a run by hand was asked for by nobody": ("hand_starts", lambda w: w.deeds.asked.clear()),
    "an accepted delivery is not stored": ("deliveries", lambda w: w.deliveries.clear()),
    "a delivery was refused": ("deliveries", lambda w: w.deeds.delivered.update({"d1": 500})),
    "a delivery came from nowhere": (
        "deliveries",
        lambda w: w.deliveries.update({"d2": "accepted"}),
    ),
    "a slot has no row": ("slots", lambda w: _drop_triggers(w, "tick:ops:minute:")),
    "a slot fired that was not there": (
        "slots",
        lambda w: _change_trigger(
            w, "tick:ops:minute:", key="tick:ops:minute:start:2026-11-20T10:00Z"
        ),
    ),
    "a slot ran and was missed": (
        "slots",
        lambda w: w.triggers.append(
            Trigger("missed:ops:minute:2026-11-20T10:01Z", "minute", "missed", None, {})
        ),
    ),
    "a slot ran twice": (
        "slots",
        lambda w: w.runs.update({"again": replace(w.runs[_of(w, "minute")])}),
    ),
    "a workflow without a schedule fired": (
        "slots",
        lambda w: w.deeds.commits[THIRD].update(
            {workflows.path_of("minute"): File("x", workflows.HELLO)}
        ),
    ),
    "a run never ended": (
        "ends",
        lambda w: _change_run(w, "hello", status="running", finished_at=None),
    ),
    "a run has a gap in its facts": ("ends", lambda w: w.events[_of(w, "hello")].pop(1)),
    "something follows the end of a run": (
        "ends",
        lambda w: w.events[_of(w, "hello")].append(
            Event(len(w.events[_of(w, "hello")]) + 1, 0, "StopSent", {"step": "first"})
        ),
    ),
    "a run's row says otherwise than its facts": (
        "ends",
        lambda w: _change_run(w, "hello", status="failed"),
    ),
    "a run has another definition than its commit": (
        "pinned",
        lambda w: _fact(w, "hello", "Queued").data.update(blob="another"),
    ),
    "an effect happened twice": ("launches", lambda w: w.effects.append(w.effects[0])),
    "an effect did not happen": ("launches", lambda w: _drop_effects(w, "hello", "B")),
    "an effect has no launch": (
        "launches",
        lambda w: w.effects.append(replace(w.effects[0], launch="unknown")),
    ),
    "a voided launch had an effect": (
        "launches",
        lambda w: _insert_launch(w, "hello", effect=True, voided=True),
    ),
    "a launch has no end": (
        "launches",
        lambda w: _insert_launch(w, "hello", effect=False, voided=False),
    ),
    "two launches of an attempt had an effect": (
        "launches",
        lambda w: _insert_launch(w, "hello", effect=True, voided=False),
    ),
    "an attempt was left out": (
        "launches",
        lambda w: [
            e.data.update(attempt=5)
            for e in w.events[_of(w, "retry")]
            if e.data.get("attempt") == 3
        ],
    ),
    "an attempt of an item was left out": (
        "launches",
        lambda w: _item_fact(w, "Launched", "each", 2).data.update(attempt=2),
    ),
    "a run that a step made belongs to a trigger": (
        "elections",
        lambda w: _change_trigger(w, "key-tree", run=_of(w, "leaf")),
    ),
    "a step made its run twice": (
        "children",
        lambda w: (
            w.runs.update({"again": replace(w.runs[_of(w, "leaf")], run="again")}),
            w.events.update({"again": w.events[_of(w, "leaf")]}),
        ),
    ),
    "a step ended without the run that it made": (
        "children",
        lambda w: w.events.pop(w.runs.pop(_of(w, "twig")).run),
    ),
    "a run went on when the step that made it had ended": (
        "children",
        lambda w: _change_run(w, "leaf", finished_at=QUEUED_AT),
    ),
    "nobody made a run": (
        "children",
        lambda w: w.events[_of(w, "leaf")].remove(_fact(w, "leaf", "Ended", step="below")),
    ),
    "a run below another has a summary of its own": (
        "summaries",
        lambda w: w.summaries.append(
            ("runs/2026/11/20/leaf/x.json", {"run": _of(w, "leaf"), "status": "succeeded"})
        ),
    ),
    "an exit code is not what the step said": (
        "codes",
        lambda w: _change_fact(w, "hello", "Ended", "second", exit_code=1),
    ),
    "a step that was killed is recorded as if it had ended": (
        "codes",
        lambda w: _drop_effects(w, "hello", "E"),
    ),
    "a step is lost, and the machine was always on": (
        "codes",
        lambda w: _lose(w, "hello", "second"),
    ),
    "a loss does not say so": ("codes", lambda w: _lose_for_good(w, reason="exit code 1")),
    "a step is lost that left its exit file": (
        "codes",
        lambda w: _lose_for_good(w, exit_file="0\n"),
    ),
    "a log was cut": ("logs", lambda w: _change_launch(w, "hello", size_bytes=6)),
    "a log has another text": ("logs", lambda w: _change_launch(w, "hello", sha256="def")),
    "a log begins elsewhere": ("logs", lambda w: _change_launch(w, "hello", said=("end 0",))),
    "a log has no last line": (
        "logs",
        lambda w: _change_launch(w, "hello", said=(f"begin {_of(w, 'hello')} first 1",)),
    ),
    "a log is gone": ("logs", lambda w: w.launches.clear()),
    "a log was not read": ("logs", lambda w: _change_fact(w, "hello", "Ended", "first", log=None)),
    "a run ended otherwise than it should": (
        "outcomes",
        lambda w: _change_run(w, "retry", status="succeeded"),
    ),
    "a step did not run": (
        "outcomes",
        lambda w: w.events[_of(w, "hello")].remove(_fact(w, "hello", "Ended", step="second")),
    ),
    "a lost step did not run again that should": (
        "outcomes",
        lambda w: _change_runs_workflow(w, "hello", "lossy", step="again"),
    ),
    "a step that was lost too often ran again": (
        "outcomes",
        lambda w: _lose_often(w, checks.MOST_LOSSES + 1),
    ),
    "a summary is missing": ("summaries", lambda w: w.summaries.pop()),
    "a summary is there twice": (
        "summaries",
        lambda w: w.summaries.append(("runs/2026/11/21/hello/x.json", w.summaries[0][1])),
    ),
    "a summary says otherwise than the store": (
        "summaries",
        lambda w: w.summaries[0][1].update(status="running"),
    ),
    "latest is not the youngest": (
        "summaries",
        lambda w: w.latest.update(hello={"run": _of(w, "hello")}),
    ),
    "a summary was changed later": ("branch", lambda w: w.reverted.append("M\truns/x.json")),
    "the status branch was pushed by force": (
        "branch",
        lambda w: w.status_line.remove("s1"),
    ),
    "the status branch went back": (
        "branch",
        lambda w: w.status_moves.append(("s1", "s2")),
    ),
    "something is owed": ("remains", lambda w: w.owed.append("fetch ops")),
    "a pin is left": ("remains", lambda w: w.pins.append(FIRST)),
    "a process is left": ("remains", lambda w: w.left.append("process 1 of run x")),
}


def _change_runs_workflow(world: World, workflow: str, other: str, *, step: str) -> None:
    """The run is one of `other`, whose only step `step` was lost."""
    world.power_cut = True
    run = _of(world, workflow)
    _lose(world, workflow, "first")
    world.runs[run] = replace(world.runs[run], workflow=other)
    world.events[run] = [
        replace(e, data={**e.data, "step": step}) if e.data.get("step") == "first" else e
        for e in world.events[run]
    ]


def _lose_often(world: World, times: int) -> None:
    """A step that runs again was lost so often, and ended then."""
    _change_runs_workflow(world, "hello", "lossy", step="again")
    events = world.events[_of(world, "lossy")]
    lost = next(event for event in events if event.type == "Ended")
    at = events.index(lost)
    ended = replace(lost, data={**lost.data, "lost": False, "exit_code": 0})
    events[at : at + 1] = [*[lost] * times, ended]


def _has(world: World, check: str) -> bool:
    return any(line.startswith(f"{check}: ") for line in checks.violations(world))


@pytest.mark.parametrize("what", DOCTORED)
def test_a_doctored_world_is_seen(world: World, what: str) -> None:
    check, doctor = DOCTORED[what]
    doctor(world)
    assert _has(world, check), what


def test_every_check_is_seen_to_fail() -> None:
    assert {check for check, _ in DOCTORED.values()} == {c.__name__ for c in checks.CHECKS}


def test_a_loss_after_a_power_cut_that_is_told_as_it_should_be_is_none(world: World) -> None:
    _lose_for_good(world)
    assert checks.violations(world) == []


def test_a_step_may_be_lost_as_often_as_it_is_run_again(world: World) -> None:
    _lose_often(world, checks.MOST_LOSSES)
    assert not _has(world, "outcomes")
