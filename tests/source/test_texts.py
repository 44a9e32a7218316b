"""A row's text, its id and its key depend on that row alone, in every format, and are what was written."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batchling import ExperimentManager
from batchling.config import from_values
from batchling.errors import DataError
from batchling.prompt import compile_prompt, value_text
from batchling.request import RequestBuilder
from batchling.source import read, snapshot
from batchling.spec import DataConfig
from tests.spreadsheets import workbook

COLUMNS = ("a", "b", "Name", "name")

QUICK = settings(
    max_examples=8,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # an example takes a while, and is small already
    suppress_health_check=[HealthCheck.too_slow],
)


class Number(str):
    """A number, as it is written."""


strings = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufdd0"), max_size=8),
    st.sampled_from(
        [
            "9:05",
            "2024-01-02",
            "1",
            "1.0",
            "true",
            "null",
            "NaN",
            "00123",
            "3F2504E0-4F89-11D3-9A0C-0305E82C3301",
            'say "1.50", 2.50',
            "[1.50]",
            "a\\",
            "2024-01-02 10:00:00",
            "日本",
            "\u2028",
            "12:00:00+02",
        ]
    ),
)
numbers = st.one_of(
    st.integers(-(2**130), 2**130).map(str),
    st.integers(-5, 5).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "-0.0", "1.0", "1.10", "2.5", "1e3", "1E+3", "1e-7", "0.1", "0.0000001", "1e400"]),
    st.sampled_from(["12345678901234567890", "9007199254740993", "170141183460469231731687303715884105728"]),
).map(Number)
scalars = st.one_of(st.none(), st.booleans(), strings, numbers)
keys = st.sampled_from(["x", "y", "Name", "name", "a b", "ü", 'q"', "9"])
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)


def document(value: Any, colon: str = ":", comma: str = ",") -> str:
    """JSON with each number as written."""
    if isinstance(value, Number):
        return str(value)
    if isinstance(value, dict):
        fields = [f"{json.dumps(k, ensure_ascii=False)}{colon}{document(v, colon, comma)}" for k, v in value.items()]
        return "{" + comma.join(fields) + "}"
    if isinstance(value, list):
        return "[" + comma.join(document(v, colon, comma) for v in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def expected(value: Any) -> str:
    """What a prompt shows."""
    if value is None:
        return ""
    if isinstance(value, str):
        return str(value)
    return document(value, ": ", ", ")


@st.composite
def tables(draw: st.DrawFn, cells: st.SearchStrategy[Any] = values) -> list[dict[str, Any]]:
    """Rows that name themselves; some lack columns, others have nulls."""
    rows = draw(st.lists(st.dictionaries(st.sampled_from(COLUMNS), cells), min_size=2, max_size=5))
    ids = draw(st.lists(st.integers(0, 10**6) | st.sampled_from([2**63, 10**19]), min_size=5, max_size=5, unique=True))
    kinds = draw(st.lists(st.sampled_from([Number, str]), min_size=5, max_size=5))
    return [{"id": kind(i), **row} for kind, i, row in zip(kinds, ids, rows, strict=False)]


def seen(data: Mapping[str, Any], folder: Path) -> dict[str, tuple[dict[str, str], str]]:
    """Row id → its text for each column that has one, and the key of a request that shows all columns."""
    made = snapshot(DataConfig(**data, id="id"), folder, folder / "out")
    names = [column.placeholders[0] for column in made.columns]
    found = {}
    for batch in read(made.path, names):
        for _, row_id, *cells in batch:
            values = {name: value for name, value in zip(names, cells, strict=True) if value_text(value)}
            texts = {name: value_text(value) for name, value in values.items()}
            found[row_id] = (texts, builder(tuple(sorted(values))).build([values[n] for n in sorted(values)]).key)
    return found


@cache
def builder(columns: tuple[str, ...]) -> RequestBuilder:
    """Of requests that show these columns."""
    content = "|".join(f"{name}={{{name}}}" for name in columns)
    document = {
        "name": "texts",
        "data": {"rows": [{"id": 1}]},
        "model": {"id": "m"},
        "provider": "local",
        "prompt": {"messages": [{"role": "user", "content": content}]},
    }
    return RequestBuilder(from_values(document, Path(__file__).parent), columns)


def alike(sources: Sequence[Mapping[str, Any]], together: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the rows are together, which is what each is alone."""
    among = seen(together, folder)
    alone: dict[str, Any] = {}
    for source in sources:
        alone |= seen(source, folder)
    assert among == alone
    return {row_id: texts for row_id, (texts, _) in among.items()}


def texts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    return {str(row["id"]): {k: text for k, v in row.items() if (text := expected(v))} for row in rows}


def files(
    folder: Path, suffix: str, contents: Sequence[str], together: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A source for each row, and one for all of them."""
    for number, content in enumerate([*contents, together]):
        (folder / f"{number}.{suffix}").write_text(content, encoding="utf-8", newline="")
    named = [{"path": f"{number}.{suffix}"} for number in range(len(contents) + 1)]
    return named[:-1], named[-1]


@QUICK
@given(tables())
def test_json_lines(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        lines = [document(row) + "\n" for row in rows]
        assert alike(*files(Path(name), "jsonl", lines, "".join(lines)), Path(name)) == texts_of(rows)


@QUICK
@given(tables())
def test_a_json_array(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        items = [document(row, ": ", ",\n ") for row in rows]
        alone = [f"[{item}]" for item in items]
        together = "[\n" + ",\n".join(items) + "\n]\n"
        assert alike(*files(Path(name), "json", alone, together), Path(name)) == texts_of(rows)


python_scalars = st.one_of(
    st.none(),
    st.booleans(),
    strings,
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
)


@QUICK
@given(tables(st.recursive(python_scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=3))))
def test_inline_rows(rows: list[dict[str, Any]]) -> None:
    rows = [{**row, "id": int(row["id"])} for row in rows]
    shown = {str(row["id"]): {k: text for k, v in row.items() if (text := value_text(v))} for row in rows}
    with tempfile.TemporaryDirectory() as name:
        assert alike([{"rows": [row]} for row in rows], {"rows": rows}, Path(name)) == shown


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """CSV; a value that is not there is nothing at all, an empty text is quoted."""
    lines = ["id,a,b,Name"]
    for row in rows:
        cells = [expected(row.get(name)) for name in ("id", "a", "b", "Name")]
        lines.append(",".join('"' + cell.replace('"', '""') + '"' for cell in cells))
    return "\n".join(lines) + "\n"


@QUICK
@given(tables())
def test_csv(rows: list[dict[str, Any]]) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in rows]
    with tempfile.TemporaryDirectory() as name:
        shown = alike(*files(Path(name), "csv", [table([row]) for row in rows], table(rows)), Path(name))
        assert shown == texts_of(rows)


@QUICK
@given(tables())
def test_sql_over_csv(rows: list[dict[str, Any]]) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in rows]
    with tempfile.TemporaryDirectory() as name:
        for number, some in enumerate([*([row] for row in rows), rows]):
            (Path(name) / f"{number}.csv").write_text(table(some), encoding="utf-8", newline="")
        reader = "read_csv('{}.csv', delim=',', quote='\"', escape='\"', header=true)"
        alone = [{"sql": f"SELECT * FROM {reader.format(number)}"} for number in range(len(rows))]
        assert alike(alone, {"sql": f"FROM {reader.format(len(rows))}"}, Path(name)) == texts_of(rows)


@QUICK
@given(tables())
def test_sql_over_json_lines(rows: list[dict[str, Any]]) -> None:
    rows = [{k: v for k, v in row.items() if k != "name"} for row in rows]
    with tempfile.TemporaryDirectory() as name:
        lines = [document(row) + "\n" for row in rows]
        files(Path(name), "jsonl", lines, "".join(lines))
        alone = [{"sql": f"SELECT * FROM '{number}.jsonl'"} for number in range(len(rows))]
        assert alike(alone, {"sql": f"SELECT * FROM '{len(rows)}.jsonl'"}, Path(name)) == texts_of(rows)


TABLE = """id,x,t,day,at
1,1,9:05,2024-01-02,2024-01-02 09:05:00
10,2.50,10:00,2024-01-03,2024-01-03 10:00:00
2,10,11:30,2024-02-03,2024-01-03 10:00:01
"""
OBJECTS = """{"id": 1, "x": 1, "m": {"a": 1.50}}
{"id": 10, "x": 2.50, "m": {"b": "k"}}
{"id": 2, "x": 10, "m": null}
"""


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT id, x AS a FROM 'r.csv'", ["1", "10", "2.50"]),
        ("SELECT id, x AS a FROM 'r.csv' WHERE x > 1.5 ORDER BY x DESC", ["10", "2.50"]),
        ("SELECT id, x AS a FROM 'r.csv' ORDER BY 2", ["1", "2.50", "10"]),
        ("SELECT x AS a, id FROM 'r.csv' t WHERE t.x BETWEEN 2 AND 20 ORDER BY id", ["10", "2.50"]),
        ("SELECT id, x || ' mg' AS a FROM 'r.csv' WHERE x IN (2.5, 10)", ["10 mg", "2.50 mg"]),
        ("SELECT id, x * 2 AS a FROM 'r.csv' WHERE id = 10", ["5.0"]),
        ("SELECT 1 AS id, sum(x) AS x, max(x) AS a FROM read_csv('r.csv')", ["10.0"]),
        ("WITH q AS (SELECT * FROM 'r.csv') SELECT id, x AS a FROM q WHERE x > 2", ["10", "2.50"]),
        ("SELECT id, upper(x) AS x, CASE WHEN x > 2 THEN x ELSE 'few' END AS a FROM 'r.csv'", ["few", "10", "2.50"]),
        ("SELECT id, coalesce(x, 'none') AS a FROM 'r.csv' WHERE hour(\"at\") = 9", ["1"]),
        ("SELECT id, \"at\" AS a FROM 'r.csv' WHERE \"at\" > TIMESTAMP '2024-01-03 10:00:00'", ["2024-01-03 10:00:01"]),
        ("SELECT id, t AS a FROM 'r.csv' WHERE t < TIME '10:00' AND year(day) = 2024", ["9:05"]),
        ("SELECT l.id, l.x AS a FROM 'r.csv' l JOIN 'r.csv' r ON l.x = r.x WHERE r.x < 2.6", ["1", "2.50"]),
        ("SELECT x AS id, x AS a, count(*) AS n FROM 'r.csv' GROUP BY x HAVING sum(x) > 2", ["10", "2.50"]),
        ("SELECT id, x AS a FROM 'r.jsonl' WHERE x > 1.5 ORDER BY x", ["2.50", "10"]),
        ("SELECT id, m AS a FROM 'r.jsonl' WHERE m.b = 'k' OR m.a > 1", ['{"a": 1.50}', '{"b": "k"}']),
        ("SELECT id, m.b AS a FROM read_json_auto('r.jsonl') WHERE m.b IS NOT NULL", ["k"]),
        ("SELECT id, x AS a FROM read_csv('r.csv', types={'x': 'DOUBLE'})", ["1.0", "10.0", "2.5"]),
    ],
)
def test_a_query_computes_with_types_and_passes_texts_on(tmp_path: Path, sql: str, expected: list[str]) -> None:
    (tmp_path / "r.csv").write_text(TABLE, encoding="utf-8")
    (tmp_path / "r.jsonl").write_text(OBJECTS, encoding="utf-8")
    assert [text for _, text in shown(tmp_path, sql=sql, id="id")] == expected


def test_a_late_value_of_a_file_that_a_query_names_is_not_rounded(tmp_path: Path) -> None:
    lines = "".join(f"{i},{i}\n" for i in range(25_000))
    (tmp_path / "r.csv").write_text(f"id,a\n{lines}25000,1.75\n", encoding="utf-8")
    assert shown(tmp_path, sql="SELECT * FROM 'r.csv' WHERE id >= 24999", id="id") == [
        ("24999", "24999"),
        ("25000", "1.75"),
    ]


PARQUET = {
    "FLOAT": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "DOUBLE": st.floats(allow_nan=False, allow_infinity=False),
    "DECIMAL(20,3)": st.decimals(-(10**9), 10**9, places=3),
    "HUGEINT": st.integers(-(10**37), 10**37),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "FLOAT[]": st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=3),
    "STRUCT(x FLOAT, y HUGEINT)": st.fixed_dictionaries(
        {"x": st.floats(width=32, allow_nan=False, allow_infinity=False), "y": st.integers(0, 10**30)}
    ),
    "DATE": st.dates(),
    "TIME": st.times(),
    "TIMESTAMP": st.datetimes(),
    "UUID": st.uuids().map(str),
    "BOOLEAN": st.booleans(),
    "VARCHAR": strings,
}


@settings(QUICK, max_examples=3)
@pytest.mark.parametrize("kind", PARQUET)
@given(data=st.data())
def test_parquet(kind: str, data: st.DataObject) -> None:
    cells = data.draw(st.lists(st.none() | PARQUET[kind], min_size=2, max_size=4))
    with tempfile.TemporaryDirectory() as name:
        con = duckdb.connect()
        con.execute(f"CREATE TABLE t (id BIGINT, a {kind})")
        con.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(cells)))
        con.execute(f"COPY t TO '{name}/all.parquet'")
        for number in range(len(cells)):
            con.execute(f"COPY (SELECT * FROM t WHERE id = {number}) TO '{name}/{number}.parquet'")
        alone = [{"path": f"{number}.parquet"} for number in range(len(cells))]
        alike(alone, {"path": "all.parquet"}, Path(name))


def one(tmp_path: Path, name: str, content: str, template: str = "{a}", **data: Any) -> list[tuple[str, str]]:
    """Row id and text of each row."""
    (tmp_path / name).write_text(content, encoding="utf-8")
    return shown(tmp_path, template, path=name, **data)


def shown(tmp_path: Path, template: str = "{a}", **data: Any) -> list[tuple[str, str]]:
    made = snapshot(DataConfig(**data), tmp_path, tmp_path / "out")
    prompt = compile_prompt([("user", template)], "format", [n for c in made.columns for n in c.placeholders])
    rows = (row for batch in read(made.path, prompt.columns) for row in batch)
    return [(row_id, *prompt.texts(dict(zip(prompt.columns, cells, strict=True)))) for _, row_id, *cells in rows]  # type: ignore[misc]


def test_the_types_of_json_serve_conditions_and_keep_out_of_texts(tmp_path: Path) -> None:
    lines = '{"id": 1, "a": {"x": 1.50}}\n{"id": 2.50, "a": {"x": 3, "y": "9:05"}}\n{"id": 3, "a": null}\n'
    assert one(tmp_path, "r.jsonl", lines, id="id", where="a.x > 1") == [
        ("1", '{"x": 1.50}'),
        ("2.50", '{"x": 3, "y": "9:05"}'),
    ]
    assert one(tmp_path, "r.jsonl", lines, "{a.x}/{a.y}", id="id") == [("1", "1.50/"), ("2.50", "3/9:05"), ("3", "/")]


def test_a_template_calculates_with_numbers_that_keep_their_digits(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text('{"a": 1.50, "m": {"k": 2}}\n{"a": 2, "m": {"l": 3}}\n', encoding="utf-8")
    made = snapshot(DataConfig(path="r.jsonl"), tmp_path, tmp_path / "out")
    prompt = compile_prompt(
        [("user", "{{ a }} {{ a * 2 }} {{ m.k }} {{ a|tojson }} {{ [a]|tojson(indent=0) }}")], "jinja", ["a", "m"]
    )
    rows = [
        dict(zip(prompt.columns, row[2:], strict=True)) for batch in read(made.path, prompt.columns) for row in batch
    ]
    assert [prompt.texts(row) for row in rows] == [["1.50 3.0 2 1.50 [\n1.50\n]"], ["2 4  2 [\n2\n]"]]


def test_a_float_of_32_bits_shows_its_own_digits(tmp_path: Path) -> None:
    duckdb.connect().execute(
        "COPY (SELECT 0.1::FLOAT AS a, [0.2::FLOAT] AS l, {'x': 0.3::FLOAT, 't': TIMESTAMPTZ '2024-01-01 00:00:00+00'} AS s) "
        f"TO '{tmp_path}/r.parquet'"
    )
    assert shown(tmp_path, "{a} {l} {s}", path="r.parquet", id="a") == [
        ("0.1", '0.1 [0.2] {"x": 0.3, "t": "2024-01-01 00:00:00+00"}')
    ]


def test_names_that_differ_in_case_are_two_placeholders(tmp_path: Path) -> None:
    lines = '{"Name": "A"}\n{"name": 1.0}\n'
    assert one(tmp_path, "r.jsonl", lines, "{Name}|{name}") == [("0", "A|"), ("1", "|1.0")]
    assert one(tmp_path, "r.jsonl", lines, "{Name}|{name_1}") == [("0", "A|"), ("1", "|1.0")]


SHEET = """<?xml version="1.0"?>
<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"
 office:version="1.2"><office:body><office:spreadsheet>{tables}</office:spreadsheet></office:body></office:document-content>"""


def spreadsheet(path: Path, **sheets: Sequence[Sequence[str]]) -> str:
    """An OpenDocument spreadsheet; a cell is written as its XML attributes and its text: `float:3`."""
    tables = ""
    for name, rows in sheets.items():
        tables += f'<table:table table:name="{name}">'
        for row in rows:
            tables += "<table:table-row>"
            for cell in row:
                kind, _, value = cell.partition(":")
                given = {"date": "date-value", "time": "time-value", "boolean": "boolean-value"}.get(kind, "value")
                held = f' office:value-type="{kind}"' + (f' office:{given}="{value}"' if kind != "string" else "")
                tables += f"<table:table-cell{held if kind else ''}><text:p>{value}</text:p></table:table-cell>"
            tables += "</table:table-row>"
        tables += "</table:table>"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        file.writestr("META-INF/manifest.xml", "<manifest/>")
        file.writestr("content.xml", SHEET.format(tables=tables))
    return path.name


def test_a_spreadsheet(tmp_path: Path) -> None:
    head = ["string:id", "string:a", "string:Unit Price", "string:day", "string:ok"]
    name = spreadsheet(
        tmp_path / "r.ods",
        First=[
            head,
            ["string:007", "float:3", "float:2.5", "date:2024-01-02", "boolean:true"],
            ["float:8", "string:x", "float:4", "date:2024-01-02T09:05:00", ""],
        ],
        Second=[["string:A report"], head, ["float:1", "float:0.1", "", "", ""]],
    )
    template = "{a}|{Unit Price}|{day}|{ok}"
    assert shown(tmp_path, template, path=name, id="id") == [
        ("007", "3|2.5|2024-01-02|true"),
        ("8", "x|4|2024-01-02 09:05:00|"),
    ]
    second: dict[str, Any] = {"path": name, "options": {"sheet": "Second"}}
    with pytest.raises(DataError, match=r"set data.options: \{skip: 1\}"):
        shown(tmp_path, "{a}", **second)
    second["options"]["skip"] = 1
    assert shown(tmp_path, "{a}", **second) == [("0", "0.1")]
    with pytest.raises(DataError, match="did you mean 'Second'"):
        shown(tmp_path, path=name, options={"sheet": "second"})
    (tmp_path / "no.xlsx").write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"cannot be read.*no\.xlsx"):
        shown(tmp_path, path="no.xlsx")


def test_the_quick_starts_placeholders_are_shown_as_they_are_given(tmp_path: Path) -> None:
    placeholders: list[dict[str, Any]] = [
        {"a": 1, "b": "9:05", "c": Decimal("1.10")},
        {"a": 2.5, "b": "10:00", "c": date(2024, 1, 2)},
        {"a": 10**30, "b": None, "c": (1, 2.0, {"x": None})},
    ]
    lines = tmp_path / "input.jsonl"
    ExperimentManager(tmp_path).start_experiment(
        experiment_id="quick",
        model="m",
        provider="local",
        template_messages=[{"role": "user", "content": "{a}|{b}|{c}"}],
        placeholders=placeholders,
        input_file_path=lines,
    ).setup()
    sent = [json.loads(line)["body"]["messages"][0]["content"] for line in lines.read_text().splitlines()]
    assert sent == ["1|9:05|1.10", "2.5|10:00|2024-01-02", f'{10**30}||[1, 2.0, {{"x": null}}]']


def test_an_integer_that_no_config_can_hold_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 1, a: an integer of more than 64 bits; quote it"):
        DataConfig(rows=[{"a": 1}, {"a": [10**30]}])


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('{"a": NaN}\n{"a": -Infinity}\n', ["NaN", "-Infinity"]),
        ('{"a": NaN}\n{"a": 1.50}\n{"a": "x"}\n', ["NaN", "1.50", "x"]),
        ('{"a": {"x": NaN}}\n{"a": [Infinity, 1.10]}\n', ['{"x": NaN}', "[Infinity, 1.10]"]),
        (
            '{"a": {"x": "say \\"k\\": 1", "y": 1}}\n{"a": {"z": "NaN"}}\n',
            ['{"x": "say \\"k\\": 1", "y": 1}', '{"z": "NaN"}'],
        ),
    ],
)
def test_numbers_that_are_none_keep_their_names_whatever_stands_beside_them(
    tmp_path: Path, lines: str, expected: list[str]
) -> None:
    together = one(tmp_path, "r.jsonl", lines)
    assert [text for _, text in together] == expected
    for line, text in zip(lines.splitlines(), expected, strict=True):
        assert one(tmp_path, "r.jsonl", line + "\n") == [("0", text)]


@pytest.mark.parametrize(
    "value", ['{"x": 1, "x": 2}', '[{"y": {"x": 1, "k": [], "x": 2}}]', '{"x" : "\\"a\\": 1", "x":2}']
)
def test_a_key_that_stands_twice_inside_a_value_is_an_error_and_not_half_a_value(tmp_path: Path, value: str) -> None:
    with pytest.raises(DataError, match=r"'x' appears twice.*row '1'"):
        one(tmp_path, "r.jsonl", '{"a": {"x": 3}}\n{"a": ' + value + "}\n")
    with pytest.raises(DataError, match=r"'x' appears twice"):
        one(tmp_path, "r.jsonl", '{"a": ' + value + "}\n")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.jsonl", '{"a": 1}\nnull\n', "a row is null"),
        ("r.json", '[{"a": 1}, null]', "a row is null"),
        ("r.json", '[{"a": 1}, 2]', "item 2 of the array is not an object: 2"),
        ("r.json", "[]", "no rows"),
        # Python 3.13 points at the comma, the versions before it at what follows.
        ("r.json", '[\n {"a": 1},\n {"a": 2},\n]', "line [34]"),
        ("r.json", '[\n {"a": 1},\n {"a": 2}\n', "the array is not JSON"),
    ],
)
def test_what_is_wrong_with_a_row_or_an_array_is_said(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        one(tmp_path, name, content)


def test_a_decimal_inside_a_value_is_a_number_with_its_digits(tmp_path: Path) -> None:
    duckdb.connect().execute(
        "COPY (SELECT 1.10::DECIMAL(4,2) AS a, [1.00::DECIMAL(4,2)] AS l, {'x': -0.50::DECIMAL(4,2)} AS s, "
        f"MAP {{'k': [2.50::DECIMAL(4,2)]}} AS m) TO '{tmp_path}/r.parquet'"
    )
    assert shown(tmp_path, "{a} {l} {s} {m}", path="r.parquet") == [
        ("0", '1.10 [1.00] {"x": -0.50} {"k": [2.50]}'),
    ]


def test_the_first_sheet_that_can_be_seen_is_read_and_large_numbers_are_plain(tmp_path: Path) -> None:
    name = workbook(
        tmp_path / "r.xlsx",
        [
            ("Old", "hidden", "<row><c><v>1</v></c></row>"),
            (
                "New",
                "visible",
                f"<row>{text('a')}{text('b')}</row>"
                '<row><c><v>123456789012345680</v></c><c t="b"><v>1</v></c></row>'
                '<row><c><v>1E-05</v></c><c t="e"><v>#N/A</v></c></row>'
                f"<row/><row>{text('1.10')}{text(' x ')}</row>",
            ),
            ("Empty", "visible", ""),
        ],
    )
    assert shown(tmp_path, "{a}|{b}", path=name) == [
        ("0", "123456789012345680|true"),
        ("1", "0.00001|"),
        ("2", "1.10| x "),
    ]
    with pytest.raises(DataError, match=r"sheet Empty.*\n.*sheet: New"):
        shown(tmp_path, path=name, options={"sheet": "Empty"})


def text(content: str) -> str:
    """A cell of text."""
    return f'<c t="inlineStr"><is><t xml:space="preserve">{content}</t></is></c>'


@pytest.mark.parametrize(("encoding", "advice"), [("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be")])
def test_utf_16_without_a_mark_is_told_and_the_advice_works(tmp_path: Path, encoding: str, advice: str) -> None:
    (tmp_path / "r.csv").write_bytes("a,b\nü,1\n".encode(encoding))
    with pytest.raises(DataError, match=rf"NUL bytes.*\n.*encoding: {advice}"):
        shown(tmp_path, path="r.csv")
    assert shown(tmp_path, path="r.csv", options={"encoding": advice}) == [("0", "ü")]


@pytest.mark.parametrize("number", [2**127 - 1, -(2**127) + 1, 2**127, 10**38, 10**38 - 1, 10**60])
def test_an_integer_of_39_digits_in_a_file_that_a_query_names_keeps_its_text(tmp_path: Path, number: int) -> None:
    (tmp_path / "a.csv").write_text(f"id,a\nx,{number}\n")
    made = snapshot(DataConfig(sql="SELECT * FROM 'a.csv'", id="id"), tmp_path, tmp_path / "out")
    ((_, row_id, value),) = next(read(made.path, ["a"]))
    assert (row_id, value_text(value)) == ("x", str(number))
