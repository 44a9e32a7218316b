"""How deep and how large a text from outside may be: one limit of each kind, and the one reader that keeps them.

A parser that takes 1,000 levels hands them to code that takes 200, in C as well as in Python: what comes in is measured
where it comes in, so that nothing behind it has to. Beyond a limit there is one exception, a `ValueError` as for text
that is no JSON; the caller keeps the bytes and says whose they were.
"""

from __future__ import annotations

import json
from typing import Any

import orjson

JSON_DEPTH = 100
"""Levels of lists and objects in any JSON. Parsers and writers further on give up between 128 and 1,000."""

JSON_NODES = 4_000_000
"""Lists and objects in one JSON text: about 250 MB of memory. An answer of a million tokens stays below."""

CONTROL_BYTES = 16_000_000
"""Of one decoded reply that is no result: a batch, a file, a page of a list, an error."""

CONTROL_SECONDS = 300.0
"""From a call's first byte to its reply's last; a server that drips bytes keeps every single read short. An upload has more."""

RESULT_SECONDS = 6 * 3600.0
"""Of one download of a result: 200 MB at 10 kB a second."""

LINE_BYTES = 64 << 20
"""Of one line of a result. No provider takes or gives a row of this size (Together: 10 MB, xAI: 25 MB)."""

RESULT_ROW_BYTES = 256_000
"""Of what stands around an answer: ids, usage, an error, a vector."""

RESULT_TOKEN_BYTES = 2_000
"""Of one token of an answer, with the 20 likeliest ones told beside it."""

RESULT_TOKENS = 200_000
"""Of an answer whose request sets no limit."""

RESULT_FACTOR = 10
"""How much more than that is still decoded."""

ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
"""Content encodings of a reply, one at a time: a byte becomes a thousand at most. Of two in a row it becomes a million."""

OWN_DEPTH = JSON_DEPTH + 20
"""Levels in what batchling writes around a value that was measured when it came in."""


class BeyondLimit(ValueError):
    """The text is deeper or larger than any that is read; the message says which limit it is."""


def loads(data: bytes | bytearray | str, *, depth: int = JSON_DEPTH) -> Any:
    """Strict JSON within the limits.

    Args:
        depth: levels of lists and objects; more only for what wraps a text that was measured already.

    Raises:
        BeyondLimit: it is too deep, or has too many lists and objects.
        ValueError: it is not JSON.
    """
    depth_matters = _count(data)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if depth_matters and error.msg.startswith(("depth limit", "Recursion", "recursion")):
            raise BeyondLimit(_TOO_DEEP) from None
        raise
    if depth_matters:
        check_depth(value, depth=depth)
    return value


def own(data: bytes | str) -> Any:
    """JSON that batchling wrote around what it had read, in a file that somebody else may have written since.

    Raises:
        ValueError: as `loads`.
    """
    return loads(data, depth=OWN_DEPTH)


def loads_tolerantly(data: bytes | str, *, depth: int = JSON_DEPTH, **options: Any) -> Any:
    """JSON as strangers write it, within the limits: NaN, lone surrogates and integers of any size are let in.

    Args:
        depth: as for `loads`.
        options: as for `json.loads`.

    Raises:
        BeyondLimit: it is too deep, or has too many lists and objects.
        ValueError: it is not JSON, or not UTF-8.
    """
    depth_matters = _count(data)
    try:
        value = json.loads(data, **options)
    except RecursionError:
        raise BeyondLimit(_TOO_DEEP) from None
    if depth_matters:
        check_depth(value, depth=depth)
    return value


def check_depth(value: Any, *, depth: int = JSON_DEPTH) -> Any:
    """The value itself, which has at most so many levels of lists and objects.

    Raises:
        BeyondLimit: it has more.
    """
    level = [value]
    for _ in range(depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ())
            if isinstance(child, dict | list | tuple)
        ]
        if not level:
            return value
    raise BeyondLimit(_TOO_DEEP)


def result_bytes(rows: int, sent: int, tokens: int | None) -> int:
    """Bytes of one file of results that are decoded: far more than the shard can be answered with, whatever size was announced.

    Args:
        rows: requests of the shard.
        sent: bytes of its request file, which answers may repeat.
        tokens: most output tokens of one answer; None: no limit was set.
    """
    answer = RESULT_ROW_BYTES + RESULT_TOKEN_BYTES * (RESULT_TOKENS if tokens is None else tokens)
    return RESULT_FACTOR * (rows * answer + sent)


_TOO_DEEP = f"nested more than {JSON_DEPTH} levels deep"


def _count(data: bytes | bytearray | str) -> bool:
    """Whether there are enough opening brackets for depth to matter."""
    count = data.count("[") + data.count("{") if isinstance(data, str) else data.count(b"[") + data.count(b"{")
    if count > JSON_NODES:
        raise BeyondLimit(f"more than {JSON_NODES:,} lists and objects")
    return count > JSON_DEPTH
