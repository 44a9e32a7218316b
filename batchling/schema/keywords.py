"""The keywords of a JSON Schema as people bring it: those that nobody knows, OpenAPI's `nullable`, open objects.

JSON Schema says that an unknown keyword means nothing, so a misspelt one takes a constraint away without a word.
Sources: JSON Schema drafts 4 to 2020-12 (json-schema.org), OpenAPI 3.0's schema object (`nullable`, spec.openapis.org/oas/v3.0.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from batchling.schema.nodes import Node

_ONE = ("additionalProperties", "additionalItems", "contains", "else", "if", "items", "not", "propertyNames", "then")
_ONE_MORE = ("unevaluatedItems", "unevaluatedProperties", "contentSchema")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
KNOWN = frozenset(
    (
        *_ONE,
        *_ONE_MORE,
        *_LISTS,
        *_MAPS,
        *("$anchor", "$comment", "$dynamicAnchor", "$dynamicRef", "$id", "$recursiveAnchor", "$recursiveRef", "$ref"),
        *(
            "$schema",
            "$vocabulary",
            "id",
            "const",
            "default",
            "deprecated",
            "description",
            "enum",
            "examples",
            "format",
        ),
        *("contentEncoding", "contentMediaType", "dependentRequired", "exclusiveMaximum", "exclusiveMinimum"),
        *("maxContains", "maxItems", "maxLength", "maxProperties", "maximum", "minContains", "minItems", "minLength"),
        *("minProperties", "minimum", "multipleOf", "pattern", "readOnly", "required", "title", "type", "uniqueItems"),
        *("writeOnly", "nullable", "discriminator", "example", "externalDocs", "xml", "propertyOrdering"),
    )
)
"""Keywords of JSON Schema, OpenAPI's additions, and Gemini's `propertyOrdering`."""


def unknown(schema: Node) -> list[str]:
    """Keywords that mean nothing, as `path: keyword (did you mean …?)`; what begins with `x-` is somebody's own."""
    found = []
    for path, node in _nodes(schema, "schema"):
        for name in node:
            if name in KNOWN or name.startswith("x-"):
                continue
            near = get_close_matches(name, KNOWN, n=1, cutoff=0.7)
            found.append(f"{path}: {name}" + (f" (did you mean {near[0]}?)" if near else ""))
    return list(dict.fromkeys(found))


def open_objects(schema: Node) -> list[str]:
    """Paths of objects with named properties that say that others may come too (`extra="allow"` in pydantic)."""
    return [
        path
        for path, node in _nodes(schema, "schema")
        if node.get("properties") and node.get("additionalProperties") is True
    ]


def with_nulls(node: Any) -> Any:
    """The schema with OpenAPI's `nullable: true` said in JSON Schema's words."""
    if isinstance(node, list):
        return [with_nulls(child) for child in node]
    if not isinstance(node, dict):
        return node
    out: Node = {}
    for name, value in node.items():
        if name in _MAPS and isinstance(value, dict):
            out[name] = {key: with_nulls(child) for key, child in value.items()}
        elif name in _ONE or name in _ONE_MORE or name in _LISTS:
            out[name] = with_nulls(value)
        else:
            out[name] = value
    if "nullable" not in out or not isinstance(out["nullable"], bool):
        return out
    if not out.pop("nullable"):
        return out
    kinds = out.get("type")
    if "$ref" in out or any(name in out for name in ("anyOf", "oneOf", "allOf")) or "const" in out:
        notes = {name: out.pop(name) for name in ("title", "description", "default") if name in out}
        return {"anyOf": [out, {"type": "null"}], **notes}
    if isinstance(kinds, str) and kinds != "null":
        out["type"] = [kinds, "null"]
    elif isinstance(kinds, list) and "null" not in kinds:
        out["type"] = [*kinds, "null"]
    if isinstance(out.get("enum"), list) and None not in out["enum"]:
        out["enum"] = [*out["enum"], None]
    return out


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Node]]:
    """Every subschema, with its path."""
    if not isinstance(node, dict):
        return
    yield path, node
    for name in (*_ONE, *_ONE_MORE):
        step = "[]" if name == "items" else f".{name}"
        yield from _nodes(node.get(name), f"{path}{step}")
    for name in _LISTS:
        branches = node.get(name)
        for number, branch in enumerate(branches if isinstance(branches, list) else (), 1):
            yield from _nodes(branch, f"{path}<{number}>")
    for name in _MAPS:
        children = node.get(name)
        for key, child in (children if isinstance(children, dict) else {}).items():
            yield from _nodes(child, f"{path}.{key}" if name == "properties" else f"{path}.{name}.{key}")
