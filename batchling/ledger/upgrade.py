"""Journals of older versions, read as if this one had written them.

The first line of a journal has a `format`. Version 0.1.0, and what came between it and 0.2, wrote none: that is 1. A plan
of an older format is resumed in the same file, so one file can hold lines of both formats; a line that needs upgrading is
recognised by the fields that it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = 2
"""Of the journals that this version writes."""

_FILES = (("output_file_id", "output"), ("error_file_id", "errors"))


class UnknownFormatError(ValueError):
    """A journal was written by a later version of batchling; the message says in which format."""


def format_of(first: Mapping[str, Any]) -> int:
    """The format of the journal that begins with this line.

    Raises:
        UnknownFormatError: it is none of those up to `FORMAT`.
    """
    found = first.get("format", 1)
    if isinstance(found, int) and 1 <= found <= FORMAT:
        return found
    raise UnknownFormatError(f"it has format {found!r}, and this version of batchling reads formats up to {FORMAT}")


def upgrade(line: dict[str, Any]) -> dict[str, Any]:
    """A line of format 1 as format 2 has it: the files of results are a list."""
    if line.get("kind") == "ended" and "results" not in line:
        files = [{"id": line[name], "kind": kind} for name, kind in _FILES if line.get(name)]
        return {**line, "results": files} if files else line
    return line
