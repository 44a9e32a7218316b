"""Which submission a batch at the provider belongs to, and whether two batch objects are one batch.

A list row is a hint and nothing else: gateways show a batch under another id, without its files, with somebody
else's, or in a state of last week (BerriAI/litellm#19040, #22982, #36049). What counts is a GET of the id.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

from batchling.ledger import Attempt, Shard
from batchling.models import Batch
from batchling.runner.session import Session

SAME_SECONDS = 1.0
"""Creation times that differ by as much are those of two batches: servers round to whole seconds."""


def own(batch: Batch, session: Session, group: str) -> tuple[int, int] | None:
    """The (shard, attempt) that a batch of a group's list belongs to, by its metadata or its input file; None: not ours,
    or nothing says which (see `may_be_own`).

    Metadata decides where it is there: stores that name files by their bytes, and servers that count from 1 again, give
    a file id twice, to us and to others. It must agree in the shard's hash as well: somebody else's plan may have the
    same six characters. An attempt that the journal does not have (it was restored from a copy) counts as the last
    that it has.
    """
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    marked = batch.metadata.get("batchling_plan")
    if (marked is not None and marked != session.folder.tail) or _made_of_other_bytes(batch, session):
        return None
    return _named(batch, session, lanes) or by_file(batch, session, lanes)


def _made_of_other_bytes(batch: Batch, session: Session) -> bool:
    """Its marks name a file that is none of our shards, so it is not made from one of ours, whatever file id it shows."""
    sha256 = batch.metadata.get("batchling_sha256")
    return sha256 is not None and all(sha256 != shard.sha256 for shard in session.state.shards.values())


def is_marked(batch: Batch, session: Session, shard: Shard) -> bool:
    """It carries every mark that a submission of a shard is sent with."""
    lane = session.kit(shard).lane.number
    place = _named(batch, session, [lane])
    return place is not None and place[0] == shard.number


def may_be_own(batch: Batch, session: Session, group: str) -> bool:
    """Nothing says whose it is, or of which of our submissions: so it proves no absence."""
    if own(batch, session, group) is not None or "batchling_plan" in batch.metadata:
        return False
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    shared = any(session.state.owners(lane, batch.input_file_id or "") for lane in lanes)
    return shared or not (batch.input_file_id or batch.metadata)


def _named(batch: Batch, session: Session, lanes: list[int]) -> tuple[int, int] | None:
    meta = batch.metadata
    if meta.get("batchling_plan") != session.folder.tail:
        return None
    try:
        number, attempt = int(meta["batchling_shard"]), int(meta["batchling_attempt"])
    except (KeyError, ValueError):
        return None
    shard = session.state.shards.get(number)
    if shard is None or shard.lane not in lanes or meta.get("batchling_sha256") != shard.sha256 or attempt < 1:
        return None
    return number, min(attempt, len(shard.attempts))


def by_file(batch: Batch, session: Session, lanes: Iterable[int]) -> tuple[int, int] | None:
    """Whose the batch is by its input file alone; None where its id was given for several shards that may all be meant."""
    owners = [owner for lane in lanes for owner in session.state.owners(lane, batch.input_file_id or "")]
    if len(owners) > 1:
        # Those that have a batch already have another: the journal does not know this one.
        owners = [owner for owner in owners if session.shard(*owner)[1].batch_id is None] or owners
        if batch.total:
            owners = [owner for owner in owners if session.state.shards[owner[0]].rows == batch.total]
    return owners[-1] if len({number for number, _ in owners}) == 1 else None


def contradicts(batch: Batch, session: Session, shard: Shard, attempt: Attempt) -> str | None:
    """Why a GET of an attempt's batch cannot be about that attempt; None when nothing speaks against it.

    Servers that lost their state, or count from 1 again, answer with somebody else's batch
    (llm-d-incubation/llm-d-batch-gateway#645). Gateways encode file ids and drop metadata, so one mark that is
    missing or looks different proves nothing; and where the input file is ours, the custom_ids of its results decide.
    """
    meta = batch.metadata
    if _made_of_other_bytes(batch, session):
        return "it was made from another file"
    if batch.input_file_id is not None and batch.input_file_id == attempt.file_id:
        return None
    if "batchling_sha256" in meta or "batchling_plan" in meta:
        theirs = (meta.get("batchling_plan"), meta.get("batchling_sha256"))
        if theirs == (session.folder.tail, shard.sha256):
            return None
        if theirs[0] is not None and theirs[0] != session.folder.tail:
            return f"it belongs to plan …-{theirs[0]}"
        if theirs[1] is not None and theirs[1] != shard.sha256:
            return "it was made from another file"
    if batch.total and batch.total != shard.rows:
        return f"it has {batch.total:,} requests instead of {shard.rows:,}, and another input file"
    return None


class Relation(Enum):
    """What two batch objects with the marks of one shard are to each other."""

    ALIAS = "alias"
    DIFFERENT = "different"


def relation(one: Batch, asked_one: str, other: Batch, asked_other: str) -> Relation:
    """Compares the GETs of two ids. Two names for one batch until the objects show two different batches.

    Args:
        asked_one, asked_other: the ids that were asked for; a gateway may answer with another.
    """
    if one.id == asked_other or other.id == asked_one or one.id == other.id:
        return Relation.ALIAS
    attempts = {b.metadata.get("batchling_attempt") for b in (one, other)} - {None}
    bytes_of = {b.metadata.get("batchling_sha256") for b in (one, other)} - {None}
    if len(attempts) == 2 or len(bytes_of) == 2:
        return Relation.DIFFERENT
    made = [b.created_at for b in (one, other) if b.created_at is not None]
    if len(made) == 2 and abs(made[0] - made[1]) >= SAME_SECONDS:
        return Relation.DIFFERENT
    if one.terminal and other.terminal:
        counts = [(b.status, b.completed or 0, b.failed or 0) for b in (one, other)]
        if counts[0] != counts[1] and all(b.completed is not None for b in (one, other)):
            return Relation.DIFFERENT
    return Relation.ALIAS


def listing(session: Session, group: str) -> Iterable[Batch]:
    """Every batch that the group's provider lists, back past the plan's first create intent.

    A day is added for clocks that disagree.
    """
    kits = session.kits_of(group)
    numbers = {kit.lane.number for kit in kits}
    intents = [a.intent_at for s, a in session.state.attempts() if s.lane in numbers and a.intent_at]
    since = min(intents, default=session.state.created_ts or session.clock.now()) - 86_400.0
    return kits[0].client.find(since)
