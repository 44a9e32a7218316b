"""What the verbs return: plain values, ready for a person, for `--json`, or for a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from batchling.plan_document import Doubt, PlanDocument
from batchling.trust import Recipient
from batchling.waiting import Wait

UNPRINTED = {"printed": False}
"""Metadata of a field that is for programs alone, and not in a command's `--json`."""


@dataclass(frozen=True, slots=True)
class LaneReport:
    """What one provider and model is to be asked. USD None: no price known; tokens None: not counted.

    Attributes:
        runs: points whose requests are merged into these batches; split_by: the limits that make more than one batch.
        enqueued_tokens: the limit that is kept; learned: a refusal taught it.
        waves: rounds in which the batches go out, because of `waits_for`; 1: all at once.
        best_seconds: how long it takes at best, under what `assumes` says; worst_seconds: if every round takes the whole
            completion window; None: not known.
        rpm, tpm, concurrency: what the `http` engine keeps; pacing_seconds: the least that takes.
        recipients: which variable's value goes to which host.
    """

    provider: str
    model: str
    endpoint: str
    requests: int
    shards: int
    bytes: int
    input_tokens: int | None
    tokens_by: str
    max_usd: Decimal | None
    price_source: str | None
    runs: int = 1
    split_by: tuple[str, ...] = ()
    enqueued_tokens: int | None = None
    learned: bool = False
    concurrent_batches: int | None = None
    creations_per_hour: int | None = None
    waves: int | None = None
    waits_for: str | None = None
    best_seconds: float | None = None
    worst_seconds: float | None = None
    assumes: str = ""
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    pacing_seconds: float | None = None
    recipients: tuple[Recipient, ...] = ()


@dataclass(frozen=True, slots=True)
class Shown:
    """A request as rendered: what exactly would be sent."""

    row_id: str
    key: str
    body: Any


@dataclass(frozen=True, slots=True)
class PlanReport:
    """What a plan comes to. Nothing was sent, nothing was written.

    Attributes:
        rows: rows x repeats over all runs; requests: to be sent; duplicates: rows folded into an equal request;
            cached: answered before; awaiting: in flight in another plan.
        same: plan id of the plan with this identity, and whether it is finished.
        notes: what a person should know before it is run, a sentence each.
        unknown_usd: why an amount is None, a sentence for each model.
        document: what plan.json would hold if the plan was made now.
    """

    experiment: str
    identity: str
    runs: int
    rows: int
    requests: int
    duplicates: int
    cached: int
    awaiting: int
    lanes: tuple[LaneReport, ...]
    estimated_usd: Decimal | None
    max_usd: Decimal | None
    budget_usd: Decimal | None
    simulated: bool
    shown: tuple[Shown, ...] = ()
    same: str | None = None
    same_state: str | None = None
    notes: tuple[str, ...] = ()
    unknown_usd: tuple[str, ...] = ()
    document: PlanDocument | None = field(default=None, repr=False, compare=False, metadata=UNPRINTED)

    @property
    def shards(self) -> int:
        return sum(lane.shards for lane in self.lanes)


@dataclass(frozen=True, slots=True)
class MetricValue:
    """A metric over one run, with its 95 % interval; n rows it rests on, coverage their share."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    coverage: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run's rows by state, its tokens, cost and metrics."""

    run_id: str
    provider: str
    model: str
    overrides: str
    rows: int
    states: Mapping[str, int]
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    metrics: tuple[MetricValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How `run`, `watch` or `cancel` ended.

    Attributes:
        reason: finished, cancelled, detached, awaiting, parked, refused, budget.
        state: the plan's state in the catalog's words.
        created: a new plan was made by this call.
        bought: requests that were sent in this plan; reused: answers taken from earlier plans.
        actual_usd: what the answers that this plan bought cost; None: not known, and `unknown_usd` says why.
        next_command: the command to type next; None when nothing is left.
        details: what went wrong, one sentence each.
        not_received: rows that may have been paid for and were not received, by batch.
        recipients: which variable's value goes, or went, to which host.
    """

    plan_id: str
    folder: Path
    experiment: str
    reason: str
    state: str
    exit_code: int
    created: bool
    simulated: bool
    runs: tuple[RunReport, ...]
    states: Mapping[str, int]
    requests: int
    bought: int
    reused: int
    batches: int
    actual_usd: Decimal | None
    next_command: str | None = None
    details: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_received: tuple[Doubt, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    unknown_usd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchStatus:
    """One shard attempt. Times are Unix seconds; `age` seconds since it was created."""

    shard: int
    attempt: int
    provider: str
    model: str
    phase: str
    batch_id: str | None
    requests: int
    input_tokens: int | None
    max_usd: Decimal | None
    created_at: float | None
    ended_at: float | None
    reason: str | None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class PointStatus:
    """One run: its rows x repeats by state, as of the last time that answers were read into the catalog."""

    run_id: str
    provider: str
    model: str
    overrides: tuple[str, ...]
    records: int
    states: Mapping[str, int]
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class LaneStatus:
    """One provider, model and endpoint.

    Attributes:
        waiting, out, done: batches that are not sent, that are at the provider or not read yet, and that are read.
        states: requests by state.
        actual_usd: what is spent; worst_usd: that, and the worst case of what is in flight; None: not known.
        refused: why the provider takes nothing more; None: it does.
    """

    provider: str
    model: str
    endpoint: str
    waiting: int
    out: int
    done: int
    requests: int
    states: Mapping[str, int]
    input_tokens: int | None
    actual_usd: Decimal | None
    worst_usd: Decimal | None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class PlanStatus:
    """One plan: where its batches, rows and money are, and which variable's value goes to which host.

    Read from its journal and plan.json alone. `unknown_usd`: why an amount is None, a sentence for each model.

    Attributes:
        own: it is known to be the user's; another one runs no code and gets no key.
        trouble: which file that it was made from was changed since, so that it is not used; None: none was.
    """

    plan_id: str
    experiment: str
    state: str
    created_at: float
    finished_at: float | None
    runs: int
    requests: int
    cached: int
    states: Mapping[str, int]
    batches: tuple[BatchStatus, ...]
    actual_usd: Decimal | None
    worst_usd: Decimal | None
    simulated: bool
    holder: str | None = None
    next_command: str | None = None
    unknown_usd: tuple[str, ...] = ()
    runs_detail: tuple[Mapping[str, Any], ...] = field(default=())
    points: tuple[PointStatus, ...] = ()
    lanes: tuple[LaneStatus, ...] = ()
    not_received: tuple[Doubt, ...] = ()
    waits: tuple[Wait, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    own: bool = True
    trouble: str | None = None
