"""Parallel steps, repetitions, approvals, sub-workflows and handlers as the pure core decides."""

from __future__ import annotations

from run_driver import START, Driver, workflow

from runner.engine.events import Carried, ChildWaits
from runner.engine.plan import SIGTERM

FAN = """
steps:
  - name: fan
    command: x
    parallel: {items: [a, b, c], maxConcurrent: 2}
  - name: after
    command: x
    depends: fan
"""


def fanned(text: str = FAN, *, items: int = 3, room: int = 64) -> Driver:
    run = Driver(workflow(text), room=room)
    run.prepared("fan", items=items)
    return run


# Parallel steps


def test_items_begin_in_order_and_no_more_than_max_concurrent_at_once() -> None:
    run = fanned()
    assert list(run.alive) == ["fan#0", "fan#1"]
    run.end("fan#1")
    assert list(run.alive) == ["fan#0", "fan#2"]
    run.end("fan#0")
    run.end("fan#2")
    assert run.status("fan") == "succeeded"
    assert list(run.alive) == ["after"]


def test_all_items_run_even_if_one_fails_and_then_the_step_fails() -> None:
    run = fanned()
    run.end("fan#0", 3)
    run.end("fan#1")
    run.end("fan#2")
    assert run.status("fan") == "failed"
    assert run.reason("fan") == "1 of 3 items failed; item 0: exit code 3"
    assert run.status("after") == "cancelled"


def test_a_retry_runs_only_the_failed_items_again() -> None:
    run = fanned(
        FAN.replace(
            "command: x\n    parallel",
            "command: x\n    retryPolicy: {limit: 1, intervalSec: 7}\n    parallel",
        )
    )
    run.end("fan#0", 1)
    assert run.status("fan#0") == "retrying"
    run.end("fan#1")
    run.end("fan#2")
    run.wait(7)
    assert list(run.alive) == ["fan#0"]
    run.end("fan#0")
    assert run.status("fan") == "succeeded"
    assert [run.unit(f"fan#{n}").attempt for n in range(3)] == [2, 1, 1]


def test_an_item_that_waits_for_its_next_attempt_keeps_its_place() -> None:
    text = FAN.replace(
        "command: x\n    parallel", "command: x\n    retryPolicy: {limit: 1}\n    parallel"
    )
    run = fanned(text)
    run.end("fan#0", 1)
    assert list(run.alive) == ["fan#1"]


def test_an_empty_list_succeeds() -> None:
    run = fanned(items=0)
    assert run.status("fan") == "succeeded"
    assert list(run.alive) == ["after"]


def test_a_parallel_step_is_skipped_only_if_all_of_its_items_were() -> None:
    text = FAN.replace("command: x\n    parallel", "run: child\n    parallel")
    some = fanned(text)
    some.end("fan#0", skipped=True)
    some.end("fan#1")
    some.end("fan#2", skipped=True)
    assert some.status("fan") == "succeeded"
    all_of_them = fanned(text)
    for n in range(3):
        all_of_them.end(f"fan#{n}", skipped=True)
    assert (all_of_them.status("fan"), all_of_them.status("after")) == ("skipped", "skipped")


def test_a_tolerated_failure_of_a_parallel_step_lets_its_dependents_start() -> None:
    run = fanned(
        FAN.replace(
            "command: x\n    parallel", "command: x\n    continueOn: {exitCode: 4}\n    parallel"
        )
    )
    run.end("fan#0")
    run.end("fan#1", 4)
    run.end("fan#2")
    assert run.status("fan") == "failed"
    assert list(run.alive) == ["after"]


def test_each_item_has_its_own_time_limit() -> None:
    run = fanned(
        FAN.replace("command: x\n    parallel", "command: x\n    timeoutSec: 10\n    parallel")
    )
    run.wait(6)
    run.end("fan#0")
    run.wait(4)
    assert run.signals == [("fan#1", SIGTERM)]
    run.end("fan#1", 143, signal=15)
    assert run.reason("fan#1") == "timed out after 10 s"
    assert list(run.alive) == ["fan#2"]


def test_a_stop_cancels_waiting_items_and_signals_those_that_run() -> None:
    run = fanned()
    run.stop()
    assert sorted(run.signals) == [("fan#0", SIGTERM), ("fan#1", SIGTERM)]
    assert run.status("fan#2") == "cancelled"
    run.end("fan#0", 143, signal=15)
    run.end("fan#1", 143, signal=15)
    assert (run.status("fan"), run.status("after")) == ("cancelled", "cancelled")
    assert run.state.status == "cancelled"


def test_items_count_among_the_active_steps_of_the_run() -> None:
    run = fanned("maxActiveSteps: 1\n" + FAN.lstrip())
    assert list(run.alive) == ["fan#0"]


def test_items_prepare_one_by_one_where_their_conditions_need_it() -> None:
    run = Driver(workflow(FAN), item_prepares=frozenset({"fan"}))
    run.prepared("fan", items=3)
    assert run.preparing == ["fan#0", "fan#1"]
    run.prepared("fan#0", met=False)
    assert run.status("fan#0") == "skipped"
    assert run.preparing == ["fan#1", "fan#2"]
    run.prepared("fan#1")
    assert list(run.alive) == ["fan#1"]


# Steps that run a sub-workflow


def test_a_step_that_waits_for_a_child_run_takes_no_place() -> None:
    steps = "[{name: a, run: child}, {name: b, run: child}, {name: c, command: x}]"
    text = f"maxActiveSteps: 1\nsteps: {steps}\n"
    run = Driver(workflow(text), room=1)
    assert list(run.alive) == ["a", "b", "c"]


def test_a_stopped_child_run_is_not_killed_after_the_clean_up_time() -> None:
    run = Driver(workflow("maxCleanUpTimeSec: 5\nsteps:\n  - {name: a, run: child}\n"))
    run.stop()
    run.wait(60)
    assert run.signals == [("a", SIGTERM)]
    run.stop()
    assert run.signals[-1] == ("a", 9)


def test_a_skipped_child_run_skips_the_step() -> None:
    run = Driver(workflow("steps:\n  - {name: a, run: child}\n"))
    run.end("a", skipped=True)
    assert run.status("a") == "skipped"
    assert run.state.status == "succeeded"


def test_a_run_waits_with_its_child_run() -> None:
    run = Driver(workflow("timeoutSec: 100\nsteps: [{name: a, run: child}]\n"))
    run.fact(ChildWaits(run.now, "a", True))
    assert run.state.status == "waiting"
    run.wait(1000)
    run.fact(ChildWaits(run.now, "a", False))
    assert (run.state.status, run.state.timed_out) == ("running", None)
    run.end("a")
    assert run.state.status == "succeeded"


def test_the_time_limit_of_a_step_stands_still_while_its_child_run_waits() -> None:
    run = Driver(workflow("steps: [{name: a, run: child, timeoutSec: 100}]\n"))
    run.wait(60)
    run.fact(ChildWaits(run.now, "a", True))
    run.wait(10_000)
    assert not run.signals
    run.fact(ChildWaits(run.now, "a", False))
    run.wait(39)
    assert not run.signals
    run.wait(1)
    assert run.signals == [("a", SIGTERM)]
    run.end("a", 1)
    assert run.reason("a") == "timed out after 100 s"


# Repetitions


def repeating(policy: str, *, retry: str = "") -> Driver:
    more = f", retryPolicy: {retry}" if retry else ""
    return Driver(workflow(f"steps:\n  - {{name: a, command: x, repeatPolicy: {policy}{more}}}\n"))


def test_repeat_true_repeats_while_the_step_succeeds() -> None:
    run = repeating("{repeat: true, intervalSec: 5}")
    run.end("a")
    assert not run.alive
    run.wait(5)
    run.end("a")
    run.wait(5)
    run.end("a", 1)
    assert run.status("a") == "failed"
    assert run.unit("a").attempt == 3


def test_a_limit_ends_repetitions_that_succeed() -> None:
    run = repeating("{repeat: true, limit: 2}")
    run.end("a")
    run.wait(0)
    run.end("a")
    assert run.status("a") == "succeeded"


def test_until_an_exit_code_takes_that_code_for_a_success() -> None:
    run = repeating("{repeat: until, exitCode: [3]}")
    run.end("a", 1)
    run.wait(0)
    run.end("a", 3)
    assert (run.status("a"), run.unit("a").exit_code) == ("succeeded", 3)


def test_until_fails_when_its_limit_is_reached() -> None:
    run = repeating("{repeat: until, exitCode: [3], limit: 2}")
    run.end("a")
    run.wait(0)
    run.end("a")
    assert run.status("a") == "failed"
    assert run.reason("a") == "exit code 0, still not met after 2 executions"


def test_while_an_exit_code_ends_with_what_the_last_execution_was() -> None:
    run = repeating("{repeat: while, exitCode: [7]}")
    run.end("a", 7)
    run.wait(0)
    run.end("a", 2)
    assert (run.status("a"), run.reason("a")) == ("failed", "exit code 2")


def test_a_condition_with_expected_repeats_until_it_holds() -> None:
    run = repeating("{condition: $X, expected: done, limit: 3}")
    run.end("a")
    run.judged("a", met=False)
    run.end("a")
    run.judged("a", met=True)
    assert run.status("a") == "succeeded"
    assert run.unit("a").attempt == 2


def test_a_condition_that_never_holds_fails_the_step_at_its_limit() -> None:
    run = repeating("{condition: $X, expected: done, limit: 1}")
    run.end("a")
    run.judged("a", met=False)
    assert run.reason("a") == "still not met after 1 executions"


def test_a_condition_alone_repeats_while_it_holds() -> None:
    run = repeating('{condition: "test -e more"}')
    run.end("a")
    run.judged("a", met=True)
    run.end("a")
    run.judged("a", met=False)
    assert run.status("a") == "succeeded"


def test_a_condition_that_cannot_be_evaluated_fails_the_step() -> None:
    run = repeating('{condition: "test -e more"}')
    run.end("a")
    run.judged("a", met=False, error="broken")
    assert (run.status("a"), run.reason("a")) == ("failed", "broken")


def test_a_retry_works_inside_one_repetition() -> None:
    run = repeating("{repeat: true, limit: 2}", retry="{limit: 1, intervalSec: 3}")
    run.end("a", 1)
    run.wait(3)
    run.end("a")
    run.wait(0)
    run.end("a", 1)
    assert run.status("a") == "retrying"
    run.wait(3)
    run.end("a")
    assert run.status("a") == "succeeded"
    assert run.unit("a").attempt == 4


def test_an_exit_code_that_the_repetition_is_about_uses_up_no_retry() -> None:
    run = repeating("{repeat: while, exitCode: [7]}", retry="{limit: 1, intervalSec: 9}")
    run.end("a", 7)
    run.wait(0)
    run.end("a", 1)
    assert run.status("a") == "retrying"
    run.wait(9)
    run.end("a", 7)
    run.wait(0)
    run.end("a")
    assert run.status("a") == "succeeded"


def test_a_tolerated_code_above_255_means_what_the_system_makes_of_it() -> None:
    run = Driver(workflow("steps: [{name: a, command: x, continueOn: {exitCode: 429}}]"))
    run.end("a", 173)
    assert run.state.steps[0].tolerated


def test_waits_between_repetitions_grow_by_the_factor() -> None:
    run = repeating("{repeat: true, intervalSec: 2, backoff: 3, limit: 3}")
    run.end("a")
    run.wait(2)
    run.end("a")
    run.wait(5)
    assert not run.alive
    run.wait(1)
    assert list(run.alive) == ["a"]


def test_a_stop_ends_a_step_that_waits_for_its_next_repetition() -> None:
    run = repeating("{repeat: true, intervalSec: 60}")
    run.end("a")
    run.stop()
    assert (run.status("a"), run.state.status) == ("cancelled", "cancelled")


# Approval

GATE = """
timeoutSec: 100
steps:
  - {name: gate, command: x, approval: {message: go?, timeoutSec: 1d}}
  - {name: other, command: x}
"""


def test_a_step_waits_for_a_person_and_the_run_only_when_nothing_else_goes_on() -> None:
    run = Driver(workflow(GATE))
    assert (run.status("gate"), run.state.status) == ("waiting", "running")
    run.end("other")
    assert run.state.status == "waiting"
    run.approve("gate")
    assert (run.state.status, list(run.alive)) == ("running", ["gate"])
    run.end("gate")
    assert run.state.status == "succeeded"


def test_the_runs_time_limit_stands_still_while_it_only_waits_for_a_person() -> None:
    run = Driver(workflow(GATE))
    run.wait(60)
    run.end("other")
    run.wait(10_000)
    assert run.state.status == "waiting"
    run.approve("gate")
    run.wait(39)
    assert run.state.timed_out is None
    run.wait(1)
    assert run.state.timed_out is not None


def test_a_refused_step_fails_without_having_run() -> None:
    run = Driver(workflow(GATE))
    run.end("other")
    run.refuse("gate")
    assert (run.status("gate"), run.state.status) == ("failed", "failed")
    assert run.unit("gate").attempt == 0


def test_nobody_answering_in_time_is_a_refusal() -> None:
    run = Driver(workflow(GATE))
    run.end("other")
    run.wait(86400)
    assert run.reason("gate") == "not approved within 1 day"


def test_a_stop_cancels_a_step_that_waits_for_a_person() -> None:
    run = Driver(workflow(GATE))
    run.end("other")
    run.stop()
    assert (run.status("gate"), run.state.status) == ("cancelled", "cancelled")


# Handlers

HANDLED = """
steps: [{name: a, command: x}, {name: b, command: x, depends: a}]
handlerOn:
  init: {command: x}
  success: {command: x}
  failure: {command: x}
  cancel: {command: x}
  exit: {command: x}
"""


def test_the_init_handler_ends_before_any_step_begins() -> None:
    run = Driver(workflow(HANDLED))
    assert list(run.alive) == ["handlerOn.init"]
    run.end("handlerOn.init")
    assert list(run.alive) == ["a"]
    run.finish_all()
    launched = [line.split()[1] for line in run.transcript() if line.startswith("Launched")]
    assert launched == ["handlerOn.init", "a", "b", "handlerOn.success", "handlerOn.exit"]


def test_a_failed_init_handler_cancels_the_steps_and_fails_the_run() -> None:
    run = Driver(workflow(HANDLED))
    run.end("handlerOn.init", 2)
    assert (run.status("a"), run.status("b")) == ("cancelled", "cancelled")
    assert run.state.outcome == "failed"
    assert run.state.reason == "handler init failed: exit code 2"
    assert list(run.alive) == ["handlerOn.failure"]


def test_a_stopped_run_runs_its_cancel_and_exit_handlers() -> None:
    run = Driver(workflow(HANDLED))
    run.end("handlerOn.init")
    run.stop()
    run.end("a", 143, signal=15)
    assert list(run.alive) == ["handlerOn.cancel"]
    run.end("handlerOn.cancel")
    run.end("handlerOn.exit")
    assert run.state.status == "cancelled"


def test_a_stop_during_the_init_handler_ends_the_run_when_it_has_ended() -> None:
    run = Driver(workflow(HANDLED))
    run.stop()
    assert run.state.outcome is None
    run.end("handlerOn.init", 143, signal=15)
    assert (run.state.outcome, list(run.alive)) == ("cancelled", ["handlerOn.cancel"])


# What a retry takes over


def test_carried_steps_do_not_run_and_their_dependents_do() -> None:
    run = Driver(workflow(HANDLED), carried=[Carried(START, "a", "succeeded", "old", attempt=2)])
    run.end("handlerOn.init")
    assert list(run.alive) == ["b"]
    assert (run.unit("a").carried, run.unit("a").attempt) == ("old", 2)


def test_of_a_parallel_step_only_the_items_that_were_not_carried_run() -> None:
    items = ("a", "b", "c")
    carried = [Carried(START, "fan", "pending", "old", items=items)]
    carried += [Carried(START, "fan", "succeeded", "old", item=n, attempt=1) for n in (0, 2)]
    run = Driver(workflow(FAN), carried=carried)
    run.prepared("fan")
    assert list(run.alive) == ["fan#1"]
    run.end("fan#1")
    assert run.status("fan") == "succeeded"
