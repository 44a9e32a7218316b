"""Lines of JSONL files: they end at `\\n` and nowhere else, and what is written is safe for readers that think otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from batchling import limits

BOM = b"\xef\xbb\xbf"


def read_lines(handle: BinaryIO, max_line_bytes: int) -> Iterator[bytes | None]:
    """The lines of a file without their newline; None for a line over the limit, which is skipped, not held."""
    while line := handle.readline(max_line_bytes + 1):
        if line.endswith(b"\n"):
            yield line[:-1]
        elif len(line) <= max_line_bytes:
            yield line
        else:
            while line and not line.endswith(b"\n"):
                line = handle.readline(1 << 20)
            yield None


def escape_separators(line: bytes) -> bytes:
    """JSON text with U+2028, U+2029 and U+0085 written as escapes: some readers take them for line ends."""
    if b"\xe2\x80" in line:
        line = line.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in line:
        line = line.replace(b"\xc2\x85", b"\\u0085")
    return line


def dump(value: Any) -> bytes:
    """JSON text on one line. NaN and infinities become null; lone surrogates and deep nesting are written by the slow way."""
    try:
        text = orjson.dumps(value)
    except (TypeError, RecursionError):
        text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode()
    return escape_separators(text)


def load_tolerantly(text: bytes) -> Any:
    """JSON as strangers write it: NaN, lone surrogates and huge integers are let in.

    Raises:
        ValueError: it is not JSON, not UTF-8, or nested too deep.
    """
    try:
        return limits.loads(text)
    except limits.BeyondLimit:
        raise
    except ValueError:
        return limits.loads_tolerantly(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def cut_torn_line(path: Path) -> int:
    """Cuts off an unfinished last line (the process died in the middle of a write); returns the bytes that are left."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    with path.open("rb") as handle:
        end = size
        while end > 0:
            start = max(0, end - 65_536)
            handle.seek(start)
            newline = handle.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
    if end < size:
        os.truncate(path, end)
    return end
