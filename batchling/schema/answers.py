"""From an answer's text to a JSON value, or one line that says why not.

An answer is hostile: it may hold NaN, a number of 5,000 digits, a name twice, 100,000 brackets.
Nothing here raises anything but `NotJson`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from batchling import limits
from batchling.schema import wrapping
from batchling.schema.nodes import Node, resolve, takes_null

INT64 = 2**63

_ERROR_CHARACTERS = 500


class NotJson(ValueError):
    """The text is not one JSON value; the message is one line."""


class Parsed(NamedTuple):
    """A JSON value out of an answer.

    Attributes:
        text: its JSON text, without what was around it.
        large: whether a number is beyond 64-bit integers; in the value such numbers are floats, never rounded onto an
            integer that has 64 bits.
        around: what was around it, thoughts and prose; None: nothing.
    """

    value: Any
    text: bytes | str
    large: bool
    around: str | None = None


def parse(text: str | bytes) -> Parsed:
    """Read an answer: a JSON value, and around it only what `wrapping` knows how to take away.

    Raises:
        NotJson: it is not JSON, it is not certain which JSON is meant, it names a property twice, or is too deep.
    """
    around = None
    try:
        value = limits.loads(text)
    except limits.BeyondLimit as error:
        raise NotJson(str(error)) from error
    except ValueError as error:
        value, text, around = _unwrapped(text, error)
    names, large = _measure(value, 0)
    if not _each_name_once(text if isinstance(text, bytes) else text.encode(), names):
        try:
            limits.loads_tolerantly(text, object_pairs_hook=_without_duplicates)
        except NotJson:
            raise
        except ValueError as error:
            raise NotJson(one_line(f"not JSON: {error}")) from error
    if large:
        value = limits.loads_tolerantly(text, parse_int=_integer, parse_float=_float)
    return Parsed(value, text, large, around)


def one_line(message: str) -> str:
    """A message without line breaks and control characters, cut to 500 characters."""
    text = "".join(c if c.isprintable() else " " for c in " ".join(message.split()))
    return text if len(text) <= _ERROR_CHARACTERS else text[: _ERROR_CHARACTERS - 1] + "…"


def has_large_integer(value: Any) -> bool:
    """Whether an integer anywhere in a JSON value is outside 64 bits."""
    if isinstance(value, dict):
        return any(map(has_large_integer, value.values()))
    if isinstance(value, list):
        return any(map(has_large_integer, value))
    return type(value) is int and not -INT64 <= value < INT64


def _unwrapped(text: str | bytes, error: ValueError) -> tuple[Any, str, str | None]:
    """Value, JSON text and surroundings of an answer that is not JSON as it stands."""
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise NotJson(one_line(f"not JSON: {error}")) from error
    last = error
    try:
        for found in wrapping.candidates(text):
            try:
                return limits.loads(found.text), found.text, found.around
            except limits.BeyondLimit as deep:
                raise NotJson(str(deep)) from deep
            except ValueError as again:
                last = again
    except wrapping.Unclear as unclear:
        raise NotJson(one_line(str(unclear))) from unclear
    raise NotJson(one_line(f"not JSON: {last}")) from last


def _measure(value: Any, depth: int) -> tuple[int, bool]:
    """Number of property names in a value, and whether a number is beyond 64 bits."""
    items: Iterable[Any]
    if type(value) is dict:
        names = len(value)
        items = value.values()
    elif type(value) is list:
        names = 0
        items = value
    else:
        return 0, type(value) in (int, float) and not -INT64 < value < INT64
    if depth == limits.JSON_DEPTH:
        raise NotJson(f"more than {limits.JSON_DEPTH} levels of lists and objects")
    large = False
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            more, big = _measure(item, depth + 1)
            names += more
            large = large or big
        elif (kind is int or kind is float) and not -INT64 < item < INT64:
            large = True
    return names, large


def _each_name_once(text: bytes, names: int) -> bool:
    """Whether it is certain, without parsing again, that no object names a property twice.

    `names` are the different ones. Each occurrence of a name has a colon; as many colons as names
    leave none for a second occurrence. Prose in strings has colons too, but hardly one right
    behind a quote; that count is as good where no white space stands behind any quote.
    """
    if text.count(b":") == names:
        return True
    return text.count(b'":') == names and not (b'" ' in text or b'"\n' in text or b'"\t' in text or b'"\r' in text)


def _integer(digits: str) -> int | float:
    number = int(digits)
    if -INT64 <= number < INT64:
        return number
    nearest = float(number)
    return math.nextafter(nearest, math.copysign(math.inf, nearest)) if abs(nearest) == INT64 else nearest


def _float(digits: str) -> float:
    number = float(digits)
    return math.nextafter(number, math.inf) if number == INT64 else number


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise NotJson(one_line(f"ambiguous: the name {name[:100]!r} appears twice"))
            seen.add(name)
    return result


class NullDropper:
    """Takes the nulls out of an answer that stand for "left out".

    Strict mode has no optional properties: they are sent as nullable, so a model says null where
    the person's schema knows only absence.

    Args:
        schema: the person's JSON Schema.

    Attributes:
        needed: whether any property is optional and not nullable.
    """

    def __init__(self, schema: Node):
        self._root = schema
        self.needed = _anywhere(schema, self._drops_any)

    def drop(self, value: Any) -> Any:
        """Drop them in place, and return the value."""
        self._drop(value, self._root)
        return value

    def _drops_any(self, node: Node) -> bool:
        properties = node.get("properties")
        if not isinstance(properties, dict):
            return False
        required = node.get("required", [])
        return any(name not in required and not takes_null(child, self._root) for name, child in properties.items())

    def _drop(self, value: Any, node: Any) -> None:
        if isinstance(value, list):
            node = self._branch(value, node)
            items = node.get("items")
            if isinstance(items, dict):
                for item in value:
                    self._drop(item, items)
        elif isinstance(value, dict):
            node = self._branch(value, node)
            properties = node.get("properties")
            if not isinstance(properties, dict):
                return
            required = node.get("required", [])
            for name, child in properties.items():
                if name not in value:
                    continue
                if value[name] is None:
                    if name not in required and not takes_null(child, self._root):
                        del value[name]
                else:
                    self._drop(value[name], child)

    def _branch(self, value: Any, node: Any) -> Node:
        """The node without references and unions: of a union, the first branch that looks like the value."""
        for _ in range(50):
            if not isinstance(node, dict):
                return {}
            branches = node.get("anyOf") or node.get("oneOf") or node.get("allOf")
            if "$ref" in node:
                node = resolve(self._root, node["$ref"])
            elif branches:
                node = next((b for b in branches if self._looks_like(value, b)), {})
            else:
                return node
        return {}

    def _looks_like(self, value: Any, node: Any) -> bool:
        node = self._branch(value, node)
        if isinstance(value, list):
            return "items" in node
        properties = node.get("properties")
        if not isinstance(properties, dict):
            return False
        if not all(name in value for name in node.get("required", [])):
            return False
        if any(name not in properties for name in value):
            return False
        for name, child in properties.items():
            if name in value and isinstance(child, dict):
                child = self._branch({}, child) if "$ref" in child else child
                allowed = [child["const"]] if "const" in child else child.get("enum")
                if allowed is not None and value[name] is not None and value[name] not in allowed:
                    return False
        return True


def _anywhere(node: Any, test: Callable[[Node], bool]) -> bool:
    if isinstance(node, dict):
        return test(node) or any(_anywhere(child, test) for child in node.values())
    if isinstance(node, list):
        return any(_anywhere(child, test) for child in node)
    return False
