"""The door that YAML comes in through: how large, how deep and how often repeated it may be, told from its events.

A parser's events are as long as the text. What is built from them need not be: nine lines in which each list names the
one before ten times stand for a billion values. So they are counted before anything builds or walks them; the same
for `${…}`, which repeats what it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from batchling.errors import ConfigError

BYTES = 4_000_000
"""The longest file. Rows belong in a data file."""

DEPTH = 60
"""How deep mappings and lists may be nested; OmegaConf takes a dozen of Python's 1,000 frames for each."""

VALUES = 200_000
"""Values that the text stands for, its aliases written out."""

RESOLVED = 20_000_000
"""Characters and values that a config stands for, its interpolations written out."""

_NUMBER = re.compile(r"[-+0-9:_.]{400,}")
_OPENING = (yaml.MappingStartEvent, yaml.SequenceStartEvent)
_CLOSING = (yaml.MappingEndEvent, yaml.SequenceEndEvent)


def read(path: Path) -> str:
    """The text of a YAML file that may be loaded.

    Raises:
        ConfigError: it is larger, deeper, or stands for more than it may.
        OSError, UnicodeDecodeError: it cannot be read.
    """
    if path.stat().st_size > BYTES:
        raise ConfigError(f"a config of more than {BYTES:,} bytes: rows belong in a file (data.path)", where=str(path))
    text = path.read_text(encoding="utf-8")
    check(text, str(path))
    return text


def load(path: Path) -> Any:
    """What a YAML file holds, as plain values.

    Raises:
        ConfigError, OSError, UnicodeDecodeError: as `read`.
        yaml.YAMLError: it is not YAML.
    """
    return yaml.safe_load(read(path))


def check(text: str, where: str) -> None:
    """Looks at a text before it is loaded. What is not YAML passes: loading it says what is wrong.

    Raises:
        ConfigError: it is larger, deeper, or stands for more than it may.
    """
    if len(text) > BYTES:
        raise ConfigError(f"a config of more than {BYTES:,} bytes: rows belong in a file (data.path)", where=where)
    try:
        _count(text, where, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        try:
            _count(text, where, yaml.SafeLoader)  # libyaml and PyYAML do not agree on every text
        except yaml.YAMLError:
            return


def _count(text: str, where: str, loader: Any) -> None:
    sizes: dict[str, int] = {}  # anchor → values that it stands for
    open_: list[tuple[str | None, int]] = []  # of each collection around: its anchor, and the values before it
    total = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, _OPENING):
            total += 1
            open_.append((event.anchor, total))
            if len(open_) > DEPTH:
                raise _refused(f"the config is nested more than {DEPTH} deep", where, event)
        elif isinstance(event, _CLOSING):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = total - before + 1
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
            if len(event.value) >= 400 and not event.style and _NUMBER.fullmatch(event.value):
                raise _refused(f"a number of {len(event.value):,} characters: quote it if it is text", where, event)
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise _refused(f"*{event.anchor} is inside the value that it refers to", where, event)
            total += sizes.get(event.anchor, 1)
        if total > VALUES:
            raise _refused(f"the config has more than {VALUES:,} values once its aliases are expanded", where, event)


def _refused(message: str, where: str, event: Any) -> ConfigError:
    return ConfigError(message, where=f"{where}:{event.start_mark.line + 1}")


_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_NESTED = re.compile(r"\$\{[^${}]*\$\{")
_MOST_NESTED = 16


def check_interpolations(tree: Mapping[str, Any]) -> None:
    """Looks at a composed config before its `${…}` are resolved.

    Raises:
        ConfigError: it would grow beyond what it may.
    """
    if _Resolved(tree).total() > RESOLVED:
        raise ConfigError(f"the config's interpolations (${{…}}) expand to more than {RESOLVED:,} characters")


class _Resolved:
    """How large a tree gets when its interpolations are written out; never less than it really does."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree
        self._known: dict[tuple[str, ...], int] = {}
        self._nested = 0

    def total(self) -> int:
        size = self._size((), self._tree, 0)
        if self._nested > _MOST_NESTED:
            raise ConfigError(
                f"the config has more than {_MOST_NESTED} interpolations within interpolations (${{a.${{b}}}})"
            )
        return size

    def _size(self, path: tuple[str, ...], node: Any, depth: int) -> int:
        if depth > 4 * DEPTH:
            raise ConfigError(f"the config's interpolations (${{…}}) refer to each other more than {4 * DEPTH} deep")
        if path in self._known:
            return self._known[path]
        self._known[path] = 0  # what names itself is an error that resolving it tells
        size = 1
        if isinstance(node, Mapping):
            size += sum(self._size((*path, str(key)), child, depth + 1) for key, child in node.items())
        elif isinstance(node, list):
            size += sum(self._size((*path, str(i)), child, depth + 1) for i, child in enumerate(node))
        elif isinstance(node, str):
            size += len(node)
            if "${" in node:
                self._nested += len(_NESTED.findall(node))
                size += sum(self._named(path, text, depth) for text in _REFERENCE.findall(node))
        self._known[path] = size
        return size

    def _named(self, path: tuple[str, ...], text: str, depth: int) -> int:
        """The size of all that a reference may name: `a.b`, `a[b]`, `..b`, or among a resolver's arguments."""
        size = 0
        for word in re.split(r"[:,\s'\"]+", text):
            up = len(word) - len(word.lstrip("."))
            names = tuple(name for name in re.split(r"[.\[\]]+", word) if name)
            where = (*path[: max(0, len(path) - up)], *names) if up else names
            node: Any = self._tree
            for name in where:
                if isinstance(node, Mapping):
                    node = node.get(name)
                elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
                    node = node[int(name)]
                else:
                    node = None
            if node is not None and where:
                size += self._size(where, node, depth + 1)
        return size
