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

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

Event = Mapping[str, Any]


class Phase(StrEnum):
    """Where one shard attempt stands."""

    PLANNED = "planned"  # bytes are on disk, nothing sent
    UPLOADING = "uploading"  # an upload may have happened: free, repeatable
    UPLOADED = "uploaded"  # the provider has the input file
    CREATING = "creating"  # a create may have happened: AMBIGUOUS until proven either way
    FENCED = "fenced"  # the input file is deleted, so a late create must fail; settling
    PARKED = "parked"  # too expensive to guess: a person decides
    ABSENT = "absent"  # proven not to have happened
    CREATED = "created"  # the provider works on it
    ENDED = "ended"  # terminal at the provider, files not fetched yet
    COLLECTED = "collected"  # raw files are verified on disk
    CLOSED = "closed"  # every row has a state
    THROTTLED = "throttled"  # refused for the enqueued-token limit: unbilled
    DROPPED = "dropped"  # never sent, or given up by a person


UNSENT = frozenset({Phase.PLANNED, Phase.UPLOADING, Phase.UPLOADED})
UNCERTAIN = frozenset({Phase.CREATING, Phase.FENCED, Phase.PARKED})
LIVE = frozenset({Phase.CREATED, Phase.ENDED, Phase.COLLECTED})
UNRESOLVED = UNCERTAIN | LIVE
"""May have been billed and is not closed: counts with its worst case."""
OVER = frozenset({Phase.CLOSED, Phase.DROPPED, Phase.THROTTLED, Phase.ABSENT})

TRANSITIONS: dict[str, tuple[frozenset[Phase], Phase]] = {
    "upload_intent": (UNSENT, Phase.UPLOADING),
    "uploaded": (frozenset({Phase.UPLOADING}), Phase.UPLOADED),
    "create_intent": (frozenset({Phase.UPLOADED}), Phase.CREATING),
    # Found in a list it may belong to any attempt that has no batch: whatever the journal believed, it is ours.
    "created": (UNSENT | UNCERTAIN | {Phase.ABSENT, Phase.DROPPED}, Phase.CREATED),
    "rejected": (frozenset({Phase.CREATING, Phase.UPLOADING, Phase.UPLOADED}), Phase.UPLOADED),
    "fenced": (frozenset({Phase.CREATING, Phase.FENCED}), Phase.FENCED),
    "absent": (UNCERTAIN, Phase.ABSENT),
    "parked": (UNCERTAIN, Phase.PARKED),
    "ended": (frozenset({Phase.CREATED}), Phase.ENDED),
    "throttled": (frozenset({Phase.ENDED}), Phase.THROTTLED),
    "collected": (frozenset({Phase.ENDED}), Phase.COLLECTED),
    "closed": (frozenset({Phase.COLLECTED}), Phase.CLOSED),
    "dropped": (UNSENT | UNCERTAIN | {Phase.CREATED, Phase.ENDED}, Phase.DROPPED),
}
"""Event kind → phases it may come in, phase it leads to."""


class InvariantError(AssertionError):
    """The journal says something that must not happen; nothing is sent after it."""


@dataclass(slots=True)
class Attempt:
    """One sending of a shard. Times are Unix seconds, `usd` is what its answers cost.

    Attributes:
        completed, failed: requests that the provider says it answered, and that it says failed; None: it does not say.
        refusals: definite refusals, one after the other, that waiting does not explain.
        stray: another batch of the shard counts; this one is cancelled, and what it answered is kept.
        fenced_file: the deletion of its input file was confirmed, so that a create can no longer arrive.
        presumed: taken for absent because the settling time was over, or given up: it may have happened.
        unsure: rows without a line may have been answered: its files did not arrive whole.
        unknown_usd: what it can have cost beyond `usd`, when answers were lost or came without a usage.
        unpriced: it has answers of an unknown price, and nothing says what they cost at most.
        alone: refused because too much waits while nothing else of its lane was waiting at the provider.
        alone_refusals: the same, told when it was to be created.
    """

    number: int
    phase: Phase = Phase.PLANNED
    file_id: str | None = None
    batch_id: str | None = None
    intent_at: float | None = None
    fenced_at: float | None = None
    fenced_mark: str | None = None
    fenced_file: bool = True
    created_at: float | None = None
    ended_at: float | None = None
    retry_at: float = 0.0
    reason: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    completed: int | None = None
    failed: int | None = None
    files: tuple[Mapping[str, Any], ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    usd: Decimal = Decimal(0)
    refusal: str | None = None
    refusals: int = 0
    cancelling: bool = False
    stray: bool = False
    adopted: bool = False
    presumed: bool = False
    unsure: bool = False
    unknown_usd: Decimal = Decimal(0)
    unpriced: bool = False
    alone: bool = False
    alone_refusals: int = 0

    @property
    def may_cost(self) -> bool:
        """It may have been billed, and what for is not read: its worst case counts."""
        given_up = self.presumed and self.phase in (Phase.ABSENT, Phase.DROPPED)
        return self.phase in UNRESOLVED or given_up

    @property
    def may_arrive(self) -> bool:
        """Its create was sent, and nothing shows a batch of it or that there will be none."""
        unproven = self.phase in UNCERTAIN or self.phase is Phase.ABSENT or self.presumed
        return self.intent_at is not None and self.batch_id is None and unproven


@dataclass(slots=True)
class Shard:
    """Immutable bytes and their attempts.

    Attributes:
        max_usd: what one attempt can cost at most; None when no price is known.
        counts: rows by state, as all its closed attempts together say.
        kept: of these, the rows that stay when `retry` rows are asked again in another shard.
        again: rows that a later run would ask again.
        lost: rows that may have been answered, and paid, by a batch whose files did not arrive whole.
        replanned: its rows to ask again are in another shard.
        unwanted: nobody wants its answers any more: it is cancelled, or not sent, and nothing of it is asked again.
        doubts: submissions of its rows, in shards that it took the place of, that may have happened after all.
        unrun: its batch failed because of single lines before any row was asked: the others have used up no attempt.
    """

    number: int
    lane: int
    rows: int
    bytes: int
    sha256: str
    input_tokens: int | None
    max_usd: Decimal | None
    row_attempt: int
    kind: str
    attempts: list[Attempt]
    counts: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, int] = field(default_factory=dict)
    again: int = 0
    lost: int = 0
    retry: int = 0
    replanned: bool = False
    unwanted: bool = False
    unrun: bool = False
    closed_at: float = 0.0
    doubts: int = 0

    @property
    def current(self) -> Attempt:
        return self.attempts[-1]

    @property
    def primary(self) -> Attempt:
        """The attempt that stands for the shard: one that is live or closed, no stray if possible, else the last."""
        found = [a for a in self.attempts if a.phase in LIVE or a.phase is Phase.CLOSED]
        return min(found, key=lambda a: a.stray, default=self.attempts[-1])

    @property
    def presumed(self) -> int:
        """Submissions of its rows that were taken for absent, or given up, and may have happened."""
        return self.doubts + sum(1 for a in self.attempts if a.presumed)

    @property
    def unsent(self) -> Attempt | None:
        """The attempt that may be sent: none while another may be out, or has been read."""
        waiting = None
        for attempt in self.attempts:
            if attempt.phase in UNSENT:
                waiting = attempt
            elif attempt.phase in UNRESOLVED or attempt.phase is Phase.CLOSED:
                return None
        return waiting

    @property
    def closed(self) -> bool:
        """Every row has a state: nothing is in flight and something was read."""
        return self.over and any(a.phase is Phase.CLOSED for a in self.attempts)

    @property
    def given_up(self) -> Attempt | None:
        """The attempt that a person gave up although it may have been paid, when nothing of the shard was read."""
        if not self.over or self.closed or self.replanned:
            return None
        return next((a for a in reversed(self.attempts) if a.presumed and a.phase is Phase.DROPPED), None)

    @property
    def over(self) -> bool:
        return all(a.phase in OVER for a in self.attempts)


@dataclass(slots=True)
class State:
    """The fold of a journal.

    Attributes:
        batches: every batch id that the journal has.
        holders: (lane, batch id) → (shard, attempt) whose batch it is; the latest, where a provider gave an id again.
        aliases: another id under which a batch is known → its (shard, attempt).
        files: (lane, input file id) → (shard, attempt) that it was uploaded for; the latest.
        shared: the same for ids that were given for several: all of them. Stores that name files by their bytes do so,
            and servers that count from 1 again after a restart.
        learned: (group, model) → enqueued-token limit that a refusal named; guessed: one that repeated refusals showed.
        learned_requests: (group, model) → requests that may wait at once, as a refusal named it.
        too_large: (group, model, `bytes` or `rows`) → how much of it a batch may have at most, from a refusal.
        creations: lane → when creates were sent, Unix seconds.
        fatal: lane → why the provider refuses everything until a person acts.
        awaits: names of held requests, each of a plan that is buying their keys.
        spent: USD of what is closed.
        sessions: processes that have driven the plan.
    """

    seq: int = 0
    ts: float = 0.0
    created_ts: float = 0.0
    shards: dict[int, Shard] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    learned: dict[tuple[str, str], int] = field(default_factory=dict)
    guessed: dict[tuple[str, str], int] = field(default_factory=dict)
    learned_requests: dict[tuple[str, str], int] = field(default_factory=dict)
    too_large: dict[tuple[str, str, str], int] = field(default_factory=dict)
    creations: dict[int, list[float]] = field(default_factory=dict)
    cancel_requested: bool = False
    finished: str | None = None
    finished_at: float | None = None
    fatal: dict[int, str] = field(default_factory=dict)
    files: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    shared: dict[tuple[int, str], tuple[tuple[int, int], ...]] = field(default_factory=dict)
    holders: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    batches: set[str] = field(default_factory=set)
    aliases: dict[str, tuple[int, int]] = field(default_factory=dict)
    awaits: set[str] = field(default_factory=set)
    spent: Decimal = Decimal(0)
    sessions: int = 0

    def attempts(self) -> Iterator[tuple[Shard, Attempt]]:
        for shard in self.shards.values():
            for attempt in shard.attempts:
                yield shard, attempt

    def owners(self, lane: int, file_id: str) -> tuple[tuple[int, int], ...]:
        """Every (shard, attempt) that an input file id was given for, in the order in which it was."""
        place = lane, file_id
        if place in self.shared:
            return self.shared[place]
        return (self.files[place],) if place in self.files else ()

    def serves_another(self, lane: int, file_id: str, shard: int, attempt: int) -> bool:
        """I4: whether a create of another attempt may still reach the provider with this file id.

        If it names a file again, that create goes through, and one that was held off by deleting the file happens after all.
        """
        return any(
            owner != (shard, attempt)
            and (held := self.shards[owner[0]].attempts[owner[1] - 1]).file_id == file_id
            and held.may_arrive
            for owner in self.owners(lane, file_id)
        )

    def worst(self) -> Decimal:
        """USD that may be spent in the end: what is closed, and the worst case of what may be out.

        A submission that was taken for absent by the clock, or given up by a person, still counts: should it
        have happened after all, the budget holds even so.
        """
        total = self.spent
        for shard, attempt in self.attempts():
            if attempt.may_cost:
                total += shard.max_usd or Decimal(0)
            else:
                total += attempt.unknown_usd
        return total

    def known_spent(self, lane: int | None = None) -> Decimal | None:
        """USD of what is closed, of one lane or all; None when the price of an answer is not known, or of no answer what it cost."""
        total = self._priced(lane)
        if total == 0 and any(a.unknown_usd for s, a in self.attempts() if lane is None or s.lane == lane):
            return None
        return total

    def _priced(self, lane: int | None) -> Decimal | None:
        total = Decimal(0)
        for shard, attempt in self.attempts():
            if lane is None or shard.lane == lane:
                if attempt.unpriced:
                    return None
                total += attempt.usd
        return total

    def known_worst(self, lane: int | None = None) -> Decimal | None:
        """USD of what is closed, and the worst case of what may be out; None when a price or a size is not known."""
        total = self._priced(lane)
        for shard, attempt in self.attempts():
            if total is None or (lane is not None and shard.lane != lane):
                continue
            if attempt.may_cost:
                total = None if shard.max_usd is None else total + shard.max_usd
            else:
                total += attempt.unknown_usd
        return total

    def open_shards(self) -> Iterator[Shard]:
        """Shards that may still bring answers: they are not over, or rows of them are about to be asked again."""
        for shard in self.shards.values():
            asks_again = shard.retry and not (shard.replanned or shard.unwanted or self.cancel_requested)
            if asks_again or not shard.over:
                yield shard

    @property
    def again(self) -> int:
        """Requests that a later run would send again: never answered, or answered by an error that may pass.

        Without those of `doubts`: they may be paid, so nothing asks them again by itself.
        """
        total = 0
        for shard in self.shards.values():
            if shard.replanned:
                left = shard.kept.get("cancelled", 0)
                was_cancelled = any(a.unsure and a.reason == "cancelled" for a in shard.attempts)
                total += max(0, left - shard.lost) if was_cancelled else left
            elif shard.closed:
                total += shard.again
            elif not shard.given_up:
                total += shard.rows
        return total

    def doubts(self) -> Iterator[tuple[Shard, Attempt, int]]:
        """What may have been paid and was not received: shard, the attempt that it may have been paid for, and how many rows."""
        for shard in self.shards.values():
            if shard.closed and shard.lost:
                yield shard, [a for a in shard.attempts if a.unsure][-1], shard.lost
            elif (given_up := shard.given_up) is not None:
                yield shard, given_up, shard.rows

    def counts(self, lane: int | None = None) -> dict[str, int]:
        """Requests by state, of one lane or all; what is not closed is `pending`. A row that was asked again counts where it went."""
        total: dict[str, int] = {}
        for shard in self.shards.values():
            if lane is not None and shard.lane != lane:
                continue
            counts: Mapping[str, int]
            if shard.replanned:
                counts = shard.kept
            elif shard.closed:
                counts = shard.counts
            else:
                given_up = shard.over and shard.attempts[-1].phase is Phase.DROPPED
                counts = {"cancelled" if given_up else "pending": shard.rows}
            for name, n in counts.items():
                total[name] = total.get(name, 0) + n
        return total


def _check(condition: bool, text: str) -> None:
    if not condition:
        raise InvariantError(text)


_TEXT, _MAYBE_TEXT = (str,), (str, type(None))
_WHOLE, _MAYBE_WHOLE = (int,), (int, type(None))
_NUMBER, _MAYBE_NUMBER = (int, float), (int, float, type(None))
_MONEY, _MAYBE_MONEY = (str, int, float), (str, int, float, type(None))
_MAP, _LIST = (dict,), (list, tuple)

Types = tuple[type, ...]

FIELDS: dict[str, dict[str, Types]] = {
    "planned": {"shards": _LIST},
    "awaited": {"plan_id": _TEXT},
    "session": {"fingerprints": _MAP},
    "learned": {"group": _TEXT, "model": _TEXT, "limit": _WHOLE},
    "cancel_wanted": {"shards": _LIST},
    "alias": {"shard": _WHOLE, "attempt": _WHOLE, "batch_id": _TEXT},
    "duplicate": {"shard": _WHOLE, "attempt": _WHOLE, "batch_id": _TEXT},
    "cancelling": {"shard": _WHOLE, "attempt": _WHOLE},
    "finished": {"state": _TEXT},
    "uploaded": {"file_id": _TEXT},
    "create_intent": {"file_id": _TEXT},
    "created": {"batch_id": _TEXT},
    "ended": {"reason": _TEXT},
    "collected": {"files": _LIST},
    "closed": {"counts": _MAP, "usd": _MONEY},
}
"""Event kind → what must be in it, beside `shard` and `attempt` in every one that is about an attempt."""

MAYBE: dict[str, dict[str, Types]] = {
    "planned": {"replaces": _LIST, "left": _MAP},
    "plan_created": {"awaits": _LIST, "files": _MAP},
    "awaited": {"awaits": _LIST},
    "rejected": {"retry_at": _MAYBE_NUMBER, "refusals": _WHOLE},
    "fenced": {"mark": _MAYBE_TEXT},
    "ended": {
        "output_file_id": _MAYBE_TEXT,
        "error_file_id": _MAYBE_TEXT,
        "completed": _MAYBE_WHOLE,
        "failed": _MAYBE_WHOLE,
    },
    "throttled": {"retry_at": _MAYBE_NUMBER},
    "closed": {"kept": _MAP, "again": _WHOLE, "retry": _WHOLE, "fatal": _MAYBE_TEXT},
}
"""The same for what may be left out."""

SHARD_FIELDS: dict[str, Types] = {
    "shard": _WHOLE,
    "lane": _WHOLE,
    "rows": _WHOLE,
    "bytes": _WHOLE,
    "sha256": _TEXT,
    "input_tokens": _MAYBE_WHOLE,
    "max_usd": _MAYBE_MONEY,
    "row_attempt": _WHOLE,
    "kind": _TEXT,
}
"""What a `planned` event says of a shard."""

_ABOUT: dict[str, Types] = {"shard": _WHOLE, "attempt": _WHOLE}
_EVENT: dict[str, Types] = {"seq": _WHOLE, "ts": _NUMBER, "kind": _TEXT}

_MUST = {
    kind: tuple({**(_ABOUT if kind in TRANSITIONS else {}), **FIELDS.get(kind, {})}.items())
    for kind in {*FIELDS, *TRANSITIONS}
}
_DOUBTS = (("doubts", _WHOLE),)
_MAY = {kind: tuple(fields.items()) for kind, fields in MAYBE.items()}


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
    _check_fields("an event", event, _EVENT.items())
    kind = event["kind"]
    if event["seq"] != state.seq + 1:
        raise InvariantError(f"I8: event {event['seq']} after {state.seq}")
    _check_fields(kind, event, _MUST.get(kind, ()), _MAY.get(kind, ()))
    if kind in TRANSITIONS:
        _check_attempt(state, kind, event)
        if kind == "created" and not recorded:
            _check_new(state, event)
    elif kind == "planned":
        _check_planned(state, event)
    elif kind in ("alias", "duplicate", "cancelling"):
        shard, _ = _attempt_of(state, event)
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


def _attempt_of(state: State, event: Event) -> tuple[Shard, Attempt]:
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
        _check_fields("a planned shard", shard, SHARD_FIELDS.items(), _DOUBTS)
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
    shard, attempt = _attempt_of(state, event)
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
                good = isinstance(file, Mapping) and isinstance(file.get("file", 0), _MAYBE_TEXT)
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
    shard, _ = _attempt_of(state, event)
    holder = state.holders.get((shard.lane, event["batch_id"]))
    if holder is not None:
        over = state.shards[holder[0]].attempts[holder[1] - 1].phase in OVER
        taken = over and event.get("by") == "person"
        _check(taken, f"I8: batch {event['batch_id']} is the one of shard {holder[0]} already")


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
    elif kind == "planned":
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
    shard, attempt = _attempt_of(state, event)
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


class Do(StrEnum):
    """What `decide` can ask for."""

    UPLOAD = "upload"
    CREATE = "create"
    RECOVER = "recover"  # list; adopt, or fence
    SETTLE = "settle"  # the settling time is over: list again; adopt, absent or park
    POLL = "poll"  # everything that is out in a group of lanes
    COLLECT = "collect"
    INGEST = "ingest"
    SPLIT = "split"
    REPLAN = "replan"
    CANCEL = "cancel"
    DROP = "drop"
    AUDIT = "audit"
    FINISH = "finish"
    WAIT = "wait"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `until` (Unix seconds) goes with WAIT, `why` with STOP: parked, budget, refused or unread."""

    do: Do
    shard: int = 0
    attempt: int = 0
    lane: int = 0
    group: str = ""
    until: float = 0.0
    why: str = ""
    shards: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Lane:
    """Requests that may share a batch: one provider, endpoint and model, with the limits that hold for them.

    `group` names the provider connection; lanes of one group are listed and polled together.
    """

    number: int
    group: str
    model: str
    settle_seconds: float = 900.0
    can_list: bool = True
    can_fence: bool = True
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
    """

    due: dict[tuple[str, int, int], float] = field(default_factory=dict)
    settling: dict[tuple[int, int], float] = field(default_factory=dict)
    resumed: bool = False
    torn: bool = False
    unread: set[tuple[int, int]] = field(default_factory=set)
    ends: dict[tuple[int, int], float] = field(default_factory=dict)
    polls: dict[str, float] = field(default_factory=dict)
    audits: dict[str, float] = field(default_factory=dict)
    audited_seq: dict[str, int] = field(default_factory=dict)

    def ready(self, do: str, shard: int, attempt: int) -> float:
        """Unix seconds from which the call may be made."""
        return self.due.get((do, shard, attempt), 0.0)


SPLIT_AFTER = 4
"""Refusals for the enqueued-token limit, with nothing else of ours waiting, after which a shard is cut in two."""

PATIENCE = 3
"""How many times more of them a shard bears that is far below the limit: somebody else's batches may be in its way."""

COUNTED_HIGHER = 1.5
"""By how much a provider may well count more tokens than we do."""


HOUR = 3_605.0
"""Seconds that a create counts against the creations of an hour: the provider's clock starts when it hears of it."""


def size_of(shard: Shard) -> int:
    """Prompt tokens of a shard; where they were not counted, a guess of four bytes each."""
    return shard.bytes // 4 if shard.input_tokens is None else shard.input_tokens


def limit_of(state: State, lane: Lane) -> int | None:
    """Prompt tokens that may wait at once in a lane: the least of what is published, named by a refusal, and guessed."""
    named = named_limit(state, lane)
    known = [n for n in (named, state.guessed.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


def named_limit(state: State, lane: Lane) -> int | None:
    """`limit_of` without guesses."""
    known = [n for n in (lane.enqueued_tokens, state.learned.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


UNPROVEN_USD = Decimal(1)
"""At most this is assumed absent where the input file could not be deleted, whatever `retry.resubmit_usd` allows."""


def at_stake(shard: Shard) -> Decimal | None:
    """USD that could be paid twice if a shard were sent again: all submissions of it that were, or are about to be,
    taken for absent may have happened after all. None: its price is not known."""
    if shard.max_usd is None:
        return None
    return shard.max_usd * (shard.presumed + 1)


def resubmit_limit(policy: Policy, attempt: Attempt) -> Decimal:
    """USD up to which a submission that does not show is taken for absent without asking a person."""
    return policy.resubmit_usd if attempt.fenced_file else min(policy.resubmit_usd, UNPROVEN_USD)


def settling_seconds(lane: Lane, shard: Shard, attempt: Attempt, policy: Policy) -> float:
    """How long a submission has to stay out of the list: the longer, the more is at stake.

    The provider's time for up to a dollar, and its square root more above: ten times that long for 100 USD. What a
    person is asked about anyway waits no longer than a cheap one.
    """
    stake = at_stake(shard)
    if stake is None or stake > resubmit_limit(policy, attempt):
        return lane.settle_seconds
    return lane.settle_seconds * max(1.0, math.sqrt(stake))


def requests_limit_of(state: State, lane: Lane) -> int | None:
    """Requests that may wait at once in a lane: the least of what is set and what a refusal named."""
    known = [n for n in (lane.enqueued_requests, state.learned_requests.get((lane.group, lane.model))) if n is not None]
    return min(known) if known else None


def largest_of(state: State, lane: Lane) -> tuple[int | None, int | None]:
    """Bytes and rows that a batch of a lane may have at most, as far as refusals told; None: nothing was told."""
    place = lane.group, lane.model
    return state.too_large.get((*place, "bytes")), state.too_large.get((*place, "rows"))


def ran_at_once(state: State, lane: Lane, lanes: tuple[Lane, ...], before: tuple[float, int]) -> tuple[int, int]:
    """The most prompt tokens, and requests, that are known to have been at the provider at once for a lane's model.

    Only batches count that were worked on to an end: a limit that is below them is not meant so. When one ended is
    known as of the look that showed it.

    Args:
        before: when the batch that was refused was created (Unix seconds), and its shard: only earlier ones count.
    """
    ran = []
    for shard, attempt in state.attempts():
        other = lanes[shard.lane]
        if (other.group, other.model) != (lane.group, lane.model) or attempt.created_at is None:
            continue
        if (attempt.created_at, shard.number) >= before:
            continue
        if attempt.reason == "completed" or (attempt.reason in ("expired", "cancelled") and attempt.completed):
            ran.append((attempt.created_at, attempt.ended_at or attempt.created_at, size_of(shard), shard.rows))
    most_tokens = most_rows = 0
    for start, *_ in ran:
        there = [
            (tokens, rows) for begun, ended, tokens, rows in ran if begun <= start and (ended > start or begun == start)
        ]
        most_tokens = max(most_tokens, sum(tokens for tokens, _ in there))
        most_rows = max(most_rows, sum(rows for _, rows in there))
    return most_tokens, most_rows


def decide(state: State, now: float, policy: Policy, pace: Pace) -> list[Action]:
    """What can be done at `now`: everything that needs no waiting, else one WAIT, STOP or FINISH."""
    if state.finished:
        return [Action(Do.STOP, why="finished")]
    actions: list[Action] = []
    wake: list[float] = []

    def when(moment: float, action: Action) -> None:
        if moment <= now:
            actions.append(action)
        else:
            wake.append(moment)

    groups = _groups(state, policy, pace)
    sent, perhaps, out, shown = groups.sent, groups.perhaps, groups.out, groups.shown
    rarely: list[tuple[float, Action]] = []  # done only while there is something else to wait for
    for group in sent | perhaps:
        # Before anything else in a process, and now and then: is there a batch with one of our files that we don't know?
        ready = pace.ready("audit " + group, 0, 0)
        if group not in pace.audits:
            when(ready, Action(Do.AUDIT, group=group))
        elif group in shown:
            when(max(ready, pace.audits[group] + policy.audit_seconds), Action(Do.AUDIT, group=group))
    if actions:
        return actions

    for shard, attempt in state.attempts():
        number, n = shard.number, attempt.number
        lane = policy.lanes[shard.lane]
        if attempt.phase is Phase.FENCED:
            settled = pace.settling.get((number, n), now) + settling_seconds(lane, shard, attempt, policy)
            when(max(settled, pace.ready("settle", number, n)), Action(Do.SETTLE, number, n, shard.lane))
        elif attempt.phase is Phase.COLLECTED:
            actions.append(Action(Do.INGEST, number, n, shard.lane))
        elif (do := _call_for(state, shard, attempt)) is not None:
            call = pace.ready(str(do), number, n), Action(do, number, n, shard.lane)
            if (number, n) in pace.unread:
                rarely.append(call)
            else:
                when(*call)
    unlooked = perhaps.keys() - pace.audits.keys()
    blocked = _submit(state, now, policy, pace, actions, when, unlooked)
    for group in out:
        poll = pace.polls.get(group, 0.0), Action(Do.POLL, group=group)
        if group in shown:
            when(*poll)
        else:
            rarely.append(poll)
    blocked |= _replan(state, now, policy, actions, wake, blocked=bool(blocked))
    back = [a for a in actions if a.do in (Do.RECOVER, Do.SETTLE)]
    if back:
        return back  # what may have been spent is found out before anything more is
    if actions or wake:
        for each in rarely:
            when(*each)
    if actions:
        return actions
    if wake:
        return [Action(Do.WAIT, until=min(wake))]
    for group in sent:
        # The last look: the journal has moved since this group was audited.
        if pace.audited_seq.get(group, -1) < state.seq:
            when(pace.ready("audit " + group, 0, 0), Action(Do.AUDIT, group=group))
    if actions or wake:
        return actions or [Action(Do.WAIT, until=min(wake))]
    if any(a.phase is Phase.PARKED for _, a in state.attempts()):
        blocked.add("parked")
    if rarely:
        blocked.add("unread")
    for why in ("parked", "refused", "unread", "budget"):
        if why in blocked:
            return [Action(Do.STOP, why=why)]
    return [Action(Do.FINISH)]


@dataclass(slots=True)
class _Groups:
    """Groups of lanes, in the order of their shards.

    Attributes:
        sent: those that can be audited and that something was sent to.
        perhaps: those that something may have been sent to without a word of it in the journal.
        out: those with batches at the provider; shown: of these, those with a batch that can be read.
    """

    sent: dict[str, None] = field(default_factory=dict)
    perhaps: dict[str, None] = field(default_factory=dict)
    out: dict[str, None] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)


def _groups(state: State, policy: Policy, pace: Pace) -> _Groups:
    groups = _Groups()
    for shard, attempt in state.attempts():
        lane = policy.lanes[shard.lane]
        if attempt.intent_at and lane.can_list:
            groups.sent[lane.group] = None
        elif attempt.phase in UNSENT and lane.can_list:
            leaves = not (state.cancel_requested or shard.unwanted)
            if pace.torn or (pace.resumed and leaves):
                groups.perhaps[lane.group] = None
        if attempt.phase is Phase.CREATED:
            groups.out[lane.group] = None
            if (shard.number, attempt.number) not in pace.unread:
                groups.shown.add(lane.group)
    return groups


def _call_for(state: State, shard: Shard, attempt: Attempt) -> Do | None:
    """The call that an attempt is waiting for; None: it waits for the provider, or for something else."""
    match attempt.phase:
        case Phase.CREATING:
            return Do.RECOVER
        case Phase.CREATED:
            unwanted = attempt.stray or shard.unwanted or state.cancel_requested
            return Do.CANCEL if unwanted and not attempt.cancelling else None
        case Phase.ENDED:
            return Do.COLLECT
        case _:
            return None


def _submit(
    state: State,
    now: float,
    policy: Policy,
    pace: Pace,
    actions: list[Action],
    when: Any,
    unlooked: Collection[str] = (),
) -> set[str]:
    """Adds uploads and creates that limits and budget admit; returns why others are held for good.

    Args:
        unlooked: groups whose list is to be read before anything is sent.
    """
    blocked: set[str] = set()
    tokens: dict[tuple[str, str], int] = {}
    requests: dict[tuple[str, str], int] = {}
    batches: dict[str, int] = {}
    creations: dict[str, list[float]] = {}
    for lane in policy.lanes:
        made = creations.setdefault(lane.group, [])
        made += [t for t in state.creations.get(lane.number, ()) if t > now - HOUR]
    held: dict[tuple[str, str], float] = {}
    unsent = [(shard, attempt) for shard in state.shards.values() if (attempt := shard.unsent) is not None]
    for shard, attempt in unsent:
        if attempt.retry_at > now:
            lane = policy.lanes[shard.lane]
            key = (lane.group, lane.model)
            held[key] = max(held.get(key, 0.0), attempt.retry_at)
    out = False
    worst = state.worst()
    for shard, attempt in state.attempts():
        if attempt.phase in (Phase.CREATING, Phase.FENCED, Phase.CREATED):
            lane = policy.lanes[shard.lane]
            key = (lane.group, lane.model)
            tokens[key] = tokens.get(key, 0) + size_of(shard)
            requests[key] = requests.get(key, 0) + shard.rows
            batches[lane.group] = batches.get(lane.group, 0) + 1
        out = out or attempt.phase in LIVE or attempt.phase in (Phase.CREATING, Phase.FENCED)
    for shard, attempt in unsent:
        lane = policy.lanes[shard.lane]
        key = (lane.group, lane.model)
        number, n = shard.number, attempt.number
        if lane.group in unlooked:
            continue
        if state.cancel_requested or shard.unwanted:
            actions.append(Action(Do.DROP, number, n, shard.lane))
            continue
        if shard.lane in state.fatal:
            blocked.add("refused")
            continue
        limit = limit_of(state, lane)
        size = size_of(shard)
        most = requests_limit_of(state, lane)
        bytes_, rows = largest_of(state, lane)
        oversized = (bytes_ is not None and shard.bytes > bytes_) or any(
            n is not None and shard.rows > n for n in (rows, most)
        )
        refused = sum(a.alone + a.alone_refusals for a in shard.attempts)
        patience = PATIENCE if limit is not None and size * COUNTED_HIGHER <= limit else 1
        stuck = refused >= SPLIT_AFTER * patience and not tokens.get(key)
        if shard.rows > 1 and (stuck or oversized or (limit is not None and size > limit)):
            actions.append(Action(Do.SPLIT, number, n, shard.lane))
            continue
        named = named_limit(state, lane)
        if stuck and named is not None and size > named:
            blocked.add("refused")  # one request that is larger than all that may wait: it can never run here
            continue
        if limit is not None and tokens.get(key, 0) and tokens[key] + size > limit:
            continue  # its turn comes when a batch of this model ends
        if most is not None and requests.get(key, 0) and requests[key] + shard.rows > most:
            continue
        if lane.concurrent_batches and batches.get(lane.group, 0) >= lane.concurrent_batches:
            continue
        # A refusal for now holds for the whole model: the next shard would hear the same.
        ready = max(held.get(key, 0.0), pace.ready("submit", number, n))
        if lane.creations_per_hour:
            made = sorted(creations[lane.group])
            if len(made) >= lane.creations_per_hour:
                ready = max(ready, made[-lane.creations_per_hour] + HOUR)
        cost = shard.max_usd or Decimal(0)
        if policy.budget_usd is not None and worst + cost > policy.budget_usd:
            if not out:
                blocked.add("budget")
            continue  # batches in flight may cost less than their worst case
        do = Do.CREATE if attempt.phase is Phase.UPLOADED else Do.UPLOAD
        when(ready, Action(do, number, n, shard.lane))
        tokens[key] = tokens.get(key, 0) + size
        requests[key] = requests.get(key, 0) + shard.rows
        batches[lane.group] = batches.get(lane.group, 0) + 1
        creations[lane.group].append(max(now, ready))
        worst += cost
    return blocked


def _replan(
    state: State, now: float, policy: Policy, actions: list[Action], wake: list[float], *, blocked: bool
) -> set[str]:
    """Rows to ask again are gathered per lane while others of the lane are out, but not for long; why some are held.

    What waits for a person, or is held by the budget (`blocked`), is not waited for: nothing comes of it.
    """
    held: set[str] = set()
    if state.cancel_requested:
        return held

    def moves(shard: Shard) -> bool:
        phase = shard.current.phase
        return not (shard.over or phase is Phase.PARKED or (blocked and phase in UNSENT))

    for lane in policy.lanes:
        waiting = [
            s
            for s in state.shards.values()
            if s.lane == lane.number and s.retry and not s.replanned and not s.unwanted and s.over
        ]
        if not waiting:
            continue
        if lane.number in state.fatal:
            held.add("refused")  # they stay open until a person has acted
            continue
        busy = any(s.lane == lane.number and moves(s) for s in state.shards.values())
        due = min(s.closed_at for s in waiting) + (policy.merge_seconds if busy else 0.0)
        if due <= now:
            actions.append(Action(Do.REPLAN, lane=lane.number, shards=tuple(s.number for s in waiting)))
        else:
            wake.append(due)
    return held
