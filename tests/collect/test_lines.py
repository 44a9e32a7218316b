"""A file is cut at line feeds and nowhere else (CONFORMANCE 16)."""

from __future__ import annotations

import tracemalloc
from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.collect import lines

SEPARATORS = "\u2028\u2029\u0085\x0b\x0c\x1c\r"


def test_c16_unicodes_line_separators_are_content() -> None:
    raw = f'{{"a":"x{SEPARATORS}y"}}'.encode()
    assert list(lines([raw + b"\n" + raw + b"\n"])) == [(0, raw), (len(raw) + 1, raw)]


@given(
    st.lists(st.binary(max_size=12).map(lambda b: b.replace(b"\n", b"x")), max_size=12),
    st.integers(1, 7),
    st.booleans(),
)
def test_lines_do_not_depend_on_how_the_bytes_arrive(parts: list[bytes], size: int, ended: bool) -> None:
    blob = b"\n".join(parts) + (b"\n" if ended else b"")
    want, offset = [], 0
    for part in blob.split(b"\n"):
        if part.strip():
            want.append((offset, part))
        offset += len(part) + 1
    assert list(lines([blob])) == want
    assert list(lines(blob[i : i + size] for i in range(0, len(blob), size))) == want
    assert all(blob[start : start + len(line)] == line for start, line in want)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_line_without_end_is_cut_and_the_next_is_in_its_place(size: int) -> None:
    blob = b"a" * 50 + b"\nb\n" + b"c" * 50
    pieces = [blob[i : i + size] for i in range(0, len(blob), size)]
    assert list(lines(pieces, max_bytes=10)) == [(0, b"a" * 10), (51, b"b"), (53, b"c" * 10)]


def test_memory_is_bounded_by_the_longest_line_allowed() -> None:
    chunk = b"x" * 65536
    tracemalloc.start()
    try:
        assert [len(line) for _, line in lines(repeat(chunk, 1600), max_bytes=1 << 20)] == [1 << 20]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
