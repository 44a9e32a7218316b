"""One plan's rows in the catalog, made again from the plan's files in one transaction."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from batchling.catalog import access, evaluate, plan_files, summaries
from batchling.catalog.access import SCHEMA
from batchling.catalog.plan_files import PlanFiles
from batchling.catalog.rows import EventRow, Metric, Refreshed, RunSummary, ShardRow
from batchling.catalog.staging import MEMORY_MB, Staging, staged
from batchling.catalog.tables import MONEY, TABLES
from batchling.disk import make_private
from batchling.duck import literal
from batchling.errors import CatalogDamagedError, DiskError

if TYPE_CHECKING:
    import duckdb

REMOVED = "removed"
"""State of a plan whose rows were removed and whose answers were kept."""

_LIGHT = ("plans", "batches", "events")
"""Tables that come from the journal: written by every refresh."""


def refresh(
    runs: Path,
    plan_dir: Path,
    *,
    state: str,
    finished_at: float | None = None,
    shards: Sequence[ShardRow] = (),
    events: Sequence[EventRow] = (),
    actual_usd: Decimal | float | None = None,
    journal_bytes: int | None = None,
    force: bool = False,
    metric_seconds: float = 0.0,
    metric_mb: int = 0,
) -> Refreshed:
    """Deletes this plan's rows and inserts them from its files; writes its records.parquet. Idempotent.

    When no file has changed since the last time, only `plans`, `batches` and `events` are written. A
    catalog that is missing, damaged or of another version is replaced by a new one (the damaged file is
    moved aside); the other plans are then `stale`.

    Args:
        runs: the runs folder.
        plan_dir: the plan's folder in it.
        state: the plan's state as its ledger has it.
        finished_at: Unix seconds.
        shards: every attempt of every shard.
        events: the journal.
        actual_usd: USD spent; None when unknown.
        journal_bytes: the size of the journal when `state` and `events` were read; None: its size now.
        force: rebuild although no file has changed.
        metric_seconds, metric_mb: what one metric may take, where that is more than the plan says.

    Raises:
        CatalogError: a file of the plan is missing, or its records do not add up to its rows.
        CatalogBusyError: another process kept the catalog for too long.
        DiskError: the disk is full or read-only.
    """
    files = plan_files.load(plan_dir)
    moment = files.journal_bytes() if journal_bytes is None else journal_bytes
    content = files.content()
    plan = _plan(files, state=state, finished_at=finished_at, actual_usd=actual_usd, journal_bytes=moment)
    plan["content"] = content
    if not force and _unchanged(runs, files, content):
        refreshed = _light(runs, files, plan, shards, events)
        if refreshed is not None:
            return refreshed
    import duckdb

    for memory_mb in MEMORY_MB:
        try:
            return _full(runs, files, plan, shards, events, memory_mb, metric_seconds, metric_mb)
        except duckdb.OutOfMemoryException:
            if memory_mb == MEMORY_MB[-1]:
                raise
    raise AssertionError("unreachable")


def _unchanged(runs: Path, files: PlanFiles, content: str) -> bool:
    if not files.records.exists() and not files.emptied:
        return False
    with suppress(CatalogDamagedError), access.reading(runs) as con:
        found = con.execute("SELECT content FROM plans WHERE plan_id = ?", [files.plan_id]).fetchone()
        return found is not None and found[0] == content
    return False


def _light(
    runs: Path, files: PlanFiles, plan: dict[str, Any], shards: Sequence[ShardRow], events: Sequence[EventRow]
) -> Refreshed | None:
    try:
        with access.writing(runs) as con:
            found = con.execute(f"SELECT content FROM {SCHEMA}.plans WHERE plan_id = ?", [files.plan_id]).fetchone()
            if found is None or found[0] != plan["content"]:
                return None  # another process rewrote it in between
            _delete(con, files.plan_id, _LIGHT)
            _insert_light(con, files, plan, shards, events)
            refreshed = _read_back(con, files, rebuilt=False)
    except CatalogDamagedError:
        return None
    summaries.write(files, plan, refreshed)
    return refreshed


def _full(
    runs: Path,
    files: PlanFiles,
    plan: dict[str, Any],
    shards: Sequence[ShardRow],
    events: Sequence[EventRow],
    memory_mb: int,
    metric_seconds: float,
    metric_mb: int,
) -> Refreshed:
    with staged(files, memory_mb) as staging:
        metrics: list[Metric] = []
        if not files.emptied:
            part = files.records.with_name("records.parquet.part")
            staging.write_records(part)
            _publish(part, files.records)
            metrics = evaluate.evaluate(
                files, files.records, data_type=staging.data_type, seconds=metric_seconds, memory_mb=metric_mb
            )
        for again in (False, True):
            try:
                with access.writing(runs, staging.con) as con:
                    _delete(con, files.plan_id, tuple(TABLES))
                    _insert_light(con, files, plan, shards, events)
                    _insert(con, files, staging, shards, metrics)
                    refreshed = _read_back(con, files, rebuilt=True, warnings=tuple(staging.warnings))
                break
            except CatalogDamagedError:
                if again:
                    raise
                access.set_aside(runs)
    summaries.write(files, plan, refreshed)
    return refreshed


def _publish(part: Path, path: Path) -> None:
    """Renames into place, durably."""
    try:
        with part.open("rb") as file:
            os.fsync(file.fileno())
        make_private(part)  # DuckDB made it
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise DiskError(f"records.parquet cannot be written: {error.strerror}", where=str(path)) from error


def _plan(
    files: PlanFiles,
    *,
    state: str,
    finished_at: float | None,
    actual_usd: Decimal | float | None,
    journal_bytes: int,
) -> dict[str, Any]:
    """The row of `plans`, with times in Unix seconds and money as text."""
    document = files.document
    return {
        "plan_id": files.plan_id,
        "experiment": files.experiment,
        "state": REMOVED if files.emptied else state,
        "created_at": float(document.created_at),
        "finished_at": finished_at,
        "runs": len(files.runs),
        "requests": document.requests,
        "cached": document.cached,
        "estimated_usd": money(document.estimated_usd),
        "estimated_usd_max": money(document.estimated_usd_max),
        "actual_usd": money(actual_usd),
        "command": document.command,
        "git_commit": document.git.get("commit"),
        "git_dirty": document.git.get("dirty"),
        "python": document.python,
        "packages": document.packages,
        "duplicates": document.duplicates,
        "simulated": document.simulated,
        "identity": document.identity,
        "journal_bytes": journal_bytes,
    }


def money(value: Any) -> str | None:
    """USD as text with nine decimals; None for what is no amount."""
    if value is None:
        return None
    try:
        return str(Decimal(str(value)).quantize(Decimal("1e-9")))
    except InvalidOperation:
        return None


def insert(con: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Inserts dicts by column name: times as Unix seconds, money as text, JSON columns as values."""
    if not rows:
        return
    columns = TABLES[table]
    kinds = {name: _carried(kind) for name, kind in columns.items()}
    packed = [
        {
            name: orjson.dumps(row[name]).decode()
            if columns[name] == "JSON" and row.get(name) is not None
            else row.get(name)
            for name in columns
        }
        for row in rows
    ]
    values = ", ".join(_restored(name, kind) for name, kind in columns.items())
    con.execute(
        f"INSERT INTO {SCHEMA}.{table} SELECT {values} FROM (SELECT unnest(from_json(?::JSON, ?)) AS r)",
        [orjson.dumps(packed).decode(), orjson.dumps([kinds]).decode()],
    )


def _carried(kind: str) -> str:
    """The type in which a column's value travels through JSON."""
    return {"TIMESTAMPTZ": "DOUBLE", "JSON": "VARCHAR", MONEY: "VARCHAR"}.get(kind, kind)


def _restored(name: str, kind: str) -> str:
    value = f'r."{name}"'
    return f"to_timestamp({value})" if kind == "TIMESTAMPTZ" else f"{value}::{kind}"


def _delete(con: duckdb.DuckDBPyConnection, plan_id: str, tables: Sequence[str]) -> None:
    for table in tables:
        con.execute(f"DELETE FROM {SCHEMA}.{table} WHERE plan_id = ?", [plan_id])


def _insert_light(
    con: duckdb.DuckDBPyConnection,
    files: PlanFiles,
    plan: Mapping[str, Any],
    shards: Sequence[ShardRow],
    events: Sequence[EventRow],
) -> None:
    insert(con, "plans", [plan])
    insert(con, "batches", [_batch(files, shard) for shard in shards])
    insert(
        con,
        "events",
        [
            {"plan_id": files.plan_id, "seq": e.seq, "ts": e.ts, "kind": e.kind, "shard": e.shard, "detail": e.detail}
            for e in events
        ],
    )


def _batch(files: PlanFiles, row: ShardRow) -> dict[str, Any]:
    lane = files.lanes[row.lane]
    return {
        "plan_id": files.plan_id,
        "shard": row.shard,
        "attempt": row.attempt,
        "provider": lane.provider,
        "batch_id": row.batch_id,
        "input_file_id": row.input_file_id,
        "state": row.state,
        "reason": row.reason,
        "requests": row.requests,
        "bytes": row.bytes,
        "input_tokens": row.input_tokens,
        "submitted_at": row.submitted_at,
        "ended_at": row.ended_at,
        "model": lane.model,
        "row_attempt": row.row_attempt,
    }


def _insert(
    con: duckdb.DuckDBPyConnection,
    files: PlanFiles,
    staging: Staging,
    shards: Sequence[ShardRow],
    metrics: Sequence[Metric],
) -> None:
    """Copies the staged tables; `con` is the staging's connection with the catalog attached."""
    plan = literal(files.plan_id)
    lane, joined = _lanes(con, files)
    con.execute(
        f"""
        INSERT INTO {SCHEMA}.responses
        SELECT r.key, r.attempt, {plan}, r.shard, r.source, r.status_code, r.finish_reason, r.error_code,
          r.error_message, r.input_tokens, r.cached_tokens, r.output_tokens, r.reasoning_tokens, r.cost,
          r.row_attempt, r.outcome, r.state, {lane["provider"]}, {lane["base_url"]}, {lane["endpoint"]},
          {lane["model"]}, r.file, r."offset", r.length
        FROM response AS r {joined}
        """
    )
    replaced = sorted({shard.shard for shard in shards if shard.replaced})
    kept = f"WHERE r.shard NOT IN ({', '.join(map(str, replaced))})" if replaced else ""
    con.execute(
        f"""
        INSERT INTO {SCHEMA}.requests
        SELECT r.key, r.parent_key, {plan}, {lane["provider"]}, {lane["endpoint"]}, {lane["model"]},
          r.input_tokens, r.bytes, r.shard, {lane["base_url"]}
        FROM request AS r {joined} {kept}
        """
    )
    if files.emptied:
        return
    con.execute(
        f"INSERT INTO {SCHEMA}.records SELECT run::VARCHAR, row_id, repeat, request_key, state, output,"
        f" {staging.own_data()}, text, error, attempts, cost_usd,"
        f" {plan}, row, reasoning FROM record"  # in the order of its lines, as it stands
    )
    _insert_run_requests(con, plan, shards)
    _insert_runs(con, files, staging)
    insert(
        con,
        "metrics",
        [
            {
                "run_id": m.run_id,
                "name": m.name,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "n": m.n,
                "coverage": m.coverage,
                "plan_id": files.plan_id,
                "problem": m.problem,
            }
            for m in metrics
        ],
    )


def _lanes(con: duckdb.DuckDBPyConnection, files: PlanFiles) -> tuple[dict[str, str], str]:
    """SQL for a row's provider, base_url, endpoint and model, and the joins it needs after `AS r`."""
    names = ("provider", "base_url", "endpoint", "model")
    if len(files.lanes) == 1:
        return {name: literal(getattr(files.lanes[0], name)) for name in names}, ""
    lanes = ", ".join(
        "(" + ", ".join([str(number), *(literal(getattr(lane, name)) for name in names)]) + ")"
        for number, lane in enumerate(files.lanes)
    )
    con.execute(f"CREATE OR REPLACE TEMP TABLE lane AS SELECT * FROM (VALUES {lanes}) AS t(number, {', '.join(names)})")
    numbers = ", ".join(f"({literal(run.run_id)}::run, {run.lane})" for run in files.runs)
    # Equal keys are in one lane, because the key is made of what makes a lane.
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE lane_of AS SELECT line.key, any_value(t.lane) AS lane FROM line"
        f" JOIN (VALUES {numbers}) AS t(run, lane) ON t.run = line.run GROUP BY line.key"
    )
    joins = (
        "LEFT JOIN root ON root.key = r.key"
        " LEFT JOIN lane_of ON lane_of.key = coalesce(root.root, r.key)"
        " LEFT JOIN lane ON lane.number = lane_of.lane"
    )
    return {name: f"lane.{name}" for name in names}, joins


def _insert_run_requests(con: duckdb.DuckDBPyConnection, plan: str, shards: Sequence[ShardRow]) -> None:
    """The first asking of every row, and each further one: the same key in a later shard, or a repair's."""
    con.execute(
        f"INSERT INTO {SCHEMA}.run_requests SELECT run::VARCHAR, row_id, repeat, 1, root_key, {plan} FROM record"
    )
    later = {shard.shard: shard.row_attempt for shard in shards if shard.row_attempt > 1 and not shard.replaced}
    listed = ", ".join(f"({shard}, {attempt})" for shard, attempt in later.items()) or "(-1, 1)"
    con.execute(
        f"""
        INSERT INTO {SCHEMA}.run_requests
        WITH later(shard, row_attempt) AS (VALUES {listed}),
        again AS (
          SELECT DISTINCT coalesce(root.root, q.key) AS root_key, q.key,
            greatest(coalesce(later.row_attempt, 1), coalesce(root.depth, 0) + 1)::INTEGER AS attempt
          FROM (
            SELECT key, shard FROM request WHERE parent_key IS NOT NULL OR shard IN (SELECT shard FROM later)
            UNION ALL SELECT key, 0 FROM response WHERE parent_key IS NOT NULL AND source = 'cache'
          ) AS q
          LEFT JOIN root ON root.key = q.key LEFT JOIN later ON later.shard = q.shard
        )
        SELECT record.run::VARCHAR, record.row_id, record.repeat, again.attempt, again.key, {plan}
        FROM record JOIN again ON again.root_key = record.root_key
        """
    )


def _insert_runs(con: duckdb.DuckDBPyConnection, files: PlanFiles, staging: Staging) -> None:
    states = staging.states()
    sums = {
        row[0]: row[1:]
        for row in con.execute(
            "SELECT run::VARCHAR, sum(input_tokens)::BIGINT, sum(output_tokens)::BIGINT, sum(cost)::VARCHAR,"
            " sum(paid)::VARCHAR FROM (SELECT DISTINCT run, base FROM line WHERE base IS NOT NULL) AS line"
            " JOIN chosen ON chosen.d = line.base GROUP BY run"
        ).fetchall()
    }
    rows = []
    for run in files.runs:
        ok = states[run.run_id].get("ok", 0)
        input_tokens, output_tokens, cost, paid = sums.get(run.run_id, (None, None, None, None))
        rows.append(
            {
                "run_id": run.run_id,
                "plan_id": files.plan_id,
                "experiment": files.experiment,
                "overrides": run.override_text,
                "provider": run.provider,
                "model": run.model,
                "endpoint": run.endpoint,
                "config": run.config,
                "config_sha256": run.config_sha256,
                "prompt_sha256": run.prompt_sha256,
                "data_sha256": run.data_sha256,
                "rows": run.rows,
                "ok": ok,
                "not_ok": sum(states[run.run_id].values()) - ok - states[run.run_id].get("pending", 0),
                "input_tokens": input_tokens,
                "output_tokens": output_tokens,
                "cost_usd": money(cost),
                "paid_usd": money(paid),
                "repeats": run.repeats,
            }
        )
    insert(con, "runs", rows)


def _read_back(
    con: duckdb.DuckDBPyConnection, files: PlanFiles, *, rebuilt: bool, warnings: tuple[str, ...] = ()
) -> Refreshed:
    states: dict[str, dict[str, int]] = {}
    for run_id, state, n in con.execute(
        f"SELECT run_id, state, count(*) FROM {SCHEMA}.records WHERE plan_id = ? GROUP BY ALL", [files.plan_id]
    ).fetchall():
        states.setdefault(run_id, {})[state] = n
    runs = {
        row[0]: row
        for row in con.execute(
            "SELECT run_id, provider, model, endpoint, overrides, rows, input_tokens, output_tokens, cost_usd"
            f" FROM {SCHEMA}.runs WHERE plan_id = ?",
            [files.plan_id],
        ).fetchall()
    }
    found = con.execute(
        f"SELECT run_id, name, value, low, high, n, coverage, problem FROM {SCHEMA}.metrics WHERE plan_id = ?",
        [files.plan_id],
    ).fetchall()
    return Refreshed(
        records=files.records if files.records.exists() else None,
        runs=tuple(
            RunSummary(
                run_id=row[0],
                provider=row[1],
                model=row[2],
                endpoint=row[3],
                overrides=row[4],
                rows=row[5],
                states=states.get(row[0], {}),
                input_tokens=row[6],
                output_tokens=row[7],
                cost_usd=row[8],
            )
            for row in (runs[run.run_id] for run in files.runs if run.run_id in runs)
        ),
        metrics=tuple(Metric(*row) for row in found),
        rebuilt=rebuilt,
        warnings=warnings,
    )


def forget(runs: Path, plan_id: str, *, keep_answers: bool = False) -> None:
    """Removes a plan's rows. With `keep_answers` its requests and responses stay, and the plan as `removed`.

    What must stay on disk then is `space.removable`'s business.
    """
    kept = ("plans", "requests", "responses") if keep_answers else ()
    with access.writing(runs) as con:
        _delete(con, plan_id, [table for table in TABLES if table not in kept])
        if keep_answers:
            con.execute(f"UPDATE {SCHEMA}.plans SET state = ?, content = NULL WHERE plan_id = ?", [REMOVED, plan_id])
