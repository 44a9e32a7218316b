"""The content hash of a snapshot: what the rows say, not how Parquet stores them.

Defined exactly, so that it can be computed again by anybody::

    sha256( header "\\n" digest(row 0) digest(row 1) ... )

    header       UTF-8 JSON, no spaces: ["batchling-data-1", [[name, type], ...]], types in DuckDB's words
    digest(row)  the 64 lower-case hexadecimal digits of sha256(field(row_id) field(column 1) ...)
    field(v)     "~" for NULL, else the number of v's characters, ":" and v's text
    text         the text that the row was written with, where the snapshot keeps one (its struct `written`); else
                 VARCHAR as it is; BLOB as hexadecimal; STRUCT, LIST, MAP and JSON as DuckDB's to_json writes them;
                 anything else as CAST(v AS VARCHAR), times in UTC

Equal rows in the same order give the same hash, whatever file format, compression, row group size,
number of threads or DuckDB version wrote them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from batchling.duck import identifier

if TYPE_CHECKING:
    import duckdb

FORMAT = "batchling-data-1"

_CHUNK = 8192  # rows; 512 KiB of digests at a time


def _text(expression: str, kind: str) -> str:
    if kind == "VARCHAR":
        return expression
    if kind == "BLOB":
        return f"hex({expression})"
    if kind == "JSON" or kind.startswith(("STRUCT", "MAP", "UNION", "TUPLE")) or kind.endswith("]"):
        return f"CAST(to_json({expression}) AS VARCHAR)"
    return f"CAST({expression} AS VARCHAR)"


def _field(expression: str, kind: str, written: str | None = None) -> str:
    text = _text(expression, kind)
    if written is not None:
        text = f"coalesce({written}, {text})"
    return f"coalesce(length({text}) || ':' || {text}, '~')"


def digest(
    con: duckdb.DuckDBPyConnection, relation: str, columns: Sequence[tuple[str, str]], written: Sequence[str] = ()
) -> str:
    """Sha256 (hex) of a snapshot's rows; `relation` has row, row_id and the struct data, in order.

    Args:
        written: the fields of its struct `written`.
    """
    fields = [_field("row_id", "VARCHAR")]
    fields += [
        _field(f"data.{identifier(n)}", kind, f"written.{identifier(n)}" if n in written else None)
        for n, kind in columns
    ]
    total = hashlib.sha256(
        json.dumps([FORMAT, list(map(list, columns))], separators=(",", ":"), ensure_ascii=False).encode()
    )
    total.update(b"\n")
    rows = con.execute(f"SELECT sha256({' || '.join(fields)}) FROM {relation}")
    while chunk := rows.fetchmany(_CHUNK):
        total.update("".join(row[0] for row in chunk).encode())
    return total.hexdigest()
