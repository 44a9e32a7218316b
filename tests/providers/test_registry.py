"""Adapters are found by name, and the key is only ever read from the variable that the config names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from batchling.errors import ConfigError, ProviderError
from batchling.providers import adapters, connect
from batchling.spec import ProviderConfig


def test_the_built_in_adapter_comes_through_the_entry_point_door() -> None:
    assert adapters()["openai"].value == "batchling.providers.openai:ADAPTER"


def test_an_unknown_adapter_is_an_error_that_names_the_nearest() -> None:
    config = ProviderConfig(name="x", adapter="openia", base_url="http://127.0.0.1:1/v1")
    with pytest.raises(ConfigError, match=r"'openia' \(nearest: openai\)"):
        connect(config, environ={})


def test_a_missing_key_names_the_variable_and_the_way_without_one() -> None:
    config = ProviderConfig(name="groq", base_url="http://127.0.0.1:1/v1", api_key_env="GROQ_API_KEY")
    with pytest.raises(ProviderError) as caught:
        connect(config, environ={"OPENAI_API_KEY": "sk-of-somebody-else"})
    assert "GROQ_API_KEY" in str(caught.value)
    assert "provider=local" in str(caught.value)
    assert caught.value.exit_code == 5


def test_a_provider_without_a_base_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="base_url"):
        connect(ProviderConfig(name="local"), environ={})


def test_importing_the_port_does_not_import_openai() -> None:
    code = "import sys, batchling.providers, batchling.collect; sys.exit('openai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
