"""The adapter for Mistral's batch jobs: chat and embeddings almost in OpenAI's words, files and jobs of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchling.dialects import EMBEDDINGS
from batchling.providers.mistral.chat import MISTRAL_CHAT
from batchling.providers.mistral.envelope import JobEnvelope
from batchling.providers.port import Adapter
from batchling.spec import ProviderConfig

if TYPE_CHECKING:
    from batchling.providers.mistral.client import MistralClient


def connect(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> MistralClient:
    """A client of one connection. Imports the HTTP library."""
    from batchling.providers.mistral.client import MistralClient

    return MistralClient(config, base_url, api_key, environ)


ADAPTER = Adapter(envelope=JobEnvelope(), dialects={"chat": MISTRAL_CHAT, "embeddings": EMBEDDINGS}, connect=connect)
"""The entry point of the adapter `mistral`."""
