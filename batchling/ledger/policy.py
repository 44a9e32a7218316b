"""What decisions depend on beside the journal: the limits of each lane, what the person allows, and when a call may be made again."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Lane:
    """Requests that may share a batch: one provider, endpoint and model, with the limits that hold for them.

    `group` names the provider connection; lanes of one group are listed and polled together. `marked`: a batch says whose it
    is; else only its results do.
    """

    number: int
    group: str
    model: str
    settle_seconds: float = 900.0
    can_list: bool = True
    can_fence: bool = True
    marked: bool = True
    enqueued_tokens: int | None = None
    enqueued_requests: int | None = None
    concurrent_batches: int | None = None
    creations_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the person allows. USD; None: no limit."""

    lanes: tuple[Lane, ...]
    budget_usd: Decimal | None = None
    resubmit_usd: Decimal = Decimal(100)
    merge_seconds: float = 900.0
    audit_seconds: float = 3600.0


@dataclass(slots=True)
class Pace:
    """What one process remembers of its own calls: when each may be made again. Losing it costs time, never money.

    Attributes:
        settling: (shard, attempt) → Unix seconds from which its settling time counts.
        ends: (shard, attempt) → Unix seconds at which its batch, or its files, are waited for no longer, as things are.
        resumed: another process drove the plan before: the end of its journal may be gone, and with it what was sent.
        torn: the files say so.
        unread: (shard, attempt) of batches that the provider has not shown, or whose files it has not handed out, for so
            long that nothing waits for them alone.
        unlisted: groups whose list has not been readable for so long that nothing waits for it alone.
    """

    due: dict[tuple[str, int, int], float] = field(default_factory=dict)
    settling: dict[tuple[int, int], float] = field(default_factory=dict)
    resumed: bool = False
    torn: bool = False
    unread: set[tuple[int, int]] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)
    ends: dict[tuple[int, int], float] = field(default_factory=dict)
    polls: dict[str, float] = field(default_factory=dict)
    audits: dict[str, float] = field(default_factory=dict)
    audited_seq: dict[str, int] = field(default_factory=dict)

    def ready(self, do: str, shard: int, attempt: int) -> float:
        """Unix seconds from which the call may be made."""
        return self.due.get((do, shard, attempt), 0.0)
