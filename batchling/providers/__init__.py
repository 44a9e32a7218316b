"""Providers: one small port, adapters chosen by name, facts in YAML.

An adapter is found through the entry point group `batchling.providers`; the built-in one goes
through the same door as everybody else's. Everything OpenAI-shaped is the adapter `openai` with a
`ProviderConfig` of its own.
"""

from batchling.providers.port import Adapter, Client, Envelope
from batchling.providers.registry import adapter, adapters, connect, dialect, envelope

__all__ = ["Adapter", "Client", "Envelope", "adapter", "adapters", "connect", "dialect", "envelope"]
