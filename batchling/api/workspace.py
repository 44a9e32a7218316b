"""A runs folder and what keeps its catalog in step with its plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from batchling.catalog import references
from batchling.clock import Clock, RealClock
from batchling.disk import Disk, RealDisk
from batchling.errors import CatalogBusyError, CatalogDamagedError, DiskError, JournalError, LockedError, UsageError
from batchling.ledger import UNRESOLVED, UNSENT, Phase, State
from batchling.runner.broken import as_broken, events_of, folded, name, shown, whole
from batchling.runner.folder import PlanFolder, folders
from batchling.runner.sealing import no_links

# `batchling status` needs none of what refreshes and decodes: that is imported where it is used.
if TYPE_CHECKING:
    from batchling.catalog.rows import Refreshed, ShardRow
    from batchling.providers.gate import Gate


@dataclass(frozen=True, slots=True)
class Workspace:
    """The runs folder, with the disk, the clock and the gate that everything in it goes through.

    Attributes:
        gate: what every key passes on its way to a provider; None: one that can ask nobody.
    """

    runs: Path
    disk: Disk = field(default_factory=RealDisk)
    clock: Clock = field(default_factory=RealClock)
    gate: Gate | None = None

    def find(self, reference: str | None, *, unfinished: bool = False) -> PlanFolder:
        """A plan by its id or the beginning of it, a run id, or an experiment's name (its newest). None: the newest.

        Raises:
            UsageError: there is none, or several.
        """
        if reference is not None:
            return PlanFolder(references.resolve(self.runs, reference).plan_dir)
        for folder in reversed(folders(self.disk, self.runs)):
            try:
                state = whole(self.disk, folder)
            except JournalError as error:
                name(folder, error)
                continue
            if not (unfinished and state.finished):
                return folder
        what = "unfinished plan" if unfinished else "plan"
        raise UsageError(f"there is no {what} in {self.runs}", next_command="batchling run EXPERIMENT")

    def state(self, folder: PlanFolder, *, to_show: bool = False) -> State:
        """What the plan's journal says.

        Args:
            to_show: only to show it, so that files which it was made from may have been changed.

        Raises:
            JournalError: the plan is broken.
        """
        return shown(self.disk, folder) if to_show else whole(self.disk, folder)

    def holder(self, folder: PlanFolder) -> str | None:
        """Who holds the plan now; None: nobody."""
        if not self.disk.exists(folder.lock):
            return None
        try:
            self.disk.lock(folder.lock).release()
        except LockedError as error:
            return error.message.removeprefix("held by ")
        return None

    def refresh(
        self, folder: PlanFolder, *, force: bool = False, metric_seconds: float = 0.0, metric_mb: int = 0
    ) -> Refreshed:
        """Brings the plan's rows in the catalog, and its records.parquet, up to its journal and files.

        Args:
            force: although no file has changed.
            metric_seconds, metric_mb: what one metric may take, where that is more than the plan says.
        """
        from batchling import catalog
        from batchling.api.ownership import is_own
        from batchling.catalog.rows import EventRow

        size = self.disk.size(folder.journal) if self.disk.exists(folder.journal) else 0
        events = events_of(self.disk, folder)
        state = folded(folder, events)
        folder.load(self.disk)
        if not is_own(self, folder):
            no_links(self.disk, folder)  # what is written into it must not end up elsewhere
        return catalog.refresh(
            self.runs,
            folder.path,
            state=state_name(state),
            finished_at=state.finished_at,
            shards=list(shard_rows(state)),
            events=[EventRow.of(event) for event in events],
            actual_usd=state.known_spent(),
            journal_bytes=size,
            force=force,
            metric_seconds=metric_seconds,
            metric_mb=metric_mb,
        )

    def evaluate_again(self, folder: PlanFolder, *, metric_seconds: float, metric_mb: int) -> None:
        """Gives metrics that ended at a limit another try where there is more room now: `limits` is no part of a plan."""
        from batchling import catalog
        from batchling.catalog import plan_files

        summary = catalog.read_summary(folder.path)
        if summary is None or not any("limits.m" in (metric.problem or "") for metric in summary.metrics):
            return
        runs = plan_files.load(folder.path).runs
        if any(metric_seconds > run.metric_seconds or metric_mb > run.memory_mb for run in runs):
            self.refresh(folder, force=True, metric_seconds=metric_seconds, metric_mb=metric_mb)

    def refresh_stale(self) -> list[PlanFolder]:
        """Refreshes every plan that moved on since the catalog saw it (all of them when there is no catalog).

        One that cannot be read is named and stops no other; answers of it that are whole get into the catalog.
        """
        from batchling import catalog

        if not self.disk.exists(self.runs):
            return []
        catalog.ensure(self.runs)
        done = []
        behind = catalog.stale(self.runs)
        for plan_id in behind.gone:
            catalog.forget(self.runs, plan_id)
        for path in behind.moved_on:
            folder = PlanFolder(path)
            try:
                self.refresh(folder)
                done.append(folder)
            except (CatalogBusyError, CatalogDamagedError, DiskError, MemoryError):
                raise
            except Exception as error:  # whatever is in one plan's files stops no other
                name(folder, as_broken(folder, error))
                if isinstance(error, JournalError):
                    self._keep_answers(folder)
        return done

    def _keep_answers(self, folder: PlanFolder) -> None:
        """Answers of a broken plan that were decoded before can be used again, where its document can be read."""
        from batchling import catalog
        from batchling.api.ownership import is_own

        size = self.disk.size(folder.journal) if self.disk.exists(folder.journal) else 0
        try:
            folder.load(self.disk)
            if not is_own(self, folder):
                no_links(self.disk, folder)
            catalog.refresh(self.runs, folder.path, state="damaged", journal_bytes=size)
        except (CatalogBusyError, CatalogDamagedError, DiskError, MemoryError):
            raise
        except Exception as error:  # its other files are broken as well: it was named already
            name(folder, as_broken(folder, error))

    def rebuild(self, folder: PlanFolder) -> Refreshed:
        """Decodes the raw files again with the plan's own schemas, then rebuilds its rows in the catalog.

        Of a plan that somebody else made no code is run: the JSON Schemas that plan.json keeps judge the answers.
        """
        from batchling.api.kits import decode_cached, offline_kits, recorded
        from batchling.api.ownership import take_if_told
        from batchling.runner.gathering import decode_attempt

        if not folder.data.exists():  # `rm --keep-answers`: its schemas went with its rows
            return self.refresh(folder, force=True)
        own = take_if_told(self, folder)
        if not own:
            no_links(self.disk, folder)
        made = recorded(self.disk, folder, own=own)
        state = self.state(folder)
        kits = offline_kits(made)
        for shard, attempt in state.attempts():
            if attempt.phase is Phase.CLOSED:
                decode_attempt(self.disk, folder, kits[shard.lane], shard, attempt)
        decode_cached(self.disk, made, again=True)
        return self.refresh(folder, force=True)


def state_name(state: State) -> str:
    """The plan's state in one word: finished, cancelled, parked, refused, waiting or planned."""
    if state.finished:
        return state.finished
    phases = {attempt.phase for _, attempt in state.attempts()}
    if Phase.PARKED in phases:
        return "parked"
    if phases & UNRESOLVED:
        return "waiting"
    if state.fatal:
        return "refused"
    return "planned" if phases <= UNSENT else "waiting"


def shard_rows(state: State) -> Iterable[ShardRow]:
    """The ledger's attempts in the catalog's words."""
    from batchling.catalog.rows import ShardRow

    for shard, attempt in state.attempts():
        yield ShardRow(
            shard=shard.number,
            attempt=attempt.number,
            lane=shard.lane,
            state=str(attempt.phase),
            row_attempt=shard.row_attempt,
            batch_id=attempt.batch_id,
            input_file_id=attempt.file_id,
            reason=attempt.reason or attempt.refusal,
            requests=shard.rows,
            bytes=shard.bytes,
            input_tokens=shard.input_tokens,
            submitted_at=attempt.created_at,
            ended_at=attempt.ended_at,
            replaced=shard.replanned and attempt.phase is Phase.DROPPED,
        )
