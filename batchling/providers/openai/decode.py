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

from typing import Any

from batchling import limits
from batchling.collect.outcome import outcome_of_error
from batchling.dialects import CHAT, EMBEDDINGS, RESPONSES
from batchling.dialects.reading import MAX_COUNT, MAX_ERROR_CHARACTERS, usage_of, whole
from batchling.models import NO_USAGE, NOT_UNDERSTOOD, Garbage, Outcome, Response, Usage
from batchling.providers.lines import read_line


def decode(line: bytes) -> Response | Garbage:
    """What one line says. Pure, never raises.

    Args:
        line: the raw bytes, without the line feed.
    """
    return read_line(line, _decode_line)


def _decode_line(data: Any) -> Response | Garbage:
    return _plain_answer(data) or _decode_object(data)


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
        and (cached is None or (type(cached) is int and 0 <= cached < MAX_COUNT))
        and (reasoning is None or (type(reasoning) is int and 0 <= reasoning < MAX_COUNT))
        and 0 <= given < MAX_COUNT
        and 0 <= made < MAX_COUNT
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
        return Garbage("the line is not a JSON object")
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
    if type(status) is not int or not 0 <= status < 1_000:
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
    """An answer in the words of one of the dialects; None when the body is none.

    The body tells which: a gateway may answer a request for chat in the words of responses.
    """
    for dialect in (CHAT, RESPONSES, EMBEDDINGS):
        if (answer := dialect.read(custom_id, status, body)) is not None:
            return answer
    return None


def _error(custom_id: str, status: int | None, body: Any, line_error: Any) -> Response:
    """An error, from wherever the line says it."""
    usage = NO_USAGE
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
        codes, message = [NOT_UNDERSTOOD], f"not an answer that batchling understands ({_shape(status, body)})"
    lower = [code.lower() for code in codes]
    numbers += [int(code) for code in lower if len(code) == 3 and code.isascii() and code.isdigit()]
    outcome = outcome_of_error(status, lower, numbers, message)
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
