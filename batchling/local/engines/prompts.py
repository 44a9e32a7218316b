"""What a request body says: is it well formed, which text does it hold, how many tokens is that about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from batchling.local.replies import ApiError

MAX_EMBEDDING_INPUTS = 2_048
"""Of one request, as OpenAI has it (API reference, embeddings, `input`)."""

MESSAGE_TOKENS = 4
"""Tokens that a chat format spends on each message, about."""


def check_body(endpoint: str, body: dict[str, Any]) -> None:
    """Refuses what OpenAI would refuse with 400 before a model sees it.

    Raises:
        ApiError: names the parameter.
    """
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _missing("model")
    if body.get("stream"):
        raise ApiError(400, "Streaming is not supported here.", param="stream", code="unsupported_value")
    if endpoint == "/v1/chat/completions":
        messages = body.get("messages")
        if messages is None:
            raise _missing("messages")
        if not isinstance(messages, list) or not messages:
            raise _wrong("messages", "a non-empty array of messages")
        for index, message in enumerate(messages):
            if not isinstance(message, dict) or not isinstance(message.get("role"), str):
                raise _wrong(f"messages[{index}]", "an object with a role")
            if not isinstance(message.get("content"), str | list | None):
                raise _wrong(f"messages[{index}].content", "a string, an array of content parts or null")
        return
    given = body.get("input")
    if given is None:
        raise _missing("input")
    if not isinstance(given, str | list) or not given:
        raise _wrong("input", "a non-empty string or array")
    if endpoint == "/v1/embeddings":
        inputs = embedding_inputs(body)
        if len(inputs) > MAX_EMBEDDING_INPUTS:
            raise ApiError(
                400,
                f"Invalid 'input': an array of at most {MAX_EMBEDDING_INPUTS:,} inputs is expected, this one has {len(inputs):,}.",
                param="input",
                code="array_above_max_length",
            )
        for index, text in enumerate(inputs):
            if not isinstance(text, str | list) or not text:
                raise _wrong(f"input[{index}]", "a non-empty string or array of tokens")


def positive(body: dict[str, Any], *names: str) -> int | None:
    """The first of these parameters that is set, as a positive integer.

    Raises:
        ApiError: it is set to something else.
    """
    for name in names:
        value = body.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise _wrong(name, "a positive integer")
            return value
    return None


def embedding_inputs(body: dict[str, Any]) -> list[Any]:
    """The inputs of an embeddings request: a string or a token array is one, an array of those several."""
    given = body.get("input")
    if isinstance(given, list) and given and not isinstance(given[0], int):
        return given
    return [given]


def texts(body: dict[str, Any]) -> Iterator[str]:
    """Every prompt text of a body, in order."""
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        yield instructions
    for item in _items(body):
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from _content_texts(item.get("content"))


def last_user_text(body: dict[str, Any]) -> str:
    """The text of the last user message (of the last input, where there are no roles)."""
    found = ""
    for item in _items(body):
        if isinstance(item, str):
            found = item
        elif isinstance(item, dict) and item.get("role") == "user":
            content = item.get("content")
            found = content if isinstance(content, str) else "".join(_content_texts(content))
    return found


def prompt_tokens(body: dict[str, Any]) -> int:
    """An estimate of the prompt's tokens: bytes of text over 4, and a little for each message and for the schema."""
    total = 0
    for item in _items(body):
        total += MESSAGE_TOKENS
        if isinstance(item, str):
            total += estimate(item)
        elif isinstance(item, dict):
            content = item.get("content")
            total += estimate(content) if isinstance(content, str) else sum(map(estimate, _content_texts(content)))
        elif isinstance(item, list):
            total += len(item)
        elif isinstance(item, int):
            total += 1 - MESSAGE_TOKENS
    if isinstance(instructions := body.get("instructions"), str):
        total += estimate(instructions) + MESSAGE_TOKENS
    schema = output_schema(body)
    if schema is not None:
        try:
            total += len(orjson.dumps(schema)) // 4
        except (TypeError, RecursionError):
            total += 1_000
    return max(1, total)


def estimate(text: str) -> int:
    """Tokens of a text, about: a quarter of its UTF-8 bytes, rounded up."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return (size + 3) // 4


def output_schema(body: dict[str, Any]) -> Any:
    """The JSON schema that the answer must satisfy, from `response_format` or `text.format`; None without one."""
    chat = body.get("response_format")
    if isinstance(chat, dict) and chat.get("type") == "json_schema" and isinstance(chat.get("json_schema"), dict):
        return chat["json_schema"].get("schema")
    text = body.get("text")
    if isinstance(text, dict) and isinstance(text.get("format"), dict) and text["format"].get("type") == "json_schema":
        return text["format"].get("schema")
    return None


def schema_in_words(body: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema that a message names: what a request says for models that take no schema in a field of its own.

    It is the JSON object that follows the words "JSON Schema", in the last system message that has one. In JSON mode, which
    wants to be explained, user messages are read too. None where nothing is found that reads as a schema.
    """
    asked = ("system", "developer", "user") if wants_json_object(body) else ("system", "developer")
    found: dict[str, dict[str, Any]] = {}
    for item in _items(body):
        if isinstance(item, dict) and item.get("role") in asked:
            for text in _content_texts(item.get("content")):
                if (schema := _named_schema(text)) is not None:
                    found["user" if item["role"] == "user" else "system"] = schema
    instructions = body.get("instructions")
    if "system" not in found and isinstance(instructions, str) and (schema := _named_schema(instructions)) is not None:
        return schema
    return found.get("system") or found.get("user")


_NAMED = re.compile(r"json[ _-]?schema[^{}\[\]]{0,200}(?=\{)", re.IGNORECASE)
_TRIES = 8
"""Places of a text that are tried, the last ones: texts come from strangers."""

_SCHEMA_KEYWORDS = frozenset({"type", "properties", "enum", "const", "$ref", "anyOf", "oneOf", "allOf", "items"})


def _named_schema(text: str) -> dict[str, Any] | None:
    for match in list(_NAMED.finditer(text))[: -_TRIES - 1 : -1]:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, match.end())
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and not _SCHEMA_KEYWORDS.isdisjoint(value):
            return value
    return None


def wants_json_object(body: dict[str, Any]) -> bool:
    """Whether the answer must be some JSON object (the older `json_object` mode)."""
    chat = body.get("response_format")
    if isinstance(chat, dict) and chat.get("type") == "json_object":
        return True
    text = body.get("text")
    return (
        isinstance(text, dict) and isinstance(text.get("format"), dict) and text["format"].get("type") == "json_object"
    )


def _items(body: dict[str, Any]) -> list[Any]:
    given = body.get("messages", body.get("input"))
    return given if isinstance(given, list) else [given]


def _content_texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        for part in content:
            if isinstance(part, dict) and isinstance(part.get("text"), str):
                yield part["text"]


def _missing(name: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def _wrong(name: str, expected: str) -> ApiError:
    return ApiError(400, f"Invalid value for '{name}': expected {expected}.", param=name, code="invalid_type")
