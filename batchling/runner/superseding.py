"""Plans that a newer one of the same experiment took the place of: what of them nobody wants any more is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchling.disk import Disk
from batchling.ledger import Action, Do, State, decide
from batchling.ledger.events import CancelWanted
from batchling.packing import KeySet
from batchling.runner.broken import broken
from batchling.runner.folder import PlanFolder
from batchling.runner.planning import held_by_broken, unfinished
from batchling.runner.session import Session
from batchling.runner.shards import chunks, read_index

ROUNDS = 1000
"""Decisions that letting go may take; a provider that cannot be reached ends it sooner."""


@dataclass(frozen=True, slots=True)
class Superseded:
    """An older unfinished plan and its shards of which no plan wants an answer.

    Attributes:
        shards: numbers of those that are not over.
        batches: how many of them are out at the provider; requests: in all of them.
    """

    folder: PlanFolder
    shards: tuple[int, ...]
    batches: int
    requests: int


def superseded(disk: Disk, runs: Path, newer: PlanFolder) -> list[Superseded]:
    """What a new plan leaves behind: in older unfinished plans of its experiment, shards whose keys nobody wants.

    A key is wanted when the new plan has it, or any unfinished plan that is not superseded itself.
    """
    name = newer.load(disk).experiment
    older: list[tuple[PlanFolder, State]] = []
    wanted = [wanted_keys(disk, newer)]
    for folder, state in unfinished(disk, runs):
        if folder.plan_id == newer.plan_id:
            continue
        if folder.plan_id < newer.plan_id and folder.load(disk).experiment == name:
            older.append((folder, state))
        else:
            wanted.append(wanted_keys(disk, folder))
    wanted += held_by_broken(disk, [folder for folder, _ in broken(disk, runs)]).values()
    found = []
    for folder, state in older:
        shards = unwanted(disk, folder, state, wanted)
        if shards:
            out = sum(1 for number in shards if state.shards[number].unsent is None)
            rows = sum(state.shards[number].rows for number in shards)
            found.append(Superseded(folder, tuple(shards), out, rows))
    return found


def wanted_keys(disk: Disk, folder: PlanFolder) -> KeySet:
    """Every key that a plan's runs are made of."""
    keys = KeySet()
    for name in disk.names(folder.manifest):
        rest = b""
        for piece in chunks(disk, folder.manifest / name):
            *whole, rest = (rest + piece).split(b"\n")
            for line in whole:
                key = line.rpartition(b",")[2]
                if key != b"key":
                    keys.add(key.decode("ascii"))
    return keys


def unwanted(disk: Disk, folder: PlanFolder, state: State, wanted: Sequence[KeySet]) -> list[int]:
    """Shards that are not over and of whose requests none is in `wanted`; a repair is wanted when its root is."""
    found = []
    for shard in state.shards.values():
        if shard.replanned or shard.unwanted or shard.over:
            continue
        roots: Iterable[str] = {entry.parent or entry.key for entry in read_index(disk, folder.index(shard.number))}
        if not any(root in keys for root in roots for keys in wanted):
            found.append(shard.number)
    return found


_LETTING_GO = frozenset({Do.CANCEL, Do.DROP, Do.AUDIT, Do.RECOVER, Do.SETTLE})
"""What leads to a cancelled batch; nothing of it sends."""


def let_go(session: Session, shards: Sequence[int], perform: Callable[[Session, Action], None]) -> bool:
    """Cancels shards at the provider, and drops those that were never sent, as far as that can be done now.

    Args:
        perform: does one action.

    Returns:
        Whether nothing is left to cancel. What is left is in the journal: whoever drives the plan next does it.
    """
    session.record(CancelWanted(tuple(shards)))
    for _ in range(ROUNDS):
        actions = decide(session.state, session.clock.now(), session.policy, session.pace)
        actions = [action for action in actions if action.do in _LETTING_GO]
        if not actions:
            break
        for action in actions:
            perform(session, action)
    return all(
        attempt.batch_id is None or attempt.cancelling
        for number in shards
        for attempt in session.state.shards[number].attempts
        if not session.state.shards[number].over
    )
