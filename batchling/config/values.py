"""Configs that don't come from files: the Python API's values, and what a plan recorded. No hydra."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from batchling.config import door
from batchling.config.build import build_spec
from batchling.config.environment import addressed
from batchling.config.files import Sources
from batchling.config.keys import did_you_mean
from batchling.config.project import find_project, shipped_conf
from batchling.config.validate import validate
from batchling.errors import ConfigError
from batchling.spec import Spec

_PROVIDER = "override /provider"


def from_values(document: Mapping[str, Any], root: Path) -> Spec:
    """See `batchling.config.from_values`."""
    tree = copy.deepcopy(dict(document))
    project = find_project(root)
    folders = [folder for folder in (project.conf, shipped_conf()) if folder is not None]
    provider = tree.pop("provider", None)
    model = tree.get("model")
    if isinstance(model, str):
        del tree["model"]
        chosen, selected = _model(model, provider is not None, folders)
        provider = provider if provider is not None else selected
        tree = _over(chosen, tree)
    if isinstance(provider, str):
        tree["provider"] = _read(folders, "provider", provider)
        if named := addressed(tree["provider"]):
            tree["provider"]["base_url"] = named[0]
    elif provider is not None:
        tree["provider"] = provider
    return build_spec(validate(tree, {}), Sources(root, folders), import_path=project.root)


def load_spec(
    document: Mapping[str, Any],
    root: Path,
    overrides: Sequence[str] = (),
    *,
    kept_schema: Mapping[str, Any] | None = None,
) -> Spec:
    """See `batchling.config.load_spec`."""
    return build_spec(
        validate(document, {}, recorded=True),
        Sources(root, confined=True),
        overrides,
        recorded=True,
        kept_schema=kept_schema,
    )


def _model(name: str, has_provider: bool, folders: Sequence[Path]) -> tuple[dict[str, Any], str | None]:
    """(sections that a model's file sets, the provider that it selects); a name without a file is the model's id."""
    if not any((folder / "model" / f"{name}.yaml").is_file() for folder in folders):
        if has_provider:
            return {"model": {"id": name}}, None
        near = difflib.get_close_matches(name, _choices(folders, "model"), n=2, cutoff=0.6)
        raise ConfigError(
            f"model {name!r} has no file in conf/model{did_you_mean(near)}; name its provider, e.g. provider='openai'"
        )
    loaded = _read(folders, "model", name)
    selected = None
    for entry in loaded.pop("defaults", []):
        if isinstance(entry, dict):
            selected = next((str(v) for k, v in entry.items() if str(k).startswith(_PROVIDER)), selected)
    return (loaded if loaded.pop(_GLOBAL, False) else {"model": loaded}), selected


_GLOBAL = "@package _global_"


def _read(folders: Sequence[Path], group: str, name: str) -> dict[str, Any]:
    for folder in folders:
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            text = door.read(path)
            try:
                loaded = yaml.safe_load(text)
            except yaml.YAMLError as e:
                raise ConfigError(f"cannot read YAML: {e}", where=str(path)) from e
            if not isinstance(loaded, dict):
                raise ConfigError("a config is a mapping of keys to values", where=str(path))
            if any(line.strip() == f"# {_GLOBAL}" for line in text.splitlines() if line.startswith("#")):
                loaded[_GLOBAL] = True
            return loaded
    choices = _choices(folders, group)
    near = difflib.get_close_matches(name, choices, n=2, cutoff=0.6)
    raise ConfigError(f"no {group} {name!r}{did_you_mean(near)}; there are: {', '.join(choices)}")


def _choices(folders: Sequence[Path], group: str) -> list[str]:
    return sorted({path.stem for folder in folders for path in (folder / group).glob("*.yaml")})


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`: mappings merge, everything else replaces."""
    merged = dict(below)
    for key, value in above.items():
        there = merged.get(key)
        merged[key] = _over(there, value) if isinstance(there, dict) and isinstance(value, Mapping) else value
    return merged
