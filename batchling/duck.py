"""How a DuckDB connection is opened, with the same few settings everywhere.

Only `source` and `catalog` use this. DuckDB is slow to import (0.2 s), so it is imported when the
first connection is made.
"""

from __future__ import annotations

import json
import os
import re
import threading
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


SPILL: Path | None = None
"""Where a connection spills when nothing else is said; None leaves DuckDB's choice, `.tmp` in the current folder."""


def connect(
    path: Path | None = None,
    *,
    read_only: bool = False,
    memory_mb: int | None = 128,
    threads: int = 2,
    temp: Path | None = None,
    network: bool = False,
) -> duckdb.DuckDBPyConnection:
    """Open a database file, or a private in-memory one when `path` is None.

    Args:
        path: database file.
        read_only: open the file so that nothing can be written.
        memory_mb: MiB that DuckDB may hold; what does not fit is spilled to `temp`. None: most of the machine's.
        threads: worker threads.
        temp: folder for spilled data; None: `SPILL`.
        network: let DuckDB fetch and load its extensions (https, s3) when a path needs one.

    Times are shown in UTC, rows keep their order, and nothing is drawn on the terminal.
    """
    import duckdb

    config: dict[str, Any] = {
        "threads": threads,
        "preserve_insertion_order": True,
        "autoinstall_known_extensions": network,
        "autoload_known_extensions": network,
    }
    if memory_mb is not None:
        config["memory_limit"] = f"{memory_mb}MiB"
    temp = temp or SPILL
    if temp is not None:
        config["temp_directory"] = str(temp)
    con = duckdb.connect(":memory:" if path is None else str(path), read_only=read_only, config=config)
    # Only where it is on: in a notebook without ipywidgets it is off, and any SET of it is an error there.
    if con.execute("SELECT current_setting('enable_progress_bar')").fetchone() != (False,):
        con.execute("SET enable_progress_bar = false")
    con.execute("SET enable_external_file_cache = false")  # files are read once; a cache would fill the memory limit
    con.execute("SET TimeZone = 'UTC'")
    _OPEN.add(con)
    return con


_OPEN: weakref.WeakSet[duckdb.DuckDBPyConnection] = weakref.WeakSet()

_SHARED_MB = 256
_sharing = threading.Lock()
_shared: duckdb.DuckDBPyConnection | None = None
"""The database that `borrowed` lends."""


def _close_shared() -> None:
    """A fork leaves a database's threads behind: the child would wait for them. One that is lent stays locked there."""
    global _shared
    if _sharing.acquire(blocking=False):
        try:
            if _shared is not None:
                _shared.close()
                _shared = None
        finally:
            _sharing.release()


os.register_at_fork(before=_close_shared)


@contextmanager
def borrowed() -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a database in memory that this process keeps, for short statements of our own.

    Making a database takes 18 ms of processor time, nearly all of it to register DuckDB's functions; a command looks into
    the catalog six to twelve times. Whoever borrows it leaves nothing behind (tables, attached files, settings);
    after any error the database is given up, and while somebody has it everybody else gets one of their own.
    """
    global _shared
    if not _sharing.acquire(blocking=False):
        con = connect(memory_mb=_SHARED_MB)
        try:
            yield con
        finally:
            con.close()
        return
    try:
        if _shared is None:
            _shared = connect(memory_mb=_SHARED_MB, threads=1)
        con = _shared.cursor()
        con.execute("SET TimeZone = 'UTC'")
        _OPEN.add(con)
        try:
            yield con
        except BaseException:
            _shared.close()
            _shared = None
            raise
        finally:
            con.close()
    finally:
        _sharing.release()


def connections() -> list[duckdb.DuckDBPyConnection]:
    """This process's connections that may run a statement."""
    return list(_OPEN)


def interrupt(opened: Iterable[duckdb.DuckDBPyConnection]) -> None:
    """Ends the statements that run on connections. May be called from any thread.

    A thread that is inside a long task of DuckDB's runs no Python, and so no signal handler, until its statement is over;
    and where the handler did run, DuckDB still waits for its other threads, which have not heard of it.
    """
    import duckdb

    for con in opened:
        with suppress(duckdb.Error):  # closed meanwhile
            con.interrupt()


class TookTooLong(Exception):
    """A statement was interrupted at its time limit."""


@contextmanager
def within(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupts what runs on a connection after a while.

    Raises:
        TookTooLong: it was.
    """
    late = threading.Event()

    def stop() -> None:
        late.set()
        while not over.wait(0.1):  # a statement may have begun right after
            interrupt([con])

    over = threading.Event()
    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
        return
    except Exception as error:
        if not (late.is_set() and interrupted(error)):
            raise
    finally:
        over.set()
        timer.cancel()
    raise TookTooLong


def interrupted(error: BaseException) -> bool:
    """Whether an error is how DuckDB tells of Ctrl-C in a query, or was raised because of that.

    It raises `RuntimeError: Query interrupted` without the KeyboardInterrupt behind it, and in other places an
    `InterruptException` (DuckDB 1.1 to 2.0).
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None or isinstance(seen, TookTooLong):  # a limit is no Ctrl-C
            return False
        words = "interrupted" in str(seen).lower()
        if type(seen).__name__ == "InterruptException" or (type(seen) is RuntimeError and words):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def identifier(name: str) -> str:
    """`name` as a quoted SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A JSON value as a SQL literal: text, number, boolean, null, list or struct."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{literal(str(k))}: {literal(v)}" for k, v in value.items()) + "}"
    raise TypeError(f"no SQL literal for {type(value).__name__}")


def own_json(row: str, kinds: Mapping[str, Any], texts: Collection[str], written: str) -> str:
    """SQL for a STRUCT as JSON text in which some fields are as they were written.

    A STRUCT's objects have the keys of all rows, and its numbers lose their spelling; the text of a field has a row's own.

    Args:
        row: SQL of the STRUCT.
        kinds: its fields and their types.
        texts: fields that have a text where it differs.
        written: SQL of the STRUCT of these texts.
    """
    parts = []
    for name, kind in kinds.items():
        text = f"{written}.{identifier(name)}, " if name in texts else ""
        value = json_text(f"{row}.{identifier(name)}", kind)
        parts.append(f"{literal(json.dumps(name, ensure_ascii=False) + ':')} || coalesce({text}{value}, 'null')")
    return f"'{{' || concat_ws(',', {', '.join(parts)}) || '}}'"


def json_text(expression: str, kind: Any, depth: int = 0) -> str:
    """SQL for a value's JSON text in which a FLOAT and a DECIMAL have their own digits: 0.1 and 1.10. NULL stays NULL."""
    if not _respelt(kind):
        return f"to_json({expression})::VARCHAR"
    if kind.id == "struct":
        parts = ", ".join(
            f"{literal(json.dumps(name, ensure_ascii=False) + ':')} || "
            f"coalesce({json_text(f'{expression}.{identifier(name)}', child, depth)}, 'null')"
            for name, child in kind.children
        )
        return f"CASE WHEN {expression} IS NOT NULL THEN '{{' || concat_ws(',', {parts}) || '}}' END"
    if kind.id in ("list", "array", "map"):
        item, listed, ends = f"item{depth}", expression, "[]"
        if kind.id == "map":
            listed, ends = f"map_entries({expression})", "{}"
            inner = json_text(f"{item}.value", kind.children[1][1], depth + 1)
            value = f"to_json({item}.key::VARCHAR)::VARCHAR || ':' || coalesce({inner}, 'null')"
        else:
            value = f"coalesce({json_text(item, kind.children[0][1], depth + 1)}, 'null')"
        texts = f"array_to_string(list_transform({listed}, lambda {item}: {value}), ',')"
        return f"CASE WHEN {expression} IS NOT NULL THEN '{ends[0]}' || coalesce({texts}, '') || '{ends[1]}' END"
    if str(kind) == "FLOAT":
        return f"to_json({expression}::VARCHAR::DOUBLE)::VARCHAR"
    return f"{expression}::VARCHAR"


def _respelt(kind: Any) -> bool:
    """Whether to_json prints a number of a type with other digits than the value has."""
    if kind.id in ("struct", "list", "array", "map"):
        return any(_respelt(child) for name, child in kind.children if name != "size" or kind.id == "struct")
    return str(kind) == "FLOAT" or str(kind).startswith("DECIMAL")


_TOKEN = re.compile(r'"(?:[^"]|"")*"|[A-Za-z_][A-Za-z0-9_]*|[0-9]+|[(),\[\]]|\s+')
_SCALARS = frozenset(
    [
        "VARCHAR",
        "BIGINT",
        "DOUBLE",
        "BOOLEAN",
        "JSON",
        "FLOAT",
        "INTEGER",
        "SMALLINT",
        "TINYINT",
        "HUGEINT",
        "UBIGINT",
        "UINTEGER",
        "USMALLINT",
        "UTINYINT",
        "DATE",
        "TIME",
        "TIMESTAMP",
        "TIMESTAMPTZ",
        "DECIMAL",
        "BLOB",
        "UUID",
    ]
)
_DEEPEST = 100


def is_type(text: str) -> bool:
    """Whether a text is one of the types that we write, and so no SQL beside: plan.json may be anybody's.

    >>> is_type('STRUCT("a b" VARCHAR, n BIGINT[])'), is_type("VARCHAR) FROM x; --")
    (True, False)
    """
    tokens: list[str] = []
    end = 0
    for found in _TOKEN.finditer(text):
        if found.start() != end:
            return False
        end = found.end()
        if not found.group().isspace():
            tokens.append(found.group())
    return end == len(text) and _after_type(tokens, 0, 0) == len(tokens) > 0


def _after_type(tokens: list[str], place: int, depth: int) -> int | None:
    """Where the type that begins at `place` ends; None: there is none."""
    word = tokens[place].upper() if place < len(tokens) else ""
    place += 1
    if depth > _DEEPEST:
        return None
    if word == "STRUCT":
        if tokens[place : place + 1] != ["("]:
            return None
        while tokens[place : place + 1] in (["("], [","]):
            name = tokens[place + 1 : place + 2]
            if not name or not (name[0].startswith('"') or name[0][0].isalpha() or name[0][0] == "_"):
                return None
            after = _after_type(tokens, place + 2, depth + 1)
            if after is None:
                return None
            place = after
        if tokens[place : place + 1] != [")"]:
            return None
        place += 1
    elif word == "DECIMAL" and tokens[place : place + 1] == ["("]:
        width = tokens[place + 1 : place + 5]
        if len(width) != 4 or not (width[0].isdigit() and width[1] == "," and width[2].isdigit() and width[3] == ")"):
            return None
        place += 5
    elif word not in _SCALARS:
        return None
    while tokens[place : place + 1] == ["["]:
        place += 2 if tokens[place + 1 : place + 2] == ["]"] else 3
        if tokens[place - 1 : place] != ["]"] or not (tokens[place - 2] == "[" or tokens[place - 2].isdigit()):
            return None
    return place
