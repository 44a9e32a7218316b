"""What a row's error means for its request, from its status, its codes and its words."""

from __future__ import annotations

from batchling.collect.refusal import account_refusal, definitely_invalid, definitely_passing, wrapped_status
from batchling.models import NOT_UNDERSTOOD, Outcome

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


def outcome_of_error(status: int | None, codes: list[str], numbers: list[int], message: str | None) -> Outcome:
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
