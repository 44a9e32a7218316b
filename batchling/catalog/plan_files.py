"""A plan's folder, as the catalog reads it: the document, and the files that rows are made from."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from batchling import duck, plan_document
from batchling.disk import plain_file
from batchling.errors import CatalogError, ChangedError
from batchling.plan_document import PlanDocument, PlanLane, PlanRun

PLAN_ID = re.compile(r"^\d{8}-\d{6}-(?P<experiment>.+)-[0-9a-f]{6}$")
_NAME = re.compile(r"[\w.~+-]+")  # as in `runner.folder`

_REBUILD = "remove it, then run: batchling doctor --rebuild"

SPILL = ".staging-"
"""Prefix of the folder that a rebuild spills to, inside the plan's folder; the process id follows."""


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """plan.json, read, and the folder it is in."""

    path: Path
    document: PlanDocument

    @property
    def plan_id(self) -> str:
        return self.document.plan_id

    @property
    def experiment(self) -> str:
        return self.document.experiment

    @property
    def lanes(self) -> tuple[PlanLane, ...]:
        return self.document.lanes

    @property
    def runs(self) -> tuple[PlanRun, ...]:
        return self.document.runs

    def data(self, run: PlanRun) -> Path:
        """The rows of a run."""
        return self.path / run.data

    def manifest(self, run: PlanRun) -> Path:
        """Which request each row of a run is."""
        return self.path / "manifest" / f"{run.run_id}.csv"

    @property
    def records(self) -> Path:
        return self.path / "records.parquet"

    @property
    def emptied(self) -> bool:
        """Only the answers were kept (`rm --keep-answers`): the rows are gone, so there are no records to build."""
        return any(not self.data(run).exists() for run in self.runs)

    def decoded(self) -> list[Path]:
        """Decoded responses, the cache's first, then by shard and attempt."""
        return sorted((self.path / "responses").glob("*.decoded.jsonl"), key=_place)

    def judged_again(self) -> list[Path]:
        """Answers once more, as the schemas of further runs see them that share requests; in the order of `decoded`."""
        return sorted((self.path / "responses").glob("*.also.jsonl"), key=_place)

    def indexes(self) -> list[Path]:
        """Lists of the requests in each shard; requests held back for another plan are in none yet."""
        return sorted((self.path / "requests").glob("[0-9]*.index.csv"))

    def journal_bytes(self) -> int:
        return size_of(self.path / "journal.jsonl")

    def content(self) -> str:
        """Fingerprint (hex) of the files that requests, responses and records are made from: names, sizes, times."""
        seen = hashlib.sha256()
        files = [self.path / "plan.json", *self.indexes(), *self.decoded(), *self.judged_again()]
        files += sorted({self.data(run) for run in self.runs} | {self.manifest(run) for run in self.runs})
        for file in files:
            try:
                stat = file.stat()
            except FileNotFoundError:
                continue
            seen.update(f"{file.relative_to(self.path)}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return seen.hexdigest()


def _place(path: Path) -> tuple[int, int]:
    """Shard and attempt in a name such as 0001.2.decoded.jsonl; the cache comes first."""
    parts = path.name.split(".")
    return (0, 0) if parts[0] == "cache" else (int(parts[0]), int(parts[1]))


def load(plan_dir: Path) -> PlanFiles:
    """Reads plan.json.

    Raises:
        CatalogError: it is not there, not JSON, or of another version.
    """
    path = plan_dir / "plan.json"
    try:
        with plain_file(path) as file:
            return PlanFiles(plan_dir, plan_document.read(file.read(plan_document.LARGEST + 1)))
    except OSError as error:
        raise CatalogError(f"the plan cannot be read: {error.strerror}", where=str(path)) from error
    except plan_document.Unreadable as error:
        raise CatalogError(str(error), where=str(path)) from error


def output_type(run: PlanRun) -> str | None:
    """DuckDB type of a run's valid outputs; None for plain text.

    It goes into SQL, so nothing but a type may; of a later version's types, outputs are still JSON.
    """
    return run.output_type if type_known(run.output_type) else "JSON"


@cache
def type_known(kind: str | None) -> bool:
    """Whether a type of an output is none, or one that is known here."""
    return kind is None or duck.is_type(kind)


def has_records(plan_dir: Path) -> bool:
    """Whether a plan has its records.parquet, which is never a link: it is renamed into place.

    Raises:
        ChangedError: something else is in its place. A pipe would never end, and a link leads out of a plan that travelled.
    """
    path = plan_dir / "records.parquet"
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        what = "is a link" if stat.S_ISLNK(mode) else "is not a regular file"
        raise ChangedError(
            f"plan {plan_dir.name} is not used: records.parquet {what}", where=str(path), next_command=_REBUILD
        )
    return True


@contextmanager
def reading_records(plan_dir: Path) -> Iterator[None]:
    """Around statements that read records.parquet: what DuckDB says of a damaged file becomes an error about that file.

    Raises:
        CatalogError: it is damaged, or has other columns than ours.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        passing = isinstance(error, duckdb.OutOfMemoryException | duckdb.InterruptException)
        if passing or "No space left" in str(error):
            raise
        raise CatalogError(
            f"records.parquet of plan {plan_dir.name} cannot be read: {str(error).strip().splitlines()[0]}",
            where=str(plan_dir / "records.parquet"),
            next_command="batchling doctor --rebuild",
        ) from error


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def plan_folders(runs: Path) -> list[Path]:
    """Folders that hold a plan, oldest first: their names begin with the time. Cheap for thousands."""
    try:
        with os.scandir(runs) as entries:
            names = sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [runs / name for name in names if _holds(runs / name)]


def _holds(path: Path) -> bool:
    """Whether a folder is a plan's: by its document, or (where that is gone) by its name and what else is in it."""
    if not _NAME.fullmatch(path.name):
        return False
    if (path / "plan.json").exists():
        return True
    return PLAN_ID.match(path.name) is not None and any(
        (path / part).exists() for part in ("journal.jsonl", "requests", "responses")
    )


def listed(paths: Sequence[Path]) -> str:
    """Paths as a SQL list for DuckDB's readers, whose pattern characters are taken literally."""
    from batchling.duck import literal

    def plain(path: Path) -> str:
        return str(path).replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")

    return literal([plain(path) for path in paths])
