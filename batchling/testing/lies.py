"""What a simulated provider says that is not so: in a row of its list, of a batch that is asked for by its id, of a file.

A fault is a call that goes wrong; a lie is a reply that looks right. Real servers told each of these. A lie is told of
some batches (or files), for a while or for ever, and always in the same way, so that looking twice does not uncover it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from batchling.models import Batch, BatchError


@dataclass(frozen=True, slots=True)
class Lie:
    """One untruth.

    Attributes:
        what: a name in `ROW`, `BATCH`, `FILE` or `LAPSES`.
        share: of which part of the batches or files it is told (0 to 1).
        seconds: how long it is told after the batch was made, and once more after it ended; infinite: for ever.
    """

    what: str
    share: float = 1.0
    seconds: float = math.inf


class Subject(Protocol):
    """What a lie about a batch can make use of: the batch itself, and what else the provider has."""

    @property
    def rng(self) -> random.Random:
        """The same for the same lie about the same batch."""
        ...

    @property
    def over(self) -> bool: ...

    def alias(self, name: str) -> str:
        """Another id for the same thing."""
        ...

    def somebody_elses(self) -> str:
        """The input file of another batch."""
        ...


Telling = Callable[[Batch, Subject], Batch]


def _says(**changes: object) -> Telling:
    return lambda said, about: replace(said, **changes)  # type: ignore[arg-type]


def _other_files(said: Batch, about: Subject) -> Batch:
    return replace(said, output_file_id=about.somebody_elses(), error_file_id="file-of-nobody")


def _alias(said: Batch, about: Subject) -> Batch:
    return replace(said, id=about.alias(said.id))


def _every_alias(said: Batch, about: Subject) -> Batch:
    """What a gateway does that encodes where each thing is into its id."""

    def other(name: str | None) -> str | None:
        return None if name is None else about.alias(name)

    return replace(
        _alias(said, about),
        input_file_id=other(said.input_file_id),
        output_file_id=other(said.output_file_id),
        error_file_id=other(said.error_file_id),
    )


def _foreign_metadata(said: Batch, about: Subject) -> Batch:
    return replace(said, metadata={**said.metadata, "batchling_plan": "f00f00", "team": "somebody else's"})


def _limit(said: Batch, about: Subject) -> Batch:
    error = BatchError("token_limit_exceeded", "Enqueued token limit reached. Limit: 30 enqueued tokens.")
    return replace(said, status="failed", errors=(error,))


def _refused(said: Batch, about: Subject) -> Batch:
    error = BatchError("invalid_api_key", "Incorrect API key provided.")
    return replace(said, status="failed", errors=(error,))


ROW: Mapping[str, Telling] = {
    "row: validating": _says(status="validating", output_file_id=None, error_file_id=None),
    "row: in progress": _says(status="in_progress", output_file_id=None, error_file_id=None),
    "row: failed": _says(status="failed", output_file_id=None, error_file_id=None),
    "row: above a limit": _limit,
    "row: key refused": _refused,
    "row: cancelled": _says(status="cancelled"),
    "row: expired": _says(status="expired"),
    "row: completed": _says(status="completed", total=0, completed=0, failed=0),
    "row: complete": _says(status="complete"),
    "row: unknown status": _says(status="in_queue"),
    "row: no files": _says(output_file_id=None, error_file_id=None),
    "row: somebody else's files": _other_files,
    "row: completed, somebody else's files": lambda said, about: replace(
        _other_files(said, about), status="completed", total=said.total, completed=said.total
    ),
    "row: no counts": _says(total=None, completed=None, failed=None),
    "row: counts of zero": _says(total=0, completed=0, failed=0),
    "row: wrong counts": _says(total=1_000, completed=999, failed=1),
    "row: created in 1970": _says(created_at=0.0),
    "row: alias": _alias,
    "row: every id is an alias": _every_alias,
    # Of these two kinds, one batch is told at most one: who knows neither its file nor its marker cannot know it.
    "row: no file": _says(input_file_id=None),
    "row: somebody else's file": lambda said, about: replace(said, input_file_id=about.somebody_elses()),
    "row: no metadata": _says(metadata={}),
    "row: somebody else's metadata": _foreign_metadata,
}
"""Lies in a row of the list."""

NAMELESS = frozenset({"row: no file", "row: somebody else's file", "row: every id is an alias"})
UNMARKED = frozenset({"row: no metadata", "row: somebody else's metadata"})


def _word(said: Batch, about: Subject) -> Batch:
    """A final status in a word of its own, where the rest says that it is final."""
    whole = said.total is not None and (said.completed or 0) + (said.failed or 0) == said.total
    if said.status != "completed" or not whole or not (said.output_file_id or said.error_file_id):
        return said
    return replace(said, status=about.rng.choice(("complete", "done")))


def _late(said: Batch, about: Subject) -> Batch:
    return replace(said, status="in_progress", output_file_id=None, error_file_id=None) if about.over else said


def _no_files(said: Batch, about: Subject) -> Batch:
    return replace(said, output_file_id=None, error_file_id=None)


def _over(telling: Telling) -> Telling:
    """Told of batches that are over."""
    return lambda said, about: telling(said, about) if about.over else said


def _plausibly(telling: Telling) -> Telling:
    """Told of batches that are over; of one that was stopped only where its files show that it is not so.

    A stopped batch that names no file and says that it answered nothing is what it says: nobody could tell otherwise.
    """

    def told(said: Batch, about: Subject) -> Batch:
        seen = said.status == "completed" or said.output_file_id or said.error_file_id
        return telling(said, about) if about.over and seen else said

    return told


def _all_completed(said: Batch, about: Subject) -> Batch:
    """Failed requests are counted as completed."""
    if said.completed is None:
        return said
    return replace(said, completed=said.completed + (said.failed or 0), failed=0)


def _too_many(said: Batch, about: Subject) -> Batch:
    return said if said.total is None else replace(said, completed=said.total, failed=0)


def _too_few(said: Batch, about: Subject) -> Batch:
    return replace(said, completed=max(0, said.completed - 1)) if said.completed else said


def _error_file(said: Batch, about: Subject) -> Batch:
    return replace(said, error_file_id=said.error_file_id or f"file-errors-{said.id}")


BATCH: Mapping[str, Telling] = {
    "batch: alias": _alias,
    "batch: final status in another word": _word,
    "batch: over, and in progress": _late,
    "batch: over, and no files": _over(_no_files),
    "batch: no counts": _says(total=None, completed=None, failed=None),
    "batch: counts of zero": _plausibly(_says(total=0, completed=0, failed=0)),
    "batch: nothing completed": _plausibly(
        lambda said, about: replace(said, completed=0, failed=0) if said.total is not None else said
    ),
    "batch: failed counted as completed": _over(_all_completed),
    "batch: more completed than there are": _over(_too_many),
    "batch: fewer completed than there are": _over(_too_few),
    "batch: an error file that is not there": _over(_error_file),
    "batch: created in 1970": _says(created_at=0.0),
    "batch: no file": _says(input_file_id=None),
    "batch: somebody else's file": lambda said, about: replace(said, input_file_id=about.somebody_elses()),
    "batch: no metadata": _says(metadata={}),
    "batch: somebody else's metadata": _foreign_metadata,
}
"""Lies in the answer to a GET of a batch. What it is (its id, failed or not, whose) is not among them: that must be believed."""

FOR_A_TIME = frozenset({"batch: over, and in progress", "batch: over, and no files", "file: fills late"})
"""Lies that nobody could see through if they were told for ever."""

FILE = (
    "file: size of zero",
    "file: one byte more",
    "file: much larger",
    "file: size not known",
    "file: size cannot be read",
    "file: fills late",
)
"""Lies about a file: in what its GET says of it, and in what its content is at first."""

LAPSES = ("forgets a batch", "forgets it in the list", "forgets a file", "the list is empty")
"""What a server forgets for `seconds`, some time after it knew it."""
