"""The `simulated` engine: answers that look right and mean nothing, without a model and without a key.

An answer satisfies the request's JSON schema, sent in a field of its own or written in a system message, and depends on nothing
but the request's body, so a run can be repeated anywhere. Every answer is marked: ids begin with `…sim-`, chat completions
carry `system_fingerprint: "simulated"`, responses carry `metadata.engine: "simulated"`.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Any

from batchling.local.engines import Answer, prompts
from batchling.local.engines.draws import Draws
from batchling.local.engines.echo import embed, speak
from batchling.local.engines.schema_sample import CannotSample, sample
from batchling.local.jsonl import dump
from batchling.local.replies import ApiError

MAX_CHOICES = 128


class SimulatedEngine:
    """Answers from the request's own bytes: chat, responses and embeddings."""

    name = "simulated"
    parallel = 0

    def answer(self, endpoint: str, body: dict[str, Any]) -> Answer:
        try:
            prompts.check_body(endpoint, body)
            if endpoint == "/v1/embeddings":
                return embed(body)
            count = prompts.positive(body, "n") or 1 if endpoint == "/v1/chat/completions" else 1
            if count > MAX_CHOICES:
                raise ApiError(400, f"'n' must be at most {MAX_CHOICES}.", param="n", code="integer_above_max_value")
            digest = blake2b(endpoint.encode() + b"\n" + dump(body), digest_size=24).digest()
            texts = [_text(body, Draws(digest + index.to_bytes(2, "big"))) for index in range(count)]
            return speak(endpoint, body, texts, "sim-" + digest[:12].hex(), int(time.time()))
        except ApiError as error:
            return Answer(error.status, dump(error.body()))

    def models(self) -> list[str] | None:
        return None

    def close(self) -> None:
        """Nothing is ever under way."""


def _text(body: dict[str, Any], draws: Draws) -> str:
    schema = prompts.output_schema(body)
    if schema is not None:
        try:
            return dump(sample(schema, draws)).decode()
        except CannotSample as error:
            raise ApiError(
                400,
                f"Invalid schema for the output: {error}",
                param="text.format.schema" if "text" in body else "response_format",
                code="invalid_json_schema",
            ) from None
    schema = prompts.schema_in_words(body)
    if schema is not None:
        try:
            return dump(sample(schema, draws)).decode()
        except CannotSample:
            pass  # no model refuses a sentence of its prompt
    if prompts.wants_json_object(body):
        return dump({"simulated": True, "answer": draws.sentence()}).decode()
    return f"Simulated answer: {draws.sentence()}"
