"""One process's hold on one plan: its journal, the state that follows from it, and what it talks to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchling.clock import Clock
from batchling.disk import Disk
from batchling.journal import Journal
from batchling.ledger import Attempt, Lane, Pace, Phase, Policy, Shard, State, apply, check
from batchling.models import Batch, Price
from batchling.providers import Provider
from batchling.runner.folder import PlanFolder
from batchling.runner.judging import Schemas
from batchling.runner.shards import LaneShape

MAX_BACKOFF_SECONDS = 300.0


def write(journal: Journal, state: State, events: Iterable[dict[str, Any]], *, ts: float) -> Iterator[dict[str, Any]]:
    """The one way into a journal: each event is checked against the state, appended durably, then folded in.

    Args:
        ts: Unix seconds.

    Raises:
        InvariantError: one may not follow; it was not written.
    """
    for event in events:
        check(state, journal.line(event, ts=ts))
        for line in journal.append([event], ts=ts):
            apply(state, line)
            yield line


class Observer(Protocol):
    """Who wants to know how it goes: the terminal's display, a log, nobody."""

    def event(self, session: Session, event: dict[str, Any]) -> None: ...
    def polled(self, session: Session) -> None: ...
    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None: ...


class Silent:
    """An observer that does not look."""

    def event(self, session: Session, event: dict[str, Any]) -> None: ...
    def polled(self, session: Session) -> None: ...
    def trouble(self, session: Session, what: str, error: Exception, retry_in: float) -> None: ...


@dataclass(frozen=True, slots=True)
class LaneKit:
    """Everything that one lane needs at run time.

    Attributes:
        schemas: the plan's schemas, by position.
        repair: (root key, request line, answer, errors, n) → (key, body) of the n-th repair; None: no repairs.
        repair_key: (root key, n) → key.
        window: completion window as the provider spells it.
        poll_seconds: shortest time between two looks.
    """

    lane: Lane
    shape: LaneShape
    provider: Provider
    schemas: Schemas
    price: Price | None
    window: str
    poll_seconds: float
    grace_seconds: float = 3600.0
    repair: Callable[[str, bytes, str, str, int], tuple[str, bytes]] | None = None
    repair_key: Callable[[str, int], str] | None = None
    tokens: Callable[[bytes], int | None] | None = None


@dataclass(slots=True)
class Session:
    """A plan, held.

    Attributes:
        batches: the newest that the provider said of each batch (memory only).
        failures: calls that failed in a row.
        missing: file id → Unix seconds of the first 404 in a row, and how many there were.
        renewed: file id → shards that were written anew because it must not be used again.
    """

    disk: Disk
    clock: Clock
    folder: PlanFolder
    journal: Journal
    state: State
    policy: Policy
    kits: tuple[LaneKit, ...]
    attempts: int
    rng: random.Random
    observer: Observer = field(default_factory=Silent)
    pace: Pace = field(default_factory=Pace)
    batches: dict[str, Batch] = field(default_factory=dict)
    failures: dict[tuple[str, int, int], int] = field(default_factory=dict)
    quiet_polls: dict[str, int] = field(default_factory=dict)
    missing: dict[str, tuple[float, int]] = field(default_factory=dict)
    renewed: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock.not_before(self.state.ts)
        for shard, attempt in self.state.attempts():
            if attempt.phase is Phase.FENCED:
                # What another process waited counts only if it is certain: its clock, or ours, may be wrong.
                waited = None if attempt.fenced_mark is None else self.clock.elapsed(attempt.fenced_mark)
                self.pace.settling[shard.number, attempt.number] = self.clock.now() - (waited or 0.0)

    def record(self, *events: dict[str, Any]) -> None:
        """Journals events (durably) and applies them, one after the other.

        Raises:
            InvariantError: one may not follow; it is not in the journal, nor is anything after it.
        """
        for event in write(self.journal, self.state, events, ts=self.clock.now()):
            self.observer.event(self, event)

    def knows(self, batch_id: str) -> bool:
        """The journal has this batch."""
        return batch_id in self.state.batches

    def holder(self, group: str, batch_id: str) -> tuple[int, int] | None:
        """The (shard, attempt) of a group that has this batch."""
        for kit in self.kits_of(group):
            found = self.state.holders.get((kit.lane.number, batch_id))
            if found is not None:
                return found
        return None

    def serves_another(self, file_id: str, shard: Shard, attempt: Attempt) -> bool:
        """I4, for all lanes of a group: they share the provider's files."""
        return any(
            self.state.serves_another(kit.lane.number, file_id, shard.number, attempt.number)
            for kit in self.kits_of(self.kit(shard).lane.group)
        )

    def shard(self, number: int, attempt: int) -> tuple[Shard, Attempt]:
        shard = self.state.shards[number]
        return shard, shard.attempts[attempt - 1]

    def kit(self, shard: Shard) -> LaneKit:
        return self.kits[shard.lane]

    def kits_of(self, group: str) -> list[LaneKit]:
        return [kit for kit in self.kits if kit.lane.group == group]

    def backoff(self, do: str, shard: int, attempt: int, error: Exception, *, base: float, what: str) -> None:
        """Puts a failed call off: doubling from `base` seconds, with jitter, at most five minutes; without end."""
        key = (do, shard, attempt)
        n = self.failures.get(key, 0)
        self.failures[key] = n + 1
        wait = min(MAX_BACKOFF_SECONDS, base * 2.0 ** min(n, 16)) * (0.75 + 0.5 * self.rng.random())
        wait = max(wait, getattr(error, "retry_after", None) or 0.0)
        self.pace.due[key] = self.clock.now() + wait
        self.observer.trouble(self, what, error, wait)

    def settled(self, do: str, shard: int, attempt: int) -> None:
        """The call went through: the next one starts without delay."""
        self.failures.pop((do, shard, attempt), None)
        self.pace.due.pop((do, shard, attempt), None)


def own(batch: Batch, session: Session, group: str) -> tuple[int, int] | None:
    """The (shard, attempt) that a batch of a group's list belongs to, by its metadata or its input file; None: not ours,
    or nothing says which (see `may_be_own`).

    Metadata decides where it is there: stores that name files by their bytes, and servers that count from 1 again, give
    a file id twice, to us and to others. It must agree in the shard's hash as well: somebody else's plan may have the
    same six characters. An attempt that the journal does not have (it was restored from a copy) counts as the last
    that it has.
    """
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    marked = batch.metadata.get("batchling_plan")
    if marked is not None and marked != session.folder.tail:
        return None
    return _named(batch, session, lanes) or by_file(batch, session, lanes)


def may_be_own(batch: Batch, session: Session, group: str) -> bool:
    """Nothing says whose it is, or of which of our submissions: so it proves no absence."""
    if own(batch, session, group) is not None or "batchling_plan" in batch.metadata:
        return False
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    shared = any(session.state.owners(lane, batch.input_file_id or "") for lane in lanes)
    return shared or not (batch.input_file_id or batch.metadata)


def _named(batch: Batch, session: Session, lanes: list[int]) -> tuple[int, int] | None:
    meta = batch.metadata
    if meta.get("batchling_plan") != session.folder.tail:
        return None
    try:
        number, attempt = int(meta["batchling_shard"]), int(meta["batchling_attempt"])
    except (KeyError, ValueError):
        return None
    shard = session.state.shards.get(number)
    if shard is None or shard.lane not in lanes or meta.get("batchling_sha256") != shard.sha256 or attempt < 1:
        return None
    return number, min(attempt, len(shard.attempts))


def by_file(batch: Batch, session: Session, lanes: Iterable[int]) -> tuple[int, int] | None:
    """Whose the batch is by its input file alone; None where its id was given for several shards that may all be meant."""
    owners = [owner for lane in lanes for owner in session.state.owners(lane, batch.input_file_id or "")]
    if len(owners) > 1:
        # Those that have a batch already have another: the journal does not know this one.
        owners = [owner for owner in owners if session.shard(*owner)[1].batch_id is None] or owners
        if batch.total:
            owners = [owner for owner in owners if session.state.shards[owner[0]].rows == batch.total]
    return owners[-1] if len({number for number, _ in owners}) == 1 else None


def listing(session: Session, group: str) -> Iterable[Batch]:
    """Every batch that the group's provider lists, back past the plan's first create intent.

    A day is added for clocks that disagree.
    """
    kits = session.kits_of(group)
    numbers = {kit.lane.number for kit in kits}
    intents = [a.intent_at for s, a in session.state.attempts() if s.lane in numbers and a.intent_at]
    since = (min(intents) if intents else session.clock.now()) - 86_400.0
    return kits[0].provider.find(since)
