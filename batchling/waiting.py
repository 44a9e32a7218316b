"""What a plan waits for: from its state, this moment and what the provider last said, nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from batchling.ledger import UNSENT, Attempt, Pace, Phase, Policy, Shard, State, settling_seconds
from batchling.models import TERMINAL, Batch

NAMED = 5
"""Batches that are named; the rest is a number."""


LASTING_SECONDS = 600.0
"""Trouble with a batch for so long is not waited out by cancelling it: it is to be given up."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that is waited for. Times are Unix seconds.

    Attributes:
        what: in words, with shard and batch.
        since: None: since this process began to look.
        until: when it ends by itself at the latest; None: no end is set.
        again: when it is tried, or looked at, again; None: not known.
        said: the provider's last word about it.
        ends: the command that ends it.
    """

    what: str
    since: float | None
    until: float | None
    said: str | None
    ends: str
    shard: int | None = None
    batch_id: str | None = None
    again: float | None = None

    def text(self, now: float) -> str:
        """One line for a person."""
        parts = [f"waiting for {self.what}"]
        if self.since is not None and now - self.since >= 1:
            parts[0] += f" since {span(now - self.since)}"
        if self.said:
            parts.append(self.said)
        when = []
        if self.again is not None:
            left = self.again - now
            when.append(f"again in {span(left)}" if left >= 1 else "trying again now")
        if self.until is not None and self.until - now >= 1:
            when.append(f"at most {span(self.until - now)} more")
        elif self.again is None:
            when.append("no end set" if self.until is None else "trying again now")
        parts.append(", ".join(when))
        parts.append(f"Ctrl-C stops watching, `{self.ends}` ends it")
        return "; ".join(parts)


def span(seconds: float) -> str:
    """`45 s`, `12 min`, `5 h 20 min`."""
    total = max(0, round(seconds))
    if total < 120:
        return f"{total} s"
    return f"{total // 60} min" if total < 7200 else f"{total // 3600} h {total % 3600 // 60} min"


def waits(
    state: State,
    now: float,
    plan_id: str,
    *,
    policy: Policy | None = None,
    pace: Pace | None = None,
    batches: Mapping[str, Batch] | None = None,
    heard: str | None = None,
) -> list[Wait]:
    """Everything that a plan waits for, the oldest first.

    Args:
        policy, pace: of the process that drives it; None: read from outside, so that when it looks again is not known.
        batches: the newest that the provider said of each batch.
        heard: the last call that failed, in words; None: all went well since.
    """
    if state.finished:
        return []
    pace = pace or Pace()
    found: list[Wait] = []
    unsent: list[tuple[Shard, Attempt]] = []
    for shard, attempt in state.attempts():
        if attempt.phase in UNSENT:
            if shard.unsent is attempt:
                unsent.append((shard, attempt))
            continue
        wait = _wait(shard, attempt, now, plan_id, policy, pace, batches or {}, heard)
        if wait is not None:
            found.append(wait)
    found.sort(key=lambda wait: wait.since or now)
    if len(found) > NAMED:
        rest = found[NAMED:]
        found = found[:NAMED]
        more = f"{len(rest):,} more"
        found.append(Wait(more, rest[0].since, None, heard, f"batchling cancel {plan_id}"))
    if unsent:
        found.append(_to_send(state, unsent, now, plan_id, policy, out=bool(found)))
    for name in sorted(state.awaits):
        other = name.partition("~")[0]
        what = f"answers that plan {other} is paying for"
        found.append(Wait(what, state.created_ts or None, None, heard, f"batchling cancel {other}"))
    return found


def _wait(
    shard: Shard,
    attempt: Attempt,
    now: float,
    plan_id: str,
    policy: Policy | None,
    pace: Pace,
    batches: Mapping[str, Batch],
    heard: str | None,
) -> Wait | None:
    place = shard.number, attempt.number
    batch_id = attempt.batch_id
    drop = f"batchling resolve {plan_id} --drop --shard {shard.number} --force"
    match attempt.phase:
        case Phase.CREATED:
            batch = batches.get(batch_id or "")
            what = f"batch {batch_id} (shard {shard.number})"
            said = heard
            if batch is not None:
                answered = (batch.completed or 0) + (batch.failed or 0)
                said = f"the provider says {batch.status!r}, {answered:,} of {shard.rows:,} done"
                if batch.status in TERMINAL:
                    what = f"the files of batch {batch_id} (shard {shard.number}), which has ended"
                said += f"; {heard}" if heard else ""
            # Trouble that lasts: a cancellation would hear the same.
            lasting = heard and (batch is None or now - (attempt.created_at or now) >= LASTING_SECONDS)
            over = batch is not None and batch.status in TERMINAL  # there is nothing left to cancel
            lost = attempt.cancelling or lasting or over
            ends = drop if lost else f"batchling cancel {plan_id}"
            until = pace.ends.get(place)
            return Wait(what, attempt.created_at, until, said, ends, shard.number, batch_id)
        case Phase.ENDED:
            what = f"the files of batch {batch_id} (shard {shard.number})"
            again = pace.due.get(("collect", *place))
            return Wait(what, attempt.ended_at, pace.ends.get(place), heard, drop, shard.number, batch_id, again)
        case Phase.CREATING:
            what = f"confirmation that the provider made a batch of shard {shard.number}"
            again = pace.due.get(("recover", *place))
            return Wait(what, attempt.intent_at, None, heard, drop, shard.number, again=again)
        case Phase.FENCED:
            what = f"the settling time of shard {shard.number}, whose submission got no answer"
            until = None
            if policy is not None:
                until = pace.settling.get(place, now) + settling_seconds(
                    policy.lanes[shard.lane], shard, attempt, policy
                )
            return Wait(what, attempt.fenced_at, until, heard, drop, shard.number)
        case Phase.PARKED:
            worst = "unknown" if shard.max_usd is None else f"{shard.max_usd.normalize():f}"
            what = f"a decision about shard {shard.number} (worst case {worst} USD)"
            ends = f"batchling resolve {plan_id} --resubmit --shard {shard.number}"
            return Wait(what, attempt.intent_at, None, attempt.refusal, ends, shard.number)
        case _:
            return None


def _to_send(
    state: State,
    unsent: list[tuple[Shard, Attempt]],
    now: float,
    plan_id: str,
    policy: Policy | None,
    *,
    out: bool,
) -> Wait:
    """What is not sent, and why as far as that can be seen: a refusal for now, the budget, or a limit."""
    shard, attempt = max(unsent, key=lambda pair: pair[1].retry_at)
    many = f"shard {shard.number}" + (f" and {len(unsent) - 1:,} more" if len(unsent) > 1 else "")
    ends = f"batchling cancel {plan_id}"
    if attempt.retry_at > now:
        throttled = any(a.phase is Phase.THROTTLED for a in shard.attempts)
        said = attempt.refusal or ("the provider's limit for waiting tokens" if throttled else None)
        return Wait(f"sending {many}", None, None, said, ends, shard.number, again=attempt.retry_at)
    budget = None if policy is None else policy.budget_usd
    least = min((s.max_usd or Decimal(0) for s, _ in unsent), default=Decimal(0))
    if budget is not None and state.worst() + least > budget:
        said = f"budget.usd ({budget} USD) does not allow its worst case on top of the batches in flight"
        return Wait(f"sending {many}", None, None, said, ends, shard.number)
    why = "its turn comes when a batch ends, or a limit allows it" if out else attempt.refusal
    return Wait(f"sending {many}", None, None, why, ends, shard.number)
