"""The adapter for Gemini's batch jobs (Developer API): a file in, a file out, the model in the URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from batchling.dialects import GENERATE
from batchling.providers.gemini.envelope import GenerateEnvelope
from batchling.providers.port import Adapter
from batchling.spec import ProviderConfig

if TYPE_CHECKING:
    from batchling.providers.gemini.client import GeminiClient


def connect(config: ProviderConfig, base_url: str, api_key: str | None, environ: Mapping[str, str]) -> GeminiClient:
    """A client of one connection. Imports the HTTP library."""
    from batchling.providers.gemini.client import GeminiClient

    return GeminiClient(config, base_url, api_key, environ)


ADAPTER = Adapter(envelope=GenerateEnvelope(), dialects={"chat": GENERATE}, connect=connect)
"""The entry point of the adapter `gemini`."""
