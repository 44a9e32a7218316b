"""`batchling query`: the owner's own SQL over the catalog."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from batchling import confined, duck, tame
from batchling.catalog import access
from batchling.errors import UsageError

if TYPE_CHECKING:
    import duckdb

_AT_ONCE = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ALLOWED = {"SELECT", "EXPLAIN", "COPY", "PRAGMA", "RELATION"}


class QueryResult:
    """A query's rows, read once.

    At most 10,000 rows are held in memory and the catalog is closed at once; with more, it stays open for
    reading until the last row was taken or `close` was called, so use it as a context manager.

    Attributes:
        columns: names, as DuckDB gives them.
        types: DuckDB types.
    """

    def __init__(
        self,
        columns: Sequence[str],
        types: Sequence[str],
        fetch: Callable[[], list[tuple[Any, ...]]],
        convert: Sequence[int],
        stack: ExitStack,
    ):
        self.columns = tuple(columns)
        self.types = tuple(types)
        self._convert = tuple(convert)
        self._stack = stack
        self._more: Callable[[], list[tuple[Any, ...]]] | None = fetch
        self._chunk = self._fetch()
        if len(self._chunk) < _AT_ONCE:
            self.close()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        for chunk in self.chunks():
            yield from chunk

    def chunks(self) -> Iterator[list[tuple[Any, ...]]]:
        """The rows, 10,000 at a time."""
        while self._chunk:
            yield [self._converted(row) for row in self._chunk] if self._convert else self._chunk
            self._chunk = self._fetch()
        self.close()

    def _fetch(self) -> list[tuple[Any, ...]]:
        if self._more is None or not self.columns:
            return []
        with _explained():
            return self._more()

    def _converted(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for i in self._convert:
            if values[i] is not None:
                values[i] = _EPOCH + timedelta(microseconds=values[i])
        return tuple(values)

    def close(self) -> None:
        """Lets the catalog go; rows not yet fetched are lost."""
        self._more = None
        self._stack.close()

    def __enter__(self) -> QueryResult:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def query(runs: Path, sql: str) -> QueryResult:
    """Runs one statement over the catalog, opened read-only.

    The SQL is its owner's: it may read other files and, with COPY … TO, write some; the catalog itself can't be changed.
    What could build gigabytes runs in a process of its own, which holds no more than 768 MiB, or than what the
    variable BATCHLING_QUERY_MB says.

    Raises:
        UsageError: DuckDB's message, more than one statement, or more memory than it may take.
        CatalogDamagedError: there is no usable catalog; `ensure` makes one.
    """
    given = os.environ.get("BATCHLING_QUERY_MB", "")
    memory_mb = int(given) if given.isdecimal() and int(given) > 0 else confined.MEMORY_MB
    if not _is_tame(sql):
        return _confined(runs, sql, memory_mb)
    return _query(runs, sql, memory_mb)


def _is_tame(sql: str) -> bool:
    """Whether a statement is known to yield no more than a small multiple of what is there."""
    import duckdb

    if not tame.short(sql):
        return False
    with duck.connect() as con:
        try:
            row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
        except duckdb.Error:
            return False
    tree = json.loads(row[0]) if row else {}
    return not tree.get("error") and tame.tame(tree)


def _confined(runs: Path, sql: str, memory_mb: int) -> QueryResult:
    """The same in a process that can be ended; its rows come through a pipe."""
    with ExitStack() as stack:
        answers = stack.enter_context(closing(confined.stream(_told, runs, sql, memory_mb, memory_mb=memory_mb)))

        def fetch() -> list[tuple[Any, ...]]:
            try:
                rows: list[tuple[Any, ...]] = next(answers, [])
                return rows
            except confined.Exceeded as limit:
                hint = "set BATCHLING_QUERY_MB to more" if limit.kind == "memory" else None
                raise UsageError(f"the statement was ended: {limit.reason}", next_command=hint) from None

        head: Any = fetch()
        columns, types = head
        return QueryResult(columns, types, fetch, (), stack.pop_all())


def _told(runs: Path, sql: str, memory_mb: int) -> Iterator[Any]:
    """Columns and types, then the rows in chunks. Runs confined."""
    with _query(runs, sql, memory_mb * 2 // 3) as result:
        yield result.columns, result.types
        yield from result.chunks()


def _query(runs: Path, sql: str, memory_mb: int) -> QueryResult:
    with ExitStack() as stack:
        con = stack.enter_context(access.reading(runs, memory_mb=memory_mb))
        con.execute("SET python_enable_replacements = false")
        with _explained():
            statement = _one_statement(con, sql)
            types = _types(con, statement)
            zoned = [i for i, kind in enumerate(types) if "TIME ZONE" in kind]
            convert = [i for i in zoned if types[i] == "TIMESTAMP WITH TIME ZONE"]
            if zoned:
                columns = [column[0] for column in con.execute(f"FROM (\n{statement}\n) LIMIT 0").description or ()]
                con.execute(_without_zones(statement, types, zoned, convert))
            else:
                con.execute(statement)
                columns = [column[0] for column in con.description or ()]
                types = [str(column[1]) for column in con.description or ()]
            return QueryResult(columns, types, partial(con.fetchmany, _AT_ONCE), convert, stack.pop_all())


def _one_statement(con: duckdb.DuckDBPyConnection, sql: str) -> str:
    statements = con.extract_statements(sql)
    if len(statements) != 1:
        raise UsageError(f"give one SQL statement, not {len(statements)}")
    kind = str(statements[0].type).rsplit(".", 1)[-1]
    if kind not in _ALLOWED:
        raise UsageError(f"{kind} is not possible: the catalog is read-only", next_command='batchling query "SELECT …"')
    return str(statements[0].query).strip().rstrip(";")


def _types(con: duckdb.DuckDBPyConnection, statement: str) -> list[str]:
    """Types of a query's columns, found without running it; none for statements that cannot be described."""
    import duckdb

    try:
        return [str(row[1]) for row in con.execute(f"DESCRIBE {statement}").fetchall()]
    except duckdb.Error:
        return []  # SHOW, EXPLAIN …, or an error, which running it will tell


def _without_zones(statement: str, types: Sequence[str], zoned: Sequence[int], convert: Sequence[int]) -> str:
    """Times as microseconds (nested ones as text), because DuckDB needs pytz to hand them to Python."""
    names = [f"c{i}" for i in range(len(types))]
    values = [
        f"epoch_us({name})" if i in convert else f"{name}::VARCHAR" if i in zoned else name
        for i, name in enumerate(names)
    ]
    return f"SELECT {', '.join(values)} FROM (\n{statement}\n) AS t({', '.join(names)})"


@contextmanager
def _explained() -> Iterator[None]:
    """Turns an error in somebody's SQL into a UsageError with DuckDB's message; damage to the file passes."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise UsageError(
            "the statement was ended: it needs more memory than it may take",
            next_command="set BATCHLING_QUERY_MB to more",
        ) from None
    except duckdb.InterruptException:
        raise  # Ctrl-C
    except duckdb.Error as error:
        if "Corrupt database file" in str(error):
            raise
        raise UsageError(str(error), next_command='batchling query "SHOW TABLES"') from None


def as_json(value: Any) -> Any:
    """A fetched value as a JSON value: times as ISO 8601, decimals as numbers, other things as text."""
    from decimal import Decimal

    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(v) for v in value]
    if isinstance(value, float) and value not in (float("inf"), float("-inf")) and value == value:
        return value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return None
    return str(value)


def parsed(value: str | None) -> Any:
    """The value of a JSON column, which DuckDB hands over as text."""
    return None if value is None else json.loads(value)
