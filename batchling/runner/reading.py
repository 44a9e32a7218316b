"""What the closed attempts of a shard say of its rows, and which of these are asked again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from batchling import limits
from batchling.collect import Summary, lines
from batchling.disk import Disk
from batchling.ledger import Attempt, Shard
from batchling.models import ANSWERED, Outcome, RowState
from batchling.runner.folder import PlanFolder
from batchling.runner.shards import chunks

RETRIED = frozenset({Outcome.RETRYABLE, Outcome.ACCOUNT, Outcome.EXPIRED, Outcome.MISSING})
"""Outcomes that cost nothing and may be different next time."""

Document = dict[str, Any]
"""One decoded line."""


@dataclass(frozen=True, slots=True)
class Tally:
    """A shard in counts. `moved` are the rows, by state, that are to be asked again; `lost` those that may be paid
    although nothing of them arrived; `hidden` of these may have arrived and were not understood."""

    states: Counter[RowState]
    outcomes: Counter[Outcome]
    moved: Counter[RowState]
    lost: int = 0
    hidden: int = 0

    @property
    def again(self) -> int:
        """Rows that a later run would ask again."""
        return sum(n for outcome, n in self.outcomes.items() if outcome not in ANSWERED) - (self.lost - self.hidden)

    @property
    def kept(self) -> dict[str, int]:
        """Rows by state that stay."""
        return {str(state): n - self.moved[state] for state, n in self.states.items() if n > self.moved[state]}


def absent_outcome(attempt: Attempt) -> Outcome:
    """What a row without a line is, by how its batch ended."""
    return {"expired": Outcome.EXPIRED, "cancelled": Outcome.CANCELLED}.get(attempt.reason or "", Outcome.MISSING)


def tally_summary(summary: Summary, attempt: Attempt, *, unsure: bool, repairs: bool) -> Tally:
    """Of a shard with one batch, without reading its rows again."""
    outcomes = summary.outcomes
    moved = Counter({RowState.ERROR: outcomes[Outcome.RETRYABLE] + outcomes[Outcome.ACCOUNT]})
    for outcome, state in ((Outcome.EXPIRED, RowState.EXPIRED), (Outcome.MISSING, RowState.MISSING)):
        lineless = summary.missing - summary.hidden if unsure and outcome is absent_outcome(attempt) else 0
        moved[state] = outcomes[outcome] - lineless
    if repairs:
        moved[RowState.INVALID] = summary.states[RowState.INVALID]
    return Tally(summary.states, outcomes, moved, summary.missing if unsure else 0, summary.hidden if unsure else 0)


def said(disk: Disk, folder: PlanFolder, shard: Shard, attempts: Iterable[Attempt]) -> dict[str, Document]:
    """Key → the decoded line that counts: an answer of any attempt wins, else what the batch that is no stray says."""
    found: dict[str, Document] = {}
    for attempt in sorted(attempts, key=lambda a: not a.stray):
        for _, line in lines(chunks(disk, folder.decoded(shard.number, attempt.number))):
            document = limits.own(line)
            key = document["key"]
            if key not in found or not _says(found[key]) or _says(document):
                found[key] = document
    return found


def _says(document: Mapping[str, Any]) -> bool:
    """Whether there is a line that answers the row."""
    return document["outcome"] in ANSWERED and document["file"] is not None


def is_lost(document: Mapping[str, Any], shard: Shard, *, unsure: int = 0) -> bool:
    """Whether a row may have been answered, and paid, although no line of it arrived. `unsure`: as for `retriable`."""
    attempt = shard.attempts[document["attempt"] - 1]
    return document["file"] is None and (attempt.unsure or attempt.number == unsure)


def retriable(document: Mapping[str, Any], shard: Shard, *, unsure: int = 0) -> bool:
    """Whether a row may be asked again without paying twice.

    Args:
        unsure: number of an attempt that is not closed yet and whose files did not arrive whole.
    """
    if is_lost(document, shard, unsure=unsure):
        return False  # its line may be in the part that did not arrive
    attempt = shard.attempts[document["attempt"] - 1]
    if attempt.stray and document["outcome"] == Outcome.CANCELLED:
        return True  # cancelled by us, for another batch that then did not answer it either
    return document["outcome"] in RETRIED


def tally_documents(
    documents: Iterable[Document], shard: Shard, *, unsure: int, repairs: Collection[str], cancelled: bool
) -> Tally:
    """Of a shard with several batches.

    Args:
        repairs: keys whose answers are sent back to be repaired.
        cancelled: the plan is being cancelled, so that nothing is asked again.
    """
    states: Counter[RowState] = Counter()
    outcomes: Counter[Outcome] = Counter()
    moved: Counter[RowState] = Counter()
    lost = hidden = 0
    for document in documents:
        state = RowState(document["state"])
        states[state] += 1
        outcomes[Outcome(document["outcome"])] += 1
        if is_lost(document, shard, unsure=unsure):
            lost += 1
            hidden += document["outcome"] in ANSWERED
        if not cancelled and (retriable(document, shard, unsure=unsure) or document["key"] in repairs):
            moved[state] += 1
    return Tally(states, outcomes, moved, lost, hidden)
