"""Sending: upload, create, and finding out what became of a create whose answer was lost."""

from __future__ import annotations

import hashlib

from batchling.collect import FailureKind, why_refused
from batchling.errors import (
    CallAmbiguous,
    CallError,
    CallNotFound,
    CallRefused,
    CallUnavailable,
    DiskError,
    ProviderError,
    UnfinishedError,
)
from batchling.ledger import OVER, Action, Attempt, Phase, Shard, at_stake, resubmit_limit
from batchling.ledger.events import (
    Absent,
    Cancelling,
    Created,
    CreateIntent,
    Dropped,
    Fenced,
    Parked,
    Rejected,
    Unlisted,
    Uploaded,
    UploadIntent,
)
from batchling.models import Submission
from batchling.runner import replanning
from batchling.runner.adoption import ASK_AGAIN_SECONDS, CLOCK_SECONDS, adopt_from_list
from batchling.runner.gathering import give_up
from batchling.runner.polling import BUSY_SECONDS
from batchling.runner.refusals import blamed, faults_of, learned
from batchling.runner.session import MISSING_LOOKS, Session, stays
from batchling.runner.shards import chunks, read_index

RETRY_SECONDS = 2.0
"""First pause after a call that failed for now."""

MAX_REFUSALS = 6
"""Refusals in a row that neither a limit nor a file that is not ready explains; then a person is asked."""

MAX_RENEWALS = 2
"""Times that the id of a deleted file is given for other bytes as well, after which its lane stops."""

MAX_SET_ASIDE = 25
"""Refusals in a row that each blame other lines, without a batch in between; then a person is asked: it is not the lines."""

REUPLOAD_AFTER = 3
"""Refusals in a row because the input file is not ready, after which it is uploaded again."""


KEY_TRIES = 3
"""Cancellations that are answered 401, after which the command stops and says so: the batches that run cost money until the key is corrected."""

NOT_FOUND_TRIES = 4
"""Uploads (or cancellations) in a row that are answered 404, after which nobody (or no batch) is taken to be there."""

LIST_TRIES = 4
"""Lists (or deletions) in a row that break off (their cursor leads nowhere) or are refused, after which that is taken
for what the provider can do."""

ROUTE_TRIES = 8
"""The same for answers that may as well be a gateway's (404, 405, 501, a strange body): some minutes."""

LAST_LOOKS = 12
"""Looks at the list in a row in which a row of ours cannot be read (two hours), after which a plan may end without it."""

UNKNOWN_FATES = 3
"""Attempts of a shard whose fate stays unknown, of which the last one waits for a person, whatever it costs. The model
check of the protocol explores as many."""


LAST_LIST_SECONDS = 3600.0
"""How long a plan with nothing else to wait for waits for a list in which a batch of it might stand twice, or be shown."""

NO_LIST = "the provider cannot list batches, so nothing can prove that it did not happen"
BROKEN_LIST = "the provider's list cannot be read, so nothing can prove that it did not happen"
NO_MARK = "a batch carries no mark at this provider and a submission cannot be called back, so no list proves that it did not happen"
UNCLEAR_LIST = "the provider's list does not say of every batch whose it is, or lacks batches that are there"


def no_such_route(error: CallError) -> bool:
    """What answered does not know this call: a status that says so, or a body that is none of the API's."""
    return error.status in (404, 405, 501) or error.code == "unreadable"


def submission(session: Session, shard: Shard, attempt: Attempt) -> Submission:
    kit = session.kit(shard)
    return Submission(
        plan=session.folder.tail,
        shard=shard.number,
        attempt=attempt.number,
        sha256=shard.sha256,
        endpoint=kit.shape.path,
        requests=shard.rows,
    )


def upload(session: Session, action: Action) -> None:
    """Step 3. Costs nothing and may be repeated, so any failure is only put off."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    _check_bytes(session, shard)
    if attempt.phase is not Phase.UPLOADING:
        session.record(UploadIntent(shard.number, attempt.number))
    try:
        with session.disk.reader(session.folder.shard(shard.number)) as content:
            file_id = kit.client.upload(submission(session, shard, attempt), content)
    except CallRefused as error:
        _refused(session, shard, attempt, error)
        return
    except CallError as error:
        tries = session.failures.get(("submit", shard.number, attempt.number), 0) + 1
        if isinstance(error, CallNotFound) and tries >= NOT_FOUND_TRIES:
            # There is nothing yet that could be missing, so the address is wrong, or has no Files API.
            refusal = CallRefused(error.message, status=404, code="no_files_api")
            _refused(session, shard, attempt, refusal)
            return
        session.backoff("submit", shard.number, attempt.number, error, base=RETRY_SECONDS, what="upload")
        return
    if session.serves_another(file_id, shard, attempt):
        _under_other_ids(session, shard, attempt, file_id)
        return
    session.settled("submit", shard.number, attempt.number)
    session.record(Uploaded(shard.number, attempt.number, file_id))


def _under_other_ids(session: Session, shard: Shard, attempt: Attempt, file_id: str) -> None:
    """I4: a store that names files by their bytes gave the id of a file that was deleted to hold off a lost create.

    As long as the file is there again, that create could go through after all. So it is deleted once more, and the rows
    go into a shard of another number: their custom_ids carry it, so the bytes differ, and with them the file's id.
    """
    try:
        if not session.kit(shard).client.fence(file_id):
            raise CallUnavailable(f"input file {file_id} could not be deleted again")
    except CallError as error:
        session.backoff("submit", shard.number, attempt.number, error, base=RETRY_SECONDS, what="upload")
        return
    session.settled("submit", shard.number, attempt.number)
    session.renewed[file_id] = session.renewed.get(file_id, 0) + 1
    if session.renewed[file_id] > MAX_RENEWALS:
        message = (
            f"the provider gives one upload after the other the id {file_id}, with which an earlier submission may still "
            "arrive: sent again, it could be paid twice"
        )
        refusal = Rejected(shard.number, attempt.number, code="file_id_again", message=message, fatal=True)
        session.record(refusal)
        return
    replanning.renew(session, shard)


def send(session: Session, action: Action) -> None:
    """Steps 3 and 4 of one shard, one after the other, so that its batch works while the next file is on its way."""
    upload(session, action)
    if session.shard(action.shard, action.attempt)[1].phase is Phase.UPLOADED:
        create(session, action)


def _check_bytes(session: Session, shard: Shard) -> None:
    """What is sent is what was planned: the file may have been edited since."""
    path = session.folder.shard(shard.number)
    digest = hashlib.sha256()
    for piece in chunks(session.disk, path):
        digest.update(piece)
    if digest.hexdigest() != shard.sha256:
        raise DiskError(
            f"the requests of shard {shard.number} are not the bytes that were planned; nothing of it was sent",
            where=str(path),
            next_command="restore the file from a backup, or cancel this plan",
        )


def create(session: Session, action: Action) -> None:
    """Step 4: the only call that spends. Its intent is on disk before it leaves, its answer before anything else."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    assert attempt.file_id is not None
    if session.serves_another(attempt.file_id, shard, attempt):
        _under_other_ids(session, shard, attempt, attempt.file_id)
        return
    session.record(CreateIntent(shard.number, attempt.number, attempt.file_id))
    try:
        with session.disk.reader(session.folder.shard(shard.number)) as content:
            batch = kit.client.create(submission(session, shard, attempt), attempt.file_id, content, kit.window)
    except CallRefused as error:
        _refused(session, shard, attempt, error)
        return
    except CallError as error:
        # AMBIGUOUS: it stays `creating`; the next decision recovers it.
        session.observer.trouble(session, "create", error, 0.0)
        return
    session.settled("submit", shard.number, attempt.number)
    holder = session.holder(kit.lane.group, batch.id)
    if holder is not None:
        # I8: it was made, but what the provider shows under this id may be either; nothing takes the place of the other.
        why = (
            f"the provider gave it the id {batch.id}, which is the one of shard {holder[0]} already; see in its dashboard"
            " whether it made this batch"
        )
        session.record(Parked(shard.number, attempt.number, why))
        return
    session.record(Created(shard.number, attempt.number, batch.id))
    session.batches[batch.id] = batch


def _refused(session: Session, shard: Shard, attempt: Attempt, error: CallRefused) -> None:
    """A definite no costs nothing: wait and try again, cut it, leave lines out, or stop this lane when none of it helps."""
    failure = why_refused(error)
    key = ("submit", shard.number, attempt.number)
    retry_at = None
    explained = failure.kind in (FailureKind.THROTTLED, FailureKind.TOO_LARGE)
    refusals = 0 if explained else attempt.refusals + 1
    entries = read_index(session.disk, session.folder.index(shard.number))
    lines = blamed(entries, faults_of(failure, shard.rows))
    fatal = failure.fatal or refusals >= MAX_REFUSALS
    if lines:
        known, n = session.set_aside.get(shard.lane, (-1, 0))
        n = n + 1 if known == len(session.state.batches) else 1
        session.set_aside[shard.lane] = len(session.state.batches), n
        fatal = n > MAX_SET_ASIDE
    reupload = failure.kind is FailureKind.NOT_READY and refusals == REUPLOAD_AFTER
    wait = 0.0
    if not fatal and not lines and failure.kind is not FailureKind.TOO_LARGE:
        n = session.failures.get(key, 0)
        session.failures[key] = n + 1
        base = max(RETRY_SECONDS, session.kit(shard).poll_seconds)
        wait = max(min(900.0, base * 2.0 ** min(n, 16)), error.retry_after or 0.0)
        retry_at = session.clock.now() + wait
    if not fatal:
        told = CallRefused(failure.sentence, status=error.status, code=error.code)
        session.observer.trouble(session, "submit", told, wait)
    rejected = Rejected(
        shard.number,
        attempt.number,
        status=error.status,
        code=error.code,
        message=error.message[:500],
        about=str(failure.about),
        words=error.words[:500],
        why=failure.sentence[:500],
        refusals=0 if fatal else refusals,
        fatal=fatal,
        reupload=reupload,
        retry_at=retry_at,
    )
    if lines and not fatal:
        replanning.set_aside(session, shard, attempt, lines, rejected)
    else:
        session.record(*learned(session, shard, failure), rejected)


def recover(session: Session, action: Action) -> None:
    """Step 5, first half: is it in the list? If not, delete its input file, so that it can no longer happen."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    where = shard.number, attempt.number
    deleted = kit.lane.can_fence
    try:
        if kit.lane.can_list:
            adopt_from_list(session, kit.lane.group)
            _listed(session, kit.lane.group)
        if attempt.phase is not Phase.CREATING:
            session.settled("recover", shard.number, attempt.number)
            return
        if not kit.lane.can_list:
            session.record(Parked(*where, NO_LIST))
            return
    except CallError as error:
        if _is_broken(session, "recover", shard.number, attempt.number, error) or _is_down(
            session, kit.lane.group, error
        ):
            session.record(Parked(*where, f"{BROKEN_LIST}: {error.message}"[:500]))
            return
        session.backoff("recover", shard.number, attempt.number, error, base=RETRY_SECONDS, what="recover")
        return
    if deleted:
        assert attempt.file_id is not None
        try:
            if not kit.client.fence(attempt.file_id):
                raise CallUnavailable("the input file could not be deleted")
        except CallError as error:
            answered = error.status is not None and stays(
                session, f"deletion of {attempt.file_id}", MISSING_LOOKS, kit.grace_seconds
            )
            if not (answered or _is_broken(session, "fence", shard.number, attempt.number, error)):
                session.backoff("fence", shard.number, attempt.number, error, base=RETRY_SECONDS, what="recover")
                session.pace.due["recover", shard.number, attempt.number] = session.pace.ready(
                    "fence", shard.number, attempt.number
                )
                return
            session.observer.trouble(session, "the input file cannot be deleted", error, 0.0)
            deleted = False
    session.settled("fence", shard.number, attempt.number)
    session.settled("recover", shard.number, attempt.number)
    mark = session.clock.mark()
    session.record(Fenced(*where, mark, deleted))
    session.pace.settling[shard.number, attempt.number] = session.clock.now()


def settle(session: Session, action: Action) -> None:
    """Step 5, second half: settled and still not in the list, so it did not happen; what is at stake may be for a person."""
    shard, attempt = session.shard(action.shard, action.attempt)
    kit = session.kit(shard)
    where = shard.number, attempt.number
    try:
        clear = adopt_from_list(session, kit.lane.group)
    except CallError as error:
        if _is_broken(session, "settle", shard.number, attempt.number, error) or _is_down(
            session, kit.lane.group, error
        ):
            session.record(Parked(*where, f"{BROKEN_LIST}: {error.message}"[:500]))
            return
        session.backoff("settle", shard.number, attempt.number, error, base=RETRY_SECONDS, what="recover")
        return
    session.settled("settle", shard.number, attempt.number)
    _listed(session, kit.lane.group)
    if attempt.phase is not Phase.FENCED:
        return
    # One that was made long after the submission left is somebody else's, and where they come all day, there is always one.
    latest = (attempt.intent_at or session.clock.now()) + kit.lane.settle_seconds + CLOCK_SECONDS
    unended = session.unended.get(kit.lane.group, {})
    waits = {batch_id for batch_id, made in unended.items() if made is None or made <= latest}
    if waits and not kit.lane.marked:
        _await_results(session, shard, attempt, waits)
        return
    why = _why_a_person(session, shard, attempt, clear=clear)
    session.record(Absent(*where) if why is None else Parked(*where, why))


def _await_results(session: Session, shard: Shard, attempt: Attempt, waits: set[str]) -> None:
    """A listed batch may be this submission's, and nothing but its results will tell: looked at again until it has ended."""
    pause = max(RETRY_SECONDS, session.kit(shard).poll_seconds)
    session.pace.due["settle", shard.number, attempt.number] = session.clock.now() + pause
    names = ", ".join(sorted(waits)[:3])
    error = CallError(f"{names} may be this submission; its results will tell, once it has ended")
    session.observer.trouble(session, f"shard {shard.number} has an unknown outcome", error, pause)


def _why_a_person(session: Session, shard: Shard, attempt: Attempt, *, clear: bool) -> str | None:
    """Why it is not simply taken for absent; None: it is."""
    stake = at_stake(shard)
    limit = resubmit_limit(session.policy, attempt)
    if not clear:
        return UNCLEAR_LIST
    if not session.kit(shard).lane.marked:
        return NO_MARK
    if shard.presumed + 1 >= UNKNOWN_FATES:
        return f"{UNKNOWN_FATES} submissions of the shard have an unknown outcome"
    if stake is None:
        return "what it could cost is not known"
    if stake > limit:
        kept = "" if attempt.fenced_file else ", its input file could not be deleted"
        return f"it could be paid twice: up to {stake:f} USD, above retry.resubmit_usd ({limit:f} USD{kept})"
    return None


def audit(session: Session, action: Action) -> None:
    """Step 10: every batch made from our files is in the journal, or it is adopted now."""
    try:
        adopt_from_list(session, action.group)
    except CallError as error:
        # With nothing left but this look, a list that cannot be read to its end does not keep the plan open for long.
        ours = [(s, a) for s, a in session.state.attempts() if session.kit(s).lane.group == action.group]
        waited_for = [(s.number, a.number) for s, a in ours if a.phase not in OVER]
        last = all(place in session.pace.unread for place in waited_for)
        failing = _without_a_list(session, action.group)
        hopeless = last and failing >= LAST_LIST_SECONDS
        if not ((hopeless and not waited_for) or _is_broken(session, "audit " + action.group, 0, 0, error)):
            session.backoff("audit " + action.group, 0, 0, error, base=RETRY_SECONDS, what="audit")
            if error.status is not None and (hopeless or failing >= BUSY_SECONDS):
                # What is out may still turn up, and what is not sent yet may be out: nothing of it is decided without a list.
                if action.group not in session.pace.unlisted:
                    session.record(Unlisted(action.group, error.status, error.message[:500]))
                session.pace.unlisted.add(action.group)
            return
        session.observer.trouble(session, "the audit is skipped: the provider's list cannot be read", error, 0.0)
    session.settled("audit " + action.group, 0, 0)
    _listed(session, action.group)
    session.pace.audits[action.group] = session.clock.now()
    looks = session.failures.get(("look again " + action.group, 0, 0), 0) + 1
    if action.group in session.undecided and looks < LAST_LOOKS:
        # A row of ours could not be read: it is looked at again before the plan ends.
        if session.pace.resumed:
            del session.pace.audits[action.group]  # what is not sent yet may be that batch: nothing is sent before
        session.failures["look again " + action.group, 0, 0] = looks
        session.pace.due["audit " + action.group, 0, 0] = session.clock.now() + ASK_AGAIN_SECONDS
        return
    session.settled("look again " + action.group, 0, 0)
    session.pace.audited_seq[action.group] = session.state.seq


def _without_a_list(session: Session, group: str) -> float:
    """Counts another failure of a group's list; seconds since which there was none without one, 0 while these are few."""
    what = f"no list of {group}"
    stays(session, what, 0, 0.0)
    since, n = session.missing[what]
    return session.clock.now() - since if n >= MISSING_LOOKS else 0.0


def _listed(session: Session, group: str) -> None:
    """A group's list was read to its end."""
    session.missing.pop(f"no list of {group}", None)
    session.pace.unlisted.discard(group)


def _is_down(session: Session, group: str, error: CallError) -> bool:
    """The provider has answered for a day that it cannot list: an outage would be over. Nobody at all is waited for."""
    return error.status is not None and _without_a_list(session, group) >= BUSY_SECONDS


def _is_broken(session: Session, do: str, shard: int, attempt: int, error: CallError) -> bool:
    """The list (or the deletion) broke off, or was refused, too often to wait for a better one. It proves no absence."""
    tries = session.failures.get((do, shard, attempt), 0) + 1
    if error.code == "list_incomplete" or isinstance(error, CallRefused):
        return tries >= LIST_TRIES
    return no_such_route(error) and tries >= ROUTE_TRIES


def cancel(session: Session, action: Action) -> None:
    """Asks the provider to cancel; what was answered until then is still collected."""
    shard, attempt = session.shard(action.shard, action.attempt)
    assert attempt.batch_id is not None
    try:
        session.batches[attempt.batch_id] = session.kit(shard).client.cancel(attempt.batch_id)
    except (CallRefused, CallAmbiguous) as error:
        if error.status == 401:
            _key_refused(session, shard, attempt, error)
            return
        # A refusal means that it ended meanwhile; an ambiguous answer, that it may have been heard. Polling tells.
        session.observer.trouble(session, "cancel", error, 0.0)
    except CallNotFound as error:
        if session.failures.get(("cancel", shard.number, attempt.number), 0) + 1 >= NOT_FOUND_TRIES:
            raise UnfinishedError(
                f"the provider does not know batch {attempt.batch_id} (any more), so it cannot be cancelled: {error.message}",
                where=f"shard {shard.number}",
                next_command=f"batchling resolve {session.folder.plan_id} --drop --shard {shard.number}",
            ) from error
        session.backoff("cancel", shard.number, attempt.number, error, base=RETRY_SECONDS, what="cancel")
        return
    except CallError as error:
        if error.status == 401:
            _key_refused(session, shard, attempt, error)
            return
        if error.status != 409:  # 409: it is over, or is being cancelled already; polling tells as well
            session.backoff("cancel", shard.number, attempt.number, error, base=RETRY_SECONDS, what="cancel")
            return
    session.settled("cancel", shard.number, attempt.number)
    session.record(Cancelling(shard.number, attempt.number))


def _key_refused(session: Session, shard: Shard, attempt: Attempt, error: CallError) -> None:
    """A cancellation that was not heard because of our key: asked again, a few times.

    Raises:
        ProviderError: the key is refused again and again, while the batches run.
    """
    if session.failures.get(("cancel", shard.number, attempt.number), 0) + 1 < KEY_TRIES:
        session.backoff("cancel", shard.number, attempt.number, error, base=RETRY_SECONDS, what="cancel")
        return
    out = sum(a.phase is Phase.CREATED for _, a in session.state.attempts())
    still = "1 batch keeps running" if out == 1 else f"{out:,} batches keep running"
    raise ProviderError(
        f"the provider refuses the key, so nothing is cancelled: {error.message}; {still}, and what is answered is billed",
        where=session.kit(shard).lane.group,
        next_command=f"correct the key, then: batchling cancel {session.folder.plan_id}",
    ) from error


def drop(session: Session, action: Action) -> None:
    """Drops what was never sent of a cancelled plan, or of a superseded one where no plan wants it."""
    shard, attempt = session.shard(action.shard, action.attempt)
    why = "no longer wanted" if shard.unwanted else "cancelled"
    give_up(session, shard, attempt)
    session.record(Dropped(shard.number, attempt.number, why))
