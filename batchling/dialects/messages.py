"""`/v1/messages`: instructions apart from the conversation, content in blocks, a length limit that must be there.

Facts: the request and reply types of anthropic 2.13 (`MessageCreateParams`, `Message`, `StopReason`, `Usage`) and
`anthropic.lib._parse._transform` for what a schema may say, read on 2026-11-25.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

from batchling.dialects.neutral import MAX_TOKENS, NeutralRequest, checked_params, conversation, in_other_words, unsaid
from batchling.dialects.reading import (
    CUT,
    EMPTY,
    GOOD,
    REASONED_OUT,
    Explained,
    counted,
    refused,
    text_or_none,
)
from batchling.errors import ConfigError
from batchling.models import NO_USAGE, Outcome, Response, Usage

_RESERVED = frozenset({"model", "messages", "system", "stream", "stream_options"})
_UNSAID = {
    "seed": None,
    "logprobs": False,
    "top_logprobs": 0,
    "logit_bias": None,
    "frequency_penalty": 0,
    "presence_penalty": 0,
}
"""What this API has no word for, and the value that asks for nothing."""

_KEPT = frozenset(
    {"$ref", "$defs", "type", "anyOf", "allOf", "enum", "const", "properties", "required", "items", "description"}
    | {"title", "additionalProperties", "default"}
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})
_GOOD = frozenset({"end_turn", "stop_sequence", "tool_use"})
_CUT = frozenset({"max_tokens", "model_context_window_exceeded"})


class Messages:
    """Anthropic's form of a conversation."""

    name = "messages"
    turns = True

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        if request.max_output_tokens is None:
            raise ConfigError("model.max_output_tokens: this API wants a limit for each answer, e.g. 1000")
        params = checked_params(request, _RESERVED)
        for name in sorted(params.keys() & MAX_TOKENS):
            raise ConfigError(f"model.params.{name}: model.max_output_tokens sets the limit; remove it")
        unsaid(params, _UNSAID, self.name)
        in_other_words(params, "stop", "stop_sequences", _stops)
        in_other_words(params, "user", "metadata", lambda user: {"user_id": user})
        in_other_words(params, "tool_choice", "tool_choice", _choice)
        if "tools" in params:
            params["tools"] = _tools(params["tools"])
        output = params.pop("output_config", {})
        if not isinstance(output, dict):
            raise ConfigError("model.params.output_config: expected an object")
        if (effort := params.pop("reasoning_effort", None)) is not None:
            if "effort" in output or "thinking" in params:
                raise ConfigError(
                    "model.params.reasoning_effort: set it, or output_config.effort and thinking, not both"
                )
            if effort == "none":
                params["thinking"] = {"type": "disabled"}
            else:
                output = {**output, "effort": effort}
        if request.schema is not None:
            if "format" in output or "response_format" in params:
                raise ConfigError(
                    "model.params.output_config.format: the schema sets it; remove it, or set schema.strict: false"
                )
            output = {**output, "format": {"type": "json_schema", "schema": sayable(request.schema.document)}}
        elif "response_format" in params:
            raise ConfigError("model.params.response_format: this API has output_config.format; a `schema` writes it")
        body: dict[str, Any] = {"model": request.model, "max_tokens": request.max_output_tokens, **params}
        if output:
            body["output_config"] = output
        system, turns = conversation(request)
        if system:
            body["system"] = "\n\n".join(system)
        body["messages"] = [self.turn(role, text) for role, text in turns]
        return body

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    def instructions(self, body: dict[str, Any]) -> list[str]:
        said = body.get("system")
        if isinstance(said, list):
            return [str(block.get("text", "")) for block in said]
        return [said] if isinstance(said, str) else []

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        blocks, finish = body.get("content"), text_or_none(body.get("stop_reason"))
        if type(blocks) is not list or body.get("type") not in ("message", None) or body.get("error"):
            return None
        if finish is None and not body.get("role"):
            return None
        texts: list[str] = []
        calls: list[Any] = []
        thought = False
        for block in blocks:
            if type(block) is not dict:
                continue
            kind = block.get("type")
            if kind == "text" and type(block.get("text")) is str:
                texts.append(block["text"])
            elif kind == "tool_use":
                calls.append(block)
            elif kind in ("thinking", "redacted_thinking"):
                thought = True
        text = "".join(texts) if texts else None
        usage = usage_of(body.get("usage"))
        found = GOOD
        if finish == "refusal":
            found = refused(_why(body.get("stop_details")) or text or "the model declined")
        elif finish in _CUT:
            found = REASONED_OUT if not text and (thought or usage.reasoning_tokens) else CUT
        elif finish == "pause_turn":
            found = Explained(
                Outcome.ERROR, finish, "the model paused in the middle of its turn, which a batch cannot resume"
            )
        elif not text:
            if calls:
                text = orjson.dumps(calls).decode()
            else:
                found = EMPTY
        elif finish is not None and finish not in _GOOD:
            found = Explained(
                Outcome.ERROR,
                finish[:200],
                f"the answer ended for a reason that batchling does not know: {finish[:200]}",
            )
        model = text_or_none(body.get("model"))
        return Response(custom_id, found.outcome, status, text, None, finish, found.code, found.note, usage, model)


def usage_of(data: Any) -> Usage:
    """Token counts: what was read from the cache or written to it stands beside the input here, and is part of it with us."""
    if type(data) is not dict:
        return NO_USAGE
    fresh, made = counted(data.get("input_tokens")), counted(data.get("output_tokens"))
    cached, written = counted(data.get("cache_read_input_tokens")), counted(data.get("cache_creation_input_tokens"))
    details = data.get("output_tokens_details")
    reasoning = counted(details.get("thinking_tokens")) if type(details) is dict else None
    given = None if fresh is None else fresh + (cached or 0) + (written or 0)
    return Usage(given, cached, made, reasoning, written)


def sayable(schema: Any) -> Any:
    """A strict schema in the words that this API takes: what only narrows a value is said in the description.

    `enum` says the type by its values; `minItems` may be 0 or 1.
    """
    if isinstance(schema, list):
        return [sayable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    said: dict[str, Any] = {}
    left: dict[str, Any] = {}
    for name, value in schema.items():
        if name in ("properties", "$defs"):
            said[name] = {key: sayable(inner) for key, inner in value.items()}
        elif name in ("anyOf", "oneOf"):
            said["anyOf"] = sayable(value)
        elif name in ("allOf", "items"):
            said[name] = sayable(value)
        elif name in _KEPT or (name == "format" and value in _FORMATS) or (name == "minItems" and value in (0, 1)):
            said[name] = value
        else:
            left[name] = value
    if left:
        words = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in left.items())
        said["description"] = f"{said['description']}\n\n{{{words}}}" if said.get("description") else f"{{{words}}}"
    return said


def _stops(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _choice(value: Any) -> Any:
    """OpenAI's words for which tool must be called, in this API's; its own are left as they are."""
    if isinstance(value, str):
        return {"type": {"required": "any"}.get(value, value)}
    if isinstance(value, dict) and value.get("type") == "function" and isinstance(value.get("function"), dict):
        return {"type": "tool", "name": value["function"].get("name")}
    return value


def _tools(tools: Any) -> Any:
    """The same for the tools themselves."""
    if not isinstance(tools, list):
        raise ConfigError("model.params.tools: expected a list")
    said = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if isinstance(function, dict):
            tool = {
                "name": function.get("name"),
                **{name: function[name] for name in ("description", "strict") if name in function},
                "input_schema": function.get("parameters", {"type": "object", "properties": {}}),
            }
        said.append(tool)
    return said


def _why(details: Any) -> str | None:
    if type(details) is not dict:
        return None
    said = [details.get(name) for name in ("category", "explanation")]
    return ": ".join(text for text in said if type(text) is str and text) or None


MESSAGES = Messages()
