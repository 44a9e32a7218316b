"""Who may use the server: whoever has its token."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import openai
import pytest

from batchling.errors import ConfigError, DiskError
from batchling.local.options import ServerOptions
from batchling.local.token import carries, kept_token
from batchling.spec import EngineConfig

from .conftest import Lab, chat_lines

ECHO = EngineConfig(kind="echo")


def test_the_official_client_gives_the_token_as_its_api_key(lab: Lab) -> None:
    lab.start(engine=ECHO, token="a-token-that-somebody-chose-for-all")
    right = openai.OpenAI(base_url=lab.server.base_url, api_key="a-token-that-somebody-chose-for-all", max_retries=0)
    assert right.models.list().data
    for wrong in ("none", "a-token-that-somebody-chose-for-al", "a-token-that-somebody-chose-for-all2"):
        client = openai.OpenAI(base_url=lab.server.base_url, api_key=wrong, max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            client.models.list()
        assert refused.value.code == "invalid_api_key"
        assert wrong not in refused.value.message or wrong == "none"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/files"),
        ("POST", "/v1/files"),
        ("GET", "/v1/files/file-1/content"),
        ("POST", "/v1/batches"),
        ("POST", "/v1/chat/completions"),
        ("GET", "/nowhere"),
    ],
)
def test_no_path_answers_without_it(echo: Lab, method: str, path: str) -> None:
    http = echo.client._client
    root = echo.server.base_url.removesuffix("/v1")
    assert http.request(method, root + path).status_code == 401
    reply = http.request(method, root + path, headers=echo.client.auth_headers)
    assert reply.status_code != 401


def test_each_server_has_a_random_one_that_is_not_shown(tmp_path: Path) -> None:
    first, second = ServerOptions(state_dir=tmp_path), ServerOptions(state_dir=tmp_path)
    assert first.token and second.token and first.token != second.token
    assert len(first.token) > 40
    assert first.token not in repr(first)


def test_without_a_token_every_key_is_good(lab: Lab) -> None:
    lab.start(engine=ECHO, token=None)
    assert lab.run(chat_lines(1)).status == "completed"
    assert lab.client._client.get(lab.server.base_url + "/models").status_code == 200


@pytest.mark.parametrize(
    ("header", "good"),
    [
        (b"Bearer secret", True),
        (b"bearer  secret", True),
        (b"Bearer secret2", False),
        (b"Bearer", False),
        (b"secret", False),
        (b"Basic secret", False),
        (b"Bearer \xff", False),
        (b"", False),
        (None, False),
    ],
)
def test_how_a_token_is_carried(header: bytes | None, good: bool) -> None:
    assert carries(header, "secret") is good


def test_a_state_folder_keeps_its_token_for_the_user_alone(tmp_path: Path) -> None:
    token = kept_token(tmp_path / "state")
    assert kept_token(tmp_path / "state") == token != kept_token(tmp_path / "other")
    assert stat.S_IMODE((tmp_path / "state" / "token").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda path: path.chmod(0o644), ConfigError),
        (lambda path: path.write_text(""), ConfigError),
        (lambda path: path.write_text("short"), ConfigError),
        (lambda path: path.write_text("a" * 40 + "\n" + "b" * 40), ConfigError),
        (lambda path: path.rename(path.with_name("t")) and path.symlink_to("t"), DiskError),
    ],
)
def test_a_token_that_others_may_know_is_not_used(
    tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    kept_token(tmp_path)
    spoil(tmp_path / "token")
    with pytest.raises(error) as told:
        kept_token(tmp_path)
    assert str(tmp_path / "token") in str(getattr(told.value, "where", ""))
