"""A value that looks like a key is refused before anything is written, and never repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchling.config import compose, expand, from_values
from batchling.config.secret import looks_like_key, mask, problems
from batchling.errors import ConfigError

from .conftest import HELLO, Write

# Made up, in the shape of each vendor's keys; put together here so that no scanner takes this file for a leak.
KEYS = [
    "sk-" + "proj-abcDEF0123456789abcDEF",
    "sk-" + "ant-api03-abcDEF0123456789",
    "gsk_" + "abcDEF0123456789abcDEF01",
    "AKIA" + "ABCDEFGH12345678",
    "AIza" + "SyA0123456789abcdefghijklmnopqrstuv",
    "hf_" + "abcdefghij0123456789abcd",
    "ghp_" + "abcdefghij0123456789abcd",
    "xai-" + "abcdefghij0123456789abcd",
    "xoxb-" + "1234567890-abcdefghij",
    "whsec_" + "abcdefghij0123456789",
    "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJ" + "zdWIiOiIxMjM0In0." + "c2lnbmF0dXJl",
    "-----BEGIN " + "RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:6])
def test_a_key_in_an_override_is_refused_and_not_repeated(write: Write, key: str) -> None:
    write({})
    for override in (f"description='{key}'", f"+x='my {key}'", f"provider.api_key_env='{key}'"):
        with pytest.raises(ConfigError) as caught:
            compose("hello", [override])
        assert key not in str(caught.value) and key[6:] not in str(caught.value)
        assert "looks like a key" in str(caught.value)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key[:6])
def test_a_key_in_a_file_is_refused_with_its_line_and_not_repeated(write: Write, key: str) -> None:
    write({"experiments/hello/config.yaml": HELLO + f"description: 'for {key}'\n"})
    with pytest.raises(ConfigError) as caught:
        compose("hello")
    text = str(caught.value)
    assert key[6:] not in text and "description: holds what looks like a key" in text
    assert "[experiments/hello/config.yaml:14]" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provider.headers.x-custom", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
        ("model.params.api_key", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
        ("provider.api_key_env", "a1b2c3d4e5f60718293a4b5c6d7e8f90"),
        ("model.params.token", "Zm9vYmFyMTIzNDU2Nzg5MGFiY2Q="),
        ("provider.base_url", "https://me:hunter22@host/v1"),
        ("provider.base_url", "https://host/v1?api-key=0a1b2c3d4e5f6071"),
        ("provider.headers.x", "Bearer abcdefghijklmnop"),
    ],
)
def test_a_random_text_under_a_telling_key_is_one(key: str, value: str) -> None:
    assert looks_like_key(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("provider.api_key_env", "OPENAI_API_KEY"),
        ("provider.max_tokens_param.chat", "max_completion_tokens"),
        ("model.id", "llama-3.3-70b-versatile"),
        ("model.tokenizer", "o200k_base"),
        ("data.rows.0.token", "0a1b2c3d4e5f60718293a4b5c6d7e8f9"),
        ("data.path", "s3://bucket/0a1b2c3d4e5f60718293a4b5c6d7e8f9.parquet"),
        ("description", "a task-oriented risk-assessment of desk-research-methods"),
        ("metrics.token_count", "length(output.tokens)"),
        ("provider.base_url", "http://127.0.0.1:11434/v1"),
    ],
)
def test_ordinary_values_are_not(key: str, value: str) -> None:
    assert looks_like_key(key, value) is None


def test_credentials_in_headers_are_refused_whatever_they_look_like(write: Write) -> None:
    write({})
    with pytest.raises(ConfigError, match="carries credentials"):
        compose("hello", ["provider.headers.Authorization=short"])


def test_the_name_of_a_variable_must_look_like_one(write: Write) -> None:
    write({})
    with pytest.raises(ConfigError, match="is the NAME of a variable, like OPENAI_API_KEY"):
        compose("hello", ["provider.api_key_env=my-key"])


def test_a_secret_variable_is_not_copied_into_the_config(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "hunter22hunter22")
    write({"experiments/hello/config.yaml": HELLO + "description: ${oc.env:MY_API_TOKEN}\n"})
    with pytest.raises(ConfigError) as caught:
        compose("hello")
    assert "would copy the secret MY_API_TOKEN" in str(caught.value) and "hunter22" not in str(caught.value)


@pytest.mark.parametrize("key", KEYS[:3], ids=lambda key: key[:6])
def test_a_key_in_a_sweep_is_refused_and_not_repeated(write: Write, key: str) -> None:
    write({})
    with pytest.raises(ConfigError) as caught:
        expand("hello", [f"description=a,'{key}'"], multirun=True)
    assert key not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        expand("hello", sweep={"grid": {"description": ["a", key]}})
    assert key not in str(caught.value)


def test_a_key_from_python_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="looks like a key"):
        from_values({"name": "x", "model": "gpt-5", "description": KEYS[0]}, tmp_path)


def test_a_key_used_as_a_name_is_found() -> None:
    assert [key for key, _ in problems({"model": {"params": {KEYS[0]: 1}}})] == ["model.params"]


def test_what_is_shown_of_a_key() -> None:
    assert mask(KEYS[0]) == f"sk-… ({len(KEYS[0])} characters)"
