"""`dagmill doctor`: what it looks at, what it says, and that it changes nothing."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runner.cli import checks, cli, neighbours
from runner.cli.checks import Level, Places
from runner.language.model import Smtp


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing set up."""
    for name in [n for n in os.environ if n.startswith(("DAGMILL_", "DOCKER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DAGMILL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DAGMILL_MIN_FREE_DISK", "1")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return tmp_path


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def levels(*arguments: str) -> dict[str, str]:
    """The level of each check; the last one of those that are there twice."""
    found = json.loads(doctor(*arguments, "--json").output)
    return {one["check"]: one["level"] for one in found["checks"]}


def test_a_machine_that_has_all_is_well(home: Path) -> None:
    result = doctor()
    assert result.exit_code == 0, result.output
    assert {level for check, level in levels().items() if check != "docker"} == {"ok"}
    assert not (home / "data").exists() and not (home / "state").exists()


def test_each_line_that_is_not_ok_has_a_remedy(home: Path) -> None:
    (home / "data").mkdir(mode=0o755)
    found = json.loads(doctor("--json").output)
    assert found["warnings"] == 2 and found["problems"] == 0
    for one in found["checks"]:
        assert bool(one["remedy"]) == (one["level"] != "ok"), one
    text = doctor().output
    assert text.count("→") == 2 and f"chmod 700 {home}/data" in text


def test_a_problem_is_the_exit_code(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGMILL_POLL_S", "soon")
    result = doctor()
    assert result.exit_code == 1
    assert "DAGMILL_POLL_S" in result.output and "1 problem" in result.output


def test_a_token_that_others_can_read_is_a_problem(home: Path) -> None:
    (home / "data").mkdir(mode=0o700)
    token = home / "data/token"
    token.write_text("secret")
    token.chmod(0o644)
    assert levels()["token"] == "problem"
    token.chmod(0o600)
    assert levels()["token"] == "ok"
    assert "secret" not in doctor().output


def test_too_little_room_is_a_problem(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGMILL_MIN_FREE_DISK", str(1 << 60))
    assert levels()["disk"] == "problem"


def test_a_data_folder_that_cannot_be_is_a_problem(home: Path) -> None:
    (home / "file").touch()
    assert levels("--data", str(home / "file"))["data"] == "problem"
    assert levels("--data", str(home / "file/below"))["data"] == "problem"


def test_a_repository_of_nobody_in_particular(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = home / "here"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    subprocess.run(["git", "init", "-q", "."], cwd=here, check=True)
    assert levels()["identity"] == "warning"
    for name, value in (("user.name", "Ada"), ("user.email", "ada@example.com")):
        subprocess.run(["git", "config", name, value], cwd=here, check=True)
    assert "Ada <ada@example.com>" in doctor().output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give a folder away")
def test_a_repository_of_somebody_else_is_said(home: Path) -> None:
    (home / "here/.git").mkdir()
    os.chown(home / "here", 4321, -1)
    os.chown(home / "here/.git", 4321, -1)
    result = doctor()
    assert "belongs to 4321" in result.output and "chown -R" in result.output


@pytest.mark.parametrize(
    ("release", "level"), [("5.4.0", Level.OK), ("6.1", Level.OK), ("5.3.18-lp152", Level.PROBLEM)]
)
def test_an_old_kernel_is_a_problem(release: str, level: Level) -> None:
    assert checks.kernel(release).level is level


@pytest.mark.parametrize("argument", ["nowhere", "ftp://example.org/x"])
def test_what_is_no_repository_is_refused(home: Path, argument: str) -> None:
    result = doctor(argument)
    assert result.exit_code == 2 and argument in result.output


# Others that are asked


class _Answers(http.server.BaseHTTPRequestHandler):
    off_s = 0.0

    def do_HEAD(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() + self.off_s, usegmt=True))
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(b'{"Version": "27.1", "ApiVersion": "1.46"}')

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize(
    ("off_s", "level"), [(0, Level.OK), (-20, Level.WARNING), (400, Level.PROBLEM)]
)
def test_the_clock_is_compared_with_that_of_the_host(
    host: str, off_s: float, level: Level, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Answers, "off_s", off_s)
    found = neighbours.clock_of_host(host)
    assert found.level is level, found
    assert f"the Date of {host}" in found.said
    assert off_s == 0 or ("ahead of" if off_s < 0 else "behind") in found.said


def test_a_host_that_is_not_there_is_said_to_be_not_compared() -> None:
    found = neighbours.clock_of_host("http://127.0.0.1:1/")
    assert found.level is Level.WARNING and "not compared" in found.said


def test_the_clock_is_compared_with_that_of_the_files(tmp_path: Path) -> None:
    found = checks.clock(Places(tmp_path, tmp_path / "data", tmp_path))
    assert found.level is Level.OK and str(tmp_path) in found.said


def test_an_engine_that_answers_is_told_with_its_version(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with socketserver.UnixStreamServer(str(path), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        found = neighbours.docker({"DOCKER_HOST": f"unix://{path}"})
        server.shutdown()
    assert (found.level, "27.1" in found.said) == (Level.OK, True)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix:///nowhere/docker.sock", "there is no engine"),
        ("tcp://127.0.0.1:1", "no engine answers"),
        ("ssh://box", "was not asked"),
    ],
)
def test_an_engine_that_is_not_there_is_a_warning(address: str, words: str) -> None:
    found = neighbours.docker({"DOCKER_HOST": address})
    assert found.level is Level.WARNING and words in found.said and found.remedy


async def test_the_mail_server_is_greeted_and_nothing_sent() -> None:
    said: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail\r\n")
        while line := await reader.readline():
            said.append(line.split()[0])
            writer.write(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 mail\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    async with server:
        plain = await asyncio.to_thread(neighbours.smtp, Smtp("127.0.0.1", port, tls="none"))
        default = await asyncio.to_thread(neighbours.smtp, Smtp("127.0.0.1", port))
    assert plain.level is Level.OK
    assert default.level is Level.WARNING and "STARTTLS" in default.said
    assert set(said) == {b"ehlo", b"QUIT"} or set(said) == {b"ehlo", b"quit"}


def test_a_mail_server_that_is_not_there_is_a_warning(home: Path) -> None:
    (home / "here/.dagu").mkdir()
    (home / "here/.dagu/base.yaml").write_text("smtp: {host: 127.0.0.1, port: 1}\n")
    assert levels()["smtp"] == "warning"
    (home / "here/.dagu/base.yaml").write_text("smtp: {host: $MAIL_HOST}\n")
    assert "was not asked: it holds variables" in doctor().output
