"""How a value of each kind reads in a prompt."""

from __future__ import annotations

import datetime as dt
import json
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchling.prompt import RenderError, value_text

UTC = dt.UTC


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is\n", "as it is\n"),
        (None, ""),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (-12345678901234567890, "-12345678901234567890"),
        (1.5, "1.5"),
        (3.0, "3.0"),
        (1e16, "10000000000000000"),
        (1e-5, "0.00001"),
        (1e300, "1e+300"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.10"),
        (dt.date(2026, 11, 23), "2026-11-23"),
        (dt.time(12, 30), "12:30:00"),
        (dt.datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC), "2026-11-23T01:02:03+00:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({"a": [1, None, True], "b": "é"}, '{"a": [1, null, true], "b": "é"}'),
        ([], "[]"),
        ([dt.date(2026, 1, 2), Decimal("1.5")], '["2026-01-02", 1.5]'),
    ],
)
def test_each_kind_of_value_has_one_plain_text(value: Any, text: str) -> None:
    assert value_text(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_as_the_same_number(value: float) -> None:
    assert math.copysign(1, float(value_text(value))) == math.copysign(1, value)
    assert float(value_text(value)) == value


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.lists(json_values) | st.dictionaries(st.text(), json_values))
def test_structs_and_lists_are_json(value: Any) -> None:
    assert json.loads(value_text(value)) == value


@pytest.mark.parametrize("value", [b"\xff", bytearray(b"x"), {"a": b"x"}, {dt.date(2026, 1, 1): 1}])
def test_what_has_no_text_is_an_error(value: Any) -> None:
    with pytest.raises(RenderError):
        value_text(value)


def test_a_list_that_holds_itself_is_an_error() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(RenderError):
        value_text(loop)
