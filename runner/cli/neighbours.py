"""What `dagmill doctor` asks others for: a host's time, the Docker engine, the mail server.

Each question is harmless and has a deadline. Its rule: one that cannot be asked is said to be not
compared, and never counts as well.
"""

from __future__ import annotations

import http.client
import os
import smtplib
import socket
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from runner.cli.checks import PATIENCE_S, Finding, judged_clock, ok, user_name, warning
from runner.language.model import Smtp

DOCKER = "unix:///var/run/docker.sock"
_ONLY_DOCKER = "only steps with `executor: docker` need one"
_SMTP_PORT = 25


def clock_of_host(url: str) -> Finding:
    """This clock against the Date that the host at `url` answers with."""
    import httpx2

    try:
        began = time.time()
        answer = httpx2.head(url, timeout=PATIENCE_S)
        ended = time.time()
        told = parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (httpx2.HTTPError, httpx2.InvalidURL, KeyError, ValueError, OSError) as error:
        why = "its answer has no date" if isinstance(error, KeyError) else str(error)
        return warning(
            "clock",
            f"not compared with {url}: {why or type(error).__name__}",
            "see to the network, the proxy and SSL_CERT_FILE",
        )
    # The header has whole seconds, so half of one is taken to be gone.
    return judged_clock((began + ended) / 2 - told - 0.5, f"the Date of {url}", slack_s=1.0)


def docker(environ: Mapping[str, str]) -> Finding:
    """Asks the engine for its version."""
    address = environ.get("DOCKER_HOST") or DOCKER
    unix = address.startswith("unix://")
    parts = urlsplit(address)
    asked = parts.scheme in ("tcp", "http") and not environ.get("DOCKER_TLS_VERIFY")
    if not unix and not (asked and parts.hostname):
        return warning("docker", f"{address} was not asked", "look with `docker version`")
    try:
        if unix:
            connection = _over_unix(parts.path)
        else:
            port = parts.port or 2375
            connection = http.client.HTTPConnection(parts.hostname or "", port, timeout=PATIENCE_S)
        version = _version(connection)
    except FileNotFoundError:
        said, remedy = f"there is no engine at {address}", "install Docker, or set DOCKER_HOST"
    except PermissionError:
        said = f"the engine at {address} may not be asked by this user"
        remedy = f"usermod -aG docker {user_name(os.geteuid())} (that is as good as being root)"
    except (OSError, ValueError, http.client.HTTPException) as error:
        said = f"no engine answers at {address} ({error})"
        remedy = "start it, e.g. systemctl start docker, or see to DOCKER_HOST"
    else:
        return ok("docker", f"engine {version} at {address}")
    return warning("docker", f"{said}; {_ONLY_DOCKER}", remedy)


def _over_unix(path: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE_S)
    try:
        connection.sock.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def _version(connection: http.client.HTTPConnection) -> str:
    import json

    try:
        connection.request("GET", "/version")
        answer = connection.getresponse()
        document = json.loads(answer.read(1 << 20)) if answer.status == http.HTTPStatus.OK else None
    finally:
        connection.close()
    if not isinstance(document, dict) or "Version" not in document:
        raise ValueError(f"its answer is not an engine's, status {answer.status}")
    return str(document["Version"])[:40]


def smtp(configured: Smtp | None) -> Finding:
    """Whether the mail server of base.yaml answers; nothing is sent."""
    if configured is None or not configured.host:
        return ok("smtp", "no mail server is configured in .dagu/base.yaml; nothing to ask")
    where = f"{configured.host}:{configured.port or _SMTP_PORT} (of .dagu/base.yaml)"
    if "$" in configured.host + configured.port or "`" in configured.host + configured.port:
        return warning(
            "smtp", f"{where} was not asked: it holds variables", "look with a run that sends mail"
        )
    remedy = "see to smtp.host, smtp.port and smtp.tls, and to the network"
    try:
        port = int(configured.port or _SMTP_PORT)
        kind = smtplib.SMTP_SSL if configured.tls == "tls" else smtplib.SMTP
        with kind(configured.host, port, timeout=PATIENCE_S) as server:
            server.ehlo_or_helo_if_needed()
            if configured.tls in ("", "starttls") and not server.has_extn("starttls"):
                return warning("smtp", f"{where} answers, but offers no STARTTLS", "smtp.tls: none")
    except (OSError, ValueError, smtplib.SMTPException) as error:
        return warning("smtp", f"{where} does not answer: {error}", remedy)
    return ok("smtp", f"{where} answers; nothing was sent")
