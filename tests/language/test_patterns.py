"""Which pushes a filter wants."""

from __future__ import annotations

import pytest

from runner.language.model import PushFilter
from runner.language.patterns import any_match, paths_match, ref_matches


@pytest.mark.parametrize(
    ("patterns", "text", "holds"),
    [
        (["main"], "main", True),
        (["main"], "maintenance", False),
        (["*"], "main", True),
        (["*"], "feature/x", False),
        (["**"], "feature/x", True),
        (["release/*"], "release/1", True),
        (["release/*"], "release/1/x", False),
        (["release/**"], "release/1/x", True),
        (["src/**"], "src", False),
        (["src/**/*.py"], "src/a.py", True),
        (["src/**/*.py"], "src/a/b/c.py", True),
        (["**/*.md"], "README.md", True),
        (["v?"], "v1", True),
        (["v?"], "v/", False),
        (["v1.0"], "v1x0", False),
        (["a+(b)[c]"], "a+(b)[c]", True),
        (["**", "!wip/**"], "wip/x", False),
        (["**", "!wip/**", "wip/keep"], "wip/keep", True),
        (["!wip"], "main", False),
        (["!main", "main"], "main", True),
        ([], "main", False),
        (["*"], "a\nb", True),
        (["é*"], "était", True),
    ],
)
def test_the_last_match_wins(patterns: list[str], text: str, holds: bool) -> None:
    assert any_match(patterns, text) is holds


BRANCHES = PushFilter(branches=("main", "release/**"))
TAGS = PushFilter(tags=("v*",))
BOTH = PushFilter(branches=("main",), tags=("v*",))


@pytest.mark.parametrize(
    ("filter", "ref", "holds"),
    [
        (PushFilter(), "refs/heads/main", True),
        (PushFilter(), "refs/tags/v1", True),
        (PushFilter(), "refs/pull/1/head", False),
        (PushFilter(), "main", False),
        (BRANCHES, "refs/heads/release/1.2", True),
        (BRANCHES, "refs/heads/other", False),
        (BRANCHES, "refs/tags/main", False),
        (TAGS, "refs/tags/v1", True),
        (TAGS, "refs/heads/v1", False),
        (BOTH, "refs/heads/main", True),
        (BOTH, "refs/tags/v1", True),
        (BOTH, "refs/heads/v1", False),
    ],
)
def test_only_the_kind_that_is_named_counts(filter: PushFilter, ref: str, holds: bool) -> None:
    assert ref_matches(filter, ref) is holds


def test_one_wanted_path_is_enough() -> None:
    filter = PushFilter(paths=("src/**", "!**/*.md"))
    assert paths_match(filter, ["docs/a.md", "src/a.py"])
    assert not paths_match(filter, ["docs/a.md", "src/a.md"])
    assert not paths_match(filter, [])
    assert paths_match(PushFilter(), [])


def test_many_stars_do_not_freeze() -> None:
    assert not any_match(["*a" * 60], "a" * 5_000 + "/")
