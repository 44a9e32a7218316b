"""How large a strict schema may be.

Source: OpenAI's guide to structured outputs; the figures were raised in July 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchling.errors import SchemaError
from batchling.schema.nodes import Node, resolve


@dataclass(frozen=True, slots=True)
class StrictLimits:
    """How large a strict schema may be. Characters count names of properties and definitions, enum and const values."""

    properties: int = 5_000
    depth: int = 10
    enum_values: int = 1_000
    characters: int = 120_000
    large_enum: int = 250
    large_enum_characters: int = 15_000


OPENAI_LIMITS = StrictLimits()


def check_limits(schema: Node, limits: StrictLimits) -> None:
    """Raises `SchemaError` when a strict schema is over a limit; the message names it and the size."""
    properties = enum_values = characters = 0
    todo: list[tuple[str, Node]] = [("schema", schema)]
    for name, definition in schema.get("$defs", {}).items():
        characters += len(name)
        todo.append((name, definition))
    while todo:
        path, node = todo.pop()
        names = node.get("properties", {})
        properties += len(names)
        characters += sum(map(len, names))
        values = [*node.get("enum", []), *([node["const"]] if "const" in node else [])]
        size = sum(len(str(v)) for v in values)
        enum_values += len(node.get("enum", []))
        characters += size
        if (
            len(values) > limits.large_enum
            and all(isinstance(v, str) for v in values)
            and size > limits.large_enum_characters
        ):
            raise too_large(
                f"{path}: an enum with more than {limits.large_enum} values",
                size,
                limits.large_enum_characters,
                "characters",
            )
        todo.extend((path + step, child) for step, child in _children(node))
    if properties > limits.properties:
        raise too_large("schema", properties, limits.properties, "properties")
    if enum_values > limits.enum_values:
        raise too_large("schema", enum_values, limits.enum_values, "enum values")
    if characters > limits.characters:
        raise too_large("schema", characters, limits.characters, "characters of names, enum and const values")
    depth = _levels(schema, schema, {})
    if depth > limits.depth:
        raise too_large("schema", depth, limits.depth, "levels of nested objects")


def _levels(root: Node, node: Node, known: dict[str, int]) -> int:
    """Levels of objects in objects, references followed; where a definition contains itself, counting ends."""
    if "$ref" in node:
        ref = node["$ref"]
        if ref not in known:
            known[ref] = 0
            known[ref] = _levels(root, resolve(root, ref), known) if ref != "#" else 0
        return known[ref]
    below = max((_levels(root, child, known) for _, child in _children(node)), default=0)
    return below + ("properties" in node)


def too_large(path: str, size: int, limit: int, what: str) -> SchemaError:
    """The error for a size over its limit."""
    return SchemaError(
        f"{path}: {size:,} {what}; strict mode takes {limit:,}",
        next_command="make it smaller, or set schema.strict: false",
    )


def _children(node: Node) -> Iterator[tuple[str, Node]]:
    """The subschemas of a strict node, with their path's last step."""
    for name, value in node.get("properties", {}).items():
        yield f".{name}", value
    if "items" in node:
        yield "[]", node["items"]
    for i, branch in enumerate(node.get("anyOf", []), 1):
        yield f"<{i}>", branch
