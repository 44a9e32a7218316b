"""Lines as Message Batches have them: `{"custom_id", "params"}` on the way there, `{"custom_id", "result"}` on the way back.

Facts: `MessageBatchIndividualResponse` and the error types of anthropic 2.13. A row's error is nested twice: what went
wrong with the row holds the error that the same request would have been answered with (crmne/ruby_llm#928).
"""

from __future__ import annotations

from typing import Any

from batchling.collect.outcome import outcome_of_error
from batchling.dialects import MESSAGES
from batchling.dialects.reading import MAX_ERROR_CHARACTERS
from batchling.models import NOT_UNDERSTOOD, Garbage, Outcome, Response
from batchling.providers.lines import read_line

_PARAMS = b'"params":'

STATUSES = {
    "invalid_request_error": 400,
    "invalid_request": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""An error's type → the HTTP status that it stands for; a row has the type only."""

_ENDED = {
    "canceled": (Outcome.CANCELLED, "the batch was cancelled before this request was sent to the model"),
    "expired": (Outcome.EXPIRED, "the batch expired before this request was sent to the model"),
}


class MessagesEnvelope:
    """One request of the array that a create takes, on a line of its own."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b"".join((b'{"custom_id":"', custom_id.encode("ascii"), b'","params":', body, b"}\n"))

    def body_of(self, line: bytes) -> bytes:
        start = line.index(_PARAMS) + len(_PARAMS)
        return line[start : line.rindex(b"}")]

    def decode(self, line: bytes) -> Response | Garbage:
        return read_line(line, _read)


def _read(data: Any) -> Response | Garbage:
    if type(data) is not dict:
        return Garbage("the line is not a JSON object")
    custom_id, result = data.get("custom_id"), data.get("result")
    if type(custom_id) is not str or not custom_id:
        return Garbage("the line has no custom_id")
    kind = result.get("type") if type(result) is dict else None
    if type(result) is not dict or type(kind) is not str:
        return _not_understood(custom_id, "it has no result")
    if kind in _ENDED:
        outcome, note = _ENDED[kind]
        return Response(custom_id, outcome, error_code=kind, error_message=note)
    if kind == "errored":
        return _error(custom_id, result.get("error"))
    message = result.get("message")
    if kind == "succeeded" and type(message) is dict:
        answer = MESSAGES.read(custom_id, None, message)
        if answer is not None:
            return answer
    return _not_understood(custom_id, f"a result of the type {kind[:80]!r}")


def _error(custom_id: str, error: Any) -> Response:
    """What the innermost error object says."""
    for _ in range(4):
        if type(error) is dict and type(error.get("error")) is dict:
            error = error["error"]
    if type(error) is not dict or not (error.get("type") or error.get("message")):
        # It ended with an error for certain, and errors are not billed.
        return Response(custom_id, Outcome.RETRYABLE, error_message="an error without an explanation")
    code, message = error.get("type"), error.get("message")
    code = code if type(code) is str and code else None
    message = message if type(message) is str else None
    status = STATUSES.get(code or "")
    outcome = outcome_of_error(status, [code.lower()] if code else [], [], message)
    note = (message or "no explanation")[:MAX_ERROR_CHARACTERS]
    return Response(custom_id, outcome, error_code=code and code[:200], error_message=note)


def _not_understood(custom_id: str, what: str) -> Response:
    note = f"not an answer that batchling understands ({what})"
    return Response(custom_id, Outcome.ERROR, error_code=NOT_UNDERSTOOD, error_message=note)
