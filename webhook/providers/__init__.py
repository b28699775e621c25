"""Which forge sent a delivery: the registry of providers, most specific header first.

Gitea, Forgejo and Gogs also send GitHub's headers (facts differ: what they sign in form mode,
how they spell events), so theirs are looked for before GitHub's. One rule: a delivery of a
forge that is not built yet is never handled as another's. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

from webhook.providers.base import Provider
from webhook.providers.github import GitHub

# (header that only this forge sends, its name, its provider), the most specific first.
_FORGES: tuple[tuple[str, str, Provider | None], ...] = (
    ("x-forgejo-event", "Forgejo", None),
    ("x-gitea-event", "Gitea", None),
    ("x-gogs-event", "Gogs", None),
    ("x-gitlab-event", "GitLab", None),
    ("x-event-key", "Bitbucket", None),
    ("x-github-event", "GitHub", GitHub()),
)


class UnknownForge(Exception):
    """No header says which forge sent this."""


class NotYetSupported(Exception):
    """A forge that we recognise and cannot authenticate yet. `forge` is its name."""

    def __init__(self, forge: str) -> None:
        super().__init__(f"deliveries of {forge} are not yet supported")
        self.forge = forge


def recognise(headers: Mapping[str, str]) -> Provider:
    """The provider of a delivery, by its headers (a mapping that ignores case, or lower case).

    Raises UnknownForge or NotYetSupported.
    """
    for header, forge, provider in _FORGES:
        if header in headers:
            if provider is None:
                raise NotYetSupported(forge)
            return provider
    raise UnknownForge("no header says which forge sent this delivery")
