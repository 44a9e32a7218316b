"""How the schema is sent to a model: a strict schema, JSON mode and words, words alone, or not at all."""

from __future__ import annotations

import json
from typing import Literal

from batchling.schema.nodes import Node
from batchling.spec import ModelConfig, SchemaConfig

Sent = Literal["strict", "json_mode", "prompt", "nothing"]

OPENING = "Answer with JSON only: no other text, no code fence. The JSON must fit this JSON Schema:\n"
"""What the schema in words begins with; a repair finds it by this."""


def sending(config: SchemaConfig, model: ModelConfig) -> Sent:
    """How a run's schema is sent: as `schema.send` says, and with `auto` as the model's facts allow.

    `schema.strict: false` without a `send` of its own sends nothing, as it always did.
    """
    if config.send != "auto":
        return config.send
    if not config.strict:
        return "nothing"
    if model.strict_schema:
        return "strict"
    return "json_mode" if model.json_mode else "prompt"


def in_words(json_schema: Node) -> str:
    """The schema as it is put into a message."""
    return OPENING + json.dumps(json_schema, ensure_ascii=False, separators=(",", ":"))
