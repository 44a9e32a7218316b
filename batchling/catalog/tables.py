"""The catalog's tables. Their columns are a contract with other people's SQL: add, don't rename.

Every table that belongs to a plan has `plan_id`, because a plan's rows are written and removed
together. There are no keys and no indexes: DuckDB checks uniqueness with an index that it must load
whole, and one that was damaged made databases unreadable.
"""

from __future__ import annotations

VERSION = 2
"""Raised when a table changes; a catalog of another version is set aside and rebuilt."""

MONEY = "DECIMAL(18,9)"

TABLES: dict[str, dict[str, str]] = {
    "plans": {
        "plan_id": "VARCHAR",
        "experiment": "VARCHAR",
        "state": "VARCHAR",
        "created_at": "TIMESTAMPTZ",
        "finished_at": "TIMESTAMPTZ",
        "runs": "INTEGER",
        "requests": "BIGINT",
        "cached": "BIGINT",
        "estimated_usd": MONEY,
        "estimated_usd_max": MONEY,
        "actual_usd": MONEY,
        "command": "VARCHAR",
        "git_commit": "VARCHAR",
        "git_dirty": "BOOLEAN",
        "python": "VARCHAR",
        "packages": "JSON",
        "duplicates": "BIGINT",
        "simulated": "BOOLEAN",
        "identity": "VARCHAR",
        "journal_bytes": "BIGINT",  # size of journal.jsonl when this was written: smaller than now = stale
        "content": "VARCHAR",  # fingerprint of the files that records and responses were made from
    },
    "runs": {
        "run_id": "VARCHAR",
        "plan_id": "VARCHAR",
        "experiment": "VARCHAR",
        "overrides": "VARCHAR",
        "provider": "VARCHAR",
        "model": "VARCHAR",
        "endpoint": "VARCHAR",
        "config": "JSON",
        "config_sha256": "VARCHAR",
        "prompt_sha256": "VARCHAR",
        "data_sha256": "VARCHAR",
        "rows": "BIGINT",
        "ok": "BIGINT",
        "not_ok": "BIGINT",
        "input_tokens": "BIGINT",
        "output_tokens": "BIGINT",
        "cost_usd": MONEY,  # what the run's answers cost, whenever they were bought
        "paid_usd": MONEY,  # the part of it that this plan bought
        "repeats": "INTEGER",
    },
    "requests": {
        "request_key": "VARCHAR",
        "parent_key": "VARCHAR",
        "plan_id": "VARCHAR",
        "provider": "VARCHAR",
        "endpoint": "VARCHAR",
        "model": "VARCHAR",
        "input_tokens": "BIGINT",
        "bytes": "BIGINT",
        "shard": "INTEGER",
        "base_url": "VARCHAR",
    },
    "run_requests": {
        "run_id": "VARCHAR",
        "row_id": "VARCHAR",
        "repeat": "INTEGER",
        "attempt": "INTEGER",
        "request_key": "VARCHAR",
        "plan_id": "VARCHAR",
    },
    "batches": {
        "plan_id": "VARCHAR",
        "shard": "INTEGER",
        "attempt": "INTEGER",
        "provider": "VARCHAR",
        "batch_id": "VARCHAR",
        "input_file_id": "VARCHAR",
        "state": "VARCHAR",
        "reason": "VARCHAR",
        "requests": "BIGINT",
        "bytes": "BIGINT",
        "input_tokens": "BIGINT",
        "submitted_at": "TIMESTAMPTZ",
        "ended_at": "TIMESTAMPTZ",
        "model": "VARCHAR",
        "row_attempt": "INTEGER",
    },
    "responses": {
        "request_key": "VARCHAR",
        "attempt": "INTEGER",  # of the shard, as in batches
        "plan_id": "VARCHAR",
        "shard": "INTEGER",
        "source": "VARCHAR",
        "status_code": "INTEGER",
        "finish_reason": "VARCHAR",
        "error_code": "VARCHAR",
        "error_message": "VARCHAR",
        "input_tokens": "BIGINT",
        "cached_tokens": "BIGINT",
        "output_tokens": "BIGINT",
        "reasoning_tokens": "BIGINT",
        "cost_usd": MONEY,
        "row_attempt": "INTEGER",
        "outcome": "VARCHAR",
        "state": "VARCHAR",
        "provider": "VARCHAR",
        "base_url": "VARCHAR",
        "endpoint": "VARCHAR",
        "model": "VARCHAR",
        "file": "VARCHAR",
        "offset": "BIGINT",
        "length": "BIGINT",
    },
    "records": {
        "run_id": "VARCHAR",
        "row_id": "VARCHAR",
        "repeat": "INTEGER",
        "request_key": "VARCHAR",
        "state": "VARCHAR",
        "output": "JSON",
        "data": "JSON",
        "text": "VARCHAR",
        "error": "VARCHAR",
        "attempts": "INTEGER",
        "cost_usd": MONEY,
        "plan_id": "VARCHAR",
        "row": "BIGINT",  # 0-based position in the data: the order of rows
        "reasoning": "VARCHAR",  # what stood around the JSON of an answer: thoughts and prose
    },
    "metrics": {
        "run_id": "VARCHAR",
        "name": "VARCHAR",
        "value": "DOUBLE",
        "low": "DOUBLE",
        "high": "DOUBLE",
        "n": "BIGINT",
        "coverage": "DOUBLE",
        "plan_id": "VARCHAR",
        "problem": "VARCHAR",
    },
    "events": {
        "plan_id": "VARCHAR",
        "seq": "BIGINT",
        "ts": "TIMESTAMPTZ",
        "kind": "VARCHAR",
        "shard": "INTEGER",
        "detail": "JSON",
    },
}
"""Table → column → DuckDB type, in order."""

RESULTS = """
SELECT records.*, runs.provider, runs.model, runs.overrides
FROM records JOIN runs ON runs.run_id = records.run_id AND runs.plan_id = records.plan_id
"""
"""The view `results`. A run that was planned twice has its rows once for each plan: `plan_id` tells them apart."""


def create(schema: str) -> str:
    """SQL that makes an empty catalog in the attached database `schema`."""
    statements = ["BEGIN", f"CREATE TABLE {schema}.catalog_version (version INTEGER)"]
    statements.append(f"INSERT INTO {schema}.catalog_version VALUES ({VERSION})")
    for table, columns in TABLES.items():
        listed = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
        statements.append(f"CREATE TABLE {schema}.{table} ({listed})")
    statements.append(f"USE {schema}")  # so that the view names its tables without the database's name
    statements.append(f"CREATE VIEW results AS {RESULTS.strip()}")
    statements += ["COMMIT", "USE memory"]
    return ";\n".join(statements)
