"""Answer bodies in the shapes that OpenAI publishes."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from hashlib import shake_256
from math import sqrt
from typing import Any, Literal

from batchling.models import Usage

FINGERPRINT = "simulated"
"""`system_fingerprint` of every answer that no model gave."""

Ending = Literal["stop", "length", "refusal", "content_filter"]
"""How an answer ended: whole, cut at the limit of output tokens, declined in words, cut by a content filter."""

DEFAULT_DIMENSIONS = {"text-embedding-3-large": 3072}
DIMENSIONS = 1536
MAX_DIMENSIONS = 16_384


def chat_body(
    answer_id: str, created: int, model: str, contents: Sequence[tuple[str, Ending]], usage: Usage
) -> dict[str, Any]:
    """A chat completion. `contents`: text of each choice, and how it ended."""
    prompt, completion = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "id": f"chatcmpl-{answer_id}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": None if end == "refusal" else text,
                    "refusal": text if end == "refusal" else None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop" if end == "refusal" else end,
            }
            for index, (text, end) in enumerate(contents)
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": usage.reasoning_tokens or 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": FINGERPRINT,
    }


def responses_body(
    answer_id: str, created: int, body: dict[str, Any], text: str, end: Ending, usage: Usage
) -> dict[str, Any]:
    """A response object with one message."""
    prompt, completion = usage.input_tokens or 0, usage.output_tokens or 0
    cut = end in ("length", "content_filter")
    status = "incomplete" if cut else "completed"
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    if end == "refusal":
        part = {"type": "refusal", "refusal": text}
    metadata = body.get("metadata")
    return {
        "id": f"resp_{answer_id}",
        "object": "response",
        "created_at": created,
        "completed_at": None if cut else created,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens" if end == "length" else end} if cut else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": body["model"],
        "output": [
            {
                "id": f"msg_{answer_id}",
                "type": "message",
                "role": "assistant",
                "status": status,
                "content": [part],
            }
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "temperature": body.get("temperature", 1.0),
        "text": body.get("text") or {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": body.get("top_p", 1.0),
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens or 0, "cache_write_tokens": 0},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
            "total_tokens": prompt + completion,
        },
        "metadata": {**(metadata if isinstance(metadata, dict) else {}), "engine": FINGERPRINT},
    }


def embeddings_body(model: str, vectors: Sequence[Sequence[float]], tokens: int, *, as_base64: bool) -> dict[str, Any]:
    """An embeddings answer, as floats or as base64 of little-endian 32-bit floats."""
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _base64(vector) if as_base64 else list(vector)}
            for index, vector in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def unit_vector(seed: bytes, dimensions: int) -> list[float]:
    """A vector of length 1, the same for the same seed on every machine."""
    raw = struct.unpack(f"<{dimensions}h", shake_256(seed).digest(2 * dimensions))
    norm = sqrt(sum(v * v for v in raw)) or 1.0
    return [round(v / norm, 8) for v in raw]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
