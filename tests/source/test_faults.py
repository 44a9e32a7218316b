"""What is wrong with the rows is said before anything is paid, with the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchling.errors import DataError
from batchling.source import read, snapshot
from batchling.spec import DataConfig


def refused(tmp_path: Path, **data: Any) -> str:
    needed = data.pop("needed", ())
    with pytest.raises(DataError) as caught:
        snapshot(DataConfig(**data), tmp_path, tmp_path / "out", needed=needed)
    assert not list((tmp_path / "out").iterdir()), "nothing is left behind"
    return str(caught.value)


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path.name


def test_duplicate_ids_are_shown_with_their_positions(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "id,keep\na,1\nb,1\na,1\nc,0\nb,1\nc,1\n")
    text = refused(tmp_path, path=name, id="id")
    assert "3 ids more than once" in text
    assert "'a' at 0, 2; 'b' at 1, 4; 'c' at 3, 5" in text
    text = refused(tmp_path, path=name, id="id", where="keep = 1")
    assert "2 ids more than once" in text
    assert "'c'" not in text


def test_many_duplicates_show_the_first_five(tmp_path: Path) -> None:
    body = "".join(f"{i % 50:02d}\n" for i in range(1000))
    text = refused(tmp_path, path=write(tmp_path / "a.csv", "id\n" + body), id="id")
    assert "'00' at 0, 50, 100, 150, 200 and 15 more" in text
    assert "and 45 more ids" in text


def test_empty_ids_are_shown_with_their_positions(tmp_path: Path) -> None:
    text = refused(tmp_path, path=write(tmp_path / "a.csv", 'id,x\na,1\n,2\n"",3\n" ",4\n'), id="id")
    assert "empty in 3 rows (0-based position 1, 2, 3)" in text
    assert refused(tmp_path, rows=[{"id": None, "x": 1}, {"id": "a", "x": 2}], id="id").count("position 0") == 1


def test_a_missing_column_is_named_with_the_nearest_and_all(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "ticket,Text\n1,x\n")
    assert "no column 'tiket'; did you mean 'ticket'? The columns are: ticket, Text" in refused(
        tmp_path, path=name, id="tiket"
    )
    assert "no column 'text'; did you mean 'Text'?" in refused(tmp_path, path=name, needed=["text"])
    text = refused(tmp_path, path=name, where="lenght(Text) > 1")
    assert "data.where" in text
    assert "The columns are: ticket, Text" in text
    assert "data.where" in refused(tmp_path, path=name, where="nope = 1")


@pytest.mark.parametrize("content", ["", "id,text\n", "\n\n"])
def test_an_empty_source(tmp_path: Path, content: str) -> None:
    text = refused(tmp_path, path=write(tmp_path / "a.csv", content))
    assert "no row" in text
    assert "a.csv" in text


def test_an_empty_source_of_the_other_kinds(tmp_path: Path) -> None:
    assert "no rows" in refused(tmp_path, path=write(tmp_path / "a.jsonl", ""))
    assert "no rows" in refused(tmp_path, sql="SELECT 1 AS a WHERE false ORDER BY 1")
    assert "empty" in refused(tmp_path, rows=[])
    assert "empty" in refused(tmp_path, path=[])


def test_where_that_leaves_nothing_says_so(tmp_path: Path) -> None:
    text = refused(tmp_path, path=write(tmp_path / "a.csv", "x\n1\n2\n"), where="x > 5")
    assert "leaves none of the 2 rows: x > 5" in text


def test_bad_encoding_names_file_line_and_what_to_set(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", b"id,text\n1,ok\n2,caf\xe9\n")
    text = refused(tmp_path, path=name)
    assert "not UTF-8" in text
    assert "a.csv, line 3" in text
    assert "encoding: windows-1252" in text
    far = write(tmp_path / "b.csv", b"id,text\n" + b"1,ok\n" * 50_000 + b"2,caf\xe9\n")
    assert "b.csv, line 50002" in refused(tmp_path, path=far)
    text = refused(tmp_path, path=write(tmp_path / "a.jsonl", b'{"a":"ok"}\n{"a":"caf\xe9"}\n'))
    assert "not UTF-8" in text
    assert "a.jsonl, line 2" in text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("windows-1252", "“Café” – 5 €"),
        ("shift_jis", "これは日本語のテキストです"),
        ("gb18030", "这是一个中文文本，北京欢迎你"),
        ("windows-1251", "Привет мир и как дела"),
        ("euc_kr", "안녕하세요 세계"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_the_encoding_that_an_error_advises_works(tmp_path: Path, encoding: str, text: str, name: str) -> None:
    rows = f"id,text\n1,{text}\n" if name == "a.csv" else f'{{"text":"{text}"}}\n'
    write(tmp_path / name, rows.encode(encoding))
    assert f"set data.options: {{encoding: {encoding}}}" in refused(tmp_path, path=name)
    snap = snapshot(DataConfig(path=name, options={"encoding": encoding}), tmp_path, tmp_path / "out")
    assert [row[2] for batch in read(snap.path, ["text"]) for row in batch] == [text]


def test_an_encoding_that_does_not_fit_names_the_line(tmp_path: Path) -> None:
    lines = "id,text\n1,ok\n2,“x”\n".encode("windows-1252")
    told = refused(tmp_path, path=write(tmp_path / "a.csv", lines), options={"encoding": "latin-1"})
    assert "0x93" in told and "a.csv, line 3" in told and "encoding: windows-1252" in told
    told = refused(tmp_path, path="a.csv", options={"encoding": "shift_jis"})
    assert "the file is not shift_jis" in told and f"[{tmp_path}/a.csv, line 3]" in told
    write(tmp_path / "b.csv", b"id,text\n1,x\n2,y,z\n")
    told = refused(tmp_path, path="b.csv", options={"encoding": "windows-1252"})
    assert f"[{tmp_path}/b.csv, line 3]" in told, "the copy in UTF-8 is nobody's business"


@pytest.mark.parametrize(
    ("above", "skip"),
    [("Report 2024\n", 1), ("Report 2024\n\n", 2), ("# exported\n# by, me\n", 2), ("\n\n", 2), ("# a; b\n", 1)],
)
def test_what_stands_above_a_header_is_skipped_as_the_error_says(tmp_path: Path, above: str, skip: int) -> None:
    name = write(tmp_path / "a.csv", above + "id,text,n\n1,x,2\n2,y,3\n")
    assert f"set data.options: {{skip: {skip}}}" in refused(tmp_path, path=name)
    snap = snapshot(DataConfig(path=name, options={"skip": skip}), tmp_path, tmp_path / "out")
    assert [row[2:] for batch in read(snap.path, ["id", "text"]) for row in batch] == [(1, "x"), (2, "y")]


def test_an_encoding_that_is_given_is_used(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", b"id,text\n1,caf\xe9\n")
    snap = snapshot(DataConfig(path=name, options={"encoding": "latin-1"}), tmp_path, tmp_path / "out")
    assert snap.rows == 1


def test_a_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "banking77.csv", "x\n1\n")
    text = refused(tmp_path, path="banking7.csv")
    assert "no file banking7.csv; did you mean 'banking77.csv'?" in text
    assert "no folder" in refused(tmp_path, path="nowhere/a.csv")
    assert "no file matches" in refused(tmp_path, path="*.parquet")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path, path="folder")
    assert "format" in refused(tmp_path, path=write(tmp_path / "data.bin", "x"))


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("id,text\n1,a\n2,b,c\n", 3, "has 2 columns and this row 3"),
        ("id,text\n1\n", 2, "has 2 columns and this row 1"),
        ('id,text\n1,"open\n2,x\n', 2, "quote"),
        ("id,id\n1,2\n", 1, "'id' twice"),
        ("id,ID\n1,2\n", 1, "twice"),
    ],
)
def test_malformed_csv_names_the_line(tmp_path: Path, content: str, line: int, words: str) -> None:
    text = refused(tmp_path, path=write(tmp_path / "a.csv", content))
    assert f"a.csv, line {line}" in text
    assert words in text


def test_mixed_line_endings_say_what_to_set(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", b'id,text\r\n1,a\r\n2,b\n3,"c\r\nd"\r\n')
    assert "strict_mode" in refused(tmp_path, path=name)


def test_files_whose_headers_differ(tmp_path: Path) -> None:
    write(tmp_path / "a1.csv", "id,x\n1,2\n")
    write(tmp_path / "a2.csv", "x,id\n1,2\n")
    text = refused(tmp_path, path="a*.csv")
    assert "a2.csv" in text
    assert "columns differ" in text


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"a":1}\n{"a":\n', 2),
        ('{"a":1}\n\n{"a":1}x\n', 3),
        ("[1]\n", 1),
        ('{"a":1}\n3\n{"a":2}\n', 2),
        ('{"a":1}\n{"a":2,"a":3}\n', None),
    ],
)
def test_malformed_jsonl_names_the_line(tmp_path: Path, content: str, line: int | None) -> None:
    text = refused(tmp_path, path=write(tmp_path / "a.jsonl", content))
    assert (f"a.jsonl, line {line}" if line else "a.jsonl") in text


def test_an_unknown_option(tmp_path: Path) -> None:
    name = write(tmp_path / "a.csv", "x\n1\n")
    assert "no option 'delimiterr'" in refused(tmp_path, path=name, options={"delimiterr": ";"})
    assert "not the name of an option" in refused(tmp_path, path=name, options={"a) --": 1})
    assert "'nope'" in refused(tmp_path, path=write(tmp_path / "a.jsonl", '{"a":1}\n'), options={"nope": 1})


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1; SELECT 2", "2 statements"),
        ("", "0 statements"),
        ("CREATE TABLE t (a INT)", "must be a SELECT, not CREATE"),
        ("COPY (SELECT 1) TO 'x.csv'", "must be a SELECT, not COPY"),
        ("SELEC 1", "not valid SQL"),
        ("SELECT * FROM range(3)", "no ORDER BY"),
        ("SELECT * FROM (SELECT 1 AS a ORDER BY a)", "no ORDER BY"),
        ("SELECT * FROM 'missing.parquet' ORDER BY 1", "missing.parquet"),
        ("SELECT nope FROM (SELECT 1 AS a) ORDER BY 1", "nope"),
    ],
)
def test_sql_is_one_ordered_select(tmp_path: Path, sql: str, words: str) -> None:
    assert words in refused(tmp_path, sql=sql)
    assert not (tmp_path / "x.csv").exists()


def test_a_run_that_cannot_be_found(tmp_path: Path) -> None:
    assert "cannot be looked up" in refused(tmp_path, run="r-1")


def test_a_snapshot_that_is_damaged_or_gone_says_which(tmp_path: Path) -> None:
    (tmp_path / "0123.parquet").write_bytes(b"PAR1 cut")
    for name in ("0123.parquet", "gone.parquet"):
        with pytest.raises(DataError, match=name):
            list(read(tmp_path / name, ["a"]))


def test_parquet_files_of_different_types_are_not_rounded_into_one(tmp_path: Path) -> None:
    con = duckdb.connect()
    for name, x in {"p1": "1::INTEGER", "p2": "2::BIGINT", "p3": "2.5::DOUBLE"}.items():
        con.execute(f"COPY (SELECT {x} AS x) TO '{tmp_path}/{name}.parquet'")
    told = refused(tmp_path, path=["p1.parquet", "p2.parquet", "p3.parquet"], options={"union_by_name": True})
    assert "the column 'x' is DOUBLE here and an integer in" in told and "p3.parquet]" in told
    assert snapshot(DataConfig(path=["p1.parquet", "p2.parquet"]), tmp_path, tmp_path / "out").rows == 2
