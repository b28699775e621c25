"""Where sub-workflows are found: at a commit of a mirror, and in a folder."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from house import House

from runner.control.folder_library import FolderLibrary
from runner.control.mirror_library import MirrorLibrary
from runner.engine.parts import Found, Library

ONE = "steps: [{name: a, command: 'true'}]\n"
FILES = {
    "load": f"name: Load it\n{ONE}",
    "etl/deep": f"name: Twice\n{ONE}",
    "etl/other": f"name: Twice\n{ONE}",
    "broken": "steps: 3\n",
    "base": "env: [{A: b}]\n",
}

Made = Callable[[], Awaitable[tuple[Library, str]]]


@pytest.fixture(params=["mirror", "folder"])
def made(request: pytest.FixtureRequest, house: House, tmp_path: Path) -> Made:
    """The library with FILES, and their commit."""

    async def mirror() -> tuple[Library, str]:
        commit = await house.push(**FILES)
        await house.push(later=ONE, load=None)
        return MirrorLibrary(house.store, {"ops": house.mirror}, folder=".dagu"), commit

    async def folder() -> tuple[Library, str]:
        for id, text in FILES.items():
            file = tmp_path / "tree/.dagu" / f"{id}.yaml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        (tmp_path / "tree/.dagu/link.yaml").symlink_to("load.yaml")
        os.mkfifo(tmp_path / "tree/.dagu/pipe.yaml")
        return FolderLibrary(tmp_path / "tree/.dagu", root=tmp_path / "tree"), ""

    return mirror if request.param == "mirror" else folder


async def test_ids_and_names_are_those_of_the_commit_broken_files_have_only_ids(made: Made) -> None:
    library, commit = await made()
    index = await library.index("ops", commit)
    assert index.ids - {"pipe"} == {"load", "etl/deep", "etl/other", "broken"}
    assert dict(index.names) == {"Load it": "load", "Twice": ""}


async def test_a_file_is_read_with_its_base(made: Made) -> None:
    library, commit = await made()
    found = await library.read("ops", commit, "etl/deep")
    assert found is not None
    assert found._replace(blob="") == Found(
        FILES["etl/deep"], ".dagu/etl/deep.yaml", "", FILES["base"]
    )
    assert await library.read("ops", commit, "later") is None
    assert (await library.read("ops", commit, "broken") or found).source == FILES["broken"]


async def test_two_files_with_one_id_are_neither(house: House) -> None:
    commit = house.remote.change({".dagu/x.yaml": ONE, ".dagu/x.yml": ONE, ".dagu/y.yaml": ONE})
    await house.reconciler.look()
    library = MirrorLibrary(house.store, {"ops": house.mirror}, folder=".dagu")
    assert await library.read("ops", commit, "x") is None
    assert await library.read("ops", commit, "y") is not None
