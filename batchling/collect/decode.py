"""Reads one line of an output or error file, in every shape that providers have been seen to write.

Shapes (PROVIDERS survey, 2026-11): the answer in `response.body`, as JSON text there, or directly in
`response` (older vLLM); an error in `response.body` with `error: null`, in `error` with `response: null`
or without `response`, as a bare text, without a code; `status_code: 0` with an empty body; nulls where the
API's schema has none. Where a status and the body beside it disagree (gateways wrap a 429 in a 500 and the
other way round: litellm#23901, #16075), the body counts.

`decode` never raises: what cannot be read is a `Response` with the outcome `error` and the code `not_understood`
when the line still names its request, and `Garbage` when it does not. It is final, because it may have been billed.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from array import array
from dataclasses import dataclass
from typing import Any

import orjson

from batchling import limits
from batchling.collect.refusal import account_refusal, definitely_invalid, definitely_passing, wrapped_status
from batchling.models import Outcome, Response, Usage

MAX_ERROR_CHARACTERS = 2000

NOT_UNDERSTOOD = "not_understood"
"""The code of an answer that cannot be read: final, and its cost is not known."""

_EXPIRED = frozenset({"batch_expired", "expired", "request_expired"})
_CANCELLED = frozenset({"batch_cancelled", "batch_canceled", "cancelled", "canceled", "request_cancelled"})
_FILTERED = frozenset(
    {"content_filter", "content_policy_violation", "responsibleaipolicyviolation", "content_filtered", "safety"}
)
_TRANSIENT = frozenset(
    {
        "rate_limit_exceeded",
        "rate_limit_error",
        "rate_limit_reached",
        "ratelimitreached",
        "ratelimiterror",
        "too_many_requests",
        "toomanyrequests",
        "throttling",
        "throttling_error",
        "throttlingexception",
        "resource_exhausted",
        "server_error",
        "internalservererror",
        "serviceunavailable",
        "serviceunavailableerror",
        "apiconnectionerror",
        "gateway_timeout",
        "internal_error",
        "internal_server_error",
        "service_unavailable",
        "overloaded",
        "overloaded_error",
        "engine_overloaded",
        "timeout",
        "request_timeout",
        "vector_store_timeout",
        "slow_down",
    }
)
_LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_NO_USAGE = Usage()
_MAX_COUNT = 1 << 53  # more tokens than any reader of JSON holds exactly
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([^"\\\x00-\x1f]{1,256})"')


@dataclass(frozen=True, slots=True)
class Garbage:
    """A line that names no request. `message` says why, in one sentence."""

    message: str


def decode(line: bytes) -> Response | Garbage:
    """What one line says. Pure, never raises.

    Args:
        line: the raw bytes, without the line feed.
    """
    try:
        data = limits.loads(line)
    except limits.BeyondLimit as error:
        return _unreadable(line, str(error))
    except ValueError as error:
        return _decode_damaged(line, str(error))
    try:
        return _plain_answer(data) or _decode_object(data)
    except RecursionError:  # a body as JSON text, in a body as JSON text, …
        return _unreadable(line, "nested too deeply")


def whole(value: Any) -> int | None:
    """A count as an integer: providers write integers, floats, texts and nulls. None for anything else, and beyond 2⁵³."""
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else None
    elif isinstance(value, str) and len(value) < 20:
        try:
            value = int(value)
        except ValueError:
            return None
    return value if type(value) is int and -_MAX_COUNT < value < _MAX_COUNT else None


def usage_of(data: Any) -> Usage:
    """Token counts in the words of chat (`prompt_tokens`) or of responses and batches (`input_tokens`)."""
    if type(data) is not dict:
        return _NO_USAGE
    get = data.get
    if "prompt_tokens" in data or "completion_tokens" in data:
        given, made = get("prompt_tokens"), get("completion_tokens")
        given_details, made_details = get("prompt_tokens_details"), get("completion_tokens_details")
    else:
        given, made = get("input_tokens"), get("output_tokens")
        given_details, made_details = get("input_tokens_details"), get("output_tokens_details")
    cached = given_details.get("cached_tokens") if type(given_details) is dict else None
    reasoning = made_details.get("reasoning_tokens") if type(made_details) is dict else None
    return Usage(_count(given), _count(cached), _count(made), _count(reasoning))


def _count(value: Any) -> int | None:
    if type(value) is not int:
        value = whole(value)
    return value if value is not None and 0 <= value < _MAX_COUNT else None


def _plain_answer(data: Any) -> Response | None:
    """The one shape that nearly every line has, in half the time; None sends a line the tolerant way.

    It says the same as `_decode_object` or nothing (a test compares them).
    """
    try:
        custom_id, response = data["custom_id"], data["response"]
        body = response["body"]
        choice, usage = body["choices"][0], body["usage"]
        message, given, made = choice["message"], usage["prompt_tokens"], usage["completion_tokens"]
        text, finish, model, status = (
            message["content"],
            choice["finish_reason"],
            body["model"],
            response["status_code"],
        )
        given_details, made_details = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
        cached = given_details.get("cached_tokens") if given_details is not None else None
        reasoning = made_details.get("reasoning_tokens") if made_details is not None else None
        refusal = message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    if (
        finish == "stop"
        and status == 200
        and refusal is None
        and type(custom_id) is type(text) is type(model) is str
        and custom_id
        and text
        and type(given) is type(made) is type(status) is int
        and (cached is None or (type(cached) is int and 0 <= cached < _MAX_COUNT))
        and (reasoning is None or (type(reasoning) is int and 0 <= reasoning < _MAX_COUNT))
        and 0 <= given < _MAX_COUNT
        and 0 <= made < _MAX_COUNT
    ):
        return Response(
            custom_id,
            Outcome.OK,
            status,
            text,
            None,
            finish,
            None,
            None,
            Usage(given, cached, made, reasoning),
            model,
        )
    return None


def _decode_object(data: Any) -> Response | Garbage:
    if type(data) is not dict:
        return Garbage("the line is no JSON object")
    custom_id = data.get("custom_id")
    if type(custom_id) is not str or not custom_id:
        return Garbage("the line has no custom_id")
    response = data.get("response")
    if type(response) is dict:
        if "body" in response:
            status, body = response.get("status_code"), response["body"]
        elif "choices" in response or "output" in response or "data" in response:
            status, body = response.get("status_code", 200), response  # vLLM before 0.5: the completion itself
        else:
            status, body = response.get("status_code"), response.get("error") and response
    else:
        body = response if type(response) is str else data.get("body")
        status = data.get("status_code", None if body is None else 200)
    if type(status) is not int:
        status = whole(status)
    if type(body) is str:
        body = _parsed(body)
    if (status is None or 200 <= status < 300) and type(body) is dict:
        answer = _answer(custom_id, status, body)
        if answer is not None:
            return answer
    return _error(custom_id, status, body, data.get("error"))


def _parsed(text: str) -> Any:
    """A body that came as JSON text; the text itself when it is not JSON."""
    try:
        return limits.loads(text)
    except ValueError:
        return text


def _answer(custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
    """An answer in the shape of one of the endpoints; None when the body is none."""
    choices = body.get("choices")
    if type(choices) is list and choices and type(choices[0]) is dict:
        return _completion(custom_id, status, body, choices[0])
    if type(body.get("output")) is list or (body.get("object") == "response" and "status" in body):
        return _response(custom_id, status, body)
    if type(body.get("data")) is list and not body.get("error"):
        return _embedding(custom_id, status, body, body["data"])
    return None


def _completion(custom_id: str, status: int | None, body: dict[str, Any], choice: dict[str, Any]) -> Response:
    usage = usage_of(body.get("usage"))
    finish = choice.get("finish_reason")
    if type(finish) is not str:
        finish = None
    message = choice.get("message")
    refusal: Any = None
    text: Any
    if type(message) is dict:
        text = message.get("content")
        refusal = message.get("refusal")
        if type(text) is list:
            text, parts = _joined(text)
            refusal = refusal or parts
    else:
        text, message = choice.get("text"), {}
    if type(text) is not str:
        text = None
    model = body.get("model")
    outcome = Outcome.OK
    code = note = None
    if finish in _LENGTH:
        outcome, code, note = Outcome.TRUNCATED, "length", "the answer stopped at the length limit"
    elif finish == "content_filter":
        outcome, code, note = Outcome.FILTERED, "content_filter", "a content filter stopped the answer"
    elif type(refusal) is str and refusal:
        outcome, code, note = Outcome.REFUSED, "refusal", refusal[:MAX_ERROR_CHARACTERS]
        text = text or refusal
    elif not text:
        calls = message.get("tool_calls")
        if type(calls) is list and calls:
            text = orjson.dumps(calls).decode()
        elif _reasoned_out(usage) or (text is None and message.get("reasoning_content")):
            outcome, code, note = Outcome.TRUNCATED, "reasoning", "reasoning used up the length limit before any answer"
        elif text is None:
            outcome, code, note = Outcome.ERROR, "empty_answer", "the answer has no content"
    return Response(
        custom_id,
        outcome,
        status,
        text,
        None,
        finish,
        code,
        note,
        usage,
        model if type(model) is str else None,
    )


def _response(custom_id: str, status: int | None, body: dict[str, Any]) -> Response | None:
    """An answer of `/v1/responses`; None for one that failed, which is read as an error."""
    state = body.get("status")
    if state == "failed" or (state not in ("completed", "incomplete") and body.get("error")):
        return None
    usage = usage_of(body.get("usage"))
    texts: list[str] = []
    refusals: list[str] = []
    items = body.get("output")
    for item in items if type(items) is list else ():
        if type(item) is dict and item.get("type", "message") == "message":
            content = item.get("content")
            if type(content) is list:
                text, refusal = _joined(content)
                if text is not None:
                    texts.append(text)
                if refusal:
                    refusals.append(refusal)
            elif type(content) is str:
                texts.append(content)
    text = "".join(texts) if texts else None
    details = body.get("incomplete_details")
    reason = details.get("reason") if type(details) is dict else None
    finish = reason if type(reason) is str else state if type(state) is str else None
    model = body.get("model")
    outcome = Outcome.OK
    code = note = None
    if reason == "content_filter":
        outcome, code, note = Outcome.FILTERED, "content_filter", "a content filter stopped the answer"
    elif reason is not None or state == "incomplete":
        outcome, code, note = Outcome.TRUNCATED, "length", f"the answer is incomplete: {finish}"[:MAX_ERROR_CHARACTERS]
    elif state in ("cancelled", "canceled"):
        outcome, code, note = Outcome.CANCELLED, "cancelled", "the response was cancelled"
    elif state in ("in_progress", "queued"):
        # What was made until then was billed, so it is not asked again.
        outcome = Outcome.ERROR if usage.output_tokens else Outcome.RETRYABLE
        code, note = state, f"the response was still {state} when the batch ended"
    elif refusals:
        outcome, code, note = Outcome.REFUSED, "refusal", "".join(refusals)[:MAX_ERROR_CHARACTERS]
        text = text or "".join(refusals)
    elif not text:
        if _reasoned_out(usage):
            outcome, code, note = Outcome.TRUNCATED, "reasoning", "reasoning used up the length limit before any answer"
        elif text is None:
            calls = [item for item in items or () if type(item) is dict and item.get("type") == "function_call"]
            if calls:
                text = orjson.dumps(calls).decode()
            else:
                outcome, code, note = Outcome.ERROR, "empty_answer", "the answer has no content"
    return Response(
        custom_id, outcome, status, text, None, finish, code, note, usage, model if type(model) is str else None
    )


def _embedding(custom_id: str, status: int | None, body: dict[str, Any], data: list[Any]) -> Response | None:
    first = data[0] if data else None
    if type(first) is not dict or "embedding" not in first:
        return None
    usage = usage_of(body.get("usage"))
    model = body.get("model")
    name = model if type(model) is str else None
    vector = first["embedding"]
    if type(vector) is str:
        vector = _floats(vector)
    if type(vector) is list and vector and all(type(x) is float or type(x) is int for x in vector):
        return Response(custom_id, Outcome.OK, status, None, vector, None, None, None, usage, name)
    return Response(
        custom_id,
        Outcome.ERROR,
        status,
        None,
        None,
        None,
        "bad_embedding",
        "the embedding is no list of numbers",
        usage,
        name,
    )


def _floats(text: str) -> list[float] | None:
    """An embedding as base64 of little-endian 32-bit floats; None when it is not, or holds no finite numbers."""
    try:
        raw = base64.b64decode(text, validate=True)
        numbers = array("f", raw)
    except (ValueError, binascii.Error):
        return None
    if array("H", [1]).tobytes() != b"\x01\x00":
        numbers.byteswap()
    values = numbers.tolist()
    return values if all(map(math.isfinite, values)) else None


def _joined(parts: list[Any]) -> tuple[str | None, str | None]:
    """Text and refusal of a message whose content is a list of parts."""
    texts: list[str] = []
    refusals: list[str] = []
    for part in parts:
        if type(part) is dict:
            text, refusal = part.get("text"), part.get("refusal")
            if type(text) is str:
                texts.append(text)
            if type(refusal) is str and refusal:
                refusals.append(refusal)
        elif type(part) is str:
            texts.append(part)
    return ("".join(texts) if texts else None), ("".join(refusals) or None)


def _reasoned_out(usage: Usage) -> bool:
    """True when every output token was spent on reasoning."""
    return bool(usage.reasoning_tokens) and (usage.output_tokens or 0) <= (usage.reasoning_tokens or 0)


def _error(custom_id: str, status: int | None, body: Any, line_error: Any) -> Response:
    """An error, from wherever the line says it."""
    usage = _NO_USAGE
    model = None
    inner: Any = None
    if type(body) is dict:
        inner = body.get("error") or (body if _is_error(status, body) else None)
        usage = usage_of(body.get("usage"))
        model = body.get("model") if type(body.get("model")) is str else None
    elif type(body) is str and body:
        inner = body
    codes: list[str] = []
    numbers: list[int] = []
    message: str | None = None
    for source in (line_error, inner):
        if type(source) is str and source:
            message = message or source
        elif type(source) is dict:
            nested = source.get("innererror")
            for value in (
                source.get("code"),
                source.get("type"),
                nested.get("code") if type(nested) is dict else None,
            ):
                if type(value) is int:
                    numbers.append(value)  # vLLM writes the status as the error's code
                elif type(value) is str and value:
                    codes.append(value)
            text = source.get("message") or source.get("detail")
            if text:
                message = message or (text if type(text) is str else str(text))
        elif type(source) is list and source:
            message = message or str(source)
    explained = message is not None or bool(codes) or bool(numbers)
    good = status is None or 200 <= status < 300
    if good and (not explained or (type(body) is str and not line_error)):
        codes, message = [NOT_UNDERSTOOD], f"no answer that batchling understands ({_shape(status, body)})"
    lower = [code.lower() for code in codes]
    numbers += [int(code) for code in lower if len(code) == 3 and code.isascii() and code.isdigit()]
    outcome = _outcome_of_error(status, lower, numbers, message)
    status = next(iter(numbers), None) if status is None else status
    if outcome in (Outcome.RETRYABLE, Outcome.ACCOUNT) and usage.output_tokens:
        outcome = Outcome.ERROR  # what was made was billed, so it is not asked again
    if message is None:
        message = f"status {status} without an explanation" if status is not None else "no explanation"
    return Response(
        custom_id,
        outcome,
        status,
        None,
        None,
        None,
        codes[0][:200] if codes else None,
        message[:MAX_ERROR_CHARACTERS],
        usage,
        model,
    )


def _is_error(status: int | None, body: dict[str, Any]) -> bool:
    """The body is an error object itself. Beside a good status a `message` may as well be an answer of another shape."""
    message = body.get("message")
    if status is not None and not 200 <= status < 300:
        return bool(message or body.get("detail"))
    return body.get("object") == "error" or bool(body.get("detail")) or (type(message) is str and "code" in body)


def _shape(status: int | None, body: Any) -> str:
    """What came instead of an answer, in a few words."""
    where = "" if status is None else f"status {status}, "
    if type(body) is dict:
        return where + "properties: " + (", ".join(sorted(map(str, body))[:12]) or "none")
    if type(body) is str:
        return where + "the text: " + " ".join(body[:200].split())
    return where + ("no body" if body is None else f"a JSON {type(body).__name__}")


def _outcome_of_error(status: int | None, codes: list[str], numbers: list[int], message: str | None) -> Outcome:
    """What an error means for its request. An unexplained one may be asked again: errors are not billed.

    The codes count before the status, and both before the words, which count only where they are definite. A 2xx
    without any readable answer is final, for it may have been billed.
    """
    for code in codes:
        if code in _EXPIRED:
            return Outcome.EXPIRED
        if code in _CANCELLED:
            return Outcome.CANCELLED
        if code in _FILTERED:
            return Outcome.FILTERED
        if code == NOT_UNDERSTOOD:
            return Outcome.ERROR
    if account_refusal(status, [*codes, *map(str, numbers)], message) is not None:
        return Outcome.ACCOUNT
    if any(code in _TRANSIENT for code in codes) and not definitely_invalid(message):
        return Outcome.RETRYABLE
    inner = next((number for number in numbers if 400 <= number < 600), None) or wrapped_status(message)
    if inner is not None:
        status = inner
    if status is not None and status != 0 and not 200 <= status < 300:
        if status not in (408, 409, 429) and status < 500:
            return Outcome.ERROR
        named = [code for code in codes if not code.isdigit() and code not in _TRANSIENT]
        invalid = "invalid_request_error" in named and len(named) > 1
        if definitely_invalid(message) or (invalid and not definitely_passing(message)):
            return Outcome.ERROR
        return Outcome.RETRYABLE
    if definitely_invalid(message):
        return Outcome.ERROR
    if status == 0:
        return Outcome.RETRYABLE
    if status is not None:
        return Outcome.ERROR
    named = [code for code in codes if code not in ("none", "null", "error", "unknown")]
    return Outcome.ERROR if named and not definitely_passing(message) else Outcome.RETRYABLE


def _decode_damaged(line: bytes, reason: str) -> Response | Garbage:
    """A line that strict JSON refuses: BOM, invalid UTF-8, lone surrogates, NaN, control characters.

    What can still be read is read, for it is paid: undecodable characters become U+FFFD, NaN and
    infinities become null, and `error_code` says `damaged_line`. The raw bytes stay on disk as they came.
    """
    try:
        text = line.decode("utf-8-sig", "replace")
        data = limits.loads_tolerantly(text, strict=False, parse_constant=_null)
        response = _decode_object(clean(data))
    except limits.BeyondLimit as error:
        return _unreadable(line, str(error))
    except (ValueError, RecursionError):
        return _unreadable(line, reason)
    if isinstance(response, Response) and response.outcome is Outcome.OK and line[:3] != b"\xef\xbb\xbf":
        return Response(
            response.custom_id,
            response.outcome,
            response.status_code,
            response.text,
            response.embedding,
            response.finish_reason,
            "damaged_line",
            f"not strict JSON, read with replacement characters: {reason}"[:MAX_ERROR_CHARACTERS],
            response.usage,
            response.model,
        )
    return response


def _unreadable(line: bytes, reason: str) -> Response | Garbage:
    """A line beyond reading: final for its request when it names exactly one, because it may have been billed."""
    names = {match.group(1) for match in _CUSTOM_ID.finditer(line)}
    if len(names) == 1:
        custom_id = names.pop().decode("utf-8", "replace")
        return Response(
            custom_id,
            Outcome.ERROR,
            error_code=NOT_UNDERSTOOD,
            error_message=f"the line cannot be read: {reason}"[:MAX_ERROR_CHARACTERS],
        )
    return Garbage(f"the line cannot be read: {reason}"[:MAX_ERROR_CHARACTERS])


def _null(_: str) -> None:
    return None


def clean(value: Any) -> Any:
    """The same value with lone surrogates replaced and numbers beyond JSON's range made null."""
    kind = type(value)
    if kind is str:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if not _encodable(value) else value
    if kind is list:
        return [clean(item) for item in value]
    if kind is dict:
        return {clean(name): clean(item) for name, item in value.items()}
    if kind is float:
        return value if math.isfinite(value) else None
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
