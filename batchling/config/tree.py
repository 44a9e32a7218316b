"""Plain trees of values: merged, copied, set and resolved as OmegaConf would, at the speed of dicts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from batchling.config.door import check_interpolations
from batchling.config.keys import is_key

MISSING = "???"


class CompositionFailed(Exception):
    """Hydra or OmegaConf could not compose; `explain` turns it into what a person reads."""


def clone(value: Any) -> Any:
    """A copy of plain values; `copy.deepcopy` takes five times as long."""
    if isinstance(value, dict):
        return {key: clone(child) for key, child in value.items()}
    if isinstance(value, list):
        return [clone(child) for child in value]
    return value


def merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    """OmegaConf's merge on plain values: mappings merge, everything else replaces, `???` replaces nothing that is there."""
    for key, value in part.items():
        if isinstance(value, dict):
            there = into.get(key)
            if not isinstance(there, dict):
                there = into[key] = {}
            merge(there, value)
        elif key not in into or not (isinstance(value, str) and value == MISSING):
            into[key] = clone(value)


def assign(tree: dict[str, Any], override: Override) -> bool:
    """Applies a `key=value`, `+key=value`, `++key=value` or `~key`, as Hydra would; False where it takes more.

    More is: a key that does not exist, `+` of what is there already (an error to be told), adding mappings or lists, and
    everything rare.
    """
    key = override.key_or_group
    kind = override.type
    if "[" in key or override.package is not None or kind not in _PLAIN:
        return False
    *parents, last = key.split(".")
    value = override.value()
    if kind == OverrideType.DEL:
        node = _at(tree, parents)
        if not isinstance(node, dict) or value is not None or node.get(last) is None or interpolates(node[last]):
            return False
        del node[last]
        return True
    added = kind != OverrideType.CHANGE
    if added and isinstance(value, dict | list):
        return False
    if kind == OverrideType.ADD:
        there = _at(tree, key.split("."))
        if there is not None and there != MISSING:
            return False
    may_be_new = added or is_key(key)
    node = tree
    for name in parents:
        if isinstance(node, list):
            node = _item(node, name)
            continue
        if not isinstance(node, dict):
            return False
        if node.get(name) is None and may_be_new:
            node[name] = {}
        node = node.get(name)
    if isinstance(node, list):
        if added or isinstance(value, dict) or _item(node, last) is None:
            return False
        node[int(last)] = clone(value)
        return True
    if not isinstance(node, dict) or (last not in node and not may_be_new):
        return False
    if isinstance(value, dict):
        there = node.get(last)
        if not isinstance(there, dict):
            there = node[last] = {}
        merge(there, value)
    else:
        node[last] = clone(value)
    return True


_PLAIN = (OverrideType.CHANGE, OverrideType.ADD, OverrideType.FORCE_ADD, OverrideType.DEL)


def _item(node: list[Any], name: str) -> Any:
    """An item of a list by its place as text; None: there is none."""
    return node[int(name)] if name.isdecimal() and int(name) < len(node) else None


def _at(tree: dict[str, Any], names: Sequence[str]) -> Any:
    """What stands at a path of mappings; None: nothing."""
    node: Any = tree
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def resolve(tree: dict[str, Any]) -> dict[str, Any]:
    if not interpolates(tree):
        return tree
    check_interpolations(tree)
    try:
        plain = OmegaConf.to_container(OmegaConf.create(tree), resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as e:
        raise CompositionFailed(str(e)) from e
    except RecursionError as e:
        raise CompositionFailed("the config's interpolations (${…}) refer to each other too deeply") from e
    assert isinstance(plain, dict)
    return {str(k): v for k, v in plain.items()}


def interpolates(value: Any) -> bool:
    if isinstance(value, str):
        return "${" in value
    if isinstance(value, dict):
        return any(interpolates(v) for v in value.values())
    if isinstance(value, list):
        return any(interpolates(v) for v in value)
    return False


def interpolation_error(text: str) -> str | None:
    """Why OmegaConf can't parse a string's `${…}`; None when it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            OmegaConf.create({"text": text})
    except OmegaConfBaseException as e:
        return first_line(e)
    return None


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
