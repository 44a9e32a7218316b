"""Reading what servers wrote, whatever they wrote: counts, usages, texts in parts. Nothing here raises."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

from batchling.models import NO_USAGE, Outcome, Usage

MAX_ERROR_CHARACTERS = 2000
MAX_COUNT = 1 << 53
"""More tokens than any reader of JSON holds exactly."""

LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
"""Reasons to finish that mean: the length limit was reached."""


class Explained(NamedTuple):
    """What an answer that is not plainly good is: its outcome, a code for it and one sentence."""

    outcome: Outcome = Outcome.OK
    code: str | None = None
    note: str | None = None


GOOD = Explained()
FILTERED = Explained(Outcome.FILTERED, "content_filter", "a content filter stopped the answer")
CUT = Explained(Outcome.TRUNCATED, "length", "the answer stopped at the length limit")
REASONED_OUT = Explained(Outcome.TRUNCATED, "reasoning", "reasoning used up the length limit before any answer")
EMPTY = Explained(Outcome.ERROR, "empty_answer", "the answer has no content")


def refused(words: str) -> Explained:
    """The model declined, in these words."""
    return Explained(Outcome.REFUSED, "refusal", words[:MAX_ERROR_CHARACTERS])


def text_or_none(value: Any) -> str | None:
    """A text as it is; None for anything else."""
    return value if type(value) is str else None


def text_of(value: Any) -> str | None:
    """An id or another opaque text; None, "" and anything that is no text or number mean absent."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return None


def whole(value: Any) -> int | None:
    """A count as an integer: providers write integers, floats, texts and nulls. None for anything else, and beyond 2⁵³."""
    if isinstance(value, float):
        value = int(value) if math.isfinite(value) else None
    elif isinstance(value, str) and len(value) < 20:
        try:
            value = int(value)
        except ValueError:
            return None
    return value if type(value) is int and -MAX_COUNT < value < MAX_COUNT else None


def seconds(value: Any) -> float | None:
    """Unix seconds from a number, a number in a text, or an ISO 8601 text (UTC unless it says otherwise)."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    except ValueError:
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            return None
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if math.isfinite(seconds) else None


def usage_of(data: Any) -> Usage:
    """Token counts in the words of chat (`prompt_tokens`) or of responses and batches (`input_tokens`)."""
    if type(data) is not dict:
        return NO_USAGE
    get = data.get
    if "prompt_tokens" in data or "completion_tokens" in data:
        given, made = get("prompt_tokens"), get("completion_tokens")
        given_details, made_details = get("prompt_tokens_details"), get("completion_tokens_details")
    else:
        given, made = get("input_tokens"), get("output_tokens")
        given_details, made_details = get("input_tokens_details"), get("output_tokens_details")
    cached = given_details.get("cached_tokens") if type(given_details) is dict else None
    reasoning = made_details.get("reasoning_tokens") if type(made_details) is dict else None
    return Usage(counted(given), counted(cached), counted(made), counted(reasoning))


def counted(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    if type(value) is not int:
        value = whole(value)
    return value if value is not None and 0 <= value < MAX_COUNT else None


def joined(parts: list[Any]) -> tuple[str | None, str | None]:
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


def reasoned_out(usage: Usage) -> bool:
    """True when every output token was spent on reasoning."""
    return bool(usage.reasoning_tokens) and (usage.output_tokens or 0) <= (usage.reasoning_tokens or 0)


_LARGEST = 10**308  # what is larger no reader of JSON takes, integer or not


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
    if kind is int:
        return value if -_LARGEST < value < _LARGEST else None
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
