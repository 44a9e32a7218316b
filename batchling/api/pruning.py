"""`run --prune`: batches of superseded plans that no plan wants any more are cancelled, after asking."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from batchling.api.execution import advance, opened
from batchling.api.workspace import Workspace
from batchling.disk import Disk
from batchling.errors import BatchlingError, DetachedError, LockedError
from batchling.runner.folder import PlanFolder
from batchling.runner.loop import PERFORM
from batchling.runner.planning import runs_locked
from batchling.runner.session import Observer, Session
from batchling.runner.superseding import let_go, superseded

Agree = Callable[[str], bool]
"""What is about to be cancelled, in words → whether to."""


class Folder(Protocol):
    """A runs folder on a disk."""

    @property
    def runs(self) -> Path: ...
    @property
    def disk(self) -> Disk: ...


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was cancelled. `notes`: what happened, and what could not be done, a sentence each."""

    plans: tuple[PlanFolder, ...] = ()
    notes: tuple[str, ...] = ()


def prune(workspace: Workspace, newer: PlanFolder, agree: Agree | None, observer: Observer | None) -> Pruned:
    """Cancels what `newer` leaves behind. What was answered before is collected and stays reusable.

    Args:
        agree: asked for each plan; None: that is allowed.
    """
    return prune_in(workspace, newer, agree, lambda folder: opened(workspace, folder, observer=observer))


def prune_in(
    workspace: Folder,
    newer: PlanFolder,
    agree: Agree | None,
    hold: Callable[[PlanFolder], AbstractContextManager[Session]],
) -> Pruned:
    """`prune`, with what holds a plan given.

    Args:
        hold: a session of a plan, held as long as its context; may raise `LockedError`.
    """
    with runs_locked(workspace.disk, workspace.runs):
        left = superseded(workspace.disk, workspace.runs, newer)
    plans: list[PlanFolder] = []
    notes: list[str] = []
    for old in left:
        name = old.folder.plan_id
        what = f"{_batches(len(old.shards))} ({old.requests:,} requests) of {name}, which no plan needs any more"
        if agree is not None and not agree(what):
            notes.append(f"not cancelled: {what}")
            continue
        try:
            with hold(old.folder) as session:
                with runs_locked(workspace.disk, workspace.runs):
                    # Once more, now that nobody else can drive it: a plan made meanwhile may want some of it.
                    now = {s.folder.plan_id: s for s in superseded(workspace.disk, workspace.runs, newer)}.get(name)
                if now is None:
                    continue
                done = let_go(session, now.shards, lambda held, action: PERFORM[action.do](held, action))
        except LockedError as error:
            notes.append(f"{error.message}: its batches were not cancelled; run --prune again when it is free")
            continue
        except BatchlingError as error:
            notes.append(f"{name}: {error.message}: its batches were not cancelled")
            continue
        plans.append(old.folder)
        notes.append(f"cancelled: {_batches(len(now.shards))} ({now.requests:,} requests) of {name}")
        if not done:
            notes.append(f"{name}: the provider has not confirmed every cancellation yet: batchling watch {name}")
    return Pruned(tuple(plans), tuple(notes))


def collect_pruned(workspace: Workspace, pruned: Pruned, observer: Observer | None) -> list[str]:
    """Waits for the end of what was cancelled, where nothing else of the plan is left, and collects what was paid.

    Returns:
        What could not be done, a sentence each.
    """
    notes = []
    for folder in pruned.plans:
        state = workspace.state(folder)
        if state.finished:
            continue
        if all(shard.unwanted or shard.over for shard in state.shards.values()):
            try:
                advance(workspace, folder, observer=observer)
                continue
            except DetachedError:
                raise
            except BatchlingError as error:
                notes.append(f"{folder.plan_id}: {error.message}")
        notes.append(f"{folder.plan_id} is not finished: batchling watch {folder.plan_id}")
    return notes


def _batches(n: int) -> str:
    return "1 batch" if n == 1 else f"{n:,} batches"
