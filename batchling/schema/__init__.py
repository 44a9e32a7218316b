"""Output schemas: what an answer must look like, how it is sent to a provider, and how an answer is checked."""

from __future__ import annotations

from batchling.schema.keywords import open_objects, unknown
from batchling.schema.limits import OPENAI_LIMITS, StrictLimits
from batchling.schema.output import OutputSchema, Validated, compile, model_document
from batchling.schema.sending import OPENING, sending

__all__ = [
    "OPENAI_LIMITS",
    "OPENING",
    "OutputSchema",
    "StrictLimits",
    "Validated",
    "compile",
    "model_document",
    "open_objects",
    "sending",
    "unknown",
]
