"""One process's hold on one plan: its journal, the state that follows from it, and what it talks to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from batchling.clock import Clock
from batchling.disk import Disk
from batchling.errors import CallError, CallStopped, DiskError, ProviderError
from batchling.journal import Journal
from batchling.ledger import Attempt, Event, Lane, Pace, Phase, Policy, Shard, State, apply, check, event_of, line_of
from batchling.models import Batch, Price
from batchling.providers import Client, Envelope
from batchling.runner.folder import PlanFolder, shard_numbers
from batchling.runner.judging import Schemas
from batchling.runner.shards import LaneShape
from batchling.runner.telling import Telling
from batchling.scrub import Scrubber

MAX_BACKOFF_SECONDS = 300.0


def write(journal: Journal, state: State, events: Iterable[Event], *, ts: float) -> Iterator[dict[str, Any]]:
    """The one way into a journal: each event is checked against the state, appended durably, then folded in.

    Args:
        ts: Unix seconds.

    Raises:
        InvariantError: one may not follow; it was not written.
    """
    for event in events:
        said = line_of(event)
        check(state, event_of(journal.line(said, ts=ts)))
        for line in journal.append([said], ts=ts):
            apply(state, event_of(line))
            yield line


class Observer(Protocol):
    """Receives progress: the terminal's display, a log, or nobody.

    One that has a method `waiting(session, waits)` as well is told what a plan waits for (`batchling.waiting.Wait`), after
    a minute without progress and then after growing pauses.
    """

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
        repairs: how many times the answers of one row are repaired at most.
        repair_key: (root key, n) → key.
        window: completion window as the provider spells it.
        poll_seconds: shortest time between two looks.
        scrubber: knows the keys that the provider is called with.
        max_output_tokens: of one answer; None: some requests of the lane set no limit.
    """

    lane: Lane
    shape: LaneShape
    client: Client
    envelope: Envelope
    schemas: Schemas
    price: Price | None
    window: str
    poll_seconds: float
    grace_seconds: float = 3600.0
    repair: Callable[[str, bytes, str, str, int], tuple[str, bytes]] | None = None
    repairs: int = 1
    repair_key: Callable[[str, int], str] | None = None
    tokens: Callable[[bytes], int | None] | None = None
    scrubber: Scrubber = field(default_factory=Scrubber)
    max_output_tokens: int | None = None

    def repair_number(self, key: str, parent: str, row_attempt: int) -> int:
        """Which repair of its root a request is: 0 for the root itself.

        Raises:
            DiskError: it is none of those that a row can have had by then.
        """
        if not parent:
            return 0
        assert self.repair_key is not None
        for n in range(1, row_attempt + 1):
            if self.repair_key(parent, n) == key:
                return n
        raise DiskError(f"request {key} is not a repair of {parent}")

    def may_repair(self, key: str, parent: str, row_attempt: int) -> bool:
        """Whether an answer to this request that does not fit is sent back."""
        return self.repair is not None and self.repair_number(key, parent, row_attempt) < self.repairs


@dataclass(slots=True)
class Look:
    """What this process remembers of its looks at one batch. Times are Unix seconds.

    Attributes:
        at: when it was last asked for by id.
        not_before: put off until then, because the last GET failed.
        failures: GETs that failed in a row.
        failed: the same by what they came to (see `polling`): since when, and how often.
        error: the last of them.
        prompts: looks in a row that the list prompted and that brought nothing new.
        heard: what the list said when it last prompted a look.
    """

    at: float
    not_before: float = 0.0
    failures: int = 0
    failed: dict[str, tuple[float, int]] = field(default_factory=dict)
    error: CallError | None = None
    prompts: int = 0
    heard: tuple[str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Download:
    """One file of a batch as it arrived, in its `.part`.

    Attributes:
        file_id: at the provider; kind: `output` or `errors`.
        sha256: of what arrived; None: nothing did.
        bytes, lines: of what arrived.
        torn: the last line is not whole.
        short: why the transport says that it is not all of it.
        stated: bytes that the provider says it has; None: it does not say.
        error: why it cannot be had now.
    """

    file_id: str
    kind: str
    sha256: str | None = None
    bytes: int = 0
    lines: int = 0
    torn: bool = False
    short: str | None = None
    stated: int | None = None
    error: CallError | None = None


@dataclass(slots=True)
class Session:
    """A plan, held.

    Attributes:
        batches: the newest that the provider said of each batch (memory only).
        failures: calls that failed in a row.
        undecided: groups whose list had a row of ours, at the last look, that could not be read by its id.
        missing: what is not as it should be (a file's 404, a short download) → Unix seconds since when it is so
            without a change, and how often it was seen.
        renewed: file id → shards that were rewritten because it must not be used again.
        looks: batch id → this process's looks at it.
        scans: group → the provider's list, from where the last look left it.
        unread: listed batch id → Unix seconds before which it is not asked for again.
        parts: (shard, attempt, kind) → a file that arrived whole while another of its batch did not.
        unended: group → listed batches without a mark that may be ours, and do not say so before they have ended; and when each was
            made (Unix seconds).
        foreign: listed batches without a mark whose results are somebody else's.
        apart: (listed batch id, known batch id) that GETs of both showed to be two batches.
        set_aside: lane → batches known at the last refusal that blamed single lines, and such refusals in a row.
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
    undecided: set[str] = field(default_factory=set)
    missing: dict[str, tuple[float, int]] = field(default_factory=dict)
    telling: Telling = field(default_factory=Telling)
    renewed: dict[str, int] = field(default_factory=dict)
    looks: dict[str, Look] = field(default_factory=dict)
    scans: dict[str, Iterator[Batch]] = field(default_factory=dict)
    unread: dict[str, float] = field(default_factory=dict)
    parts: dict[tuple[int, int, str], Download] = field(default_factory=dict)
    set_aside: dict[int, tuple[int, int]] = field(default_factory=dict)
    unended: dict[str, dict[str, float | None]] = field(default_factory=dict)
    foreign: set[str] = field(default_factory=set)
    apart: set[tuple[str, str]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.clock.not_before(self.state.ts)
        self.pace.torn = self.journal.torn or _goes_on(self.disk, self.folder, self.state)
        self.pace.resumed = self.pace.resumed or self.pace.torn or self.state.sessions > 0
        for shard, attempt in self.state.attempts():
            if attempt.phase is Phase.FENCED:
                # What another process waited counts only if it is certain: its clock, or ours, may be wrong.
                waited = None if attempt.fenced_mark is None else self.clock.elapsed(attempt.fenced_mark)
                self.pace.settling[shard.number, attempt.number] = self.clock.now() - (waited or 0.0)

    def record(self, *events: Event) -> None:
        """Journals events (durably) and applies them, one after the other.

        Raises:
            InvariantError: one may not follow; it is not in the journal, nor is anything after it.
        """
        for event in write(self.journal, self.state, events, ts=self.clock.now()):
            self.observer.event(self, event)

    def knows(self, batch_id: str, group: str) -> bool:
        """The journal has this batch of a group, by its id or by another name of it. Two providers may give the same id."""
        return self.holder(group, batch_id) is not None or batch_id in self.state.aliases

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
        """Puts a failed call off: doubling from `base` seconds, with jitter, at most five minutes; without end.

        Raises:
            ProviderError: asking again does not help (a redirect, a certificate that fails).
        """
        if isinstance(error, CallStopped):
            raise ProviderError(
                error.message,
                where=self.folder.plan_id,
                next_command=f"correct the address, then: batchling watch {self.folder.plan_id}",
            ) from error
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


def _goes_on(disk: Disk, folder: PlanFolder, state: State) -> bool:
    """There are files of shards that the journal does not know, or of batches that it has not sent: its end may be missing."""
    planned = shard_numbers(disk.names(folder.requests))
    answered = shard_numbers(disk.names(folder.responses))
    sent = {s.number for s, a in state.attempts() if a.intent_at is not None or a.phase is not Phase.PLANNED}
    return max(planned, default=0) > max(state.shards, default=0) or not answered <= sent


MISSING_LOOKS = 12
"""404s without any content in between, over the provider's grace time, after which a file is taken for lost; and times
that it arrives not as announced, but always the same, over the same time, before it is taken as it is."""


def stays(session: Session, what: str, looks: int, seconds: float) -> bool:
    """Whether something was seen now as it was before, this often and over this long; the first time begins the count."""
    since, n = session.missing.get(what, (session.clock.now(), 0))
    session.missing[what] = (since, n + 1)
    return n + 1 >= looks and session.clock.now() - since >= seconds


def gone(session: Session, kit: LaneKit, what: str) -> bool:
    """404 means unknown: only one that stays for long, however often this process looks, means that it is lost."""
    return stays(session, what, MISSING_LOOKS, kit.grace_seconds)


def gone_for_long(session: Session, kit: LaneKit, what: str) -> bool:
    """`gone`, without counting another look."""
    since, n = session.missing.get(what, (session.clock.now(), 0))
    return n >= MISSING_LOOKS and session.clock.now() - since >= kit.grace_seconds
