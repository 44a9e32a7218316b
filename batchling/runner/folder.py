"""A plan's folder: where each of its files is, and its document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from batchling import plan_document
from batchling.disk import Disk
from batchling.errors import DiskError, JournalError
from batchling.models import ResultFile
from batchling.plan_document import PlanDocument

_PLAN_ID = re.compile(r"\d{8}-\d{6}-.+-[0-9a-f]{6}")

MOMENT = "%Y%m%d-%H%M%S"
"""How a plan's id begins, in UTC."""


def shard_numbers(names: Iterable[str]) -> set[int]:
    """The shards whose files are among these of `requests/` or `responses/`: `0001.jsonl`, `10000.1.output.jsonl`."""
    firsts = (name.partition(".")[0] for name in names)
    return {int(first) for first in firsts if first.isascii() and first.isdigit()}


@dataclass(frozen=True, slots=True)
class PlanFolder:
    """Paths of one plan. `tail` (six characters) is what its custom_ids and metadata carry."""

    path: Path

    @property
    def plan_id(self) -> str:
        return self.path.name

    @property
    def tail(self) -> str:
        return self.path.name[-6:]

    @property
    def document(self) -> Path:
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def source(self) -> Path:
        return self.path / "source"

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def manifest(self) -> Path:
        return self.path / "manifest"

    @property
    def requests(self) -> Path:
        return self.path / "requests"

    @property
    def responses(self) -> Path:
        return self.path / "responses"

    @property
    def local(self) -> Path:
        return self.path / "local"

    @property
    def records(self) -> Path:
        return self.path / "records.parquet"

    @property
    def also(self) -> Path:
        """Keys that a further run asks with another schema, `key,schema`; absent where there are none."""
        return self.requests / "also.csv"

    def judged_again(self, decoded: Path) -> Path:
        """The answers of a decoded file as other schemas see them."""
        return decoded.with_name(decoded.name.replace(".decoded.", ".also."))

    def shard(self, number: int) -> Path:
        return self.requests / f"{number:04d}.jsonl"

    def index(self, number: int) -> Path:
        return self.requests / f"{number:04d}.index.csv"

    def held(self, name: str) -> Path:
        """Lines whose keys are in flight in another plan; `name` is that plan's id, and `~N` for further ones."""
        return self.requests / f"held.{name}.jsonl"

    def held_index(self, name: str) -> Path:
        return self.requests / f"held.{name}.keys.csv"

    def raw(self, shard: int, attempt: int, kind: str) -> Path:
        """Bytes received; `kind` is a name of `file_names`, or `refused`: what a refusal says of the lines that it blames."""
        return self.responses / f"{shard:04d}.{attempt}.{kind}.jsonl"

    def batch(self, shard: int, attempt: int) -> Path:
        """What the provider said of the batch when it had ended: its status and validation errors."""
        return self.responses / f"{shard:04d}.{attempt}.batch.json"

    def decoded(self, shard: int, attempt: int) -> Path:
        return self.responses / f"{shard:04d}.{attempt}.decoded.jsonl"

    def blotted(self, shard: int, attempt: int) -> Path:
        """The lines of the raw files that repeat a key, without it, by the hash of the raw line."""
        return self.responses / f"{shard:04d}.{attempt}.blotted.jsonl"

    def strays(self, shard: int, attempt: int) -> Path:
        """Where in the raw files the lines are that answer nothing of this shard: kind, file, offset, length."""
        return self.responses / f"{shard:04d}.{attempt}.strays.jsonl"

    def load(self, disk: Disk) -> PlanDocument:
        """plan.json.

        Raises:
            JournalError: it is missing, no JSON, of another version, or without what every plan says of itself.
        """
        try:
            if disk.size(self.document) > plan_document.LARGEST:
                raise self._unreadable("plan.json is too large")
            return plan_document.read(disk.read(self.document))
        except plan_document.Unreadable as error:
            raise self._unreadable(str(error)) from error
        except (DiskError, OSError, ValueError) as error:
            words = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
            raise self._unreadable(f"plan.json {words}") from error

    def _unreadable(self, what: str) -> JournalError:
        return JournalError(
            f"plan {self.plan_id} cannot be read: {what}",
            where=str(self.document),
            next_command=f"batchling doctor; to give it up: batchling rm {self.plan_id} --force",
        )


_NAME = re.compile(r"[\w.~+-]+")
"""A folder of another name is no plan: it is shown, and put into commands, as it is."""


def awaited_plan(name: str) -> str:
    """The id of the plan that held requests wait for."""
    return name.partition("~")[0]


def folders(disk: Disk, runs: Path) -> list[PlanFolder]:
    """Every plan in a runs folder, oldest first (their names begin with the time)."""
    return [
        PlanFolder(runs / name) for name in disk.names(runs) if not name.startswith(".") and _holds(disk, runs / name)
    ]


def _holds(disk: Disk, path: Path) -> bool:
    """Whether a folder is a plan's: by its document, or by its name and what else is in it."""
    if not _NAME.fullmatch(path.name):
        return False
    if disk.exists(path / "plan.json"):
        return True
    return _PLAN_ID.fullmatch(path.name) is not None and any(
        disk.exists(path / part) for part in ("journal.jsonl", "requests", "responses")
    )


def moment_after(now: float, disk: Disk, runs: Path) -> float:
    """The time that a new plan's id says: ids have whole seconds, and "the newest plan" goes by their order.

    Args:
        now: Unix seconds.

    Returns:
        Unix seconds: `now`, or the second after the newest plan's where that one is of this second, or of up to a
        minute ahead (a clock that was set back further than that is not made up for).
    """
    earliest, latest = (datetime.fromtimestamp(moment, UTC).strftime(MOMENT) for moment in (now, now + 60.0))
    newest = max((name[:15] for name in disk.names(runs) if earliest <= name[:15] < latest), default=None)
    if newest is not None:
        with suppress(ValueError):
            return datetime.strptime(newest, MOMENT).replace(tzinfo=UTC).timestamp() + 1.0
    return now


def file_names(results: Iterable[ResultFile]) -> list[tuple[str, ResultFile]]:
    """What each file of a batch's results is called here: `output`, `output-2`, …, `errors`, …"""
    seen: Counter[str] = Counter()
    named = []
    for file in results:
        seen[file.kind] += 1
        named.append((file.kind if seen[file.kind] == 1 else f"{file.kind}-{seen[file.kind]}", file))
    return named
