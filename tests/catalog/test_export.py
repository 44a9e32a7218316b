from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from batchling import catalog, duck, export
from batchling.catalog import Reference
from batchling.duck import literal
from batchling.errors import DiskError, UsageError
from batchling.printable import printable

from .conftest import PLAN, Plan, Run, answer, failed


@pytest.fixture
def filled(runs: Path) -> Plan:
    rows = [{"text": "=1+1", "n": -5, "more": {"a": [1]}}, {"text": "-5", "n": -2, "more": None}]
    plan = Plan(
        runs / PLAN,
        [
            Run(rows, run_id="r-b", overrides=["model=gpt-5-mini", "prompt=few shot"]),
            Run(rows, run_id="r-a", names=["a0", "a1"]),
        ],
    ).write()
    plan.decoded(
        "0001.1", answer(0, output={"label": "@SUM(A1)"}, text="+x\u2028\u0085"), answer(1), failed("a0", "expired")
    )
    catalog.refresh(plan.root, plan.path, state="finished")
    return plan


def exported(plan: Plan, form: export.Format, run_id: str | None = None) -> bytes:
    stream = io.BytesIO()
    assert export.export(Reference(plan.path, run_id), stream, form) == (2 if run_id else 4)
    return stream.getvalue()


def test_jsonl_has_a_line_for_each_record_in_order(filled: Plan) -> None:
    content = exported(filled, "jsonl")
    assert content.isascii() or not {"\u2028", "\u0085"} & set(content.decode())
    records = [json.loads(line) for line in content.splitlines()]
    assert [(r["run_id"], r["row_id"], r["state"]) for r in records] == [
        ("r-b", "row-0", "ok"),
        ("r-b", "row-1", "ok"),
        ("r-a", "row-0", "expired"),
        ("r-a", "row-1", "pending"),
    ]
    assert records[0]["output"] == {"label": "@SUM(A1)"}
    assert records[0]["data"] == {"text": "=1+1", "n": -5, "more": {"a": [1]}}
    assert records[0]["text"] == "+x\u2028\u0085"
    assert records[0]["overrides"] == "model=gpt-5-mini 'prompt=few shot'"
    assert records[0]["cost_usd"] == 0.0001


def test_csv_has_a_column_for_each_field_and_runs_nothing_in_a_spreadsheet(filled: Plan) -> None:
    rows = list(csv.DictReader(io.StringIO(exported(filled, "csv").decode(), newline="")))
    first, second = rows[:2]
    assert first["output.label"] == "'@SUM(A1)"
    assert first["data.text"] == "'=1+1"
    assert first["text"] == "'+x\u2028\u0085"
    assert first["data.n"] == "-5"
    assert first["data.more"] == '{"a":[1]}'
    assert second["data.text"] == "-5"
    assert rows[2]["output.label"] == rows[2]["text"] == ""


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "-", "+49 170"]
)
def test_what_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    assert export.safe_cell(text) == "'" + text


@pytest.mark.parametrize("text", ["", "card", "a=b", "-5", "+5", "-5.25", "+1e-7", "-.5", "'=1"])
def test_what_it_would_not_run_stays(text: str) -> None:
    assert export.safe_cell(text) == text


def test_parquet_is_typed(filled: Plan, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_bytes(b"an older file")
    assert export.export(Reference(filled.path), target, export.format_of(target)) == 4
    with duck.connect() as con:
        file = f"read_parquet({literal(str(target))})"
        assert con.execute(f"SELECT output.label, data.n, model FROM {file} WHERE row_id = 'row-0'").fetchall() == [
            ("@SUM(A1)", -5, "gpt-5-mini"),
            (None, -5, "gpt-5-mini"),
        ]
    assert [p.name for p in tmp_path.iterdir() if p.name.endswith(".part")] == []


def test_a_run_is_exported_alone(filled: Plan) -> None:
    for form in export.FORMATS:
        exported(filled, form, "r-a")


def test_a_number_that_json_has_not_becomes_null(runs: Path) -> None:
    plan = Plan(runs / PLAN, [Run([{"x": 1.5, "name": "NaN is not Infinity"}])]).write()
    parquet = next((plan.path / "data").iterdir())
    with duck.connect() as con:
        con.execute(
            "COPY (SELECT 0::BIGINT AS row, 'row-0' AS row_id, {'x': 'nan'::DOUBLE, 'big': 12345678901234567890123::HUGEINT,"
            f" 'name': 'NaN is not Infinity'}} AS data) TO {literal(str(parquet))} (FORMAT parquet)"
        )
    catalog.refresh(plan.root, plan.path, state="waiting")
    stream = io.BytesIO()
    export.export(Reference(plan.path), stream, "jsonl")
    record = json.loads(stream.getvalue(), parse_constant=pytest.fail)
    assert record["data"]["x"] is None
    assert record["data"]["name"] == "NaN is not Infinity"


def test_what_cannot_be_exported_is_told(filled: Plan, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="cannot be written"):
        export.export(Reference(filled.path), tmp_path / "no" / "folder.csv", "csv")
    with pytest.raises(UsageError, match="does not name a format"):
        export.format_of(Path("out.xlsx"))
    filled.path.joinpath("records.parquet").unlink()
    with pytest.raises(UsageError, match="has no records yet"):
        export.export(Reference(filled.path), io.BytesIO(), "csv")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("a\rb", "a\\rb"),
        ("left\u202eright", "left\\u202eright"),
        ("nul\x00", "nul\\x00"),
        ("tab\tand\nline, é, 漢字, 🙂", "tab\tand\nline, é, 漢字, 🙂"),
    ],
)
def test_escape_sequences_are_shown_not_obeyed(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize("opener", ["\uff1d1+1", "\uff0b1+A1", "\uff0d1+A1", "\uff20SUM(1)", "\ufe661", "\tx", "\rx"])
@pytest.mark.parametrize("unseen", ["", "\u200b", "\ufeff", "\u2060\u200d", "\x00", "\u00ad"])
def test_openers_that_are_wide_or_hidden_are_quoted(opener: str, unseen: str) -> None:
    assert export.safe_cell(unseen + opener) == "'" + unseen + opener
    assert export.safe_cell(unseen + "=1+1") == "'" + unseen + "=1+1"
