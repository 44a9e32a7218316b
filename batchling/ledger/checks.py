"""Whether an event may follow what a journal says already. What an event must have by itself is `lines`' part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchling.ledger.events import (
    AboutSubmission,
    Awaited,
    CancelWanted,
    Closed,
    Created,
    CreateIntent,
    Duplicate,
    Event,
    Finished,
    PlanCreated,
    Planned,
    Step,
    Unread,
    Uploaded,
)
from batchling.ledger.state import OVER, UNRESOLVED, UNSENT, Attempt, InvariantError, Phase, Shard, State


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise InvariantError(text)


def attempt_of(state: State, event: AboutSubmission) -> tuple[Shard, Attempt]:
    """The shard and the submission that an event is about.

    Raises:
        InvariantError: the journal has none.
    """
    shard = state.shards.get(event.shard)
    if shard is None:
        raise InvariantError(f"I8: there is no shard {event.shard}")
    number = event.attempt
    if not 1 <= number <= len(shard.attempts):
        raise InvariantError(f"I8: shard {shard.number} has no attempt {number}")
    return shard, shard.attempts[number - 1]


def check(state: State, event: Event, *, recorded: bool = False) -> None:
    """Whether an event may follow. Pure: nothing is changed, whatever comes of it.

    Args:
        recorded: it is in a journal already. Older versions took a batch id for two submissions; that is still read.

    Raises:
        InvariantError: it may not.
    """
    found = checked(state, event)
    if not recorded and found is not None and isinstance(event, Created | Duplicate):
        _check_new(state, event, found[0])


def checked(state: State, event: Event) -> tuple[Shard, Attempt] | None:
    """`check` of an event that is in a journal already; the submission that it is about, if any."""
    if event.seq != state.seq + 1:
        raise InvariantError(f"I8: event {event.seq} after {state.seq}")
    found = None
    cls = type(event)
    if isinstance(event, Step):
        found = shard, attempt = attempt_of(state, event)
        if attempt.phase not in event.phases:
            raise InvariantError(f"shard {shard.number} attempt {attempt.number}: {event.kind} while {attempt.phase}")
        if (step := _STEPS.get(cls)) is not None:
            step(state, shard, attempt, event)
    elif isinstance(event, AboutSubmission):
        if not isinstance(event, Unread):
            found = attempt_of(state, event)
    elif (other := _OTHERS.get(cls)) is not None:
        other(state, event)
    return found


def _check_new(state: State, event: Created | Duplicate, shard: Shard) -> None:
    """I8: an id that is given again takes the place of no batch; only a person may say that an older one is over and done."""
    holder = state.holders.get((shard.lane, event.batch_id))
    if holder is not None:
        over = state.shards[holder[0]].attempts[holder[1] - 1].phase in OVER
        taken = over and isinstance(event, Created) and event.by == "person"
        _check(taken, f"I8: batch {event.batch_id} is the one of shard {holder[0]} already")


def _uploaded(state: State, shard: Shard, attempt: Attempt, event: Uploaded | CreateIntent) -> None:
    if state.serves_another(shard.lane, event.file_id, shard.number, attempt.number):
        raise InvariantError(f"I4: file {event.file_id} served a create that may still arrive")


def _create_intent(state: State, shard: Shard, attempt: Attempt, event: CreateIntent) -> None:
    _uploaded(state, shard, attempt, event)
    for other in shard.attempts:
        if other is not attempt and (other.phase in UNRESOLVED or other.phase is Phase.CLOSED):
            raise InvariantError(f"I1: shard {shard.number} would be out twice")
    if event.file_id != attempt.file_id:
        raise InvariantError(f"I4: file {event.file_id} is not this attempt's")


def _closed(state: State, shard: Shard, attempt: Attempt, event: Closed) -> None:
    total = sum(event.counts.values())
    if total != shard.rows:
        raise InvariantError(f"I6: shard {shard.number} has {shard.rows} rows, its states add up to {total}")


_STEPS: dict[type[Event], Callable[[State, Shard, Attempt, Any], None]] = {
    Uploaded: _uploaded,
    CreateIntent: _create_intent,
    Closed: _closed,
}
"""What a step needs beside the right phase."""


def _planned(state: State, event: Planned) -> None:
    new: set[int] = set()
    for shard in event.shards:
        number = shard.shard
        _check(number not in state.shards and number not in new, f"I8: shard {number} planned twice")
        new.add(number)
    for number in event.replaces:
        _check(number in state.shards or number in new, f"I8: there is no shard {number}")
        if number in state.shards:
            over = all(a.phase in OVER or a.phase in UNSENT for a in state.shards[number].attempts)
            _check(over, f"I1: shard {number} replanned while it is out")


def _awaits(state: State, event: PlanCreated | Awaited) -> None:
    for name in event.awaits:
        _check("/" not in name, f"I8: awaits {name!r} is no plan")


def _cancel_wanted(state: State, event: CancelWanted) -> None:
    for number in event.shards:
        _check(number in state.shards, f"I8: there is no shard {number}")


def _finished(state: State, event: Finished) -> None:
    _check(all(s.over for s in state.shards.values()), "I3: finished while a batch is out")


_OTHERS: dict[type[Event], Callable[[State, Any], None]] = {
    Planned: _planned,
    PlanCreated: _awaits,
    Awaited: _awaits,
    CancelWanted: _cancel_wanted,
    Finished: _finished,
}
