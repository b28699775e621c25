"""Everything that a person can write, call or meet has an entry in the documentation.

Reads names from the code and looks for them in the pages; says which are missing. Whether an entry
is true no test can say.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import click
import pytest
from pydantic.alias_generators import to_camel

from runner.cli import COMMANDS, cli
from runner.engine.events import Event
from runner.language import document
from runner.settings import CREDENTIALS, Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def first_cells(text: str) -> list[str]:
    """The first cell of each row of the page's tables."""
    cells = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    return [cell for cell in cells if cell.strip("-")]


def test_every_command_has_an_entry_with_its_options() -> None:
    text = page("cli.md") + page("serve.md")
    missing = []
    for name in COMMANDS:
        if not re.search(rf"^\| `dagmill {name}\b", text, re.MULTILINE):
            missing.append(name)
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        options = [o for p in command.params if isinstance(p, click.Option) for o in p.opts]
        long = [option for option in options if option.startswith("--") and option != "--follow"]
        missing += [f"{name} {option}" for option in long if option not in text]
    assert missing == []


def test_every_event_has_an_entry() -> None:
    events = {event.__name__ for event in get_args(Event)}
    entries = {cell.strip("`") for cell in first_cells(page("events.md"))}
    assert len(events) > 10
    assert events - entries == set()
    assert entries - events == {"event"}, "an entry of something that is no event"


def settings_rows() -> dict[str, list[str]]:
    """Variable → (flag, variable, default, meaning) of the settings table."""
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in page("serve.md").splitlines()
        if "`DAGMILL_" in line and line.startswith("| ")
    ]
    return {row[1].strip("`"): row for row in rows if len(row) == 4}


def test_every_setting_has_an_entry_and_every_entry_is_a_setting() -> None:
    assert settings_rows().keys() == {f"DAGMILL_{name.upper()}" for name in Settings.model_fields}
    assert set(CREDENTIALS.values()) <= settings_rows().keys()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_default_of_a_setting_is_the_documented_one(name: str) -> None:
    default = Settings.model_fields[name].default
    cell = settings_rows()[f"DAGMILL_{name.upper()}"][2]
    if isinstance(default, int | float) or (isinstance(default, str) and default):
        text = f"{default:g}" if isinstance(default, float) else str(default)
        assert cell == f"`{text}`"
    else:
        assert not re.fullmatch(r"`[\d.]+`", cell), "a number where there is no default"


def supported_keys() -> Iterator[tuple[str, str]]:
    """(map of the file, key in it) that this release takes."""
    for entry in vars(document).values():
        if isinstance(entry, type) and issubclass(entry, document.Entry):
            yield from ((entry.__name__, to_camel(name)) for name in entry.model_fields)


def test_every_key_of_the_language_has_an_entry() -> None:
    keys = set(supported_keys())
    assert {("WorkflowEntry", "schedule"), ("StepEntry", "continueOn")} <= keys
    text = page("language.md")
    mentioned = set(
        re.findall(r"[A-Za-z]+", "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.S)))
    )
    assert sorted(f"{entry}.{key}" for entry, key in keys if key not in mentioned) == []


def test_every_key_of_later_releases_is_listed_as_not_yet_supported() -> None:
    later = {
        key
        for entry in vars(document).values()
        if isinstance(entry, type) and issubclass(entry, document.Entry)
        for key in entry.later
    }
    listed = set(re.findall(r"`(\w+)`", page("language.md").partition("## Not yet supported")[2]))
    assert "parallel" in later
    assert later - listed == set()


def test_every_dependency_has_a_line_with_its_reason_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(item for extra in extras for item in extra)]
    names = {re.split(r"[^A-Za-z0-9_.-]", item)[0] for item in wanted}
    entries = set(first_cells(page("dependencies.md"))) - {"package"}
    assert entries == names


def links(file: Path) -> Iterator[tuple[str, str]]:
    """(path, fragment) of each relative link of a page, outside of code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", file.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, fragment = target.partition("#")
            yield path, fragment


def anchors(file: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", file.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(file: Path) -> None:
    dead = []
    for path, fragment in links(file):
        target = (file.parent / path).resolve() if path else file
        if not target.exists() or (fragment and fragment not in anchors(target)):
            dead.append(f"{path}#{fragment}")
    assert dead == []


def test_every_page_is_in_the_index() -> None:
    listed = {path for path, _ in links(DOCS / "README.md")}
    assert {file.name for file in DOCS.glob("*.md")} - {"README.md"} <= listed
