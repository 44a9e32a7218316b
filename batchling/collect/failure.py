"""What a failed batch, or a refused creation, means for the plan."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from batchling.errors import CallRefused
from batchling.models import Batch, BatchError


class FailureKind(StrEnum):
    """What there is to do about it."""

    THROTTLED = "throttled"  # too much is enqueued or too fast: wait; costs no attempt
    NOT_READY = "not_ready"  # the uploaded file is not there (yet): wait a moment, or upload again
    LINES = "lines"  # these lines of the input file are wrong
    FATAL = "fatal"  # key, billing, permission or model: a person must act
    OTHER = "other"  # anything else; asking again may or may not help


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a whole batch failed.

    Attributes:
        code: the provider's code that decided.
        message: the provider's words.
        limit: enqueued tokens that the provider says it allows; only with THROTTLED, where the message has it.
        lines: the errors that name a line, with LINES.
        retry_after: seconds that the provider asked us to wait.
    """

    kind: FailureKind
    code: str | None
    message: str
    limit: int | None = None
    lines: tuple[BatchError, ...] = ()
    retry_after: float | None = None

    @property
    def fatal(self) -> bool:
        """Waiting cannot help: a person must act."""
        return self.kind is FailureKind.FATAL


_THROTTLED = frozenset({"token_limit_exceeded", "rate_limit_exceeded", "too_many_requests", "resource_exhausted"})
_FATAL = frozenset(
    {
        "account_deactivated",
        "access_terminated",
        "authentication_error",
        "billing_hard_limit_reached",
        "billing_limit_exceeded",
        "billing_not_active",
        "certificate_refused",  # our own words, as the next one: there is nothing safe to send to
        "redirected",
        "incorrect_api_key",
        "insufficient_permissions",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_authentication",
        "invalid_organization",
        "invalid_project",
        "model_not_found",
        "deploymentnotfound",
        "model_not_available",
        "mismatched_organization",
        "mismatched_project",
        "organization_restricted",
        "permission_denied",
        "permissiondenied",
        "permission_error",
        "unsupported_country_region_territory",
        "unauthorized",
    }
)
_ENQUEUED = re.compile(r"token_limit_exceeded|enqueued[ _]token", re.IGNORECASE)
_LIMIT = re.compile(r"\blimit\s*(?:is|of|:|=)\s*([0-9][0-9,_ ]*)", re.IGNORECASE)
_NOT_READY = re.compile(
    r"file\b.{0,80}\b(?:not (?:yet )?(?:ready|processed|available|found)|(?:still|being) (?:being )?process\w*|pending)|no such file",
    re.IGNORECASE | re.DOTALL,
)


def why_failed(batch: Batch) -> Failure:
    """Why a batch in the state `failed` failed. A limit on what is enqueued wins over everything else."""
    errors = batch.errors
    for error in errors:
        if _code(error) in _THROTTLED or _ENQUEUED.search(error.message or ""):
            return _throttled(error.code, error.message)
    for error in errors:
        if _code(error) in _FATAL:
            return Failure(FailureKind.FATAL, error.code, _text(error))
    named = tuple(error for error in errors if error.line is not None)
    if named:
        return Failure(FailureKind.LINES, named[0].code, _text(named[0]), lines=named)
    for error in errors:
        if _NOT_READY.search(error.message or ""):
            return Failure(FailureKind.NOT_READY, error.code, _text(error))
    if errors:
        return Failure(FailureKind.OTHER, errors[0].code, _text(errors[0]))
    return Failure(FailureKind.OTHER, None, f"batch {batch.id} is {batch.status}, and the provider does not say why")


def why_refused(error: CallRefused) -> Failure:
    """Why the provider refused to create a batch (or to take a file).

    Azure's fail-fast regions answer 400 with `token_limit_exceeded` where others accept and fail later; 429 is a
    limit too, unless the quota that ran out is money.
    """
    code = (error.code or "").lower()
    if code in _FATAL:
        return Failure(FailureKind.FATAL, error.code, error.message)
    if error.status == 429 or code in _THROTTLED or _ENQUEUED.search(error.message):
        return _throttled(error.code, error.message, error.retry_after)
    if error.status in (400, 404, 422) and _NOT_READY.search(error.message):
        return Failure(FailureKind.NOT_READY, error.code, error.message, retry_after=error.retry_after)
    if error.status in (401, 402, 403, 404):
        return Failure(FailureKind.FATAL, error.code, error.message)
    return Failure(FailureKind.OTHER, error.code, error.message, retry_after=error.retry_after)


def enqueued_limit(message: str) -> int | None:
    """The number in `Limit: 2,000,000 enqueued tokens`; None when there is none."""
    numbers: Iterable[str] = _LIMIT.findall(message)
    for number in numbers:
        digits = re.sub(r"[^0-9]", "", number)
        if 0 < len(digits) < 16 and int(digits) > 0:
            return int(digits)
    return None


def _throttled(code: str | None, message: str | None, retry_after: float | None = None) -> Failure:
    text = message or code or "too much is enqueued"
    limit = enqueued_limit(text) if code == "token_limit_exceeded" or _ENQUEUED.search(text) else None
    return Failure(FailureKind.THROTTLED, code, text, limit=limit, retry_after=retry_after)


def _code(error: BatchError) -> str:
    return (error.code or "").lower()


def _text(error: BatchError) -> str:
    where = f"line {error.line}: " if error.line is not None else ""
    return where + (error.message or error.code or "no explanation")
