"""Answers that were bought before: their raw lines are copied into the new plan and decoded by its own schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from batchling import catalog, limits
from batchling.collect import Join, Row, lines
from batchling.disk import Disk
from batchling.errors import CatalogDamagedError, UsageError
from batchling.models import Price, RowState
from batchling.request import repair_key
from batchling.runner.blotting import blots_of
from batchling.runner.folder import PlanFolder
from batchling.runner.gathering import chunks, write_lines
from batchling.runner.judging import Kept, Schemas, charge_at, judge_again, judge_by_schema
from batchling.runner.shards import IndexEntry, index_line, read_also, read_index

NOT_RECEIVED = "may have been paid for in an earlier plan, and was not received"

CacheLane = tuple[str, str, str, str]
"""Provider, address, URL path, model: where answers of a lane are looked for."""


class Library(Protocol):
    """What a runs folder knows of earlier plans."""

    def answers(self, lane: CacheLane) -> Iterator[catalog.Answer]:
        """The latest answer to every key that was asked there."""
        ...

    def behind(self) -> Iterable[Path]:
        """Folders of plans of which it does not have the latest answers."""
        ...

    def learned(self, *, now: float, unit: str) -> Mapping[tuple[str, str], int]:
        """Limits (`unit`: tokens or requests) that refusals taught, by a lane's group and model; they hold for a while
        before `now` (Unix seconds)."""
        ...

    def unanswered(self, plan_id: str) -> bool:
        """A finished plan has errors about the account, which an older version took for answers."""
        ...


@dataclass(frozen=True, slots=True)
class CatalogLibrary:
    """The catalog of a runs folder as its library."""

    runs: Path

    def answers(self, lane: CacheLane) -> Iterator[catalog.Answer]:
        provider, base_url, path, model = lane
        return catalog.answered(self.runs, provider=provider, model=model, base_url=base_url, endpoint=path)

    def behind(self) -> Iterable[Path]:
        return catalog.stale(self.runs).moved_on

    def learned(self, *, now: float, unit: str) -> Mapping[tuple[str, str], int]:
        return catalog.learned(self.runs, now=now, unit=unit)

    def unanswered(self, plan_id: str) -> bool:
        return catalog.has_no_answers(self.runs, plan_id)


def reuse_answers(
    disk: Disk,
    runs: Path,
    folder: PlanFolder,
    lanes: Mapping[int, CacheLane],
    repairs: int,
    schemas: Mapping[int, str],
    *,
    library: Library,
    tag: str = "cache",
) -> None:
    """Copies the answers to the keys in `<tag>.index.csv`, and to their repairs, into `<tag>.jsonl`.

    An invalid answer's repair was paid as well, so it comes along; it is added to the index.

    Args:
        repairs: how many repairs a row can have had.
        schemas: position → hash of each of the plan's schemas. What an earlier plan made of an answer by the same schema is
            copied as well, into `<tag>.verdicts.jsonl`.

    Raises:
        CatalogDamagedError: the catalog names a line that is not there.
    """
    index = folder.responses / f"{tag}.index.csv"
    roots = {entry.key: entry for entry in read_index(disk, index)}
    found: list[tuple[IndexEntry, catalog.Answer]] = []
    for lane, where in lanes.items():
        mine = {key: entry for key, entry in roots.items() if entry.lane == lane}
        if not mine:
            continue
        children: dict[str, IndexEntry] = {}
        for answer in library.answers(where):
            root = mine.get(answer.key)
            if root is not None:
                found.append((root, answer))
                if answer.state == RowState.INVALID:
                    for n in range(1, repairs + 1):
                        key = repair_key(root.key, n)
                        children[key] = IndexEntry(key, root.key, None, 0, root.schema, lane)
        if children:
            for answer in library.answers(where):
                if answer.key in children:
                    found.append((children[answer.key], answer))
    _copy(disk, runs, folder.responses / f"{tag}.jsonl", [answer for _, answer in found])
    judged = list(_judged_before(disk, runs, found, schemas))
    if judged:
        write_lines(disk, _verdicts(folder, tag), judged)
    added = [entry for entry, _ in found if entry.parent]
    if added:
        writer = disk.append(index)
        try:
            writer.write(b"".join(map(index_line, added)))
            writer.sync()
        finally:
            writer.close()


def _verdicts(folder: PlanFolder, tag: str) -> Path:
    return folder.responses / f"{tag}.verdicts.jsonl"


def _judged_before(
    disk: Disk, runs: Path, found: Sequence[tuple[IndexEntry, catalog.Answer]], schemas: Mapping[int, str]
) -> Iterator[bytes]:
    """What the plans that the answers come from made of them, where that was by one of our schemas."""
    places: dict[tuple[str, str], dict[str, IndexEntry]] = {}
    for entry, answer in found:
        places.setdefault((answer.plan_id, answer.file), {})[answer.key] = entry
    for (plan, file), wanted in sorted(places.items()):
        theirs = PlanFolder(runs / plan)
        if not disk.exists(theirs.document):
            continue
        try:
            known = theirs.load(disk).schema_hashes
        except UsageError:  # a plan that cannot be read stops no other: the answers are judged here
            continue
        stem = file.removesuffix(".jsonl").removesuffix(".output").removesuffix(".errors")
        decoded = theirs.responses / f"{stem}.decoded.jsonl"
        for path in (decoded, theirs.judged_again(decoded)):
            if not disk.exists(path):
                continue
            for _, line in lines(chunks(disk, path)):
                document = limits.own(line)
                sha = known.get(document.get("schema") or 0)
                if sha is not None and document["key"] in wanted:
                    for number in (n for n, ours in schemas.items() if ours == sha):
                        yield orjson.dumps({**document, "schema": number}, option=orjson.OPT_APPEND_NEWLINE)


def _copy(disk: Disk, runs: Path, target: Path, answers: Sequence[catalog.Answer]) -> None:
    groups: dict[tuple[str, str], list[catalog.Answer]] = {}
    for answer in answers:
        groups.setdefault((answer.plan_id, answer.file), []).append(answer)

    def raw() -> Iterator[bytes]:
        for (plan, file), group in sorted(groups.items()):
            path = runs / plan / "responses" / file
            blots = blots_of(disk, path.parent, file)
            with disk.reader(path) as reader:
                for answer in sorted(group, key=lambda a: a.offset):
                    reader.seek(answer.offset)
                    line = reader.read(answer.length)
                    if answer.key.encode() not in line:
                        raise CatalogDamagedError(
                            f"request {answer.key} is not where the catalog says",
                            where=f"{path} at byte {answer.offset}",
                            next_command="batchling doctor --rebuild",
                        )
                    yield blots.line(line) + b"\n"

    write_lines(disk, target, raw())


def decode_cache(
    disk: Disk,
    folder: PlanFolder,
    schemas: Schemas,
    prices: Mapping[int, Price | None],
    decoders: Callable[[int], Callable[[bytes], object]],
    *,
    tag: str = "cache",
) -> None:
    """Writes `<tag>.decoded.jsonl` from the raw lines and their index. Free to repeat."""
    raw = folder.responses / f"{tag}.jsonl"
    entries = read_index(disk, folder.responses / f"{tag}.index.csv")
    target = folder.responses / f"{tag}.decoded.jsonl"
    kept = Kept(disk, [target, folder.judged_again(target), _verdicts(folder, tag)], schemas)

    def decoded() -> Iterator[bytes]:
        for lane in sorted({entry.lane for entry in entries}):
            mine = [entry for entry in entries if entry.lane == lane]
            join = Join(
                (Row(e.key, e.parent or None, e.tokens, 1) for e in mine),
                suffix=None,
                judge=judge_by_schema(mine, schemas, kept),
                shard=0,
                attempt=1,
                source="cache",
                charge=charge_at(prices.get(lane)),
                decode=decoders(lane),  # type: ignore[arg-type]
            )
            yield from join.read(raw.name, chunks(disk, raw))
            # What has no line here has no answer anywhere: it was left out on purpose.
            yield from join.finish(error_message=NOT_RECEIVED)

    also = read_also(disk, folder.also)
    if not also:
        write_lines(disk, target, decoded())
        return
    # The other file first: this one's being there says that both are. And no answer is judged twice for it.
    ready = target.with_name(target.name + ".ready")
    write_lines(disk, ready, decoded())
    answers = (line for _, line in lines(chunks(disk, ready)))
    write_lines(disk, folder.judged_again(target), judge_again(answers, also, schemas, kept))
    disk.replace(ready, target)


def cached_tags(disk: Disk, folder: PlanFolder) -> Iterable[str]:
    """`cache`, and one more for each plan whose answers were waited for."""
    for name in disk.names(folder.responses):
        tag = name.removesuffix(".index.csv")
        # An index without its lines was left by a kill in between: what waited for them does both again.
        if name.startswith("cache") and tag != name and disk.exists(folder.responses / f"{tag}.jsonl"):
            yield tag
