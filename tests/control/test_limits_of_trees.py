"""Limits are taken by root runs only: however deep and narrow a tree of runs is, it ends.

With the real engine and real processes, as a deadlock shows nowhere else.
"""

from __future__ import annotations

from trees import Trees

from runner.language.subworkflows import MOST_DEPTH

NARROW = "maxActiveRuns: 1\nmaxActiveSteps: 1\nqueue: one\nconcurrency: one\n"


def tower(depth: int, *, settings: str) -> dict[str, str]:
    """Workflows that run each other, `w0` at the top."""
    files = {
        f"w{n}": f"""{settings}
steps:
  - {{name: before, command: echo {n} >>said}}
  - {{name: below, run: w{n + 1}, depends: before}}
  - {{name: after, command: echo {n} >>said, depends: below}}
"""
        for n in range(depth)
    }
    return {**files, f"w{depth}": f"{settings}steps: [{{command: echo {depth} >>said}}]\n"}


async def test_the_deepest_tree_with_every_limit_at_one_ends(trees: Trees) -> None:
    await trees.house.push(**tower(MOST_DEPTH, settings=NARROW))
    runs = await trees.queue("w0", "w0", "w5")
    ended = await trees.until_ended(3)
    assert [(row.run, row.status) for row in ended] == [(run, "succeeded") for run in runs]
    numbers = [str(n) for n in range(MOST_DEPTH + 1)]
    whole = [*numbers, *numbers[-2::-1]]
    assert trees.said == [*whole, *whole, *whole[5:-5]]
    assert {row.status for row in trees.children} == {"succeeded"}
    assert len(trees.children) == 2 * MOST_DEPTH + 5


async def test_two_trees_that_need_each_others_groups_take_turns(trees: Trees) -> None:
    def both(first: str, second: str) -> str:
        return (
            f"concurrency: {first}\nsteps: [{{name: a, command: echo {first} >>said}},"
            f" {{run: part-{second}, depends: a}}]\n"
        )

    def part(group: str) -> str:
        return f"concurrency: {group}\nsteps: [{{command: echo {group} >>said}}]\n"

    await trees.house.push(
        **{"x": both("g", "h"), "y": both("h", "g"), "part-g": part("g"), "part-h": part("h")}
    )
    runs = await trees.queue("x", "y", "x", "y")
    ended = await trees.until_ended(4)
    assert [(row.run, row.status) for row in ended] == [(run, "succeeded") for run in runs]
    assert trees.said == ["g", "h", "h", "g"] * 2


async def test_child_runs_take_no_place_of_their_workflow(trees: Trees) -> None:
    """A child takes no place of its workflow's maxActiveRuns, nor of its queue."""
    await trees.house.push(
        a="steps: [{name: all, run: b, parallel: [1, 2, 3]}]\n",
        b="maxActiveRuns: 1\nqueue: one\nsteps: [{command: echo b >>said}]\n",
    )
    first, second = await trees.queue("a", "b")
    ended = await trees.until_ended(2)
    assert {(row.run, row.status) for row in ended} == {(first, "succeeded"), (second, "succeeded")}
    assert trees.said == ["b"] * 4
