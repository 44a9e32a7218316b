"""From a response to a row's state: by the schema of the run that asked, at the price of the lane."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial

import orjson

from batchling import cost
from batchling.collect import Verdict
from batchling.collect.decode import clean
from batchling.collect.join import Judge
from batchling.models import Outcome, Price, Response, RowState, Usage
from batchling.runner.shards import IndexEntry
from batchling.schema import OutputSchema

Schemas = Mapping[int, OutputSchema | None]
"""The plan's schemas by position; None: answers are plain text."""


def judge_by_schema(entries: Sequence[IndexEntry], schemas: Schemas) -> Judge:
    """Validates each answer with the schema that its request was sent with."""
    used = {entry.schema for entry in entries}
    if len(used) <= 1:
        number = next(iter(used), 0)
        return _judge(number, schemas.get(number))
    judges = {number: _judge(number, schemas.get(number)) for number in used}
    mine = {entry.key: judges[entry.schema] for entry in entries}
    return lambda response: mine[response.key](response)


def _judge(number: int, schema: OutputSchema | None) -> Judge:
    if schema is None:
        plain = Verdict(RowState.OK, None, None, number)
        return lambda response: plain
    validate = schema.validate

    def judge(response: Response) -> Verdict:
        output, error = validate(response.text or "")
        if error is None:
            return Verdict(RowState.OK, output, None, number)
        return Verdict(RowState.INVALID, None, error, number)

    return judge


def judge_again(produced: Iterable[bytes], also: Mapping[str, Sequence[int]], schemas: Schemas) -> Iterator[bytes]:
    """Decoded lines once more, as the other schemas see them that runs with an equal request validate by.

    Only answers: what went wrong otherwise is the same for every schema. An answer of a repair belongs to its root's runs.

    Args:
        also: root key → positions of the other schemas.
    """
    for line in produced:
        document = orjson.loads(line)
        if document["outcome"] != Outcome.OK:
            continue
        for number in also.get(document["parent_key"] or document["key"], ()):
            schema = schemas.get(number)
            output, error = (None, None) if schema is None else schema.validate(document["text"] or "")
            state = RowState.OK if error is None else RowState.INVALID
            judged = {**document, "state": str(state), "output": output, "error": error, "schema": number}
            try:
                yield orjson.dumps(judged, option=orjson.OPT_APPEND_NEWLINE)
            except TypeError:
                yield json.dumps(clean(judged), default=str).encode() + b"\n"


def charge_at(price: Price | None) -> Callable[[Usage], Decimal | None]:
    """What a usage costs in USD; None: the price or the usage is unknown."""
    return partial(cost.usage_usd, price)
