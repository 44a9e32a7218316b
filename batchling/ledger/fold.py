"""Folds events into a state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

from batchling.ledger.checks import checked
from batchling.ledger.events import (
    Absent,
    Alias,
    Awaited,
    Cancelling,
    CancelRequested,
    CancelWanted,
    Closed,
    Collected,
    Created,
    CreateIntent,
    Dropped,
    Duplicate,
    Ended,
    Event,
    Fenced,
    Finished,
    Learned,
    Parked,
    PlanCreated,
    Planned,
    Rejected,
    SessionStarted,
    Step,
    TakingOver,
    Throttled,
    Uploaded,
)
from batchling.ledger.lines import Line, event_of
from batchling.ledger.state import LIVE, UNCERTAIN, UNRESOLVED, UNSENT, Attempt, Phase, Shard, State

WAITING = frozenset({"tokens", "requests"})
"""What a refusal is about where a smaller batch may pass although nothing of ours waits."""


def apply(state: State, event: Event) -> State:
    """Folds one event in. The state given is changed and returned: its owner hands it over.

    Raises:
        InvariantError: the event may not follow what came before; the state is as it was.
    """
    found = checked(state, event)
    state.seq, state.ts = event.seq, event.ts
    cls = type(event)
    if found is None:
        if (change := _CHANGES.get(cls)) is not None:
            change(state, event)
        return state
    shard, attempt = found
    if isinstance(event, Step):
        if isinstance(event, Dropped):
            attempt.presumed = attempt.phase not in UNSENT
        attempt.phase = event.leads_to
    if (step := _STEPS.get(cls)) is not None:
        step(state, shard, attempt, event)
    return state


def replay(lines: Iterable[Line]) -> State:
    """The state that a journal's lines lead to.

    Raises:
        InvariantError: one of them cannot be read, or may not follow those before.
    """
    state = State()
    for line in lines:
        apply(state, event_of(line))
    return state


def _plan_created(state: State, event: PlanCreated) -> None:
    state.created_ts = event.ts
    state.awaits.update(event.awaits)


def _taking_over(state: State, event: TakingOver) -> None:
    state.taking_over = True


def _planned(state: State, event: Planned) -> None:
    state.taking_over = False
    for shard in event.shards:
        state.shards[shard.shard] = Shard(
            number=shard.shard,
            lane=shard.lane,
            rows=shard.rows,
            bytes=shard.bytes,
            sha256=shard.sha256,
            input_tokens=shard.input_tokens,
            max_usd=shard.max_usd,
            row_attempt=shard.row_attempt,
            kind=shard.kind,
            attempts=[Attempt(1)],
            doubts=shard.doubts,
        )
    for number in event.replaces:
        old = state.shards[number]
        for attempt in old.attempts:
            if attempt.phase in UNSENT:
                attempt.phase = Phase.DROPPED
        old.replanned = True
        left = event.left.get(str(number), {})
        old.kept = {name: old.kept.get(name, 0) + left.get(name, 0) for name in {**old.kept, **left}}


def _awaited(state: State, event: Awaited) -> None:
    state.awaits.discard(event.plan_id)
    state.awaits.update(event.awaits)


def _session(state: State, event: SessionStarted) -> None:
    state.sessions += 1
    state.fingerprints.update(event.fingerprints)
    state.fatal.clear()
    state.guessed.clear()  # what was in the way then may be gone


def _learned(state: State, event: Learned) -> None:
    # The least of what was heard: the provider repeats its figure although it counts more tokens than we do.
    place = event.group, event.model
    if event.unit in ("bytes", "rows"):
        most = (*place, event.unit)
        state.too_large[most] = min(event.limit, state.too_large.get(most, event.limit))
    elif event.unit in ("tokens", "requests"):
        known = state.learned_requests if event.unit == "requests" else state.learned
        if event.guessed:
            known = state.guessed
        known[place] = min(event.limit, known.get(place, event.limit))


def _cancel_wanted(state: State, event: CancelWanted) -> None:
    for number in event.shards:
        state.shards[number].unwanted = True


def _cancel_requested(state: State, event: CancelRequested) -> None:
    state.cancel_requested = True


def _finished(state: State, event: Finished) -> None:
    state.finished = event.state
    state.finished_at = event.ts


_CHANGES: dict[type[Event], Callable[[State, Any], None]] = {
    PlanCreated: _plan_created,
    Planned: _planned,
    TakingOver: _taking_over,
    Awaited: _awaited,
    SessionStarted: _session,
    Learned: _learned,
    CancelWanted: _cancel_wanted,
    CancelRequested: _cancel_requested,
    Finished: _finished,
}
"""What events that are about no submission change; any other, a remark, changes nothing."""


def _uploaded(state: State, shard: Shard, attempt: Attempt, event: Uploaded) -> None:
    attempt.file_id = event.file_id
    place, mine = (shard.lane, event.file_id), (shard.number, attempt.number)
    before_us = tuple(owner for owner in state.owners(*place) if owner != mine)
    if before_us:
        state.shared[place] = (*before_us, mine)
    state.files[place] = mine


def _create_intent(state: State, shard: Shard, attempt: Attempt, event: CreateIntent) -> None:
    attempt.intent_at = event.ts
    state.creations.setdefault(shard.lane, []).append(event.ts)


def _created(state: State, shard: Shard, attempt: Attempt, event: Created) -> None:
    # I3: whichever attempt it belongs to, the batch is ours from here on.
    attempt.batch_id = event.batch_id
    state.batches.add(event.batch_id)
    state.holders[shard.lane, event.batch_id] = (shard.number, attempt.number)
    attempt.created_at = event.ts
    attempt.adopted = bool(event.adopted)
    _take_in(shard, attempt)


def _rejected(state: State, shard: Shard, attempt: Attempt, event: Rejected) -> None:
    attempt.retry_at = event.retry_at or 0.0
    attempt.refusal = f"{event.code or event.status}: {event.message or ''}"
    attempt.refusals = event.refusals
    if event.reupload or attempt.file_id is None:
        attempt.phase, attempt.file_id = Phase.PLANNED, None
    if event.about in WAITING and _nothing_else_waits(state, shard, attempt):
        attempt.alone_refusals += 1
    if event.fatal:
        state.fatal[shard.lane] = event.why or attempt.refusal


def _fenced(state: State, shard: Shard, attempt: Attempt, event: Fenced) -> None:
    attempt.fenced_at = event.ts
    attempt.fenced_mark = event.mark
    attempt.fenced_file = event.deleted


def _parked(state: State, shard: Shard, attempt: Attempt, event: Parked) -> None:
    attempt.refusal = event.why or attempt.refusal


def _absent(state: State, shard: Shard, attempt: Attempt, event: Absent) -> None:
    attempt.presumed = event.by != "person"
    _next_attempt(shard, 0.0)


def _ended(state: State, shard: Shard, attempt: Attempt, event: Ended) -> None:
    attempt.reason = event.reason
    attempt.results = event.results
    attempt.completed = event.completed
    attempt.failed = event.failed
    attempt.ended_at = event.ts


def _throttled(state: State, shard: Shard, attempt: Attempt, event: Throttled) -> None:
    attempt.alone = event.about in WAITING and _nothing_else_waits(state, shard, attempt)
    if event.fatal:
        state.fatal[shard.lane] = event.fatal
    _next_attempt(shard, event.retry_at or 0.0)


def _collected(state: State, shard: Shard, attempt: Attempt, event: Collected) -> None:
    attempt.files = event.files


def _closed(state: State, shard: Shard, attempt: Attempt, event: Closed) -> None:
    attempt.counts = event.counts
    attempt.unsure = bool(event.unsure)
    attempt.usd = event.usd
    state.spent += attempt.usd
    attempt.unpriced = bool(event.unpriced) and shard.max_usd is None
    if (attempt.unsure or event.unpriced) and shard.max_usd is not None:
        attempt.unknown_usd = max(Decimal(0), shard.max_usd - attempt.usd)
    if not shard.replanned:  # a stray that ends later changes nothing about rows that moved on
        _count(shard, attempt, event)
    shard.closed_at = event.ts
    shard.unrun = bool(event.unrun)
    if event.fatal:
        state.fatal[shard.lane] = event.fatal


def _count(shard: Shard, attempt: Attempt, event: Closed) -> None:
    shard.counts, shard.kept = event.counts, event.kept
    shard.again, shard.retry = event.again, event.retry
    shard.lost = event.lost or 0
    if attempt.unsure and event.lost is None:
        # Version 0.1.0 counted them among those that a later run asks again.
        absent = attempt.reason if attempt.reason in ("expired", "cancelled") else "missing"
        shard.lost = shard.kept.get(absent, 0)
        shard.again = max(0, shard.again - shard.lost)


def _dropped(state: State, shard: Shard, attempt: Attempt, event: Dropped) -> None:
    attempt.refusal = event.why


def _alias(state: State, shard: Shard, attempt: Attempt, event: Alias) -> None:
    state.aliases[event.batch_id] = (shard.number, attempt.number)
    state.batches.add(event.batch_id)


def _duplicate(state: State, shard: Shard, attempt: Attempt, event: Duplicate) -> None:
    # A second batch of one create: an attempt of its own, to be cancelled, collected and counted.
    extra = Attempt(len(shard.attempts) + 1, Phase.CREATED, batch_id=event.batch_id, stray=True)
    extra.created_at = event.ts
    state.batches.add(event.batch_id)
    state.holders[shard.lane, event.batch_id] = (shard.number, extra.number)
    state.aliases.pop(event.batch_id, None)
    extra.intent_at = attempt.intent_at
    shard.attempts.append(extra)
    _take_in(shard, extra)


def _cancelling(state: State, shard: Shard, attempt: Attempt, event: Cancelling) -> None:
    attempt.cancelling = True


_STEPS: dict[type[Event], Callable[[State, Shard, Attempt, Any], None]] = {
    Uploaded: _uploaded,
    CreateIntent: _create_intent,
    Created: _created,
    Rejected: _rejected,
    Fenced: _fenced,
    Absent: _absent,
    Parked: _parked,
    Ended: _ended,
    Throttled: _throttled,
    Collected: _collected,
    Closed: _closed,
    Dropped: _dropped,
    Alias: _alias,
    Duplicate: _duplicate,
    Cancelling: _cancelling,
}
"""What events about a submission change, beside its phase."""


def _nothing_else_waits(state: State, shard: Shard, attempt: Attempt) -> bool:
    """No other batch of the lane is, or may be, waiting at the provider."""
    return not any(
        a is not attempt and (a.phase in UNCERTAIN or a.phase is Phase.CREATED)
        for s in state.shards.values()
        if s.lane == shard.lane
        for a in s.attempts
    )


def _take_in(shard: Shard, attempt: Attempt) -> None:
    """I3: whichever attempt it belongs to, a batch is ours from here on, and nothing else of the shard is sent."""
    others = [a for a in shard.attempts if a is not attempt]
    attempt.stray = shard.replanned or any(a.phase in LIVE or a.phase is Phase.CLOSED for a in others)
    for other in others:
        if other.phase in UNSENT:
            other.phase = Phase.DROPPED


def _next_attempt(shard: Shard, retry_at: float) -> None:
    """Opens another attempt, when no batch of the shard can have answered or answer yet, and its rows are still here."""
    taken = UNRESOLVED | UNSENT | {Phase.CLOSED}
    if not shard.replanned and not any(a.phase in taken for a in shard.attempts):
        shard.attempts.append(Attempt(len(shard.attempts) + 1, retry_at=retry_at))
