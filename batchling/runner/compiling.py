"""Rows → requests → what is pending, in one streaming pass over each source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from batchling import providers, source
from batchling.disk import Disk, Writer
from batchling.ledger.events import PlannedShard
from batchling.models import KEY_LENGTH
from batchling.packing import KeySet, Packer
from batchling.request import Block, RequestBuilder
from batchling.runner.doubts import Doubts
from batchling.runner.folder import PlanFolder
from batchling.runner.observing import Observed, refuse_the_same_question
from batchling.runner.points import LanePlan, Point
from batchling.runner.shards import FLUSH_BYTES, INDEX_HEADER, IndexEntry, LaneShape, ShardWriter, index_line
from batchling.schema import OutputSchema
from batchling.spec import Spec
from batchling.tokens import chat_overhead, schema_tokens

CHUNK_ROWS = 2048


@dataclass(slots=True)
class Known:
    """Keys that need not be bought: answered before, or in flight in another unfinished plan; and those that may be paid
    although nothing was received.

    Attributes:
        doubtful: plan id → keys that may have been bought there: in a plan that cannot be read.
        broken: plan id → where it cannot be read, of those that cannot be.
    """

    answered: KeySet = field(default_factory=KeySet)
    claimed: dict[str, KeySet] = field(default_factory=dict)
    doubts: Doubts = field(default_factory=lambda: Doubts([], [], {}))
    doubtful: dict[str, KeySet] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What a lane's requests come to. Tokens None: not counted."""

    requests: int = 0
    bytes: int = 0
    input_tokens: int | None = 0
    shards: int = 0
    split_by: tuple[str, ...] = ()
    worst_usd: Decimal | None = Decimal(0)


@dataclass(slots=True)
class Totals:
    """What a plan comes to. `requests` are to be sent; `duplicates` are rows folded into an equal request.

    `doubtful` counts, by plan id, those of `requests` that may have been bought there.
    """

    rows: int = 0
    requests: int = 0
    duplicates: int = 0
    cached: int = 0
    awaiting: int = 0
    doubtful: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    longest_bytes: int = 0
    lanes: list[Tally] = field(default_factory=list)
    rows_of: list[int] = field(default_factory=list)
    shown: list[tuple[str, str, bytes]] = field(default_factory=list)
    observed: list[Observed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Made:
    """Requests of one point that are to be sent, by column. `row_ids` name the rows they were made from first."""

    keys: Sequence[str]
    head: bytes
    rests: Sequence[bytes]
    tokens: Sequence[int | None]
    row_ids: Sequence[str]


class Sink(Protocol):
    """Where compiled requests go."""

    def mapped(self, point: int, rows: Sequence[int], repeat: int, keys: Sequence[str]) -> None: ...
    def send(self, point: Point, made: Made) -> None: ...
    def reuse(self, point: Point, key: str, tokens: int | None) -> None: ...
    def hold(self, plan_id: str, point: Point, key: str, body: bytes, tokens: int | None) -> None: ...
    def also(self, point: Point, keys: Sequence[str]) -> None: ...


class CountingSink:
    """For `plan`: counts what shards there would be, writes nothing."""

    def __init__(self, lanes: Sequence[LanePlan], shapes: Sequence[LaneShape]):
        self.lanes = lanes
        self._packers = [Packer(lane.limits) for lane in lanes]
        # What a line adds to its body is of one size: the ids in it have fixed lengths.
        self._overhead = [len(shape.encode("k" * (KEY_LENGTH + 12), shape.path, b"")) for shape in shapes]

    def mapped(self, point: int, rows: Sequence[int], repeat: int, keys: Sequence[str]) -> None: ...

    def send(self, point: Point, made: Made) -> None:
        around = self._overhead[point.lane] + len(made.head)
        self._packers[point.lane].place_many([around + len(rest) for rest in made.rests], made.tokens)

    def reuse(self, point: Point, key: str, tokens: int | None) -> None: ...

    def hold(self, plan_id: str, point: Point, key: str, body: bytes, tokens: int | None) -> None: ...

    def also(self, point: Point, keys: Sequence[str]) -> None: ...

    def shards(self, lane: int) -> int:
        return self._packers[lane].shards

    def reasons(self, lane: int) -> dict[str, int]:
        """How often each limit began a further shard."""
        return self._packers[lane].reasons


class _Lines:
    """A file written in large pieces."""

    def __init__(self, disk: Disk, path: Path, header: bytes):
        self.writer: Writer = disk.create(path)
        self.buffer: list[bytes] = [header]
        self.size = 0

    def add(self, line: bytes) -> None:
        self.buffer.append(line)
        self.size += len(line)
        if self.size >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        self.writer.write(b"".join(self.buffer))
        self.buffer, self.size = [], 0

    def close(self) -> None:
        self.flush()
        self.writer.sync()
        self.writer.close()


class FolderSink:
    """For `run`: writes shards, the manifest and what waits for other plans into a plan's folder."""

    def __init__(self, disk: Disk, folder: PlanFolder, shapes: Sequence[LaneShape], run_ids: Sequence[str]):
        self.disk = disk
        self.folder = folder
        self.run_ids = run_ids
        self.writer = ShardWriter(disk, folder, {s.number: s for s in shapes}, first=1, row_attempt=1, kind="first")
        self.shapes = shapes
        self._cache: _Lines | None = None
        self._also: _Lines | None = None
        self._manifest: list[list[bytes]] = [[b"row,repeat,key\n"] for _ in run_ids]
        self._manifest_size = 0
        self._started: set[int] = set()
        self._held: dict[str, tuple[_Lines, _Lines]] = {}

    def mapped(self, point: int, rows: Sequence[int], repeat: int, keys: Sequence[str]) -> None:
        lines = "".join([f"{row},{repeat},{key}\n" for row, key in zip(rows, keys, strict=True)]).encode()
        self._manifest[point].append(lines)
        self._manifest_size += len(lines)
        if self._manifest_size > 8 * FLUSH_BYTES:
            self._flush_manifest()

    def _flush_manifest(self, *, last: bool = False) -> None:
        for point, lines in enumerate(self._manifest):
            if not lines and not last:
                continue
            path = self.folder.manifest / f"{self.run_ids[point]}.csv"
            # Reopened for each flush: a sweep of a thousand points would need a thousand open files.
            writer = self.disk.append(path) if point in self._started else self.disk.create(path)
            self._started.add(point)
            writer.write(b"".join(lines))
            if last:
                writer.sync()
            writer.close()
            self._manifest[point] = []
        self._manifest_size = 0

    def send(self, point: Point, made: Made) -> None:
        add, head, lane, schema = self.writer.add, made.head, point.lane, point.schema_index
        for key, rest, tokens, row_id in zip(made.keys, made.rests, made.tokens, made.row_ids, strict=True):
            add(lane, key, head + rest, tokens, row=row_id, schema=schema)

    def reuse(self, point: Point, key: str, tokens: int | None) -> None:
        if self._cache is None:
            self._cache = _Lines(self.disk, self.folder.responses / "cache.index.csv", INDEX_HEADER)
        self._cache.add(index_line(IndexEntry(key, "", tokens, 0, point.schema_index, point.lane)))

    def hold(self, plan_id: str, point: Point, key: str, body: bytes, tokens: int | None) -> None:
        if plan_id not in self._held:
            path = self.folder.held(plan_id)
            self._held[plan_id] = (
                _Lines(self.disk, path, b""),
                _Lines(self.disk, self.folder.held_index(plan_id), INDEX_HEADER),
            )
        shape = self.shapes[point.lane]
        line = shape.encode(f"{key}-{self.folder.tail}-0000", shape.path, body)
        lines, index = self._held[plan_id]
        lines.add(line)
        index.add(index_line(IndexEntry(key, "", tokens, len(line), point.schema_index, point.lane)))

    def also(self, point: Point, keys: Sequence[str]) -> None:
        if not keys:
            return
        if self._also is None:
            self._also = _Lines(self.disk, self.folder.also, b"key,schema\n")
        for key in keys:
            self._also.add(b"%b,%d\n" % (key.encode(), point.schema_index))

    def finish(self) -> list[PlannedShard]:
        self._flush_manifest(last=True)
        if self._also is not None:
            self._also.close()
        for lines, index in self._held.values():
            lines.close()
            index.close()
        if self._cache is not None:
            self._cache.close()
        return self.writer.finish()


def _token_counts(point: Point, texts: Sequence[str | Sequence[str]], count: int) -> Sequence[int | None]:
    """Prompt tokens of each request: its texts, the framing of its messages, and the schema (both estimates)."""
    counter = point.counter
    sent = point.schema.strict_schema if point.schema is not None else None
    schema = schema_tokens(counter, sent)
    if schema is None or counter.count("") is None:
        return [None] * count
    same = schema + (chat_overhead(len(texts)) if point.spec.config.model.endpoint != "embeddings" else 0)
    varying = []
    for text in texts:
        if isinstance(text, str):
            same += counter.count(text) or 0
        else:
            varying.append(counter.count_many(text))
    return [same + sum(n or 0 for n in counts) for counts in zip(*varying, strict=True)] if varying else [same] * count


def compile_requests(
    points: Sequence[Point],
    lanes: Sequence[LanePlan],
    snapshots: dict[str, source.Snapshot],
    known: Known,
    sink: Sink,
    *,
    show: int = 0,
    progress: Callable[[int], None] | None = None,
    sized: Callable[[int], None] | None = None,
) -> Totals:
    """Compiles every point's requests and sends each new key to the sink once.

    Args:
        snapshots: by `Point.data_key`.
        show: keep the first so many requests as (row id, key, body).
        progress: called with the rows done, now and then.
        sized: called with the bytes that the requests have so far; what it raises ends this.

    Raises:
        DataError: a row that cannot be rendered or is too long; its id is in the message.
        PromptError: a template that does not fit the columns.
    """
    totals = Totals(lanes=[Tally() for _ in lanes], rows_of=[0] * len(points))
    totals.observed = [Observed() for _ in points]
    looked_at: set[tuple[str, str]] = set()
    seen = KeySet()
    # Where points validate by different schemas, equal requests must be judged by each of these.
    judged = {p.schema_index: KeySet() for p in points}
    done = 0
    for key, group in _by_data(points).items():
        snapshot = snapshots[key]
        names = [name for c in snapshot.columns for name in c.placeholders]
        builders = [request_builder(p.spec, names, p.schema) for _, p in group]
        columns = list(dict.fromkeys(name for b in builders for name in b.columns))
        for (number, point), builder in zip(group, builders, strict=True):
            refuse_the_same_question(point.spec, builder, snapshot.rows, names)
            first = (key, point.prompt_sha256) not in looked_at  # the points of a sweep mostly share rows and prompt
            looked_at.add((key, point.prompt_sha256))
            totals.observed[number].look(builder, point.spec, first=first, alone=len(points) == 1)
        for chunk in source.read(snapshot.path, columns, batch=CHUNK_ROWS):
            rows, row_ids, *values = zip(*chunk, strict=True)
            named = dict(zip(columns, values, strict=True))
            for (number, point), builder in zip(group, builders, strict=True):
                mine = [named[name] for name in builder.columns]
                mine_judged = judged[point.schema_index] if len(judged) > 1 else None
                _compile_chunk(
                    rows, row_ids, mine, number, point, builder, known, sink, totals, seen, mine_judged, show
                )
                if sized:
                    sized(sum(tally.bytes for tally in totals.lanes))
            done += len(chunk) * len(group)
            if progress:
                progress(done)
    for lane, tally in zip(lanes, totals.lanes, strict=True):
        tally.worst_usd = lane.worst(tally.requests, tally.input_tokens)
    return totals


def request_builder(spec: Spec, columns: Sequence[str], output_schema: OutputSchema | None) -> RequestBuilder:
    """What builds a run's requests, in the words that its provider's adapter has for its endpoint."""
    dialect = providers.dialect(spec.config.provider, spec.config.model.endpoint)
    return RequestBuilder(spec, columns, output_schema, dialect=dialect)


def _by_data(points: Sequence[Point]) -> dict[str, list[tuple[int, Point]]]:
    groups: dict[str, list[tuple[int, Point]]] = {}
    for number, point in enumerate(points):
        groups.setdefault(point.data_key, []).append((number, point))
    return groups


def _compile_chunk(
    rows: Sequence[int],
    row_ids: Sequence[str],
    columns: Sequence[Sequence[Any]],
    number: int,
    point: Point,
    builder: RequestBuilder,
    known: Known,
    sink: Sink,
    totals: Totals,
    seen: KeySet,
    judged: KeySet | None,
    show: int,
) -> None:
    observed = totals.observed[number]
    observed.blanks(columns, row_ids)
    for repeat in range(point.spec.config.repeats):
        block = builder.build_many(columns, row_ids, repeat=repeat)
        keys = block.keys
        totals.rows += len(keys)
        totals.rows_of[number] += len(keys)
        sink.mapped(number, rows, repeat, keys)
        for place in range(min(show - len(totals.shown), len(keys))):
            totals.shown.append((row_ids[place], keys[place], block.body(place)))
        fresh = seen.add_many(keys)
        totals.duplicates += len(keys) - len(fresh)
        if repeat == 0:
            observed.same(keys, fresh, row_ids)
        if judged is not None:
            first = set(fresh)
            sink.also(point, [keys[i] for i in judged.add_many(keys) if i not in first])
        if len(fresh) < len(keys):
            texts = [text if isinstance(text, str) else [text[i] for i in fresh] for text in block.texts]
            tokens = _token_counts(point, texts, len(fresh))
        else:
            tokens = _token_counts(point, block.texts, len(fresh))
        if known.answered or known.claimed or known.doubts or known.doubtful:
            places, tokens = _unknown(point, block, fresh, tokens, known, sink, totals)
        else:
            places = fresh
        if not places:
            continue
        if len(places) == len(keys):
            made = Made(keys, block.head, block.rests, tokens, row_ids)
        else:
            made = Made(
                [keys[i] for i in places],
                block.head,
                [block.rests[i] for i in places],
                tokens,
                [row_ids[i] for i in places],
            )
        sink.send(point, made)
        observed.lengths(made.tokens, [len(rest) for rest in made.rests], made.row_ids)
        _add_up(totals, totals.lanes[point.lane], made)


def _unknown(
    point: Point,
    block: Block,
    fresh: Sequence[int],
    tokens: Sequence[int | None],
    known: Known,
    sink: Sink,
    totals: Totals,
) -> tuple[Sequence[int], Sequence[int | None]]:
    """The places of requests that are to be sent, and their tokens; the sink hears of those that are known."""
    places: list[int] = []
    counts: list[int | None] = []
    for place, count in zip(fresh, tokens, strict=True):
        key = block.keys[place]
        if key in known.answered:
            totals.cached += 1
            sink.reuse(point, key, count)
            continue
        holder = next((plan for plan, keys in known.claimed.items() if key in keys), None)
        if holder is not None:
            totals.awaiting += 1
            sink.hold(holder, point, key, block.body(place), count)
            continue
        if known.doubts and known.doubts.holds(key):
            sink.reuse(point, key, count)  # there is no answer to copy, so it is `missing` here as well
            continue
        if known.doubts:
            known.doubts.asks(key)
        for plan, keys in known.doubtful.items():
            if key in keys:
                totals.doubtful[plan] = totals.doubtful.get(plan, 0) + 1
                break
        places.append(place)
        counts.append(count)
    return places, counts


def _add_up(totals: Totals, tally: Tally, made: Made) -> None:
    sizes = [len(made.head) + len(rest) for rest in made.rests]
    size = sum(sizes)
    totals.requests += len(sizes)
    totals.size_bytes += size
    totals.longest_bytes = max(totals.longest_bytes, *sizes)
    tally.requests += len(sizes)
    tally.bytes += size
    if tally.input_tokens is not None:
        counted = [n for n in made.tokens if n is not None]
        tally.input_tokens = tally.input_tokens + sum(counted) if len(counted) == len(sizes) else None
