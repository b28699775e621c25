"""The order of steps: dependencies by name, the order of a chain, and the cycles there are.

Knows steps and what each says it depends on; where that stands in a file is the caller's. Work
is linear in steps and dependencies, and nothing recurses. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runner.language.faults import did_you_mean, quoted
from runner.language.model import WorkflowType


@dataclass(frozen=True, slots=True)
class OrderMistake:
    """Something wrong with what the step with index `step` depends on; `item` counts in it."""

    step: int
    message: str
    item: int | None = None


def arrange(
    names: Sequence[str],
    *,
    ids: Sequence[str | None],
    given: Sequence[tuple[str, ...] | None],
    kind: WorkflowType,
) -> tuple[list[tuple[str, ...]], list[OrderMistake]]:
    """For each step the names that it depends on, and every mistake in what was `given`.

    `given` holds names or ids, () for none, None for nothing said, which in a chain means the
    step above.
    """
    index = {id: n for n, id in enumerate(ids) if id is not None}
    index |= {name: n for n, name in reversed([*enumerate(names)])}  # the first of a name
    mistakes: list[OrderMistake] = []
    edges: list[list[int]] = []
    for n, said in enumerate(given):
        if said is None:
            edges.append([n - 1] if kind is WorkflowType.CHAIN and n else [])
            continue
        found: dict[int, None] = {}
        for item, name in enumerate(said):
            if name in index:
                found[index[name]] = None
            else:
                near = did_you_mean(name, index) if len(mistakes) < 100 else ""
                message = f"step {quoted(names[n])} depends on {quoted(name)}, "
                mistakes.append(OrderMistake(n, f"{message}which is not a step{near}", item))
        edges.append(list(found))
    mistakes += [_told(cycle, names) for cycle in cycles(edges)]
    return [tuple(names[d] for d in below) for below in edges], mistakes


def cycles(edges: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each cycle that a walk from the first node on runs into, told from its lowest node."""
    found: list[list[int]] = []
    done = [False] * len(edges)
    for start in range(len(edges)):
        if done[start]:
            continue
        path, pending = [start], [iter(edges[start])]
        on_path = {start: 0}
        while path:
            node = next(pending[-1], None)
            if node is None:
                pending.pop()
                last = path.pop()
                del on_path[last]
                done[last] = True
            elif node in on_path:
                cycle = path[on_path[node] :]
                first = cycle.index(min(cycle))
                found.append([*cycle[first:], *cycle[:first]])
            elif not done[node]:
                on_path[node] = len(path)
                path.append(node)
                pending.append(iter(edges[node]))
    return found


def _told(cycle: Sequence[int], names: Sequence[str]) -> OrderMistake:
    """The cycle told from the step that stands first in the file, `a → b`: a waits for b."""
    shown = [names[n] for n in (*cycle, cycle[0])]
    if len(shown) > 12:
        shown = [*shown[:6], "…", *shown[-5:]]
    return OrderMistake(cycle[0], f"the steps wait for each other: {' → '.join(shown)}")
