"""Providers: one small port, adapters chosen by name, facts in YAML.

An adapter is found through the entry point group `batchling.providers`; the built-in one goes
through the same door as everybody else's. Everything OpenAI-shaped is the adapter `openai` with a
`ProviderConfig` of its own.
"""

from batchling.collect import why_failed, why_refused
from batchling.providers.port import Provider
from batchling.providers.registry import adapters, connect, encoder

__all__ = ["Provider", "adapters", "connect", "encoder", "why_failed", "why_refused"]
