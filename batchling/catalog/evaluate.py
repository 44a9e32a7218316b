"""Metric expressions, checked before anything is sent and evaluated over records.parquet.

Both happen in a DuckDB that can reach nothing: no network, no file but the records, settings locked.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import confined, duck, metrics, tame
from batchling.catalog.plan_files import PlanFiles, output_type
from batchling.catalog.rows import Metric
from batchling.duck import literal
from batchling.errors import ConfigError
from batchling.metrics import Kind
from batchling.plan_document import PlanRun

if TYPE_CHECKING:
    import duckdb

_LISTED = re.compile(r" *Candidate (?:bindings|functions): .*")  # the columns are listed below
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL")


CHECK_SECONDS = 5.0
"""How long a metric may take before anything is sent, where it is tried on rows without answers."""

_TRIED = 1000  # rows


def check(
    expressions: Mapping[str, str],
    output_type: str | None,
    data_type: str,
    rows: Path | None = None,
    *,
    memory_mb: int = confined.MEMORY_MB,
) -> dict[str, Kind]:
    """Checks every metric against the columns there will be, and says what kind each is.

    What could take for ever or build gigabytes is checked in a process of its own, and tried on some rows.

    Args:
        expressions: name → expression, as `metrics:` has them.
        output_type: DuckDB type of a valid output, as the schema gives it; None for plain text.
        data_type: DuckDB type of a row, e.g. `STRUCT(text VARCHAR, label VARCHAR)`.
        rows: the snapshot, a Parquet file with the column `data`.
        memory_mb: MiB that one of them may take.

    Raises:
        ConfigError: names the metric, what DuckDB says, and the columns there are; or the limit it went beyond.
    """
    if not expressions:
        return {}
    con = _empty(output_type, data_type)
    try:
        wild = [name for name, expression in expressions.items() if not is_tame(con, expression)]
        kinds = {
            name: _kind(con, name, expression, output_type, data_type)
            for name, expression in expressions.items()
            if name not in wild
        }
    finally:
        con.close()
    for name in wild:
        expression = expressions[name]
        try:
            kinds[name] = confined.call(
                _tried, name, expression, output_type, data_type, rows, seconds=CHECK_SECONDS, memory_mb=memory_mb
            )
        except confined.Exceeded as limit:
            raise _exceeded(name, expression, limit) from None
    return {name: kinds[name] for name in expressions}


def _exceeded(name: str, expression: str, limit: confined.Exceeded) -> ConfigError:
    hint = "limits.memory_mb raises that" if limit.kind == "memory" else "make the expression simpler"
    return ConfigError(
        f"metrics.{name} cannot be evaluated: {limit.reason} on {_TRIED:,} rows without answers; {hint}: {_cut(expression)}",
        key=f"metrics.{name}",
    )


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else line[:119] + "…"


def is_tame(con: duckdb.DuckDBPyConnection, expression: str) -> bool:
    """Whether an expression can be evaluated here: it yields no more than it reads (`batchling.tame`)."""
    import duckdb

    query = metrics.select(expression)
    if not tame.short(query):
        return False
    try:
        row = con.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
    except duckdb.Error:
        return True  # no expression at all: nothing of it is going to run
    tree = json.loads(row[0]) if row else {}
    if tree.get("error_type") == "parser":
        return True  # the same
    return tame.tame(tree, expression=True)


def _tried(name: str, expression: str, output_type: str | None, data_type: str, rows: Path | None) -> Kind:
    """An expression's kind, after it was evaluated over some rows as if they had no answers. Runs confined."""
    import duckdb

    con = _empty(output_type, data_type)
    try:
        kind = _kind(con, name, expression, output_type, data_type)
    finally:
        con.close()
    if rows is None:
        return kind
    con = duck.connect(memory_mb=256)
    try:
        _lock(con, rows)
        columns = ", ".join(f"NULL::{type_} AS {column}" for column, type_ in metrics.COLUMNS.items())
        source = (
            f"(SELECT NULL::{output_type or 'VARCHAR'} AS output, data, {columns}"
            f" FROM (SELECT data FROM read_parquet({literal(str(rows))}) LIMIT {_TRIED}))"
        )
        con.execute(f"SELECT (\n{expression}\n) AS value FROM {source} AS records").fetchall()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error:
        pass  # an answer that is not there cannot be cast, or divided by: the metric itself will say so
    finally:
        con.close()
    return kind


@lru_cache(maxsize=64)
def usable(output_type: str | None) -> str | None:
    """The type of a run's outputs, or JSON where this DuckDB refuses it: a struct with a field twice, DECIMAL(99,2)."""
    if output_type in (None, "JSON"):
        return output_type
    import duckdb

    try:
        with duck.borrowed() as con:
            con.execute(f"SELECT NULL::{output_type}")
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError):
        return "JSON"
    return output_type


def _empty(output_type: str | None, data_type: str) -> duckdb.DuckDBPyConnection:
    con = duck.connect()
    columns = ", ".join(f"{name} {kind}" for name, kind in metrics.COLUMNS.items())
    con.execute(f"CREATE TABLE records (output {output_type or 'VARCHAR'}, data {data_type}, {columns})")
    _lock(con)
    return con


def _lock(con: duckdb.DuckDBPyConnection, *allowed: Path) -> None:
    """Takes away everything but the files named. It cannot be undone in this connection."""
    con.execute("SET python_enable_replacements = false")
    if allowed:
        con.execute(f"SET allowed_paths = {literal([str(path) for path in allowed])}")
    con.execute("SET enable_external_access = false")
    con.execute("SET lock_configuration = true")


def _kind(con: duckdb.DuckDBPyConnection, name: str, expression: str, output_type: str | None, data_type: str) -> Kind:
    import duckdb

    def refuse(reason: str) -> ConfigError:
        message = reason.strip().split("\n\n")[0]  # after the blank line DuckDB draws the place in our query
        message = _LISTED.sub("", " ".join(message.split()).removeprefix("Binder Error: "))
        return ConfigError(
            f"metrics.{name}: {expression}\n{message}\ncolumns: output {output_type or 'VARCHAR (null: plain text)'};"
            f" data {data_type}; {', '.join(metrics.COLUMNS)}",
            key=f"metrics.{name}",
        )

    if not expression.strip():
        raise refuse("it is empty")
    query = metrics.select(expression)
    try:
        row = con.execute("SELECT json_serialize_sql(?)", [query]).fetchone()
        reason = metrics.fault(json.loads(row[0]) if row else {})
        if reason:
            raise refuse(reason)
        described = str(con.execute(f"DESCRIBE {query}").fetchall()[0][1])
    except duckdb.Error as error:
        raise refuse(str(error)) from None
    try:
        con.execute(f"EXPLAIN SELECT TRY((\n{expression}\n)) FROM records WHERE (\n{expression}\n) IS NULL")
        aggregate = False
    except duckdb.Error as error:
        if "aggregate" not in str(error):
            raise refuse(str(error)) from None
        aggregate = True
    if described != "BOOLEAN" and (not described.lstrip("U").startswith(_NUMBERS) or described.endswith("]")):
        raise refuse(f"its value is {described}; a metric is a boolean or a number")
    if aggregate:
        return Kind.AGGREGATE
    return Kind.SHARE if described == "BOOLEAN" else Kind.MEAN


def evaluate(
    files: PlanFiles,
    records: Path,
    *,
    data_type: str | None,
    seconds: float = 0.0,
    memory_mb: int = 0,
) -> list[Metric]:
    """Every metric of every run, over the records on disk.

    A metric that fails has no value and says why; it never raises. Runs that share an expression and
    their types are evaluated in one pass.

    Args:
        records: records.parquet.
        data_type: the type of its `data` column; `JSON` when the runs' rows differ in type.
        seconds, memory_mb: what one metric may take, where that is more than the plan says.
    """
    groups: dict[tuple[str, str | None, Path, int], list[tuple[str, PlanRun]]] = {}
    for run in files.runs:
        for name, expression in run.metrics.items():
            kind = usable(output_type(run))
            groups.setdefault((expression, kind, files.data(run), run.repeats), []).append((name, run))
    if not groups:
        return []
    types = _data_types({files.data(run) for run in files.runs}) if data_type == "JSON" else {}
    con = duck.connect(memory_mb=256)
    checks: dict[tuple[str | None, str], duckdb.DuckDBPyConnection] = {}
    try:
        _lock(con, records)
        found: list[Metric] = []
        for (expression, typed, data, repeats), members in groups.items():
            row_type = types.get(data, data_type or "JSON")
            kinds = (typed, row_type)
            if kinds not in checks:
                checks[kinds] = _empty(*kinds)
            rows = {run.run_id: run.rows for _, run in members}
            most = max(seconds, *(run.metric_seconds for _, run in members))
            if is_tame(checks[kinds], expression):
                one = _Evaluation(con, checks[kinds], records, expression, typed, row_type, repeats)
                by_run = one.of(rows, most)
            else:
                memory = max(memory_mb, *(run.memory_mb for _, run in members))
                by_run = _confined(records, expression, typed, row_type, repeats, rows, most, memory)
            found += [_named(by_run[run.run_id], name) for name, run in members]
        return found
    finally:
        for opened in (con, *checks.values()):
            opened.close()


def _confined(
    records: Path,
    expression: str,
    output_type: str | None,
    data_type: str,
    repeats: int,
    rows: Mapping[str, int],
    seconds: float,
    memory_mb: int,
) -> dict[str, Metric]:
    """Run → value of an expression that nobody vouches for."""
    try:
        found: dict[str, Metric] = confined.call(
            _alone, records, expression, output_type, data_type, repeats, rows, seconds=seconds, memory_mb=memory_mb
        )
        return found
    except confined.Exceeded as limit:
        return _without(rows, _why(limit.reason, limit.kind))


def _alone(
    records: Path, expression: str, output_type: str | None, data_type: str, repeats: int, rows: Mapping[str, int]
) -> dict[str, Metric]:
    """What `_confined` computes, in its process."""
    with duck.connect(memory_mb=256) as con, _empty(output_type, data_type) as empty:
        _lock(con, records)
        return _Evaluation(con, empty, records, expression, output_type, data_type, repeats).of(rows, None)


def _without(rows: Mapping[str, int], reason: str) -> dict[str, Metric]:
    return {run: Metric(run, "", None, None, None, 0, 0.0, reason) for run in rows}


def _why(reason: str, kind: str) -> str:
    keys = {"time": "limits.metric_seconds", "memory": "limits.memory_mb"}
    return f"{reason}; {keys[kind]} raises that" if kind in keys else reason


@dataclass(frozen=True, slots=True)
class RowValues:
    """A metric of one run, row by row: 0-based row, sum over its repeats, and how many repeats have a value."""

    rows: array[int] = field(default_factory=lambda: array("q"))
    totals: array[float] = field(default_factory=lambda: array("d"))
    counts: array[int] = field(default_factory=lambda: array("q"))


@dataclass(frozen=True, slots=True)
class MetricRows:
    """A metric and its values by run; none for an aggregate, which has no value for a single row."""

    name: str
    kind: Kind
    runs: Mapping[str, RowValues]


def row_values(files: PlanFiles, run_ids: Sequence[str]) -> list[MetricRows]:
    """Every metric of these runs of a plan, row by row, from records.parquet. A metric that fails is left out.

    In a share a row that is not ok counts as false; in a mean it has no value.
    """
    import duckdb

    records = files.records
    chosen = [run for run in files.runs if run.run_id in set(run_ids)]
    with duck.connect() as con:
        described = con.execute(f"DESCRIBE SELECT data FROM read_parquet({literal(str(records))})").fetchall()
    kind_of_data = str(described[0][1])
    same = kind_of_data.startswith("STRUCT")
    types = {} if same else _data_types({files.data(run) for run in chosen})
    found: list[MetricRows] = []
    con = duck.connect(memory_mb=256)
    try:
        _lock(con, records)
        groups: dict[tuple[str, str, str | None, Path], list[PlanRun]] = {}
        for run in chosen:
            for name, expression in run.metrics.items():
                groups.setdefault((name, expression, usable(output_type(run)), files.data(run)), []).append(run)
        for (name, expression, typed, data), members in groups.items():
            row_type = kind_of_data if same else types.get(data, "JSON")
            empty = _empty(typed, row_type)
            try:
                runs = [run.run_id for run in members]
                given = (records, expression, typed, row_type, members[0].repeats, runs)
                seconds = max(run.metric_seconds for run in members)
                if is_tame(empty, expression):
                    one = _Evaluation(con, empty, *given[:-1])
                    with duck.within(con, seconds):
                        kind = one.kind()
                        values = {} if kind is Kind.AGGREGATE else one.by_row(runs, kind)
                else:
                    memory_mb = max(run.memory_mb for run in members)
                    kind, values = confined.call(_rows_alone, *given, seconds=seconds, memory_mb=memory_mb)
                found.append(MetricRows(name, kind, values))
            except duckdb.InterruptException:
                raise  # Ctrl-C
            except (duckdb.Error, ConfigError, duck.TookTooLong, confined.Exceeded):
                continue
            finally:
                empty.close()
    finally:
        con.close()
    return found


def _rows_alone(
    records: Path, expression: str, output_type: str | None, data_type: str, repeats: int, runs: Sequence[str]
) -> tuple[Kind, dict[str, RowValues]]:
    """Kind and values by run of an expression that nobody vouches for. Runs confined."""
    with duck.connect(memory_mb=256) as con, _empty(output_type, data_type) as empty:
        _lock(con, records)
        one = _Evaluation(con, empty, records, expression, output_type, data_type, repeats)
        kind = one.kind()
        return kind, {} if kind is Kind.AGGREGATE else one.by_row(runs, kind)


def row_marks(files: PlanFiles, run_id: str) -> dict[int, str]:
    """Row → its id and a hash of its content: what tells that two plans have the same row."""
    with duck.connect(memory_mb=256) as con:
        found = con.execute(
            "SELECT row, row_id || chr(31) || md5(to_json(data)::VARCHAR) FROM"
            f" read_parquet({literal(str(files.records))}) WHERE run_id = ? AND repeat = 0",
            [run_id],
        ).fetchall()
    return dict(found)


def _data_types(paths: set[Path]) -> dict[Path, str]:
    with duck.connect() as con:
        return {
            path: str(con.execute(f"DESCRIBE SELECT data FROM read_parquet({literal(str(path))})").fetchall()[0][1])
            for path in paths
        }


def _named(metric: Metric, name: str) -> Metric:
    return Metric(metric.run_id, name, metric.value, metric.low, metric.high, metric.n, metric.coverage, metric.problem)


class _Evaluation:
    """One expression over the runs that share it."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        empty: duckdb.DuckDBPyConnection,
        records: Path,
        expression: str,
        output_type: str | None,
        data_type: str,
        repeats: int,
    ):
        self.con = con
        self.empty = empty
        self.records = records
        self.expression = expression
        self.output_type = output_type
        self.data_type = data_type
        self.repeats = repeats

    def of(self, rows: Mapping[str, int], seconds: float | None) -> dict[str, Metric]:
        """Run → its value.

        Args:
            rows: the runs, and how many rows each has.
            seconds: how long it may take; None: somebody else looks at the clock.
        """
        import duckdb

        try:
            kind = self.kind()
            with duck.within(self.con, seconds) if seconds is not None else nullcontext():
                return self._aggregate(rows) if kind is Kind.AGGREGATE else self._per_row(rows, kind)
        except duckdb.InterruptException:
            raise  # Ctrl-C
        except duckdb.OutOfMemoryException:
            return _without(rows, _why("it needs more memory than is available", "memory"))
        except duck.TookTooLong:
            return _without(rows, _why(f"it took more than {seconds:g} s", "time"))
        except (duckdb.Error, ConfigError) as error:
            return _without(rows, str(error).strip().split("\n\n")[0])

    def _source(self, runs: Sequence[str]) -> str:
        """The records as expressions see them: finished rows of these runs, `output` and `data` of their own types."""
        chosen = ", ".join(literal(run) for run in runs)
        output = f"TRY_CAST(output AS {self.output_type or 'VARCHAR'})"
        data = "data" if self.data_type == "JSON" else f"TRY_CAST(data AS {self.data_type})"
        return (
            f"(SELECT run_id, row, row_id, repeat, state, {output} AS output, {data} AS data, text, error, attempts,"
            f" cost_usd::DOUBLE AS cost_usd FROM read_parquet({literal(str(self.records))})"
            f" WHERE run_id IN ({chosen}) AND state <> 'pending')"
        )

    def _total(self, rows: int) -> int:
        return rows * self.repeats

    def _values(self, runs: Sequence[str], kind: Kind) -> str:
        """SQL for each record's value: run_id, row, whether the expression has one, and the value that counts."""
        value = f"CASE WHEN state = 'ok' THEN TRY((\n{self.expression}\n)) END"
        if kind is Kind.SHARE:
            counted = "coalesce(value, false)::INT::DOUBLE"
        else:
            counted = "CASE WHEN isfinite(value::DOUBLE) THEN value::DOUBLE END"
        # TRY in DuckDB 1.5 lets one case through: a cast straight off a field of a struct (`data.n::INT`). There the
        # whole metric fails and says so; a TRY_CAST in the expression helps.
        return (
            f"SELECT run_id, row, value IS NOT NULL AS has, {counted} AS value"
            f" FROM (SELECT run_id, row, {value} AS value FROM {self._source(runs)} AS records)"
        )

    def kind(self) -> Kind:
        """Raises: ConfigError, when the expression does not fit the records."""
        return _kind(self.empty, "value", self.expression, self.output_type, self.data_type)

    def by_row(self, runs: Sequence[str], kind: Kind) -> dict[str, RowValues]:
        """Run → its values."""
        found = {run: RowValues() for run in runs}
        result = self.con.execute(
            f"SELECT run_id, row, sum(value), count(value) FROM ({self._values(runs, kind)})"
            " WHERE value IS NOT NULL GROUP BY run_id, row"
        )
        while chunk := result.fetchmany(20_000):
            for run, row, total, n in chunk:
                values = found[run]
                values.rows.append(row)
                values.totals.append(total)
                values.counts.append(n)
        return found

    def _per_row(self, rows: Mapping[str, int], kind: Kind) -> dict[str, Metric]:
        values = self._values(list(rows), kind)
        first = self.con.execute(
            "SELECT run_id, count(value), favg(value), count(*) FILTER (has AND value IS NOT NULL),"
            f" coalesce(var_pop(value), 0) * count(value) FROM ({values}) GROUP BY run_id"
        ).fetchall()
        clusters = {run: (n, squares) for run, n, _, _, squares in first}
        if self.repeats > 1:
            means = ", ".join(f"({literal(run)}, {mean!r}::DOUBLE)" for run, n, mean, _, _ in first if n)
            if means:
                clusters |= {
                    run: (count, squares)
                    for run, count, squares in self.con.execute(
                        "SELECT run_id, count(*), sum((total - n * mean) ** 2) FROM ("
                        " SELECT run_id, row, sum(value) AS total, count(value) AS n"
                        f" FROM ({values}) WHERE value IS NOT NULL GROUP BY run_id, row)"
                        f" JOIN (VALUES {means}) AS m(run, mean) ON m.run = run_id GROUP BY run_id"
                    ).fetchall()
                }
        found = {}
        for run, n, mean, covered, _ in first:
            low, high = self._interval(kind, n, mean, *clusters[run])
            found[run] = Metric(run, "", mean if n else None, low, high, n, covered / max(1, self._total(rows[run])))
        return self._complete(found, rows)

    @staticmethod
    def _interval(
        kind: Kind, n: int, mean: float | None, clusters: int, squares: float
    ) -> tuple[float | None, float | None]:
        if not n or mean is None:
            return None, None
        if kind is Kind.SHARE:
            worth = metrics.effective_n(n, clusters, mean, squares)
            return metrics.wilson(mean * worth, worth)
        return metrics.mean_interval(mean, n, clusters, squares) or (None, None)

    def _aggregate(self, rows: Mapping[str, int]) -> dict[str, Metric]:
        found = {}
        by_size: dict[int, list[str]] = {}
        for run, size in rows.items():
            by_size.setdefault(size, []).append(run)
        for size, runs in by_size.items():
            groups, group = metrics.group_of(size)
            source = self._source(runs)
            values = self.con.execute(
                f"SELECT run_id, (\n{self.expression}\n)::DOUBLE, count(*), count(*) FILTER (state = 'ok')"
                f" FROM {source} AS records GROUP BY run_id"
            ).fetchall()
            replicates: dict[str, list[Any]] = {}
            if groups > 1:
                for run, _, value in self.con.execute(
                    f"SELECT run_id, jackknife, (\n{self.expression}\n)::DOUBLE FROM"
                    f" (SELECT *, {group} AS grp FROM {source})"
                    f" AS records JOIN range({groups}) AS left_out(jackknife) ON grp <> jackknife"
                    " GROUP BY run_id, jackknife"
                ).fetchall():
                    replicates.setdefault(run, []).append(value)
            for run, value, n, ok in values:
                low: float | None = None
                high: float | None = None
                others = replicates.get(run, [])
                if value is not None and math.isfinite(value) and None not in others and len(others) == groups:
                    low, high = metrics.jackknife_interval(value, others) or (None, None)
                finite = value if value is not None and math.isfinite(value) else None
                found[run] = Metric(run, "", finite, low, high, n, ok / max(1, self._total(size)))
        return self._complete(found, rows)

    @staticmethod
    def _complete(found: dict[str, Metric], rows: Mapping[str, int]) -> dict[str, Metric]:
        """Runs without a finished row have no value yet."""
        return {run: found.get(run) or Metric(run, "", None, None, None, 0, 0.0) for run in rows}
