"""The commands that ask a service, as processes against the served app."""

from __future__ import annotations

import asyncio
import json
import os
import pty
from pathlib import Path

import httpx2
import pytest
from command_line import CommandLine
from served_door import AT, TOKEN, World

from runner.cli.api_client import NoAnswer, Outlasting, Service
from runner.engine import journal
from runner.engine.events import Ended, Event, Finished, Launched, LogDigest, Settled, Started
from runner.engine.history import History


async def add(world: World, run: str, *events: Event) -> None:
    """Let these facts happen to a run."""
    past = await History.read(world.store, run)
    now = History(run, (*past.events, *events), past.workflow, past.values)
    await world.store.append(
        run,
        after=len(past.events),
        records=journal.records(run, len(past.events), events),
        head=journal.head(run, now.state()),
    )


async def fail(world: World, run: str) -> None:
    """`extract` fails; its log has an escape sequence in it."""
    tail = "no such table\n\x1b[2Jcleared\n"
    world.log_file(run, "extract", 1).write_text(tail)
    await add(
        world,
        run,
        Started(AT, "host", "1"),
        Launched(AT, "extract", 1, "l1", "boot"),
        Ended(
            AT,
            "extract",
            1,
            "l1",
            3,
            None,
            "exit code 3",
            retryable=False,
            log=LogDigest(len(tail), 2, "0" * 64, tail),
        ),
        Settled(AT, "failed", "step extract failed"),
        Finished(AT, "failed", "step extract failed"),
    )


async def test_a_run_is_started_listed_shown_and_read(dagmill: CommandLine, world: World) -> None:
    started = await dagmill("trigger", "etl", "--", "DAY=a b")
    assert started.code == 0, started.err
    run, status = started.out.split()
    assert status == "queued"
    await fail(world, run)

    listed = await dagmill("runs")
    header, line = listed.out.splitlines()
    assert header.split() == ["RUN", "WORKFLOW", "STATUS", "TRIGGER", "COMMIT", "QUEUED", "TOOK"]
    assert line.split()[:4] == [run, "etl", "failed", "manual"]
    assert "\x1b" not in listed.out

    shown = await dagmill("show", run)
    assert shown.code == 0
    assert "DAY=a b" in shown.out and "no such table" in shown.out
    assert "\x1b" not in shown.out, "a tail must not command the terminal"

    log = await dagmill("logs", run)
    assert log.out == "==> extract <==\nno such table\n\x1b[2Jcleared\n", "a pipe gets the bytes"


async def test_waiting_ends_with_the_run_and_its_exit_code(
    dagmill: CommandLine, world: World
) -> None:
    queued = asyncio.Event()
    stop = world.store.listen("runs", queued.set)
    process = await dagmill.start("trigger", "etl", "--wait")
    await queued.wait()
    stop()
    (row,) = await world.store.runs()
    await fail(world, row.run)
    out, _ = await process.communicate()
    assert process.returncode == 1
    assert f"{row.run} failed" in out.decode()


async def test_a_run_is_found_by_its_beginning_and_as_the_latest(
    dagmill: CommandLine, person: httpx2.AsyncClient
) -> None:
    key = {"Idempotency-Key": "one"}
    first = (await person.post("/api/v1/runs", json={"workflow": "etl"}, headers=key)).json()["run"]
    for name in (first[:-3], "latest", "latest:etl", first):
        found = await dagmill("show", name, "--json")
        assert json.loads(found.out)["run"] == first, found.err
    await person.post("/api/v1/runs", json={"workflow": "etl"})
    ambiguous = await dagmill("show", first[:8])
    assert ambiguous.code == 2 and first in ambiguous.err
    for name in ("1999", "latest:other", "20260101-000000-000000000000"):
        missing = await dagmill("show", name)
        assert missing.code == 2 and missing.err.startswith("Error: ")


async def test_a_followed_log_ends_with_its_step(dagmill: CommandLine, world: World) -> None:
    run = (await dagmill("trigger", "etl")).out.split()[0]
    process = await dagmill.start("logs", run, "extract", "-f")
    file = world.log_file(run, "extract", 1)
    await add(world, run, Started(AT, "host", "1"), Launched(AT, "extract", 1, "l1", "boot"))
    file.write_bytes(b"one\n")
    assert await process.stdout.readline() == b"one\n"
    with file.open("ab") as log:
        log.write(b"two\n")
    assert await process.stdout.readline() == b"two\n"
    await add(world, run, Ended(AT, "extract", 1, "l1", 0, None, ""))
    rest, _ = await process.communicate()
    assert (rest, process.returncode) == (b"", 0)


async def test_status_shows_what_comes_next(dagmill: CommandLine) -> None:
    done = await dagmill("status")
    assert done.code == 0, done.err
    assert "30 2 * * *" in done.out and "2026-11-21T02:30:00Z" in done.out
    document = json.loads((await dagmill("status", "--json")).out)
    assert set(document) == {"version", "repositories", "workflows"}


async def test_a_terminal_gets_words_and_no_raw_escape(dagmill: CommandLine, world: World) -> None:
    run = (await dagmill("trigger", "etl")).out.split()[0]
    await fail(world, run)
    master, slave = pty.openpty()
    process = await dagmill.start("logs", run, "extract", stdout=slave)
    os.close(slave)
    assert await process.wait() == 0
    seen = os.read(master, 65536)
    os.close(master)
    assert b"\\x1b[2Jcleared" in seen and b"\x1b[2J" not in seen


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("trigger", "elt"), '"etl"'),
        (("trigger", "etl", "--", "DAYS=1"), "DAYS"),
        (("trigger", "etl", "--repository", "osp"), '"ops"'),
        (("runs", "--status", "done"), '"done"'),
        (("logs", "latest"), "no run"),
    ],
)
async def test_a_refusal_is_one_line_and_exit_code_2(
    dagmill: CommandLine, arguments: tuple[str, ...], words: str
) -> None:
    done = await dagmill(*arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err and "Traceback" not in done.err


async def test_the_token_of_the_data_folder_opens_a_service_on_this_machine(
    dagmill: CommandLine, tmp_path: Path
) -> None:
    del dagmill.environment["DAGMILL_TOKEN"]
    missing = await dagmill("runs", "--data", str(tmp_path))
    assert missing.code == 2 and str(tmp_path) in missing.err
    (tmp_path / "token").write_text(TOKEN + "\n")
    assert (await dagmill("runs", "--data", str(tmp_path))).code == 0
    elsewhere = await dagmill("runs", "--data", str(tmp_path), "--url", "http://example.invalid")
    assert elsewhere.code == 2 and "DAGMILL_TOKEN" in elsewhere.err


async def test_a_wrong_token_and_a_wrong_address_are_told_apart(dagmill: CommandLine) -> None:
    dagmill.environment["DAGMILL_TOKEN"] = "wrong"
    refused = await dagmill("runs")
    assert refused.code == 2 and "token is wrong" in refused.err
    nobody = await dagmill("runs", "--url", "http://127.0.0.1:1")
    assert nobody.code == 2 and "dagmill serve" in nobody.err
    nonsense = await dagmill("runs", "--url", "localhost")
    assert nonsense.code == 2 and "http://127.0.0.1:8080" in nonsense.err


async def test_only_a_service_that_has_answered_is_waited_for(dagmill: CommandLine) -> None:
    run = "20260101-000000-000000000000"
    nobody = await dagmill("logs", run, "-f", "--url", "http://127.0.0.1:1")
    assert nobody.code == 2 and "dagmill serve" in nobody.err


def test_one_that_stays_away_ends_with_the_run_and_how_to_look_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with httpx2.Client(base_url="http://127.0.0.1:1", trust_env=False) as client:
        service = Service(client, "http://127.0.0.1:1")
        service.has_answered = True
        outlasting = Outlasting(service, "r1", patience_s=0)
        with pytest.raises(NoAnswer, match="`dagmill show r1`"):
            outlasting.get("runs", "r1")
        with pytest.raises(NoAnswer, match="`dagmill show r1`"):
            list(outlasting.stream("runs", "r1", "log", query={"step": "a"}))
    assert capsys.readouterr().err.count("does not end run r1") == 1
