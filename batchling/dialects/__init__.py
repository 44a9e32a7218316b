"""How requests and answers read: one pure object for each way in which providers have them written.

A dialect knows bodies only. How a body is wrapped in a line is the adapter's `Envelope`, and how lines travel its
client (`batchling.providers.port`). Nothing here needs a key, a library of a vendor or the network.
"""

from batchling.dialects.chat import CHAT
from batchling.dialects.embeddings import EMBEDDINGS
from batchling.dialects.generate import GENERATE
from batchling.dialects.messages import MESSAGES
from batchling.dialects.neutral import Dialect, NeutralRequest, StrictSchema
from batchling.dialects.responses import RESPONSES

BUILT_IN: dict[str, Dialect] = {dialect.name: dialect for dialect in (CHAT, RESPONSES, EMBEDDINGS)}
"""Endpoint → the dialect that OpenAI's API and its many relatives speak there."""

__all__ = [
    "BUILT_IN",
    "CHAT",
    "EMBEDDINGS",
    "GENERATE",
    "MESSAGES",
    "RESPONSES",
    "Dialect",
    "NeutralRequest",
    "StrictSchema",
]
