"""`batchling.plan`, `batchling.run` and what they return."""

from __future__ import annotations

import importlib.util
from decimal import Decimal
from pathlib import Path
from typing import Any

import pydantic
import pytest

import batchling
from batchling.errors import BatchlingError, ConfigError, UsageError

pytestmark = pytest.mark.usefixtures("project")


def test_these_are_the_public_names() -> None:
    assert batchling.__all__ == [
        "BatchlingError",
        "Experiment",
        "ExperimentManager",
        "Outcome",
        "PlanReport",
        "PlanStatus",
        "Project",
        "Results",
        "__version__",
        "cancel",
        "load",
        "plan",
        "query",
        "run",
        "status",
        "watch",
    ]
    for name in batchling.__all__:
        assert getattr(batchling, name) is not None
    assert callable(batchling.plan), "no module may take a verb's name"
    with pytest.raises(AttributeError):
        batchling.nothing  # noqa: B018


def test_verbs_stay_functions_when_everything_is_imported() -> None:
    import batchling.runner.planning

    batchling.run("people")
    for name in ("plan", "run", "watch", "status", "query", "load", "cancel"):
        assert callable(getattr(batchling, name)), name


def test_plan_counts_and_leaves_nothing(project: Path) -> None:
    report = batchling.plan("people", ["repeats=2"], show=1)
    assert (report.rows, report.requests, report.simulated) == (6, 6, True)
    assert report.shown[0].body["messages"][0]["content"] == "Describe Ada"
    assert not (project / "runs").exists()


def test_run_returns_records_relation_arrow_pandas_and_objects() -> None:
    results = batchling.run("people")
    assert results.exit_code == 0 and results.outcome.created and results.simulated
    records = list(results)
    assert [r["row_id"] for r in records] == ["0", "1", "2"] and len(results) == 3
    assert records[0]["data"] == {"name": "Ada"} and isinstance(records[0]["cost_usd"], Decimal)
    ages = [r["output"]["age"] for r in records]
    assert [row[0] for row in results.relation().project("output.age").fetchall()] == ages
    assert results.arrow().column("output").to_pylist()[0]["age"] == ages[0]
    assert list(results.df()["state"]) == ["ok"] * 3
    people = list(results.objects())
    assert all(isinstance(person, pydantic.BaseModel) for person in people)
    assert [person.age for person in people] == ages


def test_metrics_have_a_value_and_an_interval() -> None:
    metric = batchling.run("people").metrics["adult"]
    assert metric.value is not None and metric.low is not None and metric.high is not None
    assert metric.low <= metric.value <= metric.high and metric.n == 3 and metric.coverage == 1.0


def test_a_sweep_is_one_plan_with_a_run_for_each_point() -> None:
    results = batchling.run("people", sweep={"grid": {"data.limit": [1, 2]}})
    assert len(results.run_ids) == 2 and len(results) == 3
    assert len(results.of(results.run_ids[1])) == 2
    with pytest.raises(UsageError, match="2 runs"):
        _ = results.metrics
    assert set(results.of(results.run_ids[0]).metrics) == {"adult"}
    with pytest.raises(UsageError, match="no run"):
        results.of("nothing")


def test_results_can_be_looked_up_later() -> None:
    made = batchling.run("people")
    for reference in (None, "people", made.plan_id, made.run_ids[0]):
        assert list(batchling.load(reference)) == list(made)
    with pytest.raises(UsageError, match="no outcome"):
        _ = batchling.load("people").outcome


def test_detached_results_are_pending_until_watch() -> None:
    detached = batchling.run("people", detach=True)
    assert detached.exit_code == 75 and detached.outcome.next_command == f"batchling watch {detached.plan_id}"
    assert batchling.status().state == "waiting"
    assert [r["state"] for r in batchling.load()] == ["pending"] * 3
    (watched,) = batchling.watch()
    assert watched.exit_code == 0 and batchling.status().state == "finished"


def test_query_reads_the_catalog() -> None:
    batchling.run("people")
    with batchling.query("select state, count(*) from records group by 1") as rows:
        assert list(rows) == [("ok", 3)]


def test_errors_are_typed() -> None:
    with pytest.raises(ConfigError, match="modle"):
        batchling.run("people", ["modle.id=x"])
    assert issubclass(ConfigError, BatchlingError)


def test_a_missing_frames_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    results = batchling.run("people")
    found = importlib.util.find_spec

    def absent(name: str, *more: Any) -> Any:
        return None if name in ("pyarrow", "pandas") else found(name, *more)

    monkeypatch.setattr("batchling.results.find_spec", absent)
    for read in (results.arrow, results.df):
        with pytest.raises(UsageError, match="not installed") as told:
            read()
        assert told.value.next_command == "pip install '.[frames]' in a clone of the repository"
