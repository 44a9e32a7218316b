"""Reading: from the raw files of a batch to one state for each of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from batchling import limits
from batchling.collect import Join, Row, Summary, lines, why_failed
from batchling.disk import Disk, write_file
from batchling.errors import DiskError
from batchling.ledger import Action, Attempt, Phase, Shard
from batchling.ledger.events import Closed
from batchling.models import NOT_UNDERSTOOD, Batch, BatchError, Outcome, RowState
from batchling.runner.blotting import Blots
from batchling.runner.folder import PlanFolder
from batchling.runner.judging import Kept, charge_at, judge_again, judge_by_schema
from batchling.runner.reading import Document, Tally, absent_outcome, said, tally_documents, tally_summary
from batchling.runner.refusals import blamed, faults_of, read_refused, refused_lines
from batchling.runner.session import LaneKit, Session
from batchling.runner.shards import READ_BYTES, custom_id_suffix, read_also, read_index
from batchling.runner.shards import chunks as chunks


def ingest(session: Session, action: Action) -> None:
    """Step 8: each row of the shard gets exactly one state."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    summary, fatal = decode_attempt(session.disk, session.folder, kit, shard, attempt)
    blotted = Blots(session.disk, session.folder.blotted(shard.number, attempt.number)).count
    unsure = not all(file.whole for file in attempt.files)
    if not attempt.has_output and (attempt.completed or (attempt.completed is None and not _failed(attempt))):
        unsure = True  # answers were announced, or may be there, and no file to have them from
    elif attempt.completed is not None and attempt.completed > summary.rows - summary.missing:
        unsure = True  # more answers were announced than rows have lines: one of those without was answered
    unsure = unsure or summary.hidden > 0
    tally = _tally(session, kit, shard, attempt, summary, unsure=unsure)
    fatal = fatal or summary.account
    # It failed because of single lines, before anything was asked: the others lose no attempt by it.
    unrun = _failed(attempt) and not (attempt.files or attempt.completed) and summary.outcomes[Outcome.ERROR] > 0
    if shard.row_attempt >= session.attempts and not unrun:
        # What the account was refused for was never asked: it stays open until a person has acted.
        kept = min(tally.moved[RowState.ERROR], tally.outcomes[Outcome.ACCOUNT])
        tally.moved.clear()
        tally.moved[RowState.ERROR] = kept
    session.record(
        Closed(
            shard.number,
            attempt.number,
            counts={str(state): n for state, n in tally.states.items()},
            usd=summary.cost_usd,
            kept=tally.kept,
            retry=sum(tally.moved.values()),
            again=tally.again,
            lost=tally.lost,
            unsure=unsure,
            unpriced=summary.unpriced,
            strays=summary.foreign + summary.duplicates + summary.garbage,
            blotted=blotted,
            input_tokens=summary.usage.input_tokens,
            output_tokens=summary.usage.output_tokens,
            fatal=fatal,
            unrun=unrun,
        )
    )


def _failed(attempt: Attempt) -> bool:
    """It ended before anything ran, or was refused after the fact."""
    return attempt.reason in ("failed", "throttled")


def _tally(session: Session, kit: LaneKit, shard: Shard, attempt: Attempt, summary: Summary, *, unsure: bool) -> Tally:
    """The shard's rows in counts, by what all its batches together answered."""
    repairs = kit.repair is not None and kit.repairs > 0
    closed = [a for a in shard.attempts if a.phase is Phase.CLOSED]
    # Of a first asking no request is a repair, and each may have one.
    if not closed and not attempt.stray and (shard.row_attempt == 1 or not repairs):
        return tally_summary(summary, attempt, unsure=unsure, repairs=repairs)
    documents = said(session.disk, session.folder, shard, [*closed, attempt])
    return tally_documents(
        documents.values(),
        shard,
        unsure=attempt.number if unsure else 0,
        repairs=unfit(session, kit, shard, documents).keys(),
        # As in `tally_summary`: one batch says alone what becomes of its rows.
        cancelled=bool(closed or attempt.stray) and (session.state.cancel_requested or shard.unwanted),
    )


def unfit(session: Session, kit: LaneKit, shard: Shard, documents: dict[str, Document]) -> dict[str, Document]:
    """Of a shard's answers those that do not fit the schema and are to be sent back."""
    found = {k: d for k, d in documents.items() if d["state"] == RowState.INVALID and kit.repair is not None}
    if not found:
        return {}
    entries = read_index(session.disk, session.folder.index(shard.number))
    may = {e.key for e in entries if e.key in found and kit.may_repair(e.key, e.parent, shard.row_attempt)}
    return {k: d for k, d in found.items() if k in may}


def give_up(session: Session, shard: Shard, attempt: Attempt, why: str = "never sent") -> None:
    """The rows of an attempt that is about to be dropped are `cancelled` in the tables, as they are in the ledger."""
    decode_attempt(
        session.disk, session.folder, session.kit(shard), shard, attempt, absent=Outcome.CANCELLED, message=why
    )


def decode_attempt(
    disk: Disk,
    folder: PlanFolder,
    kit: LaneKit,
    shard: Shard,
    attempt: Attempt,
    *,
    absent: Outcome | None = None,
    message: str | None = None,
) -> tuple[Summary, str | None]:
    """Writes the decoded form of an attempt's raw files. Free to repeat: what was judged before is not judged again.

    Args:
        absent, message: what a row without a line is, and why; None: by how the batch ended.

    Returns:
        The counts, and why the provider refuses the whole lane (None: it does not).
    """
    entries = read_index(disk, folder.index(shard.number))
    suffix = custom_id_suffix(folder.tail, shard.number)
    blots = Blots(disk, folder.blotted(shard.number, attempt.number), kit.scrubber)
    target = folder.decoded(shard.number, attempt.number)
    kept = Kept(disk, [target, folder.judged_again(target)], kit.schemas)
    join = Join(
        (Row(e.key, e.parent or None, e.tokens, shard.row_attempt) for e in entries),
        suffix=suffix,
        judge=judge_by_schema(entries, kit.schemas, kept),
        shard=shard.number,
        attempt=attempt.number,
        charge=charge_at(kit.price),
        decode=blots.decoding(kit.envelope.decode),
    )
    absent = absent or absent_outcome(attempt)
    code = fatal = None
    refused: bytes = b""
    if attempt.reason == "failed":
        failure = why_failed(batch_document(disk, folder.batch(shard.number, attempt.number)))
        code, message = failure.code, failure.message
        if failure.fatal:
            fatal, absent = failure.sentence[:500], Outcome.ACCOUNT
        refused = refused_lines(blamed(entries, faults_of(failure, shard.rows)), suffix)
        if refused:
            write_file(disk, folder.raw(shard.number, attempt.number, "refused"), refused)

    bound = limits.result_bytes(shard.rows, shard.bytes, kit.max_output_tokens)
    larger = any(file.file is not None and file.bytes > bound for file in attempt.files)

    def decoded() -> Iterator[bytes]:
        for file in attempt.files:
            if file.file is not None:
                yield from join.read(file.file, _first(bound, chunks(disk, folder.responses / file.file)))
        if refused:
            yield from join.read(
                folder.raw(shard.number, attempt.number, "refused").name, [refused], decode=read_refused
            )
        # A batch that was closed before this was known stays as its journal says.
        known = attempt.phase is not Phase.CLOSED or attempt.unsure
        hidden = _hidden(join, attempt, bound if larger else None) if known else None
        if hidden is None:
            yield from join.finish(absent=absent, error_code=code, error_message=message)
        else:
            yield from join.finish(absent=Outcome.ERROR, error_code=NOT_UNDERSTOOD, error_message=hidden)
        blots.save()

    write_lines(disk, target, decoded())
    also = read_also(disk, folder.also)
    if also:
        answers = (line for _, line in lines(chunks(disk, target)))
        write_lines(disk, folder.judged_again(target), judge_again(answers, also, kit.schemas, kept))
    set_aside = folder.strays(shard.number, attempt.number)
    if join.summary.strays:
        write_lines(disk, set_aside, (orjson.dumps(stray._asdict()) + b"\n" for stray in join.summary.strays))
    elif disk.exists(set_aside):
        disk.remove(set_aside)
    return join.summary, fatal


def _first(bound: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The first `bound` bytes."""
    for piece in pieces:
        yield piece[:bound]
        bound -= len(piece)
        if bound <= 0:
            return


def _hidden(join: Join, attempt: Attempt, larger: int | None) -> str | None:
    """Why the line of a row that seems to have none may be there all the same; None: there is nothing that could be it.

    Such a row may have been paid for, so it is not asked again by itself.

    Args:
        larger: bytes that were decoded of files that are larger.
    """
    if larger is not None:
        return f"the results are larger than {larger:,} bytes"
    unread = join.summary.garbage
    if unread and (attempt.completed is None or attempt.completed > join.answered):
        return f"no line names this request, and {unread:,} line{'s' * (unread > 1)} of the results cannot be read"
    return None


def write_lines(disk: Disk, target: Path, produced: Iterable[bytes]) -> None:
    """Writes a derived file so that it is absent or complete."""
    part = target.with_name(target.name + ".part")
    writer = disk.create(part)
    try:
        buffer: list[bytes] = []
        size = 0
        for line in produced:
            buffer.append(line)
            size += len(line)
            if size >= READ_BYTES:
                writer.write(b"".join(buffer))
                buffer, size = [], 0
        writer.write(b"".join(buffer))
        writer.sync()
    finally:
        writer.close()
    disk.replace(part, target)


def batch_document(disk: Disk, path: Path) -> Batch:
    """What the provider said of a batch when it had ended."""
    try:
        document = limits.own(disk.read(path))
    except ValueError as error:
        raise DiskError(f"unreadable: {error}", where=str(path)) from error
    return Batch(
        id=document["id"], status=document["status"], errors=tuple(BatchError(**e) for e in document["errors"])
    )
