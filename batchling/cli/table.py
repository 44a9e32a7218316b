"""Tables on stdout: columns aligned with spaces, readable by people, `awk` and `grep`; nothing drawn, nothing coloured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from batchling.printable import one_line

GAP = "  "
LONGEST = 60
"""Characters of a cell where the terminal's width is not known."""

MOST = 1000
"""Characters of a cell in any case: a table is for eyes."""


def table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], *, width: int | None = None, longest: int = LONGEST
) -> str:
    """A header line and a line for each row.

    Args:
        rows: cells; numbers (and text that `figures` made of numbers) stand to the right, None is empty.
        width: columns of the terminal; the widest text columns are cut until the table fits. None: cells are cut at `longest`.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [bool(cells) and all(row[i][1] for row in cells if row[i][0]) for i in range(len(header))]
    lines = [[one_line(name) for name in header], *([text for text, _ in row] for row in cells)]
    widths = [max(columns(line[i]) for line in lines) for i in range(len(header))]
    _fit(widths, right, width, longest)
    return "\n".join(_line(line, widths, right) for line in lines)


def _cell(value: Any) -> tuple[str, bool]:
    if value is None:
        return "", True
    if isinstance(value, bool):
        return str(value).lower(), False
    if isinstance(value, int | float):
        return (f"{value:,}" if isinstance(value, int) else f"{value:.6g}"), True
    if isinstance(value, Number):
        return str(value), True
    return one_line(str(value), MOST), False


class Number(str):
    """Text of a number: stands to the right."""

    __slots__ = ()


def _fit(widths: list[int], right: Sequence[bool], width: int | None, longest: int) -> None:
    texts = [i for i in range(len(widths)) if not right[i]]
    if width is None:
        for i in texts:
            widths[i] = min(widths[i], longest)
        return
    while texts and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widest = max(texts, key=lambda i: widths[i])
        if widths[widest] <= 8:
            return
        widths[widest] -= 1


def _line(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    parts = []
    for text, size, is_right in zip(cells, widths, right, strict=True):
        text = _cut(text, size)
        padding = " " * (size - columns(text))
        parts.append(padding + text if is_right else text + padding)
    return GAP.join(parts).rstrip()


def _cut(text: str, size: int) -> str:
    if columns(text) <= size:
        return text
    while columns(text) > size - 1:
        text = text[:-1]
    return text + "…"


def columns(text: str) -> int:
    """Columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
