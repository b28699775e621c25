from __future__ import annotations

from pathlib import Path

import pytest

from runner import settings
from runner.control import environment
from runner.settings import SettingsError

HOME = {"XDG_STATE_HOME": "/state"}


def test_a_flag_beats_a_variable_which_beats_the_default() -> None:
    environ = {"DAGMILL_PORT": "9000", "DAGMILL_HOST": "::1", "DAGMILL_WATCH": "main, rel/*"}
    found = settings.load({"repository": "x", "port": 1, "host": None}, environ=environ)
    assert (found.port, found.host, found.poll_s) == (1, "::1", 30)
    assert found.watch == ("main", "rel/*")


def test_named_queues_are_listed_with_their_sizes() -> None:
    environ = {**HOME, "DAGMILL_QUEUES": "gpu=2, night jobs=0 slow=1"}
    with pytest.raises(SettingsError, match=r'"night" is not NAME=MAX.*--queue or DAGMILL_QUEUES'):
        settings.load({"repository": "x"}, environ=environ)
    environ["DAGMILL_QUEUES"] = "gpu=2, a=b=0"
    assert settings.load({"repository": "x"}, environ=environ).queues == {"gpu": 2, "a=b": 0}
    given = {"repository": "x", "queues": ("slow=7",)}
    assert settings.load(given, environ=environ).queues == {"slow": 7}
    assert settings.load({"repository": "x"}, environ=HOME).queues == {}


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/team/ops.git", "ops"),
        ("git@example.com:team/ops.git/", "ops"),
        ("git@example.com:ops", "ops"),
        ("/srv/git/ops.git", "ops"),
    ],
)
def test_the_name_is_the_last_part_of_the_url(url: str, name: str) -> None:
    assert settings.load({"repository": url}, environ=HOME).repository_name == name


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"repository": "x", "port": 70000}, "--port"),
        ({"repository": "x", "poll_s": 0}, "DAGMILL_POLL_S"),
        ({"repository": "x", "path": "../up"}, "../up"),
        ({"repository": "x", "timezone": "Mars/Base"}, "Mars/Base"),
        ({"repository": "https://example.com/a b"}, "DAGMILL_NAME"),
        ({"repository": "x", "queues": ("gpu=-1",)}, "gpu=-1"),
        ({"repository": "x", "queues": ("gpu=1", "gpu=2")}, "each name once"),
        ({}, "repository"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(flags: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings.load(flags, environ=HOME)


def test_a_secret_is_not_shown_in_the_settings_or_in_an_error() -> None:
    environ = {**HOME, "DAGMILL_GIT_TOKEN": "s3cret", "DAGMILL_PORT": "s3cret"}
    with pytest.raises(SettingsError) as refused:
        settings.load({"repository": "x"}, environ=environ)
    assert "s3cret" not in str(refused.value)
    found = settings.load({"repository": "x", "port": 1}, environ=environ)
    assert "s3cret" not in repr(found)


def test_a_relative_path_is_named_after_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ops").mkdir()
    monkeypatch.chdir(tmp_path / "ops")
    found = settings.load({"repository": "."}, environ=HOME)
    assert found.repository_name == "ops"


def test_folders_and_files_are_meant_from_where_the_service_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step's process starts in its workspace, where a relative data folder is another one."""
    monkeypatch.chdir(tmp_path)
    environ = {**HOME, "DAGMILL_SSH_KEY_FILE": "keys/id"}
    found = settings.load({"repository": "x", "data": Path("data")}, environ=environ)
    assert (found.data, found.ssh_key_file) == (tmp_path / "data", tmp_path / "keys/id")


def test_a_step_inherits_a_short_list_and_what_pass_env_names() -> None:
    environ = {
        "PATH": "/bin",
        "LC_ALL": "C",
        "AWS_KEY": "k",
        "OTHER": "o",
        "DAGMILL_HOOK_SECRET": "s",
    }
    assert environment.inherited(environ, ["AWS_*", "DAGMILL_*"]) == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "AWS_KEY": "k",
    }
    assert environment.passed(environ, ["AWS_*"]) == {"AWS_KEY": "k"}
