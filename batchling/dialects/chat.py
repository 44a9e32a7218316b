"""`/v1/chat/completions`, as OpenAI wrote it and most others speak it."""

from __future__ import annotations

from typing import Any

import orjson

from batchling.dialects.neutral import NeutralRequest, checked_params, length_limit, system_texts
from batchling.dialects.reading import (
    CUT,
    EMPTY,
    FILTERED,
    GOOD,
    LENGTH,
    REASONED_OUT,
    joined,
    reasoned_out,
    refused,
    text_or_none,
    usage_of,
)
from batchling.errors import ConfigError
from batchling.models import Response

_RESERVED = frozenset({"model", "messages", "stream", "stream_options"})


class Chat:
    """Messages with a role and a content, the last one last."""

    name = "chat"
    turns = True

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"model": request.model, **checked_params(request, _RESERVED)}
        body |= length_limit(request, self.name)
        if (schema := request.schema) is not None:
            if "response_format" in body:
                raise ConfigError(
                    "model.params.response_format: the schema sets it; remove it, or set schema.strict: false"
                )
            shape = {"name": schema.name, "schema": schema.document, "strict": schema.strict}
            body["response_format"] = {"type": "json_schema", "json_schema": shape}
        elif request.json_mode:
            # Whoever sets a format themselves keeps it: the schema in words does not depend on it.
            body.setdefault("response_format", {"type": "json_object"})
        body["messages"] = [self.turn(role, text) for role, text in request.texts]
        return body

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    def instructions(self, body: dict[str, Any]) -> list[str]:
        return system_texts(body["messages"])

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        choices = body.get("choices")
        if type(choices) is not list or not choices or type(choices[0]) is not dict:
            return None
        choice = choices[0]
        usage = usage_of(body.get("usage"))
        finish = text_or_none(choice.get("finish_reason"))
        message = choice.get("message")
        refusal: Any = None
        text: Any
        if type(message) is dict:
            text, refusal = message.get("content"), message.get("refusal")
            if type(text) is list:
                text, parts = joined(text)
                refusal = refusal or parts
        else:
            text, message = choice.get("text"), {}  # the older completions
        text = text_or_none(text)
        found = GOOD
        if finish in LENGTH:
            found = CUT
        elif finish == "content_filter":
            found = FILTERED
        elif type(refusal) is str and refusal:
            found, text = refused(refusal), text or refusal
        elif not text:
            calls = message.get("tool_calls")
            if type(calls) is list and calls:
                text = orjson.dumps(calls).decode()
            elif reasoned_out(usage) or (text is None and message.get("reasoning_content")):
                found = REASONED_OUT
            elif text is None:
                found = EMPTY
        model = text_or_none(body.get("model"))
        return Response(custom_id, found.outcome, status, text, None, finish, found.code, found.note, usage, model)


CHAT = Chat()
