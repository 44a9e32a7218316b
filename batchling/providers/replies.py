"""What a reply says that is no success: the same reading for every provider that answers over HTTP.

A status alone decides little: gateways wrap a refusal in a 500 and a failure in a 400, so the provider's own body counts
before it. How such a body looks is the adapter's to say.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from batchling.collect.refusal import About, about, definitely_invalid, wrapped_status
from batchling.errors import CallAmbiguous, CallError, CallNotFound, CallRefused, CallUnavailable
from batchling.models import BatchError

MARGIN_SECONDS = 3600.0
"""Clocks differ, and a list is ordered by the provider's."""

FOREIGN_404 = "foreign_404"
"""The code of a 404 without the provider's error body: a gateway's, or a route that is not there."""

MAX_MESSAGE = 2000
"""Characters of a message that are kept."""

MAX_RETRY_SECONDS = 86_400.0
"""A server that asks us to wait for longer is not believed."""

HTTP_LIBRARIES = frozenset({"httpx", "httpx2", "httpcore", "httpcore2", "h11", "zlib", "ssl", "socket"})
"""Where an exception of the transport may come from; any other is a mistake of ours."""

_TRANSIENT = frozenset({408, 409, 429})
_BROKEN = frozenset(
    {
        "server_error",
        "internal_error",
        "internal_server_error",
        "internalservererror",
        "service_unavailable",
        "serviceunavailable",
        "bad_gateway",
        "gateway_timeout",
        "timeout",
        "request_timeout",
        "api_connection_error",
        "apiconnectionerror",
        # Anthropic's, Mistral's, and google.rpc.Code's.
        "api_error",
        "timeout_error",
        "overloaded_error",
        "unreachable_backend",
        "internal",
        "unavailable",
        "deadline_exceeded",
        "unknown",
        "aborted",
        "cancelled",
        "data_loss",
    }
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a reply with a status that is no success says.

    Attributes:
        code, message: the provider's; the message without secrets.
        own: the body is the provider's own error body.
        lines: the lines of the input file that it blames.
        retry_after: seconds that the body asks us to wait, where a header does not.
    """

    code: str | None
    message: str
    own: bool
    lines: tuple[BatchError, ...] = ()
    retry_after: float | None = None


def free_error(
    what: str, status: int, headers: Mapping[str, str], said: Refusal, *, by_body: bool = False
) -> CallError:
    """What a status from 400 on means on a call that is free.

    Args:
        what: the call, for the message.
        by_body: a refusal that waiting cannot help is definite whatever status it came with.
    """
    text = f"{what}: {status} {said.message}"
    wait = _wait(headers, said)
    if status == 404:
        return CallNotFound(text, status=status, code=said.code if said.own else FOREIGN_404, retry_after=wait)
    # 413 has no reason to end: a gateway that finds a file too large finds it too large again.
    definite = said.own and 400 <= status < 500 and status not in _TRANSIENT
    if by_body and said.own and (status == 402 or definite_of(said.code, said.message) not in (None, About.RATE)):
        definite = True
    if status == 413 or definite:
        return CallRefused(text, status=status, code=said.code, retry_after=wait, lines=said.lines, words=said.message)
    return CallUnavailable(text, status=status, code=said.code, retry_after=wait)


def spending_error(what: str, status: int, headers: Mapping[str, str], said: Refusal) -> CallError:
    """What a status from 400 on means on the call that spends. Where a gateway's status and body differ, the body counts."""
    text = f"{what}: {status} {said.message}"
    wait = _wait(headers, said)
    if said.own and 400 <= status < 500 and status not in (408, 409, 499):  # 499: somebody on the way gave up
        definite = not went_wrong(said.code, said.message)
    else:
        definite = status == 413 or (said.own and definite_of(said.code, said.message) is not None)
    if definite:
        return CallRefused(text, status=status, code=said.code, retry_after=wait, lines=said.lines, words=said.message)
    return CallAmbiguous(text, status=status, code=said.code, retry_after=wait)


def _wait(headers: Mapping[str, str], said: Refusal) -> float | None:
    wait = retry_after(headers)
    return said.retry_after if wait is None else wait


def bad_certificate(error: BaseException) -> str | None:
    """Why the server's certificate does not hold; None when that is not what went wrong."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        # The HTTP library may raise an exception of its own type, with the text of OpenSSL's.
        if isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(cause):
            why = getattr(cause, "verify_message", None) or "its certificate cannot be verified"
            return f"the server is not the one it should be: {why}"
        cause = cause.__cause__ or cause.__context__
    return None


def went_wrong(code: str | None, message: str) -> bool:
    """The body says that something broke on the way (a gateway shows it with another status): it may have happened."""
    inner = wrapped_status(message)
    if inner is not None:
        return inner >= 500 or inner in (408, 409)
    broken = (code or "").lower() in _BROKEN and about([None], message) is About.OTHER
    return broken and not definitely_invalid(message)


def definite_of(code: str | None, message: str) -> About | None:
    """What a body refuses for certain, whatever the status says; None: it does not."""
    inner = wrapped_status(message)
    if inner is not None and (inner >= 500 or inner in (408, 409)):
        return None
    found = about([code], message)
    if found in (About.MODEL, About.PERMISSION, About.FILE) and inner is None and about([code], "") is not found:
        return None  # a model that is not there while a server starts is told in the same words
    if found is not About.OTHER:
        return found
    return About.OTHER if inner is not None or definitely_invalid(message) else None


def reason(error: BaseException) -> str:
    """The transport's words: the client says only 'Connection error.', the cause says which."""
    cause = error.__cause__
    text = f"{type(cause).__name__}: {cause}" if cause is not None and str(cause) else str(error)
    return f"{type(error).__name__} ({text})" if text else type(error).__name__


def shape(data: Any) -> str:
    """What a reply looks like, without its content."""
    if isinstance(data, dict):
        return "properties: " + (", ".join(name[:80] for name in sorted(map(str, data))[:12]) or "none")
    return "not JSON" if data is None else type(data).__name__


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after` (seconds or a date); at most a day."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                moment = parsedate_to_datetime(value)
                seconds = (moment - parsedate_to_datetime(headers["date"])).total_seconds()
            except (ValueError, KeyError, TypeError):
                continue
        if math.isfinite(seconds):
            return min(max(seconds, 0.0), MAX_RETRY_SECONDS)
    return None
