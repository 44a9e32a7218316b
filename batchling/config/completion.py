"""Shell completion: experiments, then groups, their choices, keys and their values. No hydra, so that Tab is quick."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from batchling.config.keys import all_keys, key_types, open_keys
from batchling.config.project import Project, experiment_names, find_project, locate, search_path
from batchling.errors import ConfigError


def complete(words: Sequence[str], project: Project | None = None, config_dir: Path | None = None) -> list[str]:
    """See `batchling.config.complete`."""
    project = project or find_project()
    last = words[-1] if words else ""
    if len(words) <= 1:
        return [name for name in experiment_names(project) if name.startswith(last)] + _paths(last)
    try:
        folders = [folder for _, folder in search_path(locate(words[0], project), project, config_dir)]
    except ConfigError:
        return []
    groups = _groups(folders)
    sign = last[: len(last) - len(last.lstrip("+~"))]
    body = last[len(sign) :]
    if "=" not in body:
        return [sign + name for name in _names(body, groups)]
    key, _, value = body.partition("=")
    done, comma, current = value.rpartition(",")  # `model=a,b` sweeps
    choices = groups.get(key) or _values(key)
    return [f"{sign}{key}={done}{comma}{choice}" for choice in choices if choice.startswith(current)]


def _groups(folders: Sequence[Path]) -> dict[str, list[str]]:
    found: dict[str, set[str]] = {}
    for folder in folders:
        for path in folder.glob("*/*.yaml"):
            found.setdefault(path.parent.name, set()).add(path.stem)
    known = {key for key in all_keys() if "." not in key}
    return {group: sorted(names) for group, names in sorted(found.items()) if group in known}


def _names(prefix: str, groups: dict[str, list[str]]) -> list[str]:
    """Groups and keys one level at a time: `model=`, `model.`, then `model.id=`."""
    found: dict[str, None] = {}
    for group in groups:
        if group.startswith(prefix):
            found[f"{group}="] = None
    parents = {key.rpartition(".")[0] for key in all_keys()} | set(open_keys())
    for key in all_keys():
        if key.startswith(prefix) and "." not in key[len(prefix) :]:
            found[f"{key}." if key in parents else f"{key}="] = None
    return list(found)


def _values(key: str) -> list[str]:
    annotation = key_types().get(key)
    return list(dict.fromkeys(_literals(annotation)))


def _literals(annotation: Any) -> list[str]:
    if annotation is bool:
        return ["true", "false"]
    if annotation is type(None):
        return ["null"]
    if typing.get_origin(annotation) is typing.Literal:
        return [str(value) for value in typing.get_args(annotation)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return []
    if typing.get_origin(annotation) in (list, dict):
        return []
    return [value for part in typing.get_args(annotation) for value in _literals(part)]


def _paths(prefix: str) -> list[str]:
    """Folders with a config.yaml and .yaml files, once something like a path was typed."""
    if "/" not in prefix and not prefix.startswith("."):
        return []
    head, _, tail = prefix.rpartition("/")
    folder = Path(head or "/").expanduser()
    found = []
    for path in sorted(folder.glob(f"{tail}*")) if folder.is_dir() else []:
        if path.is_dir():
            found.append(f"{head}/{path.name}" if (path / "config.yaml").is_file() else f"{head}/{path.name}/")
        elif path.suffix == ".yaml":
            found.append(f"{head}/{path.name}")
    return found
