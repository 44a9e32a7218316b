"""The ledger: what a plan has spent, what is in flight, and what may be done next.

`apply(state, event)` folds the journal into a `State`; `decide(state, now, policy, pace)` says what
to do next. Both are pure: the runner performs what `decide` returns and journals the outcome.

A *shard* is immutable bytes. A *shard attempt* sends them; another attempt is opened only after the
one before is proven unbilled::

    planned ─▶ uploading ─▶ uploaded ─▶ creating ──200──▶ created ─▶ ended ─▶ collected ─▶ closed
                               ▲           │                 ▲         └─ token limit ─▶ throttled ─▶ next attempt
                               └──4xx──────┤                 │ found
                                           └─ ambiguous ─▶ list ─▶ fenced ─ settle ─▶ list
                                                                                      ├─ cheap ─▶ absent ─▶ next attempt
                                                                                      └─ dear ──▶ parked ─▶ a person decides

Invariants I1, I4, I6 and I8 of the submission protocol are asserted here; the rest are kept by the
runner and checked by the simulation.
"""

from batchling.ledger.checks import check
from batchling.ledger.decisions import COUNTED_HIGHER, HOUR, PATIENCE, SPLIT_AFTER, Action, Do, decide
from batchling.ledger.events import EVENTS, STEPS, Event
from batchling.ledger.fold import apply, replay
from batchling.ledger.lines import Line, event_of, line_of
from batchling.ledger.policy import Lane, Pace, Policy
from batchling.ledger.sizes import (
    UNPROVEN_USD,
    at_stake,
    largest_of,
    limit_of,
    named_limit,
    ran_at_once,
    requests_limit_of,
    resubmit_limit,
    settling_seconds,
    size_of,
)
from batchling.ledger.state import (
    LIVE,
    OVER,
    UNCERTAIN,
    UNRESOLVED,
    UNSENT,
    Attempt,
    CollectedFile,
    InvariantError,
    Phase,
    Shard,
    State,
)

__all__ = [
    "COUNTED_HIGHER",
    "EVENTS",
    "HOUR",
    "LIVE",
    "OVER",
    "PATIENCE",
    "SPLIT_AFTER",
    "STEPS",
    "UNCERTAIN",
    "UNPROVEN_USD",
    "UNRESOLVED",
    "UNSENT",
    "Action",
    "Attempt",
    "CollectedFile",
    "Do",
    "Event",
    "InvariantError",
    "Lane",
    "Line",
    "Pace",
    "Phase",
    "Policy",
    "Shard",
    "State",
    "apply",
    "at_stake",
    "check",
    "decide",
    "event_of",
    "largest_of",
    "limit_of",
    "line_of",
    "named_limit",
    "ran_at_once",
    "replay",
    "requests_limit_of",
    "resubmit_limit",
    "settling_seconds",
    "size_of",
]
