"""JSON read so that it can be written again: numbers keep their digits, objects their own keys.

`1.10` is a number for a template that calculates and the text `1.10` for one that shows it. An
object has the keys that its row has; asking it for a key that only other rows have gives None.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from batchling import limits

_INEXACT = re.compile(r"\d[.eE]|-0|\d{16}|NaN|Infinity")
"""What JSON text contains when a number in it may print differently from what was written."""


_COLON = re.compile(r'"\s*:')
_MARK = "\ufdd0"  # a noncharacter
_MARKED = re.compile(rf'"(?:{_MARK}|\\\\ufdd0)(-?\d[-+.\deE]*|NaN|-?Infinity)"')


class WrittenFloat(float):
    """A float that prints as it was written."""

    text: str

    def __new__(cls, text: str) -> WrittenFloat:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return WrittenFloat, (self.text,)


class WrittenInt(int):
    """An integer that prints as it was written: `-0`."""

    text: str

    def __new__(cls, text: str) -> WrittenInt:
        self = super().__new__(cls, text)
        self.text = text
        return self

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return WrittenInt, (self.text,)


class TwiceError(ValueError):
    """An object has a key twice; the message is the key."""


class Fields(dict[str, Any]):
    """An object with a row's own keys. A key that it lacks and other rows have is None."""

    _others: Mapping[str, Any] = {}

    def __missing__(self, key: str) -> None:
        if key not in self._others:
            raise KeyError(key)


Shape = Mapping[str, Any] | None
"""Of an object: each key that some row has, and its value's shape. A list has the shape of its items. None: scalars."""


def loads(text: str, shape: Shape = None) -> Any:
    """The value that JSON text stands for.

    Args:
        text: valid JSON.
        shape: which keys objects have in other rows.

    Raises:
        BeyondLimit: the text is nested too deeply.
        TwiceError: an object has a key twice, so that one of its values would be lost.
    """
    if _INEXACT.search(text):
        value = limits.loads_tolerantly(text, parse_float=_float, parse_int=_int, parse_constant=WrittenFloat)
    else:
        value = limits.loads(text)
    if isinstance(value, dict | list) and _keys(value) != len(
        _COLON.findall(text)
    ):  # else each key of the text is there
        limits.loads_tolerantly(text, object_pairs_hook=_once)
    return _shaped(value, shape)


def dumps(value: Any, default: Callable[[Any], Any], **options: Any) -> str:
    """JSON as `json.dumps` writes it, with each number as it was written.

    Args:
        options: as for `json.dumps`; `ensure_ascii` is off.

    Raises:
        TypeError, ValueError, RecursionError: JSON cannot hold the value.
    """
    options = {"ensure_ascii": False, "default": default, **options}
    if not _remembers(value):
        return json.dumps(value, **options)
    return _MARKED.sub(r"\1", json.dumps(_marked(value), **options))


def _remembers(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_remembers, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_remembers, value))
    return isinstance(value, WrittenFloat | WrittenInt | Decimal)


def _marked(value: Any) -> Any:
    """The value with texts in place of numbers that `json.dumps` would spell in its own way."""
    if isinstance(value, dict):
        return {key: _marked(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_marked(item) for item in value]
    if isinstance(value, Decimal) and value.is_finite():
        return _MARK + format(value, "f")
    return _MARK + value.text if isinstance(value, WrittenFloat | WrittenInt) else value


def _float(text: str) -> float:
    value = float(text)
    return value if repr(value) == text and "e" not in text else WrittenFloat(text)


def _int(text: str) -> int:
    return WrittenInt(text) if text == "-0" else int(text)


def _keys(value: Any) -> int:
    """How many keys there are in a value."""
    if isinstance(value, dict):
        return len(value) + sum(_keys(item) for item in value.values() if isinstance(item, dict | list))
    return sum(_keys(item) for item in value if isinstance(item, dict | list))


def _once(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise TwiceError(key)
        seen.add(key)


def _shaped(value: Any, shape: Shape) -> Any:
    if isinstance(value, dict):
        fields = Fields((key, _shaped(item, shape.get(key) if shape else None)) for key, item in value.items())
        if shape:
            fields._others = shape
        return fields
    if isinstance(value, list):
        return [_shaped(item, shape) for item in value]
    return value
