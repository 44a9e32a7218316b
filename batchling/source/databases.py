"""Tables of databases: SQLite, DuckDB and PostgreSQL, read once into a file that everything else reads.

A table is copied and its database is never attached where a query of ours or of an experiment runs: what a view in a
stranger's file names is out of reach then, nothing can be written, and a value's text depends on its row alone. SQLite and
PostgreSQL become JSON Lines, because a value of SQLite has a type of its own and PostgreSQL writes JSON without
losing a digit; DuckDB becomes Parquet.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from batchling import duck
from batchling.duck import identifier, literal
from batchling.errors import DataError
from batchling.prompt import value_text
from batchling.source.bounds import most_bytes, too_many_bytes, watched
from batchling.source.faults import nearest, shorten
from batchling.source.types import storable
from batchling.spec import DatabaseConfig

if TYPE_CHECKING:
    import psycopg

LARGEST = 20_000_000_000  # bytes of a copy where nothing else is said
_READ_MB = 256
_CONNECT_SECONDS = 30
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Database:
    """A database that an experiment names.

    Attributes:
        kind: sqlite, duckdb or postgres.
        place: the file, or the name of the variable that holds the connection string; errors show it.
    """

    kind: str
    place: str

    @property
    def ordered(self) -> bool:
        """Whether a table's rows have an order that the next reading repeats."""
        return self.kind != "postgres"

    def copy(self, table: str | None, folder: Path, size: int | None = None) -> Path:
        """A file with a table's rows: its name tells its format.

        Args:
            table: a table or a view, `schema.table` too; None: the only one there is.
            folder: where the file goes; made when it is not there.
            size: bytes that it may have; None: 20 GB.

        Raises:
            DataError: no such table, or the database cannot be read.
            TooLarge: it has more than the disk has room for.
        """
        folder.mkdir(parents=True, exist_ok=True)
        number = sum(1 for _ in folder.iterdir())
        most, key = most_bytes(folder, LARGEST if size is None else size)
        return _COPIES[self.kind](self, table, folder / f"table-{number}", most, key)

    def chosen(self, table: str | None, tables: Sequence[str]) -> str:
        """The name as the database has it."""
        shown = ", ".join(tables[:_SHOWN]) + (", …" if len(tables) > _SHOWN else "")
        if table is None:
            if len(tables) == 1:
                return tables[0]
            what = "has no table" if not tables else f"has {len(tables)} tables, and data.table does not say which"
            hint = f"set data.table to one of: {shown}" if tables else None
            raise DataError(f"the database {what}", where=self.place, key="data.table", next_command=hint)
        if table in tables:
            return table
        alike = [name for name in tables if name.casefold() == table.casefold()]
        if len(alike) == 1:
            return alike[0]
        raise DataError(
            f"there is no table {table!r}{nearest(table, tables)}; there are: {shown or 'none'}",
            where=self.place,
            key="data.table",
        )


def of_file(path: str) -> Database:
    """The database in a file; its first bytes say of which kind it is.

    Raises:
        DataError: it is neither SQLite nor DuckDB.
    """
    with Path(path).open("rb") as file:
        head = file.read(16)
    if head.startswith(b"SQLite format 3\0") or not head:
        return Database("sqlite", path)
    if head[8:12] == b"DUCK":
        return Database("duckdb", path)
    raise DataError("this is no database of SQLite or DuckDB", where=path, key="data.path")


def declared(config: DatabaseConfig | str, root: Path, name: str) -> Database:
    """A database of `data.databases`.

    Raises:
        DataError: its file is not there, or is none.
    """
    path = config if isinstance(config, str) else config.path
    if path is None:
        assert isinstance(config, DatabaseConfig) and config.dsn_env is not None
        return Database("postgres", config.dsn_env)
    full = root / Path(path).expanduser()
    if not full.is_file():
        raise DataError(f"data.databases.{name}: there is no file {path}", where=str(full), key="data.databases")
    return of_file(str(full))


def _write(lines: Iterable[str], to: Path, most: int, key: str | None) -> Path:
    size = 0
    with to.open("w", encoding="utf-8") as out:
        for line in lines:
            size += out.write(line + "\n")
            if size > most:
                raise too_many_bytes(most, key)
    return to


# -- SQLite: the standard library reads it, with no extension to download


def _sqlite(database: Database, table: str | None, to: Path, most: int, key: str | None) -> Path:
    path = database.place
    # Nobody has it open: SQLite would leave two files beside it, where it may write, and could not read it where it may not.
    alone = _has_wal(path) and not Path(f"{path}-wal").exists()
    mode = "immutable=1" if alone else "mode=ro"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(Path(path).absolute()))}?{mode}", uri=True)) as con:
            con.execute("PRAGMA trusted_schema = OFF")  # a view of a stranger's file calls no function with effects
            found = con.execute(
                "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY 1"
            ).fetchall()
            name = database.chosen(table, [row[0] for row in found])
            rows = con.execute(f"SELECT * FROM {identifier(name)}")
            columns = [column[0] for column in rows.description]
            if "" in columns:
                raise DataError(
                    f"the table {name!r} has a column without a name",
                    where=path,
                    next_command="read a view of it in which every column has one",
                )
            made = _write(_sqlite_lines(columns, rows), to.with_suffix(".jsonl"), most, key)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        text = shorten(str(error))
        hint = "close the program that is writing to it, or copy the file" if "locked" in text else None
        raise DataError(f"the database cannot be read: {text}", where=path, next_command=hint) from None
    if alone and Path(f"{path}-wal").exists():
        raise DataError(
            "the database was opened for writing while it was read",
            where=path,
            next_command="run the same command again",
        )
    return made


def _has_wal(path: str) -> bool:
    """Whether a SQLite file is in the mode in which changes are written to a file beside it first."""
    with Path(path).open("rb") as file:
        return file.read(20)[18:20] == b"\x02\x02"


def _sqlite_lines(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    names = [json.dumps(name, ensure_ascii=False) + ": " for name in columns]
    for row in rows:
        yield "{" + ", ".join(name + _sqlite_value(value) for name, value in zip(names, row, strict=True)) + "}"


def _sqlite_value(value: Any) -> str:
    if isinstance(value, bytes):
        return f'"{value.hex().upper()}"'  # as SQLite's hex() has it
    if isinstance(value, float):
        text = value_text(value)
        return text if text.lstrip("-")[:1].isdigit() else json.dumps(text)
    return json.dumps(value, ensure_ascii=False)


# -- DuckDB


def _duckdb(database: Database, table: str | None, to: Path, most: int, key: str | None) -> Path:
    import duckdb

    path = database.place
    to = to.with_suffix(".parquet")
    # One thread: a view that groups gives its rows in the same order each time, and so the same ids.
    con = duck.connect(memory_mb=_READ_MB, threads=1, temp=to.parent / "spill")
    try:
        con.execute(f"ATTACH {literal(path)} AS source (READ_ONLY)")
        # From here on a view in the file reaches no other file and no network.
        con.execute(f"SET allowed_directories = {literal([str(to.parent)])}")
        con.execute("SET enable_external_access = false")
        found = con.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'source' AND NOT internal UNION ALL "
            "SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = 'source' AND NOT internal ORDER BY ALL"
        ).fetchall()
        by_name = {name if schema == "main" else f"{schema}.{name}": (schema, name) for schema, name in found}
        wanted = table.removeprefix("main.") if table is not None and table not in by_name else table
        schema, name = by_name[database.chosen(wanted, list(by_name))]
        whole = f"SELECT * FROM source.{identifier(schema)}.{identifier(name)}"
        kinds = con.sql(whole)
        for large in ("DECIMAL(38,0)", "VARCHAR"):  # an integer of 39 digits fits no decimal
            casts = {
                column: kept
                for column, kind in zip(kinds.columns, kinds.types, strict=True)
                if (kept := storable(kind, large=large)) != str(kind)
            }
            replaced = ", ".join(f"{identifier(c)}::{kind} AS {identifier(c)}" for c, kind in casts.items())
            sql = f"SELECT * REPLACE ({replaced}) FROM ({whole})" if casts else whole
            try:
                with watched(con, to.parent, most, key):
                    con.execute(f"COPY ({sql}) TO {literal(str(to))} (FORMAT parquet, ROW_GROUP_SIZE 8192)")
                break
            except duckdb.ConversionException:
                if large == "VARCHAR":
                    raise
        return to
    except duckdb.Error as error:
        text = shorten(str(error))
        hint = None
        if "lock" in text.lower() and isinstance(error, duckdb.IOException):
            hint = "close the program that has the file open for writing, or copy the file"
        raise DataError(f"the database cannot be read: {text}", where=path, next_command=hint) from None
    finally:
        con.close()


# -- PostgreSQL, through psycopg where that is installed


def _postgres(database: Database, table: str | None, to: Path, most: int, key: str | None) -> Path:
    with _connected(database.place) as con:
        import psycopg
        from psycopg import sql

        try:
            found = con.execute(
                "SELECT table_schema, table_name FROM information_schema.tables "
                "WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"
            ).fetchall()
            by_name = {name if schema == "public" else f"{schema}.{name}": (schema, name) for schema, name in found}
            wanted = table.removeprefix("public.") if table is not None and table not in by_name else table
            chosen = sql.Identifier(*by_name[database.chosen(wanted, list(by_name))])
            with con.cursor(name="batchling") as cursor:  # on the server: no table is held in memory here
                cursor.itersize = 2000
                cursor.execute(sql.SQL("SELECT row_to_json(t)::text FROM {} AS t").format(chosen))
                return _write((row[0] for row in cursor), to.with_suffix(".jsonl"), most, key)
        except (psycopg.Error, UnicodeDecodeError) as error:
            raise DataError(f"the table cannot be read: {shorten(str(error))}", where=database.place) from None


_SETTINGS = (
    "SET TimeZone = 'UTC'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    "SET IntervalStyle = 'postgres'",
)
"""What else a value's text would depend on: who reads it, and where."""


def _ambiguous(dsn: str) -> bool:
    """Whether a part of a URL's password would be taken for its host, which errors repeat."""
    if "://" not in dsn:
        return False
    before = dsn.split("://", 1)[1].split("?")[0]
    return before.count("@") > 1 or "@" in before.partition("/")[2]


@contextmanager
def _connected(variable: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that can only read, and sees one moment. The connection string is in no message: it holds a password."""
    dsn = os.environ.get(variable, "").strip()
    if not dsn:
        raise DataError(
            f"the variable {variable}, which names the database, is not set",
            key="data.dsn_env",
            next_command=f"export {variable}=postgresql://USER:PASSWORD@HOST/DATABASE",
        )
    if not dsn.startswith(("postgresql://", "postgres://")) and "=" not in dsn:
        raise DataError(
            f"the variable {variable} holds no connection string of PostgreSQL (postgresql://… or host=… dbname=…)",
            key="data.dsn_env",
        )
    if _ambiguous(dsn):
        raise DataError(
            f"the variable {variable} holds a connection string with more than one @, so it does not say where the password ends",
            key="data.dsn_env",
            next_command="write @ in the user, the password and the database as %40",
        )
    try:
        import psycopg
    except ImportError:
        raise DataError(
            "reading PostgreSQL needs the library psycopg, which is not installed",
            key="data.dsn_env",
            next_command="pip install 'psycopg[binary]>=3.2'",
        ) from None
    try:
        con = psycopg.connect(
            dsn, connect_timeout=_CONNECT_SECONDS, application_name="batchling", client_encoding="utf8"
        )
    except psycopg.ProgrammingError:  # its words repeat the string
        raise DataError(f"the variable {variable} holds a connection string that cannot be read") from None
    except (psycopg.Error, UnicodeError) as error:
        text = shorten(str(error).replace(dsn, "…"))
        raise DataError(f"the database that {variable} names cannot be reached: {text}") from None
    try:
        con.read_only = True
        con.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        for setting in _SETTINGS:
            con.execute(setting)
        yield con
    finally:
        con.close()


_COPIES = {"sqlite": _sqlite, "duckdb": _duckdb, "postgres": _postgres}
