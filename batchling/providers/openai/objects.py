"""Reads the OpenAI-shaped JSON objects tolerantly: nulls, strings for numbers, missing and extra fields.

Facts: OpenAI API reference (batch object, 2026-11); console.groq.com/docs/batch for the bare `errors`
list; Azure's how-to for null counts and `""` as a file id.
"""

from __future__ import annotations

import re
from typing import Any

from batchling.dialects.reading import seconds, text_of, usage_of, whole
from batchling.models import Batch, BatchError

_MAX_MESSAGE = 2000
_NEUTRAL = {
    "validating": "validating",
    "failed": "failed",
    "in_progress": "in_progress",
    "finalizing": "finalizing",
    "completed": "completed",
    "expired": "expired",
    "cancelling": "cancelling",
    "canceling": "cancelling",
    "cancelled": "cancelled",
    "canceled": "cancelled",
}


def read_batch(data: Any) -> Batch | None:
    """A batch object, or None when this is not one (no id)."""
    if not isinstance(data, dict):
        return None
    batch_id = text_of(data.get("id"))
    if batch_id is None:
        return None
    status = text_of(data.get("status")) or "unknown"
    counts = data.get("request_counts")
    if not isinstance(counts, dict):
        counts = {}
    metadata = data.get("metadata")
    return Batch(
        id=batch_id,
        status=_NEUTRAL.get(status.lower(), status),
        input_file_id=text_of(data.get("input_file_id")),
        output_file_id=text_of(data.get("output_file_id")),
        error_file_id=text_of(data.get("error_file_id")),
        created_at=seconds(data.get("created_at")),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
        errors=read_errors(data.get("errors")),
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        usage=usage_of(data.get("usage")),
    )


def read_errors(errors: Any) -> tuple[BatchError, ...]:
    """A batch's errors: a list object, a bare list (Groq), one object or one text."""
    if isinstance(errors, dict):
        errors = errors["data"] if isinstance(errors.get("data"), list) else [errors]
    elif isinstance(errors, str):
        errors = [errors]
    if not isinstance(errors, list):
        return ()
    found = []
    for entry in errors:
        if isinstance(entry, dict):
            code, message = text_of(entry.get("code")), text_of(entry.get("message"))
            if code or message:
                found.append(
                    BatchError(
                        code=code,
                        message=message and message[:_MAX_MESSAGE],
                        line=_line_of(entry),
                        param=text_of(entry.get("param")),
                        custom_id=text_of(entry.get("custom_id")),
                    )
                )
        elif isinstance(entry, str) and entry:
            found.append(BatchError(code=None, message=entry[:_MAX_MESSAGE]))
    return tuple(found)


def read_refusal(body: Any) -> tuple[str | None, str] | None:
    """Code and message of the provider's own error body; None when this is something else.

    Accepted are `{"error": {…}}` with a message or code, `{"error": "text"}`, and the flat form
    `{"object": "error", "message": …}`. HTML and foreign JSON come from whatever stands between
    us and the provider, and say nothing about what the provider did.
    """
    if not isinstance(body, dict):
        return None
    error = body if body.get("object") == "error" else body.get("error")
    if isinstance(error, str) and error:
        return None, error
    if not isinstance(error, dict):
        return None
    message = text_of(error.get("message"))
    code, kind = text_of(error.get("code")), text_of(error.get("type"))
    if code is None or (code.isdigit() and kind not in (None, "None")):
        code = kind  # proxies write the status as the code, and what it is as the type
    if message is None and code is None:
        return None
    return code, message or code or ""


def read_blamed(body: Any) -> tuple[BatchError, ...]:
    """The lines of the input file that a refusal names: in the error itself, or in a list in or beside it."""
    if not isinstance(body, dict):
        return ()
    error = body if body.get("object") == "error" else body.get("error")
    error = error if isinstance(error, dict) else {}
    places = [error, *(part.get(name) for part in (error, body) for name in ("details", "errors", "data", "lines"))]
    found: dict[BatchError, None] = {}
    for place in places:
        entries = place.get("data", [place]) if isinstance(place, dict) else place
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict):
                continue
            line, custom_id = _line_of(entry), text_of(entry.get("custom_id"))
            if line is not None or custom_id is not None:
                code = text_of(entry.get("code")) or text_of(error.get("code"))
                message = text_of(entry.get("message")) or text_of(error.get("message"))
                found[BatchError(code, message and message[:_MAX_MESSAGE], line, custom_id=custom_id)] = None
    return tuple(found)


_INDEXED = re.compile(r"\b(?:requests?|items?|lines?|rows?|body)(?:\[(\d{1,6})\]|\.(\d{1,6})\b)")


def _line_of(entry: dict[str, Any]) -> int | None:
    """The 1-based line that an error is about: as a line or a row, as an index from 0, or in the parameter's path."""
    for name in ("line", "line_number", "line_no", "row"):
        line = _count(entry.get(name))
        if line is not None:
            return line
    for name in ("index", "line_index", "request_index"):
        index = _count(entry.get(name))
        if index is not None:
            return index + 1
    path = _INDEXED.search(text_of(entry.get("param")) or "")
    return None if path is None else int(path[1] or path[2]) + 1


def _count(value: Any) -> int | None:
    count = whole(value)
    return count if count is not None and count >= 0 else None
