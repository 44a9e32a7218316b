from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from batchling import catalog
from batchling.catalog import ShardRow
from batchling.errors import UsageError

from .conftest import LANE, PLAN, Plan, Run, answer, failed, key_of

OLD, NEW = "20261123-021409-intent-3f9ac1", "20261124-021409-intent-aaaaaa"


def planned(runs: Path, plan_id: str = OLD, created_at: float = 1.0) -> Plan:
    return Plan(runs / plan_id, [Run([{"t": 1}, {"t": 2}, {"t": 3}])], created_at=created_at).write()


def refresh(plan: Plan, **said: Any) -> None:
    catalog.refresh(plan.root, plan.path, **{"state": "waiting", **said})


def answers(runs: Path, **where: str) -> dict[str, catalog.Answer]:
    asked = {name: str(LANE[name]) for name in ("provider", "model", "base_url", "endpoint")} | where
    found = list(catalog.answered(runs, **asked))
    assert len({a.key for a in found}) == len(found)
    return {a.key: a for a in found}


def test_an_answer_is_found_with_its_place_in_the_raw_file(runs: Path) -> None:
    plan = planned(runs).decoded("0001.1", answer(0, offset=120, length=34, state="invalid"))
    refresh(plan)
    assert answers(runs) == {key_of(0): catalog.Answer(key_of(0), "ok", OLD, "0001.1.output.jsonl", 120, 34, "invalid")}


@pytest.mark.parametrize(
    ("outcome", "counts"),
    [
        ("ok", True),
        ("truncated", True),
        ("refused", True),
        ("filtered", True),
        ("error", True),
        ("retryable", False),
        ("expired", False),
        ("cancelled", False),
        ("missing", False),
    ],
)
def test_what_counts_as_answered(runs: Path, outcome: str, counts: bool) -> None:
    refresh(planned(runs).decoded("0001.1", answer(0, outcome=outcome, state="error")))
    assert (key_of(0) in answers(runs)) is counts


def test_the_latest_response_decides_across_plans_shards_and_attempts(runs: Path) -> None:
    new = planned(runs, NEW, created_at=2.0)
    new.decoded("0001.1", answer(0, offset=9), failed(1, "expired", file="0001.1.errors.jsonl"))
    refresh(new)
    old = planned(runs).decoded("0001.1", answer(0), answer(1), failed(2, "expired"))
    old.decoded("0002.1", answer(2, shard=2, offset=5)).decoded("0002.2", answer(2, shard=2, attempt=2, offset=6))
    cancelled = failed(2, "cancelled", shard=3, attempt=2, file="0003.2.errors.jsonl")
    old.decoded("0003.1", answer(2, shard=3, offset=7)).decoded("0003.2", cancelled)
    refresh(old)
    found = answers(runs)
    assert (found[key_of(0)].plan_id, found[key_of(0)].offset) == (NEW, 9)
    assert key_of(1) not in found
    assert found[key_of(2)].offset == 7, "a duplicate that was cancelled hides no answer of its plan"


def test_answers_of_another_model_address_or_endpoint_are_not_given(runs: Path) -> None:
    refresh(planned(runs).decoded("0001.1", answer(0)))
    assert answers(runs)
    for name in ("provider", "model", "base_url", "endpoint"):
        assert not answers(runs, **{name: "another"})


def test_answers_whose_folder_is_gone_are_not_given(runs: Path) -> None:
    plan = planned(runs).decoded("0001.1", answer(0))
    refresh(plan)
    plan.path.rename(runs / "elsewhere")
    assert not answers(runs)


def test_a_copy_that_went_missing_says_nothing_of_the_answer(runs: Path) -> None:
    refresh(planned(runs).decoded("0001.1", answer(0)))
    refresh(planned(runs, NEW, 2.0).decoded("cache", failed(0, "missing", shard=0, source="cache")))
    assert answers(runs)[key_of(0)].plan_id == OLD


def test_without_a_catalog_there_are_no_answers(runs: Path) -> None:
    assert not answers(runs)


def test_a_plan_is_stale_until_the_catalog_has_seen_its_journal(runs: Path) -> None:
    plan = planned(runs)
    assert catalog.stale(runs).moved_on == (plan.path,)
    refresh(plan)
    assert catalog.stale(runs) == catalog.Stale((), ())
    plan.journal(50)
    assert catalog.stale(runs).moved_on == (plan.path,)
    refresh(plan, journal_bytes=20)  # the journal grew while it was read
    assert catalog.stale(runs).moved_on == (plan.path,)
    refresh(plan)
    assert catalog.stale(runs).moved_on == ()
    plan.path.rename(runs / ".elsewhere")
    assert catalog.stale(runs) == catalog.Stale((), (OLD,))


def test_plans_are_listed_with_their_rows_and_money(runs: Path) -> None:
    refresh(planned(runs, NEW, 2.0))
    refresh(
        planned(runs).decoded("0001.1", answer(0), answer(1, state="invalid")),
        state="finished",
        finished_at=5.0,
        actual_usd=Decimal("0.25"),
    )
    old, new = catalog.plans(runs)
    assert (old.plan_id, old.state, old.created_at, old.finished_at) == (OLD, "finished", 1.0, 5.0)
    assert (old.rows, old.ok, old.not_ok, old.actual_usd) == (3, 1, 1, Decimal("0.250000000"))
    assert old.estimated_usd == Decimal("0.500000000")
    assert (new.state, new.rows, new.ok, new.not_ok) == ("waiting", 3, 0, 0)
    assert catalog.plans(runs, "another") == []


def test_a_summary_says_what_the_catalog_says(runs: Path) -> None:
    plan = planned(runs).decoded("0001.1", answer(0), failed(1, "expired"))
    assert catalog.read_summary(plan.path) is None
    refresh(plan, shards=[ShardRow(1, 1, 0, "closed")])
    summary = catalog.read_summary(plan.path)
    assert summary is not None
    assert [summary.plan] == catalog.plans(runs)
    assert summary.runs[0].states == {"ok": 1, "expired": 1, "pending": 1}
    assert not summary.stale
    plan.journal(99)
    after = catalog.read_summary(plan.path)
    assert after is not None
    assert after.stale
    assert [path for path, _ in catalog.read_all(runs)] == [plan.path]


def test_a_summary_of_another_version_or_damaged_is_none(runs: Path) -> None:
    plan = planned(runs)
    for content in ("{", "[]", '{"version": 0}', '{"version": 1, "plan": {}}'):
        (plan.path / "summary.json").write_text(content)
        assert catalog.read_summary(plan.path) is None


def test_summaries_and_references_need_no_duckdb(runs: Path) -> None:
    refresh(planned(runs))
    script = (
        "import sys; from pathlib import Path; from batchling import catalog; runs = Path(sys.argv[1])\n"
        "catalog.read_all(runs); catalog.resolve(runs, 'intent'); catalog.du(runs)\n"
        "assert not {'duckdb', 'openai', 'hydra', 'tiktoken'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(runs)], check=False).returncode == 0


def test_a_reference_is_an_id_its_beginning_or_an_experiments_latest_plan(runs: Path) -> None:
    old, new = planned(runs), planned(runs, NEW)
    other = Plan(runs / "20261125-000000-my-test-bbbbbb", [Run([{"t": 1}], run_id="r-ffff00000000")]).write()
    assert catalog.resolve(runs, OLD) == catalog.Reference(old.path)
    assert catalog.resolve(runs, str(old.path)) == catalog.Reference(old.path)
    assert catalog.resolve(runs, "intent") == catalog.Reference(new.path)
    assert catalog.resolve(runs, "my-test") == catalog.Reference(other.path)
    assert catalog.resolve(runs, "20261123") == catalog.Reference(old.path)
    assert catalog.resolve(runs, "r-000000000001") == catalog.Reference(new.path, "r-000000000001")
    assert catalog.resolve(runs, "r-ff") == catalog.Reference(other.path, "r-ffff00000000")
    assert catalog.latest(runs) == other.path
    assert catalog.latest(runs, "intent") == new.path
    assert catalog.latest(runs, "test") is None


def test_a_reference_that_fits_several_or_none_is_refused(runs: Path) -> None:
    with pytest.raises(UsageError, match="there is no plan"):
        catalog.resolve(runs, "intent")
    planned(runs), planned(runs, NEW)
    with pytest.raises(UsageError, match=f"2026 fits 2: {OLD}, {NEW}"):
        catalog.resolve(runs, "2026")
    with pytest.raises(UsageError, match="called nothing"):
        catalog.resolve(runs, "nothing")


def test_sizes_are_told_by_part_and_keeping_answers_keeps_what_they_need(runs: Path) -> None:
    plan = planned(runs).shard(1, 0).decoded("0001.1", answer(0))
    (plan.path / "responses" / "0001.1.output.jsonl").write_bytes(b"r" * 1000)
    (plan.path / "requests" / "0001.jsonl").write_bytes(b"q" * 3000)
    (plan.path / "report.html").write_bytes(b"h" * 50)
    refresh(plan)
    space = catalog.du(runs)
    assert space.plans[0].plan_id == PLAN
    assert space.plans[0].parts["requests"] > 3000
    assert space.plans[0].parts["report.html"] == 50
    assert space.plans[0].total == sum(f.stat().st_size for f in plan.path.rglob("*") if f.is_file())
    assert space.catalog >= (runs / "catalog.duckdb").stat().st_size
    assert catalog.removable(plan.path, keep_answers=False) == [plan.path]
    gone = [str(p.relative_to(plan.path)) for p in catalog.removable(plan.path, keep_answers=True)]
    assert gone == ["records.parquet", "report.html", "requests/0001.jsonl", "data"]
