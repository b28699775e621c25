"""The other side of a mirror: a git remote, its URL, who we are there, and how it can fail.

Knows libgit2's network: callbacks, credentials, host keys, deadlines, and which of its messages
means what. Leaves refs, objects and everything kept on disk to `mirror`. One rule: a credential
goes to the configured scheme, host and port and nowhere else, and never into a message.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import pygit2
from pygit2.enums import ConfigLevel, CredentialType, ObjectType
from pygit2.remotes import PushUpdate, Remote, TransferProgress

from storage.git_errors import (
    AccessDenied,
    BranchMissing,
    GitError,
    LostRace,
    NotARepository,
    PushRefused,
    Unreachable,
)

__all__ = [
    "AccessDenied",
    "Address",
    "BranchMissing",
    "Credential",
    "Credentials",
    "GitError",
    "Look",
    "LostRace",
    "NotARepository",
    "Origin",
    "PushRefused",
    "Unreachable",
    "configure_git",
    "copy_objects",
    "parse_address",
    "shown_url",
    "url_secrets",
]

NO_OBJECT: Final = "0" * 40


@dataclass(frozen=True)
class Credential:
    """Who we are at a remote: name and password (or token), or an ssh key file."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssh_key_file: Path | None = None
    ssh_passphrase: str | None = field(default=None, repr=False)


Credentials = Callable[[str], Credential | None]
"""Asked with the configured URL (without credentials) each time the server asks; None: none."""


def configure_git(
    home: Path,
    *,
    connect_timeout_s: float,
    io_timeout_s: float,
    known_hosts: Path | None = None,
    cache_bytes: int = 32 << 20,
) -> None:
    """Set libgit2 up for this process, before the first thread uses it.

    `home` (created) replaces the user's home folder, so neither system nor user gitconfig is
    read: no insteadOf, no proxy, no `sslVerify = false`. The timeouts hold per socket operation.
    Host keys come from `known_hosts`, default `~/.ssh/known_hosts`.
    """
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700, parents=True, exist_ok=True)
    _provide_known_hosts(known_hosts or Path.home() / ".ssh/known_hosts", ssh / "known_hosts")
    settings = pygit2.settings
    settings.homedir = str(home)
    for level in (
        ConfigLevel.PROGRAMDATA,
        ConfigLevel.SYSTEM,
        ConfigLevel.XDG,
        ConfigLevel.GLOBAL,
    ):
        settings.search_path[level] = str(home)
    settings.server_connect_timeout = max(1, round(connect_timeout_s * 1000))
    settings.server_timeout = max(1, round(io_timeout_s * 1000))
    settings.owner_validation = True
    settings.cache_max_size(cache_bytes)


def _provide_known_hosts(source: Path, target: Path) -> None:
    """Make libgit2 read `source`. A link, so that a key that is added later counts at once; a copy
    where `source` has @-lines, on which libssh2 gives up on the whole file."""
    target.unlink(missing_ok=True)
    lines = source.read_text(errors="replace").splitlines() if source.is_file() else []
    if not any(line.startswith("@") for line in lines):
        target.symlink_to(source.absolute())
        return
    # A revoked key must not be accepted through an ordinary line that also has it.
    revoked = {line.split()[-1] for line in _revoked(lines)} | {
        line.split()[3] for line in _revoked(lines) if len(line.split()) > 3
    }
    kept = [
        line
        for line in lines
        if not line.startswith("@") and not revoked.intersection(line.split())
    ]
    target.write_text("\n".join(kept) + "\n")


def _revoked(lines: Sequence[str]) -> list[str]:
    return [line for line in lines if line.startswith("@revoked")]


@dataclass(frozen=True)
class Address:
    """A remote's URL, taken apart. `url` is what libgit2 gets and has no password."""

    url: str
    folder: Path | None = None  # of a repository on this machine
    origin: tuple[str, str, int | None] = ("file", "", None)
    embedded: Credential | None = None

    @property
    def shown(self) -> str:
        return shown_url(self.url)


_SCP = re.compile(r"(?:(?P<user>[^@/\s]+)@)?(?P<host>\[[^\]/]+\]|[^:/@\[\]]+):(?P<path>[^\s]+)")
_PORTS = {"http": 80, "https": 443, "ssh": 22, "git": 9418}


def parse_address(url: str) -> Address:
    """Understand a path, `file://`, `http(s)://`, `ssh://`, `git://` or `user@host:path`.

    Raises NotARepository for anything else. Nothing is contacted.
    """
    if "://" not in url:
        scp = _SCP.fullmatch(url)
        if scp and not Path(url).exists():
            return Address(_with_port(scp) or url, origin=_origin(url))
        folder = Path(url).expanduser().absolute()
        return Address(str(folder), folder)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise NotARepository(f"{shown_url(url)}: not a URL ({error})") from error
    if parts.scheme == "file" and parts.hostname in (None, "localhost"):
        folder = Path(unquote(parts.path))
        return Address(str(folder), folder)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise NotARepository(
            f"{shown_url(url)}: cannot be cloned from; give a path, https://…, ssh://… "
            "or user@host:path"
        )
    embedded = None
    if parts.username and (parts.password or parts.scheme in ("http", "https")):
        embedded = Credential(unquote(parts.username), unquote(parts.password or ""))
    place = parts.netloc.rpartition("@")[2]
    if parts.scheme == "ssh" and parts.username:
        place = f"{parts.username}@{place}"
    clean = parts._replace(netloc=place, fragment="").geturl()
    origin = (parts.scheme, parts.hostname, port or _PORTS[parts.scheme])
    return Address(clean, origin=origin, embedded=embedded)


def _with_port(scp: re.Match[str]) -> str | None:
    """`user@[host:port]:path`, which libgit2 does not know, as an ssh:// URL; else None."""
    if not scp["host"].startswith("["):
        return None
    # Without a slash in front the path starts at the home folder over there.
    path = scp["path"] if scp["path"].startswith("/") else f"/~/{scp['path']}"
    return f"ssh://{scp['user'] or 'git'}@{scp['host'][1:-1]}{path}"


def _origin(url: str) -> tuple[str, str, int | None]:
    """(scheme, host, port) of a URL or of `user@host:path`."""
    if "://" not in url:
        scp = _SCP.fullmatch(url)
        if not scp:
            return ("", url, None)
        host, _, port = scp["host"].strip("[]").partition(":")
        return ("ssh", host.lower(), int(port) if port.isdecimal() else 22)
    parts = urlsplit(url)
    return (parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme))


def shown_url(url: str) -> str:
    """The URL as it may be logged and shown: no password, no token, no query."""
    if "://" not in url:
        return url
    scheme, _, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    user, _, host = place.rpartition("@")
    if scheme == "ssh" and user:
        host = f"{user.partition(':')[0]}@{host}"
    return f"{scheme}://{host}{slash}{path.partition('?')[0].partition('#')[0]}"


def url_secrets(url: str) -> tuple[str, ...]:
    """What of a URL nobody may see, as it is written and as it is meant; () for most.

    A password; the name where it stands alone or beside a word that says so, as some forges take
    their tokens.
    """
    scheme, _, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    name, _, password = user.partition(":")
    if not at or (scheme == "ssh" and not password):
        return ()
    secret = [password] if password else [name]
    if password == _NO_PASSWORD:
        secret.append(name)
    return tuple(dict.fromkeys(text for one in secret for text in (one, unquote(one))))


_NO_PASSWORD = "x-oauth-basic"  # noqa: S105 (a fixed word of GitHub's: the name is the token)


class _Callbacks(pygit2.RemoteCallbacks):
    """What libgit2 asks during one network operation. Whatever is raised here ends it."""

    ASKS: Final = 3
    WORDS: Final = 4096

    def __init__(self, origin: Origin, *, expected: str | None = None) -> None:
        super().__init__()
        self._origin = origin
        self._expected = expected
        self._asked = 0
        self._ends = time.monotonic() + origin.deadline_s
        self.words = ""  # what the server said for people to read
        self.refusal: str | None = None

    def _look_at_the_clock(self) -> None:
        if time.monotonic() > self._ends:
            raise Unreachable(
                f"{self._origin.address.shown}: not done after {self._origin.deadline_s:g} s; "
                "a larger repository needs a longer deadline"
            )

    def credentials(
        self, url: str, username_from_url: str | None, allowed_types: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        self._look_at_the_clock()
        address = self._origin.address
        if _origin(url) != address.origin:
            raise AccessDenied(
                f"{address.shown}: redirects to {shown_url(url)}, which asks for a credential; it "
                "is only sent to the configured host: configure the new URL"
            )
        self._asked += 1
        # libgit2 asks for ever over ssh and 15 times over HTTP; each ask is a failed login there.
        if self._asked >= self.ASKS:
            raise AccessDenied(f"{address.shown}: the credential was not accepted; check it")
        credential = self._origin.credential()
        if credential is None:
            raise AccessDenied(
                f"{address.shown}: asks for a credential and none is configured (a repository that "
                "does not exist looks the same at most forges)"
            )
        return self._answer(credential, username_from_url, allowed_types)

    def _answer(
        self, credential: Credential, username_from_url: str | None, allowed: CredentialType
    ) -> pygit2.Username | pygit2.UserPass | pygit2.Keypair:
        name = username_from_url or credential.username or "git"
        key = credential.ssh_key_file
        if allowed & CredentialType.SSH_KEY and key is not None:
            if not key.is_file():
                raise AccessDenied(f"{self._origin.address.shown}: no such ssh key file: {key}")
            # The public half is derived from the private one.
            return pygit2.Keypair(name, None, str(key), credential.ssh_passphrase or "")
        if allowed & CredentialType.USERPASS_PLAINTEXT and credential.password is not None:
            return pygit2.UserPass(credential.username or name, credential.password)
        if allowed & CredentialType.USERNAME:
            return pygit2.Username(name)
        wanted = "an ssh key" if allowed & CredentialType.SSH_KEY else "a name and a password"
        raise AccessDenied(f"{self._origin.address.shown}: wants {wanted}; none is configured")

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        # The default accepts any ssh host key, known or not.
        self._look_at_the_clock()
        return valid

    def transfer_progress(self, stats: TransferProgress) -> None:
        self._look_at_the_clock()

    def push_transfer_progress(
        self, objects_pushed: int, total_objects: int, bytes_pushed: int
    ) -> None:
        self._look_at_the_clock()

    def sideband_progress(self, string: str) -> None:
        self._look_at_the_clock()
        self.words = (self.words + string)[-self.WORDS :]

    def push_negotiation(self, updates: list[PushUpdate]) -> None:
        self._look_at_the_clock()
        for update in updates:
            if str(update.src) != (self._expected or NO_OBJECT):
                raise LostRace(f"{update.dst_refname}: is at {update.src} now")

    def push_update_reference(self, refname: str, message: str | None) -> None:
        # Nothing is raised by libgit2 for a rejected push: this is the only sign of it.
        if message is not None:
            self.refusal = message


@dataclass(frozen=True)
class Look:
    """What a remote advertised, and the open connection to fetch it through.

    `heads` has branches and tags only: full ref → oid of the ref's own object.
    """

    head: str | None
    heads: Mapping[str, str]
    remote: Remote


@dataclass(frozen=True)
class Origin:
    """One remote repository. Every method blocks; `deadline_s` bounds each as a whole, as far as
    libgit2 calls back (one socket operation more: see `configure_git`)."""

    address: Address
    credentials: Credentials | None
    deadline_s: float

    def credential(self) -> Credential | None:
        asked = self.credentials(self.address.url) if self.credentials else None
        return asked or self.address.embedded

    def look(self, repository: pygit2.Repository) -> Look:
        """Connect and read the refs. Raises Unreachable, AccessDenied or NotARepository."""
        folder = self.address.folder
        if folder is not None and not folder.is_dir():
            raise NotARepository(f"{folder}: no such folder; check the repository's path")
        callbacks = _Callbacks(self)
        with self._understood():
            remote = repository.remotes.create_anonymous(self.address.url)
            remote.connect(callbacks=callbacks)
            heads = {
                head.name: head
                for head in remote.list_heads(connect=False)
                if head.name is not None
            }
        default = heads["HEAD"].symref_target if "HEAD" in heads else None
        kept = {
            name: str(head.oid)
            for name, head in heads.items()
            if name.startswith(("refs/heads/", "refs/tags/"))
            and not name.endswith("^{}")
            and pygit2.reference_is_valid_name(name)
        }
        return Look(default if default in kept else None, kept, remote)

    def fetch(self, look: Look, refspecs: list[str]) -> None:
        """Fetch through the connection of `look`, and exactly what it advertised."""
        with self._understood():
            look.remote.fetch(refspecs, callbacks=_Callbacks(self))

    def push(
        self, repository: pygit2.Repository, oid: str, *, ref: str, expected: str | None
    ) -> None:
        """Move `ref` from `expected` (None: absent) to `oid`, or raise LostRace or PushRefused."""
        if self.address.folder is not None:
            with self._understood(racing=True):
                self._move_local(repository, oid, ref=ref, expected=expected)
            return
        callbacks = _Callbacks(self, expected=expected)
        with self._understood(racing=True):
            remote = repository.remotes.create_anonymous(self.address.url)
            remote.push([f"{oid}:{ref}"], callbacks=callbacks)
        if callbacks.refusal is not None:
            raise self._refused(ref, callbacks.refusal, callbacks.words)

    def _move_local(
        self, repository: pygit2.Repository, oid: str, *, ref: str, expected: str | None
    ) -> None:
        """libgit2's push into a folder overwrites whatever the ref has become meanwhile; here the
        ref is locked, compared, then set. Like every local push of libgit2, it runs no hooks."""
        other = pygit2.Repository(self.address.url)
        if not other.is_bare and "HEAD" in other.references:
            head = other.lookup_reference("HEAD")
            if ref in (head.target, head.name):
                reason = "it is checked out there"
                raise PushRefused(f"{self.address.shown}: {ref}: {reason}", reason=reason)
        copy_objects(repository, other, oid)
        _drop_left_lock(Path(other.path) / f"{ref}.lock")
        transaction = other.transaction()
        with transaction:
            transaction.lock_ref(ref)
            now = other.references.get(ref)
            if (str(now.target) if now else None) != expected:
                raise LostRace(f"{ref}: is at {now.target if now else 'nothing'} now")
            transaction.set_target(ref, pygit2.Oid(hex=oid))

    def _refused(self, ref: str, message: str, words: str) -> GitError:
        said = " / ".join(line.strip() for line in words.splitlines() if line.strip())
        reason = f"{message}: {said}" if said else message
        if _LOST.search(message):
            return LostRace(f"{self.address.shown}: {ref}: {reason}")
        return PushRefused(f"{self.address.shown}: {ref} was refused: {reason}", reason=reason)

    @contextlib.contextmanager
    def _understood(self, *, racing: bool = False) -> Iterator[None]:
        """Turn libgit2's errors into ours; `racing` while a ref of the remote is being moved."""
        try:
            yield
        except pygit2.GitError as error:
            if racing and _LOST.search(str(error)):
                raise LostRace(f"{self.address.shown}: {error}") from error
            if "no match for id" in str(error):
                raise  # a KeyError, too: an object is missing here, not over there
            raise _translated(error, self.address, pushing=racing) from error
        except OSError as error:
            raise AccessDenied(f"{self.address.shown}: {error}") from error


def _drop_left_lock(lock: Path) -> None:
    """A `kill -9` in the middle of a local push leaves its lock, which would refuse the branch for
    ever: no later push comes past it. Nobody else writes the refs that we push to."""
    with contextlib.suppress(FileNotFoundError):
        if abs(time.time() - lock.stat().st_mtime) > _LEFT_LOCK_S:
            lock.unlink()


def copy_objects(source: pygit2.Repository, target: pygit2.Repository, oid: str) -> None:
    """Copy a commit and what it needs; whatever `target` has, it has whole."""
    todo = [pygit2.Oid(hex=oid)]
    found: list[pygit2.Oid] = []
    while todo:
        one = todo.pop()
        if one in target.odb:
            continue
        found.append(one)
        item = source[one]
        if isinstance(item, pygit2.Commit):
            todo += [item.tree_id, *item.parent_ids]
        elif isinstance(item, pygit2.Tree):
            todo += [entry.id for entry in item if entry.type != ObjectType.COMMIT]
    # Parts before wholes: an interrupted copy must leave no object whose parts are missing.
    for one in reversed(found):
        kind, data = source.odb.read(one)
        target.odb.write(kind, data)


# What the servers say when the ref moved between their advertisement and our update of it.
_LOST = re.compile(
    r"failed to update ref|cannot lock ref|non-fast-?forward|fetch first|stale info"
    r"|not present locally|incorrect old value|reference already exists"
    r"|failed to (?:lock|create locked)",
    re.IGNORECASE,
)
_LEFT_LOCK_S = 10.0  # our lock is held for less than a millisecond
_DENIED = re.compile(
    r"authenticat|status code: 40[13]|private key|permission denied|not owned by current user"
    r"|access denied|read-only",
    re.IGNORECASE,
)
_NO_REPOSITORY = re.compile(
    r"status code: (?:404|410)|could not find repository|failed to resolve path"
    r"|does not appear to be a git repo|repository not found|not found\.?\s*$|content-type"
    r"|unsupported url|unknown object format|unsupported extension",
    re.IGNORECASE,
)
_IS_IT_UP: Final = "is it up, and is the URL right?"
_ENDED_EARLY: Final = "the connection was closed before the answer was whole; try again"
_FAILED = re.compile(r"status code: 5\d\d", re.IGNORECASE)
# What libgit2 says, and what to do then: the first that fits.
_REMEDIES = tuple(
    (re.compile(found, re.IGNORECASE), words)
    for found, words in (
        ("no space left|quota exceeded", "has the disk of the data folder room?"),
        ("unpacking the sent packfile", "the server could not store the push; has its disk room?"),
        ("status code: 429", "it is asked too often; ask less often"),
        ("status code: 413", "the server, or a proxy before it, takes no push of this size"),
        (_FAILED.pattern, "the server, or a proxy before it, failed; its log says why"),
        (
            "eof|connection reset|broken pipe|failed getting banner|could not read refs",
            _ENDED_EARLY,
        ),
    )
)
_NO_ROOM_BYTES = 1 << 16


def _translated(error: pygit2.GitError, address: Address, *, pushing: bool) -> GitError:
    text = " ".join(str(error).split())
    shown = address.shown
    if isinstance(error, pygit2.CertificateError) or "hostkey" in text:
        host = address.origin[1]
        remedy = (
            f"compare it with what the host publishes, then add it to known_hosts "
            f"(ssh-keyscan {host})"
            if address.origin[0] == "ssh"
            else "its certificate is not signed by an authority known here"
        )
        return AccessDenied(f"{shown}: {text}; {remedy}")
    if "too many redirects" in text:
        return Unreachable(f"{shown}: {text}")
    if isinstance(error, pygit2.AuthError) or _DENIED.search(text):
        remedy = (
            "the folder must belong to the user that runs Dagmill"
            if "not owned" in text
            else "check the credential and what it may do there"
        )
        return AccessDenied(f"{shown}: {text}; {remedy}")
    if _NO_REPOSITORY.search(text):
        return NotARepository(f"{shown}: no git repository that can be read ({text})")
    if pushing and address.folder is not None:
        return Unreachable(_not_written(address.folder, text))
    remedy = next((words for found, words in _REMEDIES if found.search(text)), _IS_IT_UP)
    if pushing and (remedy is _ENDED_EARLY or _FAILED.search(text)):
        remedy += "; whether the push was taken shows at the next try"
    return Unreachable(f"{shown}: {text}; {remedy}")


def _not_written(folder: Path, text: str) -> str:
    """Why a folder took no push. libgit2 does not say that its disk was full: its words are those
    of something before."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(folder).free < _NO_ROOM_BYTES:
            return f"{folder}: the disk there is full; make room, then it is tried again"
    return f"{folder}: {text}; has the disk there room, and is the repository whole (git fsck)?"
