"""A plan's folder, as the catalog reads it: the document, and the files that rows are made from."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchling import duck, limits
from batchling.confined import MEMORY_MB
from batchling.disk import plain_file
from batchling.errors import CatalogError, ChangedError

PLAN_ID = re.compile(r"^\d{8}-\d{6}-(?P<experiment>.+)-[0-9a-f]{6}$")

METRIC_SECONDS = 60.0
"""How long a metric may take where the config does not say (plans of version 0.1.0)."""
_INSIDE = re.compile(r"[\w+~-][\w.+~-]*")
_NAME = re.compile(r"[\w.~+-]+")  # as in `runner.folder`
_LARGEST_DOCUMENT = 512 << 20  # as in `runner.folder`

_REBUILD = "remove it, then run: batchling doctor --rebuild"

SPILL = ".staging-"
"""Prefix of the folder that a rebuild spills to, inside the plan's folder; the process id follows."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What requests of one batch share: provider, base URL, endpoint path and model."""

    provider: str
    base_url: str
    endpoint: str
    model: str


@dataclass(frozen=True, slots=True)
class RunFiles:
    """One run of the document, with its paths.

    Attributes:
        output_type: DuckDB type of a valid output; None for plain text. JSON where plan.json has one that is not known here.
        type_known: plan.json has a type that is known here, or none.
        metrics: name → DuckDB expression.
    """

    run_id: str
    lane: int
    overrides: tuple[str, ...]
    provider: str
    model: str
    endpoint: str
    config: Mapping[str, Any]
    config_sha256: str | None
    prompt_sha256: str | None
    data_sha256: str | None
    data: Path
    manifest: Path
    rows: int
    repeats: int
    output_type: str | None
    metrics: Mapping[str, str]
    schema_index: int = 0  # position of its schema among the plan's
    type_known: bool = True

    @property
    def metric_seconds(self) -> float:
        """How long each of its metrics may take."""
        return float((self.config.get("limits") or {}).get("metric_seconds") or METRIC_SECONDS)

    @property
    def memory_mb(self) -> int:
        """MiB that a metric may take."""
        return int((self.config.get("limits") or {}).get("memory_mb") or MEMORY_MB)

    @property
    def override_text(self) -> str:
        """The overrides as they would be typed."""
        return shlex.join(self.overrides)


@dataclass(frozen=True, slots=True)
class PlanFiles:
    """plan.json, read, and the folder it is in."""

    path: Path
    document: Mapping[str, Any]
    lanes: tuple[Lane, ...]
    runs: tuple[RunFiles, ...]

    @property
    def plan_id(self) -> str:
        return str(self.document["plan_id"])

    @property
    def experiment(self) -> str:
        return str(self.document["experiment"])

    @property
    def records(self) -> Path:
        return self.path / "records.parquet"

    @property
    def emptied(self) -> bool:
        """Only the answers were kept (`rm --keep-answers`): the rows are gone, so there are no records to build."""
        return any(not run.data.exists() for run in self.runs)

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
        files += sorted({run.data for run in self.runs} | {run.manifest for run in self.runs})
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
            document = limits.own(file.read(_LARGEST_DOCUMENT))
    except OSError as error:
        raise CatalogError(f"the plan cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise CatalogError(f"plan.json is not JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict) or document.get("version") != 1:
        raise CatalogError("plan.json is of another version of batchling", where=str(path))
    lanes = tuple(
        Lane(
            str(lane["provider"]), str(lane.get("base_url") or ""), str(lane.get("endpoint") or ""), str(lane["model"])
        )
        for lane in document["lanes"]
    )
    for run in document["runs"]:
        _check_places(run, path)
    return PlanFiles(plan_dir, document, lanes, tuple(_run(plan_dir, run) for run in document["runs"]))


def _check_places(run: Mapping[str, Any], path: Path) -> None:
    """Whether what goes into file names are names inside the plan: the file may be anybody's.

    Raises:
        CatalogError: it is not.
    """
    data = str(run["data"]).removeprefix("data/")
    if not all(_INSIDE.fullmatch(name) for name in (data, str(run["run_id"]))):
        raise CatalogError("plan.json names a file outside the plan", where=str(path))


def _run(plan_dir: Path, run: Mapping[str, Any]) -> RunFiles:
    kind = run.get("output_type")
    # It goes into SQL, so nothing but a type may; of a later version's types, outputs are still JSON.
    known = kind is None or (isinstance(kind, str) and duck.is_type(kind))
    return RunFiles(
        run_id=str(run["run_id"]),
        lane=int(run.get("lane", 0)),
        overrides=tuple(run.get("overrides") or ()),
        provider=str(run["provider"]),
        model=str(run["model"]),
        endpoint=str(run["endpoint"]),
        config=run.get("config") or {},
        config_sha256=run.get("config_sha256"),
        prompt_sha256=run.get("prompt_sha256"),
        data_sha256=run.get("data_sha256"),
        data=plan_dir / str(run["data"]),
        manifest=plan_dir / "manifest" / f"{run['run_id']}.csv",
        rows=int(run["rows"]),
        repeats=int(run.get("repeats") or 1),
        output_type=kind if known else "JSON",
        type_known=known,
        schema_index=int(run.get("schema_index") or 0),
        metrics=run.get("metrics") or {},
    )


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
