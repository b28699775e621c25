"""Everything that a person can write, call or meet has an entry in the documentation.

Reads names from the code and looks for them in the pages; says which are missing. Whether an entry
is true no test can say.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import click
import language_pages
import pytest
from pydantic.alias_generators import to_camel

from runner.cli import COMMANDS, cli
from runner.engine.events import Event
from runner.language import entries, source
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
    documented = {cell.strip("`") for cell in first_cells(page("events.md"))}
    assert len(events) > 10
    assert events - documented == set()
    assert documented - events == {"event"}, "an entry of something that is no event"


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


# Keys of the language: WHERE is "workflow", "step", or "" for a key within another, whose name is
# then its path (`retryPolicy.limit`, `docker.image`).

Key = tuple[str, str]


def keys_of(entry: type[entries.Entry]) -> list[str]:
    return [field.alias or to_camel(name) for name, field in entry.model_fields.items()]


def all_keys() -> Iterator[Key]:
    yield from (("workflow", key) for key in keys_of(entries.WorkflowEntry))
    yield from (("step", key) for key in keys_of(entries.StepEntry))
    yield from keys_within(entries.WorkflowEntry, "")
    yield from keys_within(entries.StepEntry, "")
    for name, config in entries.CONFIGS.items():
        yield from (("", f"{name}.{key}") for key in keys_of(config))


def keys_within(entry: type[entries.Entry], path: str) -> Iterator[Key]:
    for key, inner in entry.nested.items():
        if inner is not entries.StepEntry and key != "precondition":
            yield from (("", f"{path}{key}.{name}") for name in keys_of(inner))
            yield from keys_within(inner, f"{path}{key}.")
        if inner is entries.StepEntry and path:
            yield "", path + key


def keys_with_an_entry() -> set[Key]:
    """Those in the first cell of a row; the table's first header says which kind they are."""
    found: set[Key] = set()
    for file in language_pages.FOLDER.glob("*.md"):
        header, rest = "", ["", *file.read_text("utf-8").splitlines()]
        for above, line in pairwise(rest):
            if line.startswith("|") and not above.startswith("|"):
                header = line.split("|")[1].strip()
            elif line.startswith("|"):
                where = header.removesuffix(" key") if header.endswith(" key") else ""
                found |= {(where, name) for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    return found


def keys_in_examples() -> set[Key]:
    """Those in an example that a test loads without a problem."""
    found: set[Key] = set()
    for example in language_pages.examples():
        if example.path.endswith(".yaml") and not example.problems:
            for document in source.read(example.text).documents:
                found |= set(used("workflow", entries.WorkflowEntry, document, path=""))
    return found


def used(where: str, entry: type[entries.Entry], data: Any, *, path: str) -> Iterator[Key]:
    if isinstance(data, list):
        for item in data:
            yield from used(where, entry, item, path=path)
    for key, value in data.items() if isinstance(data, dict) else ():
        if entry is entries.StepEntry and key == "executor" and isinstance(value, dict):
            yield from (("", f"{value['type']}.{name}") for name in value.get("config", {}))
        yield where, path + key
        inner = entry.nested.get(key)
        if inner is entries.StepEntry:
            steps = [*value.values()] if key == "steps" and isinstance(value, dict) else value
            yield from used("step", inner, steps, path="")
        elif inner is not None:
            within = "" if where in ("workflow", "step") else path
            yield from used("", inner, value, path=f"{within}{key}.")


def test_every_key_of_the_language_has_an_entry() -> None:
    keys = set(all_keys())
    assert {("workflow", "schedule"), ("step", "continueOn"), ("", "on.push.paths")} <= keys
    assert {("", "handlerOn.init"), ("", "docker.image"), ("", "smtp.tls")} <= keys
    assert sorted(keys - keys_with_an_entry()) == []


def test_every_key_of_the_language_is_in_an_example() -> None:
    short = {("workflow", "precondition")}  # the other spelling; a step has an example of it
    assert sorted(set(all_keys()) - keys_in_examples() - short) == []


def test_every_entry_of_a_key_is_of_one_that_there_is() -> None:
    known = {name for _, name in all_keys()}
    entered = {name for where, name in keys_with_an_entry() if where or "." in name}
    invented = {
        name for name in entered if re.fullmatch(r"[a-zA-Z]+(\.[a-zA-Z]+)+|[a-zA-Z]+", name)
    }
    assert sorted(invented - known) == []


def test_every_dependency_has_a_line_with_its_reason_and_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(item for extra in extras for item in extra)]
    names = {re.split(r"[^A-Za-z0-9_.-]", item)[0] for item in wanted}
    assert set(first_cells(page("dependencies.md"))) - {"package"} == names


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
    assert "language/README.md" in listed
