"""What a request costs beyond the texts in it. Pure; estimates, because providers do not publish their framing."""

from __future__ import annotations

import json
from typing import Any, Protocol

MESSAGE_TOKENS = 4
"""Tokens around each chat message: 3 of framing and 1 for the role's name.
Source: OpenAI's cookbook, "How to count tokens with tiktoken" (checked for gpt-3.5, gpt-4 and gpt-4o; later models not)."""

PRIMING_TOKENS = 3
"""Tokens that begin the answer, once for each chat request. Same source."""


class _Counts(Protocol):
    def count(self, text: str) -> int | None: ...


def chat_overhead(messages: int) -> int:
    """Tokens of a chat request's framing for this many messages. An estimate.

    >>> chat_overhead(2)
    11
    """
    return messages * MESSAGE_TOKENS + PRIMING_TOKENS


def schema_tokens(counter: _Counts, schema: dict[str, Any] | None) -> int | None:
    """Tokens that a response schema adds to each prompt, counted as compact JSON. An estimate; None when not counting."""
    if schema is None:
        return 0
    return counter.count(json.dumps(schema, separators=(",", ":"), ensure_ascii=False))
