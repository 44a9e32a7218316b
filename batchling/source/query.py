"""`data.sql`: one SELECT, its files beside the experiment, its rows in an order.

DuckDB looks for a relative file in the process's current folder first, so the same experiment would
read other rows when it is run from elsewhere. The parsed query's file names are therefore made
absolute before it runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.duck import literal
from batchling.errors import DataError
from batchling.source import named
from batchling.source.faults import nearest, shorten

if TYPE_CHECKING:
    import duckdb

    from batchling.source.databases import Database

_READERS = re.compile(r"^(read_\w+|parquet_\w+|sniff_csv|glob)$", re.I)
_FILE = re.compile(r"\.(csv|tsv|jsonl?|ndjson|parquet|pq|txt|db|duckdb|xlsx)(\.(gz|zst|bz2))?$|[*?]", re.I)
_ABSOLUTE = re.compile(r"^(/|~|[a-z][a-z0-9+.-]*:)", re.I)


def _tree(con: duckdb.DuckDBPyConnection, sql: str) -> dict[str, Any]:
    row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree: dict[str, Any] = json.loads(row[0]) if row else {}
    return tree


def is_ordered(con: duckdb.DuckDBPyConnection, sql: str) -> bool:
    """Whether the outermost query has an ORDER BY."""
    statements = _tree(con, sql).get("statements") or [{}]
    modifiers = statements[0].get("node", {}).get("modifiers", [])
    return any(m.get("type") == "ORDER_MODIFIER" for m in modifiers)


def checked(
    con: duckdb.DuckDBPyConnection,
    sql: str,
    root: Path,
    *,
    has_id: bool,
    databases: Mapping[str, Database] | None = None,
    scratch: Path | None = None,
    size: int | None = None,
) -> str:
    """The query as it is run.

    Args:
        databases: whose tables it may name, as `name.table`.
        scratch: folder for copies of these tables.
        size: bytes that a copy may have.

    Raises:
        DataError: not exactly one SELECT, a syntax error, or no ORDER BY where rows are named by position.
    """
    import duckdb

    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise DataError(f"data.sql is not valid SQL: {shorten(str(error))}") from None
    if len(statements) != 1:
        raise DataError(f"data.sql must be one SELECT, not {len(statements)} statements")
    if str(statements[0].type).rsplit(".", 1)[-1] != "SELECT":
        kind = str(statements[0].type).rsplit(".", 1)[-1]
        raise DataError(f"data.sql must be a SELECT, not {kind}: batchling only reads")
    tree = _tree(con, sql)
    if tree.get("error"):
        raise DataError(f"data.sql must be one SELECT: {shorten(str(tree.get('error_message')))}")
    if not has_id and not is_ordered(con, sql):
        raise DataError(
            "data.sql has no ORDER BY, so a row's position says nothing about which row it is",
            next_command="set data.id to a column that names a row, or end the query with ORDER BY",
        )
    _copied_tables(tree, databases or {}, scratch or root, size)
    con.execute(f"SET file_search_path = {literal(str(root))}")
    _anchor(tree, root)
    named.exact(con, tree)
    try:
        row = con.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    except duckdb.Error:  # a construct that DuckDB can parse and not print again
        row = None
    if row is None and databases:
        raise DataError("data.sql has something that cannot be used together with data.databases: say it otherwise")
    # The printed form has no comment or semicolon at its end, so that it can stand inside another query.
    return str(row[0]) if row else sql.strip().rstrip(";") + "\n"


_OWN = ("main", "temp", "system", "information_schema", "pg_catalog", "memory")


def _copied_tables(tree: Any, databases: Mapping[str, Database], scratch: Path, size: int | None) -> None:
    """Reads each table that a parsed query names from a declared database, in place; of others none is to be had.

    Raises:
        DataError: a database that is not declared, or no such table.
    """
    copies: dict[tuple[str, str], str] = {}

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                walk(child)
        if not isinstance(node, dict):
            return
        if node.get("type") == "BASE_TABLE" and (path := _qualified(node))[:-1]:
            name, rest = path[0], path[1:]
            known = {one.casefold(): one for one in databases}.get(name.casefold())
            if known is None and name.casefold() not in _OWN:
                hint = nearest(name, databases) or "; declare it: data.databases: {" + name + ": FILE}"
                raise DataError(
                    f"data.sql names the database {name!r}, which data.databases does not{hint}", key="data.sql"
                )
            if known is not None:
                table = ".".join(rest)
                if (known, table) not in copies:
                    copies[known, table] = str(databases[known].copy(table, scratch / known, size))
                node["alias"] = node.get("alias") or rest[-1]
                node |= {"catalog_name": "", "schema_name": "", "table_name": copies[known, table]}
                if "qualified_name" in node:
                    node["qualified_name"] = {"path": [copies[known, table]]}
        for child in node.values():
            walk(child)

    walk(tree)
    _unqualify(tree, {(name.casefold(), *table.casefold().split(".")) for name, table in copies})


def _unqualify(node: Any, tables: Collection[tuple[str, ...]]) -> None:
    """Rewrites `shop.tickets.id` to `tickets.id`: the copied table has no database name."""
    if isinstance(node, list):
        for child in node:
            _unqualify(child, tables)
    if not isinstance(node, dict):
        return
    names = node.get("column_names")
    if node.get("class") == "COLUMN_REF" and isinstance(names, list):
        folded = [str(name).casefold() for name in names]
        for table in tables:
            if len(folded) > len(table) and tuple(folded[: len(table)]) == table:
                node["column_names"] = names[len(table) - 1 :]
                break
    for child in node.values():
        _unqualify(child, tables)


def _qualified(node: dict[str, Any]) -> list[str]:
    """Database, schema and table, as far as a query says them."""
    if isinstance(path := (node.get("qualified_name") or {}).get("path"), list):
        return [str(part) for part in path]
    names = (node.get("catalog_name"), node.get("schema_name"), node.get("table_name"))
    return [str(name) for name in names if name]


def _anchor(node: Any, root: Path) -> None:
    """Make the relative files of a parsed query absolute, in place."""
    if isinstance(node, list):
        for child in node:
            _anchor(child, root)
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE" and not node.get("schema_name") and not node.get("catalog_name"):
        name = str(node.get("table_name", ""))
        if _FILE.search(name) and not _ABSOLUTE.match(name):
            node["table_name"] = str(root / name)
            if "qualified_name" in node:
                node["qualified_name"] = {"path": [str(root / name)]}
    if node.get("type") == "TABLE_FUNCTION":
        function = node.get("function", {})
        arguments = function.get("arguments") or function.get("children") or []
        if _READERS.match(str(function.get("function_name", ""))) and arguments:
            _anchor_texts(arguments[0], root)
    for child in node.values():
        _anchor(child, root)


def _anchor_texts(node: Any, root: Path) -> None:
    """The same for the constants of a reader's first argument: a text, or a list of texts."""
    if isinstance(node, list):
        for child in node:
            _anchor_texts(child, root)
    if not isinstance(node, dict):
        return
    if node.get("class") == "CONSTANT":
        # DuckDB 2 writes {"literal": {"text": ...}}, DuckDB 1 {"value": {"value": ...}}
        holder, key = (node.get("literal"), "text") if "literal" in node else (node.get("value"), "value")
        value = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(value, str) and not _ABSOLUTE.match(value):
            holder[key] = str(root / value)
        return
    for child in node.values():
        _anchor_texts(child, root)
