"""RUN or PLAN as a person writes it: an id, the beginning of one, or an experiment's name (its latest plan).

Read from the names of folders and files alone, so it needs neither DuckDB nor a catalog.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from batchling.catalog.plan_files import PLAN_ID, plan_folders
from batchling.errors import UsageError

_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """What a reference means: a plan, and one run of it when a run was named."""

    plan_dir: Path
    run_id: str | None = None

    @property
    def plan_id(self) -> str:
        return self.plan_dir.name


def resolve(runs: Path, text: str) -> Reference:
    """The plan or run that `text` names.

    In this order: a plan's id, a run's id (in its latest plan), an experiment's name (its latest plan),
    the six characters that end a plan id, the beginning of exactly one plan id, the beginning of exactly one run id. A path to a plan's folder counts as its id.

    Raises:
        UsageError: nothing or more than one thing fits.
    """
    name = Path(text).name
    folders = plan_folders(runs)
    if not folders:
        raise UsageError(f"there is no plan in {runs}", next_command="batchling run EXPERIMENT")
    for folder in reversed(folders):
        if folder.name == name:
            return Reference(folder)
    by_run = _run_folders(folders)
    if name in by_run:
        return Reference(by_run[name], name)
    newest = latest(runs, name)
    if newest is not None:
        return Reference(newest)
    for folder in reversed(folders):
        if len(name) == 6 and folder.name.endswith("-" + name):
            return Reference(folder)
    candidates = [Reference(folder) for folder in folders if name and folder.name.startswith(name)]
    candidates = candidates or [
        Reference(folder, run) for run, folder in sorted(by_run.items()) if name and run.startswith(name)
    ]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        shown = ", ".join((c.run_id or c.plan_id) for c in candidates[:_SHOWN])
        more = f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        raise UsageError(f"{text} fits {len(candidates)}: {shown}{more}", next_command="write more of the id")
    raise UsageError(f"no run, plan or experiment is called {text}", where=str(runs), next_command="batchling status")


def latest(runs: Path, experiment: str | None = None) -> Path | None:
    """The newest plan's folder, of one experiment or of all; None when there is none.

    One whose rows were removed (`rm --keep-answers`) only when there is no other.
    """
    found = [
        folder
        for folder in reversed(plan_folders(runs))
        if experiment is None or ((match := PLAN_ID.match(folder.name)) and match["experiment"] == experiment)
    ]
    return next((folder for folder in found if (folder / "data").exists()), found[0] if found else None)


def _run_folders(folders: list[Path]) -> dict[str, Path]:
    """Run id → the latest plan that has it."""
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            with os.scandir(folder / "manifest") as entries:
                names = [entry.name for entry in entries]
        except OSError:
            continue
        found |= {name[:-4]: folder for name in names if name.endswith(".csv")}
    return found
