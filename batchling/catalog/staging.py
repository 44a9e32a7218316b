"""A plan's rows, put together outside the catalog: from the plan's files to tables ready to be copied.

Everything is SQL over files in a private in-memory DuckDB that spills to the plan's folder, so memory
stays bounded whatever the plan's size. Wide columns (answers, rows of the source) are never joined as
a whole: narrow tables say which answer belongs to which row, and then slices of the manifest of a few
dozen megabytes each are joined with the parts of the wide tables that they touch.

Temporary tables, in the order in which they are made::

    response   one row for each decoded line; d numbers them
    request    one row for each line of the request files
    root       repair key → key of the row's first request, and how many steps lie between
    chosen     root key → the answer that counts (d), attempts and cost along the chain
    verdict    the answers once more, as the schemas of further runs see them that share requests; mostly empty
    line       one row for each line of the manifests, with its d (what the record shows) and base (what it cost); in the
               order of the records
    record     the finished records
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import duck
from batchling.catalog import salvage
from batchling.catalog.plan_files import SPILL, PlanFiles, listed, output_type, type_known
from batchling.catalog.tables import MONEY
from batchling.disk import make_folders
from batchling.duck import identifier, literal, own_json
from batchling.errors import CatalogError, DiskFullError
from batchling.models import ANSWERED
from batchling.plan_document import PlanRun

if TYPE_CHECKING:
    import duckdb

DECODED = {
    "key": "VARCHAR",
    "shard": "INTEGER",
    "attempt": "INTEGER",
    "row_attempt": "INTEGER",
    "source": "VARCHAR",
    "outcome": "VARCHAR",
    "state": "VARCHAR",
    "status_code": "INTEGER",
    "finish_reason": "VARCHAR",
    "error_code": "VARCHAR",
    "error_message": "VARCHAR",
    "input_tokens": "BIGINT",
    "cached_tokens": "BIGINT",
    "output_tokens": "BIGINT",
    "reasoning_tokens": "BIGINT",
    "cost_usd": "VARCHAR",
    "output": "JSON",
    "text": "VARCHAR",
    "error": "VARCHAR",
    "file": "VARCHAR",
    "offset": "BIGINT",
    "length": "BIGINT",
    "parent_key": "VARCHAR",
    "schema": "INTEGER",
    "reasoning": "VARCHAR",
}
"""Fields of a line of responses/*.decoded.jsonl that the catalog uses."""

MEMORY_MB = (320, 1024, 4096)
"""MiB for DuckDB; the next figure is tried only when one is not enough (answers of many megabytes)."""

_SLICE_BYTES = 48 << 20  # of wide columns joined at once
_SLICE_LINES = (50, 60_000)
_GROUP_BYTES = 16 << 20  # a row group of records.parquet
_WIDE_GROUP_BYTES = 4 << 20  # the same where records are so wide that 2,048 of them would not fit into it
_GROUPS_A_FILE = 200
_OBJECT_BYTES = 16 << 20  # DuckDB's own limit for one JSON line; a longer one goes through `salvage`


class Staging:
    """The tables of one plan in the making. `warnings` gathers what could not be kept as it was."""

    def __init__(self, con: duckdb.DuckDBPyConnection, files: PlanFiles, spill: Path):
        self.con = con
        self.files = files
        self.spill = spill
        self.warnings: list[str] = []
        self.data_type: str | None = None
        self.texts: tuple[str, ...] = ()  # fields of `data` whose own JSON is kept beside it
        self.output_type: str | None = None

    def build(self) -> None:
        """Makes every table.

        Raises:
            CatalogError: a file is missing or the records do not add up to the rows.
        """
        self._responses()
        self._requests()
        self._roots()
        self._lines()
        self._records()
        self._check()

    def write_records(self, path: Path) -> None:
        """The records as Parquet, with typed `output` and `data`, in the order of runs, rows and repeats."""
        kinds = {output_type(run) for run in self.files.runs}
        only = kinds.pop() if len(kinds) == 1 else "JSON"
        self.output_type = only
        if strange := [run.run_id for run in self.files.runs if not type_known(run.output_type)]:
            self.warnings.append(
                "records.parquet has its outputs as JSON, because they cannot be typed: "
                f"plan.json has an output_type that this version does not know (run {strange[0]})"
            )
        if only is None:
            return self._copy_records("NULL::VARCHAR", path)
        import duckdb

        try:
            self._copy_records("output" if only == "JSON" else f"TRY_CAST(output AS {only})", path)
        except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as error:
            if isinstance(error, duckdb.OutOfMemoryException) or only == "JSON":
                raise
            reason = str(error).splitlines()[0]
            self.warnings.append(f"records.parquet has its outputs as JSON, because they cannot be typed: {reason}")
            self.output_type = "JSON"
            self._copy_records("output", path)
        return None

    def _copy_records(self, output: str, path: Path) -> None:
        rows = max(1, self._one("SELECT count(*) FROM record"))
        width = max(1, self._wide_bytes() // rows)
        group = _clamp(_GROUP_BYTES // width, 2048, 122_880)
        columns = (
            f"run::VARCHAR AS run_id, row_id, repeat, request_key, state, {output} AS output, data, text, error,"
            f" attempts, cost_usd, reasoning, row{', written' if self.texts else ''}"
        )
        at_once = _WIDE_GROUP_BYTES // width
        if at_once >= 2048:  # what DuckDB handles at once
            self._copy(f"SELECT {columns} FROM record", path, group)
        else:
            self._copy_wide(columns, path, max(16, at_once))

    def _copy_wide(self, columns: str, path: Path, at_once: int) -> None:
        """Wide records go into small row groups: whoever reads them holds one at a time, and DuckDB never reads less.

        DuckDB writes what it is given at once, 2,048 rows, so it is given less: a SELECT for each group, and, because a
        statement must have an end, files of some hundred groups that are then put together.
        """
        first, last = self.con.execute("SELECT min(line), max(line) FROM record").fetchall()[0]
        starts = range(first or 0, (last or 0) + 1, at_once)
        folder = self.spill / "groups"
        make_folders(folder)
        parts = []
        for place in range(0, len(starts), _GROUPS_A_FILE):
            selects = [
                f"SELECT {columns} FROM record WHERE line BETWEEN {start} AND {start + at_once - 1}"
                for start in starts[place : place + _GROUPS_A_FILE]
            ]
            parts.append(folder / f"{place:09d}.parquet")
            self._copy(" UNION ALL ".join(selects), parts[-1], at_once)
        if len(parts) == 1:
            shutil.move(parts[0], path)
        else:
            self._copy(f"SELECT * FROM read_parquet({listed(parts)})", path, at_once)

    def _copy(self, select: str, path: Path, group: int) -> None:
        self.con.execute(f"COPY ({select}) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE {group})")

    def states(self) -> dict[str, dict[str, int]]:
        """Run → state → number of records."""
        counted: dict[str, dict[str, int]] = {run.run_id: {} for run in self.files.runs}
        for run, state, n in self.con.execute(
            "SELECT run::VARCHAR, state, count(*) FROM record GROUP BY ALL"
        ).fetchall():
            counted[run][state] = n
        return counted

    def _one(self, sql: str) -> int:
        row = self.con.execute(sql).fetchone()
        return int(row[0]) if row and row[0] is not None else 0

    def _responses(self) -> None:
        self._load("response", self.files.decoded())
        self._load("verdict", self.files.judged_again())

    def _load(self, table: str, paths: list[Path]) -> None:
        if not paths:
            columns = ", ".join(f"{identifier(name)} {kind}" for name, kind in DECODED.items())
            self.con.execute(f"CREATE TEMP TABLE {table} (d BIGINT, cost {MONEY}, {columns})")
            return
        import duckdb

        try:
            self._read_decoded(table, paths, _OBJECT_BYTES)
        except duckdb.OutOfMemoryException:
            raise
        except duckdb.Error as error:
            # Something that DuckDB cannot read: a lone surrogate, a line over its limit, a torn line.
            mended = salvage.mend(paths, self.spill / f"mended-{table}")
            self.warnings += mended.warnings
            try:
                self._read_decoded(table, mended.paths, max(_OBJECT_BYTES, mended.longest + 1024))
            except duckdb.OutOfMemoryException:
                raise
            except duckdb.Error:
                raise CatalogError(
                    f"decoded responses cannot be read: {str(error).splitlines()[0]}",
                    where=str(self.files.path / "responses"),
                    next_command="batchling doctor --rebuild",
                ) from error

    def _read_decoded(self, table: str, paths: list[Path], object_bytes: int) -> None:
        columns = literal(DECODED)
        before = self._one("SELECT max(d) FROM response") if table != "response" else 0
        self.con.execute(
            f"CREATE OR REPLACE TEMP TABLE {table} AS"
            f" SELECT {before} + row_number() OVER () AS d, TRY_CAST(cost_usd AS {MONEY}) AS cost, *"
            f" REPLACE (nullif(parent_key, '') AS parent_key)"
            f" FROM read_json({listed(paths)}, format = 'newline_delimited', columns = {columns},"
            f" maximum_object_size = {object_bytes})"
        )

    def _requests(self) -> None:
        paths = self.files.indexes()
        if not paths:
            self.con.execute(
                "CREATE TEMP TABLE request"
                " (key VARCHAR, parent_key VARCHAR, input_tokens BIGINT, bytes BIGINT, shard INTEGER)"
            )
            return
        known = {"key": "VARCHAR", "parent_key": "VARCHAR", "input_tokens": "BIGINT", "bytes": "BIGINT"}
        with paths[0].open() as file:
            header = file.readline().strip().split(",")
        columns = literal({name: known.get(name, "VARCHAR") for name in header})
        self.con.execute(
            "CREATE TEMP TABLE request AS SELECT key, nullif(parent_key, '') AS parent_key, input_tokens, bytes,"
            " split_part(parse_filename(filename), '.', 1)::INTEGER AS shard"
            f" FROM read_csv({listed(paths)}, header = true, auto_detect = false, delim = ',', quote = '\"',"
            f" filename = true, columns = {columns})"
        )

    def _roots(self) -> None:
        self.con.execute(
            "CREATE TEMP TABLE link AS"
            " SELECT key, parent_key FROM response WHERE parent_key IS NOT NULL"
            " UNION SELECT key, parent_key FROM request WHERE parent_key IS NOT NULL"
        )
        self.con.execute(
            "CREATE TEMP TABLE root AS WITH RECURSIVE walk(key, root, depth) AS ("
            " SELECT key, parent_key, 1 FROM link"
            " UNION ALL SELECT walk.key, link.parent_key, depth + 1 FROM walk JOIN link ON link.key = walk.root"
            " WHERE depth < 1000)"
            " SELECT key, arg_max(root, depth) AS root, max(depth)::INTEGER AS depth FROM walk GROUP BY key"
        )

    def _lines(self) -> None:
        runs = self._ordered_runs()
        for run in runs:
            if not self.files.manifest(run).exists():
                raise CatalogError(f"run {run.run_id} has no manifest", where=str(self.files.manifest(run)))
        names = ", ".join(literal(run.run_id) for run in runs)
        self.con.execute(f"CREATE TYPE run AS ENUM ({names})")
        columns = literal({"row": "BIGINT", "repeat": "INTEGER", "key": "VARCHAR"})
        self.con.execute(
            "CREATE TEMP TABLE manifest AS SELECT row_number() OVER () AS line,"
            " parse_filename(filename, true)::run AS run, row, repeat, key"
            f" FROM read_csv({listed([self.files.manifest(run) for run in runs])}, header = true, auto_detect = false, delim = ',',"
            f" quote = '\"', filename = true, columns = {columns})"
        )
        # Nearly always every key has one answer, and then the answers are the chosen ones as they stand.
        simple = not self._one("SELECT count(*) FROM root")
        if simple:
            self.con.execute(
                "CREATE TEMP VIEW chosen AS SELECT key, d, row_attempt AS attempts, cost,"
                " CASE WHEN source = 'batch' THEN cost ELSE 0 END AS paid, input_tokens, output_tokens FROM response"
            )
            simple = self._join_lines() == self._one("SELECT count(*) FROM manifest")
            if not simple:
                self.con.execute("DROP VIEW chosen")
        if not simple:
            self._choose()
            self._join_lines()
        self.con.execute("DROP TABLE manifest")

    def _choose(self) -> None:
        """The answer that counts: answered (by a line of its own) before not answered, then the later shard and attempt."""
        answered = ", ".join(literal(str(outcome)) for outcome in sorted(ANSWERED))
        self.con.execute(
            f"""
            CREATE TEMP TABLE chosen AS
            SELECT coalesce(root.root, response.key) AS key,
              arg_max(d, (coalesce(outcome IN ({answered}) AND file IS NOT NULL, false)::BIGINT << 61) + (shard::BIGINT << 40)
                         + (least(coalesce(attempt, 0), 255)::BIGINT << 32) + d) AS d,
              max(row_attempt) AS attempts,
              sum(cost)::{MONEY} AS cost,
              sum(CASE WHEN source = 'batch' THEN cost ELSE 0 END)::{MONEY} AS paid,
              sum(input_tokens)::BIGINT AS input_tokens,
              sum(output_tokens)::BIGINT AS output_tokens
            FROM response LEFT JOIN root ON root.key = response.key
            GROUP BY 1
            """
        )

    def _join_lines(self) -> int:
        self.con.execute(
            "CREATE OR REPLACE TEMP TABLE line AS SELECT manifest.*, chosen.d, chosen.d AS base FROM manifest"
            " LEFT JOIN (SELECT key, d FROM chosen) AS chosen ON chosen.key = manifest.key"
        )
        if self._one("SELECT count(*) FROM verdict"):
            self._join_verdicts()
        return self._one("SELECT count(*) FROM line")

    def _join_verdicts(self) -> None:
        """A run whose schema is not the one that its request was first asked with shows what its own schema says.

        Of a request and its repairs the first answer that fits, as if it had been asked alone; else the latest.
        """
        runs = ", ".join(f"({literal(run.run_id)}::run, {run.schema_index})" for run in self.files.runs)
        self.con.execute(
            f"""
            UPDATE line SET d = own.d FROM (
              SELECT key, schema, arg_max(d, CASE WHEN fits THEN (1::BIGINT << 61) - place ELSE place END) AS d FROM (
                SELECT coalesce(root.root, v.key) AS key, v.schema, v.d, v.state = 'ok' AS fits,
                  (v.shard::BIGINT << 40) + (least(coalesce(v.attempt, 0), 255)::BIGINT << 32) + v.d AS place
                FROM verdict AS v LEFT JOIN root ON root.key = v.key) GROUP BY ALL) AS own,
              (VALUES {runs}) AS t(run, schema)
            WHERE t.run = line.run AND own.key = line.key AND own.schema = t.schema
            """
        )

    def _ordered_runs(self) -> list[PlanRun]:
        """Runs that read the same rows stand together, so that a slice of lines needs one data file."""
        first: dict[str, int] = {}
        for number, run in enumerate(self.files.runs):
            first.setdefault(run.data, number)
        return sorted(self.files.runs, key=lambda run: first[run.data])

    def _records(self) -> None:
        described: dict[Path, tuple[Any, list[str]]] = {}
        if self.files.emptied:
            self.data_type = "JSON"
        else:
            described = {
                path: self._described(path) for path in sorted({self.files.data(run) for run in self.files.runs})
            }
            kinds = {str(kind) for kind, _ in described.values()}
            self.data_type = kinds.pop() if len(kinds) == 1 else "JSON"
            if self.data_type != "JSON":
                self.texts = tuple(dict.fromkeys(name for _, texts in described.values() for name in texts))
        written = f", written STRUCT({', '.join(f'{identifier(name)} VARCHAR' for name in self.texts)})"
        self.con.execute(
            f"CREATE TEMP TABLE record (line BIGINT, run run, row BIGINT, row_id VARCHAR, repeat INTEGER,"
            f" root_key VARCHAR, request_key VARCHAR, state VARCHAR, output JSON, data {self.data_type},"
            f" text VARCHAR, error VARCHAR, attempts INTEGER, cost_usd {MONEY}, reasoning VARCHAR"
            f"{written if self.texts else ''})"
        )
        if self.files.emptied:
            return
        # Slices ascend, so the table is in the order of its lines; DuckDB keeps it, and nobody has to sort it again.
        for path, first, last, rows, answers in self._slices():
            kind, texts = described[path]
            data, wanted, also = "p.data", "row, row_id, data", ""
            if texts:
                wanted += ", written"
            if self.data_type == "JSON":
                data = f"({own_json('p.data', dict(kind.children), texts, 'p.written')})::JSON"
            elif self.texts:
                kept = (f"p.written.{identifier(n)}" if n in texts else "NULL::VARCHAR" for n in self.texts)
                packed = ", ".join(f"{identifier(n)} := {text}" for n, text in zip(self.texts, kept, strict=True))
                also = f", struct_pack({packed})"
            self.con.execute(
                f"""
                INSERT INTO record
                SELECT line.line, line.run, line.row, p.row_id, line.repeat, line.key, coalesce(r.key, line.key),
                  coalesce(r.state, 'pending'), r.output, {data}, r.text, r.error,
                  coalesce(c.attempts, 0), c.cost, r.reasoning{also}
                FROM (SELECT * FROM line WHERE line BETWEEN {first} AND {last}) AS line
                LEFT JOIN (SELECT d, key, state, output, text, error, reasoning FROM response
                           WHERE d BETWEEN {answers[0]} AND {answers[1]}
                           UNION ALL SELECT d, key, state, output, text, error, reasoning FROM verdict
                           WHERE d BETWEEN {answers[0]} AND {answers[1]}) AS r ON r.d = line.d
                LEFT JOIN (SELECT d, attempts, cost FROM chosen
                           WHERE d BETWEEN {answers[0]} AND {answers[1]}) AS c ON c.d = line.base
                JOIN (SELECT {wanted} FROM read_parquet({listed([path])})
                      WHERE row BETWEEN {rows[0]} AND {rows[1]}) AS p ON p.row = line.row
                ORDER BY line.line
                """
            )

    def _described(self, path: Path) -> tuple[Any, list[str]]:
        """Of a snapshot: the type of its rows, and the fields whose own JSON is kept."""
        found = self.con.sql(f"SELECT * FROM read_parquet({listed([path])})")
        kinds = dict(zip(found.columns, found.types, strict=True))
        texts = [name for name, _ in kinds["written"].children] if "written" in kinds else []
        return kinds["data"], texts

    def own_data(self) -> str:
        """SQL for a record's row as JSON, with each row's own keys and digits."""
        if self.data_type == "JSON":
            return "data"
        kind = self.con.sql("SELECT data FROM record").types[0]
        return f"({own_json('data', dict(kind.children), self.texts, 'written')})::JSON"

    def _slices(self) -> Iterator[tuple[Path, int, int, tuple[int, int], tuple[int, int]]]:
        """Data file, first and last line, and the ranges of rows and answers that the lines between touch."""
        total = max(1, self._one("SELECT count(*) FROM line"))
        size = _clamp(_SLICE_BYTES * total // max(1, self._wide_bytes()), *_SLICE_LINES)
        paths = {run.run_id: self.files.data(run) for run in self.files.runs}
        spans: dict[Path, tuple[int, int]] = {}
        for run, low, high in self.con.execute(
            "SELECT run::VARCHAR, min(line), max(line) FROM line GROUP BY run ORDER BY 2"
        ).fetchall():
            path = paths[run]
            spans[path] = (min(low, spans[path][0]), high) if path in spans else (low, high)
        for path, (low, high) in spans.items():
            for first in range(low, high + 1, size):
                last = min(high, first + size - 1)
                row = self.con.execute(
                    "SELECT min(row), max(row), coalesce(min(least(d, base)), 0), coalesce(max(greatest(d, base)), 0)"
                    f" FROM line WHERE line BETWEEN {first} AND {last}"
                ).fetchone()
                assert row is not None
                yield path, first, last, (row[0], row[1]), (row[2], row[3])

    def _wide_bytes(self) -> int:
        """About how many bytes the records hold: answers as JSON, and each run's rows."""
        decoded = sum(path.stat().st_size for path in self.files.decoded())
        rows = {run.data: self.files.data(run) for run in self.files.runs}
        sizes = {name: path.stat().st_size * 4 for name, path in rows.items() if path.exists()}
        return decoded + sum(sizes.get(run.data, 0) * run.repeats for run in self.files.runs)

    def _check(self) -> None:
        """Conservation: for each run, rows x repeats = the sum over the states of its records."""
        if self.files.emptied:
            return
        states = self.states()
        for run in self.files.runs:
            expected, found = run.records, sum(states[run.run_id].values())
            if expected != found:
                raise CatalogError(
                    f"run {run.run_id} has {run.rows:,} rows x {run.repeats} repeats, but its files give"
                    f" {found:,} records: the plan's folder is damaged",
                    where=str(self.files.manifest(run)),
                )


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


@contextmanager
def staged(files: PlanFiles, memory_mb: int) -> Iterator[Staging]:
    """A `Staging`, built. What it spills is removed at the end, and what killed processes left behind before.

    Raises:
        CatalogError: see `Staging.build`.
        DiskFullError: no space to spill to.
    """
    import duckdb

    _sweep(files.path)
    spill = files.path / f"{SPILL}{os.getpid()}-{os.urandom(3).hex()}"
    make_folders(spill)  # here and not by DuckDB: what it spills is as private as the plan
    # One thread: rows are kept in order, which a second thread can do little for and costs an eighth more processor time.
    con = duck.connect(memory_mb=memory_mb, temp=spill, threads=1)
    try:
        staging = Staging(con, files, spill)
        try:
            staging.build()
        except duckdb.IOException as error:
            if "No space left" in str(error):
                raise DiskFullError("the disk is full", where=str(files.path)) from error
            raise CatalogError(
                f"a file of the plan cannot be read: {str(error).splitlines()[0]}", where=str(files.path)
            ) from error
        yield staging
    finally:
        con.close()
        shutil.rmtree(spill, ignore_errors=True)


def _sweep(plan_dir: Path) -> None:
    for folder in plan_dir.glob(SPILL + "*"):
        pid = folder.name[len(SPILL) :].split("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            with suppress(OSError):
                folder.rmdir()
