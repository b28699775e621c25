"""What the plan decides, as transcripts of facts."""

from __future__ import annotations

import pytest
from run_driver import Driver, workflow

from runner.engine.events import Ended, Launched
from runner.engine.plan import interruptions, loss


def test_a_chain_runs_in_document_order() -> None:
    run = Driver(
        workflow("""
        type: chain
        steps:
          - {name: a, command: "true"}
          - {name: b, command: "true"}
        """)
    )
    run.finish_all()
    assert run.transcript() == [
        "Queued",
        "Started",
        "PreparationStarted",
        "Prepared",
        "Launched a 1",
        "Ended a 1",
        "Launched b 1",
        "Ended b 1",
        "Settled succeeded",
        "Finished succeeded",
    ]


DIAMOND = """
steps:
  - {name: a, command: "true"}
  - {name: b, command: "true", depends: a}
  - {name: c, command: "true", depends: a}
  - {name: d, command: "true", depends: [b, c]}
  - {name: e, command: "true"}
"""


def test_a_failure_cancels_what_is_below_and_lets_the_rest_go_on() -> None:
    run = Driver(workflow(DIAMOND))
    assert set(run.alive) == {"a", "e"}
    run.end("a", 1)
    assert set(run.alive) == {"e"}
    assert [run.status(s) for s in "abcd"] == ["failed", "cancelled", "cancelled", "cancelled"]
    assert run.reason("d") == "upstream failed"
    assert not run.state.final
    run.end("e")
    assert run.state.status == "failed"
    assert run.state.reason == 'step "a" failed: exit code 1'


def test_a_step_waits_for_all_that_it_depends_on() -> None:
    run = Driver(workflow(DIAMOND))
    run.end("a")
    run.end("b")
    assert set(run.alive) == {"e", "c"}
    run.end("c")
    assert set(run.alive) == {"e", "d"}


def test_a_tolerated_failure_makes_the_run_partially_succeeded() -> None:
    run = Driver(
        workflow("""
        steps:
          - {name: a, command: x, continueOn: {failure: true}}
          - {name: b, command: x, depends: a}
        """)
    )
    run.end("a", 3)
    run.end("b")
    assert run.state.status == "partially_succeeded"


def test_a_tolerated_failure_without_any_success_fails_the_run() -> None:
    run = Driver(workflow("steps: [{name: a, command: x, continueOn: {failure: true}}]"))
    run.end("a", 3)
    assert run.state.status == "failed"


@pytest.mark.parametrize(
    ("policy", "code", "matched", "goes_on"),
    [
        ("exitCode: 3", 3, False, True),
        ("exitCode: [2, 3]", 3, False, True),
        ("exitCode: [2]", 3, False, False),
        ("output: nothing to do", 1, True, True),
        ("output: nothing to do", 1, False, False),
        ("failure: false", 1, False, False),
    ],
)
def test_continue_on_decides_whether_dependents_start(
    policy: str, code: int, matched: bool, goes_on: bool
) -> None:
    run = Driver(
        workflow(f"""
        steps:
          - {{name: a, command: x, continueOn: {{{policy}}}}}
          - {{name: b, command: x, depends: a}}
        """)
    )
    run.end("a", code, matched=matched)
    assert ("b" in run.alive) is goes_on


def test_mark_success_counts_a_tolerated_failure_as_success() -> None:
    run = Driver(
        workflow("steps: [{name: a, command: x, continueOn: {exitCode: 3, markSuccess: true}}]")
    )
    run.end("a", 3)
    assert run.status("a") == "succeeded"
    assert run.state.status == "succeeded"


def test_an_unmet_precondition_skips_the_step_and_those_below() -> None:
    run = Driver(
        workflow("""
        steps:
          - {name: a, command: x, preconditions: "false"}
          - {name: b, command: x, depends: a}
          - {name: c, command: x}
        """)
    )
    run.prepared("a", met=False)
    assert [run.status(s) for s in "ab"] == ["skipped", "skipped"]
    run.end("c")
    assert run.state.status == "succeeded"


def test_continue_on_skipped_lets_dependents_start() -> None:
    run = Driver(
        workflow("""
        steps:
          - {name: a, command: x, preconditions: "false", continueOn: {skipped: true}}
          - {name: b, command: x, depends: a}
        """)
    )
    run.prepared("a", met=False)
    assert set(run.alive) == {"b"}


def test_below_a_cancelled_and_a_skipped_step_is_cancelled() -> None:
    run = Driver(
        workflow("""
        steps:
          - {name: a, command: x, preconditions: "false"}
          - {name: b, command: x}
          - {name: c, command: x, depends: [b]}
          - {name: d, command: x, depends: [a, c]}
        """)
    )
    run.prepared("a", met=False)
    run.end("b", 1)
    assert run.status("d") == "cancelled"


def test_a_condition_that_cannot_be_evaluated_fails_the_step() -> None:
    run = Driver(workflow("steps: [{name: a, command: x, preconditions: y}]"))
    run.prepared("a", error="precondition took over 300 s")
    assert run.status("a") == "failed"
    assert run.state.status == "failed"


RETRY = "steps: [{name: a, command: x, retryPolicy: {limit: 2, intervalSec: 10, backoff: true}}]"


def test_a_retry_waits_and_then_tries_again() -> None:
    run = Driver(workflow(RETRY))
    run.end("a", 1)
    assert run.status("a") == "retrying"
    run.wait(9.9)
    assert not run.alive
    run.wait(0.2)
    assert run.alive["a"].attempt == 2
    run.end("a", 1)
    run.wait(19.8)
    assert not run.alive
    run.wait(0.3)
    run.end("a")
    assert run.state.status == "succeeded"


def test_a_retry_ends_after_its_limit() -> None:
    run = Driver(workflow(RETRY))
    run.finish_all(lambda _: 1)
    assert run.state.steps[0].attempt == 3
    assert run.state.status == "failed"


@pytest.mark.parametrize(
    ("codes", "code", "again"), [("[75]", 75, True), ("[75]", 1, False), ("[429]", 173, True)]
)
def test_exit_codes_of_a_retry_policy_select_failures(codes: str, code: int, again: bool) -> None:
    run = Driver(
        workflow(f"steps: [{{name: a, command: x, retryPolicy: {{limit: 1, exitCode: {codes}}}}}]")
    )
    run.end("a", code)
    assert (run.status("a") == "retrying") is again


def test_what_another_attempt_cannot_help_is_not_retried() -> None:
    run = Driver(workflow(RETRY))
    run.end("a", 1, retryable=False)
    assert run.status("a") == "failed"


def test_a_void_launch_is_made_again_as_the_same_attempt_in_its_place() -> None:
    run = Driver(workflow("type: chain\nsteps: [{name: a, command: x}, {name: b, command: x}]"))
    run.restart()
    run.void("a")
    assert [e.attempt for e in run.events if isinstance(e, Launched)] == [1, 1]
    run.finish_all()
    assert run.state.status == "succeeded"


def test_a_void_launch_is_not_made_again_once_the_run_is_stopped() -> None:
    run = Driver(workflow("steps: [{name: a, command: x}]"))
    run.stop()
    run.void("a")
    assert run.status("a") == "cancelled"
    assert run.state.status == "cancelled"


def test_a_lost_step_fails_whatever_its_retry_policy_says() -> None:
    run = Driver(
        workflow("steps: [{name: a, command: x, retryPolicy: {limit: 9, intervalSec: 0}}]")
    )
    run.lose("a")
    assert (run.status("a"), run.state.steps[0].lost) == ("failed", True)
    assert run.state.status == "failed"


def test_on_loss_retry_ends_after_ten_losses() -> None:
    run = Driver(workflow("onLoss: retry\nsteps: [{name: a, command: x}]"))
    for _ in range(10):
        run.lose("a")
        assert run.status("a") == "running"
    assert loss(run.state.steps[0], "lost") == ("lost; that was loss 11, so it is not run again")
    run.lose("a")
    assert run.status("a") == "failed"


def test_the_steps_own_on_loss_is_stronger_than_the_workflows() -> None:
    run = Driver(workflow("onLoss: retry\nsteps: [{name: a, command: x, onLoss: fail}]"))
    run.lose("a")
    assert run.status("a") == "failed"


def test_a_lost_step_that_was_told_to_stop_keeps_that_reason() -> None:
    run = Driver(workflow("onLoss: retry\nsteps: [{name: a, command: x, timeoutSec: 5}]"))
    run.wait(5)
    run.lose("a")
    assert run.reason("a") == "timed out after 5 s"
    assert run.state.steps[0].lost is False


def test_steps_that_all_ended_in_time_are_not_overtaken_by_the_runs_limit() -> None:
    run = Driver(workflow("timeoutSec: 10\nsteps: [{name: a, command: x}]"))
    launched = run.alive.pop("a")
    run.fact(Ended(run.now, "a", 1, launched.launch, 0, None, ""))
    run.wait(60)  # nobody was there to settle the run
    assert run.state.status == "succeeded"


def test_interruptions_end_what_runs_and_leave_the_run() -> None:
    run = Driver(workflow("onLoss: retry\nsteps: [{name: a, command: x}, {name: b, command: x}]"))
    run.end("b")
    first = interruptions(run.state, run.now, kill=False)
    assert [(s.sent.step, s.sent.signal) for s in first] == [("a", 15)]
    run.fact(first[0].sent)
    assert interruptions(run.state, run.now, kill=False) == []
    assert [s.sent.signal for s in interruptions(run.state, run.now, kill=True)] == [9]
    run.room = 0
    run.end("a", 0)
    assert run.reason("a") == "lost: stopped with the service"
    assert run.status("a") == "retrying"


def test_a_timed_out_attempt_gets_term_then_kill_and_fails() -> None:
    run = Driver(
        workflow("""
        maxCleanUpTimeSec: 5
        steps: [{name: a, command: x, timeoutSec: 30}]
        """)
    )
    run.wait(29)
    assert run.signals == []
    run.wait(1)
    assert run.signals == [("a", 15)]
    run.wait(5)
    assert run.signals == [("a", 15), ("a", 9)]
    run.end("a", 137, signal=9)
    assert run.reason("a") == "timed out after 30 s"
    assert run.state.status == "failed"


def test_a_timed_out_attempt_that_exits_with_0_still_failed() -> None:
    run = Driver(workflow("steps: [{name: a, command: x, timeoutSec: 30}]"))
    run.wait(30)
    run.end("a", 0)
    assert run.status("a") == "failed"


def test_the_timeout_of_a_step_counts_for_each_attempt() -> None:
    run = Driver(
        workflow(
            "steps: [{name: a, command: x, timeoutSec: 30,"
            " retryPolicy: {limit: 1, intervalSec: 0}}]"
        )
    )
    run.wait(30)
    run.end("a", 143, signal=15)
    run.wait(0)
    assert run.alive["a"].attempt == 2
    run.wait(29)
    assert run.signals == [("a", 15)]


def test_the_timeout_of_a_run_cancels_its_steps_and_fails_it() -> None:
    run = Driver(
        workflow("""
        timeoutSec: 60
        steps:
          - {name: a, command: x}
          - {name: b, command: x, depends: a}
        handlerOn: {failure: {command: x}}
        """)
    )
    run.wait(60)
    assert run.signals == [("a", 15)]
    assert run.status("b") == "cancelled"
    run.end("a", 143, signal=15)
    assert run.status("a") == "cancelled"
    assert set(run.alive) == {"handlerOn.failure"}
    run.end("handlerOn.failure")
    assert (run.state.status, run.state.reason) == ("failed", "timed out after 60 s")


HANDLERS = """
steps: [{name: a, command: x}]
handlerOn:
  success: {command: x}
  failure: {command: x}
  exit: {command: x}
"""


@pytest.mark.parametrize(("code", "handler"), [(0, "success"), (1, "failure")])
def test_the_handler_of_the_outcome_runs_before_exit(code: int, handler: str) -> None:
    run = Driver(workflow(HANDLERS))
    run.end("a", code)
    assert set(run.alive) == {f"handlerOn.{handler}"}
    run.end(f"handlerOn.{handler}")
    assert set(run.alive) == {"handlerOn.exit"}
    run.end("handlerOn.exit")
    assert run.state.status == ("failed" if code else "succeeded")


def test_the_outcome_is_settled_before_any_handler() -> None:
    run = Driver(workflow(HANDLERS))
    run.end("a")
    lines = run.transcript()
    assert lines.index("Settled succeeded") < lines.index("Launched handlerOn.success 1")


def test_a_failed_handler_turns_success_into_failure() -> None:
    run = Driver(workflow(HANDLERS))
    run.end("a")
    run.end("handlerOn.success", 1)
    run.end("handlerOn.exit")
    assert (run.state.status, run.state.reason) == ("failed", "handler success failed")
    assert run.state.outcome == "succeeded"


def test_a_stop_cancels_what_waits_and_signals_what_runs() -> None:
    run = Driver(workflow(DIAMOND))
    run.end("a")
    run.stop()
    assert sorted(run.signals) == [("b", 15), ("c", 15), ("e", 15)]
    assert run.status("d") == "cancelled"
    for step in "bce":
        run.end(step, 143, signal=15)
    assert (run.state.status, run.state.reason) == ("cancelled", "stopped by ada")


def test_a_stop_sends_the_signal_that_the_step_names() -> None:
    run = Driver(workflow("steps: [{name: a, command: x, signalOnStop: INT}]"))
    run.stop()
    assert run.signals == [("a", 2)]


def test_a_second_stop_kills() -> None:
    run = Driver(workflow("steps: [{name: a, command: x}]"))
    run.stop()
    run.stop()
    assert run.signals == [("a", 15), ("a", 9)]


def test_handlers_run_after_a_first_stop_and_a_second_one_kills_them() -> None:
    run = Driver(workflow(HANDLERS))
    run.stop()
    run.end("a", 143, signal=15)
    assert set(run.alive) == {"handlerOn.exit"}
    run.stop()
    assert run.signals[-1] == ("handlerOn.exit", 9)
    run.end("handlerOn.exit", 137, signal=9)
    assert run.state.status == "cancelled"


def test_a_stop_during_handlers_keeps_the_outcome() -> None:
    run = Driver(workflow(HANDLERS))
    run.end("a")
    run.stop()
    run.end("handlerOn.success")
    run.end("handlerOn.exit")
    assert run.state.status == "succeeded"


def test_a_stop_ends_a_retry_wait() -> None:
    run = Driver(workflow(RETRY))
    run.end("a", 1)
    run.stop()
    assert run.state.status == "cancelled"


def test_a_stop_before_the_run_is_prepared_cancels_it() -> None:
    run = Driver(workflow("steps: [{name: a, command: x}]"), start=False)
    run.stop()
    assert not run.state.final  # still queued: admission's business
    from runner.engine.events import Started

    run.fact(Started(run.now, "host", "0"))
    run.decide()
    assert run.state.status == "cancelled"
    assert run.preparing == []


def test_an_unmet_run_precondition_skips_the_run_without_handlers() -> None:
    run = Driver(workflow(HANDLERS), start=False)
    from runner.engine.events import Started

    run.fact(Started(run.now, "host", "0"))
    run.decide()
    run.prepared(None, met=False)
    assert run.state.status == "skipped"
    assert run.status("a") == "skipped"
    assert not run.alive


def test_max_active_steps_bounds_what_runs_at_once() -> None:
    steps = ", ".join(f"{{name: s{i}, command: x}}" for i in range(6))
    run = Driver(workflow(f"{{type: graph, maxActiveSteps: 2, steps: [{steps}]}}"))
    assert len(run.alive) == 2
    run.end("s0")
    assert set(run.alive) == {"s1", "s2"}


def test_steps_start_in_document_order_when_room_is_scarce() -> None:
    steps = ", ".join(f"{{name: s{i}, command: x}}" for i in range(5))
    run = Driver(workflow(f"{{type: graph, steps: [{steps}]}}"), room=1)
    run.finish_all()
    launched = [line.split()[1] for line in run.transcript() if line.startswith("Launched")]
    assert launched == [f"s{i}" for i in range(5)]


class Counting(list):  # type: ignore[type-arg]
    """A list that counts how often an item is looked at."""

    looks = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        Counting.looks += 1
        return super().__getitem__(index)


@pytest.mark.parametrize("shape", ["chain", "fan-out", "failing chain"])
def test_the_steps_looked_at_grow_linearly(shape: str) -> None:
    def looks(count: int) -> int:
        kind = "graph" if shape == "fan-out" else "chain"
        steps = ", ".join(f"{{name: s{i}, command: x}}" for i in range(count))
        run = Driver(workflow(f"{{type: {kind}, steps: [{steps}]}}"), room=8)
        run.state.steps = Counting(run.state.steps)
        Counting.looks = 0
        run.finish_all(lambda _: 1 if shape == "failing chain" else 0)
        return Counting.looks

    small, large = looks(100), looks(1000)
    assert large <= 11 * small
