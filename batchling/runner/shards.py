"""Writing shards: immutable request files, each with an index of its keys."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from batchling.disk import Disk, Writer
from batchling.errors import DataError, DiskError, JournalError, UsageError
from batchling.ledger.events import PlannedShard
from batchling.packing import MAX_SHARDS, Packer, ShardLimits
from batchling.runner.folder import PlanFolder

INDEX_HEADER = b"key,parent_key,input_tokens,bytes,schema,lane\n"
"""`schema` is the position of the schema among the plan's; `lane` is told for lines that are held for later."""
FLUSH_BYTES = 1 << 20
READ_BYTES = 1 << 20

Encode = Callable[[str, str, bytes], bytes]
"""(custom_id, URL path, body) → one line, newline included."""


def custom_id_suffix(tail: str, shard: int) -> str:
    """What follows a request's key in its custom_id. `tail`: the last part of the plan's id."""
    return f"-{tail}-{shard:04d}"


class IndexEntry(NamedTuple):
    """One request of a shard, as its index names it. `parent` is the root of a repair, else empty."""

    key: str
    parent: str
    tokens: int | None
    size: int
    schema: int
    lane: int


def index_line(entry: IndexEntry) -> bytes:
    """One line of an index."""
    key, parent, tokens, size, schema, lane = entry
    return f"{key},{parent},{'' if tokens is None else tokens},{size},{schema},{lane}\n".encode()


@dataclass(frozen=True, slots=True)
class LaneShape:
    """What a lane's shards are written with.

    Attributes:
        path: URL path of the endpoint.
        encode: the provider's line encoder.
        worst: USD that `requests` requests with these input tokens can cost; None when no price is known.
    """

    number: int
    path: str
    limits: ShardLimits
    encode: Encode
    worst: Callable[[int, int | None], Decimal | None]


@dataclass(slots=True)
class _Open:
    number: int
    lines: Writer
    index: Writer
    digest: Any
    buffer: list[bytes] = field(default_factory=list)
    index_buffer: list[bytes] = field(default_factory=list)
    buffered: int = 0
    rows: int = 0
    bytes: int = 0
    tokens: int | None = 0


class ShardWriter:
    """Packs requests of several lanes into shards under `requests/`.

    Nothing counts until the caller journals the records that `finish` returns: by then every file is
    fsynced, and a shard that no event names is overwritten by the next plan that takes its number.
    """

    def __init__(
        self, disk: Disk, folder: PlanFolder, lanes: dict[int, LaneShape], *, first: int, row_attempt: int, kind: str
    ):
        self.disk = disk
        self.folder = folder
        self.lanes = lanes
        self.next = first
        self.row_attempt = row_attempt
        self.kind = kind
        self._packers = {number: Packer(lane.limits) for number, lane in lanes.items()}
        self._longest: dict[int, int | None] = {}
        for number, lane in lanes.items():
            known = [n for n in (lane.limits.max_line_bytes, lane.limits.max_bytes) if n is not None]
            self._longest[number] = min(known, default=None)
        self._open: dict[int, _Open] = {}
        self.records: list[PlannedShard] = []

    def add(
        self, lane: int, key: str, body: bytes, tokens: int | None, *, parent: str = "", row: str = "", schema: int = 0
    ) -> None:
        """Adds one request.

        Raises:
            DataError: its line is longer than the provider takes; `row` names it.
        """
        shape = self.lanes[lane]
        shard = self._open.get(lane)
        number = self.next if shard is None else shard.number
        line = shape.encode(key + custom_id_suffix(self.folder.tail, number), shape.path, body)
        # The line's size is known before its place: the next shard's number has as many digits as this one's, or one more.
        size = len(line) + len(f"{self.next:04d}") - len(f"{number:04d}")
        longest = self._longest[lane]
        if longest is not None and size > longest:
            limit = shape.limits.max_line_bytes
            raise DataError(
                f"row {row or key} makes a request of {size:,} bytes; the provider takes lines of at most "
                f"{limit or shape.limits.max_bytes:,} bytes",
                next_command="shorten the text (data.where: length(text) < N), or split the row",
            )
        if self._packers[lane].place(size, tokens or 0):
            if shard is not None:
                self._close(lane)
            if self.next > MAX_SHARDS:
                raise UsageError(
                    f"more than {MAX_SHARDS:,} batches in one plan", next_command="split the experiment with data.where"
                )
            if number != self.next:
                line = shape.encode(key + custom_id_suffix(self.folder.tail, self.next), shape.path, body)
            number = self.next
            self.next += 1
            shard = self._open[lane] = _Open(
                number,
                self.disk.create(self.folder.shard(number)),
                self.disk.create(self.folder.index(number)),
                hashlib.sha256(),
                index_buffer=[INDEX_HEADER],
            )
        assert shard is not None  # a lane's first request begins a shard
        size = len(line)
        shard.buffer.append(line)
        shard.index_buffer.append(
            f"{key},{parent},{'' if tokens is None else tokens},{size},{schema},{lane}\n".encode()
        )
        shard.rows += 1
        shard.bytes += size
        shard.tokens = None if tokens is None or shard.tokens is None else shard.tokens + tokens
        shard.buffered += size
        if shard.buffered >= FLUSH_BYTES:
            self._flush(shard)

    def _flush(self, shard: _Open) -> None:
        data = b"".join(shard.buffer)
        shard.digest.update(data)
        shard.lines.write(data)
        shard.index.write(b"".join(shard.index_buffer))
        shard.buffer, shard.index_buffer, shard.buffered = [], [], 0

    def _close(self, lane: int) -> None:
        shard = self._open.pop(lane)
        self._flush(shard)
        for writer in (shard.lines, shard.index):
            writer.sync()
            writer.close()
        usd = self.lanes[lane].worst(shard.rows, shard.tokens)
        self.records.append(
            PlannedShard(
                shard=shard.number,
                lane=lane,
                rows=shard.rows,
                bytes=shard.bytes,
                sha256=shard.digest.hexdigest(),
                input_tokens=shard.tokens,
                max_usd=usd,
                row_attempt=self.row_attempt,
                kind=self.kind,
            )
        )

    def finish(self) -> list[PlannedShard]:
        """Closes every shard and returns what the `planned` event says of them."""
        for lane in sorted(self._open, key=lambda number: self._open[number].number):
            self._close(lane)
        return sorted(self.records, key=lambda record: record.shard)

    def abandon(self) -> None:
        """Closes files without promising anything about them."""
        for shard in self._open.values():
            shard.lines.close()
            shard.index.close()
        self._open.clear()


def chunks(disk: Disk, path: Path) -> Iterator[bytes]:
    """A file's bytes in pieces."""
    with disk.reader(path) as file:
        while piece := file.read(READ_BYTES):
            yield piece


def read_index(disk: Disk, path: Path) -> list[IndexEntry]:
    """The requests of a shard (or of held lines), in the order of its lines.

    Raises:
        JournalError: the file is missing or damaged.
    """
    entries = []
    try:
        for line in disk.read(path).decode("ascii").split("\n")[1:]:
            if line:
                key, parent, tokens, size, schema, lane = line.split(",")
                count = int(tokens) if tokens else None
                entries.append(IndexEntry(key, parent, count, int(size), int(schema), int(lane)))
    except (ValueError, FileNotFoundError) as error:
        raise JournalError(
            f"the index {path.name} cannot be read: {error}",
            where=str(path),
            next_command="restore the file from a backup, or: batchling doctor",
        ) from error
    return entries


def read_also(disk: Disk, path: Path) -> dict[str, list[int]]:
    """Key → positions of the further schemas that its answers are judged by; empty where no runs differ in that."""
    found: dict[str, list[int]] = {}
    if disk.exists(path):
        for line in disk.read(path).split(b"\n")[1:]:
            if line:
                key, _, schema = line.decode("ascii").partition(",")
                found.setdefault(key, []).append(int(schema))
    return found


def request_lines(disk: Disk, lines: Path, index: Path, wanted: Container[str]) -> Iterator[tuple[IndexEntry, bytes]]:
    """Index entries and request lines of the keys wanted, in the file's order; reads it once, line by line."""
    with disk.reader(lines) as file:
        for entry in read_index(disk, index):
            line = file.read(entry.size)
            if len(line) != entry.size or entry.key.encode() not in line:
                raise DiskError("the index does not fit the request lines", where=str(lines))
            if entry.key in wanted:
                yield entry, line
