"""Validated answers fit the column type that their schema gives."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import pytest
from pydantic import BaseModel, Field, computed_field

from batchling import schema
from batchling.spec import SchemaConfig


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Shape(BaseModel):
    sides: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def corners(self) -> int:
        return self.sides


def obj(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


@pytest.mark.parametrize(
    ("source", "expected", "answer"),
    [
        (
            obj(a={"type": "string"}, b={"type": "integer"}),
            'STRUCT("a" VARCHAR, "b" BIGINT)',
            {"a": "x", "b": 2**63 - 1},
        ),
        (obj(a={"type": "number"}, b={"type": "boolean"}), 'STRUCT("a" DOUBLE, "b" BOOLEAN)', {"a": 1, "b": True}),
        (obj(a={"enum": ["x", None]}, b={"const": 1}), 'STRUCT("a" VARCHAR, "b" BIGINT)', {"a": None, "b": 1}),
        (obj(a={"enum": ["x", 1]}), 'STRUCT("a" JSON)', {"a": "x"}),
        (obj(a={"type": ["integer", "null"]}), 'STRUCT("a" BIGINT)', {"a": None}),
        (
            obj(a={"type": "array", "items": obj(b={"type": "string"})}),
            'STRUCT("a" STRUCT("b" VARCHAR)[])',
            {"a": [{"b": "x"}]},
        ),
        (obj(a={"anyOf": [{"type": "integer"}, {"type": "number"}]}), 'STRUCT("a" DOUBLE)', {"a": 1}),
        (obj(a={"anyOf": [{"type": "integer"}, {"type": "string"}]}), 'STRUCT("a" JSON)', {"a": "x"}),
        (obj(a={"oneOf": [{"type": "string"}, {"type": "null"}]}), 'STRUCT("a" VARCHAR)', {"a": None}),
        (obj(**{'q"uo te': {"type": "string"}}), 'STRUCT("q""uo te" VARCHAR)', {'q"uo te': "x"}),
        (obj(a=obj(B={"type": "string"}, b={"type": "string"})), 'STRUCT("a" JSON)', {"a": {"B": "x", "b": "y"}}),
        (obj(a=obj() | {"additionalProperties": False}), 'STRUCT("a" JSON)', {"a": {}}),
        (Node, 'STRUCT("value" BIGINT, "children" JSON[])', {"value": 1, "children": [{"value": 2, "children": []}]}),
        (Shape, 'STRUCT("sides" BIGINT, "corners" BIGINT)', {"sides": 3}),
    ],
)
def test_the_column_type_follows_the_schema_and_holds_the_output(
    source: Any, expected: str, answer: Any, tmp_path: Any
) -> None:
    compiled = schema.compile(SchemaConfig(), source)
    assert compiled is not None
    assert compiled.duckdb_type() == expected
    output, error = compiled.validate(json.dumps(answer))
    assert error is None
    path = tmp_path / "decoded.jsonl"
    path.write_text(json.dumps({"output": output}) + "\n")
    with duckdb.connect() as con:
        query = f"SELECT to_json(output) FROM read_json(?, format = 'newline_delimited', columns = {{'output': '{expected}'}})"
        (stored,) = con.execute(query, [str(path)]).fetchone() or ("",)
    assert json.loads(stored) == output


def test_free_names_and_a_serialized_alias() -> None:
    class Free(BaseModel):
        scores: dict[str, int]
        renamed: str = Field(alias="theName")

    compiled = schema.compile(SchemaConfig(strict=False), Free)
    assert compiled is not None
    assert compiled.duckdb_type() == 'STRUCT("scores" JSON, "theName" VARCHAR)'
