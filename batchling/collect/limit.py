"""Limits as servers word them: `Limit: 2,000,000 enqueued tokens`, `the configured limit of 30K`, `a limit of 40 enqueued requests`.

A number counts only where the words around it call it a limit, and its unit is understood. What is not understood is no
number: a limit that is read too low makes a plan crawl. Sources: openai-python#2084, learn.microsoft.com/answers/questions/2285577,
community.openai.com/t/1002388, litellm#16075 (spellings), the pages of providers outside the United States (separators).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple


class Unit(StrEnum):
    """What a limit counts."""

    TOKENS = "tokens"
    REQUESTS = "requests"
    BYTES = "bytes"
    BATCHES = "batches"


class Limit(NamedTuple):
    """A number that a message calls a limit.

    Attributes:
        unit: None: the message does not say.
        rate: it holds for a minute, an hour or a day, not for what may wait at once.
    """

    number: int
    unit: Unit | None
    rate: bool


# Digits in groups (1,000 / 1.000 / 1 000 / 1'000 / 1_000 / 10,00,000) or plain, with a fraction or a power of ten. What is
# glued to a word, a date, an id or a currency is none.
_NUMBER = re.compile(
    r"(?<![\w.,'’/#$€£-])(?<!\d:)"
    r"(?:(?P<groups>\d{1,3}(?:(?P<by>[,.'’_ \u00a0\u2009\u202f])\d{3})(?:(?P=by)\d{3})*)(?!\d)(?P<cents>[.,]\d{1,2}(?!\d))?"
    r"|(?P<lakh>\d{1,2}(?:,\d\d)+,\d{3})(?!\d)"
    r"|(?P<plain>\d+)(?:[.,](?P<fraction>\d+))?(?:[eE]\+?(?P<power>\d{1,2}))?)"
)
_FACTORS = {
    "k": 10**3,
    "thousand": 10**3,
    "tsd": 10**3,
    "m": 10**6,
    "mm": 10**6,
    "mn": 10**6,
    "mln": 10**6,
    "mio": 10**6,
    "million": 10**6,
    "millions": 10**6,
    "b": 10**9,
    "bn": 10**9,
    "billion": 10**9,
    "billions": 10**9,
    "t": 10**12,
    "tn": 10**12,
    "trillion": 10**12,
    "lakh": 10**5,
    "crore": 10**7,
}
_BYTES = re.compile(r"[\s-]?(?:([kKMGT])(i?)B|(bytes?\b))(?![A-Za-z])")
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_SUFFIX = re.compile(
    r"\s?(thousand|tsd|millions?|mio|mln|mn|billions?|bn|trillion|tn|lakh|crore)\b\.?|(mm|[kmbt])\b|\s([KkMB])\b",
    re.IGNORECASE,
)
_NOUNS = {
    **dict.fromkeys(("token", "tokens"), Unit.TOKENS),
    **dict.fromkeys(
        ("request", "requests", "prompts", "lines", "rows", "tasks", "records", "entries", "items"), Unit.REQUESTS
    ),
    **dict.fromkeys(("batch", "batches", "job", "jobs"), Unit.BATCHES),
}
_ADJECTIVES = (
    "enqueued|queued|pending|waiting|outstanding|concurrent|active|running|prompt|input|total|inflight|in|flight|progress|"
    "batch|api|llm|model|completion|unprocessed|open"
)
_FUNCTION = frozenset(
    [
        "a",
        "after",
        "already",
        "an",
        "and",
        "are",
        "at",
        "be",
        "been",
        "before",
        "but",
        "by",
        "can",
        "exceeded",
        "for",
        "from",
        "given",
        "has",
        "have",
        "however",
        "if",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "org",
        "organization",
        "please",
        "reached",
        "set",
        "since",
        "so",
        "that",
        "the",
        "then",
        "there",
        "this",
        "to",
        "try",
        "until",
        "used",
        "was",
        "were",
        "when",
        "while",
        "with",
        "you",
        "your",
        "limit",
        "limits",
        "maximum",
        "max",
        "allowed",
        "quota",
        "cap",
        "enforced",
        "per",
        "wait",
        "contact",
        "current",
    ]
)
_LIMITS = r"limits?|limited|maximum|max|cap|capped|ceiling|quota|allowance|allowed|allows|permitted|threshold"
_BEFORE = re.compile(
    rf"\b(?:{_LIMITS}|up\s+to|at\s+most|(?:no\s+)?more\s+than)\b"
    r"(?:[\s:=(\[\"'`*-]|,\s|\b(?:is|are|was|of|to|at|for|the|your|an?|currently|now|set|configured|number|value|total|count|"
    r"enqueued|queued|pending|waiting|prompt|input|concurrent|active|tokens?|requests?|prompts?|batch|batches|jobs?|queue|"
    r"size|being|only|about|allowed|equals|file|bytes)\b){0,14}$",
    re.IGNORECASE,
)
_AFTER = re.compile(
    rf"^[\s-]*(?:(?:{_ADJECTIVES}|tokens?|requests?|batch(?:es)?|jobs?|rate|queue|size)[\s/-]+){{0,5}}(?:{_LIMITS})\b",
    re.IGNORECASE,
)
_RATE = re.compile(
    r"^[\s(-]*(?:[rt]p[smhd]\b|(?:[\w-]+[\s(]+){0,4}?(?:/|per\b|an?\b|each\b|every\b|within\b)\s*(?:\d+\s*)?"
    r"(?:s|sec|seconds?|m|min|minutes?|h|hr|hours?|d|days?)\b|[\w-]+\s*/\s*(?:s|sec|m|min|minute|h|hour|d|day)\b)",
    re.IGNORECASE,
)
_LARGEST = 10**15


def limits_in(text: str) -> Iterator[Limit]:
    """Every number that a message calls a limit, in the order of the text."""
    text = re.sub(r"(?<=[A-Za-z])_|_(?=[A-Za-z])", " ", text)  # max_enqueued_tokens=…
    for found in _NUMBER.finditer(text):
        before, rest = text[: found.start()], text[found.end() :]
        value, unit, rest = _scaled(found, rest)
        if value is None:
            continue
        noun, known = _noun(rest)
        named = _BEFORE.search(before)
        rate = _RATE.match(rest) is not None
        if not known and not rate:
            continue
        if named is None and _AFTER.match(rest) is None:
            continue
        number = round(value)
        if 0 < number < _LARGEST:
            yield Limit(number, unit or noun or _noun_before(named), rate)


def limit_of(text: str, unit: Unit) -> int | None:
    """How much of `unit` may wait, or be sent, at once; a number without a unit counts. None: not said, or not understood."""
    for limit in limits_in(text):
        if not limit.rate and limit.unit in (unit, None):
            return limit.number
    return None


def _scaled(found: re.Match[str], rest: str) -> tuple[float | None, Unit | None, str]:
    """The number with its multiplier, its unit where that is bytes, and the text behind them; None: not a number after all."""
    grouped = found["groups"] or found["lakh"]
    measured = _BYTES.match(rest)
    suffix = None if measured is not None else _SUFFIX.match(rest)
    scale = suffix is not None or (measured is not None and measured[1] is not None)
    value: float
    if grouped is None:
        value = float(f"{found['plain']}.{found['fraction'] or 0}") * 10.0 ** int(found["power"] or 0)
        if found["fraction"] is not None and not scale and found["power"] is None and value != round(value):
            return None, None, rest  # half a token is not meant
    elif scale and found["by"] == "." and grouped.count(".") == 1:
        value = float(grouped)  # 1.500M
    else:
        value = float(re.sub(r"\D", "", grouped))
    if measured is not None:
        if measured[1] is not None:
            value *= (1024.0 if measured[2] else 1000.0) ** _POWERS[measured[1].lower()]
        return value, Unit.BYTES, rest[measured.end() :]
    if suffix is not None:
        value *= _FACTORS[next(part for part in suffix.groups() if part is not None).lower()]
        rest = rest[suffix.end() :]
    if re.match(r"[-/:.,]?\d|\w|\s?%", rest) and not re.match(r"/\s*[A-Za-z]", rest):
        return None, None, rest  # a date, a version, an id, a unit that nobody knows
    return value, None, rest


def _noun(rest: str) -> tuple[Unit | None, bool]:
    """What the words behind a number count, and whether they are understood."""
    for word in re.findall(r"[A-Za-z]+|[^\sA-Za-z]", rest)[:8]:
        lower = word.lower()
        if lower in _NOUNS and lower != "batch":
            return _NOUNS[lower], True
        if word in "-([" or re.fullmatch(_ADJECTIVES, lower):
            continue
        return None, not word.isalpha() or lower in _FUNCTION or (
            len(lower) == 3 and lower.endswith(("pm", "ph", "pd"))
        )
    return None, True


def _noun_before(named: re.Match[str] | None) -> Unit | None:
    """`maximum enqueued tokens is 90000`: the unit stands before the number."""
    words = re.findall(r"[A-Za-z]+", named[0].lower()) if named is not None else []
    for word in reversed(words):
        if word in _NOUNS and word != "batch":
            return _NOUNS[word]
        if word == "bytes":
            return Unit.BYTES
    return None
