"""Plans that cannot be read: each is named and kept apart, and what it may have out or answered is not forgotten.

A journal can be damaged, or be refused by the fold (an older version wrote it, or another one); plan.json can be
unreadable; files can be missing. That is one broken plan. It stops no other, and nothing that it may have bought is
bought again unasked.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchling import limits
from batchling.collect import lines
from batchling.disk import Disk
from batchling.errors import BatchlingError, ChangedError, DiskError, JournalError
from batchling.journal import decode, read
from batchling.ledger import InvariantError, State, apply, event_of
from batchling.models import KEY_LENGTH
from batchling.packing import KeySet
from batchling.plan_document import PlanDocument
from batchling.runner.folder import PlanFolder, folders, shard_numbers
from batchling.runner.sealing import check_seal
from batchling.runner.shards import chunks, read_index

_KEY = re.compile(r"k\d-[0-9a-f]{40}")
_RAW = re.compile(r"\d+\.\d+\.(output|errors)(-\d+)?\.jsonl")
_SENDING = ("create_intent", "created", "duplicate", "alias")


class BrokenPlanWarning(UserWarning):
    """A plan that cannot be read was left as it is, and nothing else waited for it."""

    def __init__(self, text: str, plan_id: str):
        super().__init__(text)
        self.plan_id = plan_id


@dataclass(frozen=True, slots=True)
class Salvage:
    """What of a broken plan is there.

    Attributes:
        batches: batch ids that legible lines of its journal name, in their order.
        requests: files of request lines; answers: files of raw answers; lines: lines in these.
    """

    batches: tuple[str, ...]
    requests: int
    answers: int
    lines: int

    def __str__(self) -> str:
        shown = ", ".join(self.batches[:5]) + (" …" if len(self.batches) > 5 else "")
        ids = f"{_number(len(self.batches), 'batch id')} ({shown})" if self.batches else "no batch id"
        answers = f"{_number(self.answers, 'raw answer file')} ({_number(self.lines, 'line')})"
        return f"there are {_number(self.requests, 'request file')}, {answers}, and {ids}"


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def fold(disk: Disk, folder: PlanFolder) -> State:
    """The state that a plan's journal leads to.

    Raises:
        JournalError: it is damaged, missing or empty, or an event in it may not follow those before.
    """
    state = folded(folder, events_of(disk, folder))
    check_beginning(disk, folder, state)
    return state


def check_beginning(disk: Disk, folder: PlanFolder, state: State) -> None:
    """Whether the journal still has what it had when the plan appeared.

    A plan's folder is renamed into place after its first shards are journaled, so a request file that the journal knows
    nothing of means that its end is missing, and with it what was sent. Unless it says that they were about to be written.

    Raises:
        JournalError: it has not.
    """
    if not state.shards and not state.taking_over and disk.exists(folder.shard(1)):
        raise _broken(folder, folder.journal, "the journal ends before its first batch, whose requests are there")


def events_of(disk: Disk, folder: PlanFolder) -> list[dict[str, Any]]:
    """The events of a plan's journal.

    Raises:
        JournalError: it is damaged or missing.
    """
    try:
        if not disk.exists(folder.journal):
            raise _broken(folder, folder.journal, "the journal is missing")
        return read(disk, folder.journal)
    except (DiskError, OSError) as error:
        raise _broken(folder, folder.journal, f"the journal cannot be read: {_words(error)}") from error


def folded(folder: PlanFolder, events: list[dict[str, Any]]) -> State:
    """The state that a plan's events lead to.

    Raises:
        JournalError: there are none, or one of them may not follow those before.
    """
    if not events:
        raise _broken(folder, folder.journal, "the journal is empty")
    state = State()
    for number, event in enumerate(events, 1):
        try:
            apply(state, event_of(event))
        except InvariantError as error:
            what = f"line {number} ({event.get('kind')}) may not follow what is before it: {error}"
            raise _broken(folder, f"{folder.journal}:{number}", what) from error
    return state


def whole(disk: Disk, folder: PlanFolder) -> State:
    """`shown`, of a plan that may be used: what it was made from is what it was.

    Raises:
        JournalError: it is broken.
        ChangedError: it is not finished, and a file that it was made from was changed.
    """
    state, events = _shown(disk, folder)
    if not state.finished:
        check_seal(disk, folder, events)
    return state


def shown(disk: Disk, folder: PlanFolder) -> State:
    """The state of a plan whose document can be read and whose files are there as far as it still needs them.

    Good for showing it: files that it was made from may have been changed.

    Raises:
        JournalError: it is broken.
    """
    return _shown(disk, folder)[0]


def _shown(disk: Disk, folder: PlanFolder) -> tuple[State, list[dict[str, Any]]]:
    events = events_of(disk, folder)
    state = folded(folder, events)
    check_beginning(disk, folder, state)
    document = folder.load(disk)
    if not state.finished:
        check_files(disk, folder, state, document)
    return state, events


def check_files(disk: Disk, folder: PlanFolder, state: State, document: PlanDocument) -> None:
    """Whether the files that an unfinished plan needs to resume are there.

    Raises:
        JournalError: one is missing, or plan.json has no such lane.
    """
    check_beginning(disk, folder, state)
    requests = set(disk.names(folder.requests))
    wanted = [path for name in sorted(state.awaits) for path in (folder.held(name), folder.held_index(name))]
    for shard in state.open_shards():
        if shard.lane >= len(document.lanes):
            raise _broken(folder, folder.document, f"it has no lane {shard.lane}, and shard {shard.number} is of it")
        wanted += [folder.shard(shard.number), folder.index(shard.number)]
    missing = next((path for path in wanted if path.name not in requests), None)
    if missing is None:
        manifest = set(disk.names(folder.manifest))
        lists = [folder.manifest / f"{run.run_id}.csv" for run in document.runs]
        missing = next((path for path in lists if path.name not in manifest), None)
    if missing is None:
        rows = [folder.path / run.data for run in document.runs]
        missing = next((path for path in dict.fromkeys(rows) if not disk.exists(path)), None)
    if missing is not None:
        raise _broken(folder, missing, f"{missing.parent.name}/{missing.name} is missing")


def _broken(folder: PlanFolder, where: Path | str, what: str) -> JournalError:
    hint = f"batchling doctor; to give it up: batchling rm {folder.plan_id} --force"
    return JournalError(f"plan {folder.plan_id} cannot be read: {what}", where=str(where), next_command=hint)


def as_broken(folder: PlanFolder, error: Exception) -> JournalError:
    """What went wrong with one plan's files, as an error about that plan."""
    if isinstance(error, JournalError):
        return error
    where = error.where if isinstance(error, BatchlingError) and error.where else folder.path
    return _broken(folder, where, _words(error))


def _words(error: Exception) -> str:
    if isinstance(error, BatchlingError):
        return error.message
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"


def name(folder: PlanFolder, error: JournalError) -> None:
    """Says once which plan cannot be read, what is wrong and where, and the command to look."""
    verb = "is not used" if isinstance(error, ChangedError) else "cannot be read"
    what = error.message.removeprefix(f"plan {folder.plan_id} {verb}: ")
    text = f"plan {folder.plan_id} {verb} and is left as it is: {what} [{error.where}]; look: batchling doctor"
    warnings.warn(BrokenPlanWarning(" ".join(text.split()), folder.plan_id), stacklevel=3)


Readable = list[tuple[PlanFolder, State]]
Unreadable = list[tuple[PlanFolder, JournalError]]


def plans(disk: Disk, runs: Path) -> Iterator[tuple[PlanFolder, State]]:
    """Every plan that can be read with its state, oldest first; the others are named."""
    for folder in folders(disk, runs):
        try:
            yield folder, whole(disk, folder)
        except JournalError as error:
            name(folder, error)


def survey(disk: Disk, runs: Path) -> tuple[Readable, Unreadable]:
    """Every plan that can be read with its state, and every other (which is named) with its error; oldest first."""
    readable: Readable = []
    unreadable: Unreadable = []
    for folder in folders(disk, runs):
        try:
            readable.append((folder, whole(disk, folder)))
        except JournalError as error:
            name(folder, error)
            unreadable.append((folder, error))
    return readable, unreadable


def broken(disk: Disk, runs: Path) -> Unreadable:
    """Every plan that cannot be read, and why, oldest first."""
    return survey(disk, runs)[1]


def legible(disk: Disk, folder: PlanFolder) -> list[dict[str, Any]]:
    """The events of a journal's lines that are whole, whatever is between them."""
    try:
        data = disk.read(folder.journal)
    except (DiskError, OSError):
        return []
    return [event for line in data.split(b"\n") if (event := decode(line)) is not None]


def salvage(disk: Disk, folder: PlanFolder) -> Salvage:
    """What of a broken plan can be saved by hand."""
    ids = [e["batch_id"] for e in legible(disk, folder) if isinstance(e.get("batch_id"), str)]
    requests = [n for n in disk.names(folder.requests) if n.endswith(".jsonl")]
    raw = [n for n in disk.names(folder.responses) if _RAW.fullmatch(n)]
    count = 0
    for file in raw:
        try:
            count += sum(1 for _ in lines(chunks(disk, folder.responses / file)))
        except (DiskError, OSError):
            continue
    return Salvage(tuple(dict.fromkeys(ids)), len(requests), len(raw), count)


def may_have(disk: Disk, folder: PlanFolder) -> KeySet:
    """Keys that a broken plan may have in flight, or answered, by what of its files can be read.

    Nothing leaves before its intent is in the journal, so where that is whole (and only the fold refuses it, or plan.json
    is unreadable), shards without one were not sent. Of a plan whose last line says that it has ended nothing is in
    flight: what it answered is what its decoded files say.
    """
    events = legible(disk, folder)
    finished = bool(events) and events[-1].get("kind") == "finished"
    try:
        # Without its first shards it ends too early to say what was sent.
        intact = any(event.get("kind") == "planned" for event in read(disk, folder.journal))
    except (BatchlingError, OSError):
        intact = False
    keys = KeySet()
    if finished:
        for file in disk.names(folder.responses):
            if file.endswith(".decoded.jsonl"):
                keys.add_many(_answered(disk, folder.responses / file))
        return keys
    sent = {event.get("shard") for event in events if event.get("kind") in _SENDING} if intact else None
    numbers = shard_numbers([*disk.names(folder.requests), *disk.names(folder.responses)])
    for number in sorted(numbers):
        if sent is None or number in sent:
            keys.add_many(_keys_of(disk, folder, number))
    unknown = sent is None and not any(file.endswith(".jsonl") for file in disk.names(folder.requests))
    if unknown or (sent and not sent <= numbers):
        for file in disk.names(folder.manifest):
            keys.add_many(_good(_last_cells(disk, folder.manifest / file)))
    return keys


def _good(found: Iterator[str]) -> Iterator[str]:
    return (key for key in found if _KEY.fullmatch(key))


def _keys_of(disk: Disk, folder: PlanFolder, number: int) -> list[str]:
    """A shard's keys: by its index, else by its request lines, else by its raw answers."""
    try:
        found = list(_good(entry.key for entry in read_index(disk, folder.index(number))))
    except (BatchlingError, OSError, ValueError):
        found = []
    if not found:
        found = list(_good(_custom_ids(disk, folder.shard(number))))
    if not found:
        for file in disk.names(folder.responses):
            if file.startswith(f"{number:04d}.") and ".output" in file and _RAW.fullmatch(file):
                found += _good(_custom_ids(disk, folder.responses / file))
    return found


def _documents(disk: Disk, path: Path) -> Iterator[dict[str, Any]]:
    try:
        for _, line in lines(chunks(disk, path)):
            try:
                document = limits.own(line)
            except ValueError:
                continue
            if isinstance(document, dict):
                yield document
    except (DiskError, OSError):
        return


def _custom_ids(disk: Disk, path: Path) -> Iterator[str]:
    for document in _documents(disk, path):
        custom_id = document.get("custom_id")
        if isinstance(custom_id, str):
            yield custom_id[:KEY_LENGTH]


def _answered(disk: Disk, path: Path) -> Iterator[str]:
    found = (d["key"] for d in _documents(disk, path) if d.get("file") and isinstance(d.get("key"), str))
    return _good(found)


def _last_cells(disk: Disk, path: Path) -> Iterator[str]:
    try:
        for _, line in lines(chunks(disk, path)):
            yield line.rpartition(b",")[2].decode("ascii", "replace")
    except (DiskError, OSError):
        return
