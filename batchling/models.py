"""Values that pass between layers. No behaviour, no imports from above."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

KEY_LENGTH = 43
"""Characters of a request key: `k1-` and 40 hexadecimal digits."""


class RowState(StrEnum):
    """What became of one row of one run. Exactly one holds; DESIGN calls it a record's `state`."""

    OK = "ok"
    INVALID = "invalid"  # answered, but not what the schema asks for
    TRUNCATED = "truncated"  # stopped by the length limit
    REFUSED = "refused"  # the model declined
    FILTERED = "filtered"  # a content filter stepped in
    ERROR = "error"  # the provider's final error for this request
    EXPIRED = "expired"  # the completion window ended first
    MISSING = "missing"  # the batch ended and the provider never answered it
    CANCELLED = "cancelled"
    PENDING = "pending"


class Outcome(StrEnum):
    """What one response line says about its request, before any schema is looked at."""

    OK = "ok"
    TRUNCATED = "truncated"
    REFUSED = "refused"
    FILTERED = "filtered"
    ERROR = "error"  # final: asking again would give the same (400, 404, 422 ...)
    RETRYABLE = "retryable"  # 408, 409, 429, 5xx, status_code 0: asking again may help
    ACCOUNT = "account"  # the account was refused, not the request (key, quota, billing, model): no answer
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    MISSING = "missing"  # no line for it in any file


ANSWERED = frozenset({Outcome.OK, Outcome.TRUNCATED, Outcome.REFUSED, Outcome.FILTERED, Outcome.ERROR})
"""Outcomes after which a key is not asked again (unless `--retry` or `--fresh` reopens it)."""


class Usage(NamedTuple):
    """Tokens that the provider counted. `input_tokens` includes `cached_tokens` and `written_tokens` (written to the provider's
    cache, which may cost more), `output_tokens` includes `reasoning_tokens`."""

    input_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    written_tokens: int | None = None


NO_USAGE = Usage()


class Response(NamedTuple):
    """One decoded line of an output or error file.

    `text` is the assistant's text (None for embeddings and errors); `embedding` the vector of an
    embeddings answer. `error_message` never holds more than 2,000 characters.
    """

    custom_id: str
    outcome: Outcome
    status_code: int | None = None
    text: str | None = None
    embedding: list[float] | None = None
    finish_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    usage: Usage = NO_USAGE
    model: str | None = None

    @property
    def key(self) -> str:
        """The request key that the custom_id begins with."""
        return self.custom_id[:KEY_LENGTH]


TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
"""Neutral batch states that end a batch. Everything else, known or not, is not terminal."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """A line of results that names no request. `message` says why, in one sentence."""

    message: str


NOT_UNDERSTOOD = "not_understood"
"""The error code of an answer that cannot be read: final, and its cost is not known."""


@dataclass(frozen=True, slots=True)
class BatchError:
    """One entry of a failed batch's error list, or of a refusal; `line` is 1-based in the input file.

    `custom_id` is the request's, where the provider names it: it counts before `line`.
    """

    code: str | None
    message: str | None
    line: int | None = None
    param: str | None = None
    custom_id: str | None = None


@dataclass(frozen=True, slots=True)
class ResultFile:
    """A file of results, as its provider names it.

    Attributes:
        id: an opaque reference: a file's id, or a URL.
        kind: `output` (answers) or `errors`.
    """

    id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the provider reports it, with its status in OpenAI's eight words (or an unknown word as it came).

    Attributes:
        output_file_id, error_file_id: of a provider that has at most one file of each kind.
        results: files of results of any other, as far as it names them.
    """

    id: str
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: float | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    errors: tuple[BatchError, ...] = ()
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    usage: Usage = NO_USAGE
    results: tuple[ResultFile, ...] = ()

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def files(self) -> tuple[ResultFile, ...]:
        """Every file of results that it names: answers first."""
        named = (self.output_file_id, "output"), (self.error_file_id, "errors")
        return (*(ResultFile(file_id, kind) for file_id, kind in named if file_id), *self.results)


@dataclass(frozen=True, slots=True)
class Submission:
    """What identifies one shard attempt at a provider: it goes into metadata and into the uploaded file's name.

    Attributes:
        plan: the last six characters of the plan id.
        shard: 1-based number; attempt: 1-based number.
        sha256: hex digest of the shard's bytes.
        endpoint: URL path, e.g. `/v1/chat/completions`.
        requests: number of lines.
    """

    plan: str
    shard: int
    attempt: int
    sha256: str
    endpoint: str
    requests: int

    def metadata(self) -> dict[str, str]:
        return {
            "batchling_plan": self.plan,
            "batchling_shard": f"{self.shard:04d}",
            "batchling_attempt": str(self.attempt),
            "batchling_sha256": self.sha256,
        }

    def filename(self) -> str:
        return f"batchling-{self.plan}-{self.shard:04d}-{self.attempt}-{self.sha256[:16]}.jsonl"


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. `batch` says whether the figures are the provider's batch prices.

    `cached` is for what was read from the provider's cache, `written` for what was written to it; None: as input.

    `source` names where they come from, e.g. `genai-prices 0.2.3` or `model.price`.
    """

    input: float
    output: float
    cached: float | None = None
    batch: bool = True
    source: str = ""
    written: float | None = None

    @property
    def pretend(self) -> bool:
        """Made up for a rehearsal: nothing is paid."""
        return self.source.startswith("pretend")


JsonObject = dict[str, Any]
