"""What goes into the catalog and what comes out of it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One shard attempt as the journal tells it: a row of `batches`.

    Attributes:
        shard: 1-based number; `attempt`: 1-based number of the sending.
        lane: index into plan.json's `lanes`.
        row_attempt: which asking of its rows the shard is (1: the first).
        state: the attempt's phase in the ledger's words.
        reason: how it ended at the provider, or why it was refused.
        requests, bytes, input_tokens: of the shard; tokens None when not counted.
        submitted_at, ended_at: Unix seconds.
        replaced: its rows went into later shards without this one being sent.
    """

    shard: int
    attempt: int
    lane: int
    state: str
    row_attempt: int = 1
    batch_id: str | None = None
    input_file_id: str | None = None
    reason: str | None = None
    requests: int = 0
    bytes: int = 0
    input_tokens: int | None = None
    submitted_at: float | None = None
    ended_at: float | None = None
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class EventRow:
    """One journal event: a row of `events`. `ts` is Unix seconds, `detail` the event's other fields."""

    seq: int
    ts: float
    kind: str
    shard: int | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> EventRow:
        """The row of a journal event as `journal.read` gives it."""
        shard = event.get("shard")
        known = ("seq", "ts", "kind", "shard")
        return cls(
            seq=int(event["seq"]),
            ts=float(event["ts"]),
            kind=str(event["kind"]),
            shard=shard if isinstance(shard, int) else None,
            detail={k: v for k, v in event.items() if k not in known},
        )


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's value over one run: a row of `metrics`.

    Attributes:
        value: None when no row has a value.
        low, high: 95 % interval; None when there is none (one row, or an aggregate that cannot be resampled).
        n: rows the value rests on.
        coverage: share (0 to 1) of the run's rows that are ok and for which the expression has a value.
        problem: why there is no value, in DuckDB's words; None when there is one.
    """

    run_id: str
    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    coverage: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run in a few numbers. `states` adds up to `rows` x repeats."""

    run_id: str
    provider: str
    model: str
    endpoint: str
    overrides: str
    rows: int
    states: Mapping[str, int]
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """One plan in a few numbers: a row of `plans`. Times are Unix seconds."""

    plan_id: str
    experiment: str
    state: str
    created_at: float
    finished_at: float | None
    runs: int
    requests: int
    cached: int
    estimated_usd: Decimal | None
    estimated_usd_max: Decimal | None
    actual_usd: Decimal | None
    simulated: bool
    rows: int = 0
    ok: int = 0
    not_ok: int = 0


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh did.

    Attributes:
        records: the records.parquet that was written or stands.
        runs: every run's states, tokens and cost; read back from the catalog.
        metrics: every run's metrics.
        rebuilt: False when no file had changed and only `plans`, `batches` and `events` were written.
        warnings: what could not be kept as it is, one sentence each.
    """

    records: Path | None
    runs: tuple[RunSummary, ...]
    metrics: tuple[Metric, ...]
    rebuilt: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Where the latest answer to a key is: `length` bytes at `offset` of `file`, which is relative to the plan's `responses/`.

    `state` is what its plan's schema made of it.
    """

    key: str
    outcome: str
    plan_id: str
    file: str
    offset: int
    length: int
    state: str = ""
