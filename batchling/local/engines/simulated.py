"""The `simulated` engine: answers that look right and mean nothing, without a model and without a key.

An answer satisfies the request's JSON schema, sent in a field of its own or written in a system message, and depends on the
request's body, its key and the seed alone, so a run can be repeated anywhere; repeats of a row have keys of their own. Every
answer is marked: ids begin with `…sim-`, chat completions carry `system_fingerprint: "simulated"`, responses carry
`metadata.engine: "simulated"`.

A share of the requests can go wrong, so that a person sees what a run does then: `FaultsConfig`.
"""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Any

from batchling.local.engines import Answer, prompts
from batchling.local.engines.bodies import Ending
from batchling.local.engines.draws import Draws
from batchling.local.engines.echo import embed, speak
from batchling.local.engines.schema_sample import CannotSample, sample, unfit
from batchling.local.jsonl import dump
from batchling.local.replies import ApiError, error_body
from batchling.spec import FaultsConfig

MAX_CHOICES = 128

REFUSAL = "I cannot help with that. (A simulated refusal: provider.engine.faults.refused.)"

_ENDINGS: dict[str, Ending] = {"truncated": "length", "refused": "refusal", "filtered": "content_filter"}


class SimulatedEngine:
    """Answers from the request's own bytes: chat, responses and embeddings.

    Args:
        seed: another seed, other answers.
        faults: what goes wrong, a share of the requests each.
    """

    name = "simulated"
    parallel = 0

    def __init__(self, seed: int = 0, faults: FaultsConfig | None = None):
        self._seed = b"" if not seed else b"\nseed %d" % seed
        self._faults = _shares(faults or FaultsConfig())

    def answer(self, endpoint: str, body: dict[str, Any], key: str = "") -> Answer:
        try:
            prompts.check_body(endpoint, body)
            told = endpoint.encode() + b"\n" + dump(body) + self._seed + (f"\n{key}".encode() if key else b"")
            digest = blake2b(told, digest_size=24).digest()
            fault = self._fault(digest)
            if fault == "error":
                message = "A simulated failure (provider.engine.faults.error)."
                return Answer(500, dump(error_body(message, kind="server_error", code="server_error")))
            if endpoint == "/v1/embeddings":
                return embed(body)
            count = prompts.positive(body, "n") or 1 if endpoint == "/v1/chat/completions" else 1
            if count > MAX_CHOICES:
                raise ApiError(400, f"'n' must be at most {MAX_CHOICES}.", param="n", code="integer_above_max_value")
            texts = [_text(body, Draws(digest + index.to_bytes(2, "big")), fault) for index in range(count)]
            ending = _ENDINGS.get(fault or "", "stop")
            return speak(endpoint, body, texts, "sim-" + digest[:12].hex(), int(time.time()), ending)
        except ApiError as error:
            return Answer(error.status, dump(error.body()))

    def models(self) -> list[str] | None:
        return None

    def close(self) -> None:
        """Nothing is ever under way."""

    def _fault(self, digest: bytes) -> str | None:
        """What goes wrong with this request, drawn apart from its answer."""
        if not self._faults:
            return None
        place = Draws(b"fault" + digest).unit()
        for name, share in self._faults:
            if place < share:
                return name
            place -= share
        return None


def _shares(faults: FaultsConfig) -> list[tuple[str, float]]:
    """What goes wrong at all, and how often."""
    every = [
        ("invalid", faults.invalid),
        ("truncated", faults.truncated),
        ("refused", faults.refused),
        ("filtered", faults.filtered),
        ("error", faults.error),
    ]
    return [(name, share) for name, share in every if share]


def _text(body: dict[str, Any], draws: Draws, fault: str | None) -> str:
    if fault == "refused":
        return REFUSAL
    text = _whole(body, draws, broken=fault == "invalid")
    if fault in ("truncated", "filtered"):
        return text[: len(text) // 2]
    return text


def _whole(body: dict[str, Any], draws: Draws, *, broken: bool) -> str:
    def made(schema: Any) -> str:
        value = sample(schema, draws)
        return unfit(schema, value, draws) if broken else dump(value).decode()

    schema = prompts.output_schema(body)
    if schema is not None:
        try:
            return made(schema)
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
            return made(schema)
        except CannotSample:
            pass  # no model refuses a sentence of its prompt
    if prompts.wants_json_object(body):
        return dump({"simulated": True, "answer": draws.sentence()}).decode()
    return f"Simulated answer: {draws.sentence()}"
