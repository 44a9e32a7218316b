"""Adapters by name, and the one place where a key is read from the environment."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from batchling.errors import ConfigError, ProviderError
from batchling.providers.port import Provider
from batchling.spec import ProviderConfig

GROUP = "batchling.providers"
"""Entry point group. An entry's object is called as `connect(config, base_url, api_key, environ)`."""

Connect = Callable[[ProviderConfig, str, str | None, Mapping[str, str]], Provider]

_BUILT_IN = {"openai": "batchling.providers.openai:connect"}
"""The built-in entry points once more, for a checkout whose metadata is older than its code."""


def adapters() -> dict[str, EntryPoint]:
    """Every installed adapter by name, none of them imported.

    Raises:
        ConfigError: two packages claim one name.
    """
    found: dict[str, EntryPoint] = {
        name: EntryPoint(name=name, value=value, group=GROUP) for name, value in _BUILT_IN.items()
    }
    for entry in entry_points(group=GROUP):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"provider.adapter: two packages offer an adapter named {entry.name!r}: {other.value} and {entry.value}"
            )
    return found


def connect(
    config: ProviderConfig, *, base_url: str | None = None, environ: Mapping[str, str] | None = None
) -> Provider:
    """A provider ready to be called.

    Args:
        config: its facts.
        base_url: takes the place of `config.base_url` (the embedded server's own port).
        environ: where the key is looked up; None: the process's environment.

    Raises:
        ConfigError: no such adapter, or no base URL.
        ProviderError: the variable that should hold the key is not set.
    """
    environ = os.environ if environ is None else environ
    known = adapters()
    entry = known.get(config.adapter)
    if entry is None:
        near = difflib.get_close_matches(config.adapter, known, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(
            f"provider.adapter: no adapter named {config.adapter!r}{hint}; installed: {', '.join(sorted(known))}"
        )
    url = base_url or config.base_url
    if not url:
        raise ConfigError(f"provider.base_url: provider {config.name!r} has no base URL")
    return cast(Connect, entry.load())(config, url, key_of(config, environ=environ), environ)


def key_of(config: ProviderConfig, *, environ: Mapping[str, str] | None = None) -> str | None:
    """The provider's key, read from the variable that the config names; None when it names none.

    Raises:
        ProviderError: the variable is not set.
    """
    if not config.api_key_env:
        return None
    environ = os.environ if environ is None else environ
    key = environ.get(config.api_key_env, "").strip()
    if not key:
        raise ProviderError(
            f"provider {config.name!r} needs a key, and the variable {config.api_key_env} is not set",
            next_command=f"export {config.api_key_env}=… (or run on the embedded server, without a key: provider=local)",
        )
    return key
