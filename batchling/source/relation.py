"""Turn a `data:` section into one SQL relation, and name the files it reads.

Nothing is copied here: a relation is SQL text over the person's files (csv, tsv, jsonl, json, parquet, xlsx),
their query, their inline rows, or an earlier run's records.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import confined
from batchling.duck import identifier, literal, own_json
from batchling.errors import DataError
from batchling.prompt import value_text
from batchling.source import databases, delimited, documents, encodings, faults, hub, packed, query, sheets
from batchling.spec import DataConfig

if TYPE_CHECKING:
    import duckdb

REMOTE = re.compile(r"^[a-z][a-z0-9+.-]+://", re.I)
_GLOB = re.compile(r"[*?\[]")
_FORMATS = {
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "parquet": "parquet",
    "pq": "parquet",
    "xlsx": "xlsx",
    "xlsm": "xlsx",
    "xls": "xlsx",
    "ods": "xlsx",
    "sqlite": "database",
    "sqlite3": "database",
    "db": "database",
    "db3": "database",
    "duckdb": "database",
    "ddb": "database",
}
_SMALL_SHEET = 100_000  # bytes; deflate packs 1,032 into one at most
_SHEET_MB = confined.MEMORY_MB
_OPTION = re.compile(r"[a-z_][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Relation:
    """A source as SQL.

    Attributes:
        sql: a SELECT over it.
        what: how errors name it: a path, `data.sql`, `data.rows`, or the run.
        paths: files it reads.
        once: read it only once (a query may be costly, or answer differently the second time).
        ordered: its rows have an order that the next reading repeats.
        text: names of CSV columns that are plain text until `delimited.numbers` says otherwise.
        keys: columns that the source calls otherwise, and how: two names that differ only in case are one to SQL.
        written: beside its columns it has the struct `documents.WRITTEN`.
    """

    sql: str
    what: str
    paths: tuple[str, ...] = ()
    once: bool = False
    ordered: bool = True
    text: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    written: bool = False


def needs_network(data: DataConfig) -> bool:
    """Whether the source names a remote file, so that DuckDB may load an extension for it."""
    if data.sql is not None:
        return re.search(r"'[a-z][a-z0-9+.-]+://", data.sql, re.I) is not None
    paths = [data.path] if isinstance(data.path, str) else data.path or []
    return any(REMOTE.match(p) and not p.startswith(hub.SCHEME) for p in paths)


def relation(
    con: duckdb.DuckDBPyConnection,
    data: DataConfig,
    root: Path,
    scratch: Path,
    run_lookup: Callable[[str], Path] | None,
    *,
    unpack_factor: int | None = None,
    size: int | None = None,
) -> Relation:
    """The source as SQL.

    Args:
        con: a connection to look at files with.
        data: the validated section.
        root: the experiment's folder, where relative paths start.
        scratch: folder for temporary files; it must live as long as the relation is used.
        run_lookup: path of records.parquet for a run id, plan id or experiment name.
        unpack_factor: times its size that a compressed file may hold (`packed.check`); None: any number.
        size: bytes that a copy of a database's table may have; None: 20 GB.

    Raises:
        DataError: a file is missing, malformed or unpacks to too much, an option unknown, or the query not one SELECT.
    """
    if data.sql is not None:
        named = {name: databases.declared(given, root, name) for name, given in data.databases.items()}
        sql = query.checked(
            con, data.sql, root, has_id=data.id is not None, databases=named, scratch=copied(scratch), size=size
        )
        return Relation(sql, "data.sql", once=True, ordered=query.is_ordered(con, data.sql))
    if data.rows is not None:
        return _inline(con, data, scratch)
    if data.run is not None:
        return _records(con, data.run, run_lookup)
    if data.dsn_env is not None:
        return _table(con, databases.Database("postgres", data.dsn_env), data.table, scratch, size)
    try:
        return _files(con, data, root, scratch, unpack_factor, size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        files = data.path if isinstance(data.path, str) else ", ".join(data.path or [])
        raise DataError(
            f"the compressed file is damaged or cut short: {error}",
            where=files,
            key="data.path",
            next_command="copy or download it again",
        ) from None


def _table(
    con: duckdb.DuckDBPyConnection, database: databases.Database, table: str | None, scratch: Path, size: int | None
) -> Relation:
    """A table of a database, as a copy."""
    copy = str(database.copy(table, scratch / "tables", size))
    what = f"{database.place}, table {table}" if table is not None else database.place
    if copy.endswith(".parquet"):
        return Relation(f"SELECT * FROM read_parquet({literal(_escape(copy))})", what, ordered=database.ordered)
    try:
        sql, keys, written = documents.relation(con, [_escape(copy)], {}, lines=True)
    except DataError as error:
        if error.where is not None:
            error.where = error.where.replace(copy, what)  # nobody knows the copy
        raise
    return Relation(sql, what, ordered=database.ordered, keys=keys, written=written)


def _files(
    con: duckdb.DuckDBPyConnection,
    data: DataConfig,
    root: Path,
    scratch: Path,
    unpack_factor: int | None,
    size: int | None,
) -> Relation:
    given = [data.path] if isinstance(data.path, str) else list(data.path or [])
    if not given:
        raise DataError("data.path is an empty list", next_command="name at least one file")
    paths = []
    for one in given:
        paths += hub.fetched(one, copied(scratch), size) if one.startswith(hub.SCHEME) else _expand(con, one, root)
    what = given[0] if len(given) == 1 else f"{given[0]} and {len(given) - 1} more"
    kind = data.format or _format_of(paths, what)
    for name in data.options:
        if not _OPTION.fullmatch(name):
            raise DataError(f"data.options: {name!r} is not the name of an option")
    options = dict(data.options)
    if kind == "database":
        if len(paths) > 1 or REMOTE.match(paths[0]):
            raise DataError("data.path: a database is read from one file here", where=what, key="data.path")
        return _table(con, databases.of_file(paths[0]), data.table, scratch, size)
    if data.table is not None:
        raise DataError(f"data.table: {what} is no database", where=what, key="data.table")
    for path in paths if unpack_factor is not None else ():
        if not REMOTE.match(path):
            packed.check(con, path, _escape(path), unpack_factor or 1)
    if kind == "xlsx":
        return _sheets(con, paths, options, what, scratch)
    if kind != "parquet":
        paths, encoded = _in_utf8(paths, options, scratch)
        if encoded:
            del options["encoding"]
    if kind in ("csv", "tsv"):
        sql, text = delimited.relation(con, paths, kind, options, data.id)
        return Relation(sql, what, tuple(paths), once=any(REMOTE.match(p) for p in paths), text=text)
    if kind in ("jsonl", "json"):
        return _json(con, paths, options, kind, what, scratch)
    named = "".join(f", {name} = {literal(value)}" for name, value in options.items())
    _check_types(con, paths, named)
    return Relation(
        f"SELECT * FROM read_parquet({literal([_escape(p) for p in paths])}{named})", what, tuple(paths), once=False
    )


_INTEGERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"}


def _check_types(con: duckdb.DuckDBPyConnection, paths: Sequence[str], named: str) -> None:
    """Several Parquet files are read with one type for each column: 2.5 would become 2 where the first file has integers.

    Raises:
        DataError: a column's types differ in more than the size of integers.
    """
    seen: dict[str, tuple[str, str]] = {}
    for path in paths if len(paths) > 1 else ():
        if REMOTE.match(path):
            continue
        with faults.explained("data", [path]):
            found = con.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(_escape(path))}{named})").fetchall()
        for name, kind, *_ in found:
            kind = "an integer" if kind in _INTEGERS else kind
            first, where = seen.setdefault(name, (kind, path))
            if kind != first:
                raise DataError(
                    f"the column {name!r} is {kind} here and {first} in {where}: one of them would change",
                    where=path,
                    next_command="read the files with data.sql, and cast the column in each: SELECT … UNION ALL BY NAME SELECT …",
                )


def _sheets(
    con: duckdb.DuckDBPyConnection, paths: Sequence[str], options: Mapping[str, Any], what: str, scratch: Path
) -> Relation:
    copies = []
    for path in paths:
        if REMOTE.match(path):
            raise DataError("a spreadsheet has to be a local file", where=path, key="data.path")
        copies.append(copied(scratch) / f"{path.lstrip('/')}.jsonl")
        _sheet(path, options, copies[-1])
    sql, keys, written = documents.relation(con, [_escape(str(copy)) for copy in copies], {}, lines=True)
    return Relation(sql, what, tuple(paths), keys=keys, written=written)


def _sheet(path: str, options: Mapping[str, Any], to: Path) -> None:
    """A sheet as JSON Lines. A spreadsheet is a zip file, which may unpack to a thousand times its size."""
    if Path(path).stat().st_size <= _SMALL_SHEET:
        return sheets.lines(path, options, to)
    try:
        confined.call(sheets.lines, path, options, to, memory_mb=_SHEET_MB, library="python_calamine")
    except confined.Exceeded as limit:
        raise DataError(
            f"the spreadsheet cannot be read: {limit.reason}",
            where=path,
            next_command="save the sheet as CSV; a file of any size can be read then",
        ) from None


def _in_utf8(paths: list[str], options: Mapping[str, Any], scratch: Path) -> tuple[list[str], bool]:
    """Files in another encoding as copies in UTF-8; and whether `options.encoding` has been seen to."""
    given = options.get("encoding")
    if given is not None and (not encodings.known(str(given)) or "compression" in options):
        return paths, False  # DuckDB may know it
    read = []
    for path in paths:
        if REMOTE.match(path) or path.endswith((".zst", ".zstd")):
            if given is not None:
                return paths, False
            read.append(path)
            continue
        encoding = str(given) if given is not None else encodings.marked(path)
        if encoding is not None and not encodings.is_utf8(encoding):
            copy = copied(scratch) / re.sub(r"\.(gz|bz2)$", "", path.lstrip("/"))
            encodings.utf8(path, encoding, copy)
            path = str(copy)
        read.append(path)
    return read, given is not None


def copied(scratch: Path) -> Path:
    """Where copies of files are, below it as they are in the root folder: errors name the file itself."""
    return scratch / "copies"


def _expand(con: duckdb.DuckDBPyConnection, path: str, root: Path) -> list[str]:
    if REMOTE.match(path) and not path.startswith("file://"):
        return [path]
    full = root / Path(path.removeprefix("file://")).expanduser()
    if full.is_file():
        return [str(full)]
    if full.is_dir():
        raise DataError(
            f"data.path: {path} is a folder", next_command=f"name its files, e.g. {path.rstrip('/')}/*.parquet"
        )
    if _GLOB.search(path):
        pattern = _pattern(full)
        found = [row[0] for row in con.execute("SELECT file FROM glob(?) ORDER BY file", [pattern]).fetchall()]
        if found:
            return found
        raise DataError(f"data.path: no file matches {path}", where=str(root), key="data.path")
    beside = sorted(p.name for p in full.parent.iterdir() if p.is_file()) if full.parent.is_dir() else []
    if not full.parent.is_dir():
        raise DataError(f"data.path: there is no folder {full.parent}", where=path, key="data.path")
    shown = f"; in that folder: {', '.join(beside[:10])}{', …' if len(beside) > 10 else ''}" if beside else ""
    raise DataError(
        f"data.path: there is no file {path}{faults.nearest(full.name, beside)}{shown}",
        where=str(full),
        key="data.path",
    )


def _pattern(path: Path) -> str:
    """A path with wildcards for DuckDB: folders that are there are meant as they are called, `[1]` and all."""
    there = Path(path.parts[0])
    rest = list(path.parts[1:])
    while len(rest) > 1 and (there / rest[0]).is_dir():
        there /= rest.pop(0)
    return str(Path(_escape(str(there)), *rest))


def _escape(path: str) -> str:
    """A path for a DuckDB reader, which would take `[1]` in a file's name for a pattern."""
    return path if REMOTE.match(path) else re.sub(r"([*?\[])", r"[\1]", path)


def _format_of(paths: Sequence[str], what: str) -> str:
    name = re.sub(r"[?#].*$", "", paths[0]) if REMOTE.match(paths[0]) else paths[0]
    suffixes = [s.lstrip(".").lower() for s in Path(name).suffixes]
    if suffixes and suffixes[-1] in ("gz", "zst", "zstd", "bz2"):
        suffixes.pop()
    kind = _FORMATS.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise DataError(
            f"data.path: the format of {what} cannot be told from its name",
            next_command="set data.format to csv, tsv, jsonl, json, parquet, xlsx or database",
        )
    return kind


def _json(
    con: duckdb.DuckDBPyConnection,
    paths: Sequence[str],
    options: Mapping[str, Any],
    kind: str,
    what: str,
    scratch: Path,
) -> Relation:
    files = [_escape(_without_bom(p, scratch)) for p in paths]
    sql, keys, written = documents.relation(con, files, options, lines=kind == "jsonl")
    once = any(REMOTE.match(p) for p in paths)
    return Relation(sql, what, tuple(paths), once=once, keys=keys, written=written)


def _without_bom(path: str, scratch: Path) -> str:
    """The same file without a byte order mark, which DuckDB's JSON reader refuses."""
    if REMOTE.match(path):
        return path
    with Path(path).open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            return path
        copy = copied(scratch) / path.lstrip("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("wb") as out:
            while block := file.read(1 << 20):
                out.write(block)
    return str(copy)


def _inline(con: duckdb.DuckDBPyConnection, data: DataConfig, scratch: Path) -> Relation:
    assert data.rows is not None
    if not data.rows:
        raise DataError("data.rows is empty: there is nothing to ask")
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "rows.jsonl"
    file.write_text("".join(_line(row) + "\n" for row in data.rows), encoding="utf-8")
    return _json(con, [str(file)], {}, "jsonl", "data.rows", scratch)


def _line(row: Mapping[str, Any]) -> str:
    """A row as JSON, with each number as a prompt shows it."""
    fields = [
        f"{json.dumps(key)}: {value_text(value) if isinstance(value, float) else json.dumps(value, default=value_text)}"
        for key, value in row.items()
    ]
    return "{" + ", ".join(fields) + "}"


def _records(con: duckdb.DuckDBPyConnection, run: str, run_lookup: Callable[[str], Path] | None) -> Relation:
    if run_lookup is None:
        raise DataError(f"data.run: {run} cannot be looked up here", next_command="batchling status")
    path = run_lookup(run)
    if not path.is_file():
        raise DataError(f"data.run: {run} has no records yet", where=str(path), next_command="batchling watch")
    file = f"read_parquet({literal(_escape(str(path)))})"
    one = con.execute(f"SELECT 1 FROM {file} WHERE run_id = ? LIMIT 1", [run]).fetchone()
    where = f" WHERE {identifier('run_id')} = {literal(run)}" if one else ""
    found = con.sql(f"SELECT * FROM {file}")
    kinds = dict(zip(found.columns, found.types, strict=True))
    if "written" not in kinds:  # nothing differs from what the types give back, or they are of an earlier version
        return Relation(f"SELECT * FROM {file}{where}", f"run {run}", (str(path),))
    texts = [name for name, _ in kinds["written"].children]
    differs = " OR ".join(f"written.{identifier(name)} IS NOT NULL" for name in texts)
    own = f"CASE WHEN {differs} THEN {own_json('data', dict(kinds['data'].children), texts, 'written')} END"
    sql = f"SELECT * EXCLUDE (written), struct_pack(data := {own}) AS {documents.WRITTEN} FROM {file}{where}"
    return Relation(sql, f"run {run}", (str(path),), written=True)
