from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchling.models import Submission
from batchling.providers import Client, connect
from batchling.providers.gate import Gate
from batchling.spec import Capabilities, ProviderConfig
from tests.servers.scripted import Scripted

KEY = "sk-test-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted() as scripted:
        yield scripted


@pytest.fixture
def provider(server: Scripted) -> Callable[..., Client]:
    """Connects to the scripted server; keyword arguments are capabilities."""

    def make(name: str = "openai", environ: dict[str, str] | None = None, **capabilities: Any) -> Client:
        config = ProviderConfig(name=name, api_key_env="TEST_KEY", capabilities=Capabilities(**capabilities))
        values = {"TEST_KEY": KEY, **(environ or {})}
        return connect(config, base_url=server.url, environ=values, gate=Gate(hosts=["127.0.0.1"], environ=values))

    return make


@pytest.fixture
def submission() -> Submission:
    return Submission(plan="3f9ac1", shard=7, attempt=2, sha256="ab" * 32, endpoint="/v1/chat/completions", requests=3)
