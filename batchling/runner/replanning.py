"""Rows that are asked again: retries of what cost nothing, repairs of what does not fit the schema, and splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import replace

from batchling.collect import Join, Row, Verdict
from batchling.disk import write_file
from batchling.errors import DataError
from batchling.ledger import Action, Attempt, Phase, Shard, largest_of, limit_of, requests_limit_of, size_of
from batchling.ledger.events import Learned, Planned, PlannedShard, Rejected
from batchling.models import BatchError, Outcome, RowState
from batchling.packing import ShardLimits
from batchling.runner.gathering import unfit, write_lines
from batchling.runner.reading import Document, retriable, said
from batchling.runner.refusals import read_refused, refused_lines
from batchling.runner.session import LaneKit, Session
from batchling.runner.shards import IndexEntry, ShardWriter, custom_id_suffix, read_index, request_lines


def replan(session: Session, action: Action) -> None:
    """Step 9: rows in a retryable state become pending again, in new shards, one row attempt later."""
    kit = session.kits[action.lane]
    # Retries and repairs of one round share shards: a retry is known by its own key, a repair by its parent.
    wanted: dict[int, list[tuple[Shard, dict[str, Document | None]]]] = {}
    left: dict[str, Counter[str]] = {}
    for number in action.shards:
        shard = session.state.shards[number]
        documents = said(session.disk, session.folder, shard, [a for a in shard.attempts if a.phase is Phase.CLOSED])
        last = shard.row_attempt >= session.attempts and not shard.unrun
        retries = {k: d for k, d in documents.items() if retriable(d, shard) and not (last and _asked(d, shard))}
        repairs = {} if last else unfit(session, kit, shard, documents)
        for asked in (False, True):
            rows: dict[str, Document | None] = {k: None for k, d in retries.items() if _asked(d, shard) is asked}
            if asked:
                rows |= repairs
            if rows:
                wanted.setdefault(shard.row_attempt + asked, []).append((shard, rows))
        # Rows that were to move on when the shard closed, and that do not now (repairs were turned off meanwhile).
        moving = Counter(str(d["state"]) for d in (retries | repairs).values())
        left[str(number)] = Counter(shard.counts) - Counter(shard.kept) - moving
    records: list[PlannedShard] = []
    first = max(session.state.shards) + 1
    for row_attempt, found in sorted(wanted.items()):
        lanes = {kit.lane.number: kit.shape}
        kind = "repair" if all(answer for _, rows in found for answer in rows.values()) else "retry"
        writer = ShardWriter(session.disk, session.folder, lanes, first=first, row_attempt=row_attempt, kind=kind)
        try:
            for shard, rows in found:
                paths = session.folder.shard(shard.number), session.folder.index(shard.number)
                for entry, line in request_lines(session.disk, *paths, rows):
                    try:
                        _add(kit, writer, shard, entry, kit.envelope.body_of(line), rows[entry.key])
                    except DataError:
                        # Its repair, which repeats the answer, is longer than the provider takes: it stays invalid.
                        left[str(shard.number)][str(RowState.INVALID)] += 1
            records += writer.finish()
        except BaseException:
            writer.abandon()
            raise
        first = writer.next
    session.record(
        Planned(
            tuple(records),
            replaces=tuple(action.shards),
            left={number: dict(counts) for number, counts in left.items() if counts},
            why="again",
        )
    )


def _asked(document: Document, shard: Shard) -> bool:
    """The row was asked, so that one of its attempts is used up: not where the account, or another line, was refused."""
    return not shard.unrun and document["outcome"] != Outcome.ACCOUNT


def _add(
    kit: LaneKit, writer: ShardWriter, shard: Shard, entry: IndexEntry, body: bytes, answer: Document | None
) -> None:
    """Adds a request to be asked again as it was, or (with its answer) its repair.

    Raises:
        DataError: the repair is longer than the provider takes.
    """
    if answer is None:
        writer.add(
            kit.lane.number, entry.key, body, entry.tokens, parent=entry.parent, row=entry.key, schema=entry.schema
        )
        return
    assert kit.repair is not None
    root = entry.parent or entry.key
    n = kit.repair_number(entry.key, entry.parent, shard.row_attempt) + 1
    text, errors = answer["text"] or "", answer["error"] or ""
    key, repaired = kit.repair(root, body, text, errors, n)
    # What is added is the answer, the errors and a sentence around them; a token is at least one byte.
    added = len(text.encode("utf-8", "replace")) + len(errors.encode("utf-8", "replace")) + 200
    added = max(added, len(repaired) - len(body))  # the schema in words, where the request says it
    tokens = None if entry.tokens is None else entry.tokens + added
    writer.add(kit.lane.number, key, repaired, tokens, parent=root, row=root, schema=entry.schema)


def split(session: Session, action: Action) -> None:
    """A shard above a limit that was learned after it was made is cut into shards that fit, at least in two.

    One that was refused again and again with nothing of ours waiting is above the limit as the provider counts, although
    not as we do: half of it is the limit from then on, for the model's other shards too.
    """
    shard = session.state.shards[action.shard]
    kit = session.kit(shard)
    limit = limit_of(session.state, kit.lane)
    most_bytes, most_rows = largest_of(session.state, kit.lane)
    rows = [n for n in (most_rows, requests_limit_of(session.state, kit.lane)) if n is not None]
    too_large = (most_bytes is not None and shard.bytes > most_bytes) or any(shard.rows > n for n in rows)
    learned: list[Learned] = []
    if not too_large and (limit is None or size_of(shard) <= limit):
        limit = max(1, size_of(shard) // 2)
        learned.append(Learned(kit.lane.group, kit.lane.model, limit, guessed=True))
    half = -(-shard.rows // 2)
    if shard.input_tokens is None and limit is not None:
        half = min(half, max(1, shard.rows * limit // max(1, size_of(shard))))
    limits = replace(kit.shape.limits, max_requests=min([half, *rows]))
    if limit is not None:
        limits = replace(limits, max_tokens=limit)
    entries = read_index(session.disk, session.folder.index(shard.number))
    if most_bytes is not None:
        longest = max(entry.size for entry in entries)  # a request that is longer goes out alone, and is refused alone
        limits = replace(limits, max_bytes=max(longest, min(most_bytes, limits.max_bytes or most_bytes)))
    records = _rewritten(session, shard, limits, {entry.key for entry in entries})
    session.record(*learned, Planned(tuple(records), replaces=(shard.number,), why="split"))


def renew(session: Session, shard: Shard) -> None:
    """The same requests in a shard of another number, and so in other bytes, where these bytes must not be sent again."""
    keys = {entry.key for entry in read_index(session.disk, session.folder.index(shard.number))}
    records = _rewritten(session, shard, session.kit(shard).shape.limits, keys)
    session.record(Planned(tuple(records), replaces=(shard.number,), why="file id again"))


def _rewritten(session: Session, shard: Shard, limits: ShardLimits, keys: Container[str]) -> list[PlannedShard]:
    """Requests of a shard in new shards, as they are and with the same attempt; what the `planned` event says of them."""
    kit = session.kit(shard)
    writer = ShardWriter(
        session.disk,
        session.folder,
        {kit.lane.number: replace(kit.shape, limits=limits)},
        first=max(session.state.shards) + 1,
        row_attempt=shard.row_attempt,
        kind=shard.kind,
    )
    try:
        paths = session.folder.shard(shard.number), session.folder.index(shard.number)
        for entry, line in request_lines(session.disk, *paths, keys):
            writer.add(
                kit.lane.number,
                entry.key,
                kit.envelope.body_of(line),
                entry.tokens,
                parent=entry.parent,
                schema=entry.schema,
            )
        records = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    # What may have happened of the old one still counts when the next of the new ones is judged.
    return [replace(record, doubts=shard.presumed) for record in records]


def set_aside(
    session: Session, shard: Shard, attempt: Attempt, refused: dict[str, BatchError], rejected: Rejected
) -> None:
    """The provider takes a batch only without some of its requests: these are final errors, the others go into a new one.

    Nothing was asked, so no row loses an attempt.

    Args:
        refused: key → what the provider says of it.
        rejected: the event of the refusal.
    """
    kit = session.kit(shard)
    entries = read_index(session.disk, session.folder.index(shard.number))
    suffix = custom_id_suffix(session.folder.tail, shard.number)
    raw = session.folder.raw(shard.number, attempt.number, "refused")
    content = refused_lines(refused, suffix)
    write_file(session.disk, raw, content)
    join = Join(
        (Row(e.key, e.parent or None, e.tokens, shard.row_attempt) for e in entries if e.key in refused),
        suffix=suffix,
        judge=lambda response: Verdict(RowState.ERROR),
        shard=shard.number,
        attempt=attempt.number,
        decode=read_refused,
    )
    decoded = (*join.read(raw.name, [content]), *join.finish())
    write_lines(session.disk, session.folder.decoded(shard.number, attempt.number), decoded)
    others = {entry.key for entry in entries if entry.key not in refused}
    records = _rewritten(session, shard, kit.shape.limits, others) if others else []
    session.record(
        rejected,
        Planned(
            tuple(records),
            replaces=(shard.number,),
            left={str(shard.number): {str(state): n for state, n in join.summary.states.items()}},
            refused=tuple(list(refused)[:REFUSED_KEPT]),
            why="refused lines",
        ),
    )


REFUSED_KEPT = 100
"""Keys of refused lines that an event names; all of them are in the shard's decoded answers."""
