"""JSON Lines and JSON arrays: a row is what its own text says.

DuckDB's reader finds one type for each column and makes every value fit it: `1` beside `2.5` becomes
1.0, `9:05` a time, and an object gets the keys of all other rows. These types serve conditions and
metrics. What prompts show and ids are made of is the text of each value, kept beside the typed
one wherever the two would print differently.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from batchling.duck import identifier, literal
from batchling.source import faults
from batchling.source.types import shown

if TYPE_CHECKING:
    import duckdb

WRITTEN = "batchling_written"
"""The struct of texts that a relation has beside its columns."""

_NO_DATES = "\x01%Y"  # a format no text has: strings of a JSON file stay strings
_TEXT = {"DATE", "TIME", "TIMESTAMP", "UUID", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS", "TIME WITH TIME ZONE"}
"""Types that DuckDB finds in strings."""

_OBJECTS = ("compression", "maximum_object_size", "format")
"""Options that the reader of whole objects knows too."""

_DETECTION = ("field_appearance_threshold", "map_inference_threshold", "maximum_depth", "sample_size", "union_by_name")

_SHIELD = "\ufdd0"  # a noncharacter: in front of a number whose digits JSON's writer might change
_FRACTION = r"-?[0-9]+(?:\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)|-0"
_PIECES = r'"(?:[^"\\]|\\.)*"|[^"]+'  # strings, and what stands between them

# Numbers that DuckDB prints as they are written need no care, and most rows hold no others.
_AMONG = rf"[:,[]\s*({_FRACTION})"
_NUMBERS = f"regexp_extract_all(raw, {literal(_AMONG)}, 1)"
_ODD = (
    f"len(list_filter({_NUMBERS}, lambda n: n = '-0' OR contains(n, 'e') "
    "OR TRY_CAST(n AS DOUBLE)::VARCHAR IS DISTINCT FROM n)) > 0"
)
_MARK = literal(rf'"{_SHIELD}\1"')
_AS_TEXT = f"regexp_replace(p, {literal(f'({_FRACTION})')}, {_MARK}, 'g')"
_SHIELDED = (
    f"array_to_string(list_transform(regexp_extract_all(raw, {literal(_PIECES)}), "
    f"lambda p: CASE WHEN starts_with(p, '\"') THEN p ELSE {_AS_TEXT} END), '')"
)
_MARKED = literal(rf'"{_SHIELD}(-?[0-9][-+.0-9eE]*)"')

_TWIN = re.compile(r"(.+)_\d+")


def relation(
    con: duckdb.DuckDBPyConnection, files: Sequence[str], given: Mapping[str, Any], *, lines: bool
) -> tuple[str, dict[str, str], bool]:
    """A SELECT over the files.

    Args:
        con: a connection to look at the files with.
        files: paths as DuckDB's readers take them.
        given: `data.options`.
        lines: JSON Lines; False: whatever JSON it is, arrays above all.

    Returns:
        The SELECT; its columns that are called otherwise in the files (column to key: names that differ in
        case are one name to SQL); and whether the struct `WRITTEN` is among its columns.
    """
    options: dict[str, Any] = {
        "format": "newline_delimited" if lines else "auto",
        "records": "true",
        "sample_size": -1,
        "dateformat": _NO_DATES,
        "timestampformat": _NO_DATES,
        "union_by_name": True,
        **given,
    }
    if "columns" in given:
        return _reader(files, options), {}, False
    types = _types(con, files, options)
    if not set(given) <= {*_OBJECTS, *_DETECTION}:  # they say how values are read, so that is how they are read
        for ours in ("sample_size", "auto_detect"):
            options.pop(ours, None)
        return _reader(files, {**options, "columns": {n: str(t) for n, t in types.items()}}), {}, False
    objects = {name: options[name] for name in _OBJECTS if name in options}
    once = "len(json_keys(json)) = len(list_distinct(json_keys(json)))"
    twice = "error('a key appears twice in one row: ' || left(json, 300))"
    null = "error('a row is null: it has no keys and no values')"
    source = (
        f"SELECT CASE WHEN json = 'null' THEN {null} WHEN {once} THEN json ELSE {twice} END AS raw "
        f"FROM read_json_objects({literal(list(files))}{_named(objects)})"
    )
    keys = _keys(con, source, list(types))
    kinds = {name: shown(kind, lambda leaf: "VARCHAR" if leaf in _TEXT else leaf) for name, kind in types.items()}
    kept = [name for name, kind in kinds.items() if kind not in ("VARCHAR", "BOOLEAN")]
    return _exact(source, kinds, keys, kept), {n: k for n, k in keys.items() if n != k}, bool(kept)


def _reader(files: Sequence[str], options: Mapping[str, Any]) -> str:
    return f"SELECT * FROM read_json({literal(list(files))}{_named(options)})"


def _named(options: Mapping[str, Any]) -> str:
    return "".join(f", {name} = {literal(value)}" for name, value in options.items())


def _types(con: duckdb.DuckDBPyConnection, files: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    """The columns and their types, by looking at every row."""
    import duckdb

    with faults.explained("data", list(files)):
        try:
            found = con.sql(_reader(files, options))
        except duckdb.Error as error:
            # An object with keys that differ only in case is no struct. Without structs there is no trouble.
            if "Duplicate name" not in str(error):
                raise
            options["maximum_depth"] = 1
            found = con.sql(_reader(files, options))
    return dict(zip(found.columns, found.types, strict=True))


def _keys(con: duckdb.DuckDBPyConnection, source: str, names: Sequence[str]) -> dict[str, str]:
    """The key of each column: DuckDB calls the second of `Name` and `name` `name_1`."""
    folded = {name.casefold() for name in names}
    twins = [n for n in names if (found := _TWIN.fullmatch(n)) and found[1].casefold() in folded]
    if not twins:
        return {name: name for name in names}
    every = [
        row[0]
        for row in con.execute(
            f"SELECT key FROM (SELECT unnest(json_keys(raw)) AS key FROM ({source})) GROUP BY key ORDER BY key"
        ).fetchall()
    ]
    keys = {name: name for name in names if name in every}
    for name in twins:
        if name not in keys:
            base = name.rpartition("_")[0].casefold()
            keys[name] = next((k for k in every if k.casefold() == base and k not in keys.values()), name)
    return {name: keys.get(name, name) for name in names}


def _exact(source: str, kinds: Mapping[str, str], keys: Mapping[str, str], kept: Sequence[str]) -> str:
    """Typed columns, and the text of each value that its type does not give back."""
    twins = [name for name, key in keys.items() if name != key]
    structure = literal(json.dumps({name: kind for name, kind in kinds.items() if name not in twins}))
    pointers = literal([_pointer(keys[name]) for name in [*kept, *twins]])
    columns, texts = [], []
    for name, kind in kinds.items():
        typed = f"typed.{identifier(name)}"
        if name in twins:
            at = f"texts[{len(kept) + twins.index(name) + 1}]"
            typed = f"json_transform({_plain(at)}::JSON, {literal(json.dumps(kind))})"
        columns.append(f"{typed} AS {identifier(name)}")
        if name in kept:
            text = f"texts[{kept.index(name) + 1}]"
            differs = f"{text} <> 'null'"
            if kind == "DOUBLE":  # NaN reads back as Python's nan
                differs += f" AND ({text} IN ('NaN', 'Infinity', '-Infinity') OR to_json({typed})::VARCHAR IS DISTINCT FROM {text})"
            elif _gives_back(kind):
                differs += f" AND to_json({typed})::VARCHAR IS DISTINCT FROM {text}"
            texts.append(f"{identifier(name)} := CASE WHEN {differs} THEN {_plain(text)} END")
    written = f", struct_pack({', '.join(texts)}) AS {WRITTEN}" if texts else ""
    return (
        f"SELECT {', '.join(columns)}{written} FROM ("
        f"SELECT json_transform(raw, {structure}) AS typed, json_extract(shielded, {pointers})::VARCHAR[] AS texts FROM ("
        f"SELECT raw, CASE WHEN {_ODD} THEN {_SHIELDED} ELSE raw END AS shielded "
        f"FROM ({source})))"
    )


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _plain(text: str) -> str:
    """An expression for JSON text without the marks of `_SHIELDED`."""
    return f"regexp_replace({text}, {_MARKED}, '\\1', 'g')"


def _gives_back(kind: str) -> bool:
    """Whether Python gets from a value what its JSON says: JSON within a list or struct is text there."""
    return kind in ("JSON", "HUGEINT") or not any(inner in kind for inner in ("JSON", "MAP(", "HUGEINT"))
