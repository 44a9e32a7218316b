"""Decoded lines that DuckDB cannot read, made readable: the slow way, only for plans that have one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from batchling import limits
from batchling.disk import make_folders


@dataclass(frozen=True, slots=True)
class Mended:
    """Copies without what DuckDB cannot read; `longest` is the longest line in bytes."""

    paths: list[Path]
    longest: int
    warnings: list[str]


def mend(paths: Sequence[Path], folder: Path) -> Mended:
    """Copies of decoded files in which lone surrogates are U+FFFD and lines that are no JSON object are left out.

    The raw bytes received stay as they are in responses/; a row whose line is left out is `pending` in the catalog.
    """
    make_folders(folder)
    copies: list[Path] = []
    warnings: list[str] = []
    longest = 0
    for path in paths:
        copy = folder / path.name
        with path.open("rb") as source, copy.open("wb") as target:
            for number, line in enumerate(source, 1):
                if not line.strip():
                    continue
                mended = _line(line)
                if mended is None:
                    warnings.append(f"{path.name} line {number} is not a JSON object and was left out")
                    continue
                longest = max(longest, len(mended))
                target.write(mended + b"\n")
        copies.append(copy)
    return Mended(copies, longest, warnings)


def _line(line: bytes) -> bytes | None:
    try:
        value = limits.own(line)
    except ValueError:
        try:
            value = limits.loads_tolerantly(line.decode("utf-8", "replace"), parse_constant=lambda _: None)
            text = json.dumps(value, ensure_ascii=False)
            value = limits.own(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except ValueError:
            return None
    return orjson.dumps(value) if isinstance(value, dict) else None
