"""The one reader of JSON: what is too deep or too large is refused the same way wherever text comes in."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from batchling import journal, limits
from batchling.collect import Join, Row, Verdict
from batchling.models import KEY_LENGTH, Garbage, Outcome, Response, RowState
from batchling.providers.openai.decode import decode
from batchling.schema.answers import NotJson, parse
from batchling.scrub import Scrubber
from batchling.written import loads

ROOT = Path(limits.__file__).parent

OWN_TREES = {
    "catalog/comparing.py": "DuckDB's own tree of a statement",
    "catalog/evaluate.py": "DuckDB's own tree of a statement",
    "catalog/sql.py": "what DuckDB wrote",
    "source/bounds.py": "DuckDB's own tree of a statement",
    "source/named.py": "DuckDB's own tree of a statement",
    "source/query.py": "DuckDB's own tree of a statement",
    "testing/contract.py": "requests that batchling wrote itself",
    "testing/server.py": "requests that batchling wrote itself",
}
"""Where JSON is parsed that nobody outside wrote."""


def nested(depth: int, opening: str = "[", closing: str = "]") -> str:
    return opening * depth + closing * depth


def objects(depth: int) -> str:
    return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)


@pytest.mark.parametrize("read", [limits.loads, limits.loads_tolerantly])
@pytest.mark.parametrize("build", [nested, objects])
def test_a_hundred_levels_are_read_and_one_more_is_refused(read: Any, build: Any) -> None:
    assert read(build(limits.JSON_DEPTH))
    assert read(build(limits.JSON_DEPTH).encode())
    for depth in (limits.JSON_DEPTH + 1, 600, 1_500, 100_000):
        with pytest.raises(limits.BeyondLimit, match="nested more than 100 levels"):
            read(build(depth))


def test_brackets_in_a_text_are_no_levels() -> None:
    assert limits.loads('{"a": "' + "[" * 5_000 + '"}') == {"a": "[" * 5_000}
    assert limits.loads("[" + ",".join(["[]"] * 5_000) + "]") == [[]] * 5_000


def test_a_text_of_nothing_but_lists_is_refused_before_it_takes_memory() -> None:
    with pytest.raises(limits.BeyondLimit, match="lists and objects"):
        limits.loads(b"[" + b"[]," * limits.JSON_NODES + b"[]]")


def test_what_batchling_wrote_around_a_measured_value_is_read() -> None:
    assert limits.own(nested(limits.JSON_DEPTH + 5))
    with pytest.raises(limits.BeyondLimit):
        limits.own(nested(limits.OWN_DEPTH + 1))


def test_nothing_else_parses_json() -> None:
    """A parser called anywhere else would have a limit of its own, or none."""
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="json" | "orjson"), attr="loads" | "load")):
                    found.add(str(path.relative_to(ROOT)))
    assert found - {"limits.py"} == OWN_TREES.keys()


@pytest.mark.parametrize("depth", [99, 600, 1_200, 100_000])
def test_a_deep_line_of_a_result_is_final_and_not_understood(depth: int) -> None:
    line = (
        '{"custom_id":"c","response":{"status_code":200,"body":{"choices":[{"finish_reason":"stop","message":'
        '{"content":"hi"}}],"x":' + nested(depth) + '}},"error":null}'
    )
    response = decode(line.encode())
    assert isinstance(response, Response)
    assert (response.custom_id, response.outcome, response.error_code) == ("c", Outcome.ERROR, "not_understood")
    assert "nested more than 100 levels" in (response.error_message or "")


@pytest.mark.parametrize("body", [nested(600), objects(600), "{" * 600])
def test_a_deep_body_within_a_text_is_final_too(body: str) -> None:
    import json

    response = decode(json.dumps({"custom_id": "c", "response": {"status_code": 200, "body": body}}).encode())
    assert isinstance(response, Response)
    assert (response.outcome, response.error_code) == (Outcome.ERROR, "not_understood")


def test_a_deep_line_that_names_no_request_is_garbage() -> None:
    assert isinstance(decode(nested(600).encode()), Garbage)


def test_a_deep_answer_is_invalid() -> None:
    for text in (nested(101), objects(600), f"```json\n{nested(600)}\n```", nested(5_000)):
        with pytest.raises(NotJson, match="100 levels"):
            parse(text)


def test_a_deep_row_is_refused() -> None:
    for text in (nested(101), f"[1.10, {nested(600)}]"):
        with pytest.raises(limits.BeyondLimit):
            loads(text)


def test_a_deep_line_hides_no_key_and_breaks_nothing() -> None:
    scrubber = Scrubber(["sk-0123456789abcdef"])
    line = '{"x":"\\u0073k-0123456789abcdef sk-0123456789abcdef","y":' + nested(900) + "}"
    assert scrubber.finds(line.encode())
    assert b"sk-0123456789abcdef" not in scrubber.line(line.encode())


def test_a_deep_event_is_a_damaged_line() -> None:
    import zlib

    rest = b'"seq":1,"ts":1.0,"kind":"x","y":%b}' % nested(600).encode()
    assert journal.decode(b'{"crc":"%08x",' % zlib.crc32(rest) + rest) is None
    rest = b'"seq":1,"ts":1.0,"kind":"x","y":%b}' % nested(50).encode()
    assert journal.decode(b'{"crc":"%08x",' % zlib.crc32(rest) + rest) is not None


@pytest.mark.parametrize(
    "line",
    [
        '{"custom_id":"%s","response":{"status_code":1%s,"body":{}},"x":NaN}',
        '{"custom_id":"%s","response":{"status_code":500,"body":{"error":{"code":1%s}}},"x":NaN}',
        '{"custom_id":"%s","response":{"status_code":200,"body":{"data":[{"embedding":[1%s]}]}},"x":NaN}',
    ],
    ids=["status", "code", "embedding"],
)
def test_a_number_of_400_digits_does_not_make_a_line_that_cannot_be_read_again(line: str) -> None:
    key = "k1-" + "0" * (KEY_LENGTH - 3)
    join = Join([Row(key)], suffix="", judge=lambda _: Verdict(RowState.OK), shard=1, attempt=1, decode=decode)
    made = [*join.read("f", [(line % (key, "0" * 400)).encode()]), *join.finish()]
    assert [limits.own(line)["key"] for line in made] == [key]
