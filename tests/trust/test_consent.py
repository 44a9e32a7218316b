"""A yes is kept for its user alone, and only what the user could have written is believed."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from batchling.consent import Consent, user_folder
from batchling.errors import ConfigError
from batchling.trust import Origin

PAIR = ("MINE_API_KEY", Origin.of("https://llm.example.com/v1"))
OTHER = ("MINE_API_KEY", Origin.of("http://[::1]:8080"))


def test_what_was_confirmed_is_remembered_once(tmp_path: Path) -> None:
    assert Consent(tmp_path).pairs() == frozenset()
    Consent(tmp_path).remember([PAIR])
    Consent(tmp_path).remember([PAIR, OTHER])
    assert Consent(tmp_path).pairs() == {PAIR, OTHER}
    assert Consent(tmp_path).path.read_text().count("llm.example.com") == 1


def test_the_file_is_the_users_alone_whatever_the_umask(tmp_path: Path) -> None:
    import os

    before = os.umask(0)
    try:
        Consent(tmp_path / "batchling").remember([PAIR])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "batchling").stat().st_mode) == 0o700
    assert stat.S_IMODE(Consent(tmp_path / "batchling").path.stat().st_mode) == 0o600


def test_a_file_that_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    Consent(tmp_path).remember([PAIR])
    Consent(tmp_path).path.chmod(0o666)
    with pytest.raises(ConfigError, match="others could have written"):
        Consent(tmp_path).pairs()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pairs": [{"variable": 1, "origin": "https://x"}]}', b"\xff"])
def test_a_damaged_file_is_named_and_never_taken_for_a_yes(tmp_path: Path, content: bytes) -> None:
    path = Consent(tmp_path).path
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        Consent(tmp_path).pairs()
    assert caught.value.where == str(path)


def test_the_folder_is_the_users_own(tmp_path: Path) -> None:
    assert user_folder({"XDG_CONFIG_HOME": str(tmp_path)}) == tmp_path / "batchling"
    assert user_folder({"HOME": "/srv/ada"}) == Path("/srv/ada/.config/batchling")
    assert user_folder({"HOME": "/srv/ada", "XDG_CONFIG_HOME": "config"}) == Path("/srv/ada/.config/batchling")
