"""From a response to a row's state: by the schema of the run that asked, at the price of the lane."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path

import orjson

from batchling import cost, limits
from batchling.collect import Verdict, lines
from batchling.collect.join import READER, Judge
from batchling.dialects.reading import clean
from batchling.disk import Disk
from batchling.models import Outcome, Price, Response, RowState, Usage
from batchling.runner.shards import IndexEntry, chunks
from batchling.schema import OutputSchema

Schemas = Mapping[int, OutputSchema | None]
"""The plan's schemas by position; None: answers are plain text."""


class Kept:
    """Answers that were judged before: what a schema's class made of an answer is stored once, and never made again.

    A class may fill in the time or a random id, and its validators may do anything; a record is a function of what was
    received. An answer whose text is another than then is judged; so is one that an earlier version of the reader could
    not read.

    Args:
        paths: files with decoded lines, those that count first; what is not there is left out.
    """

    def __init__(self, disk: Disk, paths: Iterable[Path], schemas: Schemas):
        self._found: dict[tuple[str, int], tuple[bytes, bytes]] = {}
        for path in paths:
            if not disk.exists(path):
                continue
            for _, line in lines(chunks(disk, path)):
                document = limits.own(line)
                place = document["key"], document.get("schema") or 0
                if place in self._found or schemas.get(place[1]) is None or document["outcome"] != Outcome.OK:
                    continue
                if document["state"] == RowState.OK or document.get("reader", 1) >= READER:
                    said = [document["state"], document["output"], document["error"], document.get("reasoning")]
                    self._found[place] = _digest(document["text"]), orjson.dumps(said)

    def verdict(self, key: str, schema: int, text: str) -> Verdict | None:
        """What was made of this answer then; None: it was not judged."""
        found = self._found.get((key, schema))
        if found is None or found[0] != _digest(text):
            return None
        state, output, error, reasoning = limits.own(found[1])
        return Verdict(RowState(state), output, error, schema, reasoning)


def _digest(text: str | None) -> bytes:
    return hashlib.sha256(str(clean(text or "")).encode()).digest()


def judge_by_schema(entries: Sequence[IndexEntry], schemas: Schemas, kept: Kept | None = None) -> Judge:
    """Validates each answer with the schema that its request was sent with."""
    used = {entry.schema for entry in entries}
    if len(used) <= 1:
        number = next(iter(used), 0)
        return _judge(number, schemas.get(number), kept)
    judges = {number: _judge(number, schemas.get(number), kept) for number in used}
    mine = {entry.key: judges[entry.schema] for entry in entries}
    return lambda response: mine[response.key](response)


def _judge(number: int, schema: OutputSchema | None, kept: Kept | None) -> Judge:
    if schema is None:
        plain = Verdict(RowState.OK, None, None, number)
        return lambda response: plain
    examine = schema.judge

    def judge(response: Response) -> Verdict:
        text = response.text or ""
        known = None if kept is None else kept.verdict(response.key, number, text)
        if known is not None:
            return known
        output, error, reasoning = examine(text)
        return Verdict(RowState.OK if error is None else RowState.INVALID, output, error, number, reasoning)

    return judge


def judge_again(
    produced: Iterable[bytes], also: Mapping[str, Sequence[int]], schemas: Schemas, kept: Kept | None = None
) -> Iterator[bytes]:
    """Decoded lines once more, as the other schemas see them that runs with an equal request validate by.

    Only answers: what went wrong otherwise is the same for every schema. An answer of a repair belongs to its root's runs.

    Args:
        also: root key → positions of the other schemas.
    """
    for line in produced:
        document = limits.own(line)
        if document["outcome"] != Outcome.OK:
            continue
        text = document["text"] or ""
        for number in also.get(document["parent_key"] or document["key"], ()):
            schema = schemas.get(number)
            verdict = Verdict(RowState.OK)
            if schema is not None:
                known = None if kept is None else kept.verdict(document["key"], number, text)
                output, error, reasoning = (None, None, None) if known is not None else schema.judge(text)
                state = RowState.OK if error is None else RowState.INVALID
                verdict = known or Verdict(state, output, error, number, reasoning)
            judged = {
                **document,
                "state": str(verdict.state),
                "output": verdict.output,
                "error": verdict.error,
                "schema": number,
                "reasoning": verdict.reasoning,
            }
            try:
                yield orjson.dumps(judged, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:
                yield json.dumps(clean(judged), default=str).encode() + b"\n"


def charge_at(price: Price | None) -> Callable[[Usage], Decimal | None]:
    """What a usage costs in USD; None: the price or the usage is unknown."""
    return partial(cost.usage_usd, price)
