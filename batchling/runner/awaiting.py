"""Keys that were in flight in another plan: taken over when it is done, bought here when it left them open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from batchling.disk import Disk
from batchling.journal import read
from batchling.ledger import replay
from batchling.models import KEY_LENGTH
from batchling.packing import KeySet
from batchling.runner.caching import answers, decode_cache, reuse_answers
from batchling.runner.folder import PlanFolder
from batchling.runner.planning import runs_locked
from batchling.runner.replanning import body_of
from batchling.runner.session import Session
from batchling.runner.shards import INDEX_HEADER, ShardWriter, index_line, read_index, request_lines


class Refreshes(Protocol):
    """The runs folder, and a catalog that can be brought up to date."""

    @property
    def runs(self) -> Any: ...
    @property
    def disk(self) -> Disk: ...
    def refresh_stale(self) -> object: ...


LOCKED_PAUSE_SECONDS = 2.0


def take_over(workspace: Refreshes, session: Session, go_on: Callable[[PlanFolder], str]) -> bool:
    """Moves one step towards having what another plan is buying.

    Args:
        go_on: drives the other plan and says why it stopped; `locked` when another process holds it.

    Returns:
        False when the other plan can't go on now either.
    """
    for plan_id in sorted(session.state.awaits):
        other = PlanFolder(workspace.runs / plan_id)
        if session.disk.exists(other.document) and not replay(read(session.disk, other.journal)).finished:
            reason = go_on(other)
            if reason == "locked":
                session.clock.sleep(LOCKED_PAUSE_SECONDS)
                continue
            if reason not in ("finished", "cancelled"):
                return False
        _settle(workspace, session, plan_id)
    return True


def _settle(workspace: Refreshes, session: Session, plan_id: str) -> None:
    disk, folder = session.disk, session.folder
    held = folder.held(plan_id)
    index = folder.held_index(plan_id)
    with runs_locked(disk, workspace.runs):
        workspace.refresh_stale()
        entries = read_index(disk, index)
        answered = KeySet()
        lanes = {kit.lane.number: (kit, _where(session, kit.lane.number)) for kit in session.kits}
        for _, where in lanes.values():
            for answer in answers(workspace.runs, where):
                answered.add(answer.key)
        known = [entry for entry in entries if entry.key in answered]
        if known:
            tag = f"cache.{plan_id[-6:]}"
            _write_index(session, tag, known)
            reuse_answers(
                disk,
                workspace.runs,
                folder,
                {number: where for number, (_, where) in lanes.items()},
                session.attempts,
                tag=tag,
            )
            decode_cache(
                disk,
                folder,
                session.kits[0].schemas,
                {kit.lane.number: kit.price for kit in session.kits},
                lambda lane: session.kits[lane].provider.decode,
                tag=tag,
            )
        left = {entry.key for entry in entries} - {entry.key for entry in known}
        events: list[dict[str, Any]] = []
        if left:
            writer = ShardWriter(
                disk,
                folder,
                {kit.lane.number: kit.shape for kit in session.kits},
                first=max(session.state.shards, default=0) + 1,
                row_attempt=1,
                kind="first",
            )
            for entry, line in request_lines(disk, held, index, left):
                writer.add(entry.lane, entry.key[:KEY_LENGTH], body_of(line), entry.tokens, schema=entry.schema)
            events.append({"kind": "planned", "shards": writer.finish(), "why": "left open elsewhere"})
        events.append({"kind": "awaited", "plan_id": plan_id, "reused": len(known), "left": len(left)})
        session.record(*events)


def _where(session: Session, lane: int) -> tuple[str, str, str, str]:
    document = session.folder.load(session.disk)
    entry = document["lanes"][lane]
    return entry["provider"], entry["base_url"], entry["endpoint"], entry["model"]


def _write_index(session: Session, tag: str, entries: list[Any]) -> None:
    writer = session.disk.create(session.folder.responses / f"{tag}.index.csv")
    try:
        writer.write(INDEX_HEADER + b"".join(map(index_line, entries)))
        writer.sync()
    finally:
        writer.close()
