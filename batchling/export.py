"""Results as files: the records of a plan or run as jsonl, csv or parquet.

The columns are those of the catalog's view `results`. What comes out may be opened in a spreadsheet
or shown on a terminal, and answers and rows are hostile: see `safe_cell` and `printable`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from batchling import duck, limits
from batchling.catalog import plan_files
from batchling.catalog.plan_files import PlanFiles
from batchling.catalog.references import Reference
from batchling.duck import identifier, json_text, literal, own_json
from batchling.errors import DiskError, UsageError
from batchling.printable import printable as printable
from batchling.scratch import scratch

if TYPE_CHECKING:
    import duckdb

Format = Literal["jsonl", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("jsonl", "csv", "parquet")

_AT_ONCE = 64
"""Records held as Python values at once: of 40 kB each, some megabytes."""

_MEMORY_MB = (192, 1024, 4096, None)
"""MiB for DuckDB; the next figure is tried only where one is not enough (records of megabytes), None: what the machine has."""

_UNSEEN = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
"""Control characters and letters without a shape: importers drop some of them, and what follows opens the cell."""

_FORMULA = re.compile(rf"^(?:[\t\r\n]|[{_UNSEEN}]*[=+\-@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\t\r\n])")
"""What opens a formula, in the full-width and small forms too: East Asian versions of spreadsheets read them alike."""

_NUMBER = re.compile(r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$")


_ENDINGS: dict[str, Format] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".parquet": "parquet"}


def format_of(path: Path, wanted: Format | None = None) -> Format:
    """The format to write a file in: the one that is wanted, else the one that its ending stands for.

    Raises:
        UsageError: the ending stands for none, or for another than what is wanted.
    """
    ending = _ENDINGS.get(path.suffix.lower())
    if wanted is not None and ending in (None, wanted):
        return wanted
    if ending is None:
        raise UsageError(
            f"{path.name}: its ending does not name a format", next_command="add --format jsonl, csv or parquet"
        )
    if wanted is not None:
        raise UsageError(
            f"{path.name} ends in {ending}, and --format says {wanted}", next_command="leave one of them out"
        )
    return ending


def export(reference: Reference, target: Path | BinaryIO, form: Format) -> int:
    """Writes the records of a run, or of every run of a plan, and returns how many there are.

    jsonl: one object a line, `output` and `data` as nested values. csv: a column for each field of
    `output` and `data` (`output.label`), what is nested deeper as JSON, cells that a spreadsheet would run
    quoted. parquet: typed as in records.parquet.

    Args:
        reference: see `catalog.resolve`.
        target: a path (replaced when it is complete) or an open binary stream.
        form: the format.

    Raises:
        UsageError: the plan has no records yet, or they were removed.
        DiskError: the file cannot be written.
    """
    files = plan_files.load(reference.plan_dir)
    if not plan_files.has_records(files.path):
        raise UsageError(
            f"{files.plan_id} has no records" + (": its rows were removed" if files.emptied else " yet"),
            where=str(files.path),
            next_command="batchling status" if files.emptied else f"batchling watch {files.plan_id}",
        )
    if not isinstance(target, Path):
        return _write(files, reference.run_id, target, form)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            rows = _write(files, reference.run_id, stream, form)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(target)
    except OSError as error:
        raise DiskError(f"results cannot be written: {error.strerror or error}", where=str(target)) from error
    finally:
        with suppress(OSError):
            part.unlink()
    return rows


def _write(files: PlanFiles, run_id: str | None, stream: BinaryIO, form: Format) -> int:
    """Writes the records in their order; where memory runs out, it resumes with a higher limit at the record where it stopped."""
    import duckdb

    done = 0
    for memory_mb in _MEMORY_MB:
        with scratch() as folder:
            # One thread: a second one would hold as much again, and the records must keep their order.
            con = duck.connect(memory_mb=memory_mb, threads=1, temp=folder / "spill")
            try:
                with plan_files.reading_records(files.path):
                    define_views(con, files, run_id)
                    if form == "parquet":
                        return _parquet(con, stream, folder / "results.parquet", _group_rows(con, files))
                    write = _jsonl if form == "jsonl" else _csv
                    for chunk, n in write(con, done):
                        stream.write(chunk)
                        done += n
                return done
            except duckdb.OutOfMemoryException:
                if memory_mb is None:
                    raise
            finally:
                con.close()
    raise AssertionError("unreachable")


def define_views(con: duckdb.DuckDBPyConnection, files: PlanFiles, run_id: str | None) -> None:
    """The views `results`, the records with what their runs say of them, and `own`, which has the texts of `data`, too.

    records.parquet is in the order of runs, rows and repeats.
    """
    con.execute(f"CREATE VIEW own AS {_select(files, run_id)}")
    con.execute(f"CREATE VIEW results AS SELECT *{' EXCLUDE (written)' if _texts(con) else ''} FROM own")


def as_json(con: duckdb.DuckDBPyConnection) -> str:
    """SQL for a row of the view `own` as one JSON object: `data` has the keys and the digits that the row was given."""
    texts = _texts(con)
    found = con.sql("SELECT * FROM results")
    kinds = dict(zip(found.columns, found.types, strict=True))
    parts = []
    for name, kind in kinds.items():
        if name == "data" and kind.id == "struct":
            value = own_json("own.data", dict(kind.children), texts, "own.written")
        elif str(kind) == "JSON":  # to_json would read it, and write its numbers in another way
            value = f"coalesce(own.{identifier(name)}::VARCHAR, 'null')"
        else:
            value = f"coalesce(to_json(own.{identifier(name)})::VARCHAR, 'null')"
        parts.append(f"{literal(json.dumps(name) + ':')} || {value}")
    return f"'{{' || concat_ws(',', {', '.join(parts)}) || '}}'"


def _texts(con: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """Fields of `data` of which the records have the text that a row was written with."""
    found = con.sql("SELECT * FROM own")
    kinds = dict(zip(found.columns, found.types, strict=True))
    return tuple(name for name, _ in kinds["written"].children) if "written" in kinds else ()


def _select(files: PlanFiles, run_id: str | None) -> str:
    where = f" WHERE records.run_id = {literal(run_id)}" if run_id else ""
    return (
        f"SELECT records.run_id, {_of_run(files, 'provider')} AS provider, {_of_run(files, 'model')} AS model,"
        f" {_of_run(files, 'override_text')} AS overrides, records.* EXCLUDE (run_id, row)"
        f" FROM read_parquet({plan_files.listed([files.records])}) AS records{where}"
    )


def _of_run(files: PlanFiles, name: str) -> str:
    """SQL for what a record's run says: no join, which would not promise to keep the records' order."""
    values = {run.run_id: str(getattr(run, name)) for run in files.runs}
    if len(set(values.values())) == 1:
        return literal(next(iter(values.values())))
    known = ", ".join(f"{literal(run_id)}: {literal(value)}" for run_id, value in values.items())
    return f"map_extract(MAP {{{known}}}, records.run_id)[1]"


def _parquet(con: duckdb.DuckDBPyConnection, stream: BinaryIO, path: Path, group: int) -> int:
    row = con.execute(
        f"COPY ({_typed(con)}) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE {group})"
    ).fetchone()
    with path.open("rb") as source:
        shutil.copyfileobj(source, stream, 1 << 20)
    return int(row[0]) if row else 0


def _typed(con: duckdb.DuckDBPyConnection) -> str:
    """The records with their types; what is nested in `data`, and differs from row to row, is JSON."""
    texts = set(_texts(con))
    kinds = (
        {name: kind for name, kind, *_ in con.execute("DESCRIBE SELECT unnest(data) FROM own").fetchall()}
        if texts
        else {}
    )
    nested = [name for name, kind in kinds.items() if name in texts and _nested(kind)]
    if not nested:
        return "SELECT * FROM results"
    fields = ", ".join(
        f"{identifier(name)} := "
        + (
            f"coalesce(written.{identifier(name)}, to_json(data.{identifier(name)})::VARCHAR)::JSON"
            if name in nested
            else f"data.{identifier(name)}"
        )
        for name in kinds
    )
    return f"SELECT * EXCLUDE (written) REPLACE (struct_pack({fields}) AS data) FROM own"


def _group_rows(con: duckdb.DuckDBPyConnection, files: PlanFiles) -> int:
    """Rows in a row group: as many as the records' own have, so that no more is held than was read at once."""
    sql = f"SELECT max(row_group_num_rows) FROM parquet_metadata({literal(str(files.records))})"
    row = con.execute(sql).fetchone()
    return int(row[0]) if row and row[0] else 122_880


def _chunks(con: duckdb.DuckDBPyConnection, sql: str) -> Iterator[list[tuple[Any, ...]]]:
    result = con.execute(sql)
    while chunk := result.fetchmany(_AT_ONCE):
        yield chunk


def _jsonl(con: duckdb.DuckDBPyConnection, skip: int) -> Iterator[tuple[bytes, int]]:
    for chunk in _chunks(con, f"SELECT {as_json(con)} FROM own OFFSET {skip}"):
        yield b"".join(_line(text) for (text,) in chunk), len(chunk)


def _line(text: str) -> bytes:
    """One line of strict JSON. DuckDB writes NaN and Infinity, and leaves line separators that break other readers."""
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(
            limits.loads_tolerantly(text, depth=limits.OWN_DEPTH, parse_constant=lambda _: None),
            ensure_ascii=False,
            separators=(",", ":"),
        )
    for character in ("\u2028", "\u2029", "\u0085"):
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"


def _csv(con: duckdb.DuckDBPyConnection, skip: int) -> Iterator[tuple[bytes, int]]:
    columns = _flat(con)
    if not skip:
        yield _rows([[safe_cell(name) for name, _, _ in columns]]), 0
    values = ", ".join(value for _, value, _ in columns)
    text = [is_text for _, _, is_text in columns]
    for chunk in _chunks(con, f"SELECT {values} FROM own OFFSET {skip}"):
        yield _rows([[_cell(*pair) for pair in zip(row, text, strict=True)] for row in chunk]), len(chunk)


def _cell(value: str | None, is_text: bool) -> str:
    if value is None:
        return ""
    return safe_cell(value) if is_text else value


def _rows(rows: list[list[str]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    if "\r" in buffer.getvalue():
        # Python before 3.13 leaves a bare carriage return unquoted, and a spreadsheet begins a new row there.
        buffer = io.StringIO(newline="")
        plain = csv.writer(buffer, lineterminator="\n")
        quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
        for row in rows:
            (quoted if any("\r" in cell for cell in row) else plain).writerow(row)
    return buffer.getvalue().encode("utf-8", "replace")


def _flat(con: duckdb.DuckDBPyConnection) -> list[tuple[str, str, bool]]:
    """CSV columns: name, SQL that gives the cell's text, and whether it is text (a number needs no quoting)."""
    columns: list[tuple[str, str, bool]] = []
    texts = _texts(con)
    of = con.sql("SELECT data FROM own").types[0]
    types = dict(of.children) if of.id == "struct" else {}
    for name, kind, *_ in con.execute("DESCRIBE results").fetchall():
        if name in ("output", "data") and kind.startswith("STRUCT"):
            fields = con.execute(f"DESCRIBE SELECT unnest({identifier(name)}) FROM results").fetchall()
            columns += [
                _column(
                    f"{name}.{field}",
                    f"{identifier(name)}.{identifier(field)}",
                    inner,
                    f"written.{identifier(field)}" if name == "data" and field in texts else None,
                    types.get(field) if name == "data" else None,
                )
                for field, inner, *_ in fields
            ]
        else:
            columns.append(_column(name, identifier(name), kind))
    return columns


def _column(name: str, value: str, kind: str, text: str | None = None, of: Any = None) -> tuple[str, str, bool]:
    nested = _nested(kind)
    number = kind in ("BOOLEAN", "FLOAT", "DOUBLE") or kind.endswith("INT") or kind.startswith(("DECIMAL", "INTEGER"))
    shown = f"{value}::VARCHAR"
    if nested:
        shown = f"to_json({value})::VARCHAR" if of is None else json_text(value, of)
    return name, f"coalesce({text}, {shown})" if text else shown, nested or not number


def _nested(kind: str) -> bool:
    return kind.startswith(("STRUCT", "MAP", "UNION")) or kind.endswith("]")


def safe_cell(text: str) -> str:
    """Text for a CSV cell: what a spreadsheet would take for a formula gets a leading apostrophe.

    >>> safe_cell("=1+1"), safe_cell("-5"), safe_cell("card")
    ("'=1+1", '-5', 'card')
    """
    if _FORMULA.match(text) and not _NUMBER.match(text):
        return "'" + text
    return text
