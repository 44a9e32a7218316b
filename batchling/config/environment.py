"""What the user's own environment says of a provider's address, as the vendor's official client reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from batchling.shipped import default_base_url
from batchling.trust import BASE_URL_VARIABLES, Origin


def addressed(provider: Any, environ: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """(address, variable) that takes the place of a provider's shipped address; None: it keeps its own.

    Args:
        provider: the config's `provider` section, as plain values. An address that somebody set is never replaced, as
            `OpenAI(base_url=…)` wins over the variable in the official client.

    Raises:
        ConfigError: the variable holds no plain URL.
    """
    if not isinstance(provider, Mapping):
        return None
    name = provider.get("name")
    variable = BASE_URL_VARIABLES.get(name) if isinstance(name, str) else None
    if variable is None:
        return None
    environ = os.environ if environ is None else environ
    url = environ.get(variable, "").strip()
    if not url or provider.get("base_url") != default_base_url(str(name)):
        return None
    Origin.of(url, key=variable)
    return url, variable
