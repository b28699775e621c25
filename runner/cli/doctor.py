"""`dagmill doctor [REPO]`: whether this machine has what Dagmill needs, line by line.

Puts the checks together and prints them; what each looks at is `checks` and `neighbours`. One
rule: a line that is not ok has a remedy, and only problems change the exit code.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runner.cli import checks
from runner.cli.checks import Finding, Level, Places
from runner.cli.terminal import shown
from runner.cli.working_tree import DEFAULT_FOLDER, base_file, read_capped, repository_root

if TYPE_CHECKING:
    from runner.language.model import Smtp

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}

_SSH = re.compile(r"(?:ssh://)?[^/@\s]+@([^/:\s]+)[:/]")


@click.command()
@click.argument("repository", metavar="[REPO]", required=False)
@click.option(
    "--data",
    envvar="DAGMILL_DATA",
    type=click.Path(path_type=Path),
    help="The service's data folder, if it is not the usual one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def doctor(ctx: click.Context, repository: str | None, data: Path | None, as_json: bool) -> None:
    """Check this machine, and REPO: a folder, by default the one you are in, or a URL, whose host
    is then asked for the time.

    Changes nothing. Exits 1 if something keeps Dagmill from working.
    """
    here, url = _meant(repository)
    found = [*_findings(_places(here, data), url=url)]
    if as_json:
        click.echo(json.dumps(_document(found), indent=2, ensure_ascii=False))
    else:
        _print(found)
    ctx.exit(1 if any(f.level is Level.PROBLEM for f in found) else 0)


def _meant(repository: str | None) -> tuple[Path, str | None]:
    """The folder to look at, and a URL of the host to ask. Raises a usage error."""
    if repository is None:
        return Path.cwd(), None
    if Path(repository).is_dir():
        return Path(repository).absolute(), None
    if found := re.match(r"(https?)://(?:[^/@]*@)?([^/]+)", repository):
        return Path.cwd(), f"{found[1]}://{found[2]}/"
    if found := _SSH.match(repository):  # a forge's web pages are where its repositories are
        return Path.cwd(), f"https://{found[1]}/"
    raise click.UsageError(f'"{repository}" is neither a folder nor the URL of a repository')


def _places(here: Path, data: Path | None) -> Places:
    from runner.settings import default_data

    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return Places(here, (data or default_data(os.environ)).absolute(), state / "dagmill/local")


def _findings(places: Places, *, url: str | None) -> Iterator[Finding]:
    from runner.cli import neighbours

    yield checks.python()
    yield checks.kernel()
    yield checks.shell()
    yield from checks.git()
    yield from checks.repository(places.here, root=repository_root(places.here))
    settings, least_bytes, zone = _settings()
    yield settings
    yield checks.folder("data", places.data, remedy="give another --data or DAGMILL_DATA")
    yield from checks.token(places.data)
    yield checks.folder("state", places.state, remedy="set XDG_STATE_HOME to a folder of yours")
    yield checks.room(places.data, least_bytes=least_bytes)
    yield checks.clock(places)
    if url is not None:
        yield neighbours.clock_of_host(url)
    yield checks.zones(zone)
    yield neighbours.docker(os.environ)
    yield neighbours.smtp(_smtp(places.here))


def _smtp(here: Path) -> Smtp | None:
    """The mail server of the base.yaml of the repository that the person is in."""
    from runner.language.load import load, load_base

    file = base_file((repository_root(here) or here) / DEFAULT_FOLDER)
    if file is None:
        return None
    try:
        base = load_base(read_capped(file), path=str(file)).base
    except OSError:
        return None
    probe = load(b"steps: [{command: ':'}]", path="", id="probe", base=base).workflow
    return probe.mailing.smtp if probe is not None else None


def _settings() -> tuple[Finding, int, str]:
    """What is wrong with the DAGMILL_ variables; and two of them that other checks need."""
    from runner import settings

    given = [f"DAGMILL_{name.upper()}" for name in settings.Settings.model_fields]
    named = [name for name in given if os.environ.get(name)]
    flags = {"repository": os.environ.get("DAGMILL_REPOSITORY") or "here"}
    try:
        known = settings.load(flags, environ=os.environ)
    except settings.SettingsError as error:
        said = "; ".join(str(error).splitlines())
        default = settings.Settings.model_validate({**flags, "data": "/"})
        remedy = "correct or unset it; docs/serve.md has the settings"
        return checks.problem("settings", said, remedy), default.min_free_disk, default.timezone
    said = ", ".join(named) if named else "no DAGMILL_ variable of a setting is set"
    return checks.ok("settings", said), known.min_free_disk, known.timezone


def _print(found: list[Finding]) -> None:
    width = max(len(one.check) for one in found)
    for one in found:
        mark = click.style(f"{one.level.value:<8}", fg=_COLOURS[one.level])
        click.echo(f"{mark} {one.check:<{width}}  {shown(one.said)}")
        if one.remedy:
            click.echo(f"{'':8} {'':<{width}}  → {shown(one.remedy)}")
    numbers = [(level, sum(one.level is level for one in found)) for level in Level]
    click.echo(", ".join(f"{n} {level.value}{_plural(level, n)}" for level, n in numbers if n))


def _plural(level: Level, number: int) -> str:
    return "s" if number > 1 and level is not Level.OK else ""


def _document(found: list[Finding]) -> dict[str, object]:
    return {
        "problems": sum(one.level is Level.PROBLEM for one in found),
        "warnings": sum(one.level is Level.WARNING for one in found),
        "checks": [
            {"check": one.check, "level": one.level.value, "said": one.said, "remedy": one.remedy}
            for one in found
        ],
    }
