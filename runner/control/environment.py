"""Which of the service's environment a step gets to see.

A short list that programs need to work at all, and what the setting `pass_env` names. Its rule:
nothing whose name begins with DAGMILL_, whatever the setting says. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runner.language import patterns

_ALWAYS = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_*",
    "TZ",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
)


def inherited(environ: Mapping[str, str], pass_env: Sequence[str]) -> dict[str, str]:
    """What steps get. `pass_env` are names or patterns with `*`."""
    wanted = (*_ALWAYS, *pass_env)
    return {
        name: value
        for name, value in environ.items()
        if patterns.any_match(wanted, name) and not name.startswith("DAGMILL_")
    }


def passed(environ: Mapping[str, str], pass_env: Sequence[str]) -> dict[str, str]:
    """The part that came through `pass_env`: its values are to be masked."""
    return {
        name: value
        for name, value in inherited(environ, pass_env).items()
        if not patterns.any_match(_ALWAYS, name)
    }
