"""What a journal adds up to: shards, their attempts, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any

from batchling.models import ResultFile


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


def told(default: Any) -> Any:
    """A field of an event that is always written, although older versions may have left it out."""
    return field(default=default, metadata={"always": True})


class InvariantError(AssertionError):
    """The journal says something that must not happen; nothing is sent after it."""


@dataclass(frozen=True, slots=True)
class CollectedFile:
    """What arrived of one file of results.

    Attributes:
        file: its name in responses/; None: nothing arrived.
        file_id: the provider's reference to it.
        sha256: of what arrived; bytes, lines: how much.
        whole: all answers that may have been given are in it.
        kind: `output` or `errors`; empty: a version before 0.2 wrote it.
        note: why nothing arrived.
    """

    file: str | None = told(None)
    file_id: str | None = told(None)
    sha256: str | None = told(None)
    bytes: int = told(0)
    lines: int = told(0)
    whole: bool = told(True)
    kind: str = ""
    note: str | None = None


@dataclass(slots=True)
class Attempt:
    """One sending of a shard. Times are Unix seconds, `usd` is what its answers cost.

    Attributes:
        results: files of results that the provider named when the batch had ended; files: what arrived of them.
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
    results: tuple[ResultFile, ...] = ()
    completed: int | None = None
    failed: int | None = None
    files: tuple[CollectedFile, ...] = ()
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
    def has_output(self) -> bool:
        """The provider named a file of answers."""
        return any(file.kind == "output" for file in self.results)

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
        taking_over: what another plan left open is being written as shards that the journal does not know yet.
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
    taking_over: bool = False
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
