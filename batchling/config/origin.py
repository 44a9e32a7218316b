"""Where each value of a composed config was set: a file and line, or an override.

Hydra forgets it, so the files are read a second time as YAML nodes, which carry their lines, and
merged in the same order: the last writer of a key wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from batchling.config.door import read as read_yaml
from batchling.config.project import shipped_conf
from batchling.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Origin:
    """What set a value: `file` and 1-based `line`, `override` as typed, or an environment `variable`.

    `comment` is the remark on that line.
    """

    file: Path | None = None
    line: int | None = None
    override: str | None = None
    comment: str | None = None
    variable: str | None = None

    def __str__(self) -> str:
        if self.variable is not None:
            return f"variable: {self.variable}"
        if self.override is not None:
            return f"override: {self.override}"
        return f"{_short(self.file)}:{self.line}" if self.file is not None else "default"


Origins = dict[str, Origin]


def _short(path: Path | None) -> str:
    """The path as a person would type it from here, when that is shorter; of a shipped file, its place in `conf/`."""
    if path is None:
        return ""
    shipped = shipped_conf()
    if path.is_relative_to(shipped):
        return f"shipped conf/{path.relative_to(shipped).as_posix()}"
    relative = os.path.relpath(path)
    return relative if not relative.startswith(f"..{os.sep}..{os.sep}..") else str(path)


@dataclass(frozen=True, slots=True)
class Leaf:
    """One node of a config file: its dotted key, line, and, for scalars, the text as it stands there."""

    key: str
    line: int
    text: str | None  # scalars only
    plain: bool  # a scalar without quotes
    tag: str
    container: bool  # a mapping or list without children, or a list
    comment: str | None


_COMMENT = re.compile(r"(?:^|\s)#\s*(.*)$")


@lru_cache(maxsize=512)
def _leaves(path: str, mtime_ns: int, size: int) -> tuple[Leaf, ...]:
    text = read_yaml(Path(path))
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return ()
    return tuple(_walk(root, "", lines, 1))


def leaves(path: Path) -> tuple[Leaf, ...]:
    """Every node of a config file with its line; a broken file has none (composing it says why)."""
    return _read(path, _leaves)


def _read(path: Path, how: Callable[[str, int, int], tuple[Leaf, ...]]) -> tuple[Leaf, ...]:
    try:
        stat = path.stat()
        return how(str(path), stat.st_mtime_ns, stat.st_size)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ConfigError):
        return ()


_REWRITTEN = re.compile(r"[-+]?0[0-9]+|[-+]?[1-9][0-9]*(?::[0-5]?[0-9])+")


@lru_cache(maxsize=512)
def _rewritten(path: str, mtime_ns: int, size: int) -> tuple[Leaf, ...]:
    found = _leaves(path, mtime_ns, size)
    return tuple(
        leaf for leaf in found if leaf.plain and leaf.tag.endswith(":int") and _REWRITTEN.fullmatch(leaf.text or "")
    )


def rewritten(path: Path) -> tuple[Leaf, ...]:
    """Whole numbers in a config file that YAML 1.1 turns into others: 00123 is octal 83, 12:30 is 750."""
    return _read(path, _rewritten)


def _walk(node: yaml.Node, key: str, lines: list[str], line: int) -> Iterator[Leaf]:
    if isinstance(node, yaml.MappingNode):
        if not node.value:
            yield Leaf(key, line, None, False, node.tag, True, _comment(lines, line))
        for name, child in node.value:
            if not key and name.value == "defaults":
                continue
            yield from _walk(child, f"{key}.{name.value}" if key else str(name.value), lines, name.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        yield Leaf(key, line, None, False, node.tag, True, _comment(lines, line))
        for index, child in enumerate(node.value):
            yield from _walk(child, f"{key}.{index}", lines, child.start_mark.line + 1)
    elif isinstance(node, yaml.ScalarNode):
        comment = None if node.style in ("|", ">") else _comment(lines, node.end_mark.line + 1)
        yield Leaf(key, line, node.value, node.style is None, node.tag, False, comment)


def _comment(lines: list[str], line: int) -> str | None:
    found = _COMMENT.search(lines[line - 1]) if line <= len(lines) else None
    return found.group(1).strip() or None if found else None


class OriginMap:
    """Origins of a config that is being merged, layer by layer."""

    def __init__(self, known: Origins | None = None) -> None:
        self.known: Origins = dict(known or {})

    def add_file(self, path: Path, package: str) -> None:
        """Merges a config file that was placed at `package` ('' is the root)."""
        for leaf in leaves(path):
            key = f"{package}.{leaf.key}" if package and leaf.key else package or leaf.key
            if leaf.container and leaf.tag.endswith(":seq"):
                self._forget(key)  # a list replaces; a mapping merges
            self._set(key, Origin(file=path, line=leaf.line, comment=leaf.comment))

    def add_override(self, key: str, value: Any, text: str, *, delete: bool = False) -> None:
        """Merges a command-line override."""
        key = re.sub(r"\[(\w+)\]", r".\1", key)
        if delete:
            self._forget(key)
            self.known.pop(key, None)
            return
        if not isinstance(value, Mapping):
            self._forget(key)
        self._spread(key, value, Origin(override=text))

    def _spread(self, key: str, value: Any, origin: Origin) -> None:
        if isinstance(value, Mapping) and value:
            for name, child in value.items():
                self._spread(f"{key}.{name}", child, origin)
            return
        self._set(key, origin)
        if isinstance(value, list):
            for index, child in enumerate(value):
                self._spread(f"{key}.{index}", child, origin)

    def _set(self, key: str, origin: Origin) -> None:
        self.known.pop(key, None)  # so that the order is that of the last writer
        self.known[key] = origin

    def _forget(self, key: str) -> None:
        prefix = key + "."
        for known in [k for k in self.known if k.startswith(prefix)]:
            del self.known[known]


class LazyOrigins(Mapping[str, Origin]):
    """Origins that are worked out when a message needs them: most configs are right.

    Attributes:
        files: the config files, in the order they were merged.
    """

    def __init__(self, files: Sequence[Path], build: Callable[[], Origins]) -> None:
        self.files = tuple(files)
        self._build = build
        self._known: Origins | None = None

    @property
    def known(self) -> Origins:
        if self._known is None:
            self._known = self._build()
        return self._known

    def __getitem__(self, key: str) -> Origin:
        return self.known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)


def lookup(origins: Mapping[str, Origin], key: str) -> Origin | None:
    """The origin of a key, else of its first child that has one, else of the nearest parent."""
    if key in origins:
        return origins[key]
    prefix = key + "."
    for known, origin in origins.items():
        if known.startswith(prefix):
            return origin
    while "." in key:
        key = key.rpartition(".")[0]
        if key in origins:
            return origins[key]
    return None
