"""How git fails us, and how each failure wants to be treated.

Knows classes and nothing else, so that who only starts the git program does not load libgit2.
Leaves the messages to who raises them: the URL without credentials, what happened, the remedy.
"""

from __future__ import annotations

import errno
import os

from storage.store import StorageError


class GitError(StorageError):
    """Base of everything that git refuses. By itself: tell a person."""


class NoRoom(GitError):
    """The disk of the mirror or of a checkout takes no more: retry when it has room."""


class Unreachable(GitError):
    """Network, timeout or a failing server: retry later."""


class AccessDenied(GitError):
    """A bad or missing credential, or a host key that is not known: back off longer."""


class NotARepository(GitError):
    """There is no git repository at that path or URL, or none that can be read."""


class BranchMissing(GitError):
    """The repository is there, the branch or tag is not."""


class PushRefused(GitError):
    """The server, or a hook of it, said no. `reason` has its words."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class LostRace(GitError):
    """Someone else moved the branch first: fetch, build again, push again."""


_NO_ROOM = tuple(os.strerror(n) for n in (errno.ENOSPC, errno.EDQUOT, errno.EROFS))


def disk_error(message: str, *, cause: Exception) -> GitError:
    """What went wrong on our own disk; libgit2 says the system's reason in its text only."""
    full = any(reason in str(cause) for reason in _NO_ROOM)
    return NoRoom(message) if full else GitError(message)
