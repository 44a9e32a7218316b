"""The snapshot keeps the rows that the config names, in order, under their names."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchling.errors import DataError
from batchling.source import Column, Snapshot, columns_of, read, snapshot
from batchling.spec import DataConfig


def take(tmp_path: Path, **data: Any) -> Snapshot:
    needed = data.pop("needed", ())
    lookup = data.pop("run_lookup", None)
    return snapshot(DataConfig(**data), tmp_path, tmp_path / "out", run_lookup=lookup, needed=needed)


def rows(snap: Snapshot, *columns: str) -> list[tuple[Any, ...]]:
    names = columns or tuple(c.name for c in snap.columns)
    return [row for batch in read(snap.path, names) for row in batch]


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path.name


def test_the_file_holds_ordinal_id_and_a_struct_of_all_columns(tmp_path: Path) -> None:
    snap = take(tmp_path, path=write(tmp_path / "a.csv", "ticket,text\nT1,hello\nT2,world\n"), id="ticket")
    table = duckdb.connect().execute(f"SELECT * FROM '{snap.path}'")
    assert [(d[0], str(d[1])) for d in table.description] == [
        ("row", "BIGINT"),
        ("row_id", "VARCHAR"),
        ("data", 'STRUCT(ticket VARCHAR, "text" VARCHAR)'),
    ]
    assert table.fetchall() == [
        (0, "T1", {"ticket": "T1", "text": "hello"}),
        (1, "T2", {"ticket": "T2", "text": "world"}),
    ]
    assert snap.rows == 2
    assert snap.path.name == snap.sha256[:16] + ".parquet"
    assert [p.name for p in snap.path.parent.iterdir()] == [snap.path.name]  # nothing temporary is left


def test_without_an_id_a_row_is_named_by_its_position_in_the_source(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "text\na\nbb\nccc\ndddd\n")
    snap = take(tmp_path, path=name, where="length(text) > 1", limit=2)
    assert rows(snap) == [(0, "1", "bb"), (1, "2", "ccc")]


def test_a_csv_column_is_a_number_only_when_that_loses_nothing(tmp_path: Path) -> None:
    text = "id,zip,n,x,money,e,flag,mixed\n001,00123,1,1.5,1.10,1e5,true,1\n002,1,-2,0.25,2.00,2e5,false,2.5\n"
    snap = take(tmp_path, path=write(tmp_path / "a.csv", text), id="id")
    kinds = {c.name: c.type for c in snap.columns}
    assert kinds == {
        "id": "VARCHAR",
        "zip": "VARCHAR",
        "n": "BIGINT",
        "x": "DOUBLE",
        "money": "VARCHAR",
        "e": "VARCHAR",
        "flag": "VARCHAR",
        "mixed": "VARCHAR",
    }
    assert rows(snap, "zip", "n", "x", "money", "mixed")[0] == (0, "001", "00123", 1, 1.5, "1.10", "1")


def test_a_late_value_decides_the_type_of_its_column(tmp_path: Path) -> None:
    lines = "".join(f"{i}\n" for i in range(1, 30_001))
    snap = take(tmp_path, path=write(tmp_path / "a.csv", f"n\n{lines}007\n"))
    assert snap.columns == (Column("n", "VARCHAR"),)
    assert rows(snap)[-1][2] == "007"


def test_types_can_be_given_for_a_csv(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "day,x\n2024-01-02,1\n2024-01-03,2.5\n")
    snap = take(tmp_path, path=name, options={"types": {"day": "DATE", "x": "DOUBLE"}})
    assert [c.type for c in snap.columns] == ["DATE", "DOUBLE"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'a,b\r\n1,"x\r\ny"\r\n2,z\r\n\r\n\r\n', [("1", "x\r\ny"), ("2", "z")]),
        (b"\xef\xbb\xbfa,b\n1,caf\xc3\xa9\n", [("1", "café")]),
        (b"a;b\n1;2,5\n", [("1", "2,5")]),
        (b"a\tb\n1\tx y\n", [("1", "x y")]),
        (b'a,b\n1,""\n2,\n3,NULL\n', [("1", ""), ("2", None), ("3", "NULL")]),
        (b"a,b\n#1,x\n2,y\n", [("#1", "x"), ("2", "y")]),
        ("a,b\n1,x\u2028y\n".encode(), [("1", "x\u2028y")]),
        (b'a,b\n1,{"k": 1}\n', [("1", '{"k": 1}')]),
        (b'"a ""x""",b\n1,2\n', [("1", 2)]),
        (b"a,b\n1,x", [("1", "x")]),
        (b"a,b\n'1,x'\n", [("'1", "x'")]),
    ],
    ids=[
        "crlf-quoted-blank",
        "bom",
        "semicolon",
        "tab",
        "empty-null",
        "hash",
        "u2028",
        "json",
        "odd-name",
        "no-end",
        "apostrophe",
    ],
)
def test_csv_as_it_is_found(tmp_path: Path, content: bytes, expected: list[tuple[Any, ...]]) -> None:
    snap = take(tmp_path, path=write(tmp_path / "a.csv", content), id=None)
    assert [(str(a), b) for _, _, a, b in rows(snap)] == expected


def test_tsv_gz_and_globs(tmp_path: Path) -> None:
    (tmp_path / "p2.tsv.gz").write_bytes(gzip.compress(b"a\tb\n3\tz, z\n"))
    (tmp_path / "p1.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\tx\n2\ty\n"))
    snap = take(tmp_path, path="p*.tsv.gz")
    assert [r[2:] for r in rows(snap)] == [(1, "x"), (2, "y"), (3, "z, z")]
    assert snap.sha256 == take(tmp_path, path=["p1.tsv.gz", "p2.tsv.gz"]).sha256


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    write(tmp_path / "a[1].csv", "x\nright\n")
    write(tmp_path / "a1.csv", "x\nwrong\n")
    assert rows(take(tmp_path, path="a[1].csv"))[0][2] == "right"


def test_jsonl_keeps_strings_as_strings_and_nests(tmp_path: Path) -> None:
    lines = [
        {"id": "00123", "day": "2024-01-02", "m": {"x": 1}, "l": [1, 2], "any": 1},
        {"id": "7", "day": "n/a", "m": {"x": 2}, "l": [], "any": {"k": "s"}},
    ]
    content = b"\xef\xbb\xbf" + "\n\n".join(json.dumps(r, ensure_ascii=False) for r in lines).encode() + b"\n\n"
    snap = take(tmp_path, path=write(tmp_path / "a.jsonl", content), id="id")
    assert rows(snap, "day", "m", "l", "any") == [
        (0, "00123", "2024-01-02", {"x": 1}, [1, 2], 1),
        (1, "7", "n/a", {"x": 2}, [], {"k": "s"}),
    ]


def test_jsonl_with_line_separators_inside_strings_nan_and_hostile_names(tmp_path: Path) -> None:
    content = '{"a b":"x\u2028y","row":NaN,"row_id":1,"q\\"t":"v"}\n'
    snap = take(tmp_path, path=write(tmp_path / "a.jsonl", content))
    (row,) = rows(snap, "a b", "row", "row_id", 'q"t')
    assert (row[2], row[4], row[5]) == ("x\u2028y", 1, "v")
    assert row[3] != row[3]


def test_cells_of_a_megabyte(tmp_path: Path) -> None:
    cell = "wörd " * 200_000
    snap = take(tmp_path, path=write(tmp_path / "a.csv", "id,t\n1," + cell + "\n2,x\n"), id="id")
    assert rows(snap, "t")[0][2] == cell
    lines = "".join(json.dumps({"t": cell}) + "\n" for _ in range(3))
    assert len(rows(take(tmp_path, path=write(tmp_path / "a.jsonl", lines)), "t")) == 3


def test_inline_rows(tmp_path: Path) -> None:
    snap = take(tmp_path, rows=[{"name": "John Doe", "n": 1}, {"name": "2024-01-01", "extra": {"a": [1]}}])
    assert rows(snap, "name", "n", "extra") == [(0, "0", "John Doe", 1, None), (1, "1", "2024-01-01", None, {"a": [1]})]


def test_sql_reads_files_beside_the_experiment_wherever_it_is_run_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    write(root / "a.csv", "id,x\n1,right\n")
    write(elsewhere / "a.csv", "id,x\n1,wrong\n")
    monkeypatch.chdir(elsewhere)
    for sql in (
        "SELECT * FROM 'a.csv'",
        "SELECT * FROM read_csv('a.csv', delim=',')",
        "SELECT * FROM read_csv(['a.csv'])",
        "FROM '*.csv';",
        "WITH t AS (SELECT * FROM 'a.csv') SELECT * FROM t WHERE id IN (SELECT id FROM 'a.csv') -- done",
    ):
        snap = snapshot(DataConfig(sql=sql, id="id"), root, tmp_path / "out")
        assert rows(snap, "x") == [(0, "1", "right")], sql


def test_sql_without_an_order_is_put_in_the_order_of_its_ids(tmp_path: Path) -> None:
    snap = take(tmp_path, sql="SELECT i AS id, i * i AS sq FROM unnest([3, 1, 2]) t(i)", id="id")
    assert rows(snap, "sq") == [(0, "1", 1), (1, "2", 4), (2, "3", 9)]
    ordered = take(tmp_path, sql="SELECT i FROM range(30000) t(i) ORDER BY i DESC")
    assert [r[2] for r in rows(ordered)] == list(range(29999, -1, -1))


def test_sql_types_that_parquet_lacks_are_kept(tmp_path: Path) -> None:
    sql = "SELECT sum(i) AS total, uuid() AS u, 'a'::ENUM('a','b') AS e, interval 1 day AS d FROM range(5) t(i) ORDER BY 1"
    snap = take(tmp_path, sql=sql)
    (row,) = rows(snap, "total", "e", "d")
    assert str(row[2]) == "10"
    assert row[3:] == ("a", "1 day")


def test_times_with_a_zone_are_text_in_utc(tmp_path: Path) -> None:
    snap = take(tmp_path, sql="SELECT TIMESTAMPTZ '2024-01-01 00:00:00+02' AS t ORDER BY 1")
    assert rows(snap, "t")[0][2] == "2023-12-31 22:00:00+00"


def test_the_records_of_an_earlier_run_are_rows(tmp_path: Path) -> None:
    records = tmp_path / "records.parquet"
    duckdb.connect().execute(
        "COPY (SELECT * FROM (VALUES ('r-1', 'a', {'label': 'x'}, {'text': 'hi'}), ('r-2', 'a', {'label': 'y'}, {'text': 'hi'})) "
        f"t(run_id, row_id, output, data)) TO '{records}' (FORMAT parquet)"
    )
    asked: list[str] = []

    def lookup(run: str) -> Path:
        asked.append(run)
        return records

    snap = take(tmp_path, run="r-2", id="row_id", run_lookup=lookup, needed=["output"])
    assert rows(snap, "output", "data") == [(0, "a", {"label": "y"}, {"text": "hi"})]
    assert asked == ["r-2"]


def test_a_sample_stays_the_same_when_rows_are_added(tmp_path: Path) -> None:
    few = "id\n" + "".join(f"k{i}\n" for i in range(100))
    many = "id\n" + "".join(f"k{i}\n" for i in range(-10, 100))
    first = {r[1] for r in rows(take(tmp_path, path=write(tmp_path / "a.csv", few), id="id", sample=30), "id")}
    again = {r[1] for r in rows(take(tmp_path, path=write(tmp_path / "b.csv", many), id="id", sample=30), "id")}
    other = {r[1] for r in rows(take(tmp_path, path="a.csv", id="id", sample=30, seed=1), "id")}
    assert len(first) == len(again) == 30
    assert all(name.startswith("k-") for name in again - first)
    assert first != other


def test_a_sample_is_pinned_and_keeps_the_sources_order(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "id\n" + "".join(f"k{i}\n" for i in range(20)))
    expected = sorted(sorted(range(20), key=lambda i: hashlib.md5(f"7:k{i}".encode()).hexdigest())[:4])
    snap = take(tmp_path, path=name, id="id", sample=4, seed=7)
    assert rows(snap, "id") == [(n, f"k{i}", f"k{i}") for n, i in enumerate(expected)]
    assert [r[1] for r in rows(take(tmp_path, path=name, id="id", sample=4, seed=7, limit=2), "id")] == [
        f"k{i}" for i in expected[:2]
    ]


def test_where_sample_and_limit_larger_than_the_source_take_all(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "id\nx\ny\n")
    assert take(tmp_path, path=name, sample=10, limit=10, where="id <> 'z' -- a comment").rows == 2


def test_a_column_named_like_our_own_is_no_trouble(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "position,row,row_id,data,sampled\np,r,i,d,s\n")
    assert rows(take(tmp_path, path=name, where="position = 'p'", sample=1)) == [(0, "0", "p", "r", "i", "d", "s")]


def test_columns_of_shows_the_names_without_the_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,text\n1,x\n")
    assert [c.name for c in columns_of(DataConfig(path="a.csv"), tmp_path)] == ["id", "text"]
    assert columns_of(DataConfig(rows=[{"a": 1}]), tmp_path) == (Column("a", "BIGINT"),)
    with pytest.raises(DataError, match="no file"):
        columns_of(DataConfig(path="b.csv"), tmp_path)


def test_reading_streams_in_batches_and_names_a_column_that_is_not_there(tmp_path: Path) -> None:
    snap = take(tmp_path, path=write(tmp_path / "a.csv", "text\n" + "x\n" * 25))
    assert [len(batch) for batch in read(snap.path, ["text"], batch=10)] == [10, 10, 5]
    with pytest.raises(DataError, match="did you mean 'text'"):
        list(read(snap.path, ["texd"]))


def test_the_same_rows_from_any_format_have_the_same_hash(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "id,t\nx1,hello\nx2,\n")
    write(tmp_path / "a.jsonl", '{"id":"x1","t":"hello"}\n{"id":"x2","t":null}\n')
    duckdb.connect().execute(
        f"COPY (SELECT * FROM read_csv('{tmp_path}/a.csv')) TO '{tmp_path}/a.parquet' (FORMAT parquet, COMPRESSION zstd)"
    )
    hashes = {take(tmp_path, path=f"a.{kind}", id="id").sha256 for kind in ("csv", "jsonl", "parquet")}
    assert len(hashes) == 1


def test_the_content_hash_is_pinned(tmp_path: Path) -> None:
    """A change here changes the identity of every plan there is. Computed by hand from the definition too."""
    snap = take(
        tmp_path, rows=[{"id": "ä", "n": 1, "m": {"x": [1.5, None]}}, {"id": "b", "n": None, "m": None}], id="id"
    )
    header = '["batchling-data-1",[["id","VARCHAR"],["n","BIGINT"],["m","STRUCT(x DOUBLE[])"]]]\n'
    lines = ['1:ä1:ä1:116:{"x":[1.5,null]}', "1:b1:b~~"]
    expected = hashlib.sha256((header + "".join(hashlib.sha256(t.encode()).hexdigest() for t in lines)).encode())
    assert snap.sha256 == expected.hexdigest()
    assert snap.sha256 == "302f9774322b6673fd009827bdcb15b6c6cb3ab1526ea9c7d1bdbde08977ae7a"


def test_the_hash_sees_order_names_types_and_the_border_between_values(tmp_path: Path) -> None:
    sources: list[list[dict[str, Any]]] = [
        [{"a": "x", "b": "y"}, {"a": "z", "b": "w"}],
        [{"a": "z", "b": "w"}, {"a": "x", "b": "y"}],
        [{"a": "x", "c": "y"}, {"a": "z", "c": "w"}],
        [{"a": "xy", "b": ""}, {"a": "z", "b": "w"}],
        [{"a": "xy", "b": None}, {"a": "z", "b": "w"}],
        [{"a": "1", "b": "y"}],
        [{"a": 1, "b": "y"}],
    ]
    assert len({take(tmp_path, rows=s).sha256 for s in sources}) == len(sources)


@pytest.mark.parametrize("end", ["", ";", " ; ", " -- why", "; -- why", " /* ; */ ;"])
def test_a_query_may_end_as_people_end_queries(tmp_path: Path, end: str) -> None:
    assert rows(take(tmp_path, sql="SELECT ';' AS a ORDER BY 1" + end), "a") == [(0, "0", ";")]


def test_blank_lines_at_the_end_of_a_file_with_one_column_are_not_rows(tmp_path: Path) -> None:
    assert take(tmp_path, path=write(tmp_path / "a.csv", "text\nhello\nworld\n\n\n")).rows == 2


def test_rows_of_a_megabyte_come_in_small_batches(tmp_path: Path) -> None:
    import random

    noise = random.Random(0)
    lines = "".join(json.dumps({"t": noise.randbytes(500_000).hex()}) + "\n" for _ in range(70))
    snap = take(tmp_path, path=write(tmp_path / "a.jsonl", lines))
    sizes = [len(batch) for batch in read(snap.path, ["t"])]
    assert sum(sizes) == 70
    assert max(sizes) < 70


def test_importing_the_package_loads_no_heavy_library() -> None:
    import subprocess
    import sys

    code = (
        "import sys, batchling.source, batchling.tokens, batchling.cost; "
        "print(sorted({'duckdb', 'tiktoken', 'genai_prices', 'requests'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_whatever_a_csv_writer_quotes_comes_back(tmp_path: Path) -> None:
    import csv
    import random

    draw = random.Random(11)
    pieces = [
        "a",
        '"',
        "'",
        ",",
        ";",
        "\n",
        "\r\n",
        "\r",
        "\t",
        " ",
        "é",
        "\u2028",
        "😀",
        "{",
        "0",
        "#",
        "\\",
        "\x1f",
        "NULL",
    ]
    for _ in range(15):
        names = ["a", "b b", 'c"'][: draw.randint(1, 3)]
        cells = [
            ["".join(draw.choices(pieces, k=draw.randint(0, 7))) for _ in names] for _ in range(draw.randint(1, 30))
        ]
        with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator=draw.choice(["\n", "\r\n"]))
            writer.writerow(names)
            writer.writerows(cells)
        snap = take(tmp_path, path="a.csv", options={"types": dict.fromkeys(names, "VARCHAR")})
        assert [list(row[2:]) for row in rows(snap)] == cells


def test_a_header_may_span_lines_and_be_compressed_with_zstd(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", 'id,"two\nlines"\n1,x\n')
    assert [c.name for c in take(tmp_path, path=name).columns] == ["id", "two\nlines"]
    duckdb.connect().execute(
        f"COPY (SELECT 'k' AS id, 'x, y' AS t) TO '{tmp_path}/b.csv.zst' (HEADER, COMPRESSION zstd)"
    )
    assert rows(take(tmp_path, path="b.csv.zst", id="id"), "t") == [(0, "k", "x, y")]


def test_wildcards_below_folders_with_brackets_in_their_names(tmp_path: Path) -> None:
    folder = tmp_path / "data [v1]*"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.csv").write_text(f"x\n{name}\n")
    inside = snapshot(DataConfig(path="*.csv"), folder, tmp_path / "out")
    outside = snapshot(DataConfig(path=f"{folder.name}/*.csv"), tmp_path, tmp_path / "out")
    assert inside.rows == outside.rows == 2


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_the_encoding(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_bytes("\ufeffa,b\nü,1\n".encode(encoding))
    (tmp_path / "a.jsonl").write_bytes('\ufeff{"a": "ü", "b": 1}\n'.encode(encoding))
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    for name in ("a.csv", "a.jsonl", "a.csv.gz"):
        assert rows(take(tmp_path, path=name), "a", "b") == [(0, "0", "ü", 1)]
    assert rows(take(tmp_path, path="a.csv", options={"encoding": "utf-16"}), "a", "b") == [(0, "0", "ü", 1)]


@pytest.mark.parametrize("line", ["sep=;\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_line_that_names_the_separator(tmp_path: Path, line: str) -> None:
    end = line[-2:] if "\r" in line else "\n"
    name = write(tmp_path / "a.csv", line + end.join(["id;text", "1;x, y", "2;z", ""]))
    assert rows(take(tmp_path, path=name), "id", "text") == [(0, "0", 1, "x, y"), (1, "1", 2, "z")]


def test_comments_are_left_out_when_their_sign_is_given(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "# exported\nid,text\n# more\n1,x\n")
    assert rows(take(tmp_path, path=name, options={"comment": "#"}), "text") == [(0, "0", "x")]
