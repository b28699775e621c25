"""Where declared secrets come from, and what is said where one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.engine import secret_values
from runner.engine.evaluation import evaluate
from runner.engine.scope import Evaluated, Evaluation, ScopeError
from runner.engine.secret_values import NO_ACCESS, SecretAccess
from runner.language.model import Secret, SecretSource


async def value_of(
    source: SecretSource, text: str, access: SecretAccess, *, cwd: Path, timeout_s: float = 30
) -> str:
    async def run(wanted: Evaluation, limit_s: float) -> Evaluated:
        assert limit_s == 30
        return await evaluate(wanted, cwd=cwd, mark="test/0", timeout_s=timeout_s)

    base = {"PATH": "/usr/bin:/bin", "GREETING": "hello"}
    secrets = [Secret("TOKEN", source, text)]
    found = await secret_values.read(secrets, access, base=base, cwd=cwd, evaluate=run)
    return found["TOKEN"]


async def test_a_variable_must_be_allowed(tmp_path: Path) -> None:
    environment = {"CI_TOKEN": "hunter22", "ROOT_PASSWORD": "x"}
    some = SecretAccess(environment, ("CI_*",), None)
    assert await value_of(SecretSource.ENV, "CI_TOKEN", some, cwd=tmp_path) == "hunter22"
    with pytest.raises(
        ScopeError, match="secret TOKEN: the variable ROOT_PASSWORD may not be read"
    ):
        await value_of(SecretSource.ENV, "ROOT_PASSWORD", some, cwd=tmp_path)
    everything = SecretAccess(environment)
    assert await value_of(SecretSource.ENV, "ROOT_PASSWORD", everything, cwd=tmp_path) == "x"
    with pytest.raises(ScopeError, match="the variable GONE is not set"):
        await value_of(SecretSource.ENV, "GONE", everything, cwd=tmp_path)
    with pytest.raises(ScopeError, match="add it to the setting secret_env"):
        await value_of(SecretSource.ENV, "CI_TOKEN", NO_ACCESS, cwd=tmp_path)


async def test_a_file_must_lie_below_the_folder_of_secrets(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    (folder / "data").mkdir(parents=True)
    (folder / "data/token").write_text("hunter22\n")
    (folder / "token").symlink_to("data/token")
    (tmp_path / "outside").write_text("no")
    (folder / "out").symlink_to("../outside")
    access = SecretAccess(folder=folder)
    for path in ("token", "data/token", str(folder / "token")):
        assert await value_of(SecretSource.FILE, path, access, cwd=tmp_path) == "hunter22"
    for path in ("../outside", "out", "/etc/passwd"):
        with pytest.raises(ScopeError, match="is not below secrets_dir"):
            await value_of(SecretSource.FILE, path, access, cwd=tmp_path)
    with pytest.raises(ScopeError, match="No such file"):
        await value_of(SecretSource.FILE, "gone", access, cwd=tmp_path)
    with pytest.raises(ScopeError, match="is not a regular file"):
        await value_of(SecretSource.FILE, "data", access, cwd=tmp_path)


async def test_without_a_folder_a_person_may_read_any_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two\nlines\n")
    found = await value_of(SecretSource.FILE, "token", SecretAccess(), cwd=tmp_path)
    assert found == "two\nlines"


async def test_a_command_prints_the_value_and_says_how_it_failed(tmp_path: Path) -> None:
    (tmp_path / "here").write_text("")
    text = 'test -e here && echo "$GREETING you"'
    assert await value_of(SecretSource.COMMAND, text, NO_ACCESS, cwd=tmp_path) == "hello you"
    with pytest.raises(ScopeError, match="the command of secret TOKEN failed with exit code 3"):
        await value_of(SecretSource.COMMAND, "echo s; exit 3", NO_ACCESS, cwd=tmp_path)
    with pytest.raises(ScopeError, match="printed nothing"):
        await value_of(SecretSource.COMMAND, "true", NO_ACCESS, cwd=tmp_path)
    with pytest.raises(ScopeError, match=r"took over 0\.01 s"):
        await value_of(SecretSource.COMMAND, "sleep 9", NO_ACCESS, cwd=tmp_path, timeout_s=0.01)


async def test_a_value_that_no_variable_can_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nul").write_bytes(b"a\0b")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, why in (("nul", "NUL"), ("bytes", "not UTF-8")):
        with pytest.raises(ScopeError, match=why):
            await value_of(SecretSource.FILE, name, SecretAccess(), cwd=tmp_path)


def test_values_that_cannot_be_masked_are_named() -> None:
    assert secret_values.too_short({"PIN": "1234", "TOKEN": "12345"}) == ["PIN"]
