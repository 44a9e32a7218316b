"""Requests that may have been paid and were not received: nothing asks them again without a question.

A batch's files that arrive short, or never, leave rows of which nobody knows whether they were answered; so does a batch
that a person gave up. Both stay in their plan's journal, so every later plan can find them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from batchling.disk import Disk
from batchling.errors import BatchlingError
from batchling.journal import read
from batchling.ledger import Attempt, InvariantError, Phase, Shard, replay
from batchling.packing import KeySet
from batchling.plan_document import Doubt
from batchling.runner.folder import PlanFolder, folders
from batchling.runner.reading import is_lost, said
from batchling.runner.shards import read_index


def doubts_of(plan_id: str, shard: Shard, attempt: Attempt, rows: int) -> Doubt:
    return Doubt(plan_id, shard.number, attempt.number, attempt.batch_id, rows, shard.given_up is not None)


def doubtful(disk: Disk, folder: PlanFolder) -> Iterator[tuple[Doubt, KeySet]]:
    """A plan's doubts with the keys that they are about; none where its files were removed or cannot be read."""
    try:
        data = disk.read(folder.journal)
    except (BatchlingError, OSError):
        return
    if b'"unsure":true' not in data and b'"kind":"dropped"' not in data:
        return  # as nearly every plan: it is not even replayed
    try:
        state = replay(read(disk, folder.journal))
    except (BatchlingError, InvariantError):
        return
    for shard, attempt, rows in state.doubts():
        keys = KeySet()
        if shard.given_up is not None:
            if disk.exists(folder.index(shard.number)):
                keys.add_many(entry.key for entry in read_index(disk, folder.index(shard.number)))
        else:
            closed = [a for a in shard.attempts if a.phase is Phase.CLOSED]
            if all(disk.exists(folder.decoded(shard.number, a.number)) for a in closed):
                found = said(disk, folder, shard, closed)
                keys.add_many(key for key, document in found.items() if is_lost(document, shard))
        if keys:
            yield doubts_of(folder.plan_id, shard, attempt, rows), keys


def identity_of(disk: Disk, folder: PlanFolder) -> str | None:
    """What the plan was made from; None for one that does not say."""
    mark = folder.path / "identity"
    return disk.read(mark).decode() if disk.exists(mark) else None


@dataclass(slots=True)
class Doubts:
    """Doubtful keys as a new plan sees them.

    Attributes:
        held: keys that it leaves out; they are `missing` in it, too.
        asked: keys that it asks again, after a question.
        found: how many of each doubt it came across, held; counted while it is compiled.
        again: how many it asks again.
    """

    held: list[tuple[Doubt, KeySet]]
    asked: list[KeySet]
    found: dict[Doubt, int]
    again: int = 0

    def __bool__(self) -> bool:
        return bool(self.held or self.asked)

    def holds(self, key: str) -> bool:
        """Whether a key is left out; counted where it is."""
        for doubt, keys in self.held:
            if key in keys:
                self.found[doubt] = self.found.get(doubt, 0) + 1
                return True
        return False

    def asks(self, key: str) -> bool:
        """Whether a key that is sent may have been paid before; counted where it may."""
        again = any(key in keys for keys in self.asked)
        self.again += again
        return again

    def counted(self) -> tuple[Doubt, ...]:
        """What is left out, each with how many rows it was found to be."""
        return tuple(replace(doubt, rows=rows) for doubt, rows in self.found.items())


def doubts_for(disk: Disk, runs: Any, identity: str, *, reopened: bool) -> Doubts:
    """What a new plan has to know.

    Where a person gave a batch up, other experiments may ask its rows (after a question); a plain run of the same one may not.

    Args:
        identity: of the new plan.
        reopened: `--retry missing` or `--fresh`: all of them are asked again.
    """
    held: list[tuple[Doubt, KeySet]] = []
    asked: list[KeySet] = []
    for folder in folders(disk, runs):
        for doubt, keys in doubtful(disk, folder):
            if reopened or (doubt.given_up and identity_of(disk, folder) != identity):
                asked.append(keys)
            else:
                held.append((doubt, keys))
    return Doubts(held, asked, {})


PLACES = 5
"""Batches that a sentence names."""


def told(doubts: Sequence[Doubt]) -> str:
    """`3 rows may have been paid for and were not received (shard 1 batch batch_…)`."""
    rows = sum(doubt.rows for doubt in doubts)
    places = [doubt.place for doubt in doubts[:PLACES]]
    if len(doubts) > PLACES:
        places.append(f"and {len(doubts) - PLACES:,} more")
    what = "1 row may have been paid for and was" if rows == 1 else f"{rows:,} rows may have been paid for and were"
    return f"{what} not received ({', '.join(places)})"
