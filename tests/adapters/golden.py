"""One set of requests, in each API's own words: what the vendors' types must accept without dropping anything.

The neutral request is the same for all: instructions, one turn, a limit of 300 tokens; with a strict schema, or with a PNG.
"""

from __future__ import annotations

from typing import Any

from batchling.dialects import NeutralRequest, StrictSchema

TEXTS = (("system", "You classify."), ("user", "Classify: hello"))
PNG = "iVBORw0KGgo="
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"rationale": {"type": "string"}, "label": {"type": "string", "enum": ["a", "b"]}},
    "required": ["rationale", "label"],
    "additionalProperties": False,
}


def plain(model: str, **params: Any) -> NeutralRequest:
    return NeutralRequest(model, TEXTS, params, 300, "max_tokens")


def structured(model: str, **params: Any) -> NeutralRequest:
    return NeutralRequest(model, TEXTS, params, 300, "max_tokens", StrictSchema("output", SCHEMA))


MESSAGES: dict[str, Any] = {
    "plain": {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "system": "You classify.",
        "messages": [{"role": "user", "content": "Classify: hello"}],
    },
    "structured": {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "system": "You classify.",
        "messages": [{"role": "user", "content": "Classify: hello"}],
    },
    "image": {
        "model": "claude-haiku-4-5",
        "max_tokens": 300,
        "system": "You classify.",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {"type": "text", "text": "Classify: hello"},
                ],
            }
        ],
    },
}


GENERATE: dict[str, Any] = {
    "plain": {
        "systemInstruction": {"parts": [{"text": "You classify."}]},
        "generationConfig": {"temperature": 0, "maxOutputTokens": 300},
        "contents": [{"role": "user", "parts": [{"text": "Classify: hello"}]}],
    },
    "structured": {
        "systemInstruction": {"parts": [{"text": "You classify."}]},
        "generationConfig": {
            "temperature": 0,
            "maxOutputTokens": 300,
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
        },
        "contents": [{"role": "user", "parts": [{"text": "Classify: hello"}]}],
    },
    "image": {
        "systemInstruction": {"parts": [{"text": "You classify."}]},
        "generationConfig": {"maxOutputTokens": 300},
        "contents": [
            {
                "role": "user",
                "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}, {"text": "Classify: hello"}],
            }
        ],
    },
}
