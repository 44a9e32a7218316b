"""The keys of the config tree, read off the pydantic models: for suggestions, completion and open mappings."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel

from batchling.spec import Config

RETIRED = ("provider.one_model", "provider.one_endpoint", "provider.capabilities.list_filter")
"""Keys of version 0.1.0 that no code ever read. Configs and plans may still have them; they mean nothing."""

_POSITION = re.compile(r"\.\d+(?=\.|$)")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section models in an annotation, through unions and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _models(part)


def _is_mapping(annotation: Any) -> bool:
    if typing.get_origin(annotation) is dict:
        return True
    return any(_is_mapping(part) for part in typing.get_args(annotation)) and typing.get_origin(annotation) is not list


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, info in model.model_fields.items():
        key = f"{prefix}{info.alias or name}"
        yield key, info.annotation
        for inner in _models(info.annotation):
            yield from _walk(inner, f"{key}.")


@cache
def key_types() -> dict[str, Any]:
    """The type of every dotted key of the tree, parents before children."""
    return dict(_walk(Config, ""))


@cache
def all_keys() -> tuple[str, ...]:
    """Every dotted key of the tree, parents before children."""
    return tuple(key_types())


@cache
def open_keys() -> frozenset[str]:
    """Keys of free-form mappings (`model.params`, `metrics`, …), which take any name below them."""
    return frozenset(key for key, annotation in key_types().items() if _is_mapping(annotation))


def is_key(key: str) -> bool:
    """Whether the tree knows a dotted key, below its free-form mappings and lists too."""
    if key in key_types() or key in RETIRED or any(key.startswith(name + ".") for name in open_keys()):
        return True
    place = _POSITION.search(key)
    return place is not None and key[: place.start()] in key_types()


def nearest(key: str, among: Iterable[str] | None = None) -> list[str]:
    """Known keys that a misspelt one may mean: same place first, then the same last name elsewhere."""
    known = list(key_types() if among is None else among)
    parent, _, last = key.rpartition(".")
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == parent}
    found = [siblings[name] for name in difflib.get_close_matches(last, siblings, n=2, cutoff=0.7)]
    if not found:
        found = [k for k in known if k.rpartition(".")[2] == last and k != key][:2]
    if not found:
        found = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not found:
        by_last = {k.rpartition(".")[2]: k for k in reversed(known)}
        found = [by_last[name] for name in difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)]
    return found


def did_you_mean(names: Iterable[str]) -> str:
    """`; did you mean a or b?`, or nothing."""
    found = list(names)
    return f"; did you mean {' or '.join(found)}?" if found else ""
