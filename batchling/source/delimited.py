"""CSV and TSV: read as what they say, not as what a sniffer guesses.

The header comes from the first line, every value is read as text, and a column becomes a number
only when that loses nothing: when each of its values is exactly what the number prints as. So
`00123`, `1.10` and `1e5` stay as they are written, and a row added later cannot change how the
others are rendered (which would buy all of them again).
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from batchling.duck import identifier, literal
from batchling.errors import DataError
from batchling.source import faults

if TYPE_CHECKING:
    import duckdb

_NOT_IN_TEXT = "\x1f"  # no header has it, so that a line is one value
_HEADER_LINES = 20
_HEADER_LENGTH = 4 << 20  # characters that are held to find it; DuckDB takes lines of 2 MB where nothing else is said
_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n?', re.I)
_BUFFER = 4 << 20  # bytes; DuckDB takes 32 MB for each of its buffers otherwise
_PROBE = 2048  # rows that rule most text columns out before the whole file is looked at
_TYPES = ("types", "dtypes", "column_types")


def relation(
    con: duckdb.DuckDBPyConnection,
    paths: Sequence[str],
    kind: str,
    options: Mapping[str, Any],
    id_column: str | None,
) -> tuple[str, tuple[str, ...]]:
    """A SELECT over the files, and the names of the columns that may turn out to be numbers.

    Raises:
        DataError: no header, a column named twice, or files whose headers differ.
    """
    from batchling.source.relation import _escape

    options = dict(options)
    types = {k: v for name in _TYPES if isinstance(options.get(name), dict) for k, v in options.pop(name).items()}
    for ours in ("header", "columns", "names", "column_names", "all_varchar", "auto_detect", "sample_size", *_TYPES):
        if ours in options:
            raise DataError(f"data.options: {ours} cannot be set; batchling reads the header itself", where=paths[0])
    encoding: dict[str, Any] = {k: options[k] for k in ("encoding", "compression") if k in options}
    delim = options.pop("delim", options.pop("sep", None))
    names, chosen, skip = _header(con, paths[0], kind, delim, encoding, options)
    for other in paths[1:]:
        theirs, _, _ = _header(con, other, kind, chosen, encoding, options)
        if theirs != names:
            raise DataError(
                f"its columns differ from those of {paths[0]}: {', '.join(theirs)} instead of {', '.join(names)}",
                where=other,
            )
    for name in types:
        if name not in names:
            raise DataError(f"data.options.types: there is no column {name!r}; the columns are: {', '.join(names)}")
    columns = {name: str(types.get(name, "VARCHAR")) for name in names}
    settings = {
        "delim": chosen,
        "quote": '"',
        "escape": '"',
        "allow_quoted_nulls": False,  # "" is an empty text, only nothing at all is NULL
        **({} if "max_line_size" in options else {"buffer_size": _BUFFER}),
        **options,
        **({"skip": skip} if skip else {}),
    }
    given = ", ".join(f"{name} = {literal(value)}" for name, value in settings.items())
    files = literal([_escape(p) for p in paths])
    sql = f"SELECT * FROM read_csv({files}, auto_detect = false, header = true, columns = {literal(columns)}, {given})"
    if len(names) == 1 and "nullstr" not in options:
        # A blank line is no row where there are several columns; with one it would be a row without a value.
        sql += f" WHERE {identifier(names[0])} IS NOT NULL"
    return sql, tuple(n for n in names if n not in types and n != id_column)


def _header(
    con: duckdb.DuckDBPyConnection,
    path: str,
    kind: str,
    delim: str | None,
    encoding: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[list[str], str, int]:
    """The columns' names, the delimiter, and how many lines come before them."""
    skip = int(options.get("skip", 0))
    text = _first_lines(con, path, encoding, skip)
    if text and (said := _SEPARATOR.fullmatch(text[0])):  # a line for spreadsheets
        delim = delim or said[1]
        skip += 1
        text = text[1:]
    if comment := options.get("comment"):
        text = [line for line in text if not line.startswith(str(comment))]
    if not text or not text[0].strip():
        first = next((number for number, line in enumerate(text) if line.strip()), None)
        hint = None if first is None else f"set data.options: {{skip: {skip + first}}}"
        message = "the file is empty, or begins with an empty line: there is no header and no row"
        raise DataError(message, where=path, next_command=hint)
    if "\0" in text[0]:
        hint = "utf-16-be" if text[0].startswith("\0") else "utf-16-le"
        raise DataError(
            "the header holds NUL bytes, as text in UTF-16 does when it is read in another encoding",
            where=f"{path}, line 1",
            next_command=f"set data.options: {{encoding: {hint}}}, or save the file as UTF-8",
        )
    quote = str(options.get("quote", '"'))

    def split(by: str) -> list[str]:
        rows = csv.reader(
            text, delimiter=by, quotechar=quote or None, quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        )
        try:
            return next(rows)
        except csv.Error as error:
            raise DataError(
                f"the header cannot be read: {error}: {faults.shorten(text[0][:100])}", where=f"{path}, line {skip + 1}"
            ) from None

    chosen = delim or ("\t" if kind == "tsv" else ",")
    if len(chosen) != 1:
        raise DataError(f"data.options.delim: {chosen!r} must be one character", where=path)
    names = split(chosen)
    if delim is None and len(names) == 1:
        # the header of a file that is one column for `,` and several for another common delimiter
        chosen = max((";", "\t", "|", chosen), key=lambda d: (names[0].count(d), d == chosen))
        names = split(chosen)
    if len(names) == 1 or text[0].startswith("#"):
        _check_first_line(path, text, skip, len(names), quote)
    names = [name if name.strip() else f"column{i}" for i, name in enumerate(names)]
    seen: dict[str, str] = {}
    for name in names:
        if name.casefold() in seen:
            twin = seen[name.casefold()]
            also = "" if twin == name else f" (and {twin!r}: names that differ only in case are the same to SQL)"
            raise DataError(f"the header names the column {name!r} twice{also}", where=f"{path}, line 1")
        seen[name.casefold()] = name
    return names, chosen, skip


def _check_first_line(path: str, text: Sequence[str], skip: int, found: int, quote: str) -> None:
    """A title or a comment above the header would be taken for it.

    Raises:
        DataError: with the number of lines to skip.
    """
    for delimiter in (",", ";", "\t", "|"):
        rows = csv.reader(text, delimiter=delimiter, quotechar=quote or None)
        counts: list[tuple[int, int]] = []  # (lines above, columns) of each row
        above = 0
        with contextlib.suppress(csv.Error):
            for row in rows:
                if not above or not row or not row[0].startswith("#"):
                    counts.append((above, len(row)))
                above = rows.line_num
        for (lines, columns), (_, following) in itertools.pairwise(counts[1:]):
            if columns > 1 and columns == following and columns != found:
                raise DataError(
                    f"the first line is not the header: {text[0].strip()!r}; there are {columns} columns from line "
                    f"{skip + lines + 1} on",
                    where=f"{path}, line {skip + 1}",
                    next_command=f"set data.options: {{skip: {skip + lines}}}",
                )
            if columns > 1 and columns != following:
                break


def _first_lines(con: duckdb.DuckDBPyConnection, path: str, encoding: Mapping[str, Any], skip: int) -> list[str]:
    """The lines that a header may span, with their ends. Bytes that are no text are left for the reader to report."""
    from batchling.source.relation import REMOTE, _escape

    if (
        not REMOTE.match(path)
        and Path(path).suffix in (".csv", ".tsv", ".tab", ".txt", ".gz")
        and "compression" not in encoding
    ):
        charset = str(encoding.get("encoding", "utf-8"))
        charset = "utf-8-sig" if charset.lower().replace("-", "") == "utf8" else charset
        with (
            contextlib.suppress(LookupError),
            gzip.open(path) if path.endswith(".gz") else Path(path).open("rb") as file,
            io.TextIOWrapper(cast(IO[bytes], file), charset, "replace", newline="") as lines,
        ):
            return _short_lines(lines, path, skip)
    # Compressed in another way, far away, or in an encoding that Python does not know: let DuckDB read whole lines.
    extra = "".join(f", {k} = {literal(v)}" for k, v in encoding.items())
    rows = con.execute(
        f"SELECT line FROM read_csv({literal(_escape(path))}, auto_detect = false, header = false, "
        f"columns = {{'line': 'VARCHAR'}}, delim = '{_NOT_IN_TEXT}', quote = '', escape = '', strict_mode = false, "
        f"null_padding = true, skip = {skip}{extra}) LIMIT {_HEADER_LINES}"
    ).fetchall()
    return [str(line or "") + "\n" for (line,) in rows]


def _short_lines(file: IO[str], path: str, skip: int) -> list[str]:
    """The lines of a file after the first `skip`, of which no more than a bound is held.

    Raises:
        DataError: the header does not end within it.
    """
    lines: list[str] = []
    held = number = 0
    while len(lines) < _HEADER_LINES and held < _HEADER_LENGTH and (line := file.readline(_HEADER_LENGTH)):
        number += 1
        if number <= skip:
            while line and not line.endswith(("\n", "\r")):
                line = file.readline(_HEADER_LENGTH)
            continue
        held += len(line)
        lines.append(line)
    if len(lines) == 1 and held >= _HEADER_LENGTH:
        raise DataError(
            f"the header is longer than {_HEADER_LENGTH:,} characters: {faults.shorten(lines[0][:100])}",
            where=f"{path}, line {skip + 1}",
        )
    return lines


def numbers(con: duckdb.DuckDBPyConnection, sql: str, names: Sequence[str]) -> dict[str, str]:
    """Which of the text columns hold only integers (BIGINT) or only decimals (DOUBLE), written as numbers print."""
    candidates = _lossless(con, f"SELECT * FROM ({sql}) LIMIT {_PROBE}", dict.fromkeys(names, ("BIGINT", "DOUBLE")))
    if not candidates:
        return {}
    found = _lossless(con, sql, {n: (kind,) for n, kind in candidates.items()})
    return dict(found)


def _lossless(con: duckdb.DuckDBPyConnection, sql: str, kinds: Mapping[str, Sequence[str]]) -> dict[str, str]:
    wanted = [(name, kind) for name, several in kinds.items() for kind in several]
    checks = []
    for name, kind in wanted:
        column = identifier(name)
        same = f"TRY_CAST({column} AS {kind})::VARCHAR IS NOT DISTINCT FROM {column}"
        if kind == "DOUBLE":
            same += f" AND NOT regexp_matches({column}, '[a-zA-Z]')"  # nan, inf and exponents stay text
        checks.append(f"bool_and({same}) FILTER ({column} IS NOT NULL)")
    if not checks:
        return {}
    row = con.execute(f"SELECT {', '.join(checks)} FROM ({sql})").fetchone()
    found: dict[str, str] = {}
    for (name, kind), yes in zip(wanted, row or (), strict=False):
        if yes and name not in found:
            found[name] = kind
    return found
