"""`build_many` says the same as `build`, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from batchling.errors import DataError
from batchling.request import RequestBuilder

ROWS: list[tuple[Any, ...]] = [
    ("plain", 1),
    ('quotes " and \\ and \u2028 and \x85', 2.5),
    ("ünïcode 🎫", None),
    ("", True),
    ("{n} stays", {"a": [1, "ü"]}),
]
IDS = [f"r{n}" for n in range(len(ROWS))]

TEMPLATES = (
    [("system", "fixed"), ("user", "{text}")],
    [("user", "{text}{n}{text}")],
    [("system", "for {n}"), ("user", "literal only")],
    [("user", "no placeholder at all")],
    [("assistant", "{n}"), ("user", "say {text}, {n}")],
)


@pytest.mark.parametrize("messages", TEMPLATES)
@pytest.mark.parametrize("repeat", [0, 3])
@pytest.mark.parametrize("dedupe", [True, False])
@pytest.mark.parametrize("engine", ["format", "jinja"])
def test_many_rows_at_once_give_the_same_keys_bodies_and_texts(
    make_spec: Any, messages: list[tuple[str, str]], repeat: int, dedupe: bool, engine: str
) -> None:
    if engine == "jinja":
        messages = [(role, text.replace("{", "{{").replace("}", "}}")) for role, text in messages]
    builder = _builder(make_spec, messages, dedupe=dedupe, engine=engine)
    rows = [row for row in ROWS if row[0]]
    block = builder.build_many(_columns(builder, rows), IDS[: len(rows)], repeat=repeat)
    for place, (row, row_id) in enumerate(zip(rows, IDS, strict=False)):
        one = builder.build([_value(name, row) for name in builder.columns], repeat=repeat, row_id=row_id)
        texts = [text if isinstance(text, str) else text[place] for text in block.texts]
        assert (block.keys[place], block.body(place), texts) == tuple(one)


@pytest.mark.parametrize("bad", ["", "\ud800", b"bytes"])
def test_a_row_that_cannot_be_sent_is_named(make_spec: Any, bad: Any) -> None:
    builder = _builder(make_spec, [("user", "{text}")])
    rows = [("good", 1), (bad, 2), ("", 3)]
    with pytest.raises(DataError, match="r1"):
        builder.build_many(_columns(builder, rows), IDS[:3])


def _builder(
    make_spec: Any, messages: list[tuple[str, str]], *, dedupe: bool = True, engine: str = "format"
) -> RequestBuilder:
    spec = make_spec(messages=tuple(messages), prompt={"engine": engine}, dedupe=dedupe)
    return RequestBuilder(spec, ["text", "n"])


def _value(name: str, row: tuple[Any, ...]) -> Any:
    return row[("text", "n").index(name)]


def _columns(builder: RequestBuilder, rows: list[tuple[Any, ...]]) -> list[list[Any]]:
    return [[_value(name, row) for row in rows] for name in builder.columns]
