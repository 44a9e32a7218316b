"""The adapter for everything OpenAI-shaped: an envelope and dialects without any SDK, and a client on the real one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchling.dialects import BUILT_IN
from batchling.providers.openai.envelope import OpenAIEnvelope
from batchling.providers.port import Adapter
from batchling.spec import ProviderConfig

if TYPE_CHECKING:
    from batchling.providers.openai.client import OpenAIClient


def connect(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> OpenAIClient:
    """A client of one OpenAI-shaped provider. Imports the SDK."""
    from batchling.providers.openai.client import OpenAIClient

    return OpenAIClient(config, base_url, api_key, environ)


ADAPTER = Adapter(envelope=OpenAIEnvelope(), dialects=BUILT_IN, connect=connect)
"""The entry point of the adapter `openai`."""
