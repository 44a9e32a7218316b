"""Finding batches of ours that the journal does not know: adopted, remembered as an alias, or noted as a duplicate."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO, cast

from batchling import limits
from batchling.errors import CallError
from batchling.ledger import OVER, UNCERTAIN, Attempt, Shard
from batchling.ledger.events import Alias, Created, Duplicate
from batchling.models import KEY_LENGTH, Batch, Response
from batchling.runner.identity import Relation, by_file, contradicts, is_marked, listing, may_be_own, own, relation
from batchling.runner.session import Session, gone_for_long
from batchling.runner.shards import read_index

EXAMINED_AT_MOST = 25
"""Listed batches of the right time and size, but without our marks, that are asked for by id in one search."""

CLOCK_SECONDS = 900.0
"""By how much the provider's clock and ours may differ when a listed batch is compared with an intent."""

ASK_AGAIN_SECONDS = 600.0
"""Pause before a listed id that could not be read is asked for again."""

FOREIGN_SECONDS = 86_400.0
"""The same for one that the list shows as ours and that is somebody else's."""


def adopt_from_list(session: Session, group: str) -> bool:
    """Journals every listed batch that is made from one of our files and that the journal does not know.

    The list only prompts: what a row is, a GET of its id says.

    Returns:
        Whether the list can prove an absence: every row that may be ours was read, and the batches that we know
        to be there are in it.

    Raises:
        CallError: the list could not be read to its end, or nobody answers.
    """
    clear = True
    shown: set[str] = set()
    doubtful: list[Batch] = []
    since = _oldest_doubt(session, group)
    session.unended.pop(group, None)
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    session.undecided.discard(group)
    first: list[tuple[Batch, tuple[int, int] | None]] = []
    then: list[tuple[Batch, tuple[int, int] | None]] = []
    for row in listing(session, group):
        shown.add(row.id)
        if session.knows(row.id, group):
            continue
        mine = own(row, session, group)
        # A row with an input file of ours is worth a look, whatever its metadata says. One with our marks goes first:
        # where file ids come back, other people's batches have them too.
        if mine is not None and is_marked(row, session, session.state.shards[mine[0]]):
            first.append((row, mine))
        elif mine is not None or by_file(row, session, lanes) is not None:
            then.append((row, mine))
        elif since is not None:
            doubtful.append(row)
    for row, mine in [*first, *then]:
        worth = mine or by_file(row, session, lanes)
        if worth is None or session.knows(row.id, group):
            continue
        decided = _take(session, group, row.id, worth)
        if not decided and (mine is not None or not _is_known_foreign(session, row.id)):
            clear = False
            session.undecided.add(group)
    if since is None:
        return clear
    clear = _examine(session, group, doubtful, since) and clear
    unseen = _known(session, group) - shown
    if unseen:
        error = CallError(f"it lacks {len(unseen)} of our own batches, {min(unseen)} for one")
        session.observer.trouble(session, "the provider's list cannot be relied on", error, 0.0)
    return clear and not unseen


def _oldest_doubt(session: Session, group: str) -> float | None:
    """When the first create of unknown fate of a group was sent (Unix seconds); None: there is none."""
    return min((a.intent_at for _, a in _doubts(session, group) if a.intent_at), default=None)


def _doubts(session: Session, group: str) -> list[tuple[Shard, Attempt]]:
    """Submissions whose batch may be in the list without a mark. Where no batch has one, those that were given up count too."""
    lanes = {kit.lane.number: kit.lane for kit in session.kits_of(group)}
    return [
        (s, a)
        for s, a in session.state.attempts()
        if s.lane in lanes and (a.phase in UNCERTAIN or (a.may_arrive and not lanes[s.lane].marked))
    ]


def _known(session: Session, group: str) -> set[str]:
    """Batches that were seen by their own id, so long ago that a list that works has them."""
    kits = {kit.lane.number: kit for kit in session.kits_of(group)}
    aliased = {session.shard(*place)[1].batch_id for place in session.state.aliases.values()}
    now = session.clock.now()
    return {
        a.batch_id
        for s, a in session.state.attempts()
        if s.lane in kits
        and a.batch_id is not None
        and a.batch_id in session.batches
        and a.batch_id not in aliased
        and a.created_at is not None
        and now - a.created_at > kits[s.lane].lane.settle_seconds
    }


def _examine(session: Session, group: str, doubtful: list[Batch], since: float) -> bool:
    """Asks for listed batches that carry other marks than ours, or none, and may be ours by time and size.

    Returns:
        Whether each row without any mark turned out to be somebody else's.
    """
    sizes = {s.rows for s, _ in _doubts(session, group)}
    fitting = [row for row in doubtful if (not row.total or row.total in sizes) and row.id not in session.foreign]
    recent = [row for row in fitting if row.created_at is None or row.created_at >= since - CLOCK_SECONDS]
    if len(fitting) > EXAMINED_AT_MOST:
        fitting = recent  # the provider's clock is believed only where there are too many to ask for
    lanes = [kit.lane.number for kit in session.kits_of(group)]
    # With our input file it is ours, whatever else the list says of it.
    filed = [row for row in doubtful if by_file(row, session, lanes) is not None]
    unmarked = [*filed, *(row for row in fitting if row not in filed and may_be_own(row, session, group))]
    marked = [row for row in fitting if row not in unmarked]
    clear = len(unmarked) <= EXAMINED_AT_MOST
    # A row without marks can be anybody's; one with marks is somebody else's unless the list is wrong about it.
    for row in [*unmarked, *(row for row in marked if row in recent)][:EXAMINED_AT_MOST]:
        batch = _get(session, group, row.id)
        bare = row in unmarked
        if batch is None:
            clear = clear and not bare
            continue
        mine = own(batch, session, group)
        if mine is not None and not session.knows(row.id, group):
            clear = _take(session, group, row.id, mine, batch) and clear
        elif mine is None and bare and may_be_own(batch, session, group):
            clear = _read_whose(session, group, batch) and clear
    return clear


def _read_whose(session: Session, group: str, batch: Batch) -> bool:
    """Decides by its results whose a batch is that carries no mark: their custom_ids name the request, the plan and the shard.

    Returns:
        Whether that could be decided.
    """
    if not batch.terminal:
        session.unended.setdefault(group, {})[batch.id] = batch.created_at
        return False
    found = named_by_results(session, group, batch)
    if found is None:
        return False
    if found == NOBODY:
        session.foreign.add(batch.id)
        return True
    return _take(session, group, batch.id, found, batch)


NOBODY = (0, 0)
"""In place of a submission: the results are none of this plan's."""


def named_by_results(session: Session, group: str, batch: Batch) -> tuple[int, int] | None:
    """The (shard, attempt) that a batch's results are of, by their first lines; `NOBODY`; None where that cannot be told now.

    Raises:
        CallError: nobody answers.
    """
    kit = session.kits_of(group)[0]
    known = False
    for file_id in [file.id for file in kit.client.result_files(batch)]:
        beginning = _Beginning()
        whole = True
        try:
            with suppress(_EnoughError):
                kit.client.fetch(file_id, cast(BinaryIO, beginning))
        except CallError as error:
            if error.status is None and not beginning.lines:
                raise
            whole = False
        named = [line for line in map(kit.envelope.decode, beginning.lines) if isinstance(line, Response)]
        for line in named:
            if (owner := _owner(session, group, line)) != NOBODY:
                return owner
        known = known or (whole and bool(named))
    return NOBODY if known else None


def _owner(session: Session, group: str, line: Response) -> tuple[int, int]:
    lanes = {kit.lane.number for kit in session.kits_of(group)}
    tail, _, number = line.custom_id[KEY_LENGTH:].strip("-").rpartition("-")
    shard = session.state.shards.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 9 else None
    if tail != session.folder.tail or shard is None or shard.lane not in lanes:
        return NOBODY
    if all(entry.key != line.key for entry in read_index(session.disk, session.folder.index(shard.number))):
        return NOBODY  # somebody else's plan with the same six characters
    uncertain = [a for a in shard.attempts if a.phase in UNCERTAIN]
    lost = [a for a in shard.attempts if a.may_arrive]
    return shard.number, (uncertain or lost or shard.attempts)[0].number


FIRST_LINES = 50
"""Lines of results that are read to find out whose they are: servers put lines of others among ours, but not so many."""


class _EnoughError(Exception):
    """The first lines are here."""


class _Beginning:
    """A sink that takes a file's first lines and no more."""

    def __init__(self) -> None:
        self._rest = b""
        self._bytes = 0
        self.lines: list[bytes] = []

    def write(self, data: bytes) -> int:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.lines += filter(None, lines)
        self._bytes += len(data)
        if len(self.lines) >= FIRST_LINES or self._bytes > limits.LINE_BYTES:
            raise _EnoughError
        return len(data)


def _get(session: Session, group: str, batch_id: str) -> Batch | None:
    """The batch by its id; None when it cannot be read now.

    Raises:
        CallError: nobody answers, so that asking for others would wait as long again.
    """
    if session.unread.get(batch_id, 0.0) > session.clock.now():
        return None
    try:
        batch = session.kits_of(group)[0].client.poll(batch_id)
    except CallError as error:
        if error.status is None:
            raise
        session.unread[batch_id] = session.clock.now() + ASK_AGAIN_SECONDS
        session.observer.trouble(session, f"batch {batch_id} is listed but cannot be read", error, 0.0)
        return None
    session.unread.pop(batch_id, None)
    return batch


def _is_known_foreign(session: Session, batch_id: str) -> bool:
    """A GET of it said that it belongs to someone else, not long ago."""
    return session.unread.get(batch_id, 0.0) > session.clock.now() + ASK_AGAIN_SECONDS


def _take(session: Session, group: str, batch_id: str, mine: tuple[int, int], batch: Batch | None = None) -> bool:
    """Decides by GETs what a listed batch with our marks is, and journals it.

    Returns:
        Whether that could be decided.
    """
    if batch is None:
        batch = _get(session, group, batch_id)
        if batch is None:
            return False
    mine = own(batch, session, group) or mine
    shard, attempt = session.shard(*mine)
    if contradicts(batch, session, shard, attempt) is not None:
        # The list was wrong where file and metadata are somebody else's; where one of them is missing, nobody can tell.
        foreign = batch.input_file_id is not None and bool(batch.metadata)
        session.unread[batch_id] = session.clock.now() + (FOREIGN_SECONDS if foreign else ASK_AGAIN_SECONDS)
        return foreign
    undecided = False
    for known in [a for a in shard.attempts if a.batch_id is not None]:
        assert known.batch_id is not None
        if (batch_id, known.batch_id) in session.apart:
            continue
        if batch.id == known.batch_id:
            session.record(Alias(shard.number, known.number, batch_id))
            return True
        other = _get(session, group, known.batch_id)
        if other is None and not gone_for_long(session, session.kit(shard), f"batch {known.batch_id}"):
            undecided = True  # the others are compared all the same: what is found out is kept for the next look
            continue
        over = known.phase in OVER and other is not None and other.terminal and not batch.terminal
        if not over and (other is None or relation(batch, batch_id, other, known.batch_id) is Relation.ALIAS):
            session.record(Alias(shard.number, known.number, batch_id))
            return True
        if known is attempt and other is not None and _is_anothers(session, shard, batch, other):
            session.unread[batch_id] = session.clock.now() + FOREIGN_SECONDS
            return True
        session.apart.add((batch_id, known.batch_id))
    if undecided:
        session.unread[batch_id] = session.clock.now() + ASK_AGAIN_SECONDS
        return False
    if attempt.batch_id is not None:
        # One create, two batches: something between us and the provider sent it again.
        session.record(Duplicate(shard.number, attempt.number, batch_id))
        return True
    session.batches[batch_id] = batch
    session.record(Created(shard.number, attempt.number, batch_id, adopted=True))
    return True


def _is_anothers(session: Session, shard: Shard, batch: Batch, known: Batch) -> bool:
    """Of two batches with one input file, only the known one carries our marks: the server gives file ids again.

    What sends a create twice sends its marks twice.
    """
    return is_marked(known, session, shard) and not is_marked(batch, session, shard)


def tell_aliases_apart(session: Session, group: str, batch_id: str, batch: Batch) -> None:
    """A batch has ended without an answer to each row: does a second name of it show another batch after all?"""
    for alias, place in list(session.state.aliases.items()):
        shard, attempt = session.shard(*place)
        if attempt.batch_id != batch_id or (batch.completed or 0) >= shard.rows:
            continue
        other = _get(session, group, alias)
        if other is not None and relation(other, alias, batch, batch_id) is Relation.DIFFERENT:
            session.record(Duplicate(shard.number, attempt.number, alias))
