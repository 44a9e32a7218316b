"""Inline fields: the short form of a schema."""

from __future__ import annotations

from typing import Any

import pytest

from batchling.errors import SchemaError
from batchling.schema.fields import from_fields


def test_each_short_form_is_a_json_schema() -> None:
    schema = from_fields(
        {
            "label": {"enum": ["a", "b"]},
            "stars": {"enum": [1, 2, 3]},
            "confidence": {"type": "number", "minimum": 0, "maximum": 1, "description": "how sure"},
            "rationale": "string",
            "language": "string?",
            "flag": {"type": "boolean", "optional": True},
            "tags": {"type": "array", "items": "string", "maxItems": 5},
            "scores": {"items": {"type": "integer"}},
            "person": {"fields": {"name": "string", "age": "integer?"}},
            "place": {"type": "object?", "properties": {"city": "string"}},
        }
    )
    person = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name"],
        "additionalProperties": False,
    }
    assert schema == {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": ["a", "b"]},
            "stars": {"type": "integer", "enum": [1, 2, 3]},
            "confidence": {"type": "number", "description": "how sure", "minimum": 0, "maximum": 1},
            "rationale": {"type": "string"},
            "language": {"type": "string"},
            "flag": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
            "scores": {"type": "array", "items": {"type": "integer"}},
            "person": person,
            "place": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
        "required": ["label", "stars", "confidence", "rationale", "tags", "scores", "person"],
        "additionalProperties": False,
    }


def test_the_order_of_fields_is_kept() -> None:
    assert list(from_fields({"z": "string", "a": "string"})["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("strng", "did you mean `string`"),
        ("int", "did you mean `integer`"),
        ("float?", "did you mean `number`"),
        ({}, "expected a type"),
        (None, "expected a type"),
        (["a", "b"], r"write \{enum: \[a, b\]\}"),
        ({"description": "x"}, "no type given"),
        ({"type": "number", "minimun": 0}, "did you mean `minimum`"),
        ({"type": "string", "minimum": 0}, "not understood for type string"),
        ({"enum": []}, "expected a list"),
        ({"enum": [True, False]}, "YAML reads yes, no, on and off as booleans"),
        ({"enum": ["a", None]}, "holds null"),
        ({"enum": ["a", 83]}, "quote values that are text"),
        ({"enum": ["a", "a"]}, "listed twice"),
        ({"type": "string", "enum": [1, 2]}, "of type integer, not string"),
        ({"type": "array"}, "needs `items`"),
        ({"type": "array", "items": "string?"}, "cannot be optional"),
        ({"type": "object"}, "needs its `fields`"),
        ({"type": "object", "fields": {}}, "expected a mapping"),
        ({"type": ["string", "null"]}, "`?` behind it"),
        ({"type": "string", "optional": "yes"}, "expected true or false"),
    ],
)
def test_a_field_that_is_not_understood_is_named_with_what_to_write(field: Any, message: str) -> None:
    with pytest.raises(
        SchemaError, match=message.replace("?`", r"\?`").replace("`? ", r"`\? ").replace("`?`", r"`\?`")
    ) as caught:
        from_fields({"fine": "string", "broken": field})
    assert "schema.fields.broken" in str(caught.value)


def test_a_name_that_yaml_turned_into_something_else_is_an_error() -> None:
    with pytest.raises(SchemaError, match="True is not text"):
        from_fields({True: "string"})
