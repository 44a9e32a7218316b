"""Sets in what a pydantic class made of an answer, in one order.

Python iterates over a set in hash order, and each process has its own hash seed (pydantic/pydantic#11966). Unsorted, the same
answer would give a different record in each process, and every request built from that record would be a different request.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from batchling.schema.nodes import Node

_DEEPEST = 100


def may_hold_sets(model: type[BaseModel], json_schema: Node) -> bool:
    """Whether an object of the class can hold a set: the schema says so, or leaves a value open, or code of its own runs."""
    decorators = model.__pydantic_decorators__
    own = decorators.field_serializers or decorators.model_serializers or decorators.computed_fields
    return bool(own) or _open(json_schema)


def sorted_sets(made: Any, written: Any, depth: int = 0) -> Any:
    """The JSON form of an object with what were sets in it sorted.

    Args:
        made: the object, or a part of it.
        written: its JSON form, which is changed.
    """
    if depth > _DEEPEST:
        return written
    if isinstance(written, list) and isinstance(made, Set | list | tuple):
        if len(written) == len(made):
            written = [sorted_sets(a, b, depth + 1) for a, b in zip(made, written, strict=True)]
        return _sorted(written) if isinstance(made, Set) else written
    if isinstance(written, dict):
        for name, value in _parts(made):
            if name in written:
                written[name] = sorted_sets(value, written[name], depth + 1)
    return written


def _parts(made: Any) -> list[tuple[Any, Any]]:
    """Name in JSON and value of what an object holds."""
    if isinstance(made, BaseModel):
        kind = type(made)
        parts = [(f.serialization_alias or f.alias or n, getattr(made, n, None)) for n, f in kind.model_fields.items()]
        parts += [(f.alias or n, getattr(made, n, None)) for n, f in kind.model_computed_fields.items()]
        return [*parts, *(made.model_extra or {}).items()]
    if is_dataclass(made) and not isinstance(made, type):
        return [(field.name, getattr(made, field.name, None)) for field in fields(made)]
    if isinstance(made, Mapping):
        return list(made.items())
    return []


def _sorted(values: list[Any]) -> list[Any]:
    try:
        return sorted(values)
    except TypeError:  # of several kinds, or lists and objects
        return sorted(values, key=lambda value: orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def _open(node: Any) -> bool:
    if isinstance(node, dict):
        if node.get("uniqueItems") is True or not node.keys() - {"title", "description", "default"}:
            return True
        for key, child in node.items():
            if key in ("properties", "$defs", "definitions", "patternProperties"):
                if isinstance(child, dict) and any(map(_open, child.values())):
                    return True
            elif key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "prefixItems") and _open(child):
                return True
        return False
    if isinstance(node, list):
        return any(map(_open, node))
    return node is True
