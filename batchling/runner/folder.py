"""A plan's folder: where each of its files is, and its document."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from batchling.disk import Disk
from batchling.errors import UsageError

MOMENT = "%Y%m%d-%H%M%S"
"""How a plan's id begins, in UTC."""


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
        """Bytes received; `kind` is `output` or `errors`."""
        return self.responses / f"{shard:04d}.{attempt}.{kind}.jsonl"

    def batch(self, shard: int, attempt: int) -> Path:
        """What the provider said of the batch when it had ended: its status and validation errors."""
        return self.responses / f"{shard:04d}.{attempt}.batch.json"

    def decoded(self, shard: int, attempt: int) -> Path:
        return self.responses / f"{shard:04d}.{attempt}.decoded.jsonl"

    def strays(self, shard: int, attempt: int) -> Path:
        """Where in the raw files the lines are that answer nothing of this shard: kind, file, offset, length."""
        return self.responses / f"{shard:04d}.{attempt}.strays.jsonl"

    def load(self, disk: Disk) -> dict[str, Any]:
        """plan.json.

        Raises:
            UsageError: this is not a plan's folder.
        """
        try:
            document = orjson.loads(disk.read(self.document))
        except (FileNotFoundError, ValueError) as error:
            raise UsageError(
                f"no readable plan.json: {error}", where=str(self.document), next_command="batchling status"
            ) from error
        if not isinstance(document, dict) or document.get("version") != 1:
            raise UsageError("plan.json is of another version of batchling", where=str(self.document))
        return document


def awaited_plan(name: str) -> str:
    """The id of the plan that held requests wait for."""
    return name.partition("~")[0]


def folders(disk: Disk, runs: Path) -> list[PlanFolder]:
    """Every plan in a runs folder, oldest first (their names begin with the time)."""
    return [
        PlanFolder(runs / name)
        for name in disk.names(runs)
        if not name.startswith(".") and disk.exists(runs / name / "plan.json")
    ]


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
