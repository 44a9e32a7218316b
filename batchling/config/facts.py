"""What the shipped and the project's own provider and model files say, read without composing an experiment.

A file is read as composition would: with the files that its `defaults` name first, then itself. What only an experiment decides
(an interpolation, a value that is still `???`) is shown as it is written, or left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from batchling import cost
from batchling.config.project import Project, shipped_conf
from batchling.errors import ConfigError
from batchling.models import Price
from batchling.spec import ModelConfig, ProviderConfig

_PROVIDER = "provider@_global_.provider"


@dataclass(frozen=True, slots=True)
class ProviderFacts:
    """A provider as its file describes it.

    Attributes:
        choice: what `provider=` takes.
        about: the file's first sentence.
        config: the facts; `base_url` is None where the file leaves it to the experiment.
        key_set: whether the variable of its key is set here; None where it wants none.
        path: the file.
        shipped: it came with batchling.
    """

    choice: str
    about: str
    config: ProviderConfig
    key_set: bool | None
    path: Path
    shipped: bool


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model as its file describes it.

    Attributes:
        choice: what `model=` takes.
        provider: the choice of `provider=` that its file selects; None where it selects none.
        at: that provider, with what the model's file sets of it.
        price: USD per million tokens in batches; None when not known.
        price_date: the day on which the file's own price was checked, or the table that the price is from; None: no price.
    """

    choice: str
    about: str
    config: ModelConfig
    provider: str | None
    at: ProviderConfig | None
    price: Price | None
    price_date: str | None
    path: Path
    shipped: bool


@dataclass(frozen=True, slots=True)
class _Written:
    """A config file with what its `defaults` brought."""

    values: dict[str, Any] = field(default_factory=dict)
    provider: str | None = None
    at_provider: dict[str, Any] = field(default_factory=dict)


def providers(project: Project, *, environ: Mapping[str, str] | None = None) -> list[ProviderFacts]:
    """Every provider that `provider=` can name, by name; a project's file takes the place of a shipped one."""
    environ = os.environ if environ is None else environ
    found = []
    for path in _files(project, "provider"):
        written = _read(path, _folders(project, "provider"))
        values = _merged(_base("provider"), {**written.values, "name": written.values.get("name") or path.stem})
        config = _provider(values)
        if config is not None:
            key = config.api_key_env
            is_set = None if key is None else bool(environ.get(key, "").strip())
            found.append(ProviderFacts(path.stem, _about(path), config, is_set, path, _is_shipped(path)))
    return found


def models(project: Project, provider: str | None = None, *, today: date) -> list[ModelFacts]:
    """Every model that `model=` can name and that says which it is, by provider and name.

    Args:
        provider: only those whose file selects it.
        today: the day whose prices are asked for.

    Raises:
        ConfigError: there is no such provider.
    """
    known = {facts.choice: facts.config for facts in providers(project)}
    if provider is not None and provider not in known:
        import difflib

        near = difflib.get_close_matches(provider, known, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(f"no provider {provider!r}{hint}; there are: {', '.join(known)}")
    found = []
    for path in _files(project, "model"):
        written = _read(path, _folders(project, "model"))
        config = _model(_merged(_base("model"), written.values))
        if config is None or (provider is not None and written.provider != provider):
            continue
        at = known.get(written.provider or "")
        if at is not None and written.at_provider:
            at = _provider(_merged(at.model_dump(mode="json"), written.at_provider)) or at
        price = cost.price_of(config, at, now=today) if at is not None else None
        found.append(
            ModelFacts(
                path.stem,
                _about(path),
                config,
                written.provider,
                at,
                price,
                None if price is None else _dated(config, price),
                path,
                _is_shipped(path),
            )
        )
    return sorted(found, key=lambda facts: (facts.provider or "", facts.choice))


def _dated(config: ModelConfig, price: Price) -> str:
    if config.price is not None:
        return config.checked or "model.price"
    return price.source.partition(",")[0].removeprefix("local: ")


@lru_cache(maxsize=2)
def _base(group: str) -> dict[str, Any]:
    """A group's values before any of its files, which mappings are merged into."""
    import yaml

    document = yaml.safe_load((shipped_conf() / "base.yaml").read_text(encoding="utf-8"))
    return dict(document[group])


def _folders(project: Project, group: str) -> list[Path]:
    """Where a group's files are, the project's first."""
    folders = [folder / group for folder in (project.conf, shipped_conf()) if folder is not None]
    return [folder for folder in folders if folder.is_dir()]


def _files(project: Project, group: str) -> list[Path]:
    chosen: dict[str, Path] = {}
    for folder in _folders(project, group):
        for path in folder.glob("*.yaml"):
            chosen.setdefault(path.stem, path)
    return [chosen[name] for name in sorted(chosen)]


def _is_shipped(path: Path) -> bool:
    return path.is_relative_to(shipped_conf())


def _about(path: Path) -> str:
    """The file's first comment."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#") and not line.removeprefix("#").strip().startswith("@package"):
            return line.removeprefix("#").strip()
    return ""


def _read(path: Path, folders: Sequence[Path], seen: frozenset[Path] = frozenset()) -> _Written:
    """A file's values. One that is no mapping, or that names itself, has none: composing it says what is wrong."""
    import yaml

    if path in seen:
        return _Written()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return _Written()
    if not isinstance(document, dict):
        return _Written()
    values: dict[str, Any] = {}
    provider: str | None = None
    for entry in document.pop("defaults", None) or []:
        if isinstance(entry, str) and entry != "_self_":
            for folder in folders:
                if (below := folder / f"{entry}.yaml").is_file() and below != path:
                    inner = _read(below, folders, seen | {path})
                    values, provider = _merged(values, inner.values), inner.provider or provider
                    break
        elif isinstance(entry, dict):
            provider = next((str(choice) for key, choice in _overrides(entry) if key == _PROVIDER), provider)
    group = path.parent.name
    if not _is_global(path):
        return _Written(_merged(values, document), provider)
    own, beside = document.get(group), document.get("provider")
    return _Written(
        _merged(values, own if isinstance(own, dict) else {}),
        provider,
        beside if group == "model" and isinstance(beside, dict) else {},
    )


def _overrides(entry: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    for key, choice in entry.items():
        yield str(key).removeprefix("override").strip().lstrip("/"), choice


def _is_global(path: Path) -> bool:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.startswith("#") and "@package" in line and "_global_" in line for line in lines[:5])


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged


def _provider(values: Mapping[str, Any]) -> ProviderConfig | None:
    plain = {key: None if key == "base_url" and value == "???" else value for key, value in values.items()}
    try:
        return ProviderConfig.model_validate(plain)
    except ValidationError:
        return None


def _model(values: Mapping[str, Any]) -> ModelConfig | None:
    """The model, or None: its file does not say which it is (`model=custom`)."""
    if values.get("id") in (None, "???"):
        return None
    try:
        return ModelConfig.model_validate(dict(values))
    except ValidationError:
        return None
