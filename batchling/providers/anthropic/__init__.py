"""The adapter for Anthropic's Message Batches: requests in the call itself, results by the batch's id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchling.dialects import MESSAGES
from batchling.providers.anthropic.envelope import MessagesEnvelope
from batchling.providers.port import Adapter
from batchling.spec import ProviderConfig

if TYPE_CHECKING:
    from batchling.providers.anthropic.client import AnthropicClient


def connect(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> AnthropicClient:
    """A client of one connection. Imports the HTTP library."""
    from batchling.providers.anthropic.client import AnthropicClient

    return AnthropicClient(config, base_url, api_key, environ)


ADAPTER = Adapter(envelope=MessagesEnvelope(), dialects={"chat": MESSAGES}, connect=connect)
"""The entry point of the adapter `anthropic`."""
