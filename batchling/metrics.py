"""Metrics: what an expression means as SQL, and how sure its value is.

A metric is a DuckDB expression over one record: `output`, `data`, `text`, `state`, `cost_usd`,
`row_id`, `repeat`, `attempts`, `error`. There are three kinds:

========= ===================== ======================================= ===============================
kind      example               value                                   95 % interval
========= ===================== ======================================= ===============================
share     output.label =        share of rows for which it is true      Wilson's score interval
          data.label
mean      1000 * cost_usd       mean over the rows that are ok and      t interval
                                have a value
aggregate avg(x) FILTER (…)     the expression over all rows            t interval on a jackknife over
                                                                        groups of rows
========= ===================== ======================================= ===============================

A row that is not ok counts as false in a share; so does an ok row for which the expression is NULL (a
model that leaves a field empty has not answered correctly), or fails. To leave rows out of a share, write the
aggregate: `avg((output.label = data.label)::INT) FILTER (data.label IS NOT NULL)`. Rows that are still
`pending` are in no metric. Repeats of a row are not independent: intervals treat a row as one cluster.

Everything here is pure: numbers and SQL text in, numbers and SQL text out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from statistics import NormalDist
from typing import Any

COLUMNS: dict[str, str] = {
    "row_id": "VARCHAR",
    "repeat": "INTEGER",
    "state": "VARCHAR",
    "text": "VARCHAR",
    "error": "VARCHAR",
    "attempts": "INTEGER",
    "cost_usd": "DOUBLE",
}
"""Columns that an expression can use beside `output` and `data`, with their DuckDB types."""

CONFIDENCE = 0.95
GROUPS = 20
"""Groups of the jackknife; with at most `GROUPS_EACH` rows every row is a group of its own."""
GROUPS_EACH = 50


class Kind(StrEnum):
    SHARE = "share"
    MEAN = "mean"
    AGGREGATE = "aggregate"


def select(expression: str) -> str:
    """The query that an expression is checked as; the line break ends a comment in it."""
    return f"SELECT (\n{expression}\n) AS value FROM records"


_FORBIDDEN = {
    "SUBQUERY": "a subquery",
    "WINDOW": "a window function",
    "STAR": "a star",
    "PARAMETER": "a parameter",
    "LAMBDA_REF": "a lambda reference",
}
_FORBIDDEN_FUNCTIONS = {"unnest": "unnest", "unlist": "unnest", "generate_subscripts": "generate_subscripts"}


def fault(tree: Mapping[str, Any]) -> str | None:
    """What is wrong with an expression's shape; None when it is one expression over one record.

    Args:
        tree: what DuckDB's `json_serialize_sql(select(expression))` gives.
    """
    if tree.get("error"):
        return str(tree.get("error_message") or "it cannot be parsed")
    statements = tree.get("statements") or []
    node = statements[0].get("node", {}) if len(statements) == 1 else {}
    table = node.get("from_table") or {}
    plain = (
        node.get("type") == "SELECT_NODE"
        and len(node.get("select_list") or []) == 1
        and table.get("type") == "BASE_TABLE"
        and table.get("table_name") == "records"
        and not any(node.get(part) for part in ("where_clause", "group_expressions", "having", "qualify", "modifiers"))
        and not (node.get("cte_map") or {}).get("map")
    )
    if not plain:
        return "it must be one expression, not a query"
    for inner in _nodes(node["select_list"]):
        kind = inner.get("class")
        if kind in _FORBIDDEN and not (kind == "STAR" and inner.get("type") == "LAMBDA"):
            return f"{_FORBIDDEN[kind]} is not allowed in a metric"
        name = str(inner.get("function_name", "")).lower()
        if kind == "FUNCTION" and name in _FORBIDDEN_FUNCTIONS:
            return f"{_FORBIDDEN_FUNCTIONS[name]} is not allowed in a metric"
    return None


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for child in value.values():
            yield from _nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from _nodes(child)


def z_quantile(confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of the normal distribution: 1.96 for 0.95."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share. `n` may be an effective sample size, and both may be fractions.

    >>> wilson(8, 10)
    (0.490162..., 0.943317...)
    """
    if n <= 0:
        return 0.0, 1.0
    z2 = z_quantile(confidence) ** 2
    p = successes / n
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    # At 0 and 1 the bound is the share itself; rounding must not push it outside.
    return (0.0 if p <= 0 else max(0.0, middle - half)), (1.0 if p >= 1 else min(1.0, middle + half))


def effective_n(n: int, clusters: int, share: float, squares: float) -> float:
    """How many independent rows a share over clusters is worth.

    Args:
        n: values; clusters: rows they come from.
        share: the overall share p.
        squares: sum over clusters of (successes - size * p)**2.

    Between the number of clusters (all repeats of a row agree) and n (repeats are independent).
    """
    if clusters < 2 or clusters == n:
        return float(min(n, clusters))
    variance = clusters / (clusters - 1) * squares / (n * n)
    if share in (0.0, 1.0) or variance <= 0.0:
        # No spread to learn from. All alike: as if repeats told nothing new; balanced: as if they were independent.
        return float(clusters if share in (0.0, 1.0) else n)
    return min(float(n), max(1.0, share * (1 - share) / variance))


def mean_interval(
    mean: float, n: int, clusters: int, squares: float, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Student's t interval of a mean, robust to clusters; None when there are fewer than two clusters.

    Args:
        squares: sum over clusters of (sum of values - size * mean)**2; with one value each, the usual sum of squares.
    """
    if clusters < 2 or n < 2:
        return None
    error = math.sqrt(clusters / (clusters - 1) * max(0.0, squares)) / n
    half = t_quantile(clusters - 1, confidence) * error
    return mean - half, mean + half


def jackknife_interval(
    value: float, replicates: Sequence[float], confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """t interval of an aggregate from its values with one group of rows left out each time; None below two groups."""
    groups = len(replicates)
    if groups < 2 or not all(math.isfinite(r) for r in replicates):
        return None
    mean = math.fsum(replicates) / groups
    variance = (groups - 1) / groups * math.fsum((r - mean) ** 2 for r in replicates)
    half = t_quantile(groups - 1, confidence) * math.sqrt(variance)
    return value - half, value + half


def group_of(rows: int) -> tuple[int, str]:
    """Number of jackknife groups, and the SQL that gives a record's group from its 0-based `row`.

    The golden ratio's multiplicative hash spreads neighbours evenly, so data sorted or repeating by position does not bias it.
    """
    if rows <= GROUPS_EACH:
        return rows, "row"
    return GROUPS, f"(((row * 2654435769) % 4294967296) * {GROUPS} // 4294967296)"


def t_quantile(df: int, confidence: float = CONFIDENCE) -> float:
    """Two-sided quantile of Student's t distribution with `df` degrees of freedom.

    >>> round(t_quantile(9), 4)
    2.2622
    """
    tail = (1 - confidence) / 2
    if df > 1_000_000:
        z = z_quantile(confidence)
        return z + (z**3 + z) / (4 * df)  # the next term of the expansion in 1 / df is below 1e-11
    low, high = 0.0, 1.0
    while _t_tail(high, df) > tail:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if _t_tail(middle, df) > tail:
            low = middle
        else:
            high = middle
        if high - low < 1e-12 * high:
            break
    return (low + high) / 2


def _t_tail(t: float, df: int) -> float:
    """P(T > t) for t ≥ 0."""
    return 0.5 * _incomplete_beta(df / 2, 0.5, df / (df + t * t))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function, by Lentz's continued fraction."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - _incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 - (a + b) * x / (a + 1)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    result = d
    for m in range(1, 500):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 + numerator * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + numerator / c
            c = c if abs(c) > tiny else tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return front * result
