"""The `echo` engine: repeats the last user message. The fastest way to see the plumbing work."""

from __future__ import annotations

import time
from hashlib import blake2b
from typing import Any

from batchling.local.engines import Answer, bodies, prompts
from batchling.local.jsonl import dump
from batchling.local.replies import ApiError
from batchling.models import Usage


class EchoEngine:
    """Answers chat and responses requests with their last user text, embeddings with vectors made from the input's hash."""

    name = "echo"
    parallel = 0

    def answer(self, endpoint: str, body: dict[str, Any], key: str = "") -> Answer:
        try:
            prompts.check_body(endpoint, body)
            if endpoint == "/v1/embeddings":
                return embed(body)
            text = prompts.last_user_text(body)
            return speak(endpoint, body, [text], _answer_id(text), int(time.time()))
        except ApiError as error:
            return Answer(error.status, dump(error.body()))

    def models(self) -> list[str] | None:
        return None

    def close(self) -> None:
        """Nothing is ever under way."""


def speak(
    endpoint: str, body: dict[str, Any], texts: list[str], answer_id: str, created: int, end: bodies.Ending = "stop"
) -> Answer:
    """Puts texts into a chat completion or a response, cut at the request's own limit of output tokens.

    Args:
        end: how the answers ended, where they are not cut.
    """
    limit = prompts.positive(body, "max_completion_tokens", "max_tokens", "max_output_tokens")
    contents: list[tuple[str, bodies.Ending]] = []
    for text in texts:
        kept, cut = _cut(text, limit)
        contents.append((kept, "length" if cut else end))
    tokens = sum(max(1, prompts.estimate(text)) for text, _ in contents)
    usage = Usage(prompts.prompt_tokens(body), 0, tokens, 0)
    if endpoint == "/v1/responses":
        text, ended = contents[0]
        made = bodies.responses_body(answer_id, created, body, text, ended, usage)
    else:
        made = bodies.chat_body(answer_id, created, body["model"], contents, usage)
    return Answer(200, dump(made), usage)


def embed(body: dict[str, Any]) -> Answer:
    """Unit vectors, the same for the same model and input; `dimensions` and `encoding_format` as asked."""
    dimensions = prompts.positive(body, "dimensions") or bodies.DEFAULT_DIMENSIONS.get(body["model"], bodies.DIMENSIONS)
    if dimensions > bodies.MAX_DIMENSIONS:
        raise ApiError(400, f"'dimensions' must be at most {bodies.MAX_DIMENSIONS}.", param="dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise ApiError(400, "'encoding_format' must be float or base64.", param="encoding_format")
    model = body["model"].encode("utf-8", "surrogatepass")
    vectors = [bodies.unit_vector(model + b"\0" + dump(text), dimensions) for text in prompts.embedding_inputs(body)]
    tokens = prompts.prompt_tokens(body)
    made = bodies.embeddings_body(body["model"], vectors, tokens, as_base64=encoding == "base64")
    return Answer(200, dump(made), Usage(tokens, 0, 0, 0))


def _cut(text: str, limit: int | None) -> tuple[str, bool]:
    """The text, or as much of it as the limit of output tokens lets through, and whether it was cut."""
    if limit is None or prompts.estimate(text) <= limit:
        return text, False
    return text.encode("utf-8", "surrogatepass")[: 4 * limit].decode("utf-8", "ignore"), True


def _answer_id(text: str) -> str:
    return "echo-" + blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
