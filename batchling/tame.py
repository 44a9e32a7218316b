"""Which SQL cannot build more than it is given, told from its parsed form.

An expression of comparisons, arithmetic and a known set of functions yields no more than it reads, however it is put
together: it can be evaluated in this process, where it starts at once. Everything else goes where it can be ended
(`batchling.confined`). So a function that is missing here costs a third of a second and no more, while one that is here
and can build a gigabyte out of a letter is a hole: none is added without looking at how long its result can get.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NUMBERS_AND_PARTS = """
- * / // % & | << >> ~ abs sign round floor ceil ceiling trunc sqrt cbrt ln log log2 log10 exp pow power greatest least
ifnull nullif if isnan isinf isfinite not lower upper lcase ucase trim ltrim rtrim strip_accents length len strlen char_length
left right substr substring starts_with ends_with prefix suffix contains strpos instr position ~~ !~~ ~~* !~~* like_escape
ilike_escape regexp_matches regexp_full_match regexp_extract list_contains array_contains list_has array_has list_position
array_position list_extract array_extract struct_extract element_at map_extract json_extract json_extract_string
json_valid json_type json_array_length year month day hour minute second epoch date_trunc date_part datepart date_diff
datediff dayofweek isodow week quarter
"""
"""Functions whose value is a number, a date, a truth value, one of the arguments or a part of one."""

_AGGREGATES = """
avg mean sum count count_star count_if countif min max favg fsum sumkahan kahan_sum product stddev stddev_samp stddev_pop
variance var_samp var_pop median quantile quantile_cont quantile_disc corr covar_samp covar_pop bool_and bool_or any_value
first last arg_max arg_min argmax argmin max_by min_by approx_count_distinct mode entropy skewness kurtosis regr_slope
regr_intercept regr_r2 row_number rank dense_rank
"""
"""Aggregates that keep a number, or each value once at most."""

_READERS = "read_csv read_csv_auto read_parquet parquet_scan"
_ARROWS = frozenset({"->", "->>"})
_FUNCTIONS = _ARROWS | frozenset(f"{_NUMBERS_AND_PARTS} {_AGGREGATES} {_READERS}".split())
_DOUBLING = frozenset(
    {"||", "concat", "concat_ws", "list_concat", "array_concat", "list_value", "struct_pack", "row", "map", "to_json"}
)
"""Functions whose result is as long as their arguments together."""

_DOUBLINGS = 6
"""How many of these, and of `+`, which joins lists, a text may hold, each argument after the second counted once more. A
query's columns can be named and used twice again, so that each one may double what there is. So may nesting in one
expression: `to_json(to_json(x)::VARCHAR)` and `[[x]::VARCHAR]::VARCHAR` escape every escape again, and a chain of 250 `||`
keeps all that it made on its way."""

_NUMERIC_WORDS = """
BOOLEAN BOOL LOGICAL TINYINT INT1 SMALLINT INT2 INT16 SHORT INTEGER INT INT4 INT32 INTEGRAL SIGNED BIGINT INT8 INT64 LONG
HUGEINT INT128 UTINYINT UINT8 USMALLINT UINT16 UINTEGER UINT32 UBIGINT UINT64 UHUGEINT UINT128 FLOAT FLOAT4 REAL DOUBLE
FLOAT8 DECIMAL DEC NUMERIC
"""
_NUMERIC = frozenset(_NUMERIC_WORDS.split())
"""Types of numbers that are never longer than a few bytes. BIGNUM has as many digits as its text, and takes the square of them in time."""

_TYPE_WORDS = """
VARCHAR TEXT STRING CHAR BPCHAR NVARCHAR JSON BLOB BYTEA UUID DATE TIME TIMETZ TIMESTAMP DATETIME TIMESTAMPTZ TIMESTAMP_S
TIMESTAMP_MS TIMESTAMP_US TIMESTAMP_NS INTERVAL LIST
"""
_TYPES = _NUMERIC | frozenset(_TYPE_WORDS.split()) | {"TIME WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"}
"""Types whose values are no longer than their texts; a STRUCT's are as long as its fields are many."""

_PATTERNS = frozenset({"regexp_matches", "regexp_full_match", "regexp_extract"})
"""Functions that compile their second argument: once where it is a constant, else for each row."""

_NUMBER_WORDS = "length len strlen abs round floor ceil count count_star count_if countif sum avg mean * / //"
_NUMBERS = frozenset(_NUMBER_WORDS.split())
"""Functions that only ever give numbers."""

_WILD = frozenset({"RECURSIVE_CTE_NODE", "JOIN", "PIVOT", "LAMBDA", "LAMBDA_REF", "SHOW_REF", "DELIM_GET"})
"""Parts of queries that repeat their work, or multiply rows."""

_NODES = 5_000
_CHARACTERS = 20_000


def short(sql: str) -> bool:
    """Whether a text may be parsed in this process: a parser's stack is as deep as the text is nested."""
    return len(sql) <= _CHARACTERS


def tame(tree: Mapping[str, Any], *, expression: bool = False) -> bool:
    """Whether a statement yields no more than a small multiple of what it reads.

    Args:
        tree: what DuckDB's `json_serialize_sql` gives.
        expression: it selects one expression.
    """
    if tree.get("error") or not tree.get("statements"):
        return False  # DuckDB parses it and cannot write down how (1.5, a type with parameters)
    doublings = 0
    for count, node in enumerate(_nodes(tree)):
        # DuckDB 1 has objects there for some nodes.
        if count > _NODES or any(
            isinstance(word, str) and word in _WILD for word in (node.get("type"), node.get("class"))
        ):
            return False
        if node.get("class") == "CAST" and _unbounded(node):
            return False
        if "function_name" not in node:
            continue
        name = str(node["function_name"]).lower()
        if name in _DOUBLING:
            doublings += max(1, sum(argument.get("class") != "CONSTANT" for argument in _arguments(node)) - 1)
        elif name == "+":
            doublings += not (expression and any(map(_is_number, _arguments(node))))
        elif name in _PATTERNS:
            if len(_arguments(node)) < 2 or _constant(_arguments(node)[1]) is None:
                return False
        elif name in ("replace", "regexp_replace"):
            if not _shrinks(node):
                return False
        elif name not in _FUNCTIONS:
            return False
    return doublings <= _DOUBLINGS


def _unbounded(cast: Mapping[str, Any]) -> bool:
    """A cast to a type whose values may be longer than what they are made of: an array of a million places."""
    written = cast.get("type_expr") or cast.get("cast_type") or {}
    return not all(name in _TYPES for name in _type_names(written))


def _type_names(written: Mapping[str, Any]) -> list[str]:
    """The types that a type is put together of, as DuckDB 2 (`type_name`) or DuckDB 1 (`id`) writes them."""
    names = []
    for node in _nodes(written):
        name = node.get("type_name") or node.get("id")
        if name == "UNBOUND":  # DuckDB 1: a type that an extension brings, JSON
            name = (node.get("type_info") or {}).get("name")
        if name is not None:
            names.append(str(name).upper())
    return names or [""]


def _is_number(node: Mapping[str, Any]) -> bool:
    """Whether an expression is a number by its look, so that `+` adds it: `(a = b)::INT`, `length(text)`, `coalesce(n, 0)`."""
    if node.get("class") == "CAST":
        names = _type_names(node.get("type_expr") or node.get("cast_type") or {})
        return names[0] in _NUMERIC and len(names) == 1
    if node.get("type") == "OPERATOR_COALESCE":
        return any(map(_is_number, (child for child in _arguments(node) if child.get("class") in ("CAST", "CONSTANT"))))
    if node.get("class") == "CASE":
        other = node.get("else_expr") or {}
        return other.get("class") == "CONSTANT" and _is_number(other)
    if node.get("class") == "CONSTANT":
        literal, value = node.get("literal"), node.get("value")
        if isinstance(literal, Mapping):
            return literal.get("kind") in ("INTEGER", "NUMERIC")
        kind = value.get("type") if isinstance(value, Mapping) else None
        return isinstance(kind, Mapping) and kind.get("id") in _NUMERIC
    return str(node.get("function_name", "")).lower() in _NUMBERS


def _arguments(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a function is given, in DuckDB 2 (`arguments`) and DuckDB 1 (`children`)."""
    return [argument.get("expression", argument) for argument in node.get("arguments") or node.get("children") or []]


def _shrinks(node: Mapping[str, Any]) -> bool:
    """Whether `replace(text, 'this', 'that')` cannot make the text longer: both are constants, and that is no longer."""
    texts = [_constant(value) for value in _arguments(node)[1:3]]
    if len(texts) < 2 or None in texts:
        return False
    pattern, new = str(texts[0]), str(texts[1])
    if str(node["function_name"]).lower() == "regexp_replace":
        return new == ""
    return len(new) <= len(pattern)


def _constant(node: Mapping[str, Any]) -> str | None:
    """The text of a constant, as DuckDB 2 (`literal`) or DuckDB 1 (`value`) writes it."""
    if node.get("class") != "CONSTANT":
        return None
    literal = node.get("literal")
    if isinstance(literal, Mapping):
        text = literal.get("text")
    else:
        value = node.get("value")
        text = value.get("value") if isinstance(value, Mapping) else None
    return text if isinstance(text, str) else None


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, Mapping):
            yield one
            stack.extend(one.values())
        elif isinstance(one, list):
            stack.extend(one)
