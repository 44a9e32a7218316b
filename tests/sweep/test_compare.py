"""`compare`: points side by side, differences on the same rows, the best for their price."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from batchling.api.compare import Comparison, compare
from batchling.cli import main
from batchling.errors import UsageError
from tests.servers.batches import BatchServer, Line, answered, text_of
from tests.sweep.conftest import Lab

PRICES = "model.price={input: 1.0, output: 2.0}"


@pytest.fixture
def graded(lab: Lab) -> Iterator[Lab]:
    """40 rows; the model `good` has every second one right and then some, `bad` few: `right` says so."""
    lab.rows(40)

    def answer(request: dict[str, object]) -> Line:
        body = request["body"]
        assert isinstance(body, dict)
        number = int(text_of(request).partition("row ")[2].split()[0])
        right = "ab"[number % 2]
        wrong = "ba"[number % 2]
        good = body["model"] == "good"
        polite = text_of(request).startswith("Please")
        correct = number % 10 != 0 if good else number % 4 == 0
        return answered(request, json.dumps({"label": right if correct or (polite and number < 4) else wrong}))

    with BatchServer() as server:
        server.row = answer
        lab.write({"conf/provider/graded.yaml": f"name: graded\nbase_url: {server.url}\n"})
        yield lab


def grid(lab: Lab, *more: str, models: str = "good,bad") -> Comparison:
    lab.run("provider=graded", f"model.id={models}", PRICES, *more)
    return compare(runs=lab.runs)


def test_points_are_ranked_and_the_best_is_marked(graded: Lab) -> None:
    found = grid(graded)
    assert [(p.name, p.records, p.ok_share, p.best) for p in found.points] == [
        ("model.id=good", 40, 1.0, True),
        ("model.id=bad", 40, 1.0, False),
    ]
    metric = found.points[0].metrics[0]
    assert (metric.name, metric.value) == ("right", 0.9) and metric.low is not None and metric.low < 0.9
    assert found.points[0].cost_usd == found.points[1].cost_usd and found.points[0].usd_per_1000
    assert found.points[0].seconds is not None


def test_the_difference_on_the_same_rows_is_mcnemars(graded: Lab) -> None:
    (pair,) = grid(graded).pairs
    d = pair.difference
    # `good` misses 0, 10, 20, 30; `bad` has 0, 4, … 36: the rows that only one of them has are counted.
    assert (d.method, d.n, d.gained, d.lost) == ("McNemar exact", 40, 2, 28)
    assert d.value == pytest.approx(-26 / 40)
    assert d.p is not None and pair.p_holm == d.p < 1e-5


def test_the_baseline_can_be_chosen(graded: Lab) -> None:
    first = grid(graded)
    bad = next(p for p in first.points if "bad" in p.name)
    (pair,) = compare(runs=graded.runs, baseline=bad.run_ids[0]).pairs
    assert pair.difference.value == pytest.approx(26 / 40)
    with pytest.raises(UsageError, match="no such point"):
        compare(runs=graded.runs, baseline="nobody")


def test_a_baseline_can_be_named_by_what_sets_it_apart(graded: Lab) -> None:
    grid(graded, "prompt=plain,polite")
    (base,) = (p for p in compare(runs=graded.runs, baseline="prompt=polite model.id=bad").points if p.baseline)
    assert "model.id=bad" in base.name and "prompt=polite" in base.name
    with pytest.raises(UsageError, match="2 points"):
        compare(runs=graded.runs, baseline="model.id=bad")


def test_by_puts_runs_together_and_pairs_them_by_row(graded: Lab) -> None:
    grid(graded, "prompt=plain,polite")
    found = compare(runs=graded.runs, by=["model.id"])
    assert {p.name: (len(p.run_ids), p.records) for p in found.points} == {
        "model.id=good": (2, 80),
        "model.id=bad": (2, 80),
    }
    good = next(p for p in found.points if "good" in p.name)
    # 36 of 40 rows right with one prompt, 37 (row 0 too) with the other
    assert good.metrics[0].value == pytest.approx(73 / 80) and good.metrics[0].n == 80
    (pair,) = found.pairs
    assert pair.difference.method == "paired bootstrap" and pair.difference.n == 40
    with pytest.raises(UsageError, match="no run has it"):
        compare(runs=graded.runs, by=["nonsense"])


def test_repeats_of_a_row_are_one_pair(graded: Lab) -> None:
    (pair,) = grid(graded, "repeats=2").pairs
    assert (pair.difference.method, pair.difference.n) == ("paired bootstrap", 40)
    assert pair.difference.value == pytest.approx(-26 / 40)


def test_three_points_are_corrected_for(graded: Lab) -> None:
    found = grid(graded, models="good,bad,worse")
    values = [pair.difference.p for pair in found.pairs]
    assert [pair.p_holm for pair in found.pairs] == [pytest.approx(2 * p) for p in values if p is not None]
    assert any("Holm for 2 comparisons" in note for note in found.notes)


def test_plans_are_compared_on_the_rows_that_they_share(graded: Lab) -> None:
    first = graded.run("provider=graded", "model.id=good", PRICES)
    graded.rows(30, first=20)  # 20 to 39 are the same, 40 to 49 are new
    second = graded.run("provider=graded", "model.id=bad", PRICES)
    found = compare([first.plan_id, second.plan_id], runs=graded.runs)
    assert [pair.difference.n for pair in found.pairs] == [20]


def test_a_cheaper_point_is_best_too(graded: Lab) -> None:
    graded.run("provider=graded", "model.id=good", "model.price={input: 9.0, output: 9.0}")
    graded.run("provider=graded", "model.id=bad", "model.price={input: 1.0, output: 1.0}", "name=cheap")
    found = compare(["ask", "cheap"], runs=graded.runs)
    assert [p.best for p in found.points] == [True, True]


def test_metrics_in_which_less_is_better(graded: Lab) -> None:
    found = grid(graded, "+metrics.wrong='output.label <> data.label'")
    again = compare(runs=graded.runs, lower=["wrong"])
    assert (again.higher, again.lower) == (("right",), ("wrong",))
    assert found.higher == ("right", "wrong")
    with pytest.raises(UsageError, match="no metric"):
        compare(runs=graded.runs, lower=["nonsense"])


def test_an_aggregate_is_shown_and_not_paired(graded: Lab) -> None:
    found = grid(graded, "+metrics.share='avg((output.label = data.label)::INT)'")
    assert {m.name for m in found.points[0].metrics} == {"right", "share"}
    assert {pair.metric for pair in found.pairs} == {"right"}
    assert any("aggregates" in note and "share" in note for note in found.notes)


def test_the_command_prints_tables_and_json(graded: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    grid(graded)
    assert main(["compare", "--by", "model.id"]) == 0
    shown = capsys.readouterr().out
    assert "model.id=good" in shown and "McNemar" in shown and "0.9 [" in shown
    assert main(["compare", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [point["best"] for point in document["points"]] == [True, False]
    assert document["pairs"][0]["difference"]["method"] == "McNemar exact"


def test_a_plan_without_answers_says_so(lab: Lab) -> None:
    with pytest.raises(UsageError, match="there is no plan"):
        compare(runs=lab.runs)
