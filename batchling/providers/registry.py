"""Adapters by name, and how one is connected."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

from batchling.dialects import Dialect
from batchling.errors import ConfigError
from batchling.providers.gate import Gate
from batchling.providers.port import Adapter, Client, Envelope
from batchling.spec import ProviderConfig

GROUP = "batchling.providers"
"""Entry point group. An entry's object is an `Adapter`, whose `environ` has the variables that the config declares and no others."""

_BUILT_IN = {
    "anthropic": "batchling.providers.anthropic:ADAPTER",
    "gemini": "batchling.providers.gemini:ADAPTER",
    "mistral": "batchling.providers.mistral:ADAPTER",
    "openai": "batchling.providers.openai:ADAPTER",
}
"""The built-in entry points once more: in a checkout the metadata may be older than the code."""


def adapters() -> dict[str, EntryPoint]:
    """Every installed adapter by name, none of them imported.

    Raises:
        ConfigError: two packages claim one name.
    """
    return _installed(tuple(sys.path))


@lru_cache(maxsize=4)  # reading the metadata of all packages takes milliseconds, and every line's encoder asks
def _installed(path: tuple[str, ...]) -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {
        name: EntryPoint(name=name, value=value, group=GROUP) for name, value in _BUILT_IN.items()
    }
    for entry in entry_points(group=GROUP):
        if entry.name in _BUILT_IN and entry.module.split(".")[0] == "batchling":
            continue  # a checkout whose metadata is older than its code
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"provider.adapter: two packages offer an adapter named {entry.name!r}: {other.value} and {entry.value}"
            )
    return found


def connect(
    config: ProviderConfig,
    *,
    base_url: str | None = None,
    token: str | None = None,
    environ: Mapping[str, str] | None = None,
    gate: Gate | None = None,
    compatible: bool | None = None,
    where: str | None = None,
) -> Client:
    """A client ready to be called. Its key has passed the gate.

    Args:
        config: its facts.
        base_url: takes the place of `config.base_url` (the embedded server's own port).
        token: what the embedded server wants instead of a key.
        environ: where the key is looked up; None: the process's environment.
        gate: decides whether the key may go there; None: one that asks nobody.
        compatible, where: for the gate.

    Raises:
        ConfigError: no such adapter, no base URL, or one that must not get a key.
        ProviderError: the variable that should hold the key is not set, or holds no key.
        RefusedError: nobody confirmed that the key may go to this address.
    """
    environ = os.environ if environ is None else environ
    made = adapter(config)
    url = base_url or config.base_url
    if not url:
        raise ConfigError(f"provider.base_url: provider {config.name!r} has no base URL")
    gate = gate or Gate(environ=environ)
    values = {} if _is_embedded(config) else gate.admit(config, base_url=url, compatible=compatible, where=where)
    # The variables that the config declares, and no others: an adapter may be anybody's package.
    return made.connect(config, url, token or values.get(config.api_key_env or ""), values)


def envelope(config: ProviderConfig) -> Envelope:
    """How the provider's lines are written and read."""
    return adapter(config).envelope


def dialect(config: ProviderConfig, endpoint: str) -> Dialect:
    """How the bodies of an endpoint's requests read.

    Raises:
        ConfigError: the adapter has no such endpoint.
    """
    known = adapter(config).dialects
    if endpoint not in known:
        raise ConfigError(
            f"model.endpoint: adapter {config.adapter!r} has no batches for `{endpoint}`, only for {', '.join(known)}"
        )
    return known[endpoint]


def adapter(config: ProviderConfig) -> Adapter:
    """The adapter that a provider's facts name. Imports no SDK.

    Raises:
        ConfigError: none has that name, or what is installed under it is no adapter.
    """
    known = adapters()
    entry = known.get(config.adapter)
    if entry is None:
        near = difflib.get_close_matches(config.adapter, known, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(
            f"provider.adapter: no adapter named {config.adapter!r}{hint}; installed: {', '.join(sorted(known))}"
        )
    found = entry.load()
    if not isinstance(found, Adapter):
        raise ConfigError(
            f"provider.adapter: {entry.value} is not a batchling.providers.Adapter (in version 0.1 it was a function)",
            next_command="install a version of that package for this batchling; docs/howto/adapter.md describes what it needs",
        )
    return found


def _is_embedded(config: ProviderConfig) -> bool:
    """The embedded server is asked, which wants no key; its engine's key goes to the engine's upstream."""
    return config.engine is not None and config.base_url is None
