"""The DuckDB type in which validated answers are stored."""

from __future__ import annotations

from typing import Any

from batchling.schema.nodes import Node, resolve

_SCALARS = {"string": "VARCHAR", "integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}
_WIDER = {frozenset({"BIGINT", "DOUBLE"}): "DOUBLE"}


def duckdb_type(schema: Node) -> str:
    """The DuckDB type of a JSON Schema's values.

    Objects are STRUCTs, lists are lists, enums VARCHAR or what their values are. What has no one
    type (unions of different types, recursion, free names) is JSON.
    """
    return _type(schema, schema, ())


def _type(node: Any, root: Node, open_refs: tuple[str, ...]) -> str:
    if not isinstance(node, dict):
        return "JSON"
    if "$ref" in node:
        ref = node["$ref"]
        if ref in open_refs or ref == "#":
            return "JSON"
        return _type(resolve(root, ref), root, (*open_refs, ref))
    for keyword in ("anyOf", "oneOf"):
        if keyword in node:
            return _one([_type(b, root, open_refs) for b in node[keyword] if not _only_null(b)])
    if "allOf" in node:
        return _type(node["allOf"][0], root, open_refs) if len(node["allOf"]) == 1 else "JSON"
    if "enum" in node or "const" in node:
        values = [v for v in node.get("enum", [node.get("const")]) if v is not None]
        return _one([_value_type(v) for v in values])
    kinds = node.get("type", "object" if "properties" in node else None)
    types = [k for k in (kinds if isinstance(kinds, list) else [kinds]) if k != "null"]
    return _one([_typed(k, node, root, open_refs) for k in types])


def _typed(kind: Any, node: Node, root: Node, open_refs: tuple[str, ...]) -> str:
    if kind == "array":
        return f"{_type(node.get('items'), root, open_refs)}[]"
    if kind == "object":
        properties = node.get("properties") or {}
        names = {name.casefold() for name in properties}
        free = node.get("additionalProperties", False) is not False or "patternProperties" in node
        if not properties or free or len(names) < len(properties) or not all(properties):
            return "JSON"  # DuckDB's field names differ in more than case
        fields = (f"{_quoted(name)} {_type(child, root, open_refs)}" for name, child in properties.items())
        return f"STRUCT({', '.join(fields)})"
    return _SCALARS.get(kind, "JSON")


def _one(types: list[str]) -> str:
    """The one type that holds all, or JSON."""
    distinct = set(types)
    if len(distinct) == 1:
        return types[0]
    return _WIDER.get(frozenset(distinct), "JSON")


def _value_type(value: Any) -> str:
    return {str: "VARCHAR", bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE"}.get(type(value), "JSON")


def _only_null(node: Any) -> bool:
    return isinstance(node, dict) and (node.get("type") == "null" or ("const" in node and node["const"] is None))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
