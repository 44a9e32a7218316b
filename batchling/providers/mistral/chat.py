"""Chat in Mistral's words: another name for the seed, one role fewer.

Facts: `ChatCompletionRequest` of mistralai 3.7, which drops what it does not know, `seed` among it, read on 2026-11-25.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchling.dialects.chat import Chat
from batchling.dialects.neutral import MAX_TOKENS, NeutralRequest, in_other_words, unsaid
from batchling.errors import ConfigError

_UNSAID = {"logit_bias": None, "user": None, "max_completion_tokens": None}


class MistralChat(Chat):
    """Chat, with what differs."""

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        params = dict(request.params)
        for name in sorted(MAX_TOKENS & params.keys()):
            if request.max_output_tokens is not None:
                raise ConfigError(f"model.params.{name}: model.max_output_tokens sets the limit; remove one of them")
        in_other_words(params, "seed", "random_seed")
        unsaid(params, _UNSAID, "Mistral chat")
        return super().write(replace(request, params=params))

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": "system" if role == "developer" else role, "content": text}


MISTRAL_CHAT = MistralChat()
