"""Parallel steps with real processes: where ITEM is seen, what is done again, what adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from real_run import Bench, Done, run_text

from runner.engine.events import Ended, Event, Prepared


def output(done: Done, step: str, name: str) -> Any:
    """The JSON of a step's output, from its file."""
    return json.loads(done.files(f"*-{step}/output-{name}")[0].read_text())


def outputs(done: Done, step: str, name: str = "OUT") -> list[str]:
    return [r["output"] for r in output(done, step, name)["results"]]


async def test_item_is_seen_everywhere_in_a_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "workspace" / name).mkdir(parents=True)
    done = await run_text(
        tmp_path,
        """
        steps:
          - name: shell
            parallel: [one, two]
            env: [A: 'env-${ITEM}', B: '${A}-`echo $ITEM | tr a-z A-Z`']
            dir: ${ITEM}
            stdout: ${ITEM_INDEX}.txt
            preconditions: [{condition: '$ITEM', expected: 're:one|two'}, 'test -n "$ITEM"']
            command: echo "$ITEM ${ITEM} $ITEM_INDEX $A $B ${PWD##*/}"
            output: OUT
          - name: argv
            parallel: [one, two]
            command: [echo, '$ITEM', '${ITEM_INDEX}']
            output: OUT
          - {name: script, parallel: [one, two], script: 'echo "script $ITEM"', output: OUT}
          - name: field
            parallel: {items: [{k: {n: 1.50}}, {k: {n: x y}}], maxConcurrent: 1}
            command: echo "${ITEM.k.n}"
            output: OUT
        """,
    )
    assert done.status == "succeeded", done.document
    assert outputs(done, "shell") == [
        "one one 0 env-one env-one-ONE one",
        "two two 1 env-two env-two-TWO two",
    ]
    files = [(tmp_path / "workspace" / p).read_text() for p in ("one/0.txt", "two/1.txt")]
    assert files == [f"{text}\n" for text in outputs(done, "shell")]
    assert outputs(done, "argv") == ["one 0", "two 1"]
    assert outputs(done, "script") == ["script one", "script two"]
    assert outputs(done, "field") == ["1.50", "x y"]


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "'; touch pwned; '",
    '"$(touch pwned)"',
    "-rf",
    "a\nb",
]


async def test_hostile_values_stay_inert_wherever_an_item_goes(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [LIST: '[]']
        steps:
          - {name: shell, parallel: '${LIST}', command: 'printf "%s" "$ITEM"', output: OUT}
          - {name: argv, parallel: '$LIST', command: [printf, '%s', '${ITEM}'], output: OUT}
          - name: env
            parallel: ${LIST}
            env: [A: '{{.ITEM}}']
            stdout: '${ITEM_INDEX}.txt'
            command: printf '%s' "$A"
            output: OUT
          - name: dir
            parallel: ${LIST}
            dir: ${ITEM}
            command: 'true'
            continueOn: {failure: true}
          - {name: run, parallel: '${LIST}', run: child, params: 'P=${ITEM}', output: OUT}
          - {name: first, parallel: '${LIST}', run: child, output: OUT}
        ---
        name: child
        params: [P: '', Q: '']
        steps:
          - {name: s, command: 'printf "%s|%s|%s" "$1" "$P" "$ITEM"', output: R}
        """.replace("\n        ---\n", "\n---\n"),
        f"LIST={json.dumps(HOSTILE)}",
    )
    assert not list(tmp_path.rglob("pwned"))
    for step in ("shell", "argv", "env"):
        assert outputs(done, step) == HOSTILE
    assert done.step("dir")["reason"].startswith(f"{len(HOSTILE)} of {len(HOSTILE)} items failed")
    assert [o["R"] for o in outputs(done, "run")] == [f"|{t}|{t}" for t in HOSTILE]
    assert [o["R"] for o in outputs(done, "first")] == [f"{t}|{t}|{t}" for t in HOSTILE]


async def test_only_items_that_failed_run_again(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - name: a
            parallel: [x, y, z]
            retryPolicy: {limit: 2, intervalSec: 0}
            command: |
              echo "$ITEM" >> ran-$ITEM
              test "$ITEM" != y || test $(wc -l < ran-y) = 2
            stdout: log-$ITEM.txt
            output: OUT
        """,
    )
    assert done.status == "succeeded"
    lines = {i: (tmp_path / f"workspace/ran-{i}").read_text().count("\n") for i in "xyz"}
    assert lines == {"x": 1, "y": 2, "z": 1}
    assert output(done, "a", "OUT")["summary"]["succeeded"] == 3


async def test_all_items_run_though_some_fail_and_the_step_says_how_many(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - id: a
            name: a
            parallel: [1, 2, 3, 4]
            continueOn: {failure: true}
            command: echo "out $ITEM"; test $(( ITEM % 2 )) = 0
            output: OUT
          - name: b
            depends: a
            command: |
              set -- $OUT; echo "$# ${OUT.outputs}"
              cmp ${a.stdout} $OUT_FILE; echo ${a.exitCode}
        """,
    )
    assert done.step("a")["reason"] == "2 of 4 items failed; item 0: exit code 1"
    found = output(done, "a", "OUT")
    summary = {"total": 4, "succeeded": 2, "failed": 2, "skipped": 0, "cancelled": 0}
    assert found["summary"] == summary
    assert [r["status"] for r in found["results"]] == ["failed", "succeeded"] * 2
    assert outputs(done, "a") == [f"out {n}" for n in "1234"]
    assert found["outputs"] == ["out 2", "out 4"]
    assert done.tail("b") == '1 ["out 2","out 4"]\n1'


async def test_an_item_is_skipped_by_itself_and_a_step_if_all_are(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - name: some
            parallel: [x, y]
            preconditions: test $ITEM = y
            command: echo $ITEM
            output: OUT
          - {name: all, parallel: [x, y], preconditions: 'test $ITEM = z', command: 'false'}
          - {name: none, parallel: [x, y], preconditions: 'false', command: 'false'}
        """,
    )
    assert output(done, "some", "OUT")["summary"]["skipped"] == 1
    assert output(done, "some", "OUT")["outputs"] == ["y"]
    assert [done.step(n)["status"] for n in ("some", "all", "none")] == [
        *("succeeded", "skipped", "skipped"),
    ]
    assert done.step("none")["reason"].startswith("precondition not met: false")


async def test_backticks_run_once_for_a_step_and_for_each_item_where_they_use_it(
    tmp_path: Path,
) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - name: a
            parallel: [x, y]
            env:
              - ONCE: '`echo . >> once; echo once`'
              - EACH: '`echo $ITEM >> each; echo $ONCE-$ITEM`'
            command: echo "$ONCE $EACH"
            output: OUT
            retryPolicy: {limit: 0}
        """,
    )
    assert outputs(done, "a") == ["once once-x", "once once-y"]
    assert (tmp_path / "workspace/once").read_text() == ".\n"
    assert sorted((tmp_path / "workspace/each").read_text()) == ["\n", "\n", "x", "y"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((), "parallel: ${LIST}: LIST is not set"),
        (("LIST= ",), "parallel: ${LIST}: LIST is empty"),
        (("LIST=[]",), ""),
    ],
)
async def test_a_list_of_nothing_is_a_failure_unless_it_says_so(
    tmp_path: Path, given: tuple[str, ...], reason: str
) -> None:
    done = await run_text(
        tmp_path,
        "steps: [{name: a, parallel: '${LIST}', command: 'false', output: OUT}]",
        *given,
    )
    assert done.step("a")["reason"].startswith(reason)
    assert done.status == ("failed" if reason else "succeeded")
    if not reason:
        assert output(done, "a", "OUT")["summary"]["total"] == 0


async def test_an_output_over_the_limit_fails_its_item_which_is_not_run_again(
    tmp_path: Path,
) -> None:
    done = await run_text(
        tmp_path,
        """
        maxOutputSize: 1000
        steps:
          - name: a
            parallel: [10, 2000]
            retryPolicy: {limit: 3, intervalSec: 0}
            command: echo $ITEM >> ran; head -c $ITEM /dev/zero | tr '\\0' x
            output: OUT
            continueOn: {failure: true}
          - name: b
            parallel: [400, 400, 400]
            command: head -c $ITEM /dev/zero | tr '\\0' x
            output: OUT
        """,
    )
    assert (
        "item 1: output OUT is larger than maxOutputSize (1000 bytes)" in done.step("a")["reason"]
    )
    assert sorted((tmp_path / "workspace/ran").read_text().split()) == ["10", "2000"]
    assert output(done, "a", "OUT")["outputs"] == ["x" * 10]
    assert done.step("b")["reason"] == "output OUT is larger than maxOutputSize (1000 bytes)"
    assert done.files("*-b/2/*/out")[0].stat().st_size == 400


async def test_a_megabyte_arrives_in_its_file_in_items_and_in_children(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        maxOutputSize: 3000000
        steps:
          - name: a
            command: |
              printf '["'; head -c 1048576 /dev/zero | tr '\\0' x; printf '", "short"]'
            output: BIG
          - {name: b, depends: a, command: 'wc -c < "$BIG_FILE"; echo "${BIG.1}"'}
          - name: c
            depends: a
            parallel: ${BIG}
            command: echo "${#ITEM}"
            output: OUT
            continueOn: {failure: true}
          - {name: d, depends: a, run: child, params: 'LIST=${BIG}', output: KID}
        ---
        name: child
        params: [LIST: '']
        maxOutputSize: 3000000
        steps:
          - {name: s, parallel: '${LIST}', script: 'echo $ITEM_INDEX', output: R}
        """.replace("\n        ---\n", "\n---\n"),
    )
    assert done.tail("b") == f"{1048576 + 13}\nshort"
    first, second = output(done, "c", "OUT")["results"]
    assert first["error"].startswith("ITEM is 1024 KiB, more than an environment variable can hold")
    assert second["output"] == "5"
    kid = json.loads(done.files("*-d/*/output-KID")[0].read_text())
    child = json.loads(kid["outputs"]["R"])
    assert [r["output"] for r in child["results"]] == ["0", "1"]
    assert len(child["results"][0]["item"]) == 1048576


async def test_items_of_the_file_may_set_what_they_like_in_a_child(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        params: [ROWS: '[]']
        steps:
          - name: file
            parallel: [{host: db 1, extra: '$(x)', deep: [1, {a: b}]}, {host: db2}]
            run: child
            output: OUT
          - {name: data, parallel: '${ROWS}', run: child, output: OUT}
        ---
        name: child
        params: [host: none]
        steps:
          - {name: s, run: grandchild, output: R}
          - {name: t, command: 'echo "$host|$(printenv extra)|$(printenv deep)"', output: T}
        ---
        name: grandchild
        steps:
          - {name: s, command: 'echo "$ITEM_INDEX ${ITEM.host}"', output: G}
        """.replace("\n        ---\n", "\n---\n"),
        'ROWS=[{"host": "h 1"}, {"host": "h2", "hots": "x"}, {"PATH": "/tmp"}]',
    )
    found = output(done, "file", "OUT")
    assert [o["T"] for o in found["outputs"]] == ['db 1|$(x)|["1",{"a":"b"}]', "db2||"]
    grand = [json.loads(o["R"])["outputs"]["G"] for o in found["outputs"]]
    assert grand == ["0 db 1", "1 db2"]
    first, second, third = output(done, "data", "OUT")["results"]
    assert first["output"]["T"] == "h 1||"
    assert "hots is not a parameter of this workflow; did you mean" in second["error"]
    assert "PATH is protected" in third["error"]


async def test_a_step_repeats_until_its_own_output_says_so(tmp_path: Path) -> None:
    done = await run_text(
        tmp_path,
        """
        steps:
          - name: a
            parallel: [2, 3]
            command: echo . >> $ITEM; wc -l < $ITEM
            output: OUT
            repeatPolicy: {condition: '${OUT}', expected: '3', limit: 5}
          - name: b
            command: echo . >> b; wc -l < b
            output: N
            repeatPolicy: {repeat: while, condition: 'test $N -lt 3'}
        """,
    )
    assert done.status == "succeeded", done.document
    assert outputs(done, "a") == ["3", "3"]
    assert done.files("*-b/*/output-N")[-1].read_text() == "3"


async def test_the_list_is_stored_once_and_shown_in_part(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.queue(
        """
        steps:
          - name: a
            parallel: ['`echo . >> n; cat n | wc -l`', {my_token: hunter22, k: 'x'}]
            command: echo ${ITEM}
        """
    )
    done = await bench.complete()
    await bench.close()
    (listed,) = [e for e in done.events if isinstance(e, Prepared) and e.items is not None]
    assert listed.items == ("1", '{"my_token":"***","k":"x"}')
    assert done.tail_of("a", 1) == '{"my_token":"***","k":"x"}'


async def test_an_item_that_was_running_is_taken_up_with_its_streams(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.queue(
        """
        steps:
          - name: a
            parallel: [x, y]
            command: |
              echo "begun $ITEM"; until test -e go-$ITEM; do sleep 0.02; done; echo "end $ITEM"
            stdout: '${ITEM}.txt'
            output: OUT
        """
    )
    (tmp_path / "workspace/go-x").touch()
    bench.begin()
    await bench.until(lambda e: ended(e) == 0)
    await bench.restart()
    (tmp_path / "workspace/go-y").touch()
    done = await bench.complete()
    await bench.close()
    assert outputs(done, "a") == ["begun x\nend x", "begun y\nend y"]
    texts = [(tmp_path / f"workspace/{i}.txt").read_text() for i in "xy"]
    assert texts == ["begun x\nend x\n", "begun y\nend y\n"]


def ended(event: Event) -> int | None:
    return event.item if isinstance(event, Ended) else None
