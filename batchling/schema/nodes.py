"""JSON Schema nodes: where references lead, and whether null is allowed."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from batchling.errors import SchemaError

Node = dict[str, Any]


def resolve(root: Node, ref: str, path: str = "schema") -> Any:
    """The definition that a local `$ref` points to.

    Raises:
        SchemaError: it is not local, or points nowhere.
    """
    if ref != "#" and not ref.startswith("#/"):
        raise SchemaError(
            f"{path}: $ref {ref!r} points outside the schema", next_command="put the definition under $defs"
        )
    node: Any = root
    for step in ref.split("/")[1:]:
        step = unquote(step).replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(step)] if isinstance(node, list) else node[step]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise SchemaError(f"{path}: $ref {ref!r} points to nothing") from error
    return node


def takes_null(node: Any, root: Node, depth: int = 0) -> bool:
    """Whether a JSON Schema accepts null, as far as its types tell."""
    if not isinstance(node, dict) or depth > 50:
        return node is True
    if "$ref" in node:
        return takes_null(resolve(root, node["$ref"]), root, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in node:
            return any(takes_null(branch, root, depth + 1) for branch in node[keyword])
    if "allOf" in node:
        return all(takes_null(branch, root, depth + 1) for branch in node["allOf"])
    if "const" in node:
        return node["const"] is None
    if "enum" in node:
        return None in node["enum"]
    types = node.get("type")
    return types is None or "null" in ([types] if isinstance(types, str) else types)
