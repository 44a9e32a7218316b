"""Limits in the words of servers (CONFORMANCE 33)."""

from __future__ import annotations

import pytest

from batchling.collect import Unit, limit_of


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("Limit: 2,000,000 enqueued tokens.", 2_000_000),
        ("above the configured limit of 30K for the deployment", 30_000),
        ("the configured limit of 1.5M", 1_500_000),
        ("the limit is 2,5M tokens", 2_500_000),
        ("a limit of 2 million tokens", 2_000_000),
        ("limit of 5B tokens", 5_000_000_000),
        ("Limit: 1,5 Mio. tokens", 1_500_000),
        ("Limit: 200.000.000 enqueued tokens", 200_000_000),
        ("Limit: 100 000 enqueued tokens", 100_000),
        ("Limit: 100\u202f000 tokens", 100_000),
        ("Limit 1'000'000 tokens", 1_000_000),
        ("limit of 200_000 tokens", 200_000),
        ("a limit of 10,00,000 tokens", 1_000_000),
        ("limit of 2e6 tokens", 2_000_000),
        ("limit of 30 k tokens", 30_000),
        ("the limit is 90,000.00 tokens", 90_000),
        ("max_enqueued_tokens=30000", 30_000),
        ("the maximum of enqueued tokens is 90000", 90_000),
        ("you exceeded your 2M enqueued token limit", 2_000_000),
        ("too many enqueued tokens (limit: 250000)", 250_000),
        ("Limit:90000", 90_000),
    ],
)
def test_c33_a_limit_of_tokens_is_read_in_every_spelling(words: str, number: int) -> None:
    assert limit_of(words, Unit.TOKENS) == number


@pytest.mark.parametrize(
    "words",
    [
        "Limit: 3 (per minute)",
        "you exceeded the 1000 request/min rate limit",
        "limit is 40,000 tokens per day",
        "only 2 remaining out of 2 RPM limit. Limit resets at: 2026-11-25 10:00:00 UTC",
        "token limit reached for gpt-4-0613 in organization org-12",
        "limit: 2026-11-25",
        "limit of 30\u4e07 tokens",
        "limit 30Q",
        "limit of 30 gazillion",
        "a hard limit of $120.00",
        "limit: 0",
        "limit: 99999999999999999999",
        "Limit: 40 enqueued requests.",
        "limit: 50 %",
    ],
)
def test_c33_what_cannot_be_meant_as_a_limit_of_tokens_is_not_read(words: str) -> None:
    assert limit_of(words, Unit.TOKENS) is None


@pytest.mark.parametrize(
    ("words", "unit", "number"),
    [
        ("Enqueued request limit reached. Limit: 1,000,000 enqueued requests.", Unit.REQUESTS, 1_000_000),
        ("at most 50K requests may be queued", Unit.REQUESTS, 50_000),
        ("the file exceeds the maximum size of 100 MB", Unit.BYTES, 100_000_000),
        ("the limit is 512MiB", Unit.BYTES, 536_870_912),
        ("maximum of 10 concurrent batches", Unit.BATCHES, 10),
    ],
)
def test_c33_the_unit_is_read_too(words: str, unit: Unit, number: int) -> None:
    assert limit_of(words, unit) == number
    others = [other for other in Unit if other is not unit]
    assert [limit_of(words, other) for other in others] == [None] * len(others)
