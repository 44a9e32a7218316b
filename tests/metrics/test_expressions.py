"""Metric expressions: what is refused before anything is sent, and what they give over records."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest

from batchling import catalog, metrics
from batchling.catalog import Metric
from batchling.errors import ConfigError
from batchling.metrics import Kind
from tests.catalog.conftest import PLAN, Plan, Run, answer, failed

OUTPUT = 'STRUCT("label" VARCHAR, "score" DOUBLE, "tags" VARCHAR[])'
DATA = 'STRUCT("label" VARCHAR, "n" BIGINT)'


@pytest.mark.parametrize(
    ("expression", "kind"),
    [
        ("output.label = data.label", Kind.SHARE),
        ("output.label = data.label -- right?", Kind.SHARE),
        ("1000 * cost_usd", Kind.MEAN),
        ("abs(output.score - data.n)", Kind.MEAN),
        ("length(text)", Kind.MEAN),
        ("list_contains(list_transform(output.tags, lambda t: lower(t)), data.label)", Kind.SHARE),
        ("sum(cost_usd) / count(*)", Kind.AGGREGATE),
        ("avg(state = 'ok')", Kind.AGGREGATE),
        ("count(*) FILTER (state = 'truncated') / count(*)", Kind.AGGREGATE),
        ("CASE WHEN repeat = 0 THEN output.score END", Kind.MEAN),
        ("row_id = 'row-1'", Kind.SHARE),
    ],
)
def test_kinds(expression: str, kind: Kind) -> None:
    expression = expression.replace("avg(state = 'ok')", "avg((state = 'ok')::INT)")
    assert catalog.check({"m": expression}, OUTPUT, DATA) == {"m": kind}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("output.lable = data.label", "lable"),
        ("nothing > 1", "nothing"),
        ("output.label", "its value is VARCHAR"),
        ("output.tags", "its value is VARCHAR"),
        ("list_value(1)", r"its value is INTEGER\[\]"),
        ("output.score +", "syntax error"),
        ("", "it is empty"),
        ("-- nothing", "its value is|syntax error"),
        ("(SELECT 1)", "a subquery is not allowed"),
        ("1 IN (SELECT n FROM range(3) t(n))", "a subquery is not allowed"),
        ("EXISTS (FROM read_csv('/etc/passwd'))", "a subquery is not allowed"),
        ("(FROM read_text('/etc/passwd')) IS NULL", "a subquery is not allowed"),
        ("1) AS a, (2", "one expression, not a query"),
        ("1) AS v FROM read_csv('/etc/passwd') UNION ALL SELECT (1", "one expression, not a query"),
        ("1) AS v FROM records WHERE true; SELECT (1", "one expression, not a query|Only SELECT|syntax"),
        ("1); DROP TABLE records; SELECT (1", "one expression, not a query|Only SELECT|syntax"),
        ("rank() OVER (ORDER BY cost_usd)", "a window function is not allowed"),
        ("unnest([1, 2])", "unnest is not allowed"),
        ("count(COLUMNS(*))", "a star is not allowed"),
        ("$1 > 0", "a parameter is not allowed"),
        ("random()", "volatile"),
        ("sum(cost_usd) / output.score", "GROUP BY"),
        ("getenv('HOME') = ''", "getenv"),
        ("read_text('/etc/passwd') = ''", "read_text"),
    ],
)
def test_what_is_refused_names_the_metric_the_reason_and_the_columns(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        catalog.check({"fine": "cost_usd", "bad": expression}, OUTPUT, DATA)
    assert "metrics.bad" in str(caught.value)
    assert DATA in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_metrics_are_fine() -> None:
    assert catalog.check({}, None, DATA) == {}


def values(runs: Path, lines: list[dict[str, Any]], rows: list[dict[str, Any]], **run: Any) -> dict[str, Metric]:
    plan = Plan(runs / PLAN, [Run(rows, **{"output_type": OUTPUT, **run})]).write()
    plan.decoded("0001.1", *lines)
    refreshed = catalog.refresh(plan.root, plan.path, state="finished")
    return {metric.name: metric for metric in refreshed.metrics}


def label(name: object, value: str | None, score: float | None = None, **said: Any) -> dict[str, Any]:
    return answer(name, output={"label": value, "score": score, "tags": []}, **said)


ROWS = [{"label": "a", "n": i} for i in range(10)]


def test_a_row_that_is_not_ok_is_false_in_a_share_and_left_out_of_a_mean(runs: Path) -> None:
    lines = [label(i, "a", float(i)) for i in range(6)] + [label(6, "b", 6.0), label(7, None, None)]
    lines += [failed(8, "expired"), label(9, "a", 9.0, state="invalid")]
    found = values(runs, lines, ROWS, metrics={"accuracy": "output.label = data.label", "score": "output.score"})
    accuracy, score = found["accuracy"], found["score"]
    assert (accuracy.value, accuracy.n) == (0.6, 10)
    assert (accuracy.low, accuracy.high) == pytest.approx(metrics.wilson(6, 10))
    assert accuracy.coverage == 0.7  # ok, and the comparison has a value
    assert (score.value, score.n, score.coverage) == (3.0, 7, 0.7)
    assert (score.low, score.high) == pytest.approx((3 - 1.998, 3 + 1.998), abs=1e-3)  # 2.4469 * 2.1602 / sqrt(7)


def test_pending_rows_are_in_no_metric_yet_but_lower_the_coverage(runs: Path) -> None:
    found = values(runs, [label(0, "a"), label(1, "b")], ROWS, metrics={"accuracy": "output.label = data.label"})
    assert (found["accuracy"].value, found["accuracy"].n, found["accuracy"].coverage) == (0.5, 2, 0.2)


def test_before_any_answer_a_metric_has_no_value(runs: Path) -> None:
    found = values(runs, [], ROWS, metrics={"m": "cost_usd", "a": "count(*)"})
    assert [(m.value, m.low, m.n, m.coverage, m.problem) for m in found.values()] == [(None, None, 0, 0.0, None)] * 2


def test_a_row_on_which_an_expression_fails_has_no_value(runs: Path) -> None:
    rows = [{"label": x, "n": 1} for x in ("1", "2", "not a number")]
    found = values(
        runs,
        [label(i, "a") for i in range(3)],
        rows,
        metrics={"m": "trim(data.label)::INT", "bare": "data.label::INT"},
    )
    assert (found["m"].value, found["m"].n, found["m"].problem) == (1.5, 2, None)
    bare = found["bare"]  # DuckDB 1.5 lets this cast out of TRY: no value then, and the reason
    assert bare.value == 1.5 or (bare.value is None and "not a number" in (bare.problem or ""))


def test_infinite_and_undefined_values_are_left_out(runs: Path) -> None:
    lines = [label(i, "a", float(i)) for i in range(4)]
    found = values(runs, lines, ROWS[:4], metrics={"m": "1 / output.score", "a": "sum(1 / (output.score - 1))"})
    assert found["m"].value == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    assert found["m"].n == 3


def test_an_aggregate_sees_every_row_and_has_a_jackknife_interval(runs: Path) -> None:
    lines = [label(i, "a", float(i)) for i in range(8)] + [failed(8, "expired"), failed(9, "error")]
    found = values(
        runs,
        lines,
        ROWS,
        metrics={"done": "count(*) FILTER (state = 'ok') / count(*)", "mean": "avg(output.score)"},
    )
    done, mean = found["done"], found["mean"]
    assert (done.value, done.n, done.coverage) == (0.8, 10, 0.8)
    left_out = [(8 - (i < 8)) / 9 for i in range(10)]
    assert (done.low, done.high) == pytest.approx(metrics.jackknife_interval(0.8, left_out))
    assert mean.value == 3.5
    assert mean.low is not None
    assert mean.low < 3.5


def test_the_jackknife_over_groups_is_close_to_the_plain_interval(runs: Path) -> None:
    rng = random.Random(3)
    scores = [rng.gauss(10, 2) for _ in range(2000)]
    lines = [label(i, "a", score) for i, score in enumerate(scores)]
    rows = [{"label": "a", "n": i} for i in range(2000)]
    found = values(runs, lines, rows, metrics={"plain": "output.score", "aggregate": "avg(output.score)"})
    plain, aggregate = found["plain"], found["aggregate"]
    assert plain.value == pytest.approx(aggregate.value)
    assert plain.high is not None
    assert aggregate.high is not None
    assert plain.value is not None
    assert aggregate.high - plain.value == pytest.approx(plain.high - plain.value, rel=0.5)


def test_repeats_are_clustered_by_row(runs: Path) -> None:
    rows = [{"label": "a", "n": i} for i in range(20)]
    lines = [label(i, "a" if i // 5 % 2 else "b", float(i // 5 % 2)) for i in range(100)]
    found = values(
        runs,
        lines,
        rows,
        repeats=5,
        metrics={"accuracy": "output.label = data.label", "score": "output.score", "all": "avg(output.score)"},
    )
    accuracy = found["accuracy"]
    assert (accuracy.value, accuracy.n) == (0.5, 100)
    # Twenty rows, each always right or always wrong: as sure as twenty coin tosses, not a hundred.
    assert accuracy.low is not None
    assert accuracy.low == pytest.approx(metrics.wilson(9.5, 19)[0])
    score = found["score"]
    spread = math.sqrt(20 * 0.25 / 19) / math.sqrt(20)
    assert score.high == pytest.approx(0.5 + metrics.t_quantile(19) * spread)
    assert found["all"].low == pytest.approx(0.5 - metrics.t_quantile(19) * spread)


def test_a_metric_of_plain_text_uses_text(runs: Path) -> None:
    lines = [answer(i, output=None, text="a" * i) for i in range(3)]
    found = values(runs, lines, ROWS[:3], output_type=None, metrics={"len": "length(text)", "null": "output IS NULL"})
    assert found["len"].value == 1.0
    assert found["null"].value == 1.0


def test_each_run_of_a_sweep_has_its_own_types_and_values(runs: Path) -> None:
    plan = Plan(
        runs / PLAN,
        [
            Run(ROWS, run_id="r-a", output_type=OUTPUT, metrics={"m": "output.score"}),
            Run(
                [{"other": 1}, {"other": 3}],
                run_id="r-b",
                names=["b0", "b1"],
                output_type='STRUCT("x" BIGINT)',
                metrics={"m": "output.x + data.other"},
            ),
            Run(
                ROWS,
                run_id="r-c",
                names=[f"c{i}" for i in range(10)],
                output_type=OUTPUT,
                metrics={"m": "output.score"},
            ),
        ],
    ).write()
    plan.decoded(
        "0001.1",
        *(label(i, "a", 1.0) for i in range(10)),
        *(answer(f"b{i}", output={"x": 10}) for i in range(2)),
        *(label(f"c{i}", "a", 2.0) for i in range(10)),
    )
    refreshed = catalog.refresh(plan.root, plan.path, state="finished")
    assert {m.run_id: m.value for m in refreshed.metrics} == {"r-a": 1.0, "r-b": 12.0, "r-c": 2.0}


def test_a_metric_that_cannot_be_evaluated_says_why_and_stops_nothing(runs: Path) -> None:
    found = values(
        runs,
        [label(0, "a")],
        ROWS,
        metrics={
            "leak": "(SELECT count(*) FROM read_text('/etc/passwd')) > 0",
            "fine": "cost_usd",
            "gone": "output.nope",
        },
    )
    assert found["fine"].value == pytest.approx(0.0001)
    assert found["leak"].value is None
    assert "subquery" in (found["leak"].problem or "")
    assert "nope" in (found["gone"].problem or "")


def test_rows_and_answers_are_data_in_an_expression(runs: Path) -> None:
    rows = [{"label": "a') OR (1=1", "n": 1}]
    found = values(runs, [label(0, "a') OR (1=1")], rows, metrics={"m": "output.label = data.label"})
    assert found["m"].value == 1.0
