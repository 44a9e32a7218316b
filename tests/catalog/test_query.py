from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from batchling import catalog
from batchling.catalog import sql
from batchling.errors import UsageError

from .conftest import Plan, answer


@pytest.fixture
def filled(plan: Plan) -> Path:
    plan.decoded("0001.1", answer(0), answer(1), answer(2, state="invalid"))
    catalog.refresh(plan.root, plan.path, state="finished", finished_at=1_790_000_000.25)
    return plan.root


def test_rows_come_with_their_columns_and_types(filled: Path) -> None:
    with catalog.query(filled, "select state, count(*) as n from records group by 1 order by 1;") as result:
        assert (result.columns, result.types) == (("state", "n"), ("VARCHAR", "BIGINT"))
        assert list(result) == [("invalid", 1), ("ok", 2)]


def test_times_are_in_utc_wherever_they_are(filled: Path) -> None:
    sql_text = "select finished_at, finished_at as finished_at, [finished_at] as l, 1.5::decimal(9,3) as d from plans"
    with catalog.query(filled, sql_text) as result:
        moment = datetime.fromtimestamp(1_790_000_000.25, UTC)
        assert result.columns[0] == "finished_at"
        assert result.types[0] == "TIMESTAMP WITH TIME ZONE"
        row = next(iter(result))
    assert row[:2] == (moment, moment)
    assert str(row[2]).strip("['").startswith("2026-09-21 14:13:20.25+00")
    assert sql.as_json(row[0]) == moment.isoformat()
    assert row[3] == Decimal("1.5")


@pytest.mark.parametrize(
    "statement", ["show tables", "describe records", "explain select 1", "summarize records", "from plans"]
)
def test_other_statements_that_only_read_work_too(filled: Path, statement: str) -> None:
    with catalog.query(filled, statement) as result:
        assert list(result)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("select nope from records", "nope"),
        ("selec 1", "syntax error"),
        ("delete from records", "read-only"),
        ("drop table records", "read-only"),
        ("attach 'x.db'", "read-only"),
        ("set threads = 1", "read-only"),
        ("select 1; select 2", "one SQL statement, not 2"),
        ("", "one SQL statement, not 0"),
        ("select 'a'::int from records", "Could not convert"),
        ("select * from read_csv('nowhere.csv')", "nowhere.csv"),
    ],
)
def test_errors_are_told_in_duckdbs_words(filled: Path, statement: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(catalog.query(filled, statement))


def test_a_python_variable_is_not_a_table(filled: Path) -> None:
    secret = [1]
    with pytest.raises(UsageError, match="secret"):
        catalog.query(filled, "from secret")
    assert secret


def test_the_catalog_is_let_go_at_once_or_at_the_end(filled: Path, plan: Plan) -> None:
    small = catalog.query(filled, "from records")
    catalog.refresh(plan.root, plan.path, state="finished", force=True)
    assert len(list(small)) == 3
    with catalog.query(filled, "from range(25_000)") as large:
        assert sum(1 for _ in large) == 25_000
    with catalog.query(filled, "from range(25_000)") as large:
        next(iter(large))
    catalog.refresh(plan.root, plan.path, state="finished", force=True)


def test_values_become_json() -> None:
    assert sql.as_json({"a": (Decimal("1.5"), float("nan"), None, True, b"x")}) == {
        "a": [1.5, None, None, True, "b'x'"]
    }
    assert sql.parsed('{"a": 1}') == {"a": 1}
    assert sql.parsed(None) is None
