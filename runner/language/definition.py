"""What the entries of a document mean together: a `Workflow`, or every fault in it.

Names and ids are unique, dependencies exist and form no cycle, schedules fire, parameters parse.
Knows no raw key's spelling beyond the place of a fault, and no positions; one step for itself is
`steps`'. Its rule: check everything, collect every fault, and build the workflow all the same.
Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from runner.language import cron, expand, order
from runner.language.base import Base, merged
from runner.language.calls import HANDLER_PREFIX
from runner.language.entries import (
    HANDLERS,
    EventsEntry,
    HandlersEntry,
    MailEntry,
    SecretEntry,
    StepEntry,
    WorkflowEntry,
)
from runner.language.faults import Fault, Faults, LanguageError, Place, quoted
from runner.language.model import (
    Concurrency,
    Crons,
    Events,
    Mail,
    Mailing,
    PullRequestFilter,
    PushFilter,
    Schedule,
    Secret,
    SecretSource,
    Smtp,
    Step,
    Workflow,
    WorkflowFilter,
    WorkflowType,
    Workspace,
)
from runner.language.params import check_name
from runner.language.steps import conditions, declared, define_step, variables

MAX_SCHEDULES = 100  # judging whether one ever fires takes milliseconds
_NO_HANDLERS = HandlersEntry.model_construct()
_NO_EVENTS = Events()
_NO_MAILING = Mailing()
_HERE = Workspace()
_JSON_PATH = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+|\[[0-9]+\])*")
_WORKFLOW_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(?:/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")


def define(
    entry: WorkflowEntry,
    *,
    id: str,
    path: str,
    broken: Sequence[Fault] = (),
    base: Base | None = None,
) -> tuple[Workflow, list[Fault]]:
    """The workflow that `entry` describes, without its sub-workflows, and all faults.

    `broken` are the faults of shape that were cut out of `entry`: what is missing because of
    one of them is not reported again. `base` has what holds where `entry` says nothing. With
    any fault the workflow is not to be used.
    """
    faults = Faults(broken)
    whole = merged(entry, base) if base is not None else entry
    steps = _Steps(whole, faults).steps()
    workflow = _described(whole, id=id, path=path, steps=steps, faults=faults)
    return (_based(workflow, base) if base is not None else workflow), faults.found


def define_base(
    entry: WorkflowEntry, *, path: str, broken: Sequence[Fault] = ()
) -> tuple[Base, list[Fault]]:
    """What `base.yaml` gives to every workflow, and all faults."""
    faults = Faults(broken)
    for key in ("name", "steps", "schedule", "on", "type"):
        if getattr(entry, key) is not None:
            faults.add((key,), f'"{key}" belongs to a workflow, not to its base', on_key=True)
    workflow = _described(entry, id="base", path=path, steps=(), faults=faults)
    for n, item in enumerate(entry.params):
        if isinstance(item, str) and any(p.name is None for p in declared([item], (), Faults())):
            message = f"{quoted(item)} is positional; a base has params with names only"
            faults.add(("params", n), message)
    base = Base(
        entry=entry,
        params=workflow.params,
        env=workflow.env,
        tags=workflow.tags,
        secrets=workflow.secrets,
    )
    return base, faults.found


def _based(workflow: Workflow, base: Base) -> Workflow:
    """`workflow` with what `base` adds to its own lists; its own names win."""
    own = {p.name for p in workflow.params if p.name is not None}
    inherited = (replace(p, of_base=True) for p in base.params if p.name not in own)
    secrets = {s.name for s in workflow.secrets}
    return replace(
        workflow,
        params=(*inherited, *workflow.params),
        secrets=(*(s for s in base.secrets if s.name not in secrets), *workflow.secrets),
        tags=tuple(dict.fromkeys((*base.tags, *workflow.tags))),
        base_env=base.env,
    )


def _described(
    entry: WorkflowEntry, *, id: str, path: str, steps: tuple[Step, ...], faults: Faults
) -> Workflow:
    handlers = _handlers(entry, faults)
    return Workflow(
        id=id,
        name=entry.name or id,
        path=path,
        steps=steps,
        type=entry.type or WorkflowType.GRAPH,
        description=entry.description,
        group=entry.group,
        tags=entry.tags,
        schedule=_schedule(entry, faults),
        timezone=entry.timezone or None,
        push=_push(entry.on, faults),
        params=declared(entry.params, ("params",), faults),
        env=variables(entry.env, ("env",), faults),
        shell=entry.shell,
        working_dir=entry.working_dir or None,
        preconditions=conditions(entry, (), faults),
        on_init=handlers["init"],
        on_success=handlers["success"],
        on_failure=handlers["failure"],
        on_cancel=handlers["cancel"],
        on_exit=handlers["exit"],
        timeout_s=entry.timeout_sec or None,
        max_active_runs=entry.max_active_runs,
        max_active_steps=entry.max_active_steps,
        max_clean_up_s=entry.max_clean_up_time_sec,
        max_output_bytes=entry.max_output_size,
        events=_events(entry.on, faults) if entry.on is not None else _NO_EVENTS,
        overlap=entry.overlap_policy,
        catchup_s=entry.catchup_window,
        skip_if_successful=entry.skip_if_successful,
        delay_s=entry.delay_sec,
        restart_wait_s=entry.restart_wait_sec,
        queue=entry.queue,
        priority=entry.priority,
        concurrency=_concurrency(entry, faults),
        worker_selector=tuple((entry.worker_selector or {}).items()),
        retention_days=entry.hist_retention_days,
        dotenv=entry.dotenv,
        secrets=_secrets(entry.secrets, faults),
        workspace=_workspace(entry),
        mailing=_mailing(entry),
    )


# Steps and handlers


class _Steps:
    """The steps of a document, in the file's order."""

    def __init__(self, entry: WorkflowEntry, faults: Faults) -> None:
        self._entry = entry
        self._faults = faults

    def steps(self) -> tuple[Step, ...]:
        entries = self._entry.steps
        if not entries:
            self._faults.add(("steps",), "a workflow needs at least one step")
            return ()
        names = [step.name or f"step-{n}" for n, step in enumerate(entries, start=1)]
        self._check_names(entries, names)
        self._check_ids(entries, names)
        below = self._order(entries, names)
        return tuple(
            define_step(
                step,
                name,
                ("steps", n),
                faults=self._faults,
                depends=below[n],
                retry_on_loss=self._entry.on_loss,
            )
            for n, (step, name) in enumerate(zip(entries, names, strict=True))
        )

    def _order(self, entries: Sequence[StepEntry], names: Sequence[str]) -> list[tuple[str, ...]]:
        below, mistakes = order.arrange(
            names,
            ids=[step.id for step in entries],
            given=[step.depends for step in entries],
            kind=self._entry.type or WorkflowType.GRAPH,
        )
        for mistake in mistakes:
            where: Place = ("steps", mistake.step, "depends")
            where = where if mistake.item is None else (*where, mistake.item)
            self._faults.add(where, mistake.message)
        return below

    def _check_names(self, entries: Sequence[StepEntry], names: Sequence[str]) -> None:
        first: dict[str, int] = {}
        for n, name in enumerate(names):
            place: Place = ("steps", n, "name")
            if name in first:
                other = "the step above" if first[name] == n - 1 else f"step {first[name] + 1}"
                message = f"{other} is named {quoted(name)} too; names are unique"
                self._faults.add(place, message)
            first.setdefault(name, n)
            if name.startswith(HANDLER_PREFIX):
                message = f"names starting with {HANDLER_PREFIX} are those of handlers"
                self._faults.add(place, message)

    def _check_ids(self, entries: Sequence[StepEntry], names: Sequence[str]) -> None:
        first = {name: n for n, name in reversed([*enumerate(names)])}
        ids: set[str] = set()
        for n, step in enumerate(entries):
            if step.id is None:
                continue
            place = ("steps", n, "id")
            if step.id in ids:
                message = f"another step has the id {quoted(step.id)}; ids are unique"
                self._faults.add(place, message)
            elif first.get(step.id, n) != n:
                message = f"another step is named {quoted(step.id)}; choose another id"
                self._faults.add(place, message)
            ids.add(step.id)


def _handlers(entry: WorkflowEntry, faults: Faults) -> dict[str, Step | None]:
    entries = entry.handler_on or _NO_HANDLERS
    return {key: _handler(getattr(entries, key), key, entry, faults=faults) for key in HANDLERS}


def _handler(
    entry: StepEntry | None, key: str, workflow: WorkflowEntry, *, faults: Faults
) -> Step | None:
    if entry is None:
        return None
    place: Place = ("handlerOn", key)
    if entry.depends is not None:
        faults.add((*place, "depends"), '"depends" has no meaning in a handler', on_key=True)
    name = HANDLER_PREFIX + key
    return define_step(entry, name, place, faults=faults, retry_on_loss=workflow.on_loss)


# What starts runs


def _schedule(entry: WorkflowEntry, faults: Faults) -> Schedule | None:
    zone = entry.timezone or None
    zone_problem = cron.check_zone(zone)
    if zone_problem is not None:
        faults.add(("timezone",), zone_problem)
        zone = None
    given = entry.schedule
    if given is None:
        return None
    schedule = Schedule(
        _crons(given.start, "start", zone, faults=faults),
        stops=_crons(given.stop, "stop", zone, faults=faults),
        restarts=_crons(given.restart, "restart", zone, faults=faults),
    )
    return schedule if schedule.crons or schedule.stops or schedule.restarts else None


def _crons(texts: Sequence[str], key: str, zone: str | None, *, faults: Faults) -> Crons:
    if len(texts) > MAX_SCHEDULES:
        many = f"{len(texts):,} schedules; a workflow has at most"
        faults.add(("schedule",), f"{many} {MAX_SCHEDULES}")
        return ()
    crons: list[tuple[str, str | None]] = []
    for n, text in enumerate(texts):
        problem = cron.check(text, zone)
        if problem is not None:
            faults.add(("schedule", key, n), problem)
            continue
        fields, own_zone = cron.split(text)
        crons.append((fields, own_zone or zone))
    return tuple(dict.fromkeys(crons))


def _push(entry: EventsEntry | None, faults: Faults) -> PushFilter | None:
    push = entry.push if entry is not None else None
    if push is None:
        return None
    _check_patterns(
        {"branches": push.branches, "tags": push.tags, "paths": push.paths}, "push", faults
    )
    return PushFilter(push.branches, push.tags, push.paths)


def _events(entry: EventsEntry, faults: Faults) -> Events:
    request = entry.pull_request
    if request is not None:
        given = {"branches": request.branches, "paths": request.paths}
        _check_patterns(given, "pullRequest", faults)
    return Events(
        pull_request=PullRequestFilter(
            request.types, request.branches, request.paths, request.forks
        )
        if request is not None
        else None,
        release=entry.release.types if entry.release is not None else None,
        webhook=_webhook(entry, faults),
        workflow=_upstream(entry, faults),
    )


def _webhook(entry: EventsEntry, faults: Faults) -> tuple[tuple[str, str], ...] | None:
    if entry.webhook is None:
        return None
    place: Place = ("on", "webhook", "params")
    for name, path in entry.webhook.params.items():
        try:
            check_name(name)
        except LanguageError as error:
            faults.add((*place, name), str(error), on_key=True)
        if not _JSON_PATH.fullmatch(path):
            message = f"{quoted(path)} is not a path into JSON, such as release.tag_name or a[0].b"
            faults.add((*place, name), message)
    return tuple(entry.webhook.params.items())


def _upstream(entry: EventsEntry, faults: Faults) -> WorkflowFilter | None:
    if entry.workflow is None:
        return None
    place: Place = ("on", "workflow")
    if not entry.workflow.ids:
        message = '"workflow" needs the ids of the workflows: `workflow: {ids: [etl/load]}`'
        faults.add(place, message, on_key=True)
    for n, id in enumerate(entry.workflow.ids):
        if not _WORKFLOW_ID.fullmatch(id):
            message = f"{quoted(id)} is not the id of a workflow: its path below .dagu/, no ending"
            faults.add((*place, "ids", n), message)
    return WorkflowFilter(entry.workflow.ids, entry.workflow.status)


def _check_patterns(patterns: dict[str, tuple[str, ...]], event: str, faults: Faults) -> None:
    for key, given in patterns.items():
        for n, pattern in enumerate(given):
            if pattern.removeprefix("!") == "":
                faults.add(("on", event, key, n), "a pattern is empty")


# The rest


def _secrets(entries: Sequence[SecretEntry], faults: Faults) -> tuple[Secret, ...]:
    secrets: list[Secret] = []
    names: set[str] = set()
    for n, entry in enumerate(entries):
        place: Place = ("secrets", n)
        try:
            check_name(entry.name)
        except LanguageError as error:
            faults.add((*place, "name"), str(error))
        if entry.name in names:
            faults.add((*place, "name"), f"{entry.name} is declared twice")
        names.add(entry.name)
        given = [source for source in SecretSource if getattr(entry, source.value) is not None]
        if len(given) != 1:
            count = "only one" if given else "one"
            message = f"secret {quoted(entry.name)} needs {count} of env, file and command"
            faults.add(place, message)
            continue
        secrets.append(Secret(entry.name, given[0], getattr(entry, given[0].value)))
    return tuple(secrets)


def _concurrency(entry: WorkflowEntry, faults: Faults) -> Concurrency | None:
    given = entry.concurrency
    if given is None:
        return None
    if expand.substitutions(given.group):
        message = f"{quoted(given.group)} holds backticks, but nothing runs before a run may start"
        faults.add(("concurrency", "group"), message)
    return Concurrency(given.group, given.max, given.cancel_in_progress)


def _workspace(entry: WorkflowEntry) -> Workspace:
    given = entry.workspace
    return Workspace(given.kind, given.git) if given is not None else _HERE


def _mailing(entry: WorkflowEntry) -> Mailing:
    smtp, on = entry.smtp, entry.mail_on
    if smtp is None and on is None and entry.error_mail is None and entry.info_mail is None:
        return _NO_MAILING
    return Mailing(
        smtp=Smtp(smtp.host, smtp.port, smtp.username, smtp.password, smtp.tls)
        if smtp is not None
        else None,
        on_failure=on is not None and on.failure,
        on_success=on is not None and on.success,
        error=_mail(entry.error_mail),
        info=_mail(entry.info_mail),
    )


def _mail(entry: MailEntry | None) -> Mail | None:
    if entry is None:
        return None
    return Mail(entry.sender, entry.to, entry.prefix, entry.attach_logs)
