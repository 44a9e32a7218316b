"""Reads one line of a file of results, whatever is wrong with it. Pure, never raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from batchling import limits
from batchling.dialects.reading import MAX_ERROR_CHARACTERS, clean
from batchling.models import NOT_UNDERSTOOD, Garbage, Outcome, Response


def read_line(
    line: bytes, read: Callable[[Any], Response | Garbage], *, named: str = "custom_id"
) -> Response | Garbage:
    """What one line says.

    Args:
        line: the raw bytes, without the line feed.
        read: what the line's JSON value says; it may raise `RecursionError` only.
        named: the property that names the request, in lines that cannot be read as a whole.
    """
    try:
        data = limits.loads(line)
    except limits.BeyondLimit as error:
        return _unreadable(line, str(error), named)
    except ValueError as error:
        return _damaged(line, str(error), read, named)
    try:
        return read(data)
    except RecursionError:  # a body as JSON text, in a body as JSON text, …
        return _unreadable(line, "nested too deeply", named)


@lru_cache(maxsize=8)
def _name(named: str) -> re.Pattern[bytes]:
    return re.compile(rb'"%b"\s*:\s*"([^"\\\x00-\x1f]{1,256})"' % named.encode())


def _damaged(line: bytes, reason: str, read: Callable[[Any], Response | Garbage], named: str) -> Response | Garbage:
    """A line that strict JSON refuses: BOM, invalid UTF-8, lone surrogates, NaN, control characters.

    What can still be read is read, for it is paid: undecodable characters become U+FFFD, NaN and
    infinities become null, and `error_code` says `damaged_line`. The raw bytes stay on disk as they came.
    """
    try:
        text = line.decode("utf-8-sig", "replace")
        data = limits.loads_tolerantly(text, strict=False, parse_constant=_null)
        response = read(clean(data))
    except limits.BeyondLimit as error:
        return _unreadable(line, str(error), named)
    except (ValueError, RecursionError):
        return _unreadable(line, reason, named)
    if isinstance(response, Response) and response.outcome is Outcome.OK and line[:3] != b"\xef\xbb\xbf":
        note = f"not strict JSON, read with replacement characters: {reason}"[:MAX_ERROR_CHARACTERS]
        return response._replace(error_code="damaged_line", error_message=note)
    return response


def _unreadable(line: bytes, reason: str, named: str) -> Response | Garbage:
    """A line beyond reading: final for its request when it names exactly one, because it may have been billed."""
    message = f"the line cannot be read: {reason}"[:MAX_ERROR_CHARACTERS]
    names = {match.group(1) for match in _name(named).finditer(line)}
    if len(names) != 1:
        return Garbage(message)
    custom_id = names.pop().decode("utf-8", "replace")
    return Response(custom_id, Outcome.ERROR, error_code=NOT_UNDERSTOOD, error_message=message)


def _null(_: str) -> None:
    return None
