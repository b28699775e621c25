"""`dagmill run` of workflows with sub-workflows, items, repetitions and approvals, as a process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

DAGMILL = [sys.executable, "-m", "runner.cli", "run"]

LOAD = "params: [{NAME: x}]\nsteps: [{name: say, command: 'echo \"loaded ${1:-$NAME}\"'}]\n"
GATE = """\
steps:
  - {name: gate, approval: {message: "Ship it?"}, command: echo shipped}
handlerOn:
  exit: {command: echo over}
"""


@pytest.fixture
def workflows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / ".dagu"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts/load.yaml").write_text(LOAD)
    return folder


def run(*words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DAGMILL, *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def lines(out: str) -> list[str]:
    """What is shown without the times in it."""
    return [line.partition(" (")[0] for line in out.splitlines()]


def test_a_sub_workflow_of_the_working_tree_is_run(workflows: Path) -> None:
    (workflows / "all.yaml").write_text("steps: [{name: one, run: parts/load, params: NAME=y}]")
    done = run("all")
    assert done.returncode == 0, done.stderr
    assert "▶ one runs parts/load" in done.stdout
    assert "✔ one / say" in lines(done.stdout) and "  │ loaded y" in done.stdout


def test_the_defaults_of_the_working_tree_count(workflows: Path) -> None:
    (workflows / "base.yaml").write_text("env: [{TEAM: data}]")
    (workflows / "all.yaml").write_text("steps: [{name: one, command: echo $TEAM}]")
    assert "  │ data" in run("all").stdout
    (workflows / "base.yaml").write_text("envs: []")
    done = run("all")
    assert done.returncode == 2 and ".dagu/base.yaml:1:1" in done.stderr


def test_a_child_that_is_not_there_fails_its_step(workflows: Path) -> None:
    (workflows / "all.yaml").write_text("steps: [{name: one, run: parts/laod}]")
    done = run("all")
    assert done.returncode == 1
    assert 'did you mean "parts/load"?' in done.stdout


def test_items_have_a_line_each_when_they_end(workflows: Path) -> None:
    (workflows / "all.yaml").write_text(
        "steps: [{name: f, parallel: [a, b, c], command: 'echo $ITEM; test $ITEM != b'}]"
    )
    done = run("all")
    assert done.returncode == 1
    shown = lines(done.stdout)
    assert {"✔ f [0] a", "✘ f [1] b", "✔ f [2] c"} <= set(shown)
    assert "✘ f: 2 of 3 items succeeded" in shown


def test_a_list_whose_items_were_all_skipped_is_no_success_and_a_tolerated_one_says_so(
    workflows: Path,
) -> None:
    (workflows / "all.yaml").write_text(
        """
        steps:
          - {name: none, parallel: [a, b], preconditions: 'false', command: echo}
          - {name: own, parallel: [a], preconditions: 'test $ITEM = b', command: echo}
          - name: marked
            parallel: [a]
            command: exit 3
            continueOn: {exitCode: 3, markSuccess: true}
        """
    )
    done = run("all")
    assert "∅ own: skipped, all 1 items were skipped\n" in done.stdout
    assert "1 of 1 items failed; item 0: exit code 3, counted as success" in done.stdout


def test_a_long_list_tells_only_failures_and_how_far_it_is(workflows: Path) -> None:
    (workflows / "all.yaml").write_text(
        "steps: [{name: f, parallel: $LIST, command: 'test $ITEM != 17'}]\n"
        f'params: [{{LIST: "{" ".join(map(str, range(100)))}"}}]\n'
    )
    done = run("all")
    shown = lines(done.stdout)
    assert sum("[" in line for line in shown) == 1 and "✘ f [17] 17" in shown
    assert any(re.match("▶ f: [0-9]+ of 100", line) for line in shown)
    assert len(shown) < 20


def test_children_of_a_long_list_are_as_brief(workflows: Path) -> None:
    (workflows / "all.yaml").write_text(
        "steps: [{name: f, run: parts/load, parallel: $LIST}]\n"
        f'params: [{{LIST: "{" ".join(map(str, range(30)))}"}}]\n'
    )
    done = run("all")
    assert done.returncode == 0
    assert sum("loaded" in line for line in lines(done.stdout)) <= 10


def test_a_repetition_says_which_it_is(workflows: Path) -> None:
    (workflows / "all.yaml").write_text(
        "steps: [{name: poll, command: echo, repeatPolicy: {repeat: true, limit: 2}}]"
    )
    assert [line for line in lines(run("all").stdout) if "▶" in line] == ["▶ poll", "▶ poll"]
    assert "▶ poll (round 2)" in run("all").stdout


def test_the_end_of_a_repetition_is_what_its_policy_makes_of_it(workflows: Path) -> None:
    (workflows / "all.yaml").write_text(
        "type: chain\n"
        "steps:\n"
        "  - {name: wait, command: 'echo x >>f; test $(grep -c x f) -lt 2 || exit 5',\n"
        "     repeatPolicy: {repeat: until, exitCode: 5}}\n"
        "  - {name: vain, command: echo no, output: S,\n"
        "     repeatPolicy: {condition: $S, expected: yes, limit: 2}}\n"
    )
    shown = lines(run("all").stdout)
    assert shown[:4] == ["▶ wait", "✔ wait", "▶ wait", "✔ wait"]
    assert "✘ vain: still not met after 2 executions" in shown


def git(*words: str) -> None:
    person = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    subprocess.run(["git", *person, *words], check=True, capture_output=True)


def test_a_commit_is_run_as_it_was(workflows: Path) -> None:
    (workflows / "all.yaml").write_text("steps: [{name: one, run: parts/load, params: NAME=old}]")
    git("init", "-q", ".")
    git("add", ".")
    git("commit", "-qm", "old")
    (workflows / "all.yaml").unlink()
    (workflows / "parts/load.yaml").write_text("steps: [{command: false}]")
    done = run("all", "--commit", "HEAD")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "  │ loaded old" in done.stdout
    document = json.loads(run(".dagu/all.yaml", "--commit", "HEAD", "--json").stdout)
    assert len(document["commit"]) == 40 and document["dirty"] is False
    kept = (workflows.parent / "state/dagmill/local").iterdir()
    assert not [folder for folder in kept if folder.name.endswith(".files")]
    for words in (("all", "--commit", "nope"), ("other", "--commit", "HEAD")):
        wrong = run(*words)
        assert wrong.returncode == 2 and "Error: " in wrong.stderr


def test_in_a_pipe_nobody_is_asked(workflows: Path) -> None:
    (workflows / "gate.yaml").write_text(GATE)
    done = run("gate", text="y\n\n")
    assert done.returncode == 1
    assert "there is nobody to ask; use --approve" in done.stdout and "over" in done.stdout
    assert "shipped" not in done.stdout


def test_what_was_approved_beforehand_goes_on(workflows: Path) -> None:
    (workflows / "gate.yaml").write_text(GATE)
    (workflows / "all.yaml").write_text("steps: [{name: below, run: gate}]")
    done = run("all", "--approve", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["status"] == "succeeded"
    assert "shipped" in run("gate", "--approve").stdout


def at_a_terminal(*words: str, answers: dict[bytes, bytes]) -> tuple[int, str]:
    """Run in a terminal; each answer is typed once its question stands there."""
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which `make &` has ignored
        os.execv(DAGMILL[0], [*DAGMILL, *words])  # noqa: S606 — a child of ours, no shell
    seen, left = b"", dict(answers)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
        for question in [q for q in left if q in seen]:
            os.write(terminal, left.pop(question))
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), seen.decode()


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 1)])
def test_a_person_at_a_terminal_is_asked(workflows: Path, answer: bytes, code: int) -> None:
    (workflows / "gate.yaml").write_text(GATE)
    ended, seen = at_a_terminal(
        "gate", answers={b"Ship it? [y/n]": answer, b"comment (may be empty)": b"so be it\n"}
    )
    assert ended == code, seen
    assert ("shipped" in seen) == (code == 0) and "so be it" in seen


def test_ctrl_c_at_a_question_ends_the_run(workflows: Path) -> None:
    (workflows / "gate.yaml").write_text(GATE)
    ended, seen = at_a_terminal("gate", answers={b"Ship it? [y/n]": b"\x03"})
    assert ended == 130 and "stopped by SIGINT" in seen and "Traceback" not in seen


def test_a_ctrl_c_during_the_imports_ends_it_like_any_program() -> None:
    """Python would else print where it was."""
    text = (
        "import sys, signal, os; sys.argv = ['/usr/bin/dagmill', 'run', 'x']\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import runner.cli\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "import time; time.sleep(20)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stderr) == (-2, "")
