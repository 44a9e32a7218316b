"""Following batches: what became of each that is out, by a GET of its own id.

The list is read because one call shows many batches, but a row only prompts a look. Lists show a batch under another
id, in last week's state, without its files, or not at all; so each batch is also asked for by itself now and then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import orjson

from batchling.collect import Failure, FailureKind, why_failed
from batchling.disk import write_file
from batchling.errors import CallError, CallNotFound, CallRefused, CallStopped, ProviderError
from batchling.ledger import Action, Attempt, Phase, Shard
from batchling.ledger.events import Ended, Learned, Throttled, Unread
from batchling.models import Batch
from batchling.runner.adoption import tell_aliases_apart
from batchling.runner.identity import contradicts, own
from batchling.runner.refusals import faults_of, learned
from batchling.runner.session import MISSING_LOOKS, LaneKit, Look, Session, gone, stays

LIST_FROM = 3
"""Batches out from which one list is cheaper than a look at each."""

LIST_ROWS = 100
"""Rows of the list that are read in one look (a page); the next look reads on from there. Twice as many above 100 batches."""

OWN_LOOK_SECONDS = 900.0
"""Each batch is asked for by its id at least this often, whatever the list says."""

MANY = 50
"""Batches out from which the list is read at most once a minute (where `poll_seconds` is 5 or more)."""

LOOKS_AT_ONCE = 200
"""Batches asked for by id in one look at most, those that the list prompted apart."""

PROMPTS = 3
"""Looks at one batch that the list may prompt in vain before only the batch's own time counts again."""

REFUSED_LOOKS = 10
"""Times in a row that the provider refuses to show a batch, or all of them, before it is left to a person."""

BUSY_SECONDS = 86_400.0
"""How long a batch of which a provider only says 5xx or 429 is waited for: its outages end, and batches take a day."""

HOPELESS_SECONDS = 900.0
"""Pause between two GETs of a batch that is left to a person, while there is something else to wait for."""

SURE_LOOKS, SURE_SECONDS = 3, 60.0
"""Looks, and the time between the first and the last, after which a batch that failed without a word is believed."""

WORD_LOOKS, WORD_SECONDS = 3, 300.0
"""The same for a status that is not one of the API's final words although all answers and their files are there."""

EMPTY_LOOKS, EMPTY_SECONDS = 3, 600.0
"""The same for a batch that stopped by itself, names no file and says that it answered nothing: both can lag behind."""

RUNNING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})


Out = dict[str, tuple[Shard, Attempt]]


def poll(session: Session, action: Action) -> None:
    """Step 6: what became of every batch that is out in a group. Only the provider's own word about its id ends one."""
    group = action.group
    kits = session.kits_of(group)
    numbers = {kit.lane.number for kit in kits}
    out: Out = {
        a.batch_id: (s, a)
        for s, a in session.state.attempts()
        if a.phase is Phase.CREATED and s.lane in numbers and a.batch_id
    }
    shortest = min(kit.poll_seconds for kit in kits)
    pause = _pause(session, group, shortest, len(out))
    now = session.clock.now()
    for batch_id, (_, attempt) in out.items():
        session.looks.setdefault(batch_id, Look(attempt.created_at or now))
    changed = False
    trouble: CallError | None = None
    answered = False
    try:
        if len(out) >= LIST_FROM and all(kit.lane.can_list for kit in kits):
            prompted: list[str] = []
            try:
                for row in _rows(session, group, out):
                    answered = True
                    changed = _hint(session, group, row, out, prompted) or changed
            except CallError as error:
                session.scans.pop(group, None)
                trouble = error
                if error.status is None and error.code != "list_incomplete":
                    raise
            due = _due(session, out, pause)
        else:
            prompted, due = [], list(out)
        for batch_id in dict.fromkeys([*prompted, *due]):
            look = session.looks[batch_id]
            if look.not_before > now or batch_id not in out:
                continue
            shard, attempt = out[batch_id]
            try:
                batch = _ask(session, kits[0], shard, attempt)
            except CallError as error:
                if error.status is None or isinstance(error, CallStopped):
                    raise  # nobody answers: asking for the others would wait as long again
                missing = isinstance(error, CallNotFound)
                words = "is not there (yet)" if missing else "cannot be read"
                session.observer.trouble(session, f"batch {batch_id} {words}", error, 0.0)
                _not_read(session, shard, attempt, look, error)
                trouble = trouble if missing else error
                continue
            answered = True
            look.at, look.failures, look.not_before = session.clock.now(), 0, 0.0
            look.failed.clear()
            session.pace.unread.discard((shard.number, attempt.number))
            session.pace.ends.pop((shard.number, attempt.number), None)
            before = session.batches.get(batch_id)
            news = before is None or (before.status, before.completed) != (batch.status, batch.completed)
            changed = changed or news
            look.prompts = 0 if news or batch_id not in prompted else look.prompts + 1
            session.batches[batch_id] = batch
            if _is_over(session, session.kit(shard), shard, attempt, batch):
                session.pace.ends.pop((shard.number, attempt.number), None)
                ended(session, shard, attempt, batch)
                tell_aliases_apart(session, group, batch_id, batch)
        if trouble is not None and not answered:
            raise trouble
    except CallError as error:
        session.backoff("poll " + group, 0, 0, error, base=max(1.0, shortest), what="poll")
        session.pace.polls[group] = session.pace.ready("poll " + group, 0, 0)
        if _is_refusal(error) and session.failures["poll " + group, 0, 0] >= REFUSED_LOOKS:
            for batch_id, (shard, attempt) in out.items():
                _leave(session, shard, attempt, session.looks[batch_id], error)
    else:
        if answered:  # a look in which nothing was due says nothing about refusals
            session.settled("poll " + group, 0, 0)
    session.quiet_polls[group] = 0 if changed else session.quiet_polls.get(group, 0) + 1
    pause = _pause(session, group, shortest, len(out))
    session.pace.polls[group] = max(session.pace.polls.get(group, 0.0), session.clock.now() + pause)
    session.observer.polled(session)


def check_refused(session: Session) -> None:
    """Nothing is left to wait for but batches that the provider does not show.

    Raises:
        ProviderError: it refuses to show one of them, so that another key, or a person's decision, is needed.
    """
    plan_id = session.folder.plan_id
    for number, n in sorted(session.pace.unread):
        shard, attempt = session.shard(number, n)
        look = session.looks.get(attempt.batch_id or "")
        if look is None or look.error is None or not _is_refusal(look.error):
            continue
        drop = f"batchling resolve {plan_id} --drop --shard {number} --force"
        again = f"batchling watch {plan_id} asks again; {drop} gives it up"
        raise ProviderError(
            f"the provider refuses to show our batches any longer: {look.error.message}",
            where=session.kit(shard).lane.group,
            next_command=f"correct the key, then: batchling watch {plan_id}"
            if look.error.status in (401, 403)
            else again,
        ) from look.error


def _pause(session: Session, group: str, shortest: float, out: int) -> float:
    """Seconds to the next look: growing up to a minute while nothing changes; never short where many batches are out."""
    least = min(60.0, 12 * shortest) if out >= MANY else shortest
    return max(least, min(max(60.0, shortest), shortest * 1.5 ** min(session.quiet_polls.get(group, 0), 40)))


def _is_refusal(error: CallError) -> bool:
    """The provider knows what we ask for, and says no."""
    return error.status in (401, 403) or isinstance(error, CallRefused)


def _not_read(session: Session, shard: Shard, attempt: Attempt, look: Look, error: CallError) -> None:
    """A GET of a batch failed. It keeps no other waiting, and nothing waits for it for ever.

    What it came to is counted by kind: a refusal is believed after a few; what is no answer about this batch (404, a page,
    another object) after the grace time; 5xx and 429 are a provider that is busy, and waited for long.
    """
    now = session.clock.now()
    busy = error.status is not None and (error.status >= 500 or error.status in (408, 409, 425, 429))
    kind = "refused" if _is_refusal(error) else "busy" if busy else "unknown"
    since, n = look.failed.get(kind, (now, 0))
    look.failed[kind] = (since, n + 1)
    grace = session.kit(shard).grace_seconds
    looks, seconds = {
        "refused": (REFUSED_LOOKS, 0.0),
        "busy": (MISSING_LOOKS, max(BUSY_SECONDS, grace)),
        "unknown": (MISSING_LOOKS, grace),
    }[kind]
    look.error = error
    session.pace.ends[shard.number, attempt.number] = since + seconds
    if n + 1 >= looks and now - since >= seconds:
        _leave(session, shard, attempt, look, error)
    look.failures += 1
    look.at = now
    if (shard.number, attempt.number) in session.pace.unread:
        look.not_before = now + HOPELESS_SECONDS
    elif look.failures > 2:
        look.not_before = look.at + min(300.0, 2.0 ** min(look.failures, 16)) * (0.75 + 0.5 * session.rng.random())


def _leave(session: Session, shard: Shard, attempt: Attempt, look: Look, error: CallError) -> None:
    look.error = error
    leave(session, shard, attempt, error)


def leave(session: Session, shard: Shard, attempt: Attempt, error: CallError) -> None:
    """A batch that the provider does not show, or whose files it does not hand out, is left to a person.

    It may have run: nothing of it is asked again. What was said of it last is a remark in the journal.
    """
    place = shard.number, attempt.number
    if place in session.pace.unread:
        return
    session.pace.unread.add(place)
    why = error.message[:500]
    session.record(Unread(*place, error.status, why))


def _rows(session: Session, group: str, out: Out) -> Iterator[Batch]:
    """The list from where the last look left it: about a page, so that thousands of batches cost no more requests."""
    scan = session.scans.pop(group, None)
    if scan is None:
        oldest = min(a.intent_at or a.created_at or 0.0 for _, a in out.values())
        scan = iter(session.kits_of(group)[0].client.find(oldest - 86_400.0))
    room = LIST_ROWS if len(out) <= LIST_ROWS else 2 * LIST_ROWS
    unseen = set(out)
    for row in scan:
        room -= 1
        yield row
        unseen.discard(row.id)
        if not unseen:
            return  # the rest is other people's: the next look begins at the top again
        if room == 0:
            session.scans[group] = scan
            return


def _hint(session: Session, group: str, row: Batch, out: Out, prompted: list[str]) -> bool:
    """Takes in one row: what it is about is asked for by id, when it says something that ends a batch. Whether it is news."""
    batch_id = row.id
    place = session.state.aliases.get(batch_id)
    if place is not None:
        batch_id = session.shard(*place)[1].batch_id or batch_id
    if batch_id not in out:
        unknown = not session.knows(row.id, group) and session.unread.get(row.id, 0.0) <= session.clock.now()
        if unknown and own(row, session, group) is not None:
            session.pace.audits.pop(group, None)  # one of ours that we do not know: audit
        return False
    look = session.looks[batch_id]
    if row.status not in RUNNING:
        heard = (row.status, *(file.id for file in row.files))
        if heard != look.heard and look.prompts < PROMPTS:
            look.heard = heard
            prompted.append(batch_id)
        return False
    before = session.batches.get(batch_id)
    if before is not None and before.status in RUNNING and (row.completed or 0) > (before.completed or 0):
        before = Batch(**{**_fields(before), "total": row.total, "completed": row.completed, "failed": row.failed})
        session.batches[batch_id] = before  # for the display; nothing is decided by it
        return True
    return False


def _fields(batch: Batch) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in Batch.__dataclass_fields__}


def _due(session: Session, out: Out, pause: float) -> list[str]:
    """Batches whose own time to be asked for has come: one or a few in each look, so that all are within `OWN_LOOK_SECONDS`."""
    now = session.clock.now()
    interval = min(OWN_LOOK_SECONDS, pause * len(out))
    waiting = [batch_id for batch_id in out if session.looks[batch_id].at + interval <= now]
    waiting.sort(key=lambda batch_id: session.looks[batch_id].at)
    return waiting[: min(LOOKS_AT_ONCE, max(1, math.ceil(len(out) * pause / OWN_LOOK_SECONDS)))]


def _ask(session: Session, kit: LaneKit, shard: Shard, attempt: Attempt) -> Batch:
    """GET of an attempt's batch, under an alias when its own id has been unknown for long.

    Raises:
        CallNotFound: also when what is there under this id is another batch.
    """
    assert attempt.batch_id is not None
    try:
        batch = kit.client.poll(attempt.batch_id)
    except CallNotFound:
        names = [name for name, place in session.state.aliases.items() if place == (shard.number, attempt.number)]
        if not names:
            gone(session, session.kit(shard), f"batch {attempt.batch_id}")
            raise
        batch = kit.client.poll(names[0])
    why = contradicts(batch, session, shard, attempt)
    if why is not None:
        raise CallNotFound(f"the provider shows another batch under the id {attempt.batch_id}: {why}", status=404)
    session.missing.pop(f"batch {attempt.batch_id}", None)
    files = tuple(kit.client.result_files(batch))
    return replace(batch, output_file_id=None, error_file_id=None, results=files)


def answers_announced(batch: Batch) -> int | None:
    """How many answers the provider says there are; None: it does not say."""
    if batch.status == "completed" and not batch.completed and not batch.failed:
        return None  # counts that were not filled in (yet)
    return batch.completed


def _is_over(session: Session, kit: LaneKit, shard: Shard, attempt: Attempt, batch: Batch) -> bool:
    """Whether a batch has ended, and what it says of its files can be acted on."""
    where = f"batch {attempt.batch_id}"
    if not batch.terminal:
        full = (batch.completed or 0) + (batch.failed or 0) >= shard.rows
        if not (batch.files and full):
            session.missing.pop(f"{where} is full", None)
            return False
        # Every answer is there, whatever the word for it (BerriAI/litellm#37156: `complete`).
        error = CallError(f"its status is {batch.status!r}, and it has all {shard.rows:,} answers and their files")
        session.observer.trouble(session, f"{where} ended with a status that batchling does not know", error, 0.0)
        wait = WORD_SECONDS if batch.status not in RUNNING else kit.grace_seconds
        return stays(session, f"{where} is full", WORD_LOOKS, wait)
    wordless = batch.status == "failed" and not (batch.errors or batch.files)
    if wordless and not stays(session, f"{where} failed without a word", SURE_LOOKS, SURE_SECONDS):
        return False
    return not _files_to_come(session, kit, batch, where, attempt, (shard.number, attempt.number))


def _files_to_come(
    session: Session, kit: LaneKit, batch: Batch, where: str, attempt: Attempt, place: tuple[int, int]
) -> bool:
    """A batch that is over and (yet) without a file for what it has answered: looked at again for a while.

    One that may have answered and does not say how much counts as well: files, and counts, can lag behind the status.
    """
    announced = answers_announced(batch)
    expected = announced is None if batch.status != "failed" else False
    has_output = any(file.kind == "output" for file in batch.files)
    to_come = ((announced or expected) and not has_output) or (batch.failed and not batch.files)
    what = f"files of {where}"
    if to_come:
        looks, seconds = MISSING_LOOKS, kit.grace_seconds
    elif batch.status in ("expired", "cancelled") and not (
        batch.files or announced or batch.failed or attempt.cancelling
    ):
        what, looks, seconds = f"anything of {where}", EMPTY_LOOKS, EMPTY_SECONDS
    else:
        return False
    if stays(session, what, looks, seconds):
        return False
    session.pace.ends[place] = session.missing[what][0] + seconds
    return True


def ended(session: Session, shard: Shard, attempt: Attempt, batch: Batch) -> None:
    """Journals the end of a batch, as a GET of its id says it."""
    reason = batch.status if batch.terminal else "completed"
    document = {
        "id": batch.id,
        "status": batch.status,
        "errors": [
            {"code": e.code, "message": e.message, "line": e.line, "param": e.param, "custom_id": e.custom_id}
            for e in batch.errors
        ],
    }
    write_file(session.disk, session.folder.batch(shard.number, attempt.number), orjson.dumps(document))
    before: list[Learned] = []
    after: list[Throttled] = []
    code = None
    if batch.status == "failed":
        failure = why_failed(batch)
        code = failure.code
        ran = batch.files or batch.completed
        if failure.kind in _UNASKED and not ran and not faults_of(failure, shard.rows):
            before = learned(session, shard, failure)
            after = [throttled(session, shard, attempt, failure)]
            reason = Throttled.kind
    first = {file.kind: file.id for file in reversed(batch.files)}
    end = Ended(
        shard.number,
        attempt.number,
        reason,
        output_file_id=first.get("output"),
        error_file_id=first.get("errors"),
        results=batch.files,
        completed=answers_announced(batch),
        failed=batch.failed,
        code=code,
    )
    session.record(*before, end, *after)


_UNASKED = frozenset({FailureKind.THROTTLED, FailureKind.NOT_READY, FailureKind.FATAL, FailureKind.TOO_LARGE})
"""No row was asked, and all of them may be: later, in smaller batches, or when a person has acted."""


def throttled(session: Session, shard: Shard, attempt: Attempt, failure: Failure) -> Throttled:
    """Refused after the fact: nothing ran, nothing is billed, no attempt of a row is used up."""
    n = sum(1 for a in shard.attempts if a.phase is Phase.THROTTLED)
    wait = min(900.0, max(1.0, session.kit(shard).poll_seconds) * 2.0 ** min(n, 12))
    if failure.kind in (FailureKind.FATAL, FailureKind.TOO_LARGE):
        wait = 0.0  # waiting changes nothing
    told = CallRefused(failure.sentence, code=failure.code)
    session.observer.trouble(session, f"batch {attempt.batch_id}", told, wait)
    return Throttled(
        shard.number,
        attempt.number,
        retry_at=session.clock.now() + wait,
        about=str(failure.about),
        why=failure.sentence[:500],
        fatal=failure.sentence[:500] if failure.fatal else None,
    )
