"""Real git remotes on loopback, for every test that needs more than a folder.

Knows: a bare repository written to by the real git program, `git http-backend` behind a small
HTTP server that can misbehave, and an ssh server with a known host key. Leaves what Dagmill
makes of them to the tests. One rule: nothing here reads the settings of whoever runs the tests.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import os
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncssh

AT = "2026-11-20T10:00:00+00:00"


def git(*args: str, cwd: Path, stdin: bytes | None = None, at: str = AT) -> str:
    """The git program's standard output, stripped; an AssertionError with its words if it fails."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(cwd),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_AUTHOR_DATE": at,
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.com",
        "GIT_COMMITTER_DATE": at,
    }
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", "-c", "gc.auto=0", *args],
        cwd=cwd,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, f"git {' '.join(args)}: {done.stderr.decode()}"
    return done.stdout.decode().strip()


@dataclass(frozen=True)
class Remote:
    """A bare repository (`path`) and a working clone of it (`work`) that a person would use."""

    path: Path
    work: Path

    def write(self, files: Mapping[str, str | bytes | None]) -> None:
        """Put `files` (path → content, None deletes) into the working clone."""
        for name, content in files.items():
            target = self.work / name
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def commit(
        self,
        files: Mapping[str, str | bytes | None] | None = None,
        *,
        message: str = "Change",
        at: str = AT,
    ) -> str:
        """Commit `files` in the working clone, without pushing; returns the commit's id."""
        self.write(files or {})
        git("add", "-A", cwd=self.work)
        git("commit", "-q", "--allow-empty", "-m", message, cwd=self.work, at=at)
        return git("rev-parse", "HEAD", cwd=self.work)

    def push(self, *refspecs: str, force: bool = False) -> None:
        """Push `refspecs` (default: the current branch under its own name)."""
        flags = ["--force"] if force else []
        git("push", "-q", *flags, str(self.path), *(refspecs or ("HEAD",)), cwd=self.work)

    def change(self, files: Mapping[str, str | bytes | None], *, message: str = "Change") -> str:
        """Commit `files` and push the current branch; returns the commit's id."""
        commit = self.commit(files, message=message)
        self.push()
        return commit

    def git(self, *args: str) -> str:
        """Any git command in the working clone."""
        return git(*args, cwd=self.work)

    def tip(self, ref: str) -> str | None:
        """What `ref` (full name) of the bare repository points at."""
        with contextlib.suppress(AssertionError):
            return git("rev-parse", "--verify", "-q", ref, cwd=self.path)
        return None

    def show(self, ref: str, path: str) -> str:
        """A file's text at `ref` of the bare repository."""
        return git("show", f"{ref}:{path}", cwd=self.path)

    def files(self, ref: str) -> list[str]:
        """All paths at `ref` of the bare repository."""
        return git("ls-tree", "-r", "--name-only", ref, cwd=self.path).splitlines()

    def hook(self, name: str, script: str) -> None:
        """Install a hook (body of an `sh` script) in the bare repository."""
        target = self.path / "hooks" / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("#!/bin/sh\n" + script)
        target.chmod(0o755)


def make_remote(folder: Path, *, name: str = "ops") -> Remote:
    """An empty bare repository `<folder>/<name>.git` and its working clone on branch main."""
    remote = Remote(folder / f"{name}.git", folder / f"{name}-work")
    for path, bare in ((remote.path, ["--bare"]), (remote.work, [])):
        path.mkdir(parents=True)
        git("init", "-q", *bare, ".", cwd=path)
    git("config", "http.receivepack", "true", cwd=remote.path)
    return remote


@dataclass(frozen=True)
class Asked:
    """One request as the HTTP server saw it."""

    method: str
    path: str
    authorization: str | None


@dataclass
class GitHttpServer:
    """`git http-backend` for the repositories under `root`; its attributes may change any time."""

    root: Path
    credential: tuple[str, str] | None = None
    status: int | None = None  # answer everything with this code
    redirect_to: str | None = None  # 302 to this base URL, path and query kept
    hang: bool = False  # accept, then say nothing until the server stops
    cut_after: int | None = None  # of each answer send so many bytes, then drop the connection
    page: bytes | None = None  # 200 with this HTML: a web server, but no git
    asked: list[Asked] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, remote: Remote) -> str:
        return f"{self.base}/{remote.path.relative_to(self.root)}"


class _GitHttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one answer, one packet: else Nagle and delayed acks add 40 ms to each
    disable_nagle_algorithm = True
    config: GitHttpServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: what was asked is in `config.asked`."""

    def handle(self) -> None:
        # A client that gives up is what some tests are about.
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self._body())

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self._read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self._line().split(b";")[0], 16):
            body += self._read(size)
            self._line()
        self._line()
        return body

    def _line(self) -> bytes:
        if line := self.rfile.readline():
            return line
        raise ConnectionError("the client went away in the middle of its request")

    def _read(self, size: int) -> bytes:
        if len(data := self.rfile.read(size)) == size:
            return data
        raise ConnectionError("the client went away in the middle of its request")

    def _answer(self, body: bytes) -> None:
        config = self.config
        authorization = self.headers.get("Authorization")
        config.asked.append(Asked(self.command, self.path, authorization))
        if config.hang:
            config.stopping.wait()
            self.close_connection = True
        elif config.redirect_to:
            self._plain(302, {"Location": config.redirect_to + self.path}, b"")
        elif config.status:
            self._plain(config.status, {}, b"no\n")
        elif config.page is not None:
            self._plain(200, {"Content-Type": "text/html"}, config.page)
        elif config.credential and authorization != _basic(*config.credential):
            self._plain(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        else:
            self._backend(body)

    def _plain(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _backend(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.config.root),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_PROJECT_ROOT": str(self.config.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REMOTE_USER": "ada",
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(
            ["git", "http-backend"], input=body, capture_output=True, env=environment, check=False
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines() if line)
        if (cut := self.config.cut_after) is not None and cut < len(content):
            headers["Content-Length"] = str(len(content))
            content, self.close_connection = content[:cut], True
        self._plain(int(headers.pop("Status", "200").split()[0]), headers, content)


def _basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


@contextlib.contextmanager
def git_http_server(root: Path) -> Iterator[GitHttpServer]:
    """Serve the bare repositories under `root` on a free loopback port."""
    config = GitHttpServer(root)
    handler = type("Handler", (_GitHttpHandler,), {"config": config})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        config.port = server.server_address[1]
        # A short poll_interval: shutdown() waits for up to one of them.
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield config
        finally:
            config.stopping.set()
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class GitSshServer:
    """An ssh server for the repositories under `root`, for the holder of `client_key`."""

    root: Path
    port: int
    known_hosts: Path  # a file that knows this server's host key
    client_key: Path
    stranger_key: Path  # a valid key that the server does not let in

    def url(self, remote: Remote) -> str:
        return f"ssh://git@127.0.0.1:{self.port}{remote.path}"


@contextlib.contextmanager
def git_ssh_server(root: Path, *, folder: Path) -> Iterator[GitSshServer]:
    """Serve the repositories under `root`; keys and known_hosts are written into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    keys = {}
    for name in ("client", "stranger"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        keys[name] = folder / name
        key.write_private_key(str(keys[name]))
        key.write_public_key(f"{keys[name]}.pub")
    authorized = folder / "authorized_keys"
    authorized.write_bytes((folder / "client.pub").read_bytes())

    ports: list[int] = []
    stops: list[Callable[[], object]] = []
    started = threading.Event()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        async with asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host_key],
            authorized_client_keys=str(authorized),
            process_factory=functools.partial(_serve_git, root=root),
            encoding=None,
        ) as server:
            ports.append(server.get_port())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20), "the ssh server did not start"
        known_hosts = folder / "known_hosts"
        public = host_key.export_public_key().decode().strip()
        known_hosts.write_text(f"[127.0.0.1]:{ports[0]} {public}\n")
        yield GitSshServer(root, ports[0], known_hosts, keys["client"], keys["stranger"])
    finally:
        for stop in stops:
            stop()
        thread.join()


async def _serve_git(process: asyncssh.SSHServerProcess[bytes], *, root: Path) -> None:
    words = shlex.split(process.command or "")
    if len(words) != 2 or words[0] not in ("git-upload-pack", "git-receive-pack"):
        process.stderr.write(b"only git is served here\n")
        process.exit(1)
        return
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
    }
    program = await asyncio.create_subprocess_exec(
        "git",
        words[0].removeprefix("git-"),
        words[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    assert program.stdin and program.stdout and program.stderr
    # By hand: asyncssh's own redirection leaves a coroutine behind when the server stops.
    feeding = asyncio.create_task(_pump(process.stdin, program.stdin))
    await asyncio.gather(
        _pump(program.stdout, process.stdout), _pump(program.stderr, process.stderr)
    )
    code = await program.wait()
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)
    process.exit(code)


async def _pump(source: Any, target: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while chunk := await source.read(1 << 16):
            target.write(chunk)
            await target.drain()
        if isinstance(target, asyncio.StreamWriter):
            target.close()
