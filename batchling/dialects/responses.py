"""`/v1/responses`: messages in `input`, formats in `text`."""

from __future__ import annotations

from typing import Any

import orjson

from batchling.dialects.neutral import NeutralRequest, checked_params, length_limit, system_texts
from batchling.dialects.reading import (
    EMPTY,
    FILTERED,
    GOOD,
    MAX_ERROR_CHARACTERS,
    REASONED_OUT,
    Explained,
    joined,
    reasoned_out,
    refused,
    text_or_none,
    usage_of,
)
from batchling.errors import ConfigError
from batchling.models import Outcome, Response, Usage

_RESERVED = frozenset({"model", "input", "stream", "stream_options", "background"})


class Responses:
    """OpenAI's second form of a conversation."""

    name = "responses"
    turns = True

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        params = checked_params(request, _RESERVED)
        text = params.pop("text", {})
        body: dict[str, Any] = {"model": request.model, **params, **length_limit(request, self.name)}
        if (schema := request.schema) is not None:
            if not isinstance(text, dict) or "format" in text:
                raise ConfigError(
                    "model.params.text.format: the schema sets it; remove it, or set schema.strict: false"
                )
            shape = {"name": schema.name, "schema": schema.document, "strict": schema.strict}
            text = {**text, "format": {"type": "json_schema", **shape}}
        elif request.json_mode and isinstance(text, dict):
            text = {"format": {"type": "json_object"}, **text}
        if text:
            body["text"] = text
        body["input"] = [self.turn(role, said) for role, said in request.texts]
        return body

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": text}

    def instructions(self, body: dict[str, Any]) -> list[str]:
        return system_texts(body["input"])

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        items, state = body.get("output"), body.get("status")
        if type(items) is not list and not (body.get("object") == "response" and "status" in body):
            return None
        if state == "failed" or (state not in ("completed", "incomplete") and body.get("error")):
            return None  # an error, which is read as one
        items = items if type(items) is list else []
        usage = usage_of(body.get("usage"))
        text, refusal = _said(items)
        details = body.get("incomplete_details")
        reason = details.get("reason") if type(details) is dict else None
        finish = text_or_none(reason) or text_or_none(state)
        if (found := _unfinished(state, reason, finish, usage)) is None:
            found = GOOD
            if refusal:
                found, text = refused(refusal), text or refusal
            elif not text and reasoned_out(usage):
                found = REASONED_OUT
            elif text is None:
                calls = [item for item in items if type(item) is dict and item.get("type") == "function_call"]
                if calls:
                    text = orjson.dumps(calls).decode()
                else:
                    found = EMPTY
        model = text_or_none(body.get("model"))
        return Response(custom_id, found.outcome, status, text, None, finish, found.code, found.note, usage, model)


def _said(items: list[Any]) -> tuple[str | None, str]:
    """The text of all messages, None where there is none, and what was refused."""
    texts: list[str] = []
    refusals: list[str] = []
    for item in items:
        if type(item) is dict and item.get("type", "message") == "message":
            content = item.get("content")
            if type(content) is list:
                text, refusal = joined(content)
                if text is not None:
                    texts.append(text)
                if refusal:
                    refusals.append(refusal)
            elif type(content) is str:
                texts.append(content)
    return "".join(texts) if texts else None, "".join(refusals)


def _unfinished(state: Any, reason: Any, finish: str | None, usage: Usage) -> Explained | None:
    """What an answer is that was stopped; None when it was not."""
    if reason == "content_filter":
        return FILTERED
    if reason is not None or state == "incomplete":
        return Explained(Outcome.TRUNCATED, "length", f"the answer is incomplete: {finish}"[:MAX_ERROR_CHARACTERS])
    if state in ("cancelled", "canceled"):
        return Explained(Outcome.CANCELLED, "cancelled", "the response was cancelled")
    if state in ("in_progress", "queued"):
        # What was made until then was billed, so it is not asked again.
        outcome = Outcome.ERROR if usage.output_tokens else Outcome.RETRYABLE
        return Explained(outcome, state, f"the response was still {state} when the batch ended")
    return None


RESPONSES = Responses()
