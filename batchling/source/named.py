"""CSV and JSON files that `data.sql` names: what the query passes on keeps its text, what it computes has types.

DuckDB looks at the first 20,480 lines of a CSV, decides on types and rounds what comes later; and whatever it decides, a
value's text would depend on the other rows. So a column whose type would print some value in another way is read as
text (or, from JSON, as JSON), and where the query compares it, calculates with it or sorts by it, the reference
is cast to the type that all its rows have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchling.duck import identifier, literal

if TYPE_CHECKING:
    import duckdb

Node = dict[str, Any]

_CSV = re.compile(r"\.(csv|tsv)(\.(gz|zst))?$", re.I)
_JSON = re.compile(r"\.(json|jsonl|ndjson)(\.(gz|zst))?$", re.I)
_REMOTE = re.compile(r"^[a-z][a-z0-9+.-]+://", re.I)
_TYPED = frozenset(
    (
        "types",
        "dtypes",
        "column_types",
        "columns",
        "all_varchar",
        "auto_type_candidates",
        "dateformat",
        "timestampformat",
        "decimal_separator",
        "union_by_name",
        "auto_detect",
    )
)
"""Options with which a query says itself how values are read."""

_WORDS = """|| concat concat_ws lower lcase upper ucase trim ltrim rtrim length len strlen ~~ !~~ ~~* !~~* ~~~ like_escape contains
regexp_matches regexp_extract regexp_extract_all regexp_replace regexp_full_match regexp_split_to_array replace substring substr
left right starts_with prefix suffix ends_with split string_split str_split split_part lpad rpad reverse repeat md5 sha256 hash
format printf struct_pack row list_value list_pack first last any_value arbitrary mode list array_agg string_agg group_concat
listagg count to_json json_object json_array map json_extract json_transform strptime"""
_OF_TEXT = frozenset({*_WORDS.split(), "->", "->>"})
"""Functions that take a value as it is, or its text."""


@dataclass(frozen=True, slots=True)
class _Cast:
    """How an expression over a column gets its values.

    Attributes:
        sql: with `{}` for the reference.
        struct: it has fields.
    """

    sql: str
    struct: bool = False


def exact(con: duckdb.DuckDBPyConnection, tree: Node) -> None:
    """Makes a parsed query read its CSV and JSON files so, in place. Their paths are absolute already."""
    casts: dict[str, _Cast] = {}
    columns: dict[str, list[str]] = {}
    for number, table in enumerate(list(_tables(tree))):
        view = f"batchling_file_{number}"
        found = _view(con, table, view)
        if found is None:
            continue
        casts |= found
        columns[view] = [row[0] for row in con.execute(f"DESCRIBE {view}").fetchall()]
        template = _parsed(con, f"SELECT * FROM {view}")["from_table"]
        alias = table.get("alias") or _alias(table)
        kept = {"alias": alias, "sample": table.get("sample"), "column_name_alias": table.get("column_name_alias", [])}
        table.clear()
        table.update(template | kept)
    if casts:
        _Casting(con, casts, columns, {str(t["alias"]).casefold() for t in _named_tables(tree)}).walk(tree)


def _tables(node: Any) -> Iterator[Node]:
    if isinstance(node, list):
        for child in node:
            yield from _tables(child)
    elif isinstance(node, dict):
        if node.get("type") in ("BASE_TABLE", "TABLE_FUNCTION"):
            yield node
        for child in node.values():
            yield from _tables(child)


def _alias(table: Node) -> str:
    if table["type"] == "BASE_TABLE":
        return re.sub(r"\..*$", "", Path(table["table_name"]).name)
    return str(table["function"]["function_name"])


def _parsed(con: duckdb.DuckDBPyConnection, sql: str) -> Node:
    row = con.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    assert row is not None
    node: Node = json.loads(row[0])["statements"][0]["node"]
    return node


def _text(con: duckdb.DuckDBPyConnection, table: Node, extra: str = "") -> str:
    """A SELECT of everything that a table function gives, with further options."""
    row = con.execute("SELECT json_serialize_sql('SELECT * FROM t')").fetchone()
    assert row is not None
    tree = json.loads(row[0])
    copy = json.loads(json.dumps(table | {"alias": "", "column_name_alias": [], "sample": None}))
    tree["statements"][0]["node"]["from_table"] = copy
    written = con.execute("SELECT json_deserialize_sql(?::JSON)", [json.dumps(tree)]).fetchone()
    assert written is not None
    sql = str(written[0]).rstrip("; \n")
    return sql[: sql.rindex(")")] + extra + ")" if extra else sql


def _view(con: duckdb.DuckDBPyConnection, table: Node, view: str) -> dict[str, _Cast] | None:
    """Makes a view of the file; the casts of its columns that are not of their type. None: it is read as it was."""
    import duckdb

    try:
        if table["type"] == "BASE_TABLE":
            name = str(table["table_name"])
            if table.get("schema_name") or table.get("catalog_name") or _REMOTE.match(name):
                return None
            if _CSV.search(name):
                return _csv(con, f"SELECT * FROM read_csv({literal(name)})", view)
            if _JSON.search(name):
                return _documents(con, f"SELECT * FROM read_json({literal(name)})", [name], view)
            return None
        function = table["function"]
        name = str(function["function_name"]).lower()
        options = {str(option).lower() for option in _options(function)}
        if name in ("read_csv", "read_csv_auto") and not options & _TYPED:
            return _csv(con, _text(con, table), view)
        if name in ("read_json", "read_json_auto", "read_ndjson", "read_ndjson_auto") and not options:
            sql = _text(con, table)
            paths = [str(p) for p in _constants((function.get("arguments") or function.get("children"))[0])]
            if paths and not any(map(_REMOTE.match, paths)):
                return _documents(con, sql, paths, view)
    except duckdb.Error:
        pass  # the query says it better
    return None


def _options(function: Node) -> Iterator[str]:
    for argument in (function.get("arguments") or function.get("children") or [])[1:]:
        node = argument.get("expression", argument)
        names = (node.get("left") or {}).get("column_names") or [argument.get("name") or node.get("alias")]
        yield names[-1]


def _constants(node: Any) -> Iterator[Any]:
    if isinstance(node, list):
        for child in node:
            yield from _constants(child)
    elif isinstance(node, dict):
        if node.get("class") == "CONSTANT":
            # DuckDB 2 writes {"literal": {"text": ...}}, DuckDB 1 {"value": {"value": ...}}
            yield node["literal"]["text"] if "literal" in node else node["value"]["value"]
            return
        for child in node.values():
            yield from _constants(child)


def _csv(con: duckdb.DuckDBPyConnection, sql: str, view: str) -> dict[str, _Cast] | None:
    whole = "" if "sample_size" in sql else ", sample_size = -1"
    typed = sql[: sql.rindex(")")] + whole + ")"
    described = con.execute(f"DESCRIBE {typed}").fetchall()
    kinds = {row[0]: row[1] for row in described}
    texts = literal(dict.fromkeys(kinds, "VARCHAR"))
    plain = typed[: typed.rindex(")")] + f", types = {texts})"
    if [row[0] for row in con.execute(f"DESCRIBE {plain}").fetchall()] != list(kinds):
        return None
    asked = [name for name, kind in kinds.items() if kind != "VARCHAR"]
    casts: dict[str, _Cast] = {}
    columns = dict.fromkeys(kinds, "{}")
    if asked:
        checks = []
        for name in asked:
            column = identifier(name)
            read = f"TRY_CAST({column} AS {kinds[name]})"
            # A timestamp prints otherwise in a prompt, so it stays as it is written.
            same = "false" if kinds[name].startswith("TIMESTAMP") else f"{read}::VARCHAR IS NOT DISTINCT FROM {column}"
            if kinds[name] in ("DOUBLE", "FLOAT"):  # a prompt shows no exponents, so what has one stays text
                same += f" AND NOT regexp_matches({column}, '[a-zA-Z]')"
            readable = f"{read} IS NOT NULL OR {column} IS NULL"
            checks += [f"bool_and({same}) FILTER ({column} IS NOT NULL)", f"bool_and({readable})"]
        row = con.execute(f"SELECT {', '.join(checks)} FROM ({plain})").fetchone() or ()
        for place, name in enumerate(asked):
            if row[2 * place] is not False:
                columns[name] = f"CAST({{}} AS {kinds[name]})"
            elif row[2 * place + 1]:
                casts[name.casefold()] = _Cast(f"CAST({{}} AS {kinds[name]})")
            elif kinds[name].startswith(("DATE", "TIMESTAMP")) and (format := _format(con, sql, kinds[name])):
                casts[name.casefold()] = _Cast(f"CAST(strptime({{}}, {literal(format)}) AS {kinds[name]})")
    shown = ", ".join(f"{to.format(identifier(n))} AS {identifier(n)}" for n, to in columns.items())
    con.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT {shown} FROM ({plain})")
    return casts


def _format(con: duckdb.DuckDBPyConnection, sql: str, kind: str) -> str | None:
    """How the sniffer reads dates that are not written as ISO 8601 has them."""
    sniffed = re.sub(r"^SELECT \* FROM read_csv(_auto)?\(", "SELECT * FROM sniff_csv(", sql, flags=re.I)
    found = con.execute(f"SELECT DateFormat, TimestampFormat FROM ({sniffed})").fetchone()
    return None if found is None else found[0 if kind == "DATE" else 1]


def _documents(con: duckdb.DuckDBPyConnection, sql: str, paths: list[str], view: str) -> dict[str, _Cast] | None:
    from batchling.source.documents import WRITTEN, relation

    lines = "ndjson" in sql.split("(")[0].lower() or all(re.search(r"\.(jsonl|ndjson)", p, re.I) for p in paths)
    made, _, written = relation(con, paths, {}, lines=lines)
    if not written:
        con.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS {made}")
        return {}
    found = con.sql(made)
    kinds = dict(zip(found.columns, found.types, strict=True))
    kept = [name for name, _ in kinds.pop(WRITTEN).children]
    checks = ", ".join(f"count({WRITTEN}.{identifier(name)})" for name in kept)
    counts = con.execute(f"SELECT {checks} FROM ({made})").fetchone() or ()
    changed = {name for name, count in zip(kept, counts, strict=True) if count}
    columns = []
    casts: dict[str, _Cast] = {}
    for name, kind in kinds.items():
        column = identifier(name)
        if name in changed:
            columns.append(f"coalesce({WRITTEN}.{column}, to_json({column})::VARCHAR)::JSON AS {column}")
            if str(kind) != "JSON":
                shape = literal(json.dumps(str(kind)))
                casts[name.casefold()] = _Cast(f"json_transform({{}}, {shape})", kind.id == "struct")
        else:
            columns.append(column)
    con.execute(f"CREATE OR REPLACE TEMP VIEW {view} AS SELECT {', '.join(columns)} FROM ({made})")
    return casts


def _computed(tree: Any, *, inside: bool = True) -> set[str]:
    """The names that a query gives to what it computes: they are not the file's columns."""
    found: set[str] = set()
    if isinstance(tree, list):
        return found.union(*(_computed(child) for child in tree))
    if isinstance(tree, dict):
        for item in tree.get("select_list") or []:
            if isinstance(item, dict) and item.get("alias") and item.get("class") != "COLUMN_REF":
                found.add(str(item["alias"]).casefold())
        return found.union(*(_computed(child) for child in tree.values())) if inside else found
    return found


def _named_tables(tree: Any) -> Iterator[Node]:
    if isinstance(tree, list):
        for child in tree:
            yield from _named_tables(child)
    elif isinstance(tree, dict):
        if (
            tree.get("alias")
            and tree.get("type") in ("BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY")
            and "class" not in tree
        ):
            yield tree
        for child in tree.values():
            yield from _named_tables(child)


@dataclass(frozen=True, slots=True)
class _Casting:
    """Casts references where a value is compared, calculated with or sorted by.

    Attributes:
        con: parses what is put in.
        casts: by the column's folded name.
        columns: of each view.
        tables: what tables are called in the query.
    """

    con: duckdb.DuckDBPyConnection
    casts: Mapping[str, _Cast]
    columns: Mapping[str, list[str]]
    tables: set[str]

    def walk(self, tree: Any) -> None:
        if isinstance(tree, list):
            for child in tree:
                self.walk(child)
        elif isinstance(tree, dict):
            if tree.get("type") == "SELECT_NODE":
                _positions(tree, self.columns)
                below = _computed([tree.get("from_table"), tree.get("cte_map")])
                own = _computed(tree, inside=False)
                for key in tree:
                    # ORDER BY sees what the query computes before it sees the columns; everything else does not.
                    hidden = set() if key in ("from_table", "cte_map") else below | own if key == "modifiers" else below
                    visible = {name: cast for name, cast in self.casts.items() if name not in hidden}
                    replace(self, casts=visible)._child(tree, key)
            else:
                for key in tree:
                    self._child(tree, key)

    def _child(self, tree: Node, key: str) -> None:
        child = tree[key]
        kind = tree.get("class")
        plain = (
            key in ("select_list", "group_expressions", "partitions", "then_expr", "else_expr", "from_table")
            or (key == "expression" and kind is None)  # seen to with the list that it stands in
            or kind in ("CAST", "STAR")
            or str(tree.get("function_name", "")).lower() in _OF_TEXT
            or tree.get("type") in ("OPERATOR_COALESCE", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL")
        )
        if isinstance(child, dict):
            tree[key] = self._typed(child, plain)
        elif isinstance(child, list):
            for place, item in enumerate(child):
                if isinstance(item, dict):
                    child[place] = self._typed(item, plain)
                    inner = child[place].get("expression")
                    if isinstance(inner, dict):  # an argument, or an entry of ORDER BY
                        child[place]["expression"] = self._typed(inner, plain)
        self.walk(tree[key])

    def _typed(self, node: Node, plain: bool) -> Node:
        """The reference cast to its type; as it is where it is none, or where its text is wanted."""
        if node.get("class") != "COLUMN_REF":
            return node
        names = [str(name) for name in node.get("column_names", [])]
        at = 1 if len(names) > 1 and names[0].casefold() in self.tables else 0
        cast = self.casts.get(names[at].casefold()) if names else None
        if cast is None:
            return node
        fields = names[at + 1 :]
        if (fields and not cast.struct) or (plain and not fields):
            return node
        sql = cast.sql.replace("{}", ".".join(map(identifier, names[: at + 1])))
        for field in fields:
            sql = f"struct_extract({sql}, {literal(field)})"
        made: Node = _parsed(self.con, f"SELECT {sql}")["select_list"][0]
        made["alias"] = node.get("alias") or (fields[-1] if fields and plain else "")
        return made


def _positions(select: Node, columns: Mapping[str, list[str]]) -> None:
    """`ORDER BY 2` as the column that it means, so that it is sorted by its type."""
    items = select.get("select_list") or []
    table = select.get("from_table") or {}
    if len(items) == 1 and items[0].get("class") == "STAR" and not items[0].get("exclude_list"):
        named: list[Any] = columns.get(str(table.get("table_name")), [])
        references = [{"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "column_names": [n]} for n in named]
    else:
        references = [item if item.get("class") == "COLUMN_REF" else None for item in items]  # type: ignore[misc]
        if any(item.get("class") == "STAR" for item in items):
            return
    for modifier in select.get("modifiers") or []:
        for order in modifier.get("orders", []) if modifier.get("type") == "ORDER_MODIFIER" else []:
            position = (
                next(iter(_constants(order["expression"])), None)
                if order["expression"].get("class") == "CONSTANT"
                else None
            )
            if str(position).isdigit() and 0 < int(str(position)) <= len(references):
                reference = references[int(str(position)) - 1]
                if reference is not None:
                    order["expression"] = {**reference, "alias": ""}
