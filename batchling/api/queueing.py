"""How long a plan's batches wait at a provider: from its limits and the plan's sizes, before anything is sent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchling.runner.compiling import Tally
from batchling.runner.points import LanePlan, is_local

BATCH_SECONDS = 3600.0
"""What a batch takes when a provider has room: an assumption. Providers promise their window (mostly 24 hours); most batches end within an hour."""

MINUTE = 60.0
_WINDOW = re.compile(r"(\d+(?:\.\d+)?)\s*([mhd])")
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Queue:
    """What a lane's batches wait for.

    Attributes:
        waves: rounds in which they go out, one after the other's end; 1: all at once.
        because: the limit that makes several rounds: `enqueued_tokens` or `concurrent_batches`.
        best_seconds: if every round takes as long as is assumed, and creations and requests are paced by their limits.
        worst_seconds: if every round takes the whole completion window; None: the provider names none, or keeps batches
            that are not done by then.
        assumes: what `best_seconds` rests on.
        rpm, tpm: what the `http` engine keeps; pacing_seconds: how long that takes for the requests and their prompts.
    """

    waves: int
    because: str | None
    best_seconds: float
    worst_seconds: float | None
    assumes: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    pacing_seconds: float | None = None


def queues(lanes: Sequence[LanePlan], tallies: Sequence[Tally]) -> list[Queue]:
    """The queue of each lane. Batches at once and creations an hour are limits of a connection, which lanes share."""
    batches: dict[str, int] = {}
    requests: dict[str, int] = {}
    tokens: dict[str, int] = {}
    for lane, tally in zip(lanes, tallies, strict=True):
        batches[lane.group] = batches.get(lane.group, 0) + tally.shards
        requests[lane.group] = requests.get(lane.group, 0) + tally.requests
        tokens[lane.group] = tokens.get(lane.group, 0) + (tally.input_tokens or 0)
    return [
        _queue(lane, tally, batches, requests, tokens) if tally.requests else Queue(0, None, 0.0, 0.0, "")
        for lane, tally in zip(lanes, tallies, strict=True)
    ]


def _queue(
    lane: LanePlan, tally: Tally, batches: Mapping[str, int], requests: Mapping[str, int], tokens: Mapping[str, int]
) -> Queue:
    waves, because = 1, None
    if lane.enqueued_tokens and tally.input_tokens and tally.input_tokens > lane.enqueued_tokens:
        waves, because = math.ceil(tally.input_tokens / lane.enqueued_tokens), "enqueued_tokens"
    together = batches[lane.group]
    if lane.concurrent_batches and math.ceil(together / lane.concurrent_batches) > waves:
        waves, because = math.ceil(together / lane.concurrent_batches), "concurrent_batches"
    local = is_local(lane.spec)
    each = 0.0 if local else BATCH_SECONDS
    best = waves * each
    if lane.creations_per_hour:
        best = max(best, (together - 1) // lane.creations_per_hour * 3600.0 + each)
    assumes = "the embedded server has room at once" if local else f"a batch takes {BATCH_SECONDS / 60:.0f} min"
    engine = lane.spec.config.provider.engine
    if not local or engine is None or engine.kind != "http":
        provider = lane.spec.config.provider
        # Where nothing expires, a batch may take longer than its window.
        worst = window_seconds(provider.completion_window, waves) if provider.capabilities.expires else None
        return Queue(waves, because, best, worst, assumes)
    # Strictly never more than the limit in any minute: the first minute's worth goes at once.
    pacing = 0.0
    if engine.rpm:
        pacing = max(pacing, (requests[lane.group] - 1) // engine.rpm * MINUTE)
    if engine.tpm and tokens[lane.group]:
        pacing = max(pacing, (tokens[lane.group] - 1) // engine.tpm * MINUTE)
    return Queue(
        waves,
        because,
        max(best, pacing),
        None,
        "the upstream answers at once, and answers take no tokens",
        rpm=engine.rpm,
        tpm=engine.tpm,
        concurrency=engine.concurrency,
        pacing_seconds=pacing,
    )


def window_seconds(window: str, waves: int) -> float | None:
    """Seconds of so many completion windows, one after the other.

    >>> window_seconds("24h", 2)
    172800.0
    """
    found = _WINDOW.fullmatch(window.strip().lower())
    return None if found is None else waves * float(found[1]) * _UNITS[found[2]]
