"""Metrics whose comparison can never be true: found before anything is bought, by trying it on the rows there are.

DuckDB casts one side of a comparison to the other's type, and a cast that fails counts as false. So a metric that
compares label names with class numbers is 0 for every model, and looks like a bad model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling import confined, duck, metrics
from batchling.catalog import evaluate
from batchling.duck import literal

if TYPE_CHECKING:
    import duckdb

_EQUALS = {
    "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL",
    "COMPARE_DISTINCT_FROM",
    "COMPARE_NOT_DISTINCT_FROM",
    "COMPARE_IN",
    "COMPARE_NOT_IN",
}
_ORDERS = {"COMPARE_LESSTHAN", "COMPARE_GREATERTHAN", "COMPARE_LESSTHANOREQUALTO", "COMPARE_GREATERTHANOREQUALTO"}
_NUMBERS = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(.*\)")
_SHOWN = 4
_MOST_VALUES = 1_000


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a comparison.

    Attributes:
        sql: the expression; type: its DuckDB type.
        table: a query whose column `v` holds every value it can have; None: it can have more than can be listed.
    """

    sql: str
    type: str
    table: str | None

    @property
    def name(self) -> str:
        """The expression for people: DuckDB quotes names that need no quotes."""
        return re.sub(r'"([A-Za-z_]\w*)"', r"\1", self.sql)

    @property
    def kind(self) -> str:
        if self.type == "VARCHAR" or self.type.startswith("ENUM"):
            return "text"
        return "number" if _NUMBERS.fullmatch(self.type) else self.type


def never_equal(
    expressions: Mapping[str, str],
    output_type: str | None,
    data_type: str,
    rows: Path,
    schema: Mapping[str, Any] | None = None,
) -> dict[str, list[str]]:
    """What is wrong with each metric's comparisons, a sentence each; metrics without a doubt are left out.

    Args:
        expressions: name → expression; each was checked (`evaluate.check`).
        output_type: DuckDB type of a valid output; None for plain text.
        data_type: DuckDB type of a row.
        rows: the snapshot, a Parquet file with the column `data`.
        schema: JSON Schema of valid outputs; None: any.
    """
    if not expressions:
        return {}
    with duck.borrowed() as con:
        calm = {name: expression for name, expression in expressions.items() if evaluate.is_tame(con, expression)}
    wild = {name: expression for name, expression in expressions.items() if name not in calm}
    found = _found(calm, output_type, data_type, rows, schema) if calm else {}
    if wild:  # a remark is worth a few seconds, and no error
        with suppress(confined.Exceeded):
            found |= confined.call(
                _found, wild, output_type, data_type, rows, schema, seconds=evaluate.CHECK_SECONDS, memory_mb=512
            )
    return {name: found[name] for name in expressions if name in found}


def _found(
    expressions: Mapping[str, str],
    output_type: str | None,
    data_type: str,
    rows: Path,
    schema: Mapping[str, Any] | None,
) -> dict[str, list[str]]:
    con = duck.connect()
    try:
        columns = ", ".join(f"{name} {kind}" for name, kind in metrics.COLUMNS.items())
        con.execute(f"CREATE TABLE records (output {output_type or 'VARCHAR'}, data {data_type}, {columns})")
        finder = _Finder(con, output_type, rows, schema)
        found = {name: list(dict.fromkeys(finder.of(expression))) for name, expression in expressions.items()}
        return {name: texts for name, texts in found.items() if texts}
    finally:
        con.close()


class _Finder:
    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        output_type: str | None,
        rows: Path,
        schema: Mapping[str, Any] | None,
    ):
        self.con = con
        self.output_type = output_type
        self.rows = f"(SELECT data FROM read_parquet({literal(str(rows))}))"
        self.schema = schema

    def of(self, expression: str) -> Iterator[str]:
        import duckdb

        try:
            row = self.con.execute("SELECT json_serialize_sql(?)", [metrics.select(expression)]).fetchone()
        except duckdb.Error:
            return
        tree = json.loads(row[0]) if row else {}
        for left, right, ordered in _comparisons(tree):
            try:
                one, other = self.side(tree, left), self.side(tree, right)
                reason = self.reason(one, other, ordered=ordered)
            except duckdb.Error:
                continue  # an aggregate, or a part of a lambda: it has no value of its own
            if reason:
                yield f"compares {one.name} with {other.name}: {reason}"

    def side(self, tree: Mapping[str, Any], node: Mapping[str, Any]) -> _Side:
        """A node of the expression's tree, as SQL, with what it can be."""
        whole = json.loads(json.dumps(tree))
        whole["statements"][0]["node"]["select_list"] = [node]
        text = str(self._one("SELECT json_deserialize_sql(?)", [json.dumps(whole)]))
        sql = re.sub(r" FROM records$", "", text).removeprefix("SELECT ")
        kind = str(self.con.execute(f"DESCRIBE SELECT {sql} AS v FROM records").fetchall()[0][1])
        used = list(_columns(node))
        table = None
        if not used:
            table = f"SELECT {sql} AS v"
        elif all(path[0] == "data" for path in used):
            table = f"SELECT TRY({sql}) AS v FROM {self.rows} AS records"
        elif all(path == used[0] for path in used) and used[0][0] == "output":
            outputs = self._outputs(used[0][1:])
            if outputs is not None:
                listed = ", ".join(f"(CAST({literal(json.dumps(o))} AS JSON))" for o in outputs)
                given = f"(SELECT CAST(o AS {self.output_type}) AS output FROM (VALUES {listed}) AS given(o))"
                table = f"SELECT TRY({sql}) AS v FROM {given} AS records"
        return _Side(sql, kind, table)

    def _outputs(self, path: Sequence[str]) -> list[Any] | None:
        """Outputs with every value that the schema allows at a path; None: they cannot be listed."""
        if not path or self.schema is None or not self.output_type or not self.output_type.startswith("STRUCT"):
            return None
        node: Any = self.schema
        levels: list[tuple[str, dict[str, Any]]] = []
        for name in path:
            properties = _followed(self.schema, node).get("properties")
            if not isinstance(properties, Mapping):
                return None
            key = next((key for key in properties if key.casefold() == name.casefold()), None)
            if key is None:
                return None
            levels.append((key, dict.fromkeys(properties)))  # DuckDB wants every field of a struct
            node = properties[key]
        values = _values(self.schema, node)
        if values is None or len(values) > _MOST_VALUES:
            return None
        found = []
        for value in values:
            for key, others in reversed(levels):
                value = {**others, key: value}
            found.append(value)
        return found

    def reason(self, one: _Side, other: _Side, *, ordered: bool) -> str | None:
        """Why a comparison cannot work; None: it can, as far as can be told."""
        kinds = {one.kind, other.kind}
        mixed = kinds in ({"text", "number"}, {"text", "BOOLEAN"})
        if one.table is not None and other.table is not None:
            if not (self._any(one) and self._any(other)):
                return None  # there is nothing to compare yet
            if ordered and not mixed:
                return None
            if self.con.execute(_meeting(one, other, ordered=ordered)).fetchone() is not None:
                return None
            never = "they can never be compared" if ordered else "they are never equal"
            return f"{never} ({self._shown(one)}; {self._shown(other)})"
        if not mixed:
            return None
        text, value = (one, other) if one.kind == "text" else (other, one)
        if text.table is not None:
            kind = value.type
            reads = self.con.execute(f"SELECT 1 FROM ({text.table}) WHERE TRY_CAST(v AS {kind}) IS NOT NULL LIMIT 1")
            if reads.fetchone() is not None or not self._any(text):
                return None
            return f"{text.name} is never {_called(kind)} ({self._shown(text)})"
        return f"{text.name} is text and {value.name} {_called(value.type)}; a text that is none counts as false"

    def _any(self, side: _Side) -> bool:
        return self.con.execute(f"SELECT 1 FROM ({side.table}) WHERE v IS NOT NULL LIMIT 1").fetchone() is not None

    def _shown(self, side: _Side) -> str:
        values = self.con.execute(
            f"SELECT DISTINCT v FROM ({side.table}) WHERE v IS NOT NULL ORDER BY v LIMIT {_SHOWN + 1}"
        )
        texts = [json.dumps(v, ensure_ascii=False, default=str)[:40] for (v,) in values.fetchall()]
        return f"{side.name} is {side.type}: {', '.join(texts[:_SHOWN])}{', …' if len(texts) > _SHOWN else ''}"

    def _one(self, sql: str, values: Sequence[Any]) -> Any:
        row = self.con.execute(sql, values).fetchone()
        return row[0] if row else None


def _meeting(one: _Side, other: _Side, *, ordered: bool) -> str:
    """A query that has a row where the comparison can work. A text is cast first, which is much faster than a TRY around each pair."""
    left, right = ("l.v", "r.v")
    if "text" in (one.kind, other.kind) and one.kind != other.kind:
        if one.kind == "text":
            left = f"TRY_CAST(l.v AS {other.type})"
        else:
            right = f"TRY_CAST(r.v AS {one.type})"
    if ordered:
        return f"SELECT 1 FROM ({one.table}) AS l, ({other.table}) AS r WHERE {left} IS NOT NULL AND {right} IS NOT NULL LIMIT 1"
    return f"SELECT 1 FROM ({one.table}) AS l JOIN ({other.table}) AS r ON {left} = {right} LIMIT 1"


def _called(kind: str) -> str:
    return "a truth value" if kind == "BOOLEAN" else "a number"


def _comparisons(value: Any) -> Iterator[tuple[Any, Any, bool]]:
    """(left, right, whether it is an order) of every comparison in a serialized statement."""
    if isinstance(value, Mapping):
        kind = value.get("type")
        if isinstance(kind, str) and kind in _EQUALS | _ORDERS:
            if "left" in value and "right" in value:
                yield value["left"], value["right"], kind in _ORDERS
            elif isinstance(value.get("children"), list) and value["children"]:
                first, *others = value["children"]
                for other in others[:20]:
                    yield first, other, False
        for child in value.values():
            yield from _comparisons(child)
    elif isinstance(value, list):
        for child in value:
            yield from _comparisons(child)


def _columns(value: Any) -> Iterator[tuple[str, ...]]:
    """The columns in an expression, with the fields that are taken of them."""
    if isinstance(value, Mapping):
        if value.get("class") == "COLUMN_REF":
            yield tuple(str(name) for name in value.get("column_names", ()))
        for child in value.values():
            yield from _columns(child)
    elif isinstance(value, list):
        for child in value:
            yield from _columns(child)


def _followed(root: Mapping[str, Any], node: Any) -> Mapping[str, Any]:
    """A schema node without references and without null beside it."""
    for _ in range(50):
        if not isinstance(node, Mapping):
            return {}
        branches = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
        if isinstance(node.get("$ref"), str):
            target: Any = root
            for step in node["$ref"].split("/")[1:]:
                target = target.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(target, Mapping) else None
            node = target
        elif isinstance(branches, list):
            kept = [b for b in branches if not (isinstance(b, Mapping) and b.get("type") == "null")]
            if len(kept) != 1:
                return {}
            node = kept[0]
        else:
            return node
    return {}


def _values(root: Mapping[str, Any], node: Any) -> list[Any] | None:
    """Every value that a node allows but null; None: more than its words list."""
    node = _followed(root, node)
    if "const" in node:
        return [node["const"]]
    if isinstance(node.get("enum"), list):
        return [value for value in node["enum"] if value is not None]
    return [True, False] if node.get("type") == "boolean" else None
