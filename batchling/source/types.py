"""DuckDB's types, rewritten leaf by leaf."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchling.duck import identifier
from batchling.written import Shape


def shown(kind: Any, leaf: Callable[[str], str]) -> str:
    """A type in DuckDB's words, with `leaf` applied to each scalar type in it."""
    if kind.id == "struct":
        return f"STRUCT({', '.join(f'{identifier(name)} {shown(child, leaf)}' for name, child in kind.children)})"
    if kind.id == "list":
        return f"{shown(kind.children[0][1], leaf)}[]"
    if kind.id == "array":
        return f"{shown(kind.children[0][1], leaf)}[{kind.children[1][1]}]"
    if kind.id == "map":
        key, value = (shown(child, leaf) for _, child in kind.children)
        return f"MAP({key}, {value})"
    return leaf(str(kind))


_LARGE = ("HUGEINT", "UHUGEINT")


def storable(kind: Any, *, large: str = "DECIMAL(38,0)") -> str:
    """The type in which a column goes into Parquet, so that each value in it keeps its text.

    Args:
        large: what integers of 128 bits become; those of 39 digits fit VARCHAR only.
    """

    def leaf(name: str) -> str:
        if name in _LARGE:
            return large
        return "VARCHAR" if name in ("BIGNUM", "BIT", "UUID", "INTERVAL") or name.startswith("ENUM") else name

    return str(kind) if kind.id == "union" or shown(kind, leaf) == shown(kind, str) else shown(kind, leaf)


def exact(expression: str, kind: Any, depth: int = 0) -> str:
    """An expression whose values Python gets with nothing lost and nothing added.

    A FLOAT has few digits and Python's has many: 0.1 would be 0.10000000149011612. A time with a zone would need a
    library, one with nanoseconds would lose them.
    """
    if not _inexact(kind):
        return expression
    if kind.id == "struct":
        fields = ", ".join(
            f"{identifier(name)} := {exact(f'{expression}.{identifier(name)}', child, depth)}"
            for name, child in kind.children
        )
        return f"CASE WHEN {expression} IS NOT NULL THEN struct_pack({fields}) END"
    if kind.id in ("list", "array"):
        item = f"item{depth}"
        return f"list_transform({expression}, lambda {item}: {exact(item, kind.children[0][1], depth + 1)})"
    if kind.id == "map":
        item = f"item{depth}"
        values = (
            f"list_transform(map_values({expression}), lambda {item}: {exact(item, kind.children[1][1], depth + 1)})"
        )
        return f"map(map_keys({expression}), {values})"
    if str(kind) == "FLOAT":
        return f"{expression}::VARCHAR::DOUBLE"
    return f"{expression}::VARCHAR"


def _inexact(kind: Any) -> bool:
    if kind.id in ("struct", "list", "array", "map"):
        return any(_inexact(child) for name, child in kind.children if name != "size" or kind.id == "struct")
    return str(kind) == "FLOAT" or "TIME ZONE" in str(kind)


def shape(kind: Any) -> Shape:
    """Which keys objects of a type have."""
    if kind.id == "struct":
        return {name: shape(child) for name, child in kind.children}
    if kind.id in ("list", "array"):
        return shape(kind.children[0][1])
    return None
