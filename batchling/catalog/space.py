"""Disk used by plans, and what of a plan can go."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from batchling.catalog.plan_files import plan_folders, size_of

KEPT_WITH_ANSWERS = ("plan.json", "journal.jsonl", "manifest", "responses", "summary.json")
"""What `rm --keep-answers` leaves: the raw answers, where each is, and what makes the plan readable again.

The index files of `requests` stay too. Of a typical chat request that is a fifth of the bytes: the prompts and rows go.
"""


@dataclass(frozen=True, slots=True)
class PlanSpace:
    """Bytes of a plan's folder, by its parts (`requests`, `responses`, `data`, …; single files under their names)."""

    plan_id: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of everything in the runs folder."""

    plans: tuple[PlanSpace, ...]
    catalog: int

    @property
    def total(self) -> int:
        return self.catalog + sum(plan.total for plan in self.plans)


def du(runs: Path) -> Space:
    """Sizes of every plan's folder, oldest first, and of the catalog with its log and damaged predecessors."""
    found = tuple(PlanSpace(folder.name, _parts(folder)) for folder in plan_folders(runs))
    catalog = sum(size_of(path) for path in runs.glob("catalog.duckdb*")) if runs.exists() else 0
    return Space(found, catalog)


def _parts(folder: Path) -> dict[str, int]:
    parts: dict[str, int] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                parts[entry.name] = _tree(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                parts[entry.name] = entry.stat().st_size
    return dict(sorted(parts.items()))


def _tree(folder: Path) -> int:
    total = 0
    for path, _, names in os.walk(folder):
        total += sum(size_of(Path(path) / name) for name in names)
    return total


def removable(plan_dir: Path, *, keep_answers: bool) -> list[Path]:
    """Files and folders of a finished plan that `rm` deletes, in the order in which they should go.

    Without `keep_answers` that is the folder itself. With it, what is left is enough to reuse the
    answers and to build their rows in the catalog again; `data` goes last, because its absence is
    what marks a plan whose rows were removed.
    """
    if not keep_answers:
        return [plan_dir]
    paths: list[Path] = []
    for entry in sorted(plan_dir.iterdir()):
        if entry.name == "requests":
            paths += sorted(p for p in entry.iterdir() if not p.name.endswith(".index.csv"))
        elif entry.name not in (*KEPT_WITH_ANSWERS, "data"):
            paths.append(entry)
    if (plan_dir / "data").exists():
        paths.append(plan_dir / "data")
    return paths
