"""Metrics that could take for ever or build gigabytes are ended; ordinary ones never leave this process."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from batchling import confined, duck
from batchling.catalog import check
from batchling.catalog.evaluate import is_tame
from batchling.errors import ConfigError
from batchling.metrics import Kind
from batchling.tame import tame

DATA = "STRUCT(text VARCHAR, label VARCHAR, n INTEGER)"


def _nested(before: str, after: str, times: int) -> str:
    return before * times + "text" + after * times


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    with duck.connect() as con:
        con.execute(f"COPY (SELECT {{text: 'a', label: 'b', n: 1}} AS data FROM range(3000)) TO '{path}'")
    return path


@pytest.mark.parametrize(
    "expression",
    [
        "output.label = data.label",
        "1000 * cost_usd",
        "avg((output.label = data.label)::INT) FILTER (data.label IS NOT NULL)",
        "lower(trim(output.label)) IN ('a', 'b') AND length(text) BETWEEN 1 AND 20",
        "replace(output.label, ',', '')::DOUBLE > 3",
        "regexp_replace(output.label, '[^0-9]', '', 'g') = '12'",
        "CASE WHEN output.label LIKE 'x%' THEN 1 ELSE 0 END",
        "coalesce(data.n, 0) + length(output.label || data.label)",
        " + ".join(f"(output.label = '{i}')::INT" for i in range(20)),
        " + ".join(f"CASE WHEN data.n > {i} THEN {i} ELSE 0 END" for i in range(20)),
        " + ".join(["coalesce(data.n, 0)", "length(text)", "data.n * 2", "1.5", "data.n::DECIMAL(9, 2)"] * 4),
        "list_contains(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i'], output.label)",
        "list_contains([1, 2, 3, 4, 5, 6, 7, 8, 9], data.n)",
        "regexp_matches(text, '[0-9]+')",
        "len(output.label::VARCHAR[]) + text::TIMESTAMP::DATE::VARCHAR::JSON::VARCHAR::BIGINT",
        "syntax error (",
    ],
)
def test_an_ordinary_expression_is_evaluated_here(expression: str) -> None:
    with duck.connect() as con:
        assert is_tame(con, expression)


@pytest.mark.parametrize(
    "expression",
    [
        "length(repeat('x', 1000000000)) > 0",
        "len(range(1000000000)) > 0",
        "length(lpad(text, 1000000000, 'x'))",
        "replace(replace(text, 'a', 'aaaaaaaaaa'), 'a', 'aaaaaaaaaa') = 'b'",
        "regexp_replace(text, '', 'xxxxxxxxxxxxxxxxxxxxxxxx', 'g') = 'b'",
        "length(string_agg(text, ''))",
        "length(printf('%1000000000d', 1))",
        "levenshtein(text, text)",
        "len(list_transform([1], lambda x: x)) > 0",
        "text::INTEGER[1000000] IS NULL",
        "length(text::BLOB::BIT::VARCHAR::BLOB::BIT::VARCHAR)",  # eight times as long, each time
        "text::BIGNUM IS NULL",  # digits squared, in one call that nothing ends
        "text::JSON::STRUCT(a1 INT, a2 INT, a3 INT, a4 INT)[] IS NULL",
        "text::UNION(a BIGNUM) IS NULL",
        f"length({_nested('to_json(', ')::VARCHAR', 24)})",
        f"length({_nested('[', ']::VARCHAR', 24)})",
        f"length({_nested('({a: ', '}::VARCHAR)', 24)})",
        f"length({'||'.join(['text'] * 250)})",
        f"length(concat({', '.join(['text'] * 250)}))",
        f"len({'+'.join(['output.list'] * 100)})",
        "regexp_matches(text, data.label)",
        "(" * 30_000 + "1" + ")" * 30_000,
    ],
)
def test_anything_else_is_not(expression: str) -> None:
    with duck.connect() as con:
        assert not is_tame(con, expression)


def test_a_query_may_use_a_column_twice_only_so_often() -> None:
    def of(sql: str) -> bool:
        with duck.connect() as con:
            row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
        assert row is not None
        return tame(json.loads(row[0]))

    assert of("SELECT id, text || label AS both FROM 'rows.csv' WHERE length(text) > 3 ORDER BY id")
    assert not of("SELECT 'x' AS a0" + "".join(f", a{i} || a{i} AS a{i + 1}" for i in range(30)))
    assert not of("SELECT l AS a0" + "".join(f", a{i} + a{i} AS a{i + 1}" for i in range(30)) + " FROM t")
    assert not of("SELECT * FROM a, b, c")
    assert not of("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT * FROM t")
    assert not of("SELECT * FROM range(1000000000000)")


def test_a_rare_function_gives_what_it_gives(rows: Path) -> None:
    kinds = check({"near": "levenshtein(data.text, data.label) < 3", "n": "data.n"}, None, DATA, rows)
    assert kinds == {"near": Kind.SHARE, "n": Kind.MEAN}
    with pytest.raises(ConfigError, match=r"metrics\.odd: .*\nReferenced column \"nothing\""):
        check({"odd": "levenshtein(nothing, text) > 1"}, None, DATA, rows)


@pytest.mark.parametrize(
    ("expression", "limit"),
    [
        ("length(repeat('x', 1000000000)) > 0", "limits.memory_mb"),
        ("sum(length(lpad(data.text, (100000000 + data.n)::INT, 'x')))", "metrics.bomb cannot be evaluated"),
    ],
)
def test_a_bomb_is_an_error_that_names_the_limit(expression: str, limit: str, rows: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        check({"bomb": expression}, None, DATA, rows, memory_mb=256)
    assert limit in caught.value.message
    assert caught.value.key == "metrics.bomb"
    assert time.monotonic() - begun < 30  # 5 s of its own, on a machine that does other things


def test_a_statement_has_a_time_limit_of_its_own() -> None:
    with duck.connect() as con:
        con.execute("CREATE TABLE t AS SELECT range AS n FROM range(3000)")
        with pytest.raises(duck.TookTooLong) as caught, duck.within(con, 0.2):
            con.execute("SELECT count(*) FROM t a, t b, t c, t d WHERE a.n + b.n + c.n + d.n = 7").fetchall()
        assert not duck.interrupted(caught.value)
        with duck.within(con, 60):
            assert con.execute("SELECT count(*) FROM t").fetchone() == (3000,)


def _loop() -> None:
    while True:
        pass


def children() -> set[str]:
    """Processes of this one, dead ones that nobody waited for among them. Nothing where there is no /proc."""
    return {pid for path in Path("/proc/self/task").glob("*/children") for pid in path.read_text().split()}


def test_an_interrupt_ends_a_confined_call_and_its_process() -> None:
    # As a notebook's kernel does it: the handler raises KeyboardInterrupt in the main thread.
    others = children()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            confined.call(_loop)
        assert children() <= others, "it is gone, and was waited for"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _grow() -> int:
    return len(bytearray(4 << 30))


def _fail() -> None:
    raise ConfigError("no", where="here", key="a.b")


def test_a_confined_call_is_ended_at_its_limits() -> None:
    with pytest.raises(confined.Exceeded) as caught:
        confined.call(_loop, seconds=1.0)
    assert caught.value.kind == "time"
    with pytest.raises(confined.Exceeded) as caught:
        confined.call(_grow, memory_mb=256)
    assert caught.value.kind == "memory"
    with pytest.raises(ConfigError) as error:
        confined.call(_fail)
    assert (error.value.message, error.value.where, error.value.key) == ("no", "here", "a.b")
