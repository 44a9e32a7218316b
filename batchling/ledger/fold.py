"""Folds events into a state."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from batchling.ledger.checks import attempt_of, check
from batchling.ledger.events import TRANSITIONS, Event
from batchling.ledger.state import LIVE, UNCERTAIN, UNRESOLVED, UNSENT, Attempt, Phase, Shard, State


def apply(state: State, event: Event) -> State:
    """Folds one event in. The state given is changed and returned: its owner hands it over.

    Raises:
        InvariantError: the event may not follow what came before; the state is as it was.
    """
    check(state, event, recorded=True)
    kind = event["kind"]
    state.seq, state.ts = event["seq"], event["ts"]
    if kind in TRANSITIONS:
        _apply_attempt(state, kind, event)
    elif kind == "taking_over":
        state.taking_over = True
    elif kind == "planned":
        state.taking_over = False
        for shard in event["shards"]:
            number = shard["shard"]
            usd = shard["max_usd"]
            state.shards[number] = Shard(
                number=number,
                lane=shard["lane"],
                rows=shard["rows"],
                bytes=shard["bytes"],
                sha256=shard["sha256"],
                input_tokens=shard["input_tokens"],
                max_usd=None if usd is None else Decimal(usd),
                row_attempt=shard["row_attempt"],
                kind=shard["kind"],
                attempts=[Attempt(1)],
                doubts=shard.get("doubts", 0),
            )
        for number in event.get("replaces", ()):
            old = state.shards[number]
            for attempt in old.attempts:
                if attempt.phase in UNSENT:
                    attempt.phase = Phase.DROPPED
            old.replanned = True
            left = event.get("left", {}).get(str(number), {})
            old.kept = {name: old.kept.get(name, 0) + left.get(name, 0) for name in {**old.kept, **left}}
    elif kind == "plan_created":
        state.created_ts = event["ts"]
        state.awaits.update(event.get("awaits", ()))
    elif kind == "awaited":
        state.awaits.discard(event["plan_id"])
        state.awaits.update(event.get("awaits", ()))
    elif kind == "session":
        state.sessions += 1
        state.fingerprints.update(event["fingerprints"])
        state.fatal.clear()
        state.guessed.clear()  # what was in the way then may be gone
    elif kind == "learned":
        # The least of what was heard: the provider repeats its figure although it counts more tokens than we do.
        place = event["group"], event["model"]
        unit = event.get("unit", "tokens")
        if unit in ("bytes", "rows"):
            most = (*place, unit)
            state.too_large[most] = min(event["limit"], state.too_large.get(most, event["limit"]))
        elif unit in ("tokens", "requests"):
            known = state.learned_requests if unit == "requests" else state.learned
            if event.get("guessed"):
                known = state.guessed
            known[place] = min(event["limit"], known.get(place, event["limit"]))
    elif kind == "cancel_wanted":
        for number in event["shards"]:
            state.shards[number].unwanted = True
    elif kind == "alias":
        state.aliases[event["batch_id"]] = (event["shard"], event["attempt"])
        state.batches.add(event["batch_id"])
    elif kind == "duplicate":
        # A second batch of one create: an attempt of its own, to be cancelled, collected and counted.
        shard = state.shards[event["shard"]]
        extra = Attempt(len(shard.attempts) + 1, Phase.CREATED, batch_id=event["batch_id"], stray=True)
        extra.created_at = event["ts"]
        state.batches.add(event["batch_id"])
        state.holders[shard.lane, event["batch_id"]] = (shard.number, extra.number)
        state.aliases.pop(event["batch_id"], None)
        extra.intent_at = shard.attempts[event["attempt"] - 1].intent_at
        shard.attempts.append(extra)
        _take_in(shard, extra)
    elif kind == "cancelling":
        state.shards[event["shard"]].attempts[event["attempt"] - 1].cancelling = True
    elif kind == "cancel_requested":
        state.cancel_requested = True
    elif kind == "finished":
        state.finished = event["state"]
        state.finished_at = event["ts"]
    # Any other kind (audited, cleaned, …) is a remark that changes nothing.
    return state


def _apply_attempt(state: State, kind: str, event: Event) -> None:
    shard, attempt = attempt_of(state, event)
    before, attempt.phase = attempt.phase, TRANSITIONS[kind][1]
    match kind:
        case "uploaded":
            attempt.file_id = event["file_id"]
            place, mine = (shard.lane, event["file_id"]), (shard.number, attempt.number)
            before_us = tuple(owner for owner in state.owners(*place) if owner != mine)
            if before_us:
                state.shared[place] = (*before_us, mine)
            state.files[place] = mine
        case "create_intent":
            attempt.intent_at = event["ts"]
            state.creations.setdefault(shard.lane, []).append(event["ts"])
        case "created":
            # I3: whichever attempt it belongs to, the batch is ours from here on.
            attempt.batch_id = event["batch_id"]
            state.batches.add(event["batch_id"])
            state.holders[shard.lane, event["batch_id"]] = (shard.number, attempt.number)
            attempt.created_at = event["ts"]
            attempt.adopted = bool(event.get("adopted"))
            _take_in(shard, attempt)
        case "rejected":
            attempt.retry_at = event.get("retry_at") or 0.0
            attempt.refusal = f"{event.get('code') or event.get('status')}: {event.get('message') or ''}"
            attempt.refusals = event.get("refusals", 0)
            if event.get("reupload") or attempt.file_id is None:
                attempt.phase, attempt.file_id = Phase.PLANNED, None
            if event.get("about") in WAITING and _nothing_else_waits(state, shard, attempt):
                attempt.alone_refusals += 1
            if event.get("fatal"):
                state.fatal[shard.lane] = event.get("why") or attempt.refusal
        case "fenced":
            attempt.fenced_at = event["ts"]
            attempt.fenced_mark = event.get("mark")
            attempt.fenced_file = event.get("deleted", True)
        case "parked":
            attempt.refusal = event.get("why") or attempt.refusal
        case "absent":
            attempt.presumed = event.get("by") != "person"
            _next_attempt(shard, 0.0)
        case "ended":
            attempt.reason = event["reason"]
            attempt.output_file_id = event.get("output_file_id")
            attempt.error_file_id = event.get("error_file_id")
            attempt.completed = event.get("completed")
            attempt.failed = event.get("failed")
            attempt.ended_at = event["ts"]
        case "throttled":
            attempt.alone = event.get("about", "tokens") in WAITING and _nothing_else_waits(state, shard, attempt)
            if event.get("fatal"):
                state.fatal[shard.lane] = event["fatal"]
            _next_attempt(shard, event.get("retry_at") or 0.0)
        case "collected":
            attempt.files = tuple(event["files"])
        case "closed":
            attempt.counts = event["counts"]
            attempt.unsure = bool(event.get("unsure"))
            attempt.usd = Decimal(event["usd"])
            state.spent += attempt.usd
            attempt.unpriced = bool(event.get("unpriced")) and shard.max_usd is None
            if (attempt.unsure or event.get("unpriced")) and shard.max_usd is not None:
                attempt.unknown_usd = max(Decimal(0), shard.max_usd - attempt.usd)
            if not shard.replanned:  # a stray that ends later changes nothing about rows that moved on
                shard.counts, shard.kept = event["counts"], event.get("kept", {})
                shard.again, shard.retry = event.get("again", 0), event.get("retry", 0)
                shard.lost = event.get("lost", 0)
                if attempt.unsure and "lost" not in event:
                    # Version 0.1.0 counted them among those that a later run asks again.
                    absent = attempt.reason if attempt.reason in ("expired", "cancelled") else "missing"
                    shard.lost = shard.kept.get(absent, 0)
                    shard.again = max(0, shard.again - shard.lost)
            shard.closed_at = event["ts"]
            shard.unrun = bool(event.get("unrun"))
            if event.get("fatal"):
                state.fatal[shard.lane] = event["fatal"]
        case "dropped":
            attempt.refusal = event.get("why")
            attempt.presumed = before not in UNSENT


WAITING = frozenset({"tokens", "requests"})
"""What a refusal is about where a smaller batch may pass although nothing of ours waits."""


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


def replay(events: list[dict[str, Any]]) -> State:
    """The state that a journal's events lead to."""
    state = State()
    for event in events:
        apply(state, event)
    return state
