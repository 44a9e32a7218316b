"""The snapshot: the chosen rows of a source, named, checked and written once."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import confined, duck, limits
from batchling.disk import make_folders, make_private
from batchling.duck import identifier, literal
from batchling.errors import DataError, DiskError
from batchling.scratch import scratch as temporary_folder
from batchling.source import delimited, faults
from batchling.source.bounds import Bounds, TooLarge, most_bytes, watched, wild
from batchling.source.digest import digest
from batchling.source.documents import WRITTEN
from batchling.source.relation import Relation, copied, needs_network, relation
from batchling.source.types import exact, shape, storable
from batchling.spec import DataConfig
from batchling.written import Shape, TwiceError, loads

if TYPE_CHECKING:
    import duckdb

_MEMORY_MB = (64, 128, 512)
"""MiB given to DuckDB; the next figure, and in the end `limits.memory_mb`, is tried only when a source does not fit."""

_READ_MB = (64, 128, 512, 4096)  # the same for reading a snapshot, which holds what was read once already
_LOOK_MB = 128  # MiB for looking at a source's columns
_BATCH_BYTES = 32 << 20  # a batch of `read` holds about this much at most

_KEYS = "batchling_keys"  # in the snapshot's metadata

_GROUP_BYTES = 16 << 20  # a row group of the snapshot, uncompressed; bounds what writing and reading hold


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the source.

    Attributes:
        name: what SQL calls it.
        type: its DuckDB type, for conditions and metrics.
        key: what the source calls it; "": the same. `name` and `Name` are one name to SQL.
    """

    name: str
    type: str
    key: str = ""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """What templates may call it."""
        return (self.key, self.name) if self.key else (self.name,)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a run, on disk.

    Attributes:
        path: a Parquet file with row (BIGINT, 0-based), row_id (VARCHAR) and data (STRUCT of all columns), in order;
            from JSON also written (STRUCT of VARCHAR): a value's own JSON, where data would print another text.
        sha256: content hash, as `digest` defines it; the file's name is its first 16 digits.
        rows: number of rows.
        columns: the fields of `data`.
        id: the column that names a row; None when it is the 0-based position in the source.
    """

    path: Path
    sha256: str
    rows: int
    columns: tuple[Column, ...]
    id: str | None


def snapshot(
    data: DataConfig,
    root: Path,
    folder: Path,
    *,
    run_lookup: Callable[[str], Path] | None = None,
    needed: Sequence[str] = (),
    bounds: Bounds | None = None,
) -> Snapshot:
    """Write the rows that `data` describes to `<folder>/<sha16>.parquet`.

    The order of things: the source's rows get their ids (a position counts before anything is left out), `where`
    keeps some, `sample` keeps those with the smallest md5 of seed and id, `limit` keeps the first. Ids must be
    unique and not empty among the rows that are left.

    Args:
        data: the validated section.
        root: the experiment's folder, where relative paths start.
        folder: where the file goes; made when it is not there.
        run_lookup: path of records.parquet for `data.run`.
        needed: columns that templates and metrics use; each must exist.
        bounds: what reading it may take; None: as much as there is, memory apart.

    Raises:
        DataError: what is wrong with the rows, and where.
        DiskError: the folder cannot be written.
        TooLarge: it goes beyond its bounds.
    """
    if not wild(data):
        return _snapshot(data, root, folder, run_lookup, needed, bounds)
    written: Snapshot = _confined(
        data, bounds, snapshot_of, data, root, folder, _found(data, run_lookup), needed, bounds
    )
    return written


def _found(data: DataConfig, run_lookup: Callable[[str], Path] | None) -> Path | None:
    """The records that `data.run` names."""
    return None if data.run is None or run_lookup is None else run_lookup(data.run)


def _confined(data: DataConfig, bounds: Bounds | None, function: Callable[..., Any], *args: Any) -> Any:
    """Reads a source of which the SQL is anybody's in a process that can be ended."""
    memory_mb = confined.MEMORY_MB if bounds is None else bounds.memory_mb
    try:
        return confined.call(function, *args, memory_mb=memory_mb)
    except confined.Exceeded as limit:
        hint = "; limits.memory_mb raises that" if limit.kind == "memory" else ""
        key = "data.sql" if data.sql is not None else "data.path" if data.where is None else "data.where"
        verb = "read" if key == "data.path" else "evaluated"
        raise DataError(f"{key} cannot be {verb}: {limit.reason}{hint}", key=key) from None


def snapshot_of(
    data: DataConfig,
    root: Path,
    folder: Path,
    records: Path | None,
    needed: Sequence[str],
    bounds: Bounds | None,
) -> Snapshot:
    """What `snapshot` does, in a confined process."""
    return _snapshot(data, root, folder, None if records is None else lambda _: records, needed, bounds)


def _snapshot(
    data: DataConfig,
    root: Path,
    folder: Path,
    run_lookup: Callable[[str], Path] | None,
    needed: Sequence[str],
    bounds: Bounds | None,
) -> Snapshot:
    try:
        make_folders(folder)
        with tempfile.TemporaryDirectory(prefix=".reading-", dir=folder) as scratch:
            try:
                most = confined.MEMORY_MB if bounds is None else bounds.memory_mb
                return _with_memory(
                    data, most, lambda mb: _write(data, root, folder, Path(scratch), run_lookup, needed, mb, bounds)
                )
            except DataError as error:
                if error.where is not None:
                    error.where = error.where.replace(str(copied(Path(scratch))), "")
                raise
    except OSError as error:
        raise DiskError(f"the rows cannot be written: {error.strerror or error}", where=str(folder)) from error


def columns_of(data: DataConfig, root: Path, *, run_lookup: Callable[[str], Path] | None = None) -> tuple[Column, ...]:
    """The columns of a source, without its rows. Columns of csv and tsv are VARCHAR here; `snapshot` knows better."""
    if wild(data):
        found: tuple[Column, ...] = _confined(data, None, columns_in, data, root, _found(data, run_lookup))
        return found
    return columns_in(data, root, run_lookup)


def columns_in(data: DataConfig, root: Path, records: Path | Callable[[str], Path] | None) -> tuple[Column, ...]:
    """What `columns_of` does, in whatever process."""
    run_lookup = (lambda _: records) if isinstance(records, Path) else records
    with (
        temporary_folder() as scratch,
        _opened(data, scratch, _LOOK_MB) as con,
    ):
        with faults.explained("data"):
            source = relation(con, data, root, scratch, run_lookup)
        with faults.explained(source.what, source.paths):
            found = _columns(con, source.sql, but=WRITTEN if source.written else None)
            return tuple(replace(c, key=source.keys.get(c.name, "")) for c in found)


def read(path: Path, columns: Sequence[str], *, batch: int = 8192) -> Iterator[list[tuple[Any, ...]]]:
    """Stream a snapshot in order: lists of (row, row_id, *values), at most `batch` long (shorter when rows are large).

    Values are what DuckDB gives Python (int, float, str, dict, list, None, Decimal, date ...), numbers in JSON with
    the digits that they were written with; times with a zone are text in UTC.

    Raises:
        DataError: a column the snapshot does not have.
    """
    import duckdb

    done = 0
    try:
        for memory_mb in _READ_MB:
            try:
                with duck.connect(memory_mb=memory_mb) as con:
                    for chunk in _stream(con, path, columns, batch, done):
                        done += len(chunk)
                        yield chunk
                return
            except duckdb.OutOfMemoryException:  # cells of megabytes: go on from here with more
                if memory_mb == _READ_MB[-1]:
                    raise
    except duckdb.Error as error:
        raise DataError(
            f"the snapshot of the rows cannot be read: {faults.shorten(str(error))}",
            where=str(path),
            next_command="run the same command again; it is rewritten from the source",
        ) from None


def _stream(
    con: duckdb.DuckDBPyConnection, path: Path, columns: Sequence[str], batch: int, first: int
) -> Iterator[list[tuple[Any, ...]]]:
    name = literal(str(path))
    file = f"read_parquet({name})"
    found = con.sql(f"SELECT unnest(data) FROM {file}")
    kinds = dict(zip(found.columns, found.types, strict=True))
    texts = _texts(con, f"SELECT * FROM {file}", "written")
    keys = {key: column for column, key in _renamed(con, name).items()}
    names = [keys.get(column, column) for column in columns]
    for column in names:
        if column not in kinds:
            raise faults.missing_column(column, list(kinds), what="data", where=str(path))
    sizes = con.execute(
        f"SELECT sum(bytes) / sum(rows) FROM (SELECT sum(total_uncompressed_size) AS bytes, "
        f"max(row_group_num_rows) AS rows FROM parquet_metadata({name}) GROUP BY row_group_id)"
    ).fetchone()
    average = int(sizes[0] or 1) if sizes else 1
    size = min(batch, max(1, _BATCH_BYTES // max(1, average)))
    wanted = [exact(f"data.{identifier(n)}", kinds[n]) for n in names]
    parsed = {i: None for i, n in enumerate(names, 2) if str(kinds[n]) == "JSON"}
    also = {
        i: (2 + len(names) + at, shape(kinds[n]))
        for at, (i, n) in enumerate((i, n) for i, n in enumerate(names, 2) if n in texts)
    }
    wanted += [f"written.{identifier(names[i - 2])}" for i in also]
    for i, n in enumerate(names, 2):
        if str(kinds[n]) == "TIMESTAMP_NS" and i not in also:  # Python's times have microseconds
            also[i] = (2 + len(wanted), None)
            time = f"data.{identifier(n)}"
            text = f"""'"' || replace({time}::VARCHAR, ' ', 'T') || '"'"""
            wanted.append(f"CASE WHEN epoch_ns({time}) % 1000 <> 0 THEN {text} END")
    rows = con.execute(f"SELECT {', '.join(['row', 'row_id', *wanted])} FROM {file} WHERE row >= {first}")
    while chunk := rows.fetchmany(size):
        yield [_exact(row, parsed, also, 2 + len(names)) for row in chunk] if parsed or also else chunk


def _exact(
    row: tuple[Any, ...], parsed: Iterable[int], also: Mapping[int, tuple[int, Shape]], width: int
) -> tuple[Any, ...]:
    """The row with its JSON read, and with the values that were written otherwise than their types print them."""
    values = list(row[:width])
    try:
        for i in parsed:
            if values[i] is not None:
                values[i] = loads(values[i])
        for i, (at, known) in also.items():
            if row[at] is not None:
                values[i] = loads(row[at], known)
    except limits.BeyondLimit as error:
        raise DataError(f"a value of this row is {error}", where=f"row {values[1]!r}"[:200]) from None
    except TwiceError as error:
        raise DataError(
            f"the key {str(error)[:100]!r} appears twice in one object: only one of its values could be sent",
            where=f"row {values[1]!r}"[:200],
        ) from None
    except ValueError as error:
        raise DataError(f"a value of this row is not JSON: {error}", where=f"row {values[1]!r}"[:200]) from None
    return tuple(values)


def _texts(con: duckdb.DuckDBPyConnection, sql: str, struct: str) -> list[str]:
    """The columns of which texts are kept, in the struct of that name."""
    found = con.sql(sql)
    return [name for of, t in zip(found.columns, found.types, strict=True) if of == struct for name, _ in t.children]


def _renamed(con: duckdb.DuckDBPyConnection, file: str) -> dict[str, str]:
    """Column to key, of the columns that the source calls otherwise."""
    row = con.execute(f"SELECT decode(value) FROM parquet_kv_metadata({file}) WHERE decode(key) = '{_KEYS}'").fetchone()
    return dict(limits.own(row[0])) if row else {}


@contextmanager
def _opened(data: DataConfig, scratch: Path, memory_mb: int) -> Iterator[duckdb.DuckDBPyConnection]:
    con = duck.connect(memory_mb=memory_mb, temp=scratch / "spill", network=needs_network(data))
    try:
        yield con
    finally:
        con.close()


def _with_memory(data: DataConfig, most: int, work: Callable[[int], Snapshot]) -> Snapshot:
    import duckdb

    # DuckDB's JSON reader and a person's query need more from the start; CSV and Parquet do not.
    json = data.format == "jsonl" or (data.format is None and re.search(r"json", str(data.path)) is not None)
    ladder = _MEMORY_MB[1:] if json or data.path is None else _MEMORY_MB
    for memory_mb in [*(mb for mb in ladder if mb < most), most]:
        try:
            return work(memory_mb)
        except duckdb.OutOfMemoryException as error:
            last = error
    raise DataError(
        f"the rows do not fit in {most:,} MiB: {faults.shorten(str(last).split('Possible solutions')[0])}",
        next_command="raise limits.memory_mb",
    )


def _columns(con: duckdb.DuckDBPyConnection, sql: str, *, but: str | None = None) -> tuple[Column, ...]:
    return tuple(Column(row[0], row[1]) for row in con.execute(f"DESCRIBE {sql}").fetchall() if row[0] != but)


def _write(
    data: DataConfig,
    root: Path,
    folder: Path,
    scratch: Path,
    run_lookup: Callable[[str], Path] | None,
    needed: Sequence[str],
    memory_mb: int,
    bounds: Bounds | None,
) -> Snapshot:
    most, key = most_bytes(folder, bounds.size) if bounds is not None else (sys.maxsize, None)
    with _opened(data, scratch, memory_mb) as con, watched(con, scratch, most, key):
        with faults.explained("data"):
            factor = None if bounds is None else bounds.unpack_factor
            size = None if bounds is None else bounds.size
            source = relation(con, data, root, scratch, run_lookup, unpack_factor=factor, size=size)
        with faults.explained(source.what, source.paths):
            columns = _columns(con, source.sql, but=WRITTEN if source.written else None)
            _check_columns(data, columns, needed, source)
            enough = sys.maxsize if bounds is None else bounds.rows
            filtered = data.where is not None or data.sample is not None
            sql = _settled(con, source, columns, data.id, scratch, None if filtered or bounds is None else enough)
            chosen = _chosen(con, data, sql, columns, source)
            if bounds is not None:
                chosen = f"SELECT * FROM ({chosen}) LIMIT {enough + 1}"
            temporary = scratch / "rows.parquet"
            rows = _copy(con, chosen, temporary, _group_size(con, sql), source)
            if rows > enough:
                raise TooLarge(f"has more than {enough:,} rows", "limits.plan_rows")
            if rows == 0:
                raise _nothing(con, data, sql, source)
            kept = f"read_parquet({literal(str(temporary))})"
            if data.id is not None:
                _check_ids(con, data, kept, chosen, source)
            described = _columns(con, f"SELECT unnest(data) FROM {kept}")
            final = tuple(replace(c, key=source.keys.get(c.name, "")) for c in described)
            sha = digest(con, kept, [(c.name, c.type) for c in final], _texts(con, f"SELECT * FROM {kept}", "written"))
    path = folder / f"{sha[:16]}.parquet"
    _publish(temporary, path)
    return Snapshot(path, sha, rows, final, data.id)


def _check_columns(data: DataConfig, columns: Sequence[Column], needed: Sequence[str], source: Relation) -> None:
    names = [c.name for c in columns]
    if data.id is not None and data.id not in names:
        raise faults.missing_column(data.id, names, what="data.id", where=source.what, key="data.id")
    for name in needed:
        if name not in names:
            raise faults.missing_column(name, names, what="the prompt or a metric", where=source.what)


def _settled(
    con: duckdb.DuckDBPyConnection,
    source: Relation,
    columns: Sequence[Column],
    id_column: str | None,
    scratch: Path,
    enough: int | None,
) -> str:
    """The source as a SELECT that can be read again cheaply, each column of a type that Parquet keeps.

    Args:
        enough: rows of which one more will not be used.
    """
    import duckdb

    found = con.sql(source.sql)
    kinds = dict(zip(found.columns, found.types, strict=True))
    numbers = delimited.numbers(con, source.sql, source.text) if source.text else {}

    def fitted(large: str) -> str:
        casts = {n: to for n, t in kinds.items() if (to := storable(t, large=large)) != str(t)} | numbers
        sql = source.sql
        if casts:
            replaced = ", ".join(f"{identifier(n)}::{kind} AS {identifier(n)}" for n, kind in casts.items())
            sql = f"SELECT * REPLACE ({replaced}) FROM ({sql})"
        if not source.ordered and id_column is not None:
            sql = f"SELECT * FROM ({sql}) ORDER BY {identifier(id_column)}"
        return sql

    sql = fitted("DECIMAL(38,0)")
    if source.once:
        staged = scratch / "source.parquet"

        def stage(sql: str) -> None:
            cut = sql if enough is None else f"SELECT * FROM ({sql}) LIMIT {enough + 1}"
            con.execute(f"COPY ({cut}) TO {literal(str(staged))} (FORMAT parquet, ROW_GROUP_SIZE 8192)")

        try:
            stage(sql)
        except duckdb.ConversionException:
            # An integer of 39 digits fits no decimal. Its text can be kept; the query's own errors come again.
            if fitted("VARCHAR") == sql:
                raise
            stage(fitted("VARCHAR"))
        sql = f"SELECT * FROM read_parquet({literal(str(staged))})"
    return sql


def _free(name: str, columns: Sequence[Column]) -> str:
    """A column name that the source does not use."""
    taken = {c.name.casefold() for c in columns}
    while name in taken:
        name += "_"
    return identifier(name)


def _chosen(
    con: duckdb.DuckDBPyConnection, data: DataConfig, sql: str, columns: Sequence[Column], source: Relation
) -> str:
    """A SELECT of position, id and data over the rows that `where`, `sample` and `limit` leave, in order."""
    import duckdb

    position = _free("position", columns)
    named = next((c for c in columns if c.name == data.id), None)
    name = f"{position}::VARCHAR" if named is None else _id_text(con, named, sql, source)
    also = f", {WRITTEN} AS written" if source.written else ""
    fields = ", ".join(f"{identifier(c.name)} := {identifier(c.name)}" for c in columns)
    numbered = f"SELECT *, row_number() OVER () - 1 AS {position} FROM ({sql})"
    where = ""
    if data.where is not None:
        where = f" WHERE (\n{data.where}\n)"
        try:
            con.execute(f"EXPLAIN SELECT 1 FROM ({sql}){where}")
        except duckdb.Error as error:
            names = ", ".join(c.name for c in columns)
            raise DataError(
                f"data.where cannot be used: {faults.shorten(str(error))} The columns are: {names}", where=source.what
            ) from None
    picked = (
        f"SELECT {position} AS position, {name} AS row_id, struct_pack({fields}) AS data{also} FROM ({numbered}){where}"
    )
    if data.sample is not None:
        picked = f"SELECT * FROM ({picked}){_sampled(con, data, picked)}"
    if data.limit is not None:
        picked = f"SELECT * FROM ({picked}) LIMIT {data.limit}"
    return picked


def _id_text(con: duckdb.DuckDBPyConnection, id_column: Column, sql: str, source: Relation) -> str:
    """The expression for a row's id: its text as it was written."""

    def read(json: str) -> str:
        return f"CASE WHEN starts_with({json}, '\"') THEN ({json}::JSON ->> '$') ELSE {json} END"

    plain = f"{identifier(id_column.name)}::VARCHAR"
    if id_column.type == "JSON":
        plain = read(plain)
    if not source.written or id_column.name not in _texts(con, sql, WRITTEN):
        return plain
    return f"coalesce({read(f'{WRITTEN}.{identifier(id_column.name)}')}, {plain})"


def _sampled(con: duckdb.DuckDBPyConnection, data: DataConfig, picked: str) -> str:
    """A filter for the rows with the smallest hashes. A filter keeps the order and needs no memory, a sort or join would."""
    draw = f"md5({literal(f'{data.seed}:')} || coalesce(row_id, ''))"
    last = con.execute(
        f"SELECT {draw} AS draw, position FROM ({picked}) ORDER BY draw, position LIMIT 1 OFFSET {(data.sample or 1) - 1}"
    ).fetchone()
    if last is None:  # fewer rows than asked for
        return ""
    return f" WHERE {draw} < {literal(last[0])} OR ({draw} = {literal(last[0])} AND position <= {last[1]})"


def _group_size(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    """Rows in a row group so that one holds about 16 MB, judged by the first rows; a power of two, 2,048 at least."""
    row = con.execute(f"SELECT avg(length(t::VARCHAR)) FROM (SELECT * FROM ({sql}) LIMIT 1000) t").fetchone()
    size = max(1.0, float(row[0] or 1)) if row else 1.0
    rows = 65536
    while rows > 2048 and rows * size > _GROUP_BYTES:
        rows //= 2
    return rows


def _copy(con: duckdb.DuckDBPyConnection, chosen: str, to: Path, group: int, source: Relation) -> int:
    also = ", written" if source.written else ""
    keys = f", KV_METADATA {{{_KEYS}: {literal(json.dumps(source.keys))}}}" if source.keys else ""
    row = con.execute(
        f"COPY (SELECT row_number() OVER () - 1 AS row, row_id, data{also} FROM ({chosen})) "
        f"TO {literal(str(to))} (FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE {group}{keys})"
    ).fetchone()
    return int(row[0]) if row else 0


def _nothing(con: duckdb.DuckDBPyConnection, data: DataConfig, sql: str, source: Relation) -> DataError:
    row = con.execute(f"SELECT count(*) FROM ({sql})").fetchone()
    total = int(row[0]) if row else 0
    if total == 0:
        return DataError("the source has no rows: there is nothing to ask", where=source.what)
    return DataError(f"data.where leaves none of the {total:,} rows: {data.where}", where=source.what)


def _check_ids(con: duckdb.DuckDBPyConnection, data: DataConfig, kept: str, chosen: str, source: Relation) -> None:
    bad = con.execute(f"SELECT count(*) FROM {kept} WHERE row_id IS NULL OR trim(row_id) = ''").fetchone()
    if bad and bad[0]:
        at = con.execute(
            f"SELECT position FROM ({chosen}) WHERE row_id IS NULL OR trim(row_id) = '' ORDER BY position LIMIT 5"
        ).fetchall()
        shown = ", ".join(str(p) for (p,) in at) + (", …" if bad[0] > len(at) else "")
        raise DataError(
            f"data.id: the column {data.id!r} is empty in {bad[0]:,} rows (0-based position {shown})",
            where=source.what,
            next_command=f"fill it, or leave them out with data.where: {data.id} IS NOT NULL",
        )
    twice = f"SELECT row_id FROM {kept} GROUP BY row_id HAVING count(*) > 1"
    count = con.execute(f"SELECT count(*) FROM ({twice})").fetchone()
    if count and count[0]:
        found = con.execute(
            f"SELECT row_id, list(position ORDER BY position)[:5], count(*) FROM ({chosen}) WHERE row_id IN ({twice}) "
            "GROUP BY row_id ORDER BY min(position) LIMIT 5"
        ).fetchall()
        lines = [
            f"{i!r} at {', '.join(map(str, at))}" + (f" and {n - len(at)} more" if n > len(at) else "")
            for i, at, n in found
        ]
        more = f"; and {count[0] - len(found):,} more ids" if count[0] > len(found) else ""
        raise DataError(
            f"data.id: the column {data.id!r} names {count[0]:,} ids more than once (0-based positions): {'; '.join(lines)}{more}",
            where=source.what,
            next_command="make the ids unique, or remove data.id to name rows by their position",
        )


def _publish(temporary: Path, path: Path) -> None:
    """Rename into place, so that a file with this name is always whole and on the disk."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    make_private(path)  # DuckDB made it
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
