"""What a journal may say: one frozen class for each kind of event.

A class has the kind's fields with their types; what is about a submission (one sending of a shard) also says in which
phases it may come and which phase it leads to. `lines` reads and writes events as lines of the journal. Fields are only
ever added; one that an older version did not write has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar

from batchling.ledger.state import UNCERTAIN, UNSENT, CollectedFile, Phase, told
from batchling.models import ResultFile

Counts = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a journal.

    Attributes:
        seq: 1 for the first line, then one more each; ts: Unix seconds. The journal sets both.
    """

    kind: ClassVar[str]

    seq: int = field(default=0, kw_only=True)
    ts: float = field(default=0.0, kw_only=True)


@dataclass(frozen=True, slots=True)
class AboutSubmission(Event):
    """What is about one submission.

    Attributes:
        shard: 1-based number.
        attempt: 1-based number of the submission among those of the shard.
    """

    shard: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Step(AboutSubmission):
    """What moves a submission from one phase to another."""

    phases: ClassVar[frozenset[Phase]]
    leads_to: ClassVar[Phase]


@dataclass(frozen=True, slots=True)
class PlannedShard:
    """A shard as `planned` says it.

    Attributes:
        shard: 1-based number; the requests are in requests/NNNN.jsonl.
        lane: position in plan.json's `lanes`: provider, endpoint and model.
        rows: requests; bytes: of the request lines; sha256: of these bytes.
        input_tokens: prompt tokens; null: they were not counted.
        max_usd: what it can cost at most; null: no price is known.
        row_attempt: which attempt of its rows it is.
        kind: `first`, `retry` or `repair`.
        doubts: submissions of these rows, in shards that this one replaces, that may have happened after all.
    """

    shard: int
    lane: int
    rows: int
    bytes: int
    sha256: str
    input_tokens: int | None
    max_usd: Decimal | None
    row_attempt: int
    kind: str
    doubts: int = 0


@dataclass(frozen=True, slots=True)
class PlanCreated(Event):
    """The plan was made; the first line.

    Attributes:
        plan_id: the folder's name.
        identity: hash by which the same command finds this plan.
        awaits: names of held requests, each of a plan that is buying them.
        files: SHA-256 of plan.json and of each file in source/, by name.
    """

    kind: ClassVar[str] = "plan_created"

    plan_id: str = ""
    identity: str = ""
    awaits: tuple[str, ...] = told(())
    files: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Planned(Event):
    """Shards are on disk and may be sent.

    Attributes:
        shards: the new shards.
        replaces: numbers of shards whose rows moved on into these.
        left: by a replaced shard's number, its rows that did not move on, by state.
        refused: keys of requests that the provider refused by name (100 at most); they are not in the new shards.
        why: `first`, `again`, `split`, `file id again`, `refused lines` or `left open elsewhere`.
    """

    kind: ClassVar[str] = "planned"

    shards: tuple[PlannedShard, ...]
    replaces: tuple[int, ...] = ()
    left: Mapping[str, Counts] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class SessionStarted(Event):
    """A process began to drive the plan.

    Attributes:
        fingerprints: provider connection → digest of the key it is called with.
    """

    kind: ClassVar[str] = "session"

    fingerprints: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class UploadIntent(Step):
    """The shard's file is about to be uploaded. It costs nothing and may be repeated."""

    kind: ClassVar[str] = "upload_intent"
    phases: ClassVar[frozenset[Phase]] = UNSENT
    leads_to: ClassVar[Phase] = Phase.UPLOADING


@dataclass(frozen=True, slots=True)
class Uploaded(Step):
    """The provider has the input file.

    Attributes:
        file_id: its id there.
    """

    kind: ClassVar[str] = "uploaded"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.UPLOADING})
    leads_to: ClassVar[Phase] = Phase.UPLOADED

    file_id: str


@dataclass(frozen=True, slots=True)
class CreateIntent(Step):
    """The batch is about to be created: the one call that spends. On disk before it leaves.

    Attributes:
        file_id: the input file that the batch is made from.
    """

    kind: ClassVar[str] = "create_intent"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.UPLOADED})
    leads_to: ClassVar[Phase] = Phase.CREATING

    file_id: str


@dataclass(frozen=True, slots=True)
class Created(Step):
    """The batch exists. Found in a list, it may belong to any submission without a batch, whatever was believed of it.

    Attributes:
        batch_id: its id at the provider.
        adopted: it was found in the list, or named by a person; false: the create answered.
        by: `person` when a person said so.
    """

    kind: ClassVar[str] = "created"
    phases: ClassVar[frozenset[Phase]] = UNSENT | UNCERTAIN | {Phase.ABSENT, Phase.DROPPED}
    leads_to: ClassVar[Phase] = Phase.CREATED

    batch_id: str
    adopted: bool = told(False)
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected(Step):
    """The provider refused the upload or the create: nothing was made, and nothing is billed.

    Attributes:
        status: the HTTP status; code, message: the provider's.
        about: what the refusal is about: `tokens`, `requests`, `size`, …
        words: what the provider said, without identifiers; why: the same in a sentence of ours.
        refusals: how many in a row that waiting does not explain, this one included.
        fatal: nothing more is sent to this provider and model until a person acts.
        reupload: the input file is uploaded again first.
        retry_at: Unix seconds before which it is not tried again; null: no need to wait.
    """

    kind: ClassVar[str] = "rejected"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.CREATING, Phase.UPLOADING, Phase.UPLOADED})
    leads_to: ClassVar[Phase] = Phase.UPLOADED

    status: int | None = told(None)
    code: str | None = told(None)
    message: str | None = told(None)
    about: str | None = None
    words: str | None = None
    why: str | None = None
    refusals: int = told(0)
    fatal: bool = told(False)
    reupload: bool = told(False)
    retry_at: float | None = told(None)


@dataclass(frozen=True, slots=True)
class Fenced(Step):
    """A create whose fate is unknown is not in the list, and its input file was deleted so that it cannot arrive any more.

    Attributes:
        mark: this machine's clock, to measure the settling time with.
        deleted: the deletion was confirmed.
    """

    kind: ClassVar[str] = "fenced"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.CREATING, Phase.FENCED})
    leads_to: ClassVar[Phase] = Phase.FENCED

    mark: str | None = told(None)
    deleted: bool = told(True)


@dataclass(frozen=True, slots=True)
class Absent(Step):
    """The batch was never made: it did not appear in the list while it settled, or a person said so.

    Attributes:
        by: `person` when a person said so.
    """

    kind: ClassVar[str] = "absent"
    phases: ClassVar[frozenset[Phase]] = UNCERTAIN
    leads_to: ClassVar[Phase] = Phase.ABSENT

    by: str | None = None


@dataclass(frozen=True, slots=True)
class Parked(Step):
    """Whether the batch was made is unknown, and guessing could be too expensive: a person decides (`batchling resolve`).

    Attributes:
        why: what is at stake or cannot be found out.
    """

    kind: ClassVar[str] = "parked"
    phases: ClassVar[frozenset[Phase]] = UNCERTAIN
    leads_to: ClassVar[Phase] = Phase.PARKED

    why: str | None = None


@dataclass(frozen=True, slots=True)
class Ended(Step):
    """The batch has ended at the provider.

    Attributes:
        reason: `completed`, `failed`, `expired`, `cancelled`, or `throttled` (refused after the fact: too much was waiting).
        output_file_id, error_file_id: the first file of each kind, as versions before 0.2 knew them.
        results: every file of results.
        completed, failed: requests that the provider says it answered, and that it says failed; null: it does not say.
        code: the error of a batch that failed.
    """

    kind: ClassVar[str] = "ended"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.CREATED})
    leads_to: ClassVar[Phase] = Phase.ENDED

    reason: str
    output_file_id: str | None = told(None)
    error_file_id: str | None = told(None)
    results: tuple[ResultFile, ...] = ()
    completed: int | None = told(None)
    failed: int | None = told(None)
    code: str | None = None


@dataclass(frozen=True, slots=True)
class Throttled(Step):
    """The batch was refused after the fact; no request ran and nothing is billed.

    Attributes:
        retry_at: Unix seconds before which it is not sent again.
        about: what the refusal is about.
        why: the provider's reason in a sentence.
        fatal: why nothing more is sent to this provider and model until a person acts; null: it is.
    """

    kind: ClassVar[str] = "throttled"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.ENDED})
    leads_to: ClassVar[Phase] = Phase.THROTTLED

    retry_at: float | None = told(None)
    about: str = "tokens"
    why: str | None = None
    fatal: str | None = None


@dataclass(frozen=True, slots=True)
class Collected(Step):
    """The raw files are on disk, verified and synced.

    Attributes:
        files: each file of results and what arrived of it.
        by: `person` when a person gave up what did not arrive.
    """

    kind: ClassVar[str] = "collected"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.ENDED})
    leads_to: ClassVar[Phase] = Phase.COLLECTED

    files: tuple[CollectedFile, ...]
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Closed(Step):
    """Every row has a state.

    Attributes:
        counts: rows by state; they add up to the shard's rows.
        usd: what the answers cost.
        kept: of these rows, those that stay when `retry` rows are asked again in another shard.
        again: rows that a later run would ask again.
        lost: rows that may have been paid and did not arrive; absent: version 0.1.0, which did not tell them apart.
        unsure: rows without a line may have been answered.
        unpriced: rows that were, or may have been, answered at an unknown price.
        strays: lines that answer no request of the shard.
        blotted: answers in which the server repeated our key.
        input_tokens, output_tokens: as the answers say.
        fatal: why nothing more is sent to this provider and model until a person acts; null: it is.
        unrun: the batch failed because of single lines before any row was asked.
    """

    kind: ClassVar[str] = "closed"
    phases: ClassVar[frozenset[Phase]] = frozenset({Phase.COLLECTED})
    leads_to: ClassVar[Phase] = Phase.CLOSED

    counts: Counts
    usd: Decimal
    kept: Counts = field(default_factory=dict)
    retry: int = told(0)
    again: int = told(0)
    lost: int | None = None
    unsure: bool = told(False)
    unpriced: int = told(0)
    strays: int = told(0)
    blotted: int = 0
    input_tokens: int | None = told(None)
    output_tokens: int | None = told(None)
    fatal: str | None = told(None)
    unrun: bool = told(False)


@dataclass(frozen=True, slots=True)
class Dropped(Step):
    """The submission is given up, or was never sent.

    Attributes:
        why: `cancelled`, `no longer wanted`, `resolved` or `given up`.
        by: `person` when a person said so.
    """

    kind: ClassVar[str] = "dropped"
    phases: ClassVar[frozenset[Phase]] = UNSENT | UNCERTAIN | {Phase.CREATED, Phase.ENDED}
    leads_to: ClassVar[Phase] = Phase.DROPPED

    why: str | None = None
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Alias(AboutSubmission):
    """Another id under which a known batch is listed.

    Attributes:
        batch_id: that id.
    """

    kind: ClassVar[str] = "alias"

    batch_id: str


@dataclass(frozen=True, slots=True)
class Duplicate(AboutSubmission):
    """A second batch of one create: it is cancelled, and what it answered is kept and counted.

    Attributes:
        batch_id: the second batch.
    """

    kind: ClassVar[str] = "duplicate"

    batch_id: str


@dataclass(frozen=True, slots=True)
class Cancelling(AboutSubmission):
    """The provider was asked to cancel the batch."""

    kind: ClassVar[str] = "cancelling"


@dataclass(frozen=True, slots=True)
class Unread(AboutSubmission):
    """The provider no longer shows the batch, or does not hand out its files: nothing waits for it alone any longer.

    Attributes:
        status: the HTTP status of the last answer.
        why: what it said.
    """

    kind: ClassVar[str] = "unread"

    status: int | None = told(None)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Learned(Event):
    """A refusal named, or showed, a limit.

    Attributes:
        group: the provider connection; model: the model.
        limit: the limit.
        unit: `tokens` or `requests` that may wait at once; `bytes` or `rows` of one batch.
        guessed: nothing named it; repeated refusals showed it.
    """

    kind: ClassVar[str] = "learned"

    group: str
    model: str
    limit: int
    unit: str = "tokens"
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class CancelRequested(Event):
    """`batchling cancel`: batches are cancelled, and what is not sent stays unsent."""

    kind: ClassVar[str] = "cancel_requested"


@dataclass(frozen=True, slots=True)
class CancelWanted(Event):
    """A newer plan of the experiment needs none of these shards: they are cancelled, or not sent.

    Attributes:
        shards: their numbers.
    """

    kind: ClassVar[str] = "cancel_wanted"

    shards: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Awaited(Event):
    """What another plan was buying is settled: answers were taken over, the rest is bought here or still awaited.

    Attributes:
        plan_id: name of the held requests: the other plan, with `~2` and so on when there are several.
        reused: answers taken over; left: requests bought here.
        awaits: names of requests that yet another plan is buying by now.
        doubtful: batches of the other plan whose rows may be paid and did not arrive.
        given_up: of those left, requests that a person gave up in the other plan although they may have been paid.
    """

    kind: ClassVar[str] = "awaited"

    plan_id: str
    reused: int = told(0)
    left: int = told(0)
    awaits: tuple[str, ...] = told(())
    doubtful: tuple[Mapping[str, Any], ...] = ()
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class TakingOver(Event):
    """Requests that another plan left open are about to be written as shards: until `planned` their files may be unknown.

    Attributes:
        plan_id: name of the held requests.
    """

    kind: ClassVar[str] = "taking_over"

    plan_id: str


@dataclass(frozen=True, slots=True)
class Unlisted(Event):
    """The provider's list has not been readable for so long that nothing waits for it alone any longer.

    Attributes:
        group: the provider connection.
        status: the HTTP status of the last answer.
        why: what it said.
    """

    kind: ClassVar[str] = "unlisted"

    group: str
    status: int | None = told(None)
    why: str = ""


@dataclass(frozen=True, slots=True)
class Finished(Event):
    """Nothing is left to do; the last line, mostly.

    Attributes:
        state: `finished` or `cancelled`.
        counts: rows by state.
    """

    kind: ClassVar[str] = "finished"

    state: str
    counts: Counts = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Remark(Event):
    """An event of a kind that this version does not know: it changes nothing.

    Attributes:
        name: its kind.
        fields: what else it says.
    """

    kind: ClassVar[str] = ""

    name: str
    fields: Mapping[str, Any] = field(default_factory=dict)


EVENTS: tuple[type[Event], ...] = (
    PlanCreated,
    Planned,
    SessionStarted,
    UploadIntent,
    Uploaded,
    CreateIntent,
    Created,
    Rejected,
    Fenced,
    Absent,
    Parked,
    Ended,
    Throttled,
    Collected,
    Closed,
    Dropped,
    Alias,
    Duplicate,
    Cancelling,
    Unread,
    Unlisted,
    Learned,
    CancelRequested,
    CancelWanted,
    TakingOver,
    Awaited,
    Finished,
)
"""Every kind, roughly in the order of a plan's life."""

STEPS: tuple[type[Step], ...] = tuple(cls for cls in EVENTS if issubclass(cls, Step))
