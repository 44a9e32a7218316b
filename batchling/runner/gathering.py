"""Looking, fetching and reading: from a batch that is out to one state for each of its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson

from batchling.collect import FailureKind, Join, Row, Summary, lines, why_failed
from batchling.disk import Disk, Writer, write_file
from batchling.errors import CallError, CallNotFound, CallRefused, CallUnavailable, DiskError, ProviderError
from batchling.ledger import Action, Attempt, Phase, Shard
from batchling.models import KEY_LENGTH, Batch, BatchError, Outcome, Response
from batchling.runner.folder import PlanFolder
from batchling.runner.judging import charge_at, judge_again, judge_by_schema
from batchling.runner.reading import Tally, absent_outcome, said, tally_documents, tally_summary
from batchling.runner.session import LaneKit, Session, own
from batchling.runner.shards import READ_BYTES, IndexEntry, read_also, read_index
from batchling.runner.shards import chunks as chunks

LIST_FROM = 3
"""Batches out from which one list is cheaper than a look at each."""

MISSING_LOOKS = 12
"""404s without any content in between, over the provider's grace time, after which a file is taken for lost; and times
that it arrives not as announced, but always the same, over the same time, before it is taken as it is."""

SIZE_LOOKS = 4
"""Times that the provider does not say how long a file is, because it has no such call, before it is read without."""

LOST_SIGHT_POLLS = 5
"""Batches that a list does not show and that are looked at one by one, in one round."""


def poll(session: Session, action: Action) -> None:
    """Step 6: what became of every batch that is out in a group. Only the provider's own word ends one."""
    group = action.group
    kits = session.kits_of(group)
    numbers = {kit.lane.number for kit in kits}
    out = {
        a.batch_id: (s, a)
        for s, a in session.state.attempts()
        if a.phase is Phase.CREATED and s.lane in numbers and a.batch_id
    }
    provider = kits[0].provider
    found: dict[str, Batch] = {}
    changed = False
    trouble: CallError | None = None
    try:
        if len(out) >= LIST_FROM and all(kit.lane.can_list for kit in kits):
            oldest = min(a.intent_at or a.created_at or 0.0 for _, a in out.values())
            try:
                for batch in provider.find(oldest - 86_400.0):
                    if batch.id in out:
                        found[batch.id] = batch
                        if len(found) == len(out):
                            break
                    elif own(batch, session, group) is not None and not session.knows(batch.id):
                        session.pace.audits.pop(group, None)  # one of ours that we do not know: audit
            except (CallUnavailable, CallRefused, CallNotFound) as error:
                # Broken paging, or no list at all: what it does not show is polled by itself.
                if isinstance(error, CallUnavailable) and error.code != "list_incomplete" and not no_such_route(error):
                    raise
            unseen = [batch_id for batch_id in out if batch_id not in found]
            if found and len(unseen) > LOST_SIGHT_POLLS:
                unseen = session.rng.sample(unseen, LOST_SIGHT_POLLS)
        else:
            unseen = list(out)
        for batch_id in unseen:
            try:
                found[batch_id] = provider.poll(batch_id)
            except CallNotFound as error:
                session.observer.trouble(session, f"batch {batch_id} is not there (yet)", error, 0.0)
            except CallError as error:
                if error.status is None:
                    raise  # nobody answers: asking for the others would wait as long again
                trouble = error
        if trouble is not None:
            raise trouble
    except CallError as error:
        session.backoff("poll " + group, 0, 0, error, base=max(1.0, min(k.poll_seconds for k in kits)), what="poll")
        session.pace.polls[group] = session.pace.ready("poll " + group, 0, 0)
        if error.status in (401, 403) and session.failures[("poll " + group, 0, 0)] >= 10:
            raise ProviderError(
                f"the provider refuses to show our batches any longer: {error.message}",
                where=group,
                next_command="put the key right, then: batchling watch",
            ) from error
    else:
        session.settled("poll " + group, 0, 0)
    for batch_id, batch in found.items():
        before = session.batches.get(batch_id)
        changed = changed or before is None or (before.status, before.completed) != (batch.status, batch.completed)
        session.batches[batch_id] = batch
        shard, attempt = out[batch_id]
        if batch.terminal and not _files_to_come(session, session.kit(shard), batch):
            _ended(session, shard, attempt, batch)
    quiet = 0 if changed else session.quiet_polls.get(group, 0) + 1
    session.quiet_polls[group] = quiet
    shortest = min(kit.poll_seconds for kit in kits)
    pause = min(max(60.0, shortest), shortest * 1.5 ** min(quiet, 40))
    session.pace.polls[group] = max(session.pace.polls.get(group, 0.0), session.clock.now() + pause)
    session.observer.polled(session)


def _answers_announced(batch: Batch) -> int | None:
    """How many answers the provider says there are; None: it does not say."""
    if batch.completed == 0 and batch.status == "completed" and not batch.total:
        return None  # counts that were not filled in (yet)
    return batch.completed


def _files_to_come(session: Session, kit: LaneKit, batch: Batch) -> bool:
    """A batch that is over and (yet) without a file for what it has answered: looked at again for a while.

    One that may have answered and does not say how much counts as well: files, and counts, can lag behind the status.
    """
    announced = _answers_announced(batch)
    expected = announced is None if batch.status != "failed" else False
    nothing = batch.output_file_id is None and batch.error_file_id is None
    to_come = ((announced or expected) and batch.output_file_id is None) or (batch.failed and nothing)
    return bool(to_come) and not _gone(session, kit, f"files of {batch.id}")


def no_such_route(error: CallError) -> bool:
    """What answered does not know this call: a status that says so, or a body that is none of the API's."""
    return error.status in (404, 405, 501) or error.code == "unreadable"


def _ended(session: Session, shard: Shard, attempt: Attempt, batch: Batch) -> None:
    where = {"shard": shard.number, "attempt": attempt.number}
    document = {
        "id": batch.id,
        "status": batch.status,
        "errors": [{"code": e.code, "message": e.message, "line": e.line, "param": e.param} for e in batch.errors],
    }
    write_file(session.disk, session.folder.batch(shard.number, attempt.number), orjson.dumps(document))
    ended: dict[str, Any] = {
        "kind": "ended",
        **where,
        "reason": batch.status,
        "output_file_id": batch.output_file_id or None,
        "error_file_id": batch.error_file_id or None,
        "completed": _answers_announced(batch),
    }
    events: list[dict[str, Any]] = [ended]
    ran = batch.output_file_id or batch.error_file_id or batch.completed
    if batch.status == "failed":
        failure = why_failed(batch)
        ended["code"] = failure.code
        if failure.kind in (FailureKind.THROTTLED, FailureKind.NOT_READY) and not ran:
            lane = session.kit(shard).lane
            if failure.limit is not None:
                learned = {"kind": "learned", "group": lane.group, "model": lane.model, "limit": failure.limit}
                events.insert(0, learned)
            events.append(_throttled(session, shard, attempt))
            ended["reason"] = "throttled"
    session.record(*events)


def _throttled(session: Session, shard: Shard, attempt: Attempt) -> dict[str, Any]:
    """Refused after the fact: nothing ran, nothing is billed, no attempt of a row is used up."""
    n = sum(1 for a in shard.attempts if a.phase is Phase.THROTTLED)
    wait = min(900.0, max(1.0, session.kit(shard).poll_seconds) * 2.0 ** min(n, 12))
    where = {"shard": shard.number, "attempt": attempt.number}
    return {"kind": "throttled", **where, "retry_at": session.clock.now() + wait}


class _Counted:
    """A sink that hashes and counts what goes to disk."""

    def __init__(self, writer: Writer):
        self.writer = writer
        self.digest = hashlib.sha256()
        self.bytes = 0

    def write(self, data: bytes) -> int:
        self.writer.write(data)
        self.digest.update(data)
        self.bytes += len(data)
        return len(data)


def collect(session: Session, action: Action) -> None:
    """Step 7: both files, to the last byte, on disk before anything reads them."""
    shard, attempt = session.shard(action.shard, action.attempt)
    if attempt.reason == "throttled":  # a kill came between the two events
        session.record(_throttled(session, shard, attempt))
        return
    files = []
    try:
        for kind, file_id in (("output", attempt.output_file_id), ("errors", attempt.error_file_id)):
            if file_id:
                files.append(_fetch(session, shard, attempt, kind, file_id))
    except CallError as error:
        session.backoff("collect", shard.number, attempt.number, error, base=2.0, what="download")
        return
    session.settled("collect", shard.number, attempt.number)
    session.record({"kind": "collected", "shard": shard.number, "attempt": attempt.number, "files": files})


def _fetch(session: Session, shard: Shard, attempt: Attempt, kind: str, file_id: str) -> dict[str, Any]:
    """One file, verified: its size is the provider's, its last line is whole, it has the answers that were announced.

    What cannot be had is told apart in the result: `whole` is False when the file is always less than was announced,
    or (then `file` is None) gone, and so its missing rows may have been paid.
    """
    kit = session.kit(shard)
    target = session.folder.raw(shard.number, attempt.number, kind)
    part = target.with_name(target.name + ".part")
    size: int | None = None
    writer = session.disk.create(part)
    try:
        sink = _Counted(writer)
        try:
            kit.provider.fetch(file_id, cast(BinaryIO, sink))
        except CallNotFound:
            if not _gone(session, kit, file_id):
                raise
            gone = {"file": None, "file_id": file_id, "sha256": None, "bytes": 0, "lines": 0}
            return {**gone, "whole": kind == "errors"}
        except CallError:
            if sink.bytes:
                session.missing.pop(file_id, None)
            raise
        session.missing.pop(file_id, None)
        try:
            size = kit.provider.file_bytes(file_id)
            session.missing.pop(f"size of {file_id}", None)
        except CallNotFound:
            if not _gone(session, kit, f"size of {file_id}"):
                raise
        except CallError as error:
            looks = session.missing.get(f"size of {file_id}", (0.0, 0))[1] + 1
            session.missing[f"size of {file_id}"] = (session.clock.now(), looks)
            if looks < SIZE_LOOKS or not (isinstance(error, CallRefused) or no_such_route(error)):
                raise
        writer.sync()
    finally:
        writer.close()
    count, complete = _count_lines(session.disk, part)
    problem = None
    if size is not None and size != sink.bytes:
        problem = f"arrived with {sink.bytes:,} of {size:,} bytes"
    elif not complete:
        problem = f"ends in the middle of a line after {sink.bytes:,} bytes"
    elif kind == "output" and size is None and attempt.completed is not None:
        answers = _answers(session, shard, part)
        if answers < min(attempt.completed, shard.rows):
            problem = f"has {answers:,} answers, and the provider announced {attempt.completed:,}"
    # The same bytes for long are what the provider has; other bytes each time are a bad connection.
    if problem is not None and not _gone(session, kit, f"{file_id} {sink.digest.hexdigest()}"):
        raise CallUnavailable(f"file {file_id} {problem}")
    session.disk.replace(part, target)
    return {
        "file": target.name,
        "file_id": file_id,
        "sha256": sink.digest.hexdigest(),
        "bytes": sink.bytes,
        "lines": count,
        # Errors cost nothing: should their lines be lost, asking again is no second bill.
        "whole": kind == "errors" or (problem is None and (size is not None or attempt.completed is not None)),
    }


def _answers(session: Session, shard: Shard, path: Path) -> int:
    """Requests of the shard that a file has lines for."""
    wanted = {entry.key for entry in read_index(session.disk, session.folder.index(shard.number))}
    decode = session.kit(shard).provider.decode
    decoded = (decode(line) for _, line in lines(chunks(session.disk, path)))
    return len({response.key for response in decoded if isinstance(response, Response)} & wanted)


def _gone(session: Session, kit: LaneKit, what: str) -> bool:
    """404 means unknown: only one that stays for long, however often this process looks, means that it is lost."""
    since, looks = session.missing.get(what, (session.clock.now(), 0))
    session.missing[what] = (since, looks + 1)
    return looks + 1 >= MISSING_LOOKS and session.clock.now() - since >= kit.grace_seconds


def _count_lines(disk: Disk, path: Path) -> tuple[int, bool]:
    """Lines of a file, and whether the last of them is whole JSON."""
    count = 0
    last = b""
    for _, line in lines(chunks(disk, path)):
        count += 1
        last = line
    try:
        orjson.loads(last or b"null")
    except ValueError:
        return count, False
    return count, True


def ingest(session: Session, action: Action) -> None:
    """Step 8: each row of the shard gets exactly one state."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    summary, fatal = decode_attempt(session.disk, session.folder, kit, shard, attempt)
    unsure = not all(file.get("whole", True) for file in attempt.files)
    if attempt.output_file_id is None and (attempt.completed or (attempt.completed is None and not _failed(attempt))):
        unsure = True  # answers were announced, or may be there, and no file to have them from
    elif attempt.completed is not None and attempt.completed > summary.rows - summary.missing:
        unsure = True  # more answers were announced than rows have lines: one of those without was answered
    tally = _tally(session, kit, shard, attempt, summary, unsure=unsure)
    if shard.row_attempt >= session.attempts or fatal:
        tally.moved.clear()
    session.record(
        {
            "kind": "closed",
            "shard": shard.number,
            "attempt": attempt.number,
            "counts": {str(state): n for state, n in tally.states.items()},
            "usd": str(summary.cost_usd),
            "kept": tally.kept,
            "retry": sum(tally.moved.values()),
            "again": tally.again,
            "unsure": unsure,
            "unpriced": summary.unpriced,
            "strays": summary.foreign + summary.duplicates + summary.garbage,
            "input_tokens": summary.usage.input_tokens,
            "output_tokens": summary.usage.output_tokens,
            "fatal": fatal,
        }
    )


def _failed(attempt: Attempt) -> bool:
    """It ended before anything ran, or was refused after the fact."""
    return attempt.reason in ("failed", "throttled")


def _tally(session: Session, kit: LaneKit, shard: Shard, attempt: Attempt, summary: Summary, *, unsure: bool) -> Tally:
    """The shard's rows in counts, by what all its batches together answered."""
    repairs = kit.repair is not None
    closed = [a for a in shard.attempts if a.phase is Phase.CLOSED]
    if not closed and not attempt.stray:
        return tally_summary(summary, attempt, unsure=unsure, repairs=repairs)
    return tally_documents(
        said(session.disk, session.folder, shard, [*closed, attempt]).values(),
        shard,
        unsure=attempt.number if unsure else 0,
        repairs=repairs,
        cancelled=session.state.cancel_requested or shard.unwanted,
    )


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
    """Writes the decoded form of an attempt's raw files. Free to repeat: it depends on nothing else.

    Args:
        absent, message: what a row without a line is, and why; None: by how the batch ended.

    Returns:
        The counts, and why the provider refuses the whole lane (None: it does not).
    """
    entries = read_index(disk, folder.index(shard.number))
    suffix = f"-{folder.tail}-{shard.number:04d}"
    join = Join(
        (Row(e.key, e.parent or None, e.tokens, shard.row_attempt) for e in entries),
        suffix=suffix,
        judge=judge_by_schema(entries, kit.schemas),
        shard=shard.number,
        attempt=attempt.number,
        charge=charge_at(kit.price),
        decode=kit.provider.decode,
    )
    absent = absent or absent_outcome(attempt)
    code = fatal = None
    refused: bytes = b""
    if attempt.reason == "failed":
        failure = why_failed(_batch_document(disk, folder.batch(shard.number, attempt.number)))
        code, message = failure.code, failure.message
        if failure.kind is FailureKind.FATAL:
            fatal = f"{failure.code}: {failure.message}"[:500]
        refused = _refused_lines(entries, failure.lines, suffix)
    target = folder.decoded(shard.number, attempt.number)

    def decoded() -> Iterator[bytes]:
        for file in attempt.files:
            if file["file"] is not None:
                yield from join.read(file["file"], chunks(disk, folder.responses / file["file"]))
        if refused:
            yield from join.read(folder.batch(shard.number, attempt.number).name, [refused])
        yield from join.finish(absent=absent, error_code=code, error_message=message)

    write_lines(disk, target, decoded())
    also = read_also(disk, folder.also)
    if also:
        answers = (line for _, line in lines(chunks(disk, target)))
        write_lines(disk, folder.judged_again(target), judge_again(answers, also, kit.schemas))
    set_aside = folder.strays(shard.number, attempt.number)
    if join.summary.strays:
        write_lines(disk, set_aside, (orjson.dumps(stray._asdict()) + b"\n" for stray in join.summary.strays))
    elif disk.exists(set_aside):
        disk.remove(set_aside)
    return join.summary, fatal


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


def _batch_document(disk: Disk, path: Path) -> Batch:
    try:
        document = orjson.loads(disk.read(path))
    except ValueError as error:
        raise DiskError(f"unreadable: {error}", where=str(path)) from error
    return Batch(
        id=document["id"], status=document["status"], errors=tuple(BatchError(**e) for e in document["errors"])
    )


def _refused_lines(entries: list[IndexEntry], errors: Iterable[BatchError], suffix: str) -> bytes:
    """The validation errors that name a line, in the shape of an error file."""
    written = []
    for error in errors:
        if error.line is not None and 1 <= error.line <= len(entries):
            key = entries[error.line - 1].key[:KEY_LENGTH]
            detail = {"code": error.code or "invalid_request", "message": error.message}
            written.append(orjson.dumps({"custom_id": f"{key}{suffix}", "response": None, "error": detail}) + b"\n")
    return b"".join(written)
