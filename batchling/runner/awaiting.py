"""Keys that were in flight in another plan: taken over when it is done, bought here when it left them open."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from batchling.disk import Disk
from batchling.errors import JournalError
from batchling.ledger.events import Awaited, Event, Planned, TakingOver
from batchling.models import KEY_LENGTH
from batchling.packing import KeySet
from batchling.runner.broken import broken, fold, whole
from batchling.runner.broken import name as tell
from batchling.runner.caching import CatalogLibrary, Library, decode_cache, reuse_answers
from batchling.runner.doubts import doubtful
from batchling.runner.folder import PlanFolder, awaited_plan
from batchling.runner.planning import claimed, given_up, held_by_broken, runs_locked
from batchling.runner.session import Session
from batchling.runner.shards import INDEX_HEADER, IndexEntry, ShardWriter, index_line, read_index, request_lines


class Refreshes(Protocol):
    """The runs folder, and a catalog that can be brought up to date."""

    @property
    def runs(self) -> Any: ...
    @property
    def disk(self) -> Disk: ...
    def refresh_stale(self) -> object: ...


LOCKED_PAUSE_SECONDS = 2.0


def take_over(
    workspace: Refreshes,
    session: Session,
    go_on: Callable[[PlanFolder], str],
    *,
    detach: bool = False,
    library: Library | None = None,
) -> float | None:
    """Moves one step towards having what another plan is buying.

    A plan that is being cancelled waits for nobody: what is not answered yet becomes shards of its own, which are
    then dropped unsent.

    Args:
        go_on: drives the other plan and says why it stopped; `locked` when another process holds it.
        detach: don't wait for another process.
        library: where answers are found; None: in the runs folder's catalog.

    Returns:
        Seconds until it is worth another look; None when the other plan can't go on now either.
    """
    pause = 0.0
    for name in sorted(session.state.awaits):
        other = PlanFolder(workspace.runs / awaited_plan(name))
        try:
            buying = not session.state.cancel_requested and _is_buying(session.disk, other)
        except JournalError as error:
            # Nobody knows what of it is out: a person gives it up (`rm --force`), and its requests are bought here.
            tell(other, error)
            return None
        if buying:
            try:
                reason = go_on(other)
            except JournalError as error:
                tell(other, error)
                return None
            if reason == "locked":
                if detach:
                    return None
                pause = LOCKED_PAUSE_SECONDS
                continue
            if reason not in ("finished", "cancelled"):
                return None
        _settle(workspace, session, name, library or CatalogLibrary(workspace.runs))
        if any(True for _ in session.state.open_shards()):
            # What the other left open is bought here now, before anything else is waited for: the next plan may be
            # waiting for these keys in turn, and neither would go on.
            return 0.0
    return pause


def _is_buying(disk: Disk, other: PlanFolder) -> bool:
    """Whether a plan may still bring answers. One that itself only waits for others does not: two could wait for each other."""
    if not (disk.exists(other.document) or disk.exists(other.journal)):
        return False
    state = whole(disk, other)
    return not state.finished and any(True for _ in state.open_shards())


def _settle(workspace: Refreshes, session: Session, name: str, library: Library) -> None:
    """Takes the answers that are there, leaves to other plans what they are buying by now, and buys the rest."""
    disk, folder = session.disk, session.folder
    held, index = folder.held(name), folder.held_index(name)
    with runs_locked(disk, workspace.runs):
        # Claims first: a plan that ends in between is then in both, and not in neither.
        elsewhere: dict[str, KeySet] = {}
        if not session.state.cancel_requested:
            elsewhere = claimed(disk, workspace.runs, but=folder.plan_id)
            elsewhere |= held_by_broken(disk, [broke for broke, _ in broken(disk, workspace.runs)])
        workspace.refresh_stale()
        entries = read_index(disk, index)
        answered = KeySet()
        lanes = {kit.lane.number: (kit, _where(session, kit.lane.number)) for kit in session.kits}
        for _, where in lanes.values():
            for answer in library.answers(where):
                answered.add(answer.key)
        doubts = list(doubtful(disk, PlanFolder(workspace.runs / awaited_plan(name))))
        # What a person gave up is bought here; what may have been paid and did not arrive is left alone, as it is there.
        lost = {d: [e.key for e in entries if e.key in keys] for d, keys in doubts if not d.given_up}
        left_out = {key for keys in lost.values() for key in keys}
        known = [entry for entry in entries if entry.key in answered or entry.key in left_out]
        if known:
            plan, _, nth = name.partition("~")
            tag = f"cache.{plan[-6:]}" + (f"-{nth}" if nth else "")
            _write_index(session, folder.responses / f"{tag}.index.csv", known)
            reuse_answers(
                disk,
                workspace.runs,
                folder,
                {number: where for number, (_, where) in lanes.items()},
                session.attempts,
                _schemas(session),
                library=library,
                tag=tag,
            )
            decode_cache(
                disk,
                folder,
                session.kits[0].schemas,
                {kit.lane.number: kit.price for kit in session.kits},
                lambda lane: session.kits[lane].envelope.decode,
                tag=tag,
            )
        left = {entry.key for entry in entries} - {entry.key for entry in known}
        events: list[Event] = []
        awaits = []
        for plan, keys in elsewhere.items():
            theirs = {key for key in left if key in keys}
            if theirs:
                awaits.append(_hold(session, plan, name, theirs))
                left -= theirs
        if left:
            # Their request files come before the event that plans them: a kill in between is no journal that lost its end.
            session.record(TakingOver(name))
            writer = ShardWriter(
                disk,
                folder,
                {kit.lane.number: kit.shape for kit in session.kits},
                first=max(session.state.shards, default=0) + 1,
                row_attempt=1,
                kind="first",
            )
            for entry, line in request_lines(disk, held, index, left):
                body = session.kits[entry.lane].envelope.body_of(line)
                writer.add(entry.lane, entry.key[:KEY_LENGTH], body, entry.tokens, schema=entry.schema)
            events.append(Planned(tuple(writer.finish()), why="left open elsewhere"))
        done = Awaited(
            name,
            reused=len(known),
            left=len(left),
            awaits=tuple(awaits),
            doubtful=tuple({**asdict(d), "rows": len(keys)} for d, keys in lost.items() if keys),
            given_up=_given_up(disk, PlanFolder(workspace.runs / awaited_plan(name)), left),
        )
        session.record(*events, done)


def _given_up(disk: Disk, other: PlanFolder, left: Container[str]) -> int:
    """How many of the requests left open a person gave up in the other plan although they may have been paid for."""
    if not left or not disk.exists(other.document):
        return 0
    try:
        return sum(1 for key in given_up(disk, other, fold(disk, other)) if key in left)
    except JournalError:
        return 0


def _hold(session: Session, plan: str, before: str, keys: set[str]) -> str:
    """Copies held requests to a file of their own, for another plan to wait for; returns its name.

    Never a file that is there already: it may be waited for, and a kill would leave half of it.
    """
    disk, folder = session.disk, session.folder
    name, n = plan, 1
    while disk.exists(folder.held(name)):
        n += 1
        name = f"{plan}~{n}"
    entries = []
    writer = disk.create(folder.held(name))
    try:
        for entry, line in request_lines(disk, folder.held(before), folder.held_index(before), keys):
            writer.write(line)
            entries.append(entry)
        writer.sync()
    finally:
        writer.close()
    _write_index(session, folder.held_index(name), entries)
    return name


def _schemas(session: Session) -> dict[int, str]:
    """Position → hash of the plan's schemas; plans of 0.1.0 have no hashes."""
    return session.folder.load(session.disk).schema_hashes


def _where(session: Session, lane: int) -> tuple[str, str, str, str]:
    return session.folder.load(session.disk).lanes[lane].place


def _write_index(session: Session, path: Path, entries: list[IndexEntry]) -> None:
    writer = session.disk.create(path)
    try:
        writer.write(INDEX_HEADER + b"".join(map(index_line, entries)))
        writer.sync()
    finally:
        writer.close()
