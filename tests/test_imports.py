"""The layers hold: who may import whom, what a pure module may not touch, which names are bad.

Reads every file with `ast`, imports inside functions included; runs nothing of the project.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("runner", "webhook", "storage")
TOP = ("runner.cli", "runner.assembly")

# The modules that are pure by design: no I/O, clock, randomness, asyncio. A module whose docstring
# ends with "Pure." is held to its word, too.
PURE = (
    "runner.triggers",
    "runner.language.*",
    "runner.engine.events",
    "runner.engine.state",
    "runner.engine.plan",
    "runner.engine.summary",
    "runner.control.catalog",
    "runner.control.schedule",
    "storage.records",
    "storage.mask",
    "webhook.schemas",
    "webhook.providers",
    "webhook.providers.*",
)
# `signal` is not among them: it gives names their numbers.
IMPURE_MODULES = (
    *("asyncio", "concurrent", "ctypes", "fcntl", "io", "multiprocessing", "os", "pathlib"),
    *("random", "secrets", "select", "selectors", "shutil", "socket", "sqlite3", "ssl"),
    *("subprocess", "sys", "tempfile", "threading", "time", "urllib.request", "uuid"),
    *("http", "httpx2", "pygit2", "starlette", "structlog", "uvicorn", "watchfiles"),
)
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval"})
CLOCKS = frozenset({"now", "utcnow", "today"})
BAD_NAMES = ("utils", "util", "helpers", "helper", "common", "manager", "service", "misc")


def _files() -> list[Path]:
    return sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def _module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {_module(file): ast.parse(file.read_text("utf-8"), str(file)) for file in _files()}


def imports_of(module: str, tree: ast.AST) -> Iterator[str]:
    """Full names of what a file imports; `from a import b` gives `a.b` where that is a module."""
    is_package = (ROOT / module.replace(".", "/") / "__init__.py").exists()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                kept = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:kept], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in TREES else base


OURS = {
    module: {name for name in imports_of(module, tree) if name in TREES and name != module}
    for module, tree in TREES.items()
}


def _within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _edges() -> Iterator[tuple[str, str]]:
    return ((module, name) for module, names in OURS.items() for name in sorted(names))


def test_the_three_packages_were_read() -> None:
    assert {module.split(".")[0] for module in TREES} == set(PACKAGES)
    assert "storage.store" in OURS["webhook.doors"], "imports are not recognised any more"


def test_storage_knows_neither_runner_nor_webhook() -> None:
    bad = [
        edge for edge in _edges() if _within(edge[0], "storage") and not _within(edge[1], "storage")
    ]
    assert bad == []


def test_runner_knows_no_webhook() -> None:
    bad = [
        edge
        for edge in _edges()
        if _within(edge[0], "runner") and not _within(edge[0], *TOP) and _within(edge[1], "webhook")
    ]
    assert bad == []


def test_nobody_imports_the_command_line_or_the_assembly() -> None:
    bad = [edge for edge in _edges() if _within(edge[1], *TOP) and not _within(edge[0], *TOP)]
    assert bad == []


def test_there_is_no_import_cycle() -> None:
    # A package's __init__ and a module in it may name each other only in one direction, too.
    try:
        TopologicalSorter(OURS).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def _pure_modules() -> list[str]:
    return sorted(
        module
        for module, tree in TREES.items()
        if _says_pure(tree)
        or any(
            module == pattern or (pattern.endswith(".*") and _within(module, pattern[:-2]))
            for pattern in PURE
        )
    )


def _says_pure(tree: ast.Module) -> bool:
    return (ast.get_docstring(tree) or "").rstrip().endswith(" Pure.")


@pytest.mark.parametrize("module", _pure_modules())
def test_a_pure_module_imports_nothing_that_reaches_outside(module: str) -> None:
    found = sorted(
        name for name in imports_of(module, TREES[module]) if _within(name, *IMPURE_MODULES)
    )
    assert found == []


@pytest.mark.parametrize("module", _pure_modules())
def test_a_pure_module_calls_no_clock_and_opens_nothing(module: str) -> None:
    found = [
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Call) and _is_impure(node.func)
    ]
    assert found == []


def _is_impure(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name):
            return name in IMPURE_CALLS
        case ast.Attribute(attr=name, value=ast.Name(id="datetime" | "date")):
            return name in CLOCKS
        case _:
            return False


@pytest.mark.parametrize("module", _pure_modules())
def test_a_pure_module_builds_on_pure_modules_only(module: str) -> None:
    pure = set(_pure_modules())
    packages = {name for name in TREES if (ROOT / name.replace(".", "/")).is_dir()}
    assert OURS[module] - pure - packages == set()


def test_no_file_has_a_name_that_says_nothing() -> None:
    bad = [
        module
        for module in TREES
        if any(word in BAD_NAMES for word in module.split(".")[-1].split("_"))
    ]
    assert bad == []


def test_every_module_says_what_it_is() -> None:
    silent = [module for module, tree in TREES.items() if tree.body and not ast.get_docstring(tree)]
    assert silent == []
