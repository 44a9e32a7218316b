"""A person's decision about a submission whose fate is unknown: adopt its batch, send it again, or give it up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

from batchling.errors import CallError, CallNotFound, UnfinishedError, UsageError
from batchling.ledger import OVER, UNRESOLVED, UNSENT, Action, Attempt, CollectedFile, Do, Phase, Shard
from batchling.ledger.events import Absent, Collected, Created, Dropped, Finished
from batchling.models import Batch
from batchling.runner.adoption import adopt_from_list, named_by_results
from batchling.runner.folder import file_names
from batchling.runner.gathering import give_up, ingest
from batchling.runner.identity import contradicts, own
from batchling.runner.session import Session
from batchling.runner.shards import chunks


def parked(session: Session) -> list[tuple[Shard, Attempt]]:
    """Every submission that waits for a person."""
    return [(s, a) for s, a in session.state.attempts() if a.phase is Phase.PARKED]


def adopt(session: Session, shard: int, batch_id: str, *, force: bool = False) -> None:
    """The parked submission did happen: this is its batch.

    Args:
        shard: 1-based number of the parked shard.
        force: take it although the provider does not show it, or shows a batch of another file.

    Raises:
        UsageError: nothing is parked there, or the batch is not made from the shard's file.
        UnfinishedError: the provider can't be asked now.
    """
    found, attempt = _parked(session, shard)
    holder = session.holder(session.kit(found).lane.group, batch_id)
    if holder is not None:
        held = session.shard(*holder)[1]
        if not force or held.phase not in OVER:
            # An id that is given again: two submissions may have it, once the older one is over.
            hint = f"if the provider gave its id again, wait for the end of shard {holder[0]}, then add --force"
            raise UsageError(f"batch {batch_id} belongs to shard {holder[0]} of this plan already", next_command=hint)
    batch: Batch | None = None
    try:
        batch = session.kit(found).client.poll(batch_id)
    except CallNotFound:
        if not force:
            raise UsageError(
                f"the provider shows no batch {batch_id}",
                where=f"shard {shard}",
                next_command="check the id in the provider's dashboard, or add --force",
            ) from None
    except CallError as error:
        if not force:
            raise UnfinishedError(
                f"the provider cannot be asked about batch {batch_id}: {error.message}",
                next_command="run the same command again later",
            ) from error
    if batch is not None and not force and not _is_of(session, found, attempt, batch):
        if not session.kit(found).lane.marked:
            raise UsageError(
                f"batch {batch_id} is not of shard {shard}: its size or its results say so",
                next_command="check the id in the provider's dashboard, or add --force",
            )
        raise UsageError(
            f"batch {batch_id} is made from file {batch.input_file_id}, not from {attempt.file_id} of shard {shard}",
            next_command="check the id in the provider's dashboard, or add --force",
        )
    if batch is not None:
        session.batches[batch.id] = batch
    session.record(Created(shard, attempt.number, batch_id, adopted=True, by="person"))


def _is_of(session: Session, shard: Shard, attempt: Attempt, batch: Batch) -> bool:
    """Whether a batch says that it is this submission's; where none has a mark, its size and its results count."""
    group = session.kit(shard).lane.group
    if session.kit(shard).lane.marked:
        return own(batch, session, group) == (shard.number, attempt.number)
    if contradicts(batch, session, shard, attempt) is not None:
        return False
    try:
        named = named_by_results(session, group, batch) if batch.terminal else None
    except CallError:
        named = None
    return named is None or named[0] == shard.number


def resubmit(session: Session, shard: int, *, force: bool = False) -> bool:
    """The parked submission did not happen: send the shard again.

    Before that the provider's list is read once more, and the old input file is deleted where that can be done,
    so that the old submission cannot arrive after all.

    Args:
        force: although a batch that runs may be it.

    Returns:
        False when the list shows the batch by now: it was adopted, and nothing is sent again.

    Raises:
        UsageError: nothing is parked there.
        UnfinishedError: the provider can't be asked now, or its list shows a batch that may be this one and still runs.
    """
    found, attempt = _parked(session, shard)
    kit = session.kit(found)
    try:
        if kit.lane.can_list:
            adopt_from_list(session, kit.lane.group)
        if attempt.phase is not Phase.PARKED:
            return False
        waits = session.unended.get(kit.lane.group)
        if waits and not kit.lane.marked and not force:
            raise UnfinishedError(
                f"{', '.join(sorted(waits)[:3])} may be this submission; its results will tell, once it has ended",
                where=f"shard {shard}",
                next_command="run the same command again then, or add --force to send it again and perhaps pay twice",
            )
        if kit.lane.can_fence and attempt.file_id is not None and not kit.client.fence(attempt.file_id):
            raise UnfinishedError("the provider did not delete the input file", where=attempt.file_id)
    except CallError as error:
        raise UnfinishedError(
            f"the provider cannot be asked about shard {shard}: {error.message}",
            next_command="run the same command again later",
        ) from error
    session.record(Absent(shard, attempt.number, by="person"))
    return True


def drop(session: Session, shard: int) -> None:
    """The parked submission is given up: its rows stay without an answer, and its worst case stays in the budget.

    Should its batch turn up in the provider's list before the plan is over, it is adopted and read all the same.
    A batch that is out can be given up too, when the provider does not know it any more (404).

    Raises:
        UsageError: nothing is parked or lost there.
        UnfinishedError: the provider can't be asked now.
    """
    out = [(s, a) for s, a in session.state.attempts() if s.number == shard and a.phase is Phase.CREATED]
    if out:
        found, attempt = out[0]
        _check_lost(session, found, attempt)
    else:
        found, attempt = _parked(session, shard)
    give_up(session, found, attempt)
    session.record(Dropped(shard, attempt.number, "resolved", by="person"))


GIVEN_UP = "given up by a person: it may have been answered and paid for"


def let_go(session: Session, shard: int | None) -> None:
    """Gives up a shard's batch in flight, whatever the provider says and without asking it. The session needs no connection.

    Answers that are on the disk already are read and kept. What may have been paid stays in the budget with its worst
    case. A plan of which nothing is left then is over.

    Args:
        shard: 1-based number; None: the only one that is out.

    Raises:
        UsageError: nothing of the shard is left to give up, or several are out and none was named.
    """
    state = session.state
    out = sorted({s.number for s, a in state.attempts() if a.phase in UNRESOLVED})
    if shard is None:
        if len(out) > 1:
            raise UsageError(f"shards {_numbers(out)} are still running: say which", next_command="--shard N")
        shard = out[0] if out else 0
    found = state.shards.get(shard)
    left = [] if found is None or found.replanned else [a for a in found.attempts if a.phase not in OVER]
    if found is not None and found.replanned:
        left = [a for a in found.attempts if a.phase in UNRESOLVED]
    if found is None or not left:
        raise UsageError(
            (f"nothing of shard {shard} is left to give up" if shard else "there is nothing left to give up")
            + f"; out: {_numbers(out)}",
            where=session.folder.plan_id,
            next_command=_status(session),
        )
    for attempt in left:
        if attempt.phase is Phase.ENDED and (files := _received(session, found, attempt)):
            session.record(Collected(shard, attempt.number, tuple(files), by="person"))
        if attempt.phase is Phase.COLLECTED:
            ingest(session, Action(Do.INGEST, shard, attempt.number, found.lane))
            continue
        unsent = attempt.phase in UNSENT
        give_up(session, found, attempt, "never sent" if unsent else GIVEN_UP)
        session.record(Dropped(shard, attempt.number, "given up", by="person"))
    if not state.finished and not state.awaits and not any(True for _ in state.open_shards()):
        ended = "cancelled" if state.cancel_requested else "finished"
        session.record(Finished(ended, state.counts()))


def _received(session: Session, shard: Shard, attempt: Attempt) -> list[CollectedFile]:
    """What has arrived of a batch's files, whole or not, with the others as lost. Empty: nothing has."""
    files: list[CollectedFile] = []
    received = False
    for name, reference in file_names(attempt.results):
        missing = CollectedFile(file_id=reference.id, whole=False, kind=reference.kind)
        path = session.folder.raw(shard.number, attempt.number, name)
        part = path.with_name(path.name + ".part")
        whole = session.disk.exists(path)
        if not whole and session.disk.exists(part) and any(chunks(session.disk, part)):
            session.disk.replace(part, path)  # answers that are here are kept, even if others of their file are not
        if not session.disk.exists(path):
            files.append(missing)
            continue
        received = True
        digest, size, count = hashlib.sha256(), 0, 0
        for piece in chunks(session.disk, path):
            digest.update(piece)
            size += len(piece)
            count += piece.count(b"\n")
        sha256 = digest.hexdigest()
        files.append(replace(missing, file=path.name, sha256=sha256, bytes=size, lines=count, whole=whole))
    return files if received else []


def _check_lost(session: Session, shard: Shard, attempt: Attempt) -> None:
    """404 means unknown, not gone: only a person can take it for gone, and only while it is what the provider says."""
    assert attempt.batch_id is not None
    try:
        batch = session.kit(shard).client.poll(attempt.batch_id)
    except CallNotFound:
        return
    except CallError as error:
        raise UnfinishedError(
            f"the provider cannot be asked about batch {attempt.batch_id}: {error.message}",
            next_command=f"batchling resolve {session.folder.plan_id} --drop --shard {shard.number} --force",
        ) from error
    if contradicts(batch, session, shard, attempt) is not None:
        return  # another batch has its id by now
    raise UsageError(
        f"the provider shows batch {batch.id} ({batch.status}): it may still bring answers",
        where=f"shard {shard.number}",
        next_command=f"batchling cancel {session.folder.plan_id}, or add --force to give it up anyway",
    )


def _parked(session: Session, shard: int) -> tuple[Shard, Attempt]:
    waiting = parked(session)
    for found, attempt in waiting:
        if found.number == shard:
            return found, attempt
    raise UsageError(
        f"shard {shard} does not need a decision; these do: {_numbers(s.number for s, _ in waiting)}",
        where=session.folder.plan_id,
        next_command=_status(session),
    )


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def _status(session: Session) -> str:
    return f"batchling status {session.folder.plan_id}"
