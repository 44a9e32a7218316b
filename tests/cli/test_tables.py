"""Tables and figures: aligned, honest about what is unknown, harmless."""

from __future__ import annotations

import doctest
from decimal import Decimal

import pytest

from batchling import printable
from batchling.cli import figures
from batchling.cli.table import columns, table
from batchling.printable import one_line


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    assert table(["name", "n"], [["a", 1], ["long name", 12345]]) == (
        "name            n\na               1\nlong name  12,345"
    )


def test_a_table_fits_the_terminal_by_cutting_its_widest_text() -> None:
    lines = table(["a", "b", "n"], [["x" * 100, "short", 1]], width=40).splitlines()
    assert max(map(columns, lines)) <= 40
    assert "short" in lines[1] and "…" in lines[1] and lines[1].endswith("1")


def test_wide_characters_take_two_columns() -> None:
    header, row = table(["x", "y"], [["日本", "z"]]).splitlines()
    assert columns(header.partition("y")[0]) == columns(row.partition("z")[0])


def test_a_cell_is_one_harmless_line() -> None:
    assert table(["x"], [["a\r\n\x1b[2Jb"]]).splitlines()[1] == r"a \x1b[2Jb"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "?"), ("0E-9", "0"), ("1234.56789", "1,234.5679"), ("0.000000021", "0.000000021"), ("1", "1.0000")],
)
def test_money_says_what_is_unknown_and_never_rounds_to_nothing(value: str | None, said: str) -> None:
    assert figures.usd(None if value is None else Decimal(value)) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (119, "119 s"), (150, "2 min"), (7260, "2 h 1 min"), (2e5, "2 d 7 h")]
)
def test_durations_have_two_units_at_most(seconds: float, said: str) -> None:
    assert figures.duration(seconds) == said


@pytest.mark.parametrize(("size", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2 MB")])
def test_sizes_are_decimal(size: int, said: str) -> None:
    assert figures.size(size) == said


def test_megabytes_are_cut_before_they_are_looked_at() -> None:
    assert one_line("é" * 10_000_000, 10) == "é" * 9 + "…"


def test_the_examples_in_the_docstrings_hold() -> None:
    for module in (figures, printable):
        assert doctest.testmod(module).failed == 0
