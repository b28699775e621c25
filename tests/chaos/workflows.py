"""The workflows of the storm, and how each of their runs must end if nobody knows of the kills.

Every step says by `effects.sh` that it began and, if it ends by itself, with which code. The first
line of a file, `# chaos: …`, says what a push of it starts; the checks read it there and ask no
part of Dagmill. One rule: no step's result depends on time.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EFFECTS_SH = """\
# One write of one line each: lines of several steps never mix. Said to stderr, as stdout may be
# a value that is passed on.
begin() {
  printf 'B\\t%s\\t%s\\t%s\\t%s\\t\\n' "$DAG_RUN_ID" "$DAG_RUN_STEP_NAME" "$DAG_STEP_ATTEMPT" \\
    "$DAG_RUN_STEP_STDOUT_FILE" >>"$CHAOS_EFFECTS"
  echo "begin $DAG_RUN_ID $DAG_RUN_STEP_NAME $DAG_STEP_ATTEMPT" >&2
}
finish() {
  echo "end $1" >&2
  printf 'E\\t%s\\t%s\\t%s\\t%s\\t%s\\n' "$DAG_RUN_ID" "$DAG_RUN_STEP_NAME" "$DAG_STEP_ATTEMPT" \\
    "$DAG_RUN_STEP_STDOUT_FILE" "$1" >>"$CHAOS_EFFECTS"
  exit "$1"
}
"""


@dataclass(frozen=True)
class Expected:
    """`ends`: step, or `step[item]`, → the codes with which its attempts end, None for one that is
    ended or runs a workflow. A step that never runs is not in it. `again`: steps that run again
    after they were lost. `calls`: steps, or items, whose attempt is a run of another workflow."""

    status: str
    ends: dict[str, tuple[int | None, ...]]
    again: frozenset[str] = field(default_factory=frozenset)
    calls: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Kind:
    text: str
    expected: Expected


HELLO = """\
# chaos: push
on: push
type: chain
maxActiveRuns: 4
steps:
  - name: first
    command: . ./effects.sh; begin; sleep 0.2; finish 0
  - name: second
    command: . ./effects.sh; begin; finish 0
"""

CHAIN = """\
# chaos: quiet
type: chain
maxActiveRuns: 3
params:
  - NAP: "0.2"
steps:
  - name: one
    output: ONE
    command: . ./effects.sh; begin; echo "value of $DAG_RUN_ID"; finish 0
  - name: two
    output: TWO
    command: |
      . ./effects.sh; begin; sleep $NAP
      [ "$ONE" = "value of $DAG_RUN_ID" ] || finish 9
      echo "$ONE, twice"; finish 0
  - name: three
    command: |
      . ./effects.sh; begin; sleep $NAP
      [ "$ONE, twice" = "$TWO" ] || finish 9
      finish 0
handlerOn:
  success:
    command: |
      . ./effects.sh; begin; sleep 0.1
      [ "$DAG_RUN_STATUS" = succeeded ] || finish 9
      finish 0
  exit:
    command: . ./effects.sh; begin; finish 0
"""

LEAVES = 5
FAN = (
    """\
# chaos: push main
on: {push: {branches: [main]}}
maxActiveRuns: 3
params:
  - NAP: "0.1"
steps:
  - name: seed
    output: SEED
    command: . ./effects.sh; begin; echo 7; finish 0
"""
    + "".join(
        f"""\
  - name: leaf{i}
    depends: seed
    output: LEAF{i}
    command: . ./effects.sh; begin; sleep $NAP; echo $((SEED * {i})); finish 0
"""
        for i in range(LEAVES)
    )
    + f"""\
  - name: join
    depends: [{", ".join(f"leaf{i}" for i in range(LEAVES))}]
    command: |
      . ./effects.sh; begin
      [ "{" ".join(f"$LEAF{i}" for i in range(LEAVES))}" = \
"{" ".join(str(7 * i) for i in range(LEAVES))}" ] || finish 9
      finish 0
"""
)

RETRY = """\
# chaos: quiet
type: chain
maxActiveRuns: 3
steps:
  - name: third-time
    retryPolicy: {limit: 3, intervalSec: 0.3}
    command: . ./effects.sh; begin; sleep 0.1; [ "$DAG_STEP_ATTEMPT" -ge 3 ] || finish 7; finish 0
  - name: hopeless
    retryPolicy: {limit: 1, intervalSec: 0.2, backoff: true}
    command: . ./effects.sh; begin; finish 5
  - name: never
    command: . ./effects.sh; begin; finish 0
handlerOn:
  failure:
    command: . ./effects.sh; begin; [ "$DAG_RUN_FAILED_STEPS" = hopeless ] || finish 9; finish 0
  exit:
    command: . ./effects.sh; begin; sleep 0.2; finish 0
"""

SLOW = """\
# chaos: quiet
maxActiveRuns: 2
maxCleanUpTimeSec: 1
steps:
  - name: overlong
    timeoutSec: 1.5
    retryPolicy: {limit: 1, intervalSec: 0.2}
    continueOn: {failure: true}
    command: . ./effects.sh; begin; sleep 60; finish 0
  - name: stubborn
    timeoutSec: 1.5
    continueOn: {failure: true}
    command: . ./effects.sh; trap '' TERM; begin; sleep 60; finish 0
  - name: brood
    command: . ./effects.sh; begin; sleep 300 >/dev/null 2>&1 & finish 0
  - name: after
    depends: [overlong, stubborn, brood]
    command: . ./effects.sh; begin; finish 0
handlerOn:
  exit:
    command: . ./effects.sh; begin; finish 0
"""

LONG = """\
# chaos: quiet
type: graph
maxActiveRuns: 2
steps:
  - name: long
    command: . ./effects.sh; begin; sleep 4; finish 0
  - name: brood
    command: . ./effects.sh; begin; (sleep 1; sleep 300) >/dev/null 2>&1 & sleep 1; finish 0
"""

GUARDED = """\
# chaos: quiet
maxActiveRuns: 3
preconditions: [test -f effects.sh]
steps:
  - name: open
    preconditions: [sleep 0.2]
    command: . ./effects.sh; begin; finish 0
  - name: closed
    preconditions: ["false"]
    continueOn: {skipped: true}
    command: . ./effects.sh; begin; finish 0
  - name: asked
    preconditions:
      - condition: "`sleep 0.3; echo yes`"
        expected: "yes"
    continueOn: {exitCode: [3]}
    command: . ./effects.sh; begin; finish 3
  - name: after
    depends: [open, closed, asked]
    command: . ./effects.sh; begin; finish 0
"""

LOSSY = """\
# chaos: quiet
maxActiveRuns: 2
steps:
  - name: again
    onLoss: retry
    command: . ./effects.sh; begin; sleep 1; finish 0
  - name: fragile
    onLoss: fail
    retryPolicy: {limit: 2, intervalSec: 0.1}
    continueOn: {failure: true}
    command: . ./effects.sh; begin; sleep 1.5; finish 0
  - name: after
    depends: [again, fragile]
    onLoss: retry
    command: . ./effects.sh; begin; sleep 0.3; finish 0
"""

# A tree of runs: runs below runs, items, repetitions, and a person who is asked.
ITEMS = 3
TREE = """\
# chaos: quiet
type: graph
maxActiveRuns: 2
concurrency: {group: trees, max: 2}
steps:
  - name: fan
    run: leaf
    parallel: {items: [a, b, c], maxConcurrent: 2}
    output: FAN
  - name: each
    parallel: [0, 3, 0]
    retryPolicy: {limit: 1, intervalSec: 0.2}
    continueOn: {failure: true}
    command: . ./effects.sh; begin; sleep 0.1; finish "$ITEM"
  - name: rounds
    repeatPolicy: {repeat: true, limit: 3, intervalSec: 0.2}
    command: . ./effects.sh; begin; finish 0
  - name: asked
    depends: fan
    approval: true
    command: |
      . ./effects.sh; begin
      [ "${FAN.summary.succeeded} ${FAN.outputs[2].TWO}" = "3 c, then c" ] || finish 9
      finish 0
  - name: after
    depends: [each, rounds, asked]
    command: . ./effects.sh; begin; finish 0
handlerOn:
  exit:
    command: . ./effects.sh; begin; sleep 0.1; finish 0
"""
LEAF = """\
# chaos: quiet
type: chain
concurrency: {group: leaves, max: 2}
steps:
  - name: one
    output: ONE
    command: . ./effects.sh; begin; sleep 0.1; echo "$ITEM"; finish 0
  - name: below
    run: twig
    params: {WORD: "${ONE}"}
  - name: two
    output: TWO
    command: . ./effects.sh; begin; echo "$ONE, then $ITEM"; finish 0
"""
TWIG = """\
# chaos: quiet
params:
  - WORD: a
steps:
  - name: only
    command: . ./effects.sh; begin; sleep 0.1; [ "$WORD" = "$ITEM" ] || finish 9; finish 0
"""

MINUTE = """\
# chaos: quiet
schedule: "* * * * *"
steps:
  - name: tick
    command: . ./effects.sh; begin; sleep {nap}; finish 0
"""

BRITTLE = """\
# chaos: push
on: push
maxActiveRuns: 4
steps:
  - name: only
    command: . ./effects.sh; begin; finish 0
"""
BROKEN = """\
# chaos: broken
on: push
stepz:
  - command: "true"
"""

SHIFTY = """\
# chaos: quiet
maxActiveRuns: 4
{schedule}steps:
  - name: only
    command: . ./effects.sh; begin; finish 0
"""
SHIFTS = ("", 'schedule: "* * * * *"\n', 'schedule: "*/2 * * * *"\n')


KINDS = {
    "hello": Kind(HELLO, Expected("succeeded", {"first": (0,), "second": (0,)})),
    "chain": Kind(
        CHAIN,
        Expected(
            "succeeded",
            {
                "one": (0,),
                "two": (0,),
                "three": (0,),
                "handlerOn.success": (0,),
                "handlerOn.exit": (0,),
            },
        ),
    ),
    "fan": Kind(
        FAN,
        Expected(
            "succeeded", {"seed": (0,), "join": (0,), **{f"leaf{i}": (0,) for i in range(LEAVES)}}
        ),
    ),
    "retry": Kind(
        RETRY,
        Expected(
            "failed",
            {
                "third-time": (7, 7, 0),
                "hopeless": (5, 5),
                "handlerOn.failure": (0,),
                "handlerOn.exit": (0,),
            },
        ),
    ),
    "slow": Kind(
        SLOW,
        Expected(
            "partially_succeeded",
            {
                "overlong": (None, None),
                "stubborn": (None,),
                "brood": (0,),
                "after": (0,),
                "handlerOn.exit": (0,),
            },
        ),
    ),
    "long": Kind(LONG, Expected("succeeded", {"long": (0,), "brood": (0,)})),
    "guarded": Kind(
        GUARDED, Expected("partially_succeeded", {"open": (0,), "asked": (3,), "after": (0,)})
    ),
    "lossy": Kind(
        LOSSY,
        Expected(
            "succeeded",
            {"again": (0,), "fragile": (0,), "after": (0,)},
            again=frozenset({"again", "after"}),
        ),
    ),
    "tree": Kind(
        TREE,
        Expected(
            "partially_succeeded",
            {
                **{f"fan[{i}]": (None,) for i in range(ITEMS)},
                "each[0]": (0,),
                "each[1]": (3, 3),
                "each[2]": (0,),
                "rounds": (0, 0, 0),
                "asked": (0,),
                "after": (0,),
                "handlerOn.exit": (0,),
            },
            calls=frozenset(f"fan[{i}]" for i in range(ITEMS)),
        ),
    ),
    "leaf": Kind(
        LEAF,
        Expected(
            "succeeded", {"one": (0,), "below": (None,), "two": (0,)}, calls=frozenset({"below"})
        ),
    ),
    "twig": Kind(TWIG, Expected("succeeded", {"only": (0,)})),
    "minute": Kind(MINUTE.format(nap="0.1"), Expected("succeeded", {"tick": (0,)})),
    "minute-long": Kind(MINUTE.format(nap="3"), Expected("succeeded", {"tick": (0,)})),
    "brittle": Kind(BRITTLE, Expected("succeeded", {"only": (0,)})),
    "shifty": Kind(SHIFTY.format(schedule=""), Expected("succeeded", {"only": (0,)})),
}
BY_HAND = ("chain", "fan", "retry", "slow", "long", "guarded", "lossy", "tree")
MINUTELY = ("minute", "minute-long")


def path_of(workflow: str) -> str:
    return f".dagu/{workflow}.yaml"


def first_files() -> dict[str, str]:
    """What the first commit holds: path → text."""
    files = {path_of(name): kind.text for name, kind in KINDS.items()}
    return {**files, "effects.sh": EFFECTS_SH, "note.txt": "0\n"}


def started_by_push(text: str, ref: str) -> str:
    """What a push to `ref` makes of a file: "run", "broken", or "" for nothing."""
    match text.splitlines()[0].removeprefix("# chaos: "):
        case "push":
            return "run"
        case "push main":
            return "run" if ref == "refs/heads/main" else ""
        case "broken":
            return "broken"
        case "quiet":
            return ""
        case other:
            raise ValueError(f"a workflow that begins with {other!r}")


def is_scheduled(text: str) -> bool:
    return any(line.startswith("schedule:") for line in text.splitlines())
