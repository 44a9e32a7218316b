"""Lines as Gemini's batch files have them: `{"key", "request"}` on the way there, `{"key", "response"}` or `{"key", "error"}` back.

An error's code is a status of HTTP or of gRPC (googleapis/python-genai#2693: `code: 3` in every row of a job that had
succeeded).
"""

from __future__ import annotations

from typing import Any

from batchling.collect.outcome import outcome_of_error
from batchling.dialects import GENERATE
from batchling.dialects.reading import MAX_ERROR_CHARACTERS, whole
from batchling.models import NOT_UNDERSTOOD, Garbage, Outcome, Response
from batchling.providers.lines import read_line

_REQUEST = b'"request":'

STATUSES = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
"""Names of google.rpc.Code in the order of their numbers, from 1 on → the HTTP status that google.rpc documents for it."""

_NUMBERS = dict(enumerate(STATUSES, start=1))


class GenerateEnvelope:
    """The key first, the request last."""

    def encode(self, custom_id: str, path: str, body: bytes) -> bytes:
        return b"".join((b'{"key":"', custom_id.encode("ascii"), b'","request":', body, b"}\n"))

    def body_of(self, line: bytes) -> bytes:
        start = line.index(_REQUEST) + len(_REQUEST)
        return line[start : line.rindex(b"}")]

    def decode(self, line: bytes) -> Response | Garbage:
        return read_line(line, _read, named="key")


def _read(data: Any) -> Response | Garbage:
    if type(data) is not dict:
        return Garbage("the line is not a JSON object")
    key = data.get("key")
    if type(key) is not str or not key:
        return Garbage("the line has no key")
    response, error = data.get("response"), data.get("error")
    if type(response) is dict and response:
        answer = GENERATE.read(key, None, response)
        if answer is not None:
            return answer
        error = error or response.get("error")
    if type(error) is dict and error:
        return _error(key, error)
    note = "not an answer that batchling understands: neither a response with candidates nor an error"
    return Response(key, Outcome.ERROR, error_code=NOT_UNDERSTOOD, error_message=note)


def _error(key: str, error: dict[str, Any]) -> Response:
    name, message = named_status(error), error.get("message")
    number = whole(error.get("code"))
    message = message if type(message) is str else None
    status = number if number is not None and 100 <= number < 600 else STATUSES.get(name or "")
    codes = [name.lower()] if name else []
    if status == 499:
        codes.append("cancelled")
    outcome = outcome_of_error(status, codes, [], message)
    note = (message or "no explanation")[:MAX_ERROR_CHARACTERS]
    return Response(key, outcome, error_code=name and name[:200], error_message=note)


def named_status(error: dict[str, Any]) -> str | None:
    """An error's status by name, whether it is written out, or as a number of gRPC."""
    name = error.get("status")
    if type(name) is str and name:
        return name
    return _NUMBERS.get(whole(error.get("code")) or 0)
