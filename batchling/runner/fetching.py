"""Fetching the files of a batch that has ended, and weighing whether what arrived is all there is.

Evidence decides how long to wait: when every row has a line and the last line is whole, the files are taken at once,
whatever a stated size, a count or a second file's id says against it; when less arrived than was announced they are
fetched again for the provider's grace time, whatever else agrees.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from batchling import limits
from batchling.collect import lines, why_failed
from batchling.disk import Disk, Writer
from batchling.errors import CallError, CallNotFound, CallRefused, CallUnavailable, ProviderError
from batchling.ledger import Action, Attempt, Shard
from batchling.models import KEY_LENGTH, Response
from batchling.runner.gathering import batch_document
from batchling.runner.polling import BUSY_SECONDS, leave, throttled
from batchling.runner.session import MISSING_LOOKS, Download, LaneKit, Session, gone, stays
from batchling.runner.shards import chunks, custom_id_suffix, read_index

REFUSED_LOOKS, REFUSED_SECONDS = 6, 600.0
"""Refusals of a download in the provider's own words (400, 410), and the time they take, after which it is given up."""

KEY_LOOKS = 10
"""Refusals of our key (401, 403) after which a person is told to put it right."""

SAME_LOOKS, SAME_SECONDS = 3, 120.0
"""Downloads of the same bytes after which a file of the stated size is taken although nobody says how many answers it has."""

DEFINITE = frozenset({400, 403, 404, 405, 410, 451, 501})
"""Statuses that say no for good, if it is the provider that says it; a gateway's are believed after the grace time."""


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
        failure = why_failed(batch_document(session.disk, session.folder.batch(shard.number, attempt.number)))
        session.record(throttled(session, shard, attempt, failure))
        return
    downloads: dict[str, Download] = {}
    for kind, file_id in (("output", attempt.output_file_id), ("errors", attempt.error_file_id)):
        if file_id:
            downloads[kind] = _download(session, shard, attempt, kind, file_id)
    try:
        whole = _weigh(session, shard, attempt, downloads)
    except CallError as error:
        session.backoff("collect", shard.number, attempt.number, error, base=2.0, what="download")
        for file_id in filter(None, (attempt.output_file_id, attempt.error_file_id)):
            if file_id in session.missing:
                session.pace.ends[shard.number, attempt.number] = (
                    session.missing[file_id][0] + session.kit(shard).grace_seconds
                )
        answers = error.status is not None or error.code == "incomplete"
        if answers and stays(session, f"no files of batch {attempt.batch_id}", MISSING_LOOKS, BUSY_SECONDS):
            leave(session, shard, attempt, error)
        return
    session.missing.pop(f"no files of batch {attempt.batch_id}", None)
    session.pace.unread.discard((shard.number, attempt.number))
    files = [_take(session, shard, attempt, kind, download, whole) for kind, download in downloads.items()]
    for kind in downloads:
        session.parts.pop((shard.number, attempt.number, kind), None)
    session.settled("collect", shard.number, attempt.number)
    session.record({"kind": "collected", "shard": shard.number, "attempt": attempt.number, "files": files})


def _part(session: Session, shard: Shard, attempt: Attempt, kind: str) -> Path:
    target = session.folder.raw(shard.number, attempt.number, kind)
    return target.with_name(target.name + ".part")


def _download(session: Session, shard: Shard, attempt: Attempt, kind: str, file_id: str) -> Download:
    """Fetches one file into its `.part` and fsyncs it. What goes wrong on the way is in the result."""
    part = _part(session, shard, attempt, kind)
    kept = session.parts.get((shard.number, attempt.number, kind))
    if kept is not None and session.disk.exists(part):
        return kept
    client = session.kit(shard).client
    short: str | None = None
    writer = session.disk.create(part)
    try:
        sink = _Counted(writer)
        try:
            client.fetch(file_id, cast(BinaryIO, sink))
        except CallUnavailable as error:
            if error.code != "incomplete" or not sink.bytes:
                return Download(file_id, error=error)
            short = error.message
        except CallError as error:
            return Download(file_id, error=error)
        writer.sync()
    finally:
        writer.close()
    session.missing.pop(file_id, None)
    session.missing.pop(f"{file_id} refused", None)
    count, torn = _count_lines(session.disk, part)
    found = Download(file_id, sink.digest.hexdigest(), sink.bytes, count, torn, short)
    try:
        return replace(found, stated=client.file_bytes(file_id))
    except CallError:
        return found  # the size is a hint: some servers give 404 or 500 for it for ever


def _weigh(session: Session, shard: Shard, attempt: Attempt, downloads: dict[str, Download]) -> bool:
    """Whether what arrived is taken now, and for all that there is.

    Returns:
        False when it is taken although answers that were announced, or may have been given, are not in it.

    Raises:
        CallError: it is not taken yet.
        ProviderError: our key is refused.
    """
    kit = session.kit(shard)
    rows = shard.rows
    got = {kind: d for kind, d in downloads.items() if d.sha256 is not None}
    announced = attempt.completed
    output = downloads.get("output")
    lines_out = 0 if output is None else output.lines
    agrees = all(
        d.sha256 is not None and not d.torn and d.short is None and d.stated == d.bytes for d in downloads.values()
    )
    if (
        agrees
        and sum(d.lines for d in got.values()) >= rows
        and (announced is None or lines_out >= min(announced, rows))
    ):
        # Lines are not answers yet: some are for nobody, and some are there twice.
        named = {kind: _named(session, shard, _part(session, shard, attempt, kind)) for kind in got}
        answers = len(named.get("output", ()))
        if len(set().union(*named.values())) >= rows and (announced is None or answers >= min(announced, rows)):
            return True
    keys = {kind: _keys(session, shard, _part(session, shard, attempt, kind)) for kind in got}
    present = set().union(*keys.values())
    answered = len(keys.get("output", ()))
    cut = next((d.short or "ends in the middle of a line" for d in got.values() if d.short or d.torn), None)
    if len(present) == rows and cut is None:
        return True
    # From here on rows have no line, or a file has no end.
    enough = announced is not None and answered >= min(announced, rows)
    if output is not None and output.sha256 is not None and not (output.torn or output.short) and enough:
        # Counts alone vouch for no file: it is not fetched again when its size agrees, or it arrived like this three times.
        same = f"{output.file_id} {output.sha256}"
        if output.stated == output.bytes or stays(session, same, SAME_LOOKS, 0.0):
            session.parts[shard.number, attempt.number, "output"] = output
    lost = False
    for kind, download in downloads.items():
        if download.error is not None:
            _give_up_or_raise(session, kit, download.file_id, download.error)
            lost = lost or kind == "output"
    what = (
        f"files of shard {shard.number} attempt {attempt.number}: {' '.join(str(d.sha256) for d in downloads.values())}"
    )
    problem: str | None = None
    smaller = next((d for d in got.values() if d.stated is not None and d.bytes < d.stated), None)
    failed = attempt.failed
    looks, seconds = MISSING_LOOKS, kit.grace_seconds
    # Of an output file that is given up nothing more is expected; the error file beside it has to be whole all the same.
    awaited = 0 if lost else announced
    if cut is not None:
        problem = f"arrived cut: {cut}"
    elif not lost and announced is not None and not enough:
        problem = f"have {answered:,} answers, and the provider announced {announced:,}"
    elif awaited is not None and failed is not None and "errors" in got and len(present) < min(rows, awaited + failed):
        problem = f"have {len(present) - answered:,} errors, and the provider announced {failed:,}"
    elif smaller is not None:
        problem = f"have {smaller.bytes:,} of {smaller.stated:,} bytes"
    elif announced is None and got and not lost:
        problem = (
            f"have lines for {len(present):,} of {rows:,} rows, and the provider does not say how many it answered"
        )
        if agrees and attempt.reason != "completed":  # which has a line for each row
            looks, seconds = SAME_LOOKS, SAME_SECONDS
    elif any(d.stated is None for d in got.values()):
        # Counts alone do not show a file that was cut between two lines: they may be too low, or lag behind.
        problem = f"have lines for {len(present):,} of {rows:,} rows, and nothing says how long they are"
        looks, seconds = SAME_LOOKS, SAME_SECONDS
    if problem is None:
        return not lost
    # The same bytes for long are what the provider has; other bytes each time are a bad connection.
    if not stays(session, what, looks, seconds):
        session.pace.ends[shard.number, attempt.number] = session.missing[what][0] + seconds
        raise CallUnavailable(f"the files of batch {attempt.batch_id} {problem}", code="incomplete")
    return not lost and (seconds == SAME_SECONDS or (enough and cut is None))


def _give_up_or_raise(session: Session, kit: LaneKit, file_id: str, error: CallError) -> None:
    """Returns when a file that cannot be had is given up: its rows stay without an answer, and may have been paid.

    Raises:
        CallError: it is asked for again.
        ProviderError: our key is refused.
    """
    if isinstance(error, CallNotFound):
        if gone(session, kit, file_id):
            return
    elif isinstance(error, CallRefused) and error.status in (401, 403):
        if stays(session, f"{file_id} refused", KEY_LOOKS, 0.0):
            raise ProviderError(
                f"the provider refuses to hand out file {file_id}: {error.message}",
                next_command="correct the key, then: batchling watch",
            ) from error
    elif isinstance(error, CallRefused):
        if stays(session, f"{file_id} refused", REFUSED_LOOKS, REFUSED_SECONDS):
            session.observer.trouble(session, f"file {file_id} is given up", error, 0.0)
            return
    elif error.status in DEFINITE and gone(session, kit, f"{file_id} refused"):
        session.observer.trouble(session, f"file {file_id} is given up", error, 0.0)
        return
    raise error


def _take(
    session: Session, shard: Shard, attempt: Attempt, kind: str, download: Download, whole: bool
) -> dict[str, Any]:
    """What the journal says of one file, moved to its name. `whole`: all answers that may have been given are in it."""
    target = session.folder.raw(shard.number, attempt.number, kind)
    document: dict[str, Any] = {
        "file": None,
        "file_id": download.file_id,
        "sha256": None,
        "bytes": 0,
        "lines": 0,
        # Errors cost nothing: should their lines be lost, asking again is no second bill.
        "whole": whole or kind == "errors",
    }
    if download.sha256 is None:
        if download.error is not None:
            document["note"] = download.error.message[:500]
        return document
    session.disk.replace(_part(session, shard, attempt, kind), target)
    return document | {
        "file": target.name,
        "sha256": download.sha256,
        "bytes": download.bytes,
        "lines": download.lines,
    }


def _named(session: Session, shard: Shard, path: Path) -> set[bytes]:
    """Requests of the shard whose custom_id stands in a line of a file: `_keys` without decoding, for the usual case."""
    wanted = {key.encode() for key in _wanted(session, shard)}
    suffix = custom_id_suffix(session.folder.tail, shard.number).encode()
    found = set()
    for _, line in lines(chunks(session.disk, path)):
        end = line.find(suffix)
        found.add(line[max(0, end - KEY_LENGTH) : max(0, end)])
    return found & wanted


def _wanted(session: Session, shard: Shard) -> set[str]:
    return {entry.key for entry in read_index(session.disk, session.folder.index(shard.number))}


def _keys(session: Session, shard: Shard, path: Path) -> set[str]:
    """Requests of the shard that a file has lines for."""
    wanted = _wanted(session, shard)
    decode = session.kit(shard).envelope.decode
    decoded = (decode(line) for _, line in lines(chunks(session.disk, path)))
    return {response.key for response in decoded if isinstance(response, Response)} & wanted


def _count_lines(disk: Disk, path: Path) -> tuple[int, bool]:
    """Lines of a file, and whether the last of them is torn."""
    count = 0
    last = b""
    for _, line in lines(chunks(disk, path)):
        count += 1
        last = line
    try:
        limits.loads(last or b"null")
    except ValueError:
        return count, True
    return count, False
