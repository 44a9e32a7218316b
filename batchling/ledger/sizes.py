"""How much may wait at a provider, and what may be paid twice: figures that decisions are made of."""

from __future__ import annotations

import math
from decimal import Decimal

from batchling.ledger.policy import Lane, Policy
from batchling.ledger.state import Attempt, Shard, State


def size_of(shard: Shard) -> int:
    """Prompt tokens of a shard; where they were not counted, a guess of four bytes each."""
    return shard.bytes // 4 if shard.input_tokens is None else shard.input_tokens


def limit_of(state: State, lane: Lane) -> int | None:
    """Prompt tokens that may wait at once in a lane: the least of what is published, named by a refusal, and guessed."""
    named = named_limit(state, lane)
    known = [n for n in (named, state.guessed.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


def named_limit(state: State, lane: Lane) -> int | None:
    """`limit_of` without guesses."""
    known = [n for n in (lane.enqueued_tokens, state.learned.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


UNPROVEN_USD = Decimal(1)
"""At most this is assumed absent where the input file could not be deleted, whatever `retry.resubmit_usd` allows."""


def at_stake(shard: Shard) -> Decimal | None:
    """USD that could be paid twice if a shard were sent again: all submissions of it that were, or are about to be,
    taken for absent may have happened after all. None: its price is not known."""
    if shard.max_usd is None:
        return None
    return shard.max_usd * (shard.presumed + 1)


def resubmit_limit(policy: Policy, attempt: Attempt) -> Decimal:
    """USD up to which a submission that does not show is taken for absent without asking a person."""
    return policy.resubmit_usd if attempt.fenced_file else min(policy.resubmit_usd, UNPROVEN_USD)


def settling_seconds(lane: Lane, shard: Shard, attempt: Attempt, policy: Policy) -> float:
    """How long a submission has to stay out of the list: the longer, the more is at stake.

    The provider's time for up to a dollar, and its square root more above: ten times that long for 100 USD. What a
    person is asked about anyway waits no longer than a cheap one.
    """
    stake = at_stake(shard)
    if stake is None or stake > resubmit_limit(policy, attempt):
        return lane.settle_seconds
    return lane.settle_seconds * max(1.0, math.sqrt(stake))


def requests_limit_of(state: State, lane: Lane) -> int | None:
    """Requests that may wait at once in a lane: the least of what is set and what a refusal named."""
    known = [n for n in (lane.enqueued_requests, state.learned_requests.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


def largest_of(state: State, lane: Lane) -> tuple[int | None, int | None]:
    """Bytes and rows that a batch of a lane may have at most, as far as refusals told; None: nothing was told."""
    place = lane.group, lane.model
    return state.too_large.get((*place, "bytes")), state.too_large.get((*place, "rows"))


def ran_at_once(state: State, lane: Lane, lanes: tuple[Lane, ...], before: tuple[float, int]) -> tuple[int, int]:
    """The most prompt tokens, and requests, that are known to have been at the provider at once for a lane's model.

    Only batches count that were worked on to an end: a limit that is below them is not meant so. When one ended is
    known as of the look that showed it.

    Args:
        before: when the batch that was refused was created (Unix seconds), and its shard: only earlier ones count.
    """
    ran = []
    for shard, attempt in state.attempts():
        other = lanes[shard.lane]
        if (other.group, other.model) != (lane.group, lane.model) or attempt.created_at is None:
            continue
        if (attempt.created_at, shard.number) >= before:
            continue
        if attempt.reason == "completed" or (attempt.reason in ("expired", "cancelled") and attempt.completed):
            ran.append((attempt.created_at, attempt.ended_at or attempt.created_at, size_of(shard), shard.rows))
    most_tokens = most_rows = 0
    for start, *_ in ran:
        there = [
            (tokens, rows) for begun, ended, tokens, rows in ran if begun <= start and (ended > start or begun == start)
        ]
        most_tokens = max(most_tokens, sum(tokens for tokens, _ in there))
        most_rows = max(most_rows, sum(rows for _, rows in there))
    return most_tokens, most_rows
