"""`summary.json`: a plan in a few numbers, in its own folder, for commands that must answer without DuckDB.

Written by each refresh from what went into the catalog. Small, derived, never the truth: a plan's
journal that has grown since says that it is old.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from batchling import limits
from batchling.catalog.plan_files import PlanFiles, plan_folders, size_of
from batchling.catalog.rows import Metric, PlanSummary, Refreshed, RunSummary
from batchling.disk import create_private, plain_file

FILE = "summary.json"
VERSION = 1
_LARGEST = 512 << 20
"""Bytes beyond which it is none of ours; a sweep of 100,000 runs has a tenth of that."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A plan, its runs and their metrics as of the last refresh; `stale` when the journal has moved on since."""

    plan: PlanSummary
    runs: tuple[RunSummary, ...]
    metrics: tuple[Metric, ...]
    stale: bool


def write(files: PlanFiles, plan: Mapping[str, Any], refreshed: Refreshed) -> None:
    """Writes the plan's summary. A folder that cannot be written is left without one."""
    document = {
        "version": VERSION,
        "plan": {k: v for k, v in plan.items() if k not in ("packages", "content")},
        "runs": [
            {
                "run_id": run.run_id,
                "provider": run.provider,
                "model": run.model,
                "endpoint": run.endpoint,
                "overrides": run.overrides,
                "rows": run.rows,
                "states": dict(run.states),
                "input_tokens": run.input_tokens,
                "output_tokens": run.output_tokens,
                "cost_usd": None if run.cost_usd is None else str(run.cost_usd),
            }
            for run in refreshed.runs
        ],
        "metrics": [
            {
                "run_id": m.run_id,
                "name": m.name,
                "value": m.value,
                "low": m.low,
                "high": m.high,
                "n": m.n,
                "coverage": m.coverage,
                "problem": m.problem,
            }
            for m in refreshed.metrics
        ],
    }
    part = files.path / f".{FILE}.{os.getpid()}"
    with suppress(OSError):
        create_private(part)
        part.write_bytes(orjson.dumps(document))
        part.replace(files.path / FILE)


def read(plan_dir: Path) -> Summary | None:
    """The plan's summary; None when there is none (not refreshed yet, or by another version)."""
    try:
        with plain_file(plan_dir / FILE, follow=False) as file:
            document = limits.own(file.read(_LARGEST))
        if document["version"] != VERSION:
            return None
        plan = document["plan"]
        runs = tuple(RunSummary(**{**run, "cost_usd": _money(run["cost_usd"])}) for run in document["runs"])
        found = tuple(Metric(**m) for m in document["metrics"])
        stale = size_of(plan_dir / "journal.jsonl") != plan["journal_bytes"]
        return Summary(_plan(plan, runs), runs, found, stale)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_all(runs: Path) -> list[tuple[Path, Summary | None]]:
    """Every plan's folder with its summary, oldest first."""
    return [(folder, read(folder)) for folder in plan_folders(runs)]


def _money(value: str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def _plan(plan: Mapping[str, Any], runs: tuple[RunSummary, ...]) -> PlanSummary:
    rows = sum(sum(run.states.values()) for run in runs)
    ok = sum(run.states.get("ok", 0) for run in runs)
    return PlanSummary(
        plan_id=plan["plan_id"],
        experiment=plan["experiment"],
        state=plan["state"],
        created_at=plan["created_at"],
        finished_at=plan["finished_at"],
        runs=plan["runs"],
        requests=plan["requests"] or 0,
        cached=plan["cached"] or 0,
        estimated_usd=_money(plan["estimated_usd"]),
        estimated_usd_max=_money(plan["estimated_usd_max"]),
        actual_usd=_money(plan["actual_usd"]),
        simulated=bool(plan["simulated"]),
        rows=rows,
        ok=ok,
        not_ok=rows - ok - sum(run.states.get("pending", 0) for run in runs),
    )
