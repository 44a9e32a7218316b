"""Spreadsheets: a sheet's cells as rows of values, by way of JSON Lines.

A cell is what the file holds, not how a number format dresses it: 1.1 where Excel shows 1.10, a date where it shows
one. Numbers without a fraction are integers, because Excel knows no others. A sheet is held in memory while it is
read; it has a million rows at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from batchling.errors import DataError
from batchling.prompt import value_text
from batchling.source.faults import nearest
from batchling.written import WrittenFloat, dumps

_EXACT = 2**53  # a double holds every integer up to here


def lines(path: str, options: Mapping[str, Any], to: Path) -> None:
    """Writes the rows of one sheet as JSON Lines; the first row that is not empty names the columns.

    Args:
        path: .xlsx, .xlsm, .xls or .ods.
        options: `sheet`, its name (otherwise the first one); `skip`, rows above the header.
        to: the file to write.

    Raises:
        DataError: it cannot be read, has no such sheet, or a column's name stands twice.
    """
    for name in options:
        if name not in ("sheet", "skip"):
            raise DataError(f"data.options: a spreadsheet has the options sheet and skip, not {name!r}", where=path)
    name, cells, others = _sheet(path, options.get("sheet"))
    rows = [row for row in cells[int(options.get("skip", 0)) :] if any(_value(cell) is not None for cell in row)]
    where = f"{path}, sheet {name}"
    if not rows:
        hint = f"set data.options: {{sheet: {others[0]}}}" if others else None
        raise DataError("the sheet is empty: there is no header and no row", where=where, next_command=hint)
    width = max(i for row in rows for i, cell in enumerate(row, 1) if _value(cell) is not None)
    header = [_value(cell) for cell in rows[0][:width]]
    names = [f"column{i}" if title is None else str(title).strip() for i, title in enumerate(header)]
    for i, title in enumerate(names):
        if title in names[:i]:
            raise DataError(f"the header names the column {title!r} twice", where=where)
    if len(rows) > 1 and sum(title is not None for title in header) == 1 < width:
        raise DataError(
            f"the first row is not the header: {names[0]!r} is the only value in it",
            where=where,
            next_command=f"set data.options: {{skip: {int(options.get('skip', 0)) + 1}}}",
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("w", encoding="utf-8") as out:
        for line in _lines(names, rows[1:]):
            out.write(line)


def _lines(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    for row in rows:
        cells = {title: _value(cell) for title, cell in zip(names, row, strict=False)}
        yield dumps(cells, str, separators=(",", ":")) + "\n"


def _sheet(path: str, wanted: Any) -> tuple[str, list[list[Any]], list[str]]:
    """The name of the sheet that is meant, its cells, and the names of the others that can be seen."""
    from python_calamine import CalamineError, CalamineWorkbook, SheetVisibleEnum

    try:
        with CalamineWorkbook.from_path(path) as book:
            seen = [sheet.name for sheet in book.sheets_metadata if sheet.visible == SheetVisibleEnum.Visible]
            name = (seen or book.sheet_names)[0] if wanted is None else str(wanted)
            if name not in book.sheet_names:
                shown = ", ".join(book.sheet_names)
                raise DataError(
                    f"data.options.sheet: there is no sheet {name!r}{nearest(name, book.sheet_names) or '.'} "
                    f"The sheets are: {shown}",
                    where=path,
                )
            cells = book.get_sheet_by_name(name).to_python(skip_empty_area=False)
            return name, cells, [other for other in seen if other != name]
    except CalamineError as error:
        raise DataError(f"the spreadsheet cannot be read: {error}", where=path) from None


def _value(cell: Any) -> str | int | float | bool | None:
    """A cell as JSON has it."""
    match cell:
        case "" | None:
            return None
        case bool() | str() | int():
            return cell
        case float():
            return int(cell) if cell.is_integer() and abs(cell) <= _EXACT else WrittenFloat(value_text(cell))
        case datetime():
            return cell.isoformat(" ")
        case timedelta():
            minutes, seconds = divmod(int(cell.total_seconds()), 60)
            return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        case date():
            return cell.isoformat()
    return str(cell)
