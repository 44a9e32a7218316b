"""Fetching the files of a batch that has ended, and weighing whether what arrived is all there is.

Evidence decides how long to wait: when every row has a line and the last line is whole, the files are taken at once,
whatever a stated size, a count or a second file's id says against it; when less arrived than was announced they are
fetched again for the provider's grace time, whatever else agrees.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

from batchling import limits
from batchling.collect import lines, why_failed
from batchling.disk import Disk, Writer
from batchling.errors import CallError, CallNotFound, CallRefused, CallUnavailable, ProviderError
from batchling.ledger import Action, Attempt, CollectedFile, Shard
from batchling.ledger.events import Collected
from batchling.models import KEY_LENGTH, Response, ResultFile
from batchling.runner.folder import file_names
from batchling.runner.gathering import batch_document
from batchling.runner.polling import BUSY_SECONDS, leave, throttled
from batchling.runner.session import MISSING_LOOKS, Download, LaneKit, Session, gone, stays
from batchling.runner.shards import chunks, custom_id_suffix, read_index

REFUSED_LOOKS, REFUSED_SECONDS = 6, 600.0
"""Refusals of a download in the provider's own words (400, 410), and the time they take, after which it is given up."""

KEY_LOOKS = 10
"""Refusals of our key (401, 403) after which the command stops and asks for another key."""

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
    for name, reference in file_names(attempt.results):
        downloads[name] = _download(session, shard, attempt, name, reference)
    try:
        whole = _weigh(session, shard, attempt, downloads)
    except CallError as error:
        session.backoff("collect", shard.number, attempt.number, error, base=2.0, what="download")
        for file in attempt.results:
            if file.id in session.missing:
                session.pace.ends[shard.number, attempt.number] = (
                    session.missing[file.id][0] + session.kit(shard).grace_seconds
                )
        answers = error.status is not None or error.code == "incomplete"
        if answers and stays(session, f"no files of batch {attempt.batch_id}", MISSING_LOOKS, BUSY_SECONDS):
            leave(session, shard, attempt, error)
        return
    session.missing.pop(f"no files of batch {attempt.batch_id}", None)
    session.pace.unread.discard((shard.number, attempt.number))
    files = [_take(session, shard, attempt, name, download, whole) for name, download in downloads.items()]
    for name in downloads:
        session.parts.pop((shard.number, attempt.number, name), None)
    session.settled("collect", shard.number, attempt.number)
    session.record(Collected(shard.number, attempt.number, tuple(files)))


def _part(session: Session, shard: Shard, attempt: Attempt, name: str) -> Path:
    target = session.folder.raw(shard.number, attempt.number, name)
    return target.with_name(target.name + ".part")


def _download(session: Session, shard: Shard, attempt: Attempt, name: str, file: ResultFile) -> Download:
    """Fetches one file into its `.part` and fsyncs it. What goes wrong on the way is in the result."""
    file_id = file.id
    part = _part(session, shard, attempt, name)
    kept = session.parts.get((shard.number, attempt.number, name))
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
                return Download(file_id, file.kind, error=error)
            short = error.message
        except CallError as error:
            return Download(file_id, file.kind, error=error)
        writer.sync()
    finally:
        writer.close()
    session.missing.pop(file_id, None)
    session.missing.pop(f"{file_id} refused", None)
    count, torn = _count_lines(session.disk, part)
    found = Download(file_id, file.kind, sink.digest.hexdigest(), sink.bytes, count, torn, short)
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
    got = {name: d for name, d in downloads.items() if d.sha256 is not None}
    announced = attempt.completed
    outputs = {name: d for name, d in downloads.items() if d.kind == "output"}
    lines_out = sum(d.lines for d in outputs.values())
    agrees = all(
        d.sha256 is not None and not d.torn and d.short is None and d.stated == d.bytes for d in downloads.values()
    )
    if (
        agrees
        and sum(d.lines for d in got.values()) >= rows
        and (announced is None or lines_out >= min(announced, rows))
    ):
        # Lines are not answers yet: some are for nobody, and some are there twice.
        named = {name: _named(session, shard, _part(session, shard, attempt, name)) for name in got}
        answers = len(set().union(*(found for name, found in named.items() if name in outputs)))
        if len(set().union(*named.values())) >= rows and (announced is None or answers >= min(announced, rows)):
            return True
    keys = {name: _keys(session, shard, _part(session, shard, attempt, name)) for name in got}
    present = set().union(*keys.values())
    answered = len(set().union(*(found for name, found in keys.items() if name in outputs)))
    cut = next((d.short or "ends in the middle of a line" for d in got.values() if d.short or d.torn), None)
    if len(present) == rows and cut is None:
        return True
    # From here on rows have no line, or a file has no end.
    enough = announced is not None and answered >= min(announced, rows)
    if enough and all(d.sha256 is not None and not (d.torn or d.short) for d in outputs.values()):
        # Counts alone vouch for no file: it is not fetched again when its size agrees, or it arrived like this three times.
        for name, d in outputs.items():
            if d.stated == d.bytes or stays(session, f"{d.file_id} {d.sha256}", SAME_LOOKS, 0.0):
                session.parts[shard.number, attempt.number, name] = d
    lost = False
    for download in downloads.values():
        if download.error is not None:
            _give_up_or_raise(session, kit, download.file_id, download.error)
            lost = lost or download.kind == "output"
    what = (
        f"files of shard {shard.number} attempt {attempt.number}: {' '.join(str(d.sha256) for d in downloads.values())}"
    )
    problem: str | None = None
    smaller = next((d for d in got.values() if d.stated is not None and d.bytes < d.stated), None)
    failed = attempt.failed
    errors = any(d.kind == "errors" for d in got.values())
    looks, seconds = MISSING_LOOKS, kit.grace_seconds
    # Of an output file that is given up nothing more is expected; the error file beside it has to be whole all the same.
    awaited = 0 if lost else announced
    if cut is not None:
        problem = f"arrived cut: {cut}"
    elif not lost and announced is not None and not enough:
        problem = f"have {answered:,} answers, and the provider announced {announced:,}"
    elif awaited is not None and failed is not None and errors and len(present) < min(rows, awaited + failed):
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
    session: Session, shard: Shard, attempt: Attempt, name: str, download: Download, whole: bool
) -> CollectedFile:
    """What the journal says of one file, moved to its name. `whole`: all answers that may have been given are in it."""
    target = session.folder.raw(shard.number, attempt.number, name)
    # Errors cost nothing: should their lines be lost, asking again is no second bill.
    whole = whole or download.kind == "errors"
    if download.sha256 is None:
        note = None if download.error is None else download.error.message[:500]
        return CollectedFile(file_id=download.file_id, whole=whole, kind=download.kind, note=note)
    session.disk.replace(_part(session, shard, attempt, name), target)
    return CollectedFile(
        target.name, download.file_id, download.sha256, download.bytes, download.lines, whole, download.kind
    )


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
