"""`generateContent`: instructions apart, turns in parts, everything about sampling in one object. The URL names the model.

Facts: `GenerateContentConfig`, `FinishReason` and `GenerateContentResponseUsageMetadata` of google-genai 3.6, and
ai.google.dev/gemini-api/docs/structured-output, read on 2026-11-25.
"""

from __future__ import annotations

from typing import Any

import orjson

from batchling.dialects.neutral import MAX_TOKENS, NeutralRequest, checked_params, conversation, in_other_words, unsaid
from batchling.dialects.reading import CUT, EMPTY, FILTERED, GOOD, REASONED_OUT, Explained, counted, text_or_none
from batchling.errors import ConfigError
from batchling.models import NO_USAGE, Outcome, Response, Usage

_RESERVED = frozenset({"model", "contents", "systemInstruction", "stream", "stream_options", "generation_config"})
_UNSAID = {"logit_bias": None, "user": None}
_WORDS = {
    "top_p": "topP",
    "top_k": "topK",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
}
_GENERATION = frozenset(
    {"temperature", "topP", "topK", "seed", "frequencyPenalty", "presencePenalty", "stopSequences"}
) | {
    "responseLogprobs",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "mediaResolution",
    "thinkingConfig",
}
_EFFORTS = frozenset({"minimal", "low", "medium", "high", "xhigh"})
_FILTERS = frozenset(
    {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR", "IMAGE_SAFETY"}
    | {"IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"}
)
_BROKEN = frozenset({"MALFORMED_FUNCTION_CALL", "MALFORMED_RESPONSE", "OTHER", "UNEXPECTED_TOOL_CALL"})


class Generate:
    """Gemini's form of a conversation."""

    name = "generate"
    turns = True

    def write(self, request: NeutralRequest) -> dict[str, Any]:
        params = checked_params(request, _RESERVED)
        params.pop("n", None)
        unsaid(params, _UNSAID, self.name)
        if "response_format" in params:
            raise ConfigError("model.params.response_format: this API has responseJsonSchema; a `schema` writes it")
        for name, theirs in _WORDS.items():
            in_other_words(params, name, theirs)
        in_other_words(params, "stop", "stopSequences", lambda value: [value] if isinstance(value, str) else value)
        in_other_words(params, "tool_choice", "toolConfig", _choice)
        if "tools" in params:
            params["tools"] = _tools(params["tools"])
        generation = params.pop("generationConfig", {})
        if not isinstance(generation, dict):
            raise ConfigError("model.params.generationConfig: expected an object")
        generation = {**generation, **{name: params.pop(name) for name in list(params) if name in _GENERATION}}
        for name in ("candidateCount", "candidate_count"):  # each is billed, and the budget is counted for one
            if generation.get(name, params.get(name, 1)) != 1:
                raise ConfigError(
                    f"model.params.{name}: a request has one answer", next_command="ask several times with `repeats: N`"
                )
        _say_limit(request, params, generation)
        _say_logprobs(params, generation)
        _say_effort(params, generation)
        if request.schema is not None:
            for name in ("responseMimeType", "responseSchema", "responseJsonSchema"):
                if name in generation:
                    raise ConfigError(
                        f"model.params.{name}: the schema sets it; remove it, or set schema.strict: false"
                    )
            generation |= {"responseMimeType": "application/json", "responseJsonSchema": request.schema.document}
        elif request.json_mode:
            generation.setdefault("responseMimeType", "application/json")
        system, turns = conversation(request)
        body: dict[str, Any] = {}
        if system:
            body["systemInstruction"] = {"parts": [{"text": text} for text in system]}
        if generation:
            body["generationConfig"] = generation
        body |= params
        body["contents"] = [self.turn(role, text) for role, text in turns]
        return body

    def turn(self, role: str, text: str) -> dict[str, Any]:
        return {"role": "model" if role == "assistant" else role, "parts": [{"text": text}]}

    def instructions(self, body: dict[str, Any]) -> list[str]:
        return [str(part.get("text", "")) for part in body.get("systemInstruction", {}).get("parts", [])]

    def read(self, custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
        candidates, feedback = body.get("candidates"), body.get("promptFeedback")
        usage, model = usage_of(body.get("usageMetadata")), text_or_none(body.get("modelVersion"))
        blocked = text_or_none(feedback.get("blockReason")) if type(feedback) is dict else None
        if type(candidates) is not list or not candidates or type(candidates[0]) is not dict:
            if blocked is None:
                return None
            note = f"the prompt was blocked: {blocked[:200]}"
            return Response(custom_id, Outcome.FILTERED, status, None, None, blocked, FILTERED.code, note, usage, model)
        candidate = candidates[0]
        finish = text_or_none(candidate.get("finishReason"))
        content = candidate.get("content")
        text, calls = _said(content.get("parts") if type(content) is dict else None)
        if finish is None and content is None:
            return None
        found = GOOD
        if finish == "MAX_TOKENS":
            found = REASONED_OUT if not text and usage.reasoning_tokens else CUT
        elif finish in _FILTERS:
            found = FILTERED
        elif finish in _BROKEN:
            # What was made was billed, or may have been, so it is not asked again by itself.
            outcome = Outcome.RETRYABLE if usage.output_tokens == 0 else Outcome.ERROR
            found = Explained(outcome, str(finish).lower(), f"the answer broke off: {finish}")
        elif finish not in ("STOP", None):
            note = f"the answer ended for a reason that batchling does not know: {finish[:200]}"
            found = Explained(Outcome.ERROR, finish[:200], note)
        elif not text:
            if calls:
                text = orjson.dumps(calls).decode()
            else:
                found = EMPTY
        return Response(custom_id, found.outcome, status, text, None, finish, found.code, found.note, usage, model)


def usage_of(data: Any) -> Usage:
    """Token counts: thoughts stand beside the answer here, and are part of the output with us."""
    if type(data) is not dict:
        return NO_USAGE
    given, cached = counted(data.get("promptTokenCount")), counted(data.get("cachedContentTokenCount"))
    made, thought = counted(data.get("candidatesTokenCount")), counted(data.get("thoughtsTokenCount"))
    used = counted(data.get("toolUsePromptTokenCount"))
    if given is not None and used:
        given += used
    if made is None and thought is None:
        # A prompt that was answered with nothing: the field is left out where it is zero.
        return Usage(given, cached, 0 if given is not None else None, None)
    return Usage(given, cached, (made or 0) + (thought or 0), thought)


def _said(parts: Any) -> tuple[str | None, list[Any]]:
    """The text that is no thought, None where there is none, and the functions that are called."""
    texts: list[str] = []
    calls: list[Any] = []
    for part in parts if type(parts) is list else ():
        if type(part) is not dict or part.get("thought") is True:
            continue
        if type(part.get("text")) is str:
            texts.append(part["text"])
        elif type(part.get("functionCall")) is dict:
            calls.append(part["functionCall"])
    return ("".join(texts) if texts else None), calls


def _say_limit(request: NeutralRequest, params: dict[str, Any], generation: dict[str, Any]) -> None:
    for name in sorted(MAX_TOKENS & params.keys()):
        raise ConfigError(f"model.params.{name}: use model.max_output_tokens")
    if request.max_output_tokens is not None:
        if {"maxOutputTokens", "max_output_tokens"} & generation.keys() or "maxOutputTokens" in params:
            raise ConfigError(
                "model.params.maxOutputTokens: model.max_output_tokens sets the limit; remove one of them"
            )
        generation["maxOutputTokens"] = request.max_output_tokens


def _say_logprobs(params: dict[str, Any], generation: dict[str, Any]) -> None:
    wanted, top = params.pop("logprobs", None), params.pop("top_logprobs", None)
    if wanted is True or top:
        generation["responseLogprobs"] = True
    if type(wanted) is int or top:
        generation["logprobs"] = top or wanted


def _say_effort(params: dict[str, Any], generation: dict[str, Any]) -> None:
    effort = params.pop("reasoning_effort", None)
    if effort is None:
        return
    if "thinkingConfig" in generation:
        raise ConfigError("model.params.reasoning_effort: thinkingConfig sets the same; remove one of them")
    if effort == "none":
        generation["thinkingConfig"] = {"thinkingBudget": 0}
    elif effort in _EFFORTS:
        generation["thinkingConfig"] = {"thinkingLevel": effort.upper()}
    else:
        raise ConfigError(
            f"model.params.reasoning_effort: expected none, {', '.join(sorted(_EFFORTS))}, got {effort!r}"
        )


def _choice(value: Any) -> Any:
    """OpenAI's words for which function must be called, in this API's."""
    modes = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
    if isinstance(value, str) and value in modes:
        return {"functionCallingConfig": {"mode": modes[value]}}
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [value["function"].get("name")]}}
    raise ConfigError(f"model.params.tool_choice: expected auto, required, none or a function, got {value!r}")


def _tools(tools: Any) -> Any:
    """The same for the functions themselves; this API's own tools are left as they are."""
    if not isinstance(tools, list):
        raise ConfigError("model.params.tools: expected a list")
    functions: list[dict[str, Any]] = []
    said = []
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict):
            said.append(tool)
            continue
        declared = {name: function[name] for name in ("name", "description") if name in function}
        if "parameters" in function:
            declared["parametersJsonSchema"] = function["parameters"]
        functions.append(declared)
    return [*said, {"functionDeclarations": functions}] if functions else said


GENERATE = Generate()
