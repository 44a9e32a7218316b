"""Adapters by name, and how one is connected."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from batchling.errors import ConfigError
from batchling.providers.gate import Gate
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
    config: ProviderConfig,
    *,
    base_url: str | None = None,
    token: str | None = None,
    environ: Mapping[str, str] | None = None,
    gate: Gate | None = None,
    compatible: bool | None = None,
    where: str | None = None,
) -> Provider:
    """A provider ready to be called. Its key has passed the gate.

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
    made = _adapter(config)
    url = base_url or config.base_url
    if not url:
        raise ConfigError(f"provider.base_url: provider {config.name!r} has no base URL")
    gate = gate or Gate(environ=environ)
    values = {} if _is_embedded(config) else gate.admit(config, base_url=url, compatible=compatible, where=where)
    return made(config, url, token or values.get(config.api_key_env or ""), {**environ, **values})


def encoder(config: ProviderConfig) -> Provider:
    """A provider of which only `encode` and `decode` may be called: it knows no key, so it passes no gate."""
    names = [config.api_key_env, *config.headers_env.values()]
    environ = {name: "planning-needs-no-key" for name in names if name}
    url = config.base_url or "http://planning.invalid/v1"
    return _adapter(config)(config, url, environ.get(config.api_key_env or ""), environ)


def _adapter(config: ProviderConfig) -> Connect:
    known = adapters()
    entry = known.get(config.adapter)
    if entry is None:
        near = difflib.get_close_matches(config.adapter, known, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(
            f"provider.adapter: no adapter named {config.adapter!r}{hint}; installed: {', '.join(sorted(known))}"
        )
    return cast(Connect, entry.load())


def _is_embedded(config: ProviderConfig) -> bool:
    """The embedded server is asked, which wants no key; its engine's key goes to the engine's upstream."""
    return config.engine is not None and config.base_url is None
