"""Events as lines of a journal, and back.

What the fields of a class may hold follows from its annotations, looked at once: a journal of a million lines is read
at each command, so that reading one is a loop over a prepared layout.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from decimal import Decimal
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from batchling.ledger.events import EVENTS, Event, PlannedShard, Remark
from batchling.ledger.state import CollectedFile, InvariantError
from batchling.models import ResultFile

Line = Mapping[str, Any]
"""A line of a journal: `seq`, `ts`, `kind` and the fields of the kind."""

Read = Callable[[Any, str], Any]
"""(value as JSON has it, what it is) → value.

Raises:
    InvariantError: it is none.
"""


def _money(value: Any, what: str) -> Decimal:
    try:
        money = Decimal(value)
    except (ArithmeticError, ValueError, TypeError):
        money = Decimal("NaN")
    if not money.is_finite():
        raise InvariantError(f"I8: {what} {value!r} is no amount")
    return money


def _maybe_money(value: Any, what: str) -> Decimal | None:
    return None if value is None else _money(value, what)


def _counts(value: Any, what: str) -> Any:
    for name, n in value.items():
        if not (isinstance(name, str) and isinstance(n, int)):
            raise InvariantError(f"I8: {what} {value!r} are no counts")
    return value


def _texts_by_name(value: Any, what: str) -> Any:
    if not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise InvariantError(f"I8: {what} {value!r} are no texts")
    return value


def _counts_by_shard(value: Any, what: str) -> Any:
    for number, counts in value.items():
        if not isinstance(counts, Mapping):
            raise InvariantError(f"I8: {what} {counts!r} of shard {number}")
        _counts(counts, what)
    return value


def _all(kind: type) -> Read:
    def read(value: Any, what: str) -> Any:
        if not all(isinstance(part, kind) for part in value):
            raise InvariantError(f"I8: {what} {value!r}")
        return tuple(value)

    return read


def _each(cls: type) -> Read:
    def read(value: Any, what: str) -> Any:
        return tuple([_build(cls, part, what) for part in value])

    return read


_MONEY = (str, int, float, Decimal)
_NONE = type(None)
_READERS: dict[Any, tuple[tuple[type, ...], Read | None]] = {
    int: ((int,), None),
    float: ((int, float), None),
    str: ((str,), None),
    bool: ((bool, int, _NONE), None),
    int | None: ((int, _NONE), None),
    float | None: ((int, float, _NONE), None),
    str | None: ((str, _NONE), None),
    Decimal: (_MONEY, _money),
    Decimal | None: ((*_MONEY, _NONE), _maybe_money),
    tuple[str, ...]: ((list, tuple), _all(str)),
    tuple[int, ...]: ((list, tuple), _all(int)),
    tuple[Mapping[str, Any], ...]: ((list, tuple), _all(Mapping)),
    tuple[PlannedShard, ...]: ((list, tuple), _each(PlannedShard)),
    tuple[CollectedFile, ...]: ((list, tuple), _each(CollectedFile)),
    tuple[ResultFile, ...]: ((list, tuple), _each(ResultFile)),
    Mapping[str, int]: ((dict,), _counts),
    Mapping[str, str]: ((dict,), _texts_by_name),
    Mapping[str, str] | None: ((dict, _NONE), lambda value, what: value and _texts_by_name(value, what)),
    Mapping[str, Mapping[str, int]]: ((dict,), _counts_by_shard),
}
"""Type of a field → what JSON may have there, and what makes the value of it where that is not the same."""


class _Field(NamedTuple):
    """One field of a class, as it is read.

    Attributes:
        put: sets it on a new object, frozen or not.
        default: what it is where a line does not have it; MISSING: it must.
    """

    name: str
    put: Callable[[Any, Any], None]
    types: tuple[type, ...]
    read: Read | None
    default: Any


class _Written(NamedTuple):
    """One field of a class, as it is written: `default` is left out unless it is `always` written."""

    name: str
    always: bool
    default: Any


@dataclass(frozen=True, slots=True)
class Layout:
    """How objects of a class are read from, and written to, a journal."""

    cls: type
    read: tuple[_Field, ...]
    write: tuple[_Written, ...]


def _layout(cls: type) -> Layout:
    hints = get_type_hints(cls)
    read, write = [], []
    for field in dataclasses.fields(cls):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in ("seq", "ts") and issubclass(cls, Event):
            default = MISSING
        else:
            write.append(_Written(field.name, field.metadata.get("always", default is MISSING), default))
        hint = hints[field.name]
        if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
            hint = Union[get_args(hint)]  # noqa: UP007 - the form that compares equal, whichever way it was written
        kinds, convert = _READERS[hint]
        read.append(_Field(field.name, getattr(cls, field.name).__set__, kinds, convert, default))
    return Layout(cls, tuple(read), tuple(write))


_NESTED: dict[type, Layout] = {cls: _layout(cls) for cls in (PlannedShard, CollectedFile, ResultFile)}
LAYOUTS = {cls.kind: _layout(cls) for cls in EVENTS}
"""Kind → how its events are read and written."""

_new = object.__new__


def _fill(layout: Layout, line: Any, what: str) -> Any:
    made: Any = _new(layout.cls)
    get = line.get
    for name, put, kinds, read, default in layout.read:
        value = get(name, MISSING)
        if value is MISSING:
            if default is MISSING:
                raise InvariantError(f"I8: {what} without {name}")
            put(made, default)
        elif not isinstance(value, kinds):
            raise InvariantError(f"I8: {what} with {name} {value!r}")
        else:
            put(made, value if read is None else read(value, name))
    return made


def _build(cls: type, value: Any, what: str) -> Any:
    if not isinstance(value, Mapping):
        raise InvariantError(f"I8: {what} with {value!r}")
    return _fill(_NESTED[cls], value, what)


def event_of(line: Line) -> Event:
    """The event that a line of a journal tells. Fields that the kind does not have are left out.

    Raises:
        InvariantError: it lacks what its kind must have, or has it in another form.
    """
    kind = line.get("kind")
    if not isinstance(kind, str):
        raise InvariantError(f"I8: an event with kind {kind!r}")
    layout = LAYOUTS.get(kind)
    if layout is not None:
        event: Event = _fill(layout, line, kind)
        return event
    seq, ts = line.get("seq"), line.get("ts")
    if not isinstance(seq, int) or not isinstance(ts, int | float):
        raise InvariantError(f"I8: {kind} with seq {seq!r} and ts {ts!r}")
    rest = {name: value for name, value in line.items() if name not in ("seq", "ts", "kind")}
    return Remark(kind, rest, seq=seq, ts=ts)


def line_of(event: Event) -> dict[str, Any]:
    """What a journal says of an event, without `seq` and `ts`, which are the journal's."""
    if isinstance(event, Remark):
        return {"kind": event.name, **event.fields}
    return {"kind": event.kind, **_written(LAYOUTS[event.kind], event)}


def _written(layout: Layout, value: Any) -> dict[str, Any]:
    found = {}
    for name, always, default in layout.write:
        part = getattr(value, name)
        if always or part != default:
            found[name] = _plain(part)
    return found


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    layout = _NESTED.get(type(value))
    return value if layout is None else _written(layout, value)
