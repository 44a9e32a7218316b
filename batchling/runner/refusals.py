"""What a provider's no teaches about its limits, and which requests it blames."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import orjson

from batchling import limits
from batchling.collect import About, Failure, FailureKind, Unit, outcome_of_error
from batchling.dialects.reading import MAX_ERROR_CHARACTERS
from batchling.ledger import Phase, Shard, ran_at_once, size_of
from batchling.ledger.events import Learned
from batchling.models import KEY_LENGTH, BatchError, Garbage, Response
from batchling.runner.session import Session
from batchling.runner.shards import IndexEntry, read_index

COUNTED_LOWER = 2
"""How many times more tokens than the provider we may well count: it may leave out schemas, or have another tokenizer."""

WORKING = frozenset({"in_progress", "finalizing"})
"""States in which the provider has taken a batch and works on it."""


def learned(session: Session, shard: Shard, failure: Failure) -> list[Learned]:
    """The limit that a refusal of this shard named, as an event; none where it names none that can be meant."""
    if failure.kind is FailureKind.TOO_LARGE:
        unit, limit = _size(session, shard, failure)
    elif failure.limit is None or failure.about not in (About.TOKENS, About.REQUESTS):
        return []
    else:
        tokens, requests = _known_to_fit(session, shard)
        believable = requests if failure.about is About.REQUESTS else tokens / COUNTED_LOWER
        if failure.limit < believable:
            return []  # more than that was there already, or one request is more: it is not meant so
        unit, limit = str(failure.unit), failure.limit
    lane = session.kit(shard).lane
    return [Learned(lane.group, lane.model, limit, unit)]


def _size(session: Session, shard: Shard, failure: Failure) -> tuple[str, int]:
    """How large a batch may be, in `bytes` or `rows`: as the provider says, or in any case less than this one."""
    unit, whole = ("rows", shard.rows) if failure.unit is Unit.REQUESTS else ("bytes", shard.bytes)
    limit = failure.limit
    if limit is not None and limit < whole:
        ran = [s for s, a in session.state.attempts() if a.reason == "completed" and s.lane == shard.lane]
        fits = max((s.rows if unit == "rows" else s.bytes for s in ran), default=0)
        if unit == "bytes":
            fits = max([fits, *(entry.size for entry in _entries(session, shard))])
        if limit >= fits:
            return unit, limit
    return unit, max(1, whole - 1)


def _known_to_fit(session: Session, shard: Shard) -> tuple[int, int]:
    """Prompt tokens and requests that a limit must allow: one request, and what was there at once before this batch came."""
    lane = session.kit(shard).lane
    created = shard.current.created_at
    before = (math.inf if created is None else created), shard.number
    counted = [entry.tokens for entry in _entries(session, shard) if entry.tokens is not None]
    tokens, requests = ran_at_once(session.state, lane, session.policy.lanes, before)
    working = [
        s
        for s, a in session.state.attempts()
        if a.phase is Phase.CREATED
        and a.created_at is not None
        and (a.created_at, s.number) < before
        and (session.kit(s).lane.group, session.kit(s).lane.model) == (lane.group, lane.model)
        and (batch := session.batches.get(a.batch_id or "")) is not None
        and batch.status in WORKING
    ]
    largest = max(counted, default=size_of(shard) // max(1, shard.rows))
    return max(tokens, largest, sum(map(size_of, working))), max(requests, 1, sum(s.rows for s in working))


def blamed(entries: Sequence[IndexEntry], errors: Iterable[BatchError]) -> dict[str, BatchError]:
    """Key → the error that names it, by custom_id or else by its line; what is no request of these names none."""
    keys = {entry.key[:KEY_LENGTH]: entry.key for entry in entries}
    found: dict[str, BatchError] = {}
    for error in errors:
        key = keys.get((error.custom_id or "")[:KEY_LENGTH])
        if key is None and error.line is not None and 1 <= error.line <= len(entries):
            key = entries[error.line - 1].key
        if key is not None:
            found.setdefault(key, error)
    return found


def refused_lines(found: dict[str, BatchError], suffix: str) -> bytes:
    """What the provider says of requests that it blames, one line each, for `read_refused`.

    Args:
        suffix: what follows the key in a custom_id.
    """
    written = []
    for key, error in found.items():
        detail = {"code": error.code or "invalid_request", "message": error.message}
        line = {"custom_id": f"{key[:KEY_LENGTH]}{suffix}", "response": None, "error": detail}
        written.append(orjson.dumps(line) + b"\n")
    return b"".join(written)


def read_refused(line: bytes) -> Response | Garbage:
    """One line of `refused_lines`: a final error of its request, in whatever shape the provider has its own."""
    try:
        written = limits.own(line)
        custom_id, code, message = written["custom_id"], written["error"]["code"], written["error"]["message"]
    except (ValueError, KeyError, TypeError) as error:
        return Garbage(f"no line of refused requests: {error}")
    outcome = outcome_of_error(None, [code.lower()], [], message)
    words = (message or "no explanation")[:MAX_ERROR_CHARACTERS]
    return Response(custom_id, outcome, error_code=code[:200], error_message=words)


def faults_of(failure: Failure, rows: int) -> tuple[BatchError, ...]:
    """The lines that a failure blames; a batch of one request that is too large blames that one."""
    if failure.kind is FailureKind.TOO_LARGE and rows == 1:
        return (BatchError(failure.code or "too_large", failure.message, line=1),)
    return failure.lines


def _entries(session: Session, shard: Shard) -> list[IndexEntry]:
    return read_index(session.disk, session.folder.index(shard.number))
