"""Compressed files that hold far more than rows do are refused before they are read."""

from __future__ import annotations

import bz2
import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from batchling import duck
from batchling.errors import DataError
from batchling.source import Bounds, packed, snapshot
from batchling.spec import DataConfig

LINE = b'{"x": "' + b"y" * 20_000 + b'"}\n'


def frames(blocks: int) -> bytes:
    """A zstandard file: one raw block with a row, then blocks of one byte each, which stands for 128 kB of empty lines."""
    row = b'{"x": "aaa"}\n'
    start = (0xFD2FB528).to_bytes(4, "little") + b"\x00\x58" + (len(row) << 3).to_bytes(3, "little") + row
    size = (128 << 10) << 3
    return start + b"".join((size | 2 | (left == 0)).to_bytes(3, "little") + b"\n" for left in reversed(range(blocks)))


def sheet(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/worksheets/sheet1.xml", b"x" * 3_000_000)


def parquet(path: Path) -> None:
    with duck.connect() as con:
        con.execute(
            f"COPY (SELECT repeat('x', 20000) || range AS x FROM range(200)) TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )


FILES: dict[str, Callable[[Path], object]] = {
    "one.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINE * 150)),
    "members.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINE) * 150),
    "rows.csv.bz2": lambda path: path.write_bytes(bz2.compress(b"x\n" + b"y" * 3_000_000)),
    "rows.jsonl.zst": lambda path: path.write_bytes(frames(30)),
    "skippable.jsonl.zst": lambda path: path.write_bytes(b"\x53\x2a\x4d\x18\x02\x00\x00\x00hi" + frames(30)),
    "rows.xlsx": sheet,
    "rows.parquet": parquet,
}


def take(folder: Path, name: str, factor: int) -> int:
    bounds = Bounds(10**6, 10**9, unpack_factor=factor)
    return snapshot(DataConfig(path=name), folder, folder / "rows", bounds=bounds).rows


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "FREE_BYTES", 1_000_000)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_unpacks_to_far_more_than_rows_is_named(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    with pytest.raises(DataError, match="unpacks to more than 1,000,000") as found:
        take(tmp_path, name, 3)
    assert found.value.exit_code == 2
    assert found.value.where == str(tmp_path / name)
    assert "limits.unpack_factor (3)" in str(found.value.next_command)


@pytest.mark.parametrize("name", ["one.jsonl.gz", "members.jsonl.gz", "rows.parquet"])
def test_a_larger_factor_lets_it_in(tmp_path: Path, name: str) -> None:
    FILES[name](tmp_path / name)
    assert take(tmp_path, name, 100_000) in (150, 200)


@pytest.mark.parametrize("rows", [1, 1000])
def test_ordinary_files_are_not_meant(tmp_path: Path, rows: int) -> None:
    text = b"".join(b'{"x": "%d %x"}\n' % (n, n * n * 7919) for n in range(rows))
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(text))
    assert take(tmp_path, "rows.jsonl.gz", 200) == rows


@pytest.mark.parametrize("cut", [3, 10, 30])
def test_a_damaged_file_is_left_to_its_reader(tmp_path: Path, cut: int) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(LINE * 2)[:cut])
    with pytest.raises(DataError) as found:
        take(tmp_path, "rows.jsonl.gz", 3)
    assert "unpacks" not in str(found.value)


def test_a_header_with_a_huge_name_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("h" * 200_000 + ",x\na,b\n")
    with pytest.raises(DataError, match="the header cannot be read") as found:
        take(tmp_path, "a.csv", 3)
    assert found.value.where == f"{tmp_path}/a.csv, line 1"


def test_a_header_without_an_end_is_not_held(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("h" * 5_000_000)
    with pytest.raises(DataError, match="the header is longer than 4,194,304 characters") as found:
        take(tmp_path, "a.csv", 3)
    assert found.value.where == f"{tmp_path}/a.csv, line 1"


def test_a_json_row_beyond_the_reader_s_limit_says_which_option_raises_it(tmp_path: Path) -> None:
    with (tmp_path / "a.jsonl").open("wb") as file:
        file.write(b'{"x": "')
        file.seek(40_000_000)
        file.write(b'"}\n')
    with pytest.raises(DataError, match="larger than DuckDB's limit") as found:
        take(tmp_path, "a.jsonl", 3)
    assert "maximum_object_size" in str(found.value.next_command)
