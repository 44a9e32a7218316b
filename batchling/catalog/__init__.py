"""The catalog: everything of every plan in one DuckDB file, queryable and rebuildable.

It is a view: plan folders are the truth, deleting `catalog.duckdb` loses nothing. Nothing here imports
DuckDB before it opens a database; `summaries`, `references` and `space` never do.
"""

from batchling.catalog.access import Condition, Ensured, ensure
from batchling.catalog.comparing import never_equal
from batchling.catalog.evaluate import MetricRows, RowValues, check, row_marks, row_values
from batchling.catalog.lookup import Stale, answered, has_no_answers, learned, no_answer, plans, stale
from batchling.catalog.plan_files import plan_folders
from batchling.catalog.references import Reference, latest, resolve
from batchling.catalog.refresh import forget, refresh
from batchling.catalog.rows import (
    Answer,
    EventRow,
    Metric,
    PlanSummary,
    Refreshed,
    RunSummary,
    ShardRow,
)
from batchling.catalog.space import PlanSpace, Space, du, removable
from batchling.catalog.sql import QueryResult, query
from batchling.catalog.summaries import Summary, read_all
from batchling.catalog.summaries import read as read_summary

__all__ = [
    "Answer",
    "Condition",
    "Ensured",
    "EventRow",
    "Metric",
    "MetricRows",
    "PlanSpace",
    "PlanSummary",
    "QueryResult",
    "Reference",
    "Refreshed",
    "RowValues",
    "RunSummary",
    "ShardRow",
    "Space",
    "Stale",
    "Summary",
    "answered",
    "check",
    "du",
    "ensure",
    "forget",
    "has_no_answers",
    "latest",
    "learned",
    "never_equal",
    "no_answer",
    "plan_folders",
    "plans",
    "query",
    "read_all",
    "read_summary",
    "refresh",
    "removable",
    "resolve",
    "row_marks",
    "row_values",
    "stale",
]
