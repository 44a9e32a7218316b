"""The short form of a schema: `schema.fields` to JSON Schema.

    label: {enum: [billing, other]}
    confidence: {type: number, minimum: 0, maximum: 1}
    rationale: string
    language: string?                            optional: may be left out or null
    tags: {type: array, items: string, maxItems: 5}
    person: {fields: {name: string, age: "integer?"}, optional: true}

Types are string, number, integer, boolean, array and object; constraints have JSON Schema's names.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from batchling.errors import SchemaError

_TYPES = ("string", "number", "integer", "boolean", "array", "object")
_NAMES_ELSEWHERE = {
    "str": "string",
    "text": "string",
    "varchar": "string",
    "int": "integer",
    "float": "number",
    "double": "number",
    "bool": "boolean",
    "list": "array",
    "dict": "object",
}
_ANY = ("type", "description", "optional")
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_KEYS = {
    "string": ("enum", "pattern", "format", "minLength", "maxLength"),
    "number": ("enum", *_NUMBER),
    "integer": ("enum", *_NUMBER),
    "boolean": (),
    "array": ("items", "minItems", "maxItems"),
    "object": ("fields", "properties"),
}


def from_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of inline fields.

    Raises:
        SchemaError: a field is not understood; the message names it by its path.
    """
    return _object(fields, "schema.fields")


def _object(fields: Any, path: str) -> dict[str, Any]:
    if not isinstance(fields, Mapping) or not fields:
        raise SchemaError(f"{path}: expected a mapping from names to types, got {fields!r}")
    properties = {}
    required = []
    for name, value in fields.items():
        if not isinstance(name, str) or not name:
            raise SchemaError(f"{path}: the name {name!r} is not text", next_command="quote it in the YAML")
        properties[name], optional = _field(value, f"{path}.{name}")
        if not optional:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _field(value: Any, path: str) -> tuple[dict[str, Any], bool]:
    """A field's JSON Schema, and whether it is optional."""
    if isinstance(value, str):
        value = {"type": value}
    if isinstance(value, list):
        raise SchemaError(f"{path}: a list is not a type", next_command=f"write {{enum: {_flow(value)}}}")
    if not isinstance(value, Mapping) or not value:
        raise SchemaError(f"{path}: expected a type such as `string`, or {{enum: […]}}, got {value!r}")
    kind, optional = _kind(value, path)
    if not isinstance(value.get("optional", False), bool):
        raise SchemaError(f"{path}.optional: expected true or false, got {value['optional']!r}")
    allowed = (*_ANY, *_KEYS[kind])
    for key in value:
        if key not in allowed:
            near = get_close_matches(str(key), allowed, n=1)
            guess = f"; did you mean `{near[0]}`?" if near else "."
            raise SchemaError(f"{path}.{key}: not understood for type {kind}{guess} Known: {', '.join(allowed)}")

    schema: dict[str, Any] = {"type": kind}
    if "description" in value:
        schema["description"] = str(value["description"])
    if kind == "object":
        if ("fields" in value) == ("properties" in value):
            raise SchemaError(f"{path}: an object needs its `fields`")
        schema |= _object(value.get("fields", value.get("properties")), path)
    elif kind == "array":
        if "items" not in value:
            raise SchemaError(f"{path}: an array needs `items`", next_command="e.g. {type: array, items: string}")
        schema["items"], nullable = _field(value["items"], f"{path}.items")
        if nullable:
            raise SchemaError(f"{path}.items: the items of an array cannot be optional")
    elif "enum" in value:
        schema["enum"] = _enum(value["enum"], kind, path)
    schema |= {
        key: value[key]
        for key in _KEYS[kind]
        if key in value and key not in schema and key not in ("fields", "properties")
    }
    return schema, optional or value.get("optional", False)


def _kind(value: Mapping[str, Any], path: str) -> tuple[str, bool]:
    """The type's name, and whether it was marked optional with `?`."""
    if "type" not in value:
        if "enum" in value:
            return _enum_kind(value["enum"], path), False
        if "fields" in value or "properties" in value:
            return "object", False
        if "items" in value:
            return "array", False
        raise SchemaError(f"{path}: no type given", next_command=f"add type: {' | '.join(_TYPES)}")
    kind = value["type"]
    optional = isinstance(kind, str) and kind.endswith("?")
    name = kind[:-1].strip() if optional else kind
    if name not in _TYPES:
        near = _NAMES_ELSEWHERE.get(str(name).lower()) or next(iter(get_close_matches(str(name), _TYPES, n=1)), None)
        guess = f"; did you mean `{near}`?" if near else "."
        raise SchemaError(
            f"{path}: unknown type {name!r}{guess} Types: {', '.join(_TYPES)}; `?` behind it makes it optional"
        )
    return name, optional


def _enum_kind(values: Any, path: str) -> str:
    if not isinstance(values, list) or not values:
        raise SchemaError(f"{path}.enum: expected a list of values, got {values!r}")
    kinds = {type(v) for v in values}
    if bool in kinds:
        raise SchemaError(
            f"{path}.enum holds {', '.join(str(v).lower() for v in values if isinstance(v, bool))}: "
            "YAML reads yes, no, on and off as booleans",
            next_command="quote the values, or use type: boolean",
        )
    if type(None) in kinds:
        raise SchemaError(f"{path}.enum holds null", next_command="use optional: true, or quote the value")
    if kinds == {str}:
        return "string"
    if kinds == {int}:
        return "integer"
    if kinds <= {int, float}:
        return "number"
    raise SchemaError(
        f"{path}.enum mixes kinds: {_flow(values)}",
        next_command="quote values that are text, e.g. '007' (YAML reads numbers)",
    )


def _enum(values: Any, kind: str, path: str) -> list[Any]:
    actual = _enum_kind(values, path)
    if actual != kind and not (kind == "number" and actual == "integer"):
        raise SchemaError(
            f"{path}.enum: the values are of type {actual}, not {kind}", next_command="quote values that are text"
        )
    seen = set()
    for value in values:
        if value in seen:
            raise SchemaError(f"{path}.enum: {value!r} is listed twice")
        seen.add(value)
    return list(values)


def _flow(values: list[Any]) -> str:
    shown = ", ".join(str(v) for v in values[:6])
    return f"[{shown}{', …' if len(values) > 6 else ''}]"
