"""What a failed batch, or a refused creation, means for the plan: what it is about, and the one thing to do about it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from batchling.collect.limit import Unit, limit_of
from batchling.collect.refusal import ACCOUNT, QUEUES, About, about
from batchling.errors import CallRefused
from batchling.models import Batch, BatchError


class FailureKind(StrEnum):
    """What there is to do about it."""

    THROTTLED = "throttled"  # too much is enqueued or too fast: wait; costs no attempt
    NOT_READY = "not_ready"  # the uploaded file is not there (yet): wait a moment, or upload again
    LINES = "lines"  # these lines of the input file are wrong: set them aside, send the others
    TOO_LARGE = "too_large"  # the batch is larger than the provider takes: cut it
    FATAL = "fatal"  # key, billing, permission or model: a person must act
    OTHER = "other"  # anything else; asking again may or may not help


_KINDS = {
    About.LINE: FailureKind.LINES,
    About.FILE: FailureKind.NOT_READY,
    About.SIZE: FailureKind.TOO_LARGE,
    About.RATE: FailureKind.THROTTLED,
    About.OTHER: FailureKind.OTHER,
    **dict.fromkeys(QUEUES, FailureKind.THROTTLED),
    **dict.fromkeys(ACCOUNT, FailureKind.FATAL),
}

_ADVICE = {
    About.LINE: ("does not take these requests", "the others are sent without them"),
    About.FILE: ("does not have the input file (yet)", "it is waited for, and uploaded again"),
    About.SIZE: ("does not take a batch of this size", "smaller batches: limits.max_bytes, limits.max_requests"),
    About.RATE: ("is called too often", "fewer calls: limits.creations_per_hour"),
    About.TOKENS: ("already has too many prompt tokens enqueued", "how many may wait: limits.enqueued_tokens"),
    About.REQUESTS: ("already has too many requests waiting", "how many may wait: limits.enqueued_requests"),
    About.BATCHES: ("already has too many batches running", "how many may wait: limits.concurrent_batches"),
    About.QUOTA: ("stops the account (quota, credit or billing)", "sort it out with the provider"),
    About.KEY: ("does not accept the key", "the key's variable: provider.api_key_env"),
    About.MODEL: ("does not have this model for this account", "see model.id, provider.base_url"),
    About.PERMISSION: ("does not permit this", "see provider.api_key_env, provider.base_url"),
    About.ADDRESS: ("cannot be reached safely at this address", "see provider.base_url"),
    About.OTHER: ("refuses", ""),
}
"""What the provider does, and the config key that helps."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a whole batch failed, or was not taken.

    Attributes:
        about: what the provider's no is about.
        code: the provider's code that decided.
        message: the provider's words.
        limit: how much the provider says it allows, in `unit`; only where `about` is a queue or a size and the words have it.
        lines: the errors that name a line, with LINE.
        retry_after: seconds that the provider asked us to wait.
    """

    about: About
    code: str | None
    message: str
    limit: int | None = None
    unit: Unit | None = None
    lines: tuple[BatchError, ...] = ()
    retry_after: float | None = None

    @property
    def kind(self) -> FailureKind:
        """What there is to do."""
        return _KINDS[self.about]

    @property
    def fatal(self) -> bool:
        """Waiting cannot help: a person must act."""
        return self.kind is FailureKind.FATAL

    @property
    def sentence(self) -> str:
        """What it is about, the config key that helps, and the provider's words."""
        words = " ".join(self.message.split())
        if self.code and self.code.lower() not in words.lower():
            words = f"{self.code}: {words}"
        does, helps = _ADVICE[self.about]
        return f"the provider {does}{f' ({helps})' if helps else ''}: {words}"


_UNITS = {
    About.TOKENS: (Unit.TOKENS,),
    About.REQUESTS: (Unit.REQUESTS,),
    About.BATCHES: (Unit.BATCHES,),
    About.SIZE: (Unit.BYTES, Unit.REQUESTS),
}


def why_failed(batch: Batch) -> Failure:
    """Why a batch in the state `failed` failed. A queue that is full wins over everything else, then the account."""
    errors = [(about([error.code], error.message), error) for error in batch.errors]
    for wanted in ((*QUEUES, About.RATE), ACCOUNT):
        for found, error in errors:
            if found in wanted and not (found in ACCOUNT and _only_words(found, error)):
                return _failure(found, error.code, _text(error))
    named = tuple(error for _, error in errors if error.line is not None or error.custom_id is not None)
    if not named:
        named = tuple(part for _, error in errors for part in named_in(error.message, error.code))
    if named:
        return Failure(About.LINE, named[0].code, _text(named[0]), lines=named)
    for wanted in (ACCOUNT, (About.SIZE,), (About.FILE,)):
        for found, error in errors:
            if found in wanted:
                return _failure(found, error.code, _text(error))
    if errors:
        return Failure(About.OTHER, errors[0][1].code, _text(errors[0][1]))
    return Failure(About.OTHER, None, f"batch {batch.id} is {batch.status}, and the provider does not say why")


def _only_words(found: About, error: BatchError) -> bool:
    """It names a line, and that it is about the account is only in its words: they may quote the line."""
    return (error.line is not None or error.custom_id is not None) and about([error.code], "") is not found


def why_refused(error: CallRefused) -> Failure:
    """Why the provider refused to create a batch (or to take a file).

    Azure's fail-fast regions answer 400 with `token_limit_exceeded` where others accept and fail later; 429 is a
    limit too, unless the quota that ran out is money. Some gateways check each line before they take the file.
    """
    found = about([error.code], error.words, error.status)
    if found in (About.OTHER, About.SIZE, About.MODEL, About.FILE) and error.status in (
        None,
        400,
        404,
        409,
        413,
        422,
        500,
    ):
        named = error.lines or named_in(error.words, error.code)
        if named and not (found is About.MODEL and about([error.code], "") is About.MODEL):
            return Failure(About.LINE, error.code, error.words, lines=named, retry_after=error.retry_after)
    return _failure(found, error.code, error.words, error.retry_after)


def _failure(found: About, code: str | None, message: str, retry_after: float | None = None) -> Failure:
    for unit in _UNITS.get(found, ()):
        limit = limit_of(message, unit)
        if limit is not None:
            return Failure(found, code, message, limit=limit, unit=unit, retry_after=retry_after)
    return Failure(found, code, message, retry_after=retry_after)


# Lines count from 1, as people count; an index in brackets or behind a dot counts from 0, as programs do. `line 1 column 5`
# is a place inside one request.
_LINE = re.compile(
    r"\b(?:line|row)\s*(?:number|num|no\.?|[#:=])?\s*#?(\d{1,6})\b(?!\s*,?\s*(?:col|char|\())|\brequest\s*#(\d{1,6})\b"
    r"|\b(\d{1,6})(?:st|nd|rd|th) (?:line|row|request)\b",
    re.IGNORECASE,
)
_INDEX = re.compile(
    r"\b(?:requests?|items?|lines?|records?|entries|rows?|body|data)\s*(?:\[\s*(\d{1,6})\s*\]|\.(\d{1,6})\b)"
    r"|\bindex\s*[:=#]?\s*(\d{1,6})\b",
    re.IGNORECASE,
)
_CUSTOM_ID = re.compile(r"\bk\d-[0-9a-f]{40}(?:-[0-9A-Za-z]{6}-\d{4,})?\b")


def named_in(message: str | None, code: str | None) -> tuple[BatchError, ...]:
    """The lines that a message names, by our custom_id, by number or by index."""
    text = message or ""
    ids = dict.fromkeys(_CUSTOM_ID.findall(text))
    if ids:
        return tuple(BatchError(code, message, custom_id=custom_id) for custom_id in ids)
    numbers = [int(next(part for part in found.groups() if part)) for found in _LINE.finditer(text)]
    numbers += [int(next(part for part in found.groups() if part)) + 1 for found in _INDEX.finditer(text)]
    return tuple(BatchError(code, message, line=number) for number in dict.fromkeys(numbers[:1]))


def _text(error: BatchError) -> str:
    where = f"line {error.line}: " if error.line is not None else ""
    return where + (error.message or error.code or "no explanation")
