"""Whether an event may follow what a journal says already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from batchling.ledger.events import DOUBTS, ENVELOPE, MAY, MAYBE_TEXT, MUST, SHARD_FIELDS, TRANSITIONS, Event, Types
from batchling.ledger.state import OVER, UNRESOLVED, UNSENT, Attempt, InvariantError, Phase, Shard, State


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise InvariantError(text)


def _check_fields(
    what: str, found: Event, must: Iterable[tuple[str, Types]], may: Iterable[tuple[str, Types]] = ()
) -> None:
    for name, types in must:
        if name not in found or not isinstance(found[name], types):
            raise InvariantError(
                f"I8: {what} " + (f"with {name} {found[name]!r}" if name in found else f"without {name}")
            )
    for name, types in may:
        if name in found and not isinstance(found[name], types):
            raise InvariantError(f"I8: {what} with {name} {found[name]!r}")


def _money(value: Any, what: str) -> Decimal:
    try:
        money = Decimal(value)
    except (ArithmeticError, ValueError, TypeError):
        money = Decimal("NaN")
    if not money.is_finite():
        raise InvariantError(f"I8: {what} {value!r} is no amount")
    return money


def _check_texts(found: Iterable[Any], what: str) -> None:
    for text in found:
        if not isinstance(text, str):
            raise InvariantError(f"I8: {what} with {text!r}")


def _check_counts(counts: Mapping[Any, Any], what: str) -> None:
    if not all(isinstance(name, str) and isinstance(n, int) for name, n in counts.items()):
        raise InvariantError(f"I8: {what} {counts!r} are no counts")


def check(state: State, event: Event, *, recorded: bool = False) -> None:
    """Whether an event may follow. Pure: nothing is changed, whatever comes of it.

    Args:
        recorded: it is in a journal already. Older versions took a batch id for two submissions; that is still read.

    Raises:
        InvariantError: it may not, or it cannot be read.
    """
    _check_fields("an event", event, ENVELOPE.items())
    kind = event["kind"]
    if event["seq"] != state.seq + 1:
        raise InvariantError(f"I8: event {event['seq']} after {state.seq}")
    _check_fields(kind, event, MUST.get(kind, ()), MAY.get(kind, ()))
    if kind in TRANSITIONS:
        _check_attempt(state, kind, event)
        if kind == "created" and not recorded:
            _check_new(state, event)
    elif kind == "planned":
        _check_planned(state, event)
    elif kind in ("alias", "duplicate", "cancelling"):
        shard, _ = attempt_of(state, event)
        if kind == "duplicate" and not recorded:
            holder = state.holders.get((shard.lane, event["batch_id"]))
            _check(holder is None, f"I8: batch {event['batch_id']} is the one of shard {holder and holder[0]} already")
    elif kind in ("plan_created", "awaited"):
        _check_texts(event.get("awaits", ()), "awaits")
        for name in event.get("awaits", ()):
            _check("/" not in name, f"I8: awaits {name!r} is no plan")
        if kind == "plan_created":
            _check_texts([part for pair in event.get("files", {}).items() for part in pair], "files")
    elif kind == "session":
        _check_texts([*event["fingerprints"].keys(), *event["fingerprints"].values()], "fingerprints")
    elif kind == "cancel_wanted":
        for number in event["shards"]:
            _check(isinstance(number, int) and number in state.shards, f"I8: there is no shard {number}")
    elif kind == "finished":
        _check(all(s.over for s in state.shards.values()), "I3: finished while a batch is out")


def attempt_of(state: State, event: Event) -> tuple[Shard, Attempt]:
    shard = state.shards.get(event["shard"])
    if shard is None:
        raise InvariantError(f"I8: there is no shard {event['shard']}")
    number = event["attempt"]
    if not 1 <= number <= len(shard.attempts):
        raise InvariantError(f"I8: shard {shard.number} has no attempt {number}")
    return shard, shard.attempts[number - 1]


def _check_planned(state: State, event: Event) -> None:
    new: set[int] = set()
    for shard in event["shards"]:
        _check(isinstance(shard, Mapping), f"I8: planned {shard!r}")
        _check_fields("a planned shard", shard, SHARD_FIELDS.items(), DOUBTS)
        number = shard["shard"]
        _check(number not in state.shards and number not in new, f"I8: shard {number} planned twice")
        new.add(number)
        if shard["max_usd"] is not None:
            _money(shard["max_usd"], "max_usd")
    for number in event.get("replaces", ()):
        known = isinstance(number, int) and (number in state.shards or number in new)
        _check(known, f"I8: there is no shard {number}")
        if number in state.shards:
            over = all(a.phase in OVER | UNSENT for a in state.shards[number].attempts)
            _check(over, f"I1: shard {number} replanned while it is out")
    for number, left in event.get("left", {}).items():
        _check(isinstance(left, Mapping), f"I8: left {left!r} of shard {number}")
        _check_counts(left, f"left of shard {number}")


def _check_attempt(state: State, kind: str, event: Event) -> None:
    shard, attempt = attempt_of(state, event)
    sources, _ = TRANSITIONS[kind]
    if attempt.phase not in sources:
        raise InvariantError(f"shard {shard.number} attempt {attempt.number}: {kind} while {attempt.phase}")
    serves = kind in ("uploaded", "create_intent")
    if serves and state.serves_another(shard.lane, event["file_id"], shard.number, attempt.number):
        raise InvariantError(f"I4: file {event['file_id']} served a create that may still arrive")
    match kind:
        case "create_intent":
            others = (a for a in shard.attempts if a is not attempt)
            out = any(a.phase in UNRESOLVED or a.phase is Phase.CLOSED for a in others)
            if out:
                raise InvariantError(f"I1: shard {shard.number} would be out twice")
            if event["file_id"] != attempt.file_id:
                raise InvariantError(f"I4: file {event['file_id']} is not this attempt's")
        case "collected":
            for file in event["files"]:
                good = isinstance(file, Mapping) and isinstance(file.get("file", 0), MAYBE_TEXT)
                _check(good, f"I8: collected {file!r}")
        case "closed":
            _check_counts(event["counts"], "counts")
            _check_counts(event.get("kept", {}), "kept")
            _money(event["usd"], "usd")
            total = sum(event["counts"].values())
            if total != shard.rows:
                raise InvariantError(f"I6: shard {shard.number} has {shard.rows} rows, its states add up to {total}")


def _check_new(state: State, event: Event) -> None:
    """I8: an id that is given again takes the place of no batch; only a person may say that an older one is over and done."""
    shard, _ = attempt_of(state, event)
    holder = state.holders.get((shard.lane, event["batch_id"]))
    if holder is not None:
        over = state.shards[holder[0]].attempts[holder[1] - 1].phase in OVER
        taken = over and event.get("by") == "person"
        _check(taken, f"I8: batch {event['batch_id']} is the one of shard {holder[0]} already")
