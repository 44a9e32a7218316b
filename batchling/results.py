"""Results for programs: the records of a plan as a DuckDB relation, Arrow, pandas, dicts or the schema's own objects."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import limits
from batchling.errors import UsageError

if TYPE_CHECKING:
    import duckdb
    import pandas
    import pyarrow

    from batchling.api.outcome import MetricValue, Outcome, RunReport
    from batchling.plan_document import PlanDocument

_AT_ONCE = 2_000


class Results:
    """The records of a plan, or of one of its runs, in the order of runs, rows and repeats.

    Nothing is read before it is asked for. Iterating gives `records()`.

    Args:
        folder: the plan's folder.
        outcome: how the call that made it ended; None for results that were looked up.
        run_id: only this run.
    """

    def __init__(self, folder: Path, *, outcome: Outcome | None = None, run_id: str | None = None):
        self.folder = folder
        self.run_id = run_id
        self._outcome = outcome

    def __repr__(self) -> str:
        return f"<batchling results of {self.run_id or self.plan_id}>"

    @property
    def plan_id(self) -> str:
        return self.folder.name

    @property
    def outcome(self) -> Outcome:
        """How the call ended.

        Raises:
            UsageError: these results were looked up, no call made them.
        """
        if self._outcome is None:
            raise UsageError("these results were looked up: they have no outcome", next_command="batchling.status(…)")
        return self._outcome

    @property
    def exit_code(self) -> int:
        """What the command line would have returned: 0 every row ok, 3 some not, 75 not finished, …"""
        return self.outcome.exit_code

    @property
    def simulated(self) -> bool:
        """The embedded server made the answers up."""
        return self._document.simulated

    @property
    def pretend(self) -> bool:
        """Their cost is made up too: `provider.engine.pretend`."""
        return any(run.pretend for run in self._document.runs)

    @property
    def run_ids(self) -> tuple[str, ...]:
        """The runs, in the order of the sweep."""
        return tuple(run.run_id for run in self._document.runs if self.run_id in (None, run.run_id))

    @property
    def runs(self) -> tuple[RunReport, ...]:
        """Each run's rows by state, tokens, cost and metrics."""
        from batchling.api.execution import reports_of

        return tuple(report for report in reports_of(self.folder) if report.run_id in self.run_ids)

    def of(self, run_id: str) -> Results:
        """One run's results.

        Raises:
            UsageError: the plan has no such run.
        """
        if run_id not in self.run_ids:
            raise UsageError(f"plan {self.plan_id} has no run {run_id}; it has {', '.join(self.run_ids)}")
        return Results(self.folder, outcome=self._outcome, run_id=run_id)

    @property
    def metrics(self) -> dict[str, MetricValue]:
        """Metric → value with its 95 % interval.

        Raises:
            UsageError: there are several runs: `of(run_id).metrics`.
        """
        runs = self.runs
        if len(runs) > 1:
            raise UsageError(f"{len(runs)} runs have metrics of their own", next_command="results.of(run_id).metrics")
        return {m.name: m for run in runs for m in run.metrics}

    def relation(self) -> duckdb.DuckDBPyRelation:
        """A DuckDB relation over the records, `output` and `data` as STRUCTs. Use `.filter(…)`, `.aggregate(…)`, `.df()`.

        Raises:
            UsageError: there are no records yet, or they were removed.
        """
        return self._connect().sql("SELECT * FROM results")

    def arrow(self) -> pyarrow.Table:
        """An Arrow table.

        Raises:
            UsageError: pyarrow is not installed.
        """
        _need("pyarrow")
        return self.relation().to_arrow_table()

    def df(self) -> pandas.DataFrame:
        """A pandas DataFrame; `output` and `data` are dicts.

        Raises:
            UsageError: pandas is not installed.
        """
        _need("pandas")
        return self.relation().df()

    def records(self) -> Iterator[dict[str, Any]]:
        """Each record as a dict of plain values, read in pieces.

        Keys: run_id, provider, model, overrides, row_id, repeat, request_key, state, output, data, text, error,
        attempts, and cost_usd (Decimal, or None when unknown).
        """
        return self._read("FROM own")

    __iter__ = records

    def __len__(self) -> int:
        with self._connect() as con:
            (row,) = con.execute("SELECT count(*) FROM results").fetchall()
        return int(row[0])

    def head(self, n: int) -> list[dict[str, Any]]:
        """The first `n` records."""
        return list(self._read(f"FROM own LIMIT {int(n)}"))

    def objects(self) -> Iterator[Any]:
        """The answers of the rows that are ok: instances of the schema's pydantic class, else dicts; text without a schema.

        In the order of the rows; `records()` also has the rows that are not ok, and says which row each is.

        Raises:
            ChangedError: the class's file was changed since the plan was made.
            RefusedError: the plan is not known to be yours, and its class is code: `load(…, trust=True)`.
        """
        schemas = self._schemas
        for record in self._read("FROM own WHERE state = 'ok'"):
            schema = schemas[record["run_id"]]
            if schema is None:
                yield record["output"] if record["text"] is None else record["text"]
            elif schema.model is None or record["text"] is None:
                yield record["output"]
            else:
                yield schema.python(record["text"], record["output"])

    def _read(self, records: str) -> Iterator[dict[str, Any]]:
        from batchling.export import as_json

        # As JSON, because DuckDB's Python values need packages of their own for some types.
        with self._connect() as con, self._reading():
            result = con.execute(f"SELECT {as_json(con)}, cost_usd {records}")
            while chunk := result.fetchmany(_AT_ONCE):
                for text, cost in chunk:
                    record: dict[str, Any] = limits.loads_tolerantly(text, depth=limits.OWN_DEPTH)
                    record["cost_usd"] = cost if cost is None else Decimal(cost)
                    yield record

    def _connect(self) -> duckdb.DuckDBPyConnection:
        """A connection of its own for each reader: DuckDB's hold one unfinished result at a time."""
        from batchling import duck
        from batchling.catalog import plan_files
        from batchling.export import define_views

        files = plan_files.load(self.folder)
        if not plan_files.has_records(self.folder):
            why = "its rows were removed" if files.emptied else "nothing was collected yet"
            raise UsageError(
                f"{self.plan_id} has no records: {why}",
                where=str(self.folder),
                next_command="batchling status" if files.emptied else f"batchling watch {self.plan_id}",
            )
        con = duck.connect(memory_mb=1024)
        with self._reading():
            define_views(con, files, self.run_id)
        return con

    def _reading(self) -> AbstractContextManager[None]:
        from batchling.catalog import plan_files

        return plan_files.reading_records(self.folder)

    @cached_property
    def _document(self) -> PlanDocument:
        from batchling.disk import RealDisk
        from batchling.runner.folder import PlanFolder

        return PlanFolder(self.folder).load(RealDisk())

    @cached_property
    def _schemas(self) -> dict[str, Any]:
        from batchling.api.kits import recorded
        from batchling.api.ownership import classes_of, is_own, not_taken
        from batchling.api.workspace import Workspace
        from batchling.runner.folder import PlanFolder

        workspace, folder = Workspace(self.folder.parent), PlanFolder(self.folder)
        own = is_own(workspace, folder)
        made = recorded(workspace.disk, folder, own=own)
        if not own and (code := classes_of(made.document)):
            # Dicts in their place would be another type than the caller was promised.
            raise not_taken(folder, f"runs {', '.join(code)}", f"batchling.load({self.plan_id!r}, trust=True)")
        return {run.run_id: made.schemas[run.schema_index] for run in made.document.runs}


def _need(package: str) -> None:
    if find_spec(package) is None:
        raise UsageError(
            f"this needs {package}, which is not installed",
            next_command="pip install '.[frames]' in a clone of the repository",
        )
