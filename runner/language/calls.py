"""Which workflows call which: the `run` texts of a workflow and its local documents.

`calls(workflow)` lists every `run` whose text names a workflow as it stands (no `$`, backtick or
`{{` in it), with the caller's id, so that whoever knows all workflows can resolve the names, say
which do not exist yet and find cycles with `order.cycles`. Lines and columns cost a second
reading of the file: `load.located(data, calls)` gives them for those calls that need telling.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runner.language.faults import Place, quoted
from runner.language.kinds import holds_reference
from runner.language.model import Step, Workflow
from runner.language.order import cycles

HANDLER_PREFIX = "handlerOn."


@dataclass(frozen=True, slots=True)
class Call:
    """A step (or handler) that runs another workflow.

    `caller` is the id of the workflow that has the step, `<file's id>#<n>` for the n-th document
    of its file; `name` is what `run` says; `place` leads to that text within its document.
    """

    caller: str
    step: str
    name: str
    place: Place

    @property
    def document(self) -> int:
        """Which document of the file has the step; 0 is the first."""
        _, _, number = self.caller.partition("#")
        return int(number or 0)


def calls(workflow: Workflow) -> tuple[Call, ...]:
    """Every static call of `workflow` and its local documents, in the order of the file."""
    return tuple(
        Call(one.id, step.name, step.run.strip(), (*place, "run"))
        for one in (workflow, *workflow.locals)
        for step, place in placed(one)
        if step.run is not None and not holds_reference(step.run)
    )


def placed(workflow: Workflow) -> Iterator[tuple[Step, Place]]:
    """The steps and handlers of one document, each with the place of its entry."""
    for n, step in enumerate(workflow.steps):
        yield step, ("steps", n)
    for handler in workflow.handlers:
        yield handler, (HANDLER_PREFIX[:-1], handler.name.removeprefix(HANDLER_PREFIX))


def local_cycles(workflow: Workflow) -> Iterator[tuple[Call, str]]:
    """Each cycle that closes within the file: its first call, and what is wrong.

    A local document is found before any other workflow, and the file's own id always exists, so
    these need no other file.
    """
    documents = (workflow, *workflow.locals)
    numbers = {workflow.id: 0} | {local.name: n for n, local in enumerate(workflow.locals, start=1)}
    index = {document.id: n for n, document in enumerate(documents)}
    edges: list[dict[int, Call]] = [{} for _ in documents]
    for call in calls(workflow):
        if call.name in numbers:
            edges[index[call.caller]].setdefault(numbers[call.name], call)
    for cycle in cycles([list(targets) for targets in edges]):
        shown = [documents[n].name if n else workflow.id for n in (*cycle, cycle[0])]
        names = " → ".join(quoted(name)[1:-1] for name in shown)
        first = edges[cycle[0]][cycle[1] if len(cycle) > 1 else cycle[0]]
        yield first, f"the workflows call each other for ever: {names}"
